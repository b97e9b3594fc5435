"""How well a frame follows from those before it and the actions between them: a number, low where it does.

    P(true | window) = sigmoid(-E(window))

is fitted to tell recorded windows from such as are like them but never were. In these, the last frame is that of
another clip, or of another moment of its own episode; or the last action is another one; or the world dreamed the end
of the window in a rollout of its own, which shows what drifting looks like. With so many false windows for each true
one, each counts less, so that both sides weigh the same.

E is minus the logarithm of how much likelier a window is among true than among false ones, so energies of futures with
different pasts compare, and it has a gradient by latents and actions.

Ref: Gutmann and Hyvarinen, AISTATS 2010 (noise-contrastive estimation); Gladstone et al., Energy-Based Transformers,
arXiv 2507.02092, for choosing among futures by energy. Differs: negatives are drawn, and nothing is sampled by
gradients in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine import Trail
from ..errors import ConfigError
from ..nn.latents import TokenSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Head, HeadConfig, Net
from .recordings import SEEN, Recordings


@dataclass(frozen=True)
class EnergyConfig(HeadConfig):
    """near: the farthest moment of the same episode that stands in for the true one, in frames. dreams: share of the
    weight of false windows that dreamed ones have.
    """

    frames: int = 3
    near: int = 4
    dreams: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2 or self.near < 1 or not 0 <= self.dreams < 1:
            raise ConfigError(
                f"frames is {self.frames}, near {self.near}, dreams {self.dreams}; expected at least 2, at least 1, "
                "and 0 to below 1."
            )


@register("head", "energy")
class Energy(Head):
    """The energy above, of windows that end at the frame in question."""

    Config = EnergyConfig
    config: EnergyConfig
    dreams = 8

    def __init__(self, config: EnergyConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(config, tokens, action)
        self.net = Net(tokens, action, config, 1)

    def forward(self, window: Trail) -> Tensor:
        """The energy of windows `(..., K, N, Z)`, `(...)`."""
        return self.net(window.z, window.rows)[..., 0].float()

    def loss(
        self, recordings: Recordings, at_B: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`: the mean of minus log P(true) of true windows and minus log P(false) of false ones."""
        cut = recordings.cuts(at_B, self.config.frames, generator) + 1
        true = recordings.windows(at_B + 1, self.config.frames, cut)
        real = F.softplus(self(true)).mean()
        wrong = self.negatives(recordings, at_B + 1, true, generator)
        parts = {name: F.softplus(-self(window)).mean() for name, window in wrong.items()}
        share = self.config.dreams if "dreamed" in parts else 0.0
        rest = [value for name, value in parts.items() if name != "dreamed"]
        false = (1 - share) * torch.stack(rest).mean() + share * parts.get("dreamed", torch.zeros_like(real))
        return (real + false) / 2, {"real": real.detach(), **{k: v.detach() for k, v in parts.items()}}

    def negatives(
        self, recordings: Recordings, at_B: Tensor, true: Trail, generator: torch.Generator
    ) -> dict[str, Trail]:
        """False windows for the true ones that end at frames `at_B`, by what is wrong with them, `(B, K, ...)` each."""
        batch = len(at_B)
        draw = torch.rand(4, batch, generator=generator, device=generator.device).cpu()
        apart = 1 + (draw[0] * self.config.near).long()
        moment = at_B + torch.where(draw[1] < 0.5, -apart, apart)
        moment = torch.minimum(torch.maximum(moment, recordings.first[at_B]), recordings.last[at_B])
        away = recordings.windows(torch.where(moment == at_B, (at_B - 1), moment), 1).z
        found = {
            "other": Trail(torch.cat([true.z[:, :-1], true.z.roll(1, 0)[:, -1:]], 1), true.rows),
            "moment": Trail(torch.cat([true.z[:, :-1], away], 1), true.rows),
            "action": Trail(true.z, torch.cat([true.rows[:, :-1], true.rows.roll(1, 0)[:, -1:]], 1)),
        }
        if recordings.dreams is not None:
            dreams, frames = recordings.dreams, self.config.frames
            which = (draw[2] * len(dreams.z)).long()
            end = SEEN + (draw[3] * (dreams.frames - SEEN)).long()
            index = (end[:, None] - torch.arange(frames).flip(0)).clamp(min=0)
            z, rows = (x[which[:, None], index].to(recordings.device) for x in (dreams.z, dreams.rows))
            found["dreamed"] = Trail(z, rows)
        return found
