"""Native actions to flat rows of W numbers and back, for every Gymnasium action space.

| space | row |
|---|---|
| `Discrete(n, start)` | `[choice]`, as the environment counts it |
| `Box` | its numbers, flattened |
| `MultiDiscrete`, `MultiBinary` | its integers, flattened |
| `Text` | UTF-8 bytes, padded with -1 to four bytes a character |
| `Tuple`, `Dict` | the rows of the children, one after another |

Rows are float64, which holds every float32, every integer below 2^53 and every byte exactly. A row that a network
made is rounded where the space has integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .errors import ActionError
from .spec import ActionSpec


def action_spec(space: gym.Space) -> ActionSpec:
    """Describe an action space; raises `ActionError` for a space that has no row form."""
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.Box):
        low, high = (tuple(float(x) for x in np.ravel(b)) for b in (space.low, space.high))
        return ActionSpec("box", shape=space.shape, low=low, high=high, dtype=str(space.dtype))
    if isinstance(space, spaces.MultiDiscrete):
        if np.any(space.start != 0):
            raise ActionError("MultiDiscrete with a start other than 0 is not supported; shift it in a wrapper.")
        return ActionSpec(
            "multi_discrete",
            shape=space.nvec.shape,
            nvec=tuple(int(n) for n in space.nvec.ravel()),
            dtype=str(space.dtype),
        )
    if isinstance(space, spaces.MultiBinary):
        return ActionSpec("multi_binary", shape=space.shape)
    if isinstance(space, spaces.Text):
        return ActionSpec("text", n=4 * space.max_length, charset=space.characters)
    if isinstance(space, spaces.Tuple):
        return ActionSpec("tuple", children=tuple(action_spec(s) for s in space.spaces))
    if isinstance(space, spaces.Dict):
        items = list(space.spaces.items())
        if strange := [k for k, _ in items if not isinstance(k, str)]:
            raise ActionError(f"a Dict action space needs strings as keys, not {strange[0]!r}; rename it in a wrapper.")
        return ActionSpec("dict", keys=tuple(k for k, _ in items), children=tuple(action_spec(s) for _, s in items))
    raise ActionError(
        f"no row form for a {type(space).__name__} action space. Supported: Discrete, Box, MultiDiscrete, MultiBinary, "
        "Text, and Tuple or Dict of these. Convert it in a gymnasium.ActionWrapper."
    )


def action_space(spec: ActionSpec) -> gym.Space:
    """Build the Gymnasium space that `spec` describes."""
    if spec.kind == "discrete":
        return spaces.Discrete(spec.n, start=spec.start)
    if spec.kind == "box":
        dtype = np.dtype(spec.dtype or "float32")
        low, high = (np.array(b, dtype).reshape(spec.shape) for b in (spec.low, spec.high))
        return spaces.Box(low, high, dtype=dtype.type)
    if spec.kind == "multi_discrete":
        return spaces.MultiDiscrete(np.array(spec.nvec).reshape(spec.shape), dtype=np.dtype(spec.dtype or "int64").type)
    if spec.kind == "multi_binary":
        return spaces.MultiBinary(spec.shape[0] if len(spec.shape) == 1 else spec.shape)
    if spec.kind == "text":
        return spaces.Text(spec.n // 4, min_length=0, charset=spec.charset or frozenset(map(chr, range(32, 127))))
    children = [action_space(c) for c in spec.children]
    return spaces.Tuple(children) if spec.kind == "tuple" else spaces.Dict(dict(zip(spec.keys, children)))


def width(spec: ActionSpec) -> int:
    """W: how many numbers one action has as a row."""
    if spec.kind == "discrete":
        return 1
    if spec.kind == "text":
        return spec.n
    if spec.kind in ("tuple", "dict"):
        return sum(width(c) for c in spec.children)
    return int(np.prod(spec.shape, dtype=np.int64))


@dataclass(frozen=True)
class Columns:
    """What each of the W numbers of a row may be; every array is `(W,)`.

    low, high: bounds, infinite where there are none. choices: how many integers from `low` on it chooses among, 0 for a
    number of a `Box`, -1 for a byte of a text, which means something only among the others. whole: whether it is an
    integer.
    """

    low: np.ndarray
    high: np.ndarray
    choices: np.ndarray
    whole: np.ndarray


def columns(spec: ActionSpec) -> Columns:
    """Describe the numbers of a row, one by one."""
    if spec.kind in ("tuple", "dict"):
        parts = [columns(child) for child in spec.children]
        kinds = {"low": np.float64, "high": np.float64, "choices": np.int64, "whole": np.bool_}
        return Columns(*(np.concatenate([np.empty(0, k), *(getattr(p, n) for p in parts)]) for n, k in kinds.items()))
    count = width(spec)
    if spec.kind == "box":
        whole = np.dtype(spec.dtype or "float32").kind != "f"
        low, high = np.array(spec.low, np.float64), np.array(spec.high, np.float64)
        return Columns(low, high, np.zeros(count, np.int64), np.full(count, whole))
    if spec.kind == "text":
        byte = np.full(count, -1.0), np.full(count, 255.0), np.full(count, -1)
        return Columns(*byte, np.ones(count, np.bool_))
    choices = {"discrete": (spec.n,), "multi_discrete": spec.nvec}.get(spec.kind, (2,) * count)
    low = np.full(count, float(spec.start))
    return Columns(low, low + np.array(choices) - 1, np.array(choices, np.int64), np.ones(count, np.bool_))


def encode(spec: ActionSpec, action: Any) -> np.ndarray:
    """Turn one native action into a row, float64 `(W,)`; raises `ActionError` when it does not fit."""
    if spec.kind == "text":
        return _encode_text(spec, action)
    if spec.kind == "tuple":
        if not isinstance(action, (tuple, list, np.ndarray)) or len(action) != len(spec.children):
            raise ActionError(f"action {action!r} does not have {len(spec.children)} parts, as {describe(spec)} does.")
        return _join([encode(c, a) for c, a in zip(spec.children, action)])
    if spec.kind == "dict":
        if not isinstance(action, Mapping) or set(action) != set(spec.keys):
            keys = sorted(map(str, action)) if isinstance(action, Mapping) else type(action).__name__
            raise ActionError(f"action has {keys}; expected a dict with the keys {sorted(spec.keys)}.")
        return _join([encode(c, action[k]) for k, c in zip(spec.keys, spec.children)])
    try:
        row = np.asarray(action, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise ActionError(f"action {action!r} does not fit {describe(spec)}.") from error
    # Checked leaf by leaf: two parts of wrong sizes can have the right sum, and would then be read shifted.
    if row.size != width(spec):
        raise ActionError(f"action has shape {np.shape(action)}, but {describe(spec)} needs {width(spec)} numbers.")
    if not np.isfinite(row).all():
        raise ActionError(f"action {action!r} is not finite; this space is {describe(spec)}.")
    if spec.kind != "box":
        _check_integers(spec, row, action)
    return row


def _join(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.empty(0)


def _encode_text(spec: ActionSpec, action: Any) -> np.ndarray:
    if not isinstance(action, str):
        raise ActionError(f"action {action!r} is a {type(action).__name__}; expected a string: {describe(spec)}.")
    if len(action) > spec.n // 4:
        raise ActionError(f"text has {len(action)} characters; at most {spec.n // 4} fit. Shorten it.")
    try:
        raw = np.frombuffer(action.encode("utf-8"), np.uint8)
    except UnicodeEncodeError as error:
        raise ActionError(f"text {action!r} is not valid Unicode: {error}.") from error
    return np.concatenate([raw.astype(np.float64), np.full(spec.n - len(raw), -1.0)])


def _check_integers(spec: ActionSpec, row: np.ndarray, action: Any) -> None:
    if spec.kind == "discrete":
        low, high = np.array([spec.start]), np.array([spec.start + spec.n - 1])
    else:
        low = np.zeros(row.size)
        high = np.array(spec.nvec) - 1 if spec.kind == "multi_discrete" else np.ones(row.size)
    if ((row < low) | (row > high) | (row != np.rint(row))).any():
        choices = f"{int(low[0])}..{int(high[0])}" if spec.kind == "discrete" else f"0..{high.astype(int).tolist()}"
        raise ActionError(f"action {action!r} is not among the integers {choices} of {describe(spec)}.")


def decode(spec: ActionSpec, row: np.ndarray) -> Any:
    """Turn a row back into the native action, of the type the environment expects."""
    row = np.asarray(row, np.float64)
    if row.shape != (width(spec),):
        raise ActionError(f"row has shape {row.shape}; expected ({width(spec)},) for {describe(spec)}.")
    return _decode(spec, row)


def _decode(spec: ActionSpec, row: np.ndarray) -> Any:
    if spec.kind == "discrete":
        return np.int64(np.rint(row[0]))
    if spec.kind == "box":
        dtype = np.dtype(spec.dtype or np.float32)
        return (row if dtype.kind == "f" else np.rint(row)).astype(dtype).reshape(spec.shape)
    if spec.kind == "multi_discrete":
        return np.rint(row).astype(spec.dtype or np.int64).reshape(spec.shape)
    if spec.kind == "multi_binary":
        return np.rint(row).astype(np.int8).reshape(spec.shape)
    if spec.kind == "text":
        return bytes(np.rint(row[row >= 0]).astype(np.uint8)).decode("utf-8", errors="replace")
    ends = np.cumsum([width(c) for c in spec.children])
    parts = [_decode(c, r) for c, r in zip(spec.children, np.split(row, ends[:-1]))]
    return tuple(parts) if spec.kind == "tuple" else dict(zip(spec.keys, parts))


def describe(spec: ActionSpec) -> str:
    """Say in a few words what actions look like, for messages."""
    if spec.kind == "discrete":
        return f"Discrete({spec.n})" if spec.start == 0 else f"Discrete({spec.n}, start={spec.start})"
    if spec.kind == "text":
        return f"Text(at most {spec.n // 4} characters)"
    if spec.kind in ("tuple", "dict"):
        inner = ", ".join(describe(c) for c in spec.children)
        return f"{spec.kind.capitalize()}({inner})"
    return f"{''.join(w.capitalize() for w in spec.kind.split('_'))}{tuple(spec.shape)}"
