"""Names for parts: `@register("dynamics", "transformer")` on a class, `lookup` to get it back.

A part is one class with a frozen dataclass `Config` inside or beside it; adding one never touches another file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .errors import ConfigError, did_you_mean

T = TypeVar("T", bound=type)
_KINDS = ("tokenizer", "view", "dynamics", "decoder", "text", "head", "planner", "subject")
_PARTS: dict[str, dict[str, type]] = {kind: {} for kind in _KINDS}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Register a class under (`kind`, `name`); raises `ConfigError` on a duplicate, `UnknownName` on a wrong kind."""
    if kind not in _PARTS:
        raise did_you_mean(kind, _PARTS, "kind of part")

    def add(cls: T) -> T:
        other = _PARTS[kind].get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"{kind} {name!r} is already {other.__module__}.{other.__qualname__}; choose another name."
            )
        cls.name = name  # type: ignore[attr-defined]
        _PARTS[kind][name] = cls
        return cls

    return add


def lookup(kind: str, name: str) -> Any:
    """Return the class registered under (`kind`, `name`); raises `UnknownName` with the nearest names."""
    try:
        return _PARTS[kind][name]
    except KeyError:
        if kind not in _PARTS:
            raise did_you_mean(kind, _PARTS, "kind of part") from None
        raise did_you_mean(name, _PARTS[kind], kind) from None


def names(kind: str) -> list[str]:
    """List the registered names of a kind, sorted."""
    return sorted(_PARTS[kind])


__all__ = ["lookup", "names", "register"]
