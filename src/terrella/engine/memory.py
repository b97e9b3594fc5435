"""Another memory for a trained world: a copy of it whose backbone keeps frames by a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..config import from_json, to_json
from ..errors import ConfigError
from ..nn.kv_policies import Memory
from ..registry import lookup, names
from ..world import Part, World
from .precision import copied


def with_memory(world: World, memory: Memory | Mapping[str, Any] | str) -> World:
    """Return a copy of `world` that steps with that memory, given whole, by its settings, or by its policy's name.

    Raises `ConfigError` for a backbone without keys and values to choose from, `UnknownName` for an unknown policy.
    """
    part = world.config.dynamics
    able = [n for n in names("dynamics") if "memory" in {f.name for f in fields(lookup("dynamics", n).Config)}]
    if part.name not in able:
        raise ConfigError(
            f"backbone {part.name!r} has no memory of frames that a policy could choose from; those that do: "
            f"{', '.join(able)}."
        )
    if isinstance(memory, str):
        memory = Memory(memory)
    elif not isinstance(memory, Memory):
        memory = from_json(Memory, dict(memory), "memory")
    return copied(world, Part(part.name, {**part.config, "memory": to_json(memory)}))
