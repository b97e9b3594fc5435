"""Scenes of pucks: discs put on a table by rows, the rest out of sight.

Row 0 is the white pusher. The other discs have the colours red, blue, yellow, green, violet, orange and cyan, and begin
again with red at row 8. A disc that is not to be seen is made small and laid under the pusher, which is drawn last;
that makes no physics, so only scenes that stand still may hide discs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arenas.quantity import Value

HIDDEN, PUSHER = 0.01, 0.05  # radii
CORNER = (0.07, 0.07)
RED, BLUE, YELLOW, GREEN = 1, 2, 3, 4  # rows
REDS, BLUES = (1, 8, 15), (2, 9)  # rows of one colour in a table of 15 discs
AROUND = np.array([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)])  # right, up, left, down
Place = tuple[float, float]


def table(
    now: Mapping[str, Value],
    places: Mapping[int, Any],
    *,
    radius: Mapping[int, float] | float = 0.07,
    velocity: Mapping[int, Any] | None = None,
    pusher: Any = CORNER,
) -> dict[str, Any]:
    """Quantities of a table on which the discs of some rows lie at `places` (m), the others hidden.

    velocity: row -> m/s, 0 by default. now: quantities after the reset, for their shapes. Masses are 1 kg.
    """
    n = len(np.asarray(now["position"]))
    at, size, moves = np.tile(np.asarray(pusher, float), (n, 1)), np.full(n, HIDDEN), np.zeros((n, 2))
    size[0] = PUSHER
    for row, place in places.items():
        at[row], size[row] = place, radius if isinstance(radius, (int, float)) else radius[row]
    for row, speed in (velocity or {}).items():
        moves[row] = speed
    return {"position": at, "radius": size, "velocity": moves, "spin": np.zeros(n), "mass": np.ones(n)}


def moving(now: Mapping[str, Value], velocity: Mapping[int, Any]) -> dict[str, Any]:
    """Quantities by which the discs of some rows get a velocity and the others stand."""
    moves = np.zeros_like(np.asarray(now["velocity"], float))
    for row, speed in velocity.items():
        moves[row] = speed
    return {"velocity": moves}


def somewhere(chance: np.random.Generator, room: float) -> np.ndarray:
    """A place at least `room` metres off the walls."""
    return chance.uniform(room, 1 - room, 2)


def cells(chance: np.random.Generator, count: int, side: int = 4) -> np.ndarray:
    """`count` places in different cells of a grid, never the pusher's corner, `(count, 2)`."""
    order = 1 + chance.permutation(side * side - 1)[:count]
    return (np.stack([order // side, order % side], 1) + 0.5) / side
