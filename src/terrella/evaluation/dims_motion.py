"""What moves, how fast, where to, along which path; what moves first and longest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arenas.quantity import Value
from .dimension import Changes, Dimension
from .pucks_scene import AROUND, BLUE, RED, moving, table

Levels = Mapping[str, Any]
Now = Mapping[str, Value]
CORNERS = np.array([(0.72, 0.72), (0.28, 0.72), (0.28, 0.28), (0.72, 0.28)])
LANES = {RED: np.array([0.5, 0.62]), BLUE: np.array([0.5, 0.38])}


def _jitter(chance: np.random.Generator) -> np.ndarray:
    return chance.uniform(-0.04, 0.04, 2)


def _which(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    places = {RED + i: CORNERS[i] + _jitter(chance) for i in range(4)}
    mover = RED + level["answer"]
    speed = {mover: level["speed"] * AROUND[level["way"]]}
    return {0: table(now, places, velocity=speed)}


def _faster(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    shift, mean = _jitter(chance), float(chance.uniform(0.4, 0.5))
    red = mean * (1 + (level["gap"], -level["gap"], 0.0)[level["answer"]])
    way = AROUND[level["way"]]
    places = {row: place + shift - 0.15 * way for row, place in LANES.items()}
    return {0: table(now, places, velocity={RED: red * way, BLUE: (2 * mean - red) * way})}


def _heading(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """Disc 1 leaves the middle for one of discs 2 to 5, which stand around it, turned by some places."""
    middle = 0.5 + _jitter(chance)
    places = {RED: middle}
    places |= {RED + 1 + i: middle + 0.33 * AROUND[(i + level["turn"]) % 4] for i in range(4)}
    way = AROUND[(level["answer"] + level["turn"]) % 4]
    return {0: table(now, places, radius=0.06, velocity={RED: level["speed"] * way})}


def _path(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """The velocity is set anew before each frame: straight, bent left, bent right, there and back."""
    way, start = AROUND[level["way"]], 0.5 + 2 * _jitter(chance)
    changes: Changes = {}
    for t in range(8):
        turn = (0.0, 0.35 * t, -0.35 * t, np.pi * (t >= 4))[level["answer"]]
        velocity = level["speed"] * (np.cos(turn) * way + np.sin(turn) * np.array([-way[1], way[0]]))
        changes[t] = moving(now, {RED: velocity}) if t else table(now, {RED: start}, velocity={RED: velocity})
    return changes


def _timed(chance: np.random.Generator, level: Levels, now: Now, spans: dict[int, tuple[int, int]]) -> Changes:
    """Two discs in lanes that move from one frame to another."""
    way, shift = AROUND[level["way"]], _jitter(chance)
    changes: Changes = {0: table(now, {row: place + shift - 0.15 * way for row, place in LANES.items()})}
    for t in range(1, 9):
        going = {row: level["speed"] * way for row, (begin, end) in spans.items() if begin <= t < end}
        changes[t] = moving(now, going)
    return changes


def _first(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    late = 1 + level["delay"]
    red, blue = ((1, late), (late, 1), (1, 1))[level["answer"]]
    return _timed(chance, level, now, {RED: (red, red + 3), BLUE: (blue, blue + 3)})


def _longer(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    long = 3 + level["delay"]
    red, blue = ((long, 3), (3, long), (3, 3))[level["answer"]]
    return _timed(chance, level, now, {RED: (1, 1 + red), BLUE: (1, 1 + blue)})


_PUCKS: dict[str, Any] = {"arena": "terrella/Pucks-v0"}
_TWO: dict[str, Any] = {**_PUCKS, "settings": {"count": (2, 2), "drag": 0.0}}
MOTION = (
    Dimension(
        "MI", aspect="motion", asks="which disc moves: red, blue, yellow, green", classes=4, build=_which,
        factors={"answer": (0, 1, 2, 3), "way": (0, 1, 2, 3), "speed": (0.3, 0.5)},
        settings={"count": (4, 4), "drag": 0.0}, **_PUCKS,
    ),
    Dimension(
        "MS", aspect="motion", asks="which is faster: red, blue, neither", classes=3, build=_faster, frames=6,
        factors={"answer": (0, 1, 2), "gap": (0.3, 0.6), "way": (0, 2)}, **_TWO,
    ),
    Dimension(
        "MD", aspect="motion", asks="which still disc the red one heads for: blue, yellow, green, violet", classes=4,
        build=_heading, factors={"answer": (0, 1, 2, 3), "turn": (0, 1, 2, 3), "speed": (0.4, 0.6)},
        settings={"count": (5, 5), "drag": 0.0}, **_PUCKS,
    ),
    Dimension(
        "MT", aspect="motion", asks="the shape of the path: straight, bent left, bent right, there and back", classes=4,
        build=_path, factors={"answer": (0, 1, 2, 3), "way": (0, 1, 2, 3), "speed": (0.4, 0.6)}, frames=9,
        settings={"count": (1, 1), "drag": 0.0}, approximates="one mover instead of two", **_PUCKS,
    ),
)  # fmt: skip
TEMPORAL = (
    Dimension(
        "TP", aspect="temporal", asks="which motion begins first: red, blue, both at once", classes=3, build=_first,
        factors={"answer": (0, 1, 2), "delay": (2, 3), "way": (0, 2), "speed": (0.4, 0.6)}, frames=9, **_TWO,
    ),
    Dimension(
        "TE", aspect="temporal", asks="which motion lasts longer: red, blue, neither", classes=3, build=_longer,
        factors={"answer": (0, 1, 2), "delay": (2, 3), "way": (0, 2), "speed": (0.3, 0.45)}, frames=9, **_TWO,
    ),
)  # fmt: skip
