"""How many and how much: counts, shades, which group is larger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arenas.quantity import Value
from .dimension import Changes, Dimension
from .pucks_scene import BLUES, GREEN, REDS, YELLOW, cells, table

Levels = Mapping[str, Any]
Now = Mapping[str, Value]
OTHERS = (YELLOW, GREEN, 5, 6, 7)


def _scattered(chance: np.random.Generator, now: Now, rows: tuple[int, ...]) -> Changes:
    """Discs on places that are drawn for all rows at once, so that a further disc moves no other."""
    places = cells(chance, 15)
    return {0: table(now, {row: places[row - 1] for row in rows}, radius=0.07)}


def _count(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    return _scattered(chance, now, REDS[: level["answer"]] + OTHERS[: level["others"]])


def _larger_group(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    reds, blues = ((2, 1), (1, 2), (1, 1) if level["even"] else (2, 2))[level["answer"]]
    return _scattered(chance, now, REDS[:reds] + BLUES[:blues] + OTHERS[: level["others"]])


def _darker(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """Two digits on one another are lighter than one; both piles reach over an edge of the view."""
    row = int(chance.integers(0, 5))
    left, right = (row, 2), (row, 10)
    single, pile = (left, right) if level["answer"] == 0 else (right, left)
    image = level["shape"]
    places = np.array([single, pile, pile])
    images = np.full(3, image)
    return {0: {"camera": [0, 4], "positions": places, "velocities": np.zeros((3, 2), int), "images": images}}


_STILL: dict[str, Any] = {"aspect": "quantitative", "still": True, "frames": 3}
_MANY: dict[str, Any] = {**_STILL, "arena": "terrella/Pucks-v0", "settings": {"count": (15, 15)}}
QUANTITATIVE = (
    Dimension(
        "DQ", asks="how many red discs there are: none to three", classes=4, build=_count,
        factors={"answer": (0, 1, 2, 3), "others": (1, 3, 5)}, **_MANY,
    ),
    Dimension(
        "RQ", asks="which are more: red discs, blue ones, neither", classes=3, build=_larger_group,
        factors={"answer": (0, 1, 2), "even": (False, True), "others": (1, 4)}, **_MANY,
    ),
    Dimension(
        "CQ", arena="terrella/Sprites-v0", asks="which digit is darker: the left, the right", classes=2, build=_darker,
        factors={"answer": (0, 1), "shape": (0, 2, 3, 5)}, settings={"count": 3, "sprite": 8},
        approximates="brightness is two digits on one another, which saturates, instead of a shade", **_STILL,
    ),
)  # fmt: skip
