"""Plain Python data to bytes and back, exactly, with shared and circular references kept, and without running code.

The saved form is JSON (structure) plus raw blobs (arrays and bytes), compressed with a checksum. Reading it builds
numbers, strings, containers, arrays and random generators. Instances of simulator classes come back as a bare
`object.__new__` with their attributes set: no constructor, no `__setstate__`, no import, and only for classes of
modules that the caller names and that are already loaded.
"""

from __future__ import annotations

import enum
import functools
import json
import logging
import math
import struct
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import zstandard
from gymnasium.envs.registration import EnvSpec as RegisteredSpec

from ..errors import ArenaError
from ..spec import EnvSpec

MAGIC = b"TerrellaState\x01"
LARGEST = 1 << 28  # bytes a state may unpack to; a damaged or hostile file must not exhaust the memory
NONE: Mapping[str, object] = types.MappingProxyType({})
_BIT_GENERATORS = {
    c.__name__: c for c in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
# What describes an object rather than changes with it: never saved, left as it is by `assign`.
_CONSTANT_TYPES = (
    gym.Space, type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType,
    functools.partial, logging.Logger, RegisteredSpec, EnvSpec,
)  # fmt: skip
_CONSTANT_NAMES = frozenset(
    ("env", "spec", "metadata", "_metadata", "render_mode", "window", "clock", "_cached_spec", "_saved_kwargs")
)


def attributes(thing: object) -> dict[str, Any]:
    """Return the attributes of `thing` that may change while it runs (no spaces, functions, classes or windows)."""
    return {
        name: value
        for name, value in vars(thing).items()
        if name not in _CONSTANT_NAMES and not isinstance(value, _CONSTANT_TYPES)
    }


def assign(thing: object, values: Mapping[str, Any]) -> None:
    """Give `thing` exactly the attributes that `attributes` returned earlier; constant ones stay."""
    for name in attributes(thing).keys() - values.keys():
        delattr(thing, name)
    for name, value in values.items():
        setattr(thing, name, value)


def pack(
    header: Mapping[str, Any], value: Any, anchors: Mapping[str, object] = NONE, modules: Collection[str] = ()
) -> bytes:
    """Write a JSON `header` and a plain `value` as bytes.

    `anchors` are live objects (environments) that are written by name instead of by content. `modules` are the
    top-level packages whose instances may be written. Raises `ArenaError` naming the first value that is not plain.
    """
    writer = _Writer(anchors, frozenset(modules))
    root = writer.inline(value, "state")
    writer.drain()
    document = {"header": header, "root": root, "nodes": writer.nodes, "blobs": [len(b) for b in writer.blobs]}
    text = json.dumps(document, separators=(",", ":")).encode()
    body = struct.pack("<Q", len(text)) + text + b"".join(writer.blobs)
    return MAGIC + zstandard.ZstdCompressor(level=1, write_checksum=True).compress(body)


def unpack(
    data: bytes,
    check: Callable[[Mapping[str, Any]], object],
    anchors: Mapping[str, object] = NONE,
    modules: Collection[str] = (),
) -> Any:
    """Return the value that `pack` wrote; `check` sees the header first and raises if it does not fit.

    Raises `ArenaError` when `data` is no saved state, is damaged, or names a class outside `modules`.
    """
    if not isinstance(data, bytes) or not data.startswith(MAGIC):
        raise ArenaError("these bytes are no saved simulator state; pass what Forkable.save returned, unchanged.")
    try:
        frame = data[len(MAGIC) :]
        size = zstandard.frame_content_size(frame)
        if not 8 <= size <= LARGEST:
            raise ArenaError(f"a saved state unpacks to {size} bytes; at most {LARGEST} are accepted.")
        body = zstandard.ZstdDecompressor().decompress(frame)
        (length,) = struct.unpack_from("<Q", body)
        document = json.loads(body[8 : 8 + length])
        blobs, start = [], 8 + length
        for size in document["blobs"]:
            blobs.append(body[start : start + size])
            start += size
        check(document["header"])
        return _Reader(document["nodes"], blobs, anchors, frozenset(modules)).read(document["root"])
    except (
        zstandard.ZstdError,
        struct.error,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ArenaError(f"this saved simulator state is damaged ({type(error).__name__}: {error}).") from error


class _Writer:
    """Number every mutable value once and describe it; immutable ones are written where they stand."""

    def __init__(self, anchors: Mapping[str, object], modules: frozenset[str]) -> None:
        self.anchors = {id(thing): name for name, thing in anchors.items()}
        self.modules = modules
        self.nodes: list[Any] = []
        self.blobs: list[bytes] = []
        self._seen: dict[int, int] = {}
        self._todo: deque[tuple[int, Any, str]] = deque()
        self._alive: list[Any] = []  # ids are only unique among living objects

    def drain(self) -> None:
        """Describe what `inline` has numbered; a queue instead of recursion, since rooms and doors form long chains."""
        while self._todo:
            index, value, where = self._todo.popleft()
            self.nodes[index] = self._node(value, where)

    def inline(self, value: Any, where: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if id(value) in self.anchors:
            return {"anchor": self.anchors[id(value)]}
        if kind in (tuple, frozenset):
            return {kind.__name__: [self.inline(v, f"{where}[{i}]") for i, v in enumerate(value)]}
        if kind is bytes:
            return {"bytes": self._blob(value)}
        if isinstance(value, enum.Enum):
            return {"enum": [*self._class(kind, where), value.name]}
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return {"scalar": [value.dtype.str, value.tobytes().hex()]}
        if id(value) not in self._seen:
            self._seen[id(value)] = len(self.nodes)
            self._todo.append((len(self.nodes), value, where))
            self.nodes.append(None)
            self._alive.append(value)
        return {"node": self._seen[id(value)]}

    def _node(self, value: Any, where: str) -> Any:
        kind = type(value)
        if kind in (list, set, deque):
            items = [self.inline(v, f"{where}[{i}]") for i, v in enumerate(value)]
            return [kind.__name__, items, value.maxlen] if kind is deque else [kind.__name__, items]
        if kind is dict:
            return ["dict", [[self.inline(k, where), self.inline(v, f"{where}[{k!r}]")] for k, v in value.items()]]
        if kind is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
            return ["array", value.dtype.str, list(value.shape), self._blob(value.tobytes())]
        if kind is np.random.Generator:
            state = value.bit_generator.state
            if state["bit_generator"] in _BIT_GENERATORS:
                return ["rng", state["bit_generator"], self.inline(state, where)]
        if kind.__module__.split(".")[0] in self.modules and _is_bare(kind):
            own = vars(value).items()
            return ["object", *self._class(kind, where), [[k, self.inline(v, f"{where}.{k}")] for k, v in own]]
        raise ArenaError(
            f"cannot save this environment: {where} is a {kind.__module__}.{kind.__qualname__}, expected plain data "
            "(numbers, strings, containers, arrays, random generators). Keep such things out of what changes during "
            "an episode, or write an adapter (terrella.arenas.Simulator)."
        )

    def _class(self, kind: type, where: str) -> list[str]:
        if kind.__module__.split(".")[0] not in self.modules:
            raise ArenaError(f"cannot save this environment: {where} is a {kind.__module__}.{kind.__qualname__}.")
        if "<locals>" in kind.__qualname__:
            raise ArenaError(
                f"cannot save this environment: {where} is a {kind.__qualname__}, a class that no one can find by name "
                "again. Define it at the top of a module, outside of functions."
            )
        return [kind.__module__, kind.__qualname__]

    def _blob(self, data: bytes) -> int:
        self.blobs.append(data)
        return len(self.blobs) - 1


class _Reader:
    """Make every numbered value empty first, then fill them, so that circles close."""

    def __init__(
        self, nodes: list[Any], blobs: list[bytes], anchors: Mapping[str, object], modules: frozenset[str]
    ) -> None:
        self.nodes, self.blobs, self.anchors, self.modules = nodes, blobs, anchors, modules
        self.made: list[Any] = [self._empty(node) for node in nodes]

    def read(self, root: Any) -> Any:
        pairs = list(zip(self.nodes, self.made))
        for node, thing in sorted(pairs, key=lambda pair: pair[0][0] == "rng"):  # these read what the others hold
            self._fill(node, thing)
        return self.inline(root)

    def inline(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node":
            return self.made[content]
        if kind in ("tuple", "frozenset"):
            return (tuple if kind == "tuple" else frozenset)(self.inline(v) for v in content)
        if kind == "bytes":
            return self.blobs[content]
        if kind == "anchor":
            return self.anchors[content]
        if kind == "enum":
            return self._class(content[0], content[1], enum.Enum)[content[2]]
        if kind == "scalar":
            return np.frombuffer(bytes.fromhex(content[1]), _dtype(content[0]))[0]
        raise ValueError(f"unknown kind {kind!r}")

    def _empty(self, node: Any) -> Any:
        kind = node[0]
        if kind in ("list", "set", "dict"):
            return {"list": list, "set": set, "dict": dict}[kind]()
        if kind == "deque":
            return deque(maxlen=node[2])
        if kind == "array":
            dtype, shape = _dtype(node[1]), tuple(node[2])
            if math.prod(shape) == 0:
                return np.zeros(shape, dtype)
            return np.frombuffer(self.blobs[node[3]], dtype).reshape(shape).copy()
        if kind == "rng":
            return np.random.Generator(_BIT_GENERATORS[node[1]]())
        if kind == "object":
            return object.__new__(self._class(node[1], node[2], object))
        raise ValueError(f"unknown kind {kind!r}")

    def _fill(self, node: Any, thing: Any) -> None:
        kind = node[0]
        if kind in ("list", "deque"):
            thing.extend(self.inline(v) for v in node[1])
        elif kind == "set":
            thing.update(self.inline(v) for v in node[1])
        elif kind == "dict":
            thing.update((self.inline(k), self.inline(v)) for k, v in node[1])
        elif kind == "object":
            vars(thing).update((name, self.inline(v)) for name, v in node[3])
        elif kind == "rng":
            thing.bit_generator.state = self.inline(node[2])

    def _class(self, module: str, qualname: str, base: type) -> Any:
        if module.split(".")[0] not in self.modules or module not in sys.modules:
            raise ArenaError(f"this saved state names the class {module}.{qualname}, which this environment lacks.")
        found: Any = sys.modules[module]
        for part in qualname.split("."):
            found = vars(found)[part]
        # What a module merely imported (say, a shell function's class) is not its own and stays out of reach.
        if not isinstance(found, type) or found.__module__ != module or not issubclass(found, base):
            raise ArenaError(f"this saved state names {module}.{qualname}, which is no simulator class.")
        if base is object and not _is_bare(found):
            raise ArenaError(f"this saved state holds a {module}.{qualname}, which cannot be rebuilt from attributes.")
        return found


def _is_bare(kind: type) -> bool:
    """Whether instances are nothing but their `__dict__`, so that `object.__new__` makes one."""
    return kind.__new__ is object.__new__ and not issubclass(kind, gym.Env) and kind.__dictoffset__ != 0


def _dtype(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.hasobject or dtype.names is not None:
        raise ValueError(f"dtype {name!r}")
    return dtype
