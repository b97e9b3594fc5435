"""Which action led from one frame to the next: inverse dynamics, to verify futures.

A future in which frames do not follow from the actions that were asked for is one in which the world did something
else.

Ref: Pathak et al., arXiv 1705.05363, section 2.2 (inverse dynamics model).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine import Trail
from ..errors import ConfigError
from ..nn.latents import TokenSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Head, HeadConfig, Net, as_changes, unit_of_change
from .law import ActionLaw, Laws
from .recordings import Recordings

SAMPLE = 4096  # transitions by which changes are measured


@dataclass(frozen=True)
class InverseConfig(HeadConfig):
    """See `HeadConfig`; frames: with the later of the two, at least 2. alone: the earlier actions are not read, either,
    as where they are unknown. changes: frames after the first are read as what changed since the one before.
    """

    frames: int = 3
    alone: bool = False
    changes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2:
            raise ConfigError(f"frames is {self.frames}; an action lies between two frames.")


@register("head", "inverse")
class Inverse(Head):
    """A law of the action that led to the last frame of a window."""

    Config = InverseConfig

    def __init__(self, config: InverseConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(config, tokens, action)
        self.law = ActionLaw(action)
        self.net = Net(tokens, action, config, self.law.parameters_needed)
        if config.changes:
            self.register_buffer("unit", torch.ones(tokens.n, tokens.channels))

    def forward(self, window: Trail) -> Laws:
        """The laws of the last actions of windows `(..., K, N, Z)`, which are not looked at."""
        known = 0 if self.config.alone else window.rows.shape[-2] - 1
        hidden = torch.full_like(window.rows[..., known:, :], torch.nan)
        z = as_changes(window.z, self.get_buffer("unit")) if self.config.changes else window.z
        return self.law.laws(self.net(z, torch.cat([window.rows[..., :known, :], hidden], -2)))

    def log_prob(self, window: Trail) -> Tensor:
        """How well the last action of a window fits its frames, `(...)`: the logarithm of its density."""
        return self.law.log_prob(self(window), window.rows[..., -1, :])

    def prepare(self, recordings: Recordings) -> None:
        """Measure the actions, and how much frames change."""
        starts, z = recordings.clips.starts, recordings.clips.z
        self.law.measure(recordings.clips.action[starts + 1])
        if self.config.changes:
            some = starts[:: max(1, len(starts) // SAMPLE)]
            self.get_buffer("unit").copy_(unit_of_change(z[some], z[some + 1]))

    def loss(
        self, recordings: Recordings, at_B: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`: minus the log-likelihood of the action that led on from each frame."""
        frames = self.config.frames
        cut = recordings.cuts(at_B, frames, generator) + 1
        return -self.log_prob(recordings.windows(at_B + 1, frames, cut)).mean(), {}
