"""What return is still to come after a frame, if actions went on as they were recorded.

    G_t = r_t + gamma (1 - end_t) ((1 - lambda) V(s_{t+1}) + lambda G_{t+1}),   G_{t+n} = V(s_{t+n})

V is fitted to G by least squares, G being held still. Where a recording stops without an end (a time limit), V stands
in for the rest, so that an episode cut short is not one that ended.

Ref: Sutton, Machine Learning 3 (1988), for TD(lambda); Lakshminarayanan et al., arXiv 1612.01474, for members that
differ by their start, whose disagreement says where little was recorded. Differs: returns look at most `steps` ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..engine import Trail
from ..errors import ConfigError
from ..nn.latents import TokenSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Head, HeadConfig, Net
from .recordings import Recordings


@dataclass(frozen=True)
class ValueConfig(HeadConfig):
    """discount: gamma. trace: lambda, 1 for plain returns. steps: how far returns look, n; a batch is made of clips of
    as many. members: networks, M.
    """

    batch: int = 256
    discount: float = 0.99
    trace: float = 0.95
    steps: int = 16
    members: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.discount <= 1 or not 0 <= self.trace <= 1 or min(self.steps, self.members) < 1:
            raise ConfigError(
                f"discount is {self.discount}, trace {self.trace}, steps {self.steps}, members {self.members}; "
                "expected above 0 to 1, 0 to 1, and at least 1 each."
            )


@register("head", "value")
class Value(Head):
    """The value above, in units of reward."""

    Config = ValueConfig
    config: ValueConfig
    shift: Tensor
    scale: Tensor

    def __init__(self, config: ValueConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(config, tokens, action)
        self.nets = nn.ModuleList(Net(tokens, action, config, 1) for _ in range(config.members))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def members(self, window: Trail) -> Tensor:
        """What each member says of windows `(..., K, N, Z)`, `(M, ...)`."""
        said = torch.stack([net(window.z, window.rows)[..., 0] for net in self.nets])
        return said.float() * self.scale + self.shift

    def forward(self, window: Trail) -> Tensor:
        """The value after windows `(..., K, N, Z)`, `(...)`: the mean of the members."""
        return self.members(window).mean(0)

    def prepare(self, recordings: Recordings) -> None:
        """Measure where returns lie and how far apart, so that the networks begin near them."""
        clips, gamma = recordings.clips, self.config.discount
        after = torch.zeros(len(clips.reward), dtype=torch.float64)
        for index in recordings.last.unique_consecutive().tolist():
            total = 0.0
            rewards = clips.reward[recordings.first[index] + 1 : index + 1].tolist()
            for t, reward in zip(range(index - 1, -1, -1), reversed(rewards)):
                total = reward + gamma * total
                after[t] = total
        seen = after[clips.starts]
        self.shift.fill_(float(seen.mean()))
        self.scale.fill_(max(float(seen.std(correction=0)), 1e-3))

    def loss(
        self, recordings: Recordings, at_B: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`: the squared distance to G, in deviations, over members and the frames of a few clips."""
        c = self.config
        first = at_B[: max(1, len(at_B) // c.steps)]
        index, inside = recordings.ahead(first, c.steps)
        began = recordings.cuts(first, 1, generator)[:, None] + index - index[:, :1]
        value = self.members(recordings.windows(index, c.frames, began))  # (M, B, n + 1)
        reward, end = (x[index].to(value) for x in (recordings.clips.reward, recordings.clips.end))
        inside = inside.to(value.device)
        target = returns(value.detach(), reward, end, inside, c.discount, c.trace)
        gap = ((value[..., :-1] - target) / self.scale).square().mean(0)
        taken = inside[:, 1:].to(gap)
        return (gap * taken).sum() / taken.sum(), {"value": value.detach().mean()}


def returns(value: Tensor, reward: Tensor, end: Tensor, there: Tensor, discount: float, trace: float) -> Tensor:
    """Compute G at the first n of n + 1 frames, `(..., B, n)`, from values `(..., B, n + 1)`.

    reward, end: of the transition to each frame, `(B, n + 1)`. there: whether a frame was recorded; after the last one
    that was, V stands in for the rest.
    """
    total, found = value[..., -1], []
    for t in range(value.shape[-1] - 2, -1, -1):
        later = trace * total + (1 - trace) * value[..., t + 1]
        total = reward[:, t + 1] + discount * (1 - end[:, t + 1]) * later
        total = torch.where(there[:, t + 1], total, value[..., t])
        found.append(total)
    return torch.stack(found[::-1], -1)
