"""What follows: of one cause (mechanistic), of several in a row (transitive), of two at once (compositional)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import actions as codec
from ..arenas.quantity import Value
from ..spec import WorldSpec
from .dimension import Changes, Dimension
from .pucks_scene import AROUND, BLUE, RED, table

Levels = Mapping[str, Any]
Now = Mapping[str, Value]
SHOTS, ROW = 8, 5  # ticks of a push; moves in a row


def _as_reset(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    del chance, level, now
    return {}


def _meet(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """The pusher rolls towards a disc that stands."""
    middle, way = chance.uniform(0.35, 0.65, 2), AROUND[level["way"]]
    return {0: table(now, {RED: middle}, pusher=middle - 0.25 * way, velocity={0: level["speed"] * way})}


def _meet_at_once(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """Pusher and a disc of equal mass roll towards a third from two sides, a right angle apart."""
    middle, way = chance.uniform(0.4, 0.6, 2), AROUND[level["way"]]
    other = AROUND[(level["way"] + 1) % 4]
    moves = {0: level["speed"] * way, BLUE: level["speed"] * other}
    return {0: table(now, {RED: middle, BLUE: middle - 0.27 * other}, pusher=middle - 0.25 * way, velocity=moves)}


def _touch(chance: np.random.Generator, level: Levels, now: Now) -> Changes:
    """The pusher lies at a disc, and another one leans on it from the other side."""
    middle, way = chance.uniform(0.4, 0.6, 2), AROUND[level["way"]]
    side = AROUND[(level["way"] + 1) % 4]
    moves = {BLUE: -level["speed"] * side}
    return {0: table(now, {RED: middle, BLUE: middle + 0.16 * side}, pusher=middle - 0.13 * way, velocity=moves)}


def pushes(spec: WorldSpec, chance: np.random.Generator) -> np.ndarray:
    """A full push to each of four sides, held, `(4, T, 2)`."""
    del spec, chance
    return np.repeat(AROUND[:, None], SHOTS, 1).astype(np.float32)


def each_choice(spec: WorldSpec, chance: np.random.Generator) -> np.ndarray:
    """Each of four choices once, `(4, 1, 1)`."""
    del chance
    low = codec.columns(spec.action).low[0]
    return (low + np.arange(4, dtype=np.float32)).reshape(4, 1, 1)


def choices_in_a_row(spec: WorldSpec, chance: np.random.Generator) -> np.ndarray:
    """Four rows of moves, `(4, T, 1)`."""
    table = codec.columns(spec.action)
    return (table.low[0] + chance.integers(table.choices[0], size=(4, ROW, 1))).astype(np.float32)


def held(spec: WorldSpec, chance: np.random.Generator) -> np.ndarray:
    """Four actions of an arm, each held, `(4, T, W)`."""
    return np.repeat(chance.uniform(-1, 1, (4, 1, codec.width(spec.action))), SHOTS, 1).astype(np.float32)


def held_twice(spec: WorldSpec, chance: np.random.Generator) -> np.ndarray:
    """Four times two actions of an arm, one after the other, `(4, 2 T, W)`."""
    return np.concatenate([held(spec, chance), held(spec, chance)], 1)


_PUCKS: dict[str, Any] = {"arena": "terrella/Pucks-v0", "classes": 4, "frames": 3, "branches": pushes}
_WAYS: dict[str, Any] = {"factors": {"way": (0, 1, 2, 3), "speed": (0.4, 0.8)}}
_ONE, _TWO = {"count": (1, 1), "drag": 0.0}, {"count": (2, 2), "drag": 0.0}
_BLOCKS: dict[str, Any] = {
    "arena": "terrella/Blocks-v0",
    "classes": 4,
    "build": _as_reset,
    "frames": 1,
    "settings": {"count": (8, 8)},
}
_ARM: dict[str, Any] = {"arena": "terrella/MetaWorld-v0", "classes": 4, "build": _as_reset, "frames": 1}
PREDICTION = (
    Dimension(
        "M-IP", aspect="mechanistic", asks="what comes of a collision under one of four pushes", build=_meet,
        settings=_ONE, approximates="outcomes differ by a push during the collision", **_WAYS, **_PUCKS,
    ),
    Dimension(
        "M-Nav", aspect="mechanistic", asks="what is seen after one move", branches=each_choice, **_BLOCKS,
    ),
    Dimension(
        "M-Man", aspect="mechanistic", asks="what an arm has done after one action", branches=held,
        settings={"task": "push-v3"}, approximates="actions are drawn, and need not touch the object", **_ARM,
    ),
    Dimension(
        "T-Nav", aspect="transitive", asks="what is seen after several moves", branches=choices_in_a_row, **_BLOCKS,
    ),
    Dimension(
        "T-Man", aspect="transitive", asks="what an arm has done after two actions in a row", branches=held_twice,
        settings={"task": "push-v3"}, approximates="actions are drawn, and need not touch the object", **_ARM,
    ),
    Dimension(
        "C-IP", aspect="compositional", asks="what comes of two discs striking a third at once", build=_meet_at_once,
        settings=_TWO, approximates="outcomes differ by a push on one of the two", **_WAYS, **_PUCKS,
    ),
    Dimension(
        "C-Man", aspect="compositional", asks="what a disc does that is pushed while another leans on it", build=_touch,
        settings=_TWO, approximates="one hand and a rolling disc instead of two arms", **_WAYS, **_PUCKS,
    ),
)  # fmt: skip
