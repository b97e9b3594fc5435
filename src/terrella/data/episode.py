"""One episode, and the alignment of frames and actions that everything else relies on.

An episode has observations `o_0 .. o_T` and actions `a_0 .. a_{T-1}`; `a_t` leads from `o_t` to `o_{t+1}`, and `r_t`,
`terminated_t`, `truncated_t` belong to that transition. A clip is a short piece of one episode under the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DatasetError


@dataclass
class Episode:
    """Observations `o_0..o_T` and what happened between them.

    observations: stream -> array `(T+1, ...)`: uint8 images `(T+1, h, w, C)`, float32 vectors `(T+1, F)`, text as an
    object array of strings. actions: float64 `(T, W)` flat rows. rewards: float32 `(T,)`. terminated, truncated: bool
    `(T,)`, true at most at the end. seed: what the environment was reset with. states: frame index -> saved simulator
    state (bytes). info: JSON values.

    Raises `DatasetError` when the lengths do not agree.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    seed: int | None = None
    states: dict[int, bytes] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = len(self.actions)
        for name, frames in self.observations.items():
            if len(frames) != steps + 1:
                raise DatasetError(f"stream {name!r} has {len(frames)} frames; {steps} actions need {steps + 1}.")
        for name in ("rewards", "terminated", "truncated"):
            if len(getattr(self, name)) != steps:
                raise DatasetError(f"{name} has {len(getattr(self, name))} entries; expected one an action, {steps}.")

    def __len__(self) -> int:
        """Transitions T (there is one observation more)."""
        return len(self.actions)


@dataclass
class Clips:
    """A batch of clips: observations stream -> `(B, T+1, ...)`, actions float32 `(B, T, W)`, rewards and terminated `(B, T)`."""

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
