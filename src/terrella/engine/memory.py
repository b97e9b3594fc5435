"""Another memory for a trained world: its backbone's settings with a bounded memory in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..config import from_json, to_json
from ..errors import ConfigError
from ..nn.kv_policies import Memory
from ..registry import lookup, names
from ..world import Part


def with_memory(part: Part, memory: Memory | Mapping[str, Any] | str) -> Part:
    """Return the backbone `part` with that memory, given whole, by its settings, or by its policy's name.

    Raises `ConfigError` for a backbone without keys and values to choose from, `UnknownName` for an unknown policy.
    """
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
    return Part(part.name, {**part.config, "memory": to_json(memory)})
