"""What a step brings: frames on the host, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WorldError
from ..nn.latents import Outcome
from ..world import World
from .stepper import Drawn


@dataclass
class Frame:
    """What a step brings, for each session (after `rollout` a time axis follows the batch axis).

    observation: stream -> uint8 images `(B, h, w, C)` or float32 vectors `(B, F)`. reward: float32 `(B,)`. terminated:
    float32 `(B,)`, the probability that the episode ends here. info: more, by name. latent: float32 `(B, N, Z)`, the
    frame as the world remembers it, from an engine that recalls frames; else None.
    """

    observation: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    latent: np.ndarray | None = None

    @property
    def ended(self) -> np.ndarray:
        """Whether the end is more likely than not, bool `(B,)`."""
        return self.terminated > 0.5


def stacked(frames: Sequence[Frame]) -> Frame:
    """Put frames one after another, on a time axis after the batch axis."""
    return _merged(frames, np.stack)


def joined(frames: Sequence[Frame]) -> Frame:
    """Put frames that have a time axis one after another."""
    return _merged(frames, np.concatenate)


def _merged(frames: Sequence[Frame], merge: Callable[..., np.ndarray]) -> Frame:
    latent = [f.latent for f in frames if f.latent is not None]
    return Frame(
        {s: merge([f.observation[s] for f in frames], 1) for s in frames[0].observation},
        merge([f.reward for f in frames], 1),
        merge([f.terminated for f in frames], 1),
        {k: merge([f.info[k] for f in frames], 1) for k in frames[0].info},
        merge(latent, 1) if latent else None,
    )


def bring(world: World, drawn: Drawn, outcome: Outcome, back: Tensor | None = None, latent: bool = False) -> Frame:
    """Bring what was drawn to the host. back: the row of each session, where rows are not sessions. latent: as well.

    Raises `WorldError` for numbers that are not finite.
    """
    reward = outcome.reward * world.reward_scale + world.reward_shift
    # Pixels cannot say that their latents were NaN; the reward, which is fetched anyway, says it for them.
    reward = torch.where(drawn.finite_B, reward, torch.nan)
    rows = slice(None) if back is None else back.cpu().numpy()
    shown = {k: v.cpu().numpy()[rows] for k, v in drawn.shown.items()}
    told = {"evaluations": drawn.evaluations_B, "alarm": drawn.alarm_B}
    info = {name: value.cpu().numpy()[rows] for name, value in told.items() if value is not None}
    end = outcome.end.sigmoid()
    z = drawn.z_BNZ.float().cpu().numpy()[rows] if latent else None
    frame = Frame(shown, reward.float().cpu().numpy()[rows], end.float().cpu().numpy()[rows], info, z)
    _require_finite(frame, world.name)
    return frame


def _require_finite(frame: Frame, name: str) -> None:
    numbers = [frame.reward, frame.terminated, *(v for v in frame.observation.values() if v.dtype != np.uint8)]
    lost = ~np.all([np.isfinite(v).reshape(len(v), -1).all(1) for v in numbers], axis=0)
    if lost.any():
        who = f" in sessions {np.flatnonzero(lost).tolist()} of {len(lost)}" if len(lost) > 1 else ""
        raise WorldError(
            f"world {name!r} predicted numbers that are not finite{who}. Go on from an earlier fork, or "
            "start anew; if it happens again, train the world longer or with a smaller learning rate."
        )
