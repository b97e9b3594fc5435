"""Which actions the recordings take after a frame: behaviour cloning, as a prior for search.

Ref: Hansen et al., TD-MPC2, arXiv 2310.16828, for a policy that proposes plans; Silver et al., Nature 550 (2017), for
one that leads a tree search. Differs: it imitates what was recorded, and improves nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine import Trail
from ..nn.latents import TokenSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Head, HeadConfig, Net
from .law import ActionLaw, Laws
from .recordings import Recordings


@dataclass(frozen=True)
class PolicyConfig(HeadConfig):
    """See `HeadConfig`."""


@register("head", "policy")
class Policy(Head):
    """A law of the action that follows a window: a Gaussian for each number, probabilities for each choice."""

    Config = PolicyConfig

    def __init__(self, config: PolicyConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(config, tokens, action)
        self.law = ActionLaw(action)
        self.net = Net(tokens, action, config, self.law.parameters_needed)

    def forward(self, window: Trail) -> Laws:
        """The laws after windows `(..., K, N, Z)`."""
        return self.law.laws(self.net(window.z, window.rows))

    def prepare(self, recordings: Recordings) -> None:
        """Measure the actions."""
        self.law.measure(recordings.clips.action[recordings.clips.starts + 1])

    def loss(
        self, recordings: Recordings, at_B: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`: minus the log-likelihood of the action taken."""
        frames = self.config.frames
        laws = self(recordings.windows(at_B, frames, recordings.cuts(at_B, frames, generator)))
        loss = -self.law.log_prob(laws, recordings.clips.action[at_B + 1].to(recordings.device)).mean()
        return loss, {}
