"""What things look like: colour, shape, material."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arenas.quantity import Value
from .dimension import Changes, Dimension
from .pucks_scene import AROUND, RED, somewhere, table

Levels = Mapping[str, Any]
Now = Mapping[str, Value]
AWAY = 16  # a place that a camera at 0 does not see, on a torus of 24 through 12 pixels as on one of 32 through 16


def _colour(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """Colours belong to rows; all rows but one are hidden."""
    place = somewhere(chance, 0.3) + 0.1 * AROUND[level["place"]]
    return {0: table(now, {RED + level["answer"]: place}, radius=level["radius"])}


def _shape(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """The first digits of the bank are 0, 1, 2, ...; every fifth image is held out, so tens are eight places apart."""
    place = chance.integers(1, 4, 2) + np.array([(0, 1), (1, 0)])[level["place"]]
    places = np.array([place, (AWAY, AWAY), (AWAY, AWAY)])
    return {
        0: {
            "camera": [0, 0],
            "positions": places,
            "velocities": np.zeros((3, 2), int),
            "images": np.array([level["answer"] + 8 * level["hand"], 0, 0]),
        }
    }


def _material(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """A disc rolls into a wall; bouncy ones come back, dull ones stay."""
    way = AROUND[level["wall"]]
    across = np.abs(way[::-1]) * chance.uniform(0.35, 0.65)
    start = 0.5 * np.abs(way) + way * (0.5 - 0.08 - 0.12) + across
    bounce = np.array([0.5, 1.0 if level["answer"] == 0 else 0.05])
    corner = (0.1, 0.1)
    scene = table(now, {RED: start}, radius=0.08, velocity={RED: level["speed"] * way}, pusher=corner)
    return {0: scene | {"restitution": bounce}}


VISUAL = (
    Dimension(
        "V-C", aspect="visual", arena="terrella/Pucks-v0", asks="which colour the disc has: red, blue, yellow, green",
        classes=4, build=_colour, frames=3, still=True, settings={"count": (4, 4)},
        factors={"answer": (0, 1, 2, 3), "radius": (0.06, 0.09), "place": (0, 1, 2, 3)},
    ),
    Dimension(
        "V-S", aspect="visual", arena="terrella/Sprites-v0", asks="which shape is seen: nought, one, two, three",
        classes=4, build=_shape, frames=3, still=True, settings={"count": 3, "sprite": 8},
        factors={"answer": (0, 1, 2, 3), "hand": (0, 1, 2), "place": (0, 1)},
        approximates="digits in three hands instead of bodies; a disc has one shape only",
    ),
    Dimension(
        "V-M", aspect="visual", arena="terrella/Pucks-v0", asks="whether the disc is of a bouncy or a dull material",
        classes=2, build=_material, frames=10, settings={"count": (1, 1), "drag": 0.0},
        factors={"answer": (0, 1), "wall": (0, 1, 2, 3), "speed": (0.7, 0.9)},
        approximates="material shows in how it bounces, not on its surface, and is named instead of compared",
    ),
)  # fmt: skip
