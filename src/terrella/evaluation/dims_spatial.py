"""Where things are: relations, fit, size, and a map of what is seen in perspective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arenas.quantity import Value
from .dimension import Changes, Dimension
from .pucks_scene import AROUND, BLUE, GREEN, RED, YELLOW, somewhere, table

Levels = Mapping[str, Any]
Now = Mapping[str, Value]


def _relation(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    middle = somewhere(chance, 0.4)
    places = {BLUE: middle, RED: middle + level["distance"] * AROUND[level["answer"]]}
    places |= {row: middle + way for row, way in ((YELLOW, (0.18, 0.18)), (GREEN, (-0.18, 0.18))) if level["others"]}
    return {0: table(now, places, radius=0.06)}


def _larger(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    middle, apart = somewhere(chance, 0.4), 0.18 * AROUND[level["side"]]
    small = float(chance.uniform(0.05, 0.07))
    large = small * level["ratio"]
    sizes = {RED: large, BLUE: small} if level["answer"] == 0 else {RED: small, BLUE: large}
    return {0: table(now, {RED: middle + apart, BLUE: middle - apart}, radius=sizes)}


def _fits(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    middle, along = somewhere(chance, 0.4), AROUND[level["side"]]
    wall, width = 0.05, float(chance.uniform(0.14, 0.18))
    disc = width / 2 * (level["ratio"] if level["answer"] == 0 else 2 - level["ratio"])
    reach = (width / 2 + wall) * along
    above = middle + 0.25 * along[::-1]
    places = {BLUE: middle - reach, GREEN: middle + reach, RED: above}
    return {0: table(now, places, radius={BLUE: wall, GREEN: wall, RED: disc})}


def _quarter(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """The viewer looks along the columns; all blocks but one stand behind it."""
    n = len(np.asarray(now["positions"]))
    row, column = 3 + int(chance.integers(3)), 2
    far, left = divmod(level["answer"], 2)
    places = np.tile([row, 1], (n, 1))
    places[0] = (row + (-1 if left else 1), column + (5 if far else 2))
    colours = np.full(n, level["colour"])
    still = np.zeros((n, 2), int)
    return {
        0: {
            "agent": [row, column],
            "heading": 0,
            "positions": places,
            "velocities": still,
            "colours": colours,
        }
    }


_PUCKS: dict[str, Any] = {"arena": "terrella/Pucks-v0", "aspect": "spatial", "still": True, "frames": 3}
SPATIAL = (
    Dimension(
        "SR", asks="where the red disc lies from the blue one: right, above, left, below", classes=4, build=_relation,
        factors={"answer": (0, 1, 2, 3), "distance": (0.16, 0.24), "others": (False, True)},
        settings={"count": (4, 4)}, approximates="one view from above instead of two", **_PUCKS,
    ),
    Dimension(
        "SE-O", asks="whether the red or the blue disc is larger", classes=2, build=_larger,
        factors={"answer": (0, 1), "ratio": (1.3, 1.6), "side": (0, 1, 2, 3)}, settings={"count": (2, 2)}, **_PUCKS,
    ),
    Dimension(
        "SE-V", asks="whether the red disc fits between the other two", classes=2, build=_fits,
        factors={"answer": (0, 1), "ratio": (0.6, 0.8), "side": (0, 1)}, settings={"count": (4, 4)},
        approximates="a gap in the plane instead of a hollow body", **_PUCKS,
    ),
    Dimension(
        "SP", aspect="spatial", arena="terrella/Blocks-v0", asks="which map is true of a view in perspective: "
        "block near right, near left, far right, far left", classes=4, build=_quarter, frames=3, still=True,
        factors={"answer": (0, 1, 2, 3), "colour": (0, 1, 3)}, settings={"static": True, "count": (3, 3)},
        approximates="maps are four classes, not pictures; one view instead of two",
    ),
)  # fmt: skip
