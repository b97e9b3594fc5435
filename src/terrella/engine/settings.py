"""Settings of an engine by name, as commands, environments and servers pass them on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import did_you_mean
from .engine import Engine


def engine_settings(given: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Return settings for `Engine(world, **settings)`; those of `more` that are None count as not given.

    Raises `UnknownName` for a setting that an engine does not have.
    """
    known = [name for name in inspect.signature(Engine).parameters if name != "world"]
    settings = {**(given or {}), **{name: value for name, value in more.items() if value is not None}}
    for name in settings:
        if name not in known:
            raise did_you_mean(str(name), known, "setting of an engine")
    return settings
