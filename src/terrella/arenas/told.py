"""Environments that take sentences, by id.

| id | inside | a chunk | pace |
|---|---|---|---|
| `terrella/Sentences-v0` | `inside="..."`, with arguments of its own | the speaker's | 1 |
| `terrella/SentencesGrid-v0` | `MiniGrid-GoToObject-8x8-N2-v0` with three things | 12 | 1 |
| `terrella/SentencesPucks-v0` | `terrella/Pucks-v0`, nearly at rest | 8 | 3 |
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from .grammar import HELD_OUT
from .make import make
from .sensors import Sensors
from .sentences import Sentences


def told(
    inside: str,
    chunk: int = 0,
    pace: int = 1,
    held_out: int = HELD_OUT,
    size: int = 64,
    sensors: bool = False,
    **kwargs: Any,
) -> gym.Env:
    """Make an environment that takes sentences and shows pictures of `size` pixels; kwargs are for the one inside.

    sensors: also show what is measured of whoever acts (`Sensors`).
    """
    symbols = inside.startswith(("MiniGrid-", "BabyAI-"))  # their own observations are codes of cells
    env = Sentences(make(inside, pixels=symbols, size=size, **kwargs), chunk, pace, held_out)
    return Sensors(env) if sensors else env


_TOLD: dict[str, dict[str, Any]] = {
    "Sentences": {},
    "SentencesGrid": {"inside": "MiniGrid-GoToObject-8x8-N2-v0", "numObjs": 3, "tile_size": 8},
    # Large discs, all alike but for their colours, that soon come to rest: what happens next is for the speaker to say.
    "SentencesPucks": {"inside": "terrella/Pucks-v0", "pace": 3, "mixed": True, "spokes": False, "count": (2, 3)}
    | {"speed": 0.1, "radius": (0.1, 0.1), "mass": (0.5, 0.5), "friction": (0.0, 0.0), "restitution": (0.4, 0.4)}
    | {"drag": 4.0},
}
for _name, _kwargs in _TOLD.items():
    gym.register(f"terrella/{_name}-v0", f"{__name__}:told", kwargs=_kwargs)
