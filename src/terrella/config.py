"""Frozen dataclasses to JSON and back. Unknown keys are refused by name; nothing is evaluated."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from .errors import ConfigError, did_you_mean

C = TypeVar("C")


def to_json(config: Any) -> Any:
    """Turn a dataclass tree into JSON values (tuples become lists)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(k): to_json(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_json(v) for v in config]
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise ConfigError(f"cannot write a {type(config).__name__} to JSON; use numbers, strings, lists and dataclasses.")


def from_json(cls: type[C], data: Any, where: str = "") -> C:
    """Build `cls` from JSON values; raises `ConfigError` naming the key for anything unknown or of a wrong type."""
    return _build(cls, data, where or getattr(cls, "__name__", "config"))


def _build(kind: Any, data: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(kind, data, where)
    if kind is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _build(option, data, where)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if data in args:
            return data
        raise ConfigError(f"{where} is {data!r}; expected one of {', '.join(map(repr, args))}.")
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise ConfigError(f"{where} is {data!r}; expected a list.")
        inner = [args[0]] * len(data) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) != len(data):
            raise ConfigError(f"{where} has {len(data)} items; expected {len(inner)}.")
        return tuple(_build(t, v, f"{where}[{i}]") for i, (t, v) in enumerate(zip(inner, data)))
    if origin is dict:
        if not isinstance(data, dict):
            raise ConfigError(f"{where} is {data!r}; expected an object.")
        return {k: _build(args[1], v, f"{where}.{k}") for k, v in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(kind, type) and isinstance(data, kind) and not (kind is int and isinstance(data, bool)):
        return data
    raise ConfigError(f"{where} is {data!r}; expected {getattr(kind, '__name__', kind)}.")


def _build_dataclass(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {data!r}; expected an object.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in fields:
            raise ConfigError(f"{where}: {did_you_mean(str(key), fields, 'setting')}")
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    for name in required:
        if name not in data:
            raise ConfigError(f"{where} lacks {name!r}; it has no default.")
    return cls(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in data.items()})
