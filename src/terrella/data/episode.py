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

    Raises `DatasetError` when the lengths do not agree, or an episode goes on after its end.
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
        if np.ndim(self.actions) != 2:
            raise DatasetError(
                f"actions have shape {np.shape(self.actions)}; expected (T, W), one flat row a transition. "
                "terrella.actions.encode makes a row of a native action."
            )
        steps = len(self.actions)
        for name, frames in self.observations.items():
            if len(frames) != steps + 1:
                raise DatasetError(f"stream {name!r} has {len(frames)} frames; {steps} actions need {steps + 1}.")
        for name in ("rewards", "terminated", "truncated"):
            if np.shape(getattr(self, name)) != (steps,):
                raise DatasetError(
                    f"{name} has shape {np.shape(getattr(self, name))}; expected one entry an action, ({steps},)."
                )
        ended = np.flatnonzero(np.asarray(self.terminated[:-1], bool) | np.asarray(self.truncated[:-1], bool))
        if len(ended):
            raise DatasetError(
                f"the episode ends at transition {ended[0]} but has {steps}; split it there into two episodes."
            )

    def __len__(self) -> int:
        """Transitions T (there is one observation more)."""
        return len(self.actions)


@dataclass
class Clips:
    """A batch of clips, B of them with T transitions each.

    observations: stream -> `(B, T+1, ...)`. actions: float32 `(B, T, W)`. rewards: float32 `(B, T)`. terminated: bool
    `(B, T)`. seeds: int64 `(B,)`, what the environment was reset with, for clips that begin there; None for others.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    seeds: np.ndarray | None = None
