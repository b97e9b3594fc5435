"""Reaction-diffusion: a field on the grid of tokens that spreads, drifts and reacts, with no attention at all.

A vector u of each token is what is remembered. Between two frames it evolves in a few small steps,

    u <- u + sum_k w_k (S_k u - u) + dt * reaction(norm(u), mean(u), drive)

S_k takes each token's value from a neighbour, 1, 2, 4, ... places to one of four sides. The action drives the
reaction, and so do a token's place and a slow mean of its past. A finished frame enters through a gate. To predict one,
a second such medium takes up the last latent (and a noisy one) and settles, and what changes is read off.

Notable choices
- The weights w_k of a group of channels and that of staying are a softmax: spreading is a mean, under which nothing
  grows, and a group may move by a whole token a step. Each side has its own: alike to all sides, motion only blurs.
- S_k are matrices over tokens, summed up before they are applied: tokens that have no neighbours (a vector beside a
  picture) are no special case. The field keeps its own precision; its changes are computed in training's.
- A frame that was not seen is replaced by the plain prediction of it, in training with its gradient.

Ref: Polly, FluidWorld, arXiv 2603.21315: diffusion at several distances, a reaction of each place and global memory; a
state that is written through a gate, evolves and is read. Differs: diffusion there is equal to all sides, global memory
gathers over the steps of a frame (ours is the mean of now), and the gate adds to a state that decays (ours replaces);
no coarse memory, inhibition, fatigue or Hebbian diffusion; as many steps for every frame; the slow field is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.blocks import ChangeHead, OutcomeHead
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import EPSILON, LevelEmbedding, RMSNorm, SwiGLU
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics


@dataclass(frozen=True)
class ReactionDiffusionConfig:
    """Size of the field: `dim` channels a token, in `groups` that spread alike; `mlp * dim` units of the reaction.

    steps: from one frame to the next. settle: to read a prediction. scales: of spreading, 1, 2, 4, ... places far.
    """

    dim: int = 192
    groups: int = 16
    steps: int = 3
    settle: int = 2
    scales: int = 3
    mlp: float = 2.5

    def __post_init__(self) -> None:
        if self.groups < 1 or self.dim < 1 or self.dim % self.groups:
            raise ConfigError(f"dim {self.dim} must be a multiple of groups ({self.groups}), which spread alike.")
        if min(self.steps, self.settle, self.scales, int(self.mlp * self.dim)) < 1:
            raise ConfigError("steps, settle and scales must be at least 1, mlp at least 1 / dim.")


@register("dynamics", "reaction_diffusion")
class ReactionDiffusion(Dynamics):
    """Memory a session: `2 * N * dim` numbers and one latent."""

    Config = ReactionDiffusionConfig
    recurrent: ClassVar[tuple[str, ...]] = ("blocks.0.react.", "blocks.0.pool.")

    def __init__(self, config: ReactionDiffusionConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        field, latent = SlabSpec((tokens.n, c.dim)), SlabSpec((tokens.n, tokens.channels))
        self.spec = StateSpec({"field": field, "slow": field, "previous": latent, "level": SlabSpec(())})
        self.act = ActionEmbedding(action, c.dim)
        self.place = nn.Parameter(torch.randn(tokens.n, c.dim) * 0.5)
        self.blank = nn.Parameter(torch.randn(tokens.n, tokens.channels) * 0.02)  # stands for z when there is none
        self.tau, self.d, self.level = LevelEmbedding(c.dim), LevelEmbedding(c.dim), LevelEmbedding(c.dim)
        self.blocks = nn.ModuleList(_Medium(c, tokens, steps) for steps in (c.steps, c.settle))  # evolve, settle
        self.see = nn.Linear(2 * tokens.channels, c.dim)  # a finished frame, beside the one before
        self.enter = nn.Linear(2 * tokens.channels, c.dim)  # a frame to predict
        self.value = nn.Sequential(RMSNorm(c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim), RMSNorm(c.dim))
        self.gate = nn.Linear(2 * c.dim, c.dim)
        self.pace = nn.Parameter(torch.logspace(-1, -6, c.dim, base=2.0).logit())  # slow: over 2 to 64 frames
        self.leave, self.outcome = ChangeHead(c.dim, tokens.channels), OutcomeHead(c.dim)

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        return self._read(self._ahead(slabs, action_BW), slabs.recurrent["previous"], z_BNZ, noise)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        previous, field = slabs.recurrent["previous"], self._ahead(slabs, action_BW)
        z = self._or_imagined(z_BNZ, tau_B, field, previous)
        field, slow = self._write(field, slabs.recurrent["slow"], z, previous, tau_B)
        kept = {"field": field, "slow": slow, "previous": z, "level": tau_B}
        outcome = self.outcome(field.to(self.place.dtype))
        return slabs.append({}, {k: v.to(slabs.recurrent[k].dtype) for k, v in kept.items()}), outcome

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. Fields follow one another in time; predictions are read off all at once."""
        condition = self.act(action_BTW) + self.level(F.pad(tau_BT[:, :-1], (1, 0)).to(z_BTNZ.dtype))
        unseen = (tau_BT == 0).any(0).tolist()
        field = slow = z_BTNZ.new_zeros(len(z_BTNZ), self.tokens.n, self.config.dim)
        previous = torch.zeros_like(z_BTNZ[:, 0])
        before, after = [], []
        for t in range(z_BTNZ.shape[1]):
            field, z = self._evolve(field, slow, condition[:, t]), z_BTNZ[:, t]
            if t >= since:
                before.append((field, previous))
            if unseen[t]:
                z = self._or_imagined(z, tau_BT[:, t], field, previous)
            field, slow = self._write(field, slow, z, previous, tau_BT[:, t])
            after.append(field)
            previous = z
        ahead, last = (torch.stack(values, 1) for values in zip(*before))
        outcome = self.outcome(torch.stack(after, 1).to(self.place.dtype))
        return outcome, lambda z, noise: self._read(ahead, last, z, noise)

    # shared by both

    def _ahead(self, slabs: Slabs, action: Tensor) -> Tensor:
        kept = slabs.scratch.get("ahead")  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action:
            field, slow, level = (slabs.recurrent[name] for name in ("field", "slow", "level"))
            kept = action, self._evolve(field, slow, self.act(action) + self.level(level))
            slabs.scratch["ahead"] = kept
        return kept[1]

    def _evolve(self, field: Tensor, slow: Tensor, condition: Tensor) -> Tensor:
        return self.blocks[0](field, slow + self.place + condition[..., None, :])

    def _or_imagined(self, z: Tensor, tau: Tensor, field: Tensor, previous: Tensor) -> Tensor:
        return torch.where(tau[..., None, None] > 0, z, self._read(field, previous, None, None).to(z.dtype))

    def _write(self, field: Tensor, slow: Tensor, z: Tensor, previous: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.see(torch.cat([z, previous], -1).to(self.place.dtype))
        seen = self.value(seen + self.place + self.level(tau)[..., None, :])
        gate = self.gate(torch.cat([seen, field.to(seen.dtype)], -1)).sigmoid()
        field = torch.lerp(field, seen.to(field.dtype), gate.to(field.dtype))
        return field, torch.lerp(slow, field, self.pace.sigmoid().to(field.dtype).expand_as(field))

    def _read(self, field: Tensor, previous: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        z = self.blank.expand_as(previous) if z is None else z
        drive = self.enter(torch.cat([z, previous], -1).to(self.place.dtype)) + self.place
        if noise is not None:
            drive = drive + (self.tau(noise.tau) + self.d(noise.d))[..., None, :]
        return previous.to(drive.dtype) + self.leave(self.blocks[1](field, drive).to(self.place.dtype))


class _Medium(nn.Module):
    """What a field `(..., N, D)` lives in: `steps` of spreading and of a reaction that `drive` `(..., N, D)` steers."""

    stencils: Tensor

    def __init__(self, c: ReactionDiffusionConfig, tokens: TokenSpec, steps: int):
        super().__init__()
        self.steps, hidden = steps, int(c.mlp * c.dim)
        self.register_buffer("stencils", stencils(tokens.places, c.scales), persistent=False)
        self.table = nn.Parameter(torch.randn(c.groups, 1 + len(self.stencils)))  # logits of staying and of each side
        self.table.data[:, 0] += 2.0
        self.norm, self.drive_norm = RMSNorm(c.dim), RMSNorm(c.dim)
        self.drive = nn.Linear(c.dim, 2 * hidden)
        self.pool = nn.Linear(c.dim, 2 * hidden, bias=False)
        self.react = SwiGLU(c.dim, hidden)
        self.pace = nn.Parameter(torch.zeros(c.dim))

    def spread(self) -> Tensor:
        """Sum up the weighted differences `S_k - 1` for each group of channels, `(groups, N, N)`."""
        weights = self.table.softmax(-1)[:, 1:]
        return (weights @ self.stencils.flatten(1).to(weights.dtype)).unflatten(-1, self.stencils.shape[1:])

    def forward(self, field: Tensor, drive: Tensor) -> Tensor:
        spread, dtype = self.spread(), self.table.dtype
        drive = self.drive(self.drive_norm(drive.to(dtype)))
        for _ in range(self.steps):
            x = self.norm(field.to(dtype))
            a, b = (self.react.enter(x) + drive + self.pool(x.mean(-2, keepdim=True))).chunk(2, -1)
            change = self.pace.sigmoid() * self.react.leave(F.silu(a) * b)
            parts = field.flatten(0, -3).unflatten(-1, (len(spread), -1)).permute(2, 1, 0, 3)  # (groups, N, B, ...)
            moved = (spread @ parts.flatten(2).to(dtype)).unflatten(-1, parts.shape[2:]).permute(2, 1, 0, 3)
            field = field + (moved.reshape(field.shape) + change).to(field.dtype)
        return F.rms_norm(field, field.shape[-1:], None, EPSILON)


def stencils(places: tuple[tuple[float, float], ...], scales: int) -> Tensor:
    """Compute `S_k - 1`, a neighbour minus the token itself, `(sides, N, N)`; a row is zero where there is none."""
    at = torch.tensor(places, dtype=torch.float64)
    step = at[None] - at[:, None]  # of the neighbour (column) from the token (row)
    sides = [[r * 2.0**k, c * 2.0**k] for k in range(scales) for r, c in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    near = ((step - step.new_tensor(sides)[:, None, None]).abs().amax(-1) < 1e-6).float()
    near = near[near.any(-1).any(-1)]
    return near - torch.diag_embed(near.sum(-1))
