"""How a person acts: names of actions, keyboard chords for them, and what happens when no key is held.

Keys are DOM `KeyboardEvent.code` names; a chord is several of them, sorted and joined by `+`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..actions import action_spec, encode
from .base import comes_from

Row = tuple[float, ...]
LEFT, RIGHT, UP, DOWN = "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"


@dataclass(frozen=True)
class Controls:
    """Names of discrete choices, chord -> flat action row, and the row of rest (None where every action acts)."""

    names: tuple[str, ...] = ()
    keys: dict[str, Row] = field(default_factory=dict)
    noop: Row | None = None


# Unwrapped class -> (names, key of each action ("" for none), the choice that does nothing).
_BUTTONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int | None]] = {
    "CartPoleEnv": (("left", "right"), (LEFT, RIGHT), None),
    "AcrobotEnv": (("clockwise", "rest", "counter-clockwise"), (RIGHT, "", LEFT), 1),
    "MountainCarEnv": (("left", "rest", "right"), (LEFT, "", RIGHT), 1),
    "LunarLander": (("rest", "left engine", "main engine", "right engine"), ("", LEFT, UP, RIGHT), 0),
    "CarRacing": (("rest", "right", "left", "gas", "brake"), ("", RIGHT, LEFT, UP, DOWN), 0),
    "FrozenLakeEnv": (("left", "down", "right", "up"), (LEFT, DOWN, RIGHT, UP), None),
    "CliffWalkingEnv": (("up", "right", "down", "left"), (UP, RIGHT, DOWN, LEFT), None),
    "TaxiEnv": (
        ("down", "up", "right", "left", "pick up", "drop off"),
        (DOWN, UP, RIGHT, LEFT, "KeyP", "KeyD"),
        None,
    ),
    "BlackjackEnv": (("stick", "hit"), ("KeyS", "KeyH"), None),
}
_MINIGRID = (
    ("left", "right", "forward", "pickup", "drop", "toggle", "done"),
    (LEFT, RIGHT, UP, "KeyP", "KeyD", "Space", "Enter"),
)
# Unwrapped class -> key -> (axis, value); no key held is rest, and keys of different axes combine.
_STICKS: dict[str, dict[str, tuple[int, float]]] = {
    "PendulumEnv": {LEFT: (0, 2.0), RIGHT: (0, -2.0)},  # positive torque turns counter-clockwise
    "Continuous_MountainCarEnv": {LEFT: (0, -1.0), RIGHT: (0, 1.0)},
    "LunarLander": {UP: (0, 1.0), LEFT: (1, -1.0), RIGHT: (1, 1.0)},
    "CarRacing": {LEFT: (0, -1.0), RIGHT: (0, 1.0), UP: (1, 1.0), DOWN: (2, 0.8)},
}
_ALE_NAME = re.compile(r"(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?")
_ALE_KEYS = {"UP": UP, "DOWN": DOWN, "LEFT": LEFT, "RIGHT": RIGHT, "FIRE": "Space"}
_PYGAME_CODES = {
    1073741903: RIGHT, 1073741904: LEFT, 1073741905: DOWN, 1073741906: UP, 13: "Enter", 9: "Tab", 32: "Space",
}  # fmt: skip


def controls(env: gym.Env) -> Controls:
    """Find the controls of an environment: its own key map first, then built-in ones, then digits or arrows."""
    space, core = env.action_space, env.unwrapped
    found = _by_space(space) if space != core.action_space else _by_kind(core) or _by_space(space)
    own = _own_keys(core, space.shape or ()) if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) else {}
    noop = own.pop("", found.noop)
    keys = {held: _as_stored(space, row) for held, row in {**found.keys, **own}.items()}
    return Controls(found.names, keys, None if noop is None else _as_stored(space, noop))


def chord(codes: Sequence[str]) -> str:
    """Join key codes into the one spelling that `WorldSpec.keys` uses."""
    return "+".join(sorted(set(codes)))


def _by_kind(core: Any) -> Controls | None:
    """Controls of the simulators we know, or None."""
    name, space = type(core).__name__, core.action_space
    if isinstance(space, spaces.Discrete):
        if comes_from(core, "minigrid"):  # some have only the first few; "done" ends the episode in others
            return _buttons(_MINIGRID[0][: int(space.n)], _MINIGRID[1][: int(space.n)], None)
        if comes_from(core, "ale_py"):
            names = tuple(core.get_action_meanings())
            return _buttons(names, [_ale_chord(n) for n in names], names.index("NOOP") if "NOOP" in names else None)
        if name == "ProcgenEnv":
            return _buttons(core.action_names, core.action_keys, core.noop)
        if name in ("Blocks", "Maze") and comes_from(core, "terrella"):
            return Controls(core.action_names)  # it has a key map
        if name in _BUTTONS and len(_BUTTONS[name][0]) == space.n:
            return _buttons(*_BUTTONS[name])
    elif isinstance(space, spaces.Box):
        if comes_from(core, "ale_py"):
            return _ale_stick()
        if name in _STICKS:
            return Controls(keys=_combine((0.0,) * int(np.prod(space.shape)), _STICKS[name]), noop=_rest(space))
    return None


def _by_space(space: gym.Space) -> Controls:
    """Controls for an unknown environment: digits for choices, arrows for the first two axes."""
    if isinstance(space, spaces.Discrete):
        rows = [(float(space.start + i),) for i in range(int(space.n))]
        return Controls(keys={f"Digit{(i + 1) % 10}": row for i, row in enumerate(rows[:10])})
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and np.prod(space.shape) > 0:
        low = [float(x) if np.isfinite(x) else -1.0 for x in np.ravel(space.low)[:2]]
        high = [float(x) if np.isfinite(x) else 1.0 for x in np.ravel(space.high)[:2]]
        moves = {LEFT: (0, low[0]), RIGHT: (0, high[0])}
        if len(low) > 1:
            moves |= {DOWN: (1, low[1]), UP: (1, high[1])}
        rest = _rest(space)
        return Controls(keys=_combine(rest, moves), noop=rest)
    if isinstance(space, spaces.Text) and isinstance(said := getattr(space, "rest", None), str):
        return Controls(noop=tuple(encode(action_spec(space), said).tolist()))
    return Controls()


def _as_stored(space: gym.Space, row: Row) -> Row:
    """Round a row to what the space can hold, so that it equals the row of the action that it stands for."""
    return tuple(float(x) for x in np.asarray(row, space.dtype)) if isinstance(space, spaces.Box) else row


def _rest(space: spaces.Box) -> Row:
    """Zero on every axis, or the nearest value that the bounds allow."""
    return tuple(float(x) for x in np.clip(np.zeros(space.shape), space.low, space.high).ravel())


def _buttons(names: Sequence[str], keys: Sequence[str], noop: int | None) -> Controls:
    rows = {key: (float(i),) for i, key in enumerate(keys) if key}
    return Controls(tuple(names), rows, None if noop is None else (float(noop),))


def _combine(rest: Row, moves: Mapping[str, tuple[int, float]]) -> dict[str, Row]:
    """Rows of all chords whose keys move different axes."""
    keys: dict[str, Row] = {}
    for size in range(1, len({axis for axis, _ in moves.values()}) + 1):
        for held in itertools.combinations(moves, size):
            if len({moves[key][0] for key in held}) == size:
                row = list(rest)
                for key in held:
                    row[moves[key][0]] = moves[key][1]
                keys[chord(held)] = tuple(row)
    return keys


def _ale_chord(name: str) -> str:
    found = _ALE_NAME.fullmatch(name)
    return chord([_ALE_KEYS[part] for part in found.groups() if part]) if found else ""


def _ale_stick() -> Controls:
    """Chords of ALE's continuous joystick: (radius, angle in radians, fire)."""
    keys: dict[str, Row] = {"Space": (0.0, 0.0, 1.0)}
    for x, y in itertools.product((-1, 0, 1), repeat=2):
        held = [k for k, on in ((LEFT, x < 0), (RIGHT, x > 0), (DOWN, y < 0), (UP, y > 0)) if on]
        if held:
            angle = float(np.float32(np.arctan2(y, x)))
            keys[chord(held)] = (1.0, angle, 0.0)
            keys[chord([*held, "Space"])] = (1.0, angle, 1.0)
    return Controls(keys=keys, noop=(0.0, 0.0, 0.0))


def _own_keys(core: Any, shape: tuple[int, ...]) -> dict[str, Row]:
    """The environment's own key map (as Gymnasium's keyboard player reads it) with DOM codes; "" is no key held."""
    ask = getattr(core, "get_keys_to_action", None)
    if ask is None:
        return {}
    keys: dict[str, Row] = {}
    for held, action in ask().items():
        codes = [_dom_code(key) for key in (held if isinstance(held, (tuple, str)) else (held,))]
        if None not in codes and np.shape(action) == shape:
            keys[chord([code for code in codes if code])] = tuple(float(x) for x in np.ravel(action))
    return keys


def _dom_code(key: Any) -> str | None:
    """Turn a character or a pygame key number into a DOM code; None for keys without one."""
    if isinstance(key, (int, np.integer)):
        if int(key) in _PYGAME_CODES:
            return _PYGAME_CODES[int(key)]
        key = chr(int(key)) if 0 < int(key) < 128 else ""
    if isinstance(key, str) and len(key) == 1 and key.isascii():
        if key.isalpha():
            return f"Key{key.upper()}"
        if key.isdigit():
            return f"Digit{key}"
        return "Space" if key == " " else None
    return None
