"""Observations of any Gymnasium space as named streams: images, vectors, grids and text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .. import actions as codec
from ..errors import SpecError
from ..spec import ActionSpec, StreamSpec
from .spelled import SpelledText, is_text
from .wrappers import image_shape

UNBOUNDED = 1e30  # float32's largest numbers stand for "no bound" in many environments
WIDEST = 1 << 16  # numbers a vector stream may have
MOST = 256  # values that an entry of a grid may have


def streams(space: gym.Space) -> dict[str, StreamSpec]:
    """Describe the streams that `to_streams` makes of an observation space.

    | space | stream |
    |---|---|
    | uint8 `Box` `(h, w)` or `(h, w, C)`, C at most 4 | image `(h, w, C)` |
    | integer `Box` of two or more axes, at most 256 values an entry | grid: vector of choices, flattened |
    | `MultiDiscrete` of two or more axes | grid |
    | any other `Box` | vector, flattened, with its bounds if all are finite |
    | `Discrete`, other `MultiDiscrete` | vector, one-hot (one after another) |
    | `MultiBinary` | vector of zeros and ones |
    | texts inside `Spelled` | vector of letters, as UTF-8 bytes |
    | `Text` and other spaces of strings | text, recorded but not modelled |
    | `Dict`, `Tuple` | one stream an entry; names of nested ones joined by "." |

    Grids and letters keep their space beside them (`StreamSpec.native`): their numbers are the rows that
    `terrella.actions` makes of its values. A space that is a single image, vector or text gives one stream `"pixels"`,
    `"vector"` or `"text"`. Raises `SpecError` for spaces without a fixed size.
    """
    found: dict[str, StreamSpec] = {}
    for name, leaf, _ in _leaves(space, None, ""):
        spec = _describe(leaf, name)
        name = name or {"image": "pixels"}.get(spec.kind, spec.kind)
        if name in found:
            raise SpecError(f"two parts of the observation are called {name!r}; rename one in an ObservationWrapper.")
        found[name] = spec
    if not found:
        raise SpecError("the observation space is empty; there is nothing to model.")
    return found


def to_streams(env: gym.Env | gym.Space, obs: Any) -> dict[str, np.ndarray | str]:
    """Split one observation of `env` (or of a space) into its streams.

    Images are uint8 `(h, w, C)`, vectors float32 `(F,)`, text a string; the names are those of `streams`. The arrays
    may share memory with `obs`.
    """
    space = env.observation_space if isinstance(env, gym.Env) else env
    result: dict[str, np.ndarray | str] = {}
    for name, leaf, value in _leaves(space, obs, ""):
        shape = image_shape(leaf)
        if shape is not None:
            result[name or "pixels"] = np.asarray(value, np.uint8).reshape(shape)
        elif isinstance(leaf, SpelledText):
            result[name or "vector"] = codec.encode(codec.action_spec(leaf), str(value)).astype(np.float32)
        elif is_text(leaf):
            result[name or "text"] = str(value)
        else:
            result[name or "vector"] = _vector(leaf, value)
    return result


def _leaves(space: gym.Space, value: Any, prefix: str) -> Iterator[tuple[str, gym.Space, Any]]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        pairs = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, child in pairs:
            name = f"{prefix}.{key}" if prefix else str(key)
            yield from _leaves(child, None if value is None else value[key], name)
    else:
        yield prefix, space, value


def _native(space: gym.Space) -> ActionSpec | None:
    """The description of a space whose values are choices in a grid, or letters; None for others."""
    if isinstance(space, SpelledText) or (isinstance(space, spaces.MultiDiscrete) and _is_grid(space)):
        return codec.action_spec(space)
    if isinstance(space, spaces.Box) and space.dtype.kind in "iu" and space.dtype != np.uint8 and len(space.shape) > 1:
        apart = space.high.astype(np.float64) - space.low.astype(np.float64)
        return codec.action_spec(space) if apart.max(initial=0) < MOST else None
    return None


def _is_grid(space: spaces.MultiDiscrete) -> bool:
    return space.nvec.ndim > 1 and not np.any(space.start)


def _describe(space: gym.Space, name: str) -> StreamSpec:
    shape = image_shape(space)
    if shape is not None:
        return StreamSpec("image", shape)
    where = f"the observation{f' {name!r}' if name else ''}"
    native = _native(space)
    if native is not None:
        found = codec.columns(native)
        if len(found.low) > WIDEST:
            raise SpecError(f"{where} has {len(found.low)} entries; at most {WIDEST} make a stream.")
        low, high = tuple(found.low.tolist()), tuple(found.high.tolist())
        return StreamSpec("vector", (len(low),), low, high, native)
    if is_text(space):
        return StreamSpec("text")
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) >= 3:
            raise SpecError(
                f"{where} is uint8 {space.shape}; images are (h, w) or (h, w, C) with at most 4 channels. Move the "
                "channels last, or give stacked frames one at a time: worlds remember the past themselves."
            )
        low, high = (np.ravel(b).astype(np.float64) for b in (space.low, space.high))
        if low.size > WIDEST:
            raise SpecError(f"{where} has {low.size} numbers; at most {WIDEST} make a vector stream. Give it as uint8.")
        if max(np.abs(low).max(initial=0), np.abs(high).max(initial=0)) < UNBOUNDED:
            return StreamSpec("vector", (low.size,), tuple(low.tolist()), tuple(high.tolist()))
        return StreamSpec("vector", (low.size,))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        first = np.zeros(space.shape or (), np.int64)
        width = len(_vector(space, first if isinstance(space, spaces.MultiBinary) else first + space.start))
        return StreamSpec("vector", (width,), (0.0,) * width, (1.0,) * width)
    raise SpecError(
        f"{where} is a {type(space).__name__} space, which has no fixed size. Supported: Box, Discrete, MultiDiscrete, "
        "MultiBinary, Text, and Dict or Tuple of these. Convert it in an ObservationWrapper."
    )


def _vector(space: gym.Space, value: Any) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return _one_hot(int(space.n), int(value) - int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and not _is_grid(space):
        choices = (np.asarray(value) - space.start).ravel()
        return np.concatenate([_one_hot(int(n), int(c)) for n, c in zip(space.nvec.ravel(), choices)])
    return np.array(value, np.float32).ravel()


def _one_hot(n: int, choice: int) -> np.ndarray:
    row = np.zeros(n, np.float32)
    row[choice] = 1.0
    return row
