"""Recurrent state-space model: a deterministic path that remembers, and a categorical state that says what happened.

With `h` the deterministic and `s` the stochastic state, `z_t` the frame and `a_{t-1}` the action that leads to it:

    h_t = GRU(h_{t-1}, s_{t-1}, a_{t-1})     prior p(s_t | h_t)     posterior q(s_t | h_t, z_t)
    z_t = z_{t-1} + readout(h_t, s_t, z_{t-1})

A frame that was seen enters through the posterior. For one that was not (signal level 0) the prior's state and its own
readout stand in: committing it is imagination, and what a session remembers is what it was shown.

Notable choices
- Beside the decoder's loss, which goes through the prior, the backbone has its own (`Outcome.extra`): what the readout
  makes of the posterior against the frame, and KL(sg q || p) and KL(q || sg p), each at least `free_bits` nats, divided
  by the numbers of a frame because the latent loss is a mean over them.
- The frame given may be noisy: `z = tau x + (1 - tau) noise`. So `tau x_hat` is held against it, whose best x_hat is
  the clean frame still.

Ref: Hafner et al., DreamerV3, arXiv 2301.04104, eqs. 1-3 (the model, KL balance, free bits, 1% uniform mixture,
block-diagonal GRU). Differs: the state is not a sample but its distribution, the probabilities themselves. Chance would
need a stream of its own in the memory, and a mode jumps where two classes are near, so that forks, other batch sizes
and lower precision would part. The readout adds to the last latent, and its tokens share their weights and see one
another, as in the other backbones here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.blocks import ChangeHead, FrameBlock, Modulation, begin_uneventful, place_turns
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, Narrow, RMSNorm
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics

SQUEEZE = 16  # numbers of each token that the posterior reads


@dataclass(frozen=True)
class RSSMConfig:
    """Size of the backbone, and the weights of its own loss.

    dim: of the deterministic path, in `blocks` blocks. groups, classes: of the stochastic state. hidden: units of the
    networks between them. width, layers, heads, mlp: of the readout, a small transformer inside the frame.
    """

    dim: int = 512
    blocks: int = 8
    groups: int = 32
    classes: int = 16
    hidden: int = 256
    width: int = 192
    layers: int = 2
    heads: int = 3
    mlp: float = 3.0
    unimix: float = 0.01
    free_bits: float = 1.0
    beta_pred: float = 1.0
    beta_dyn: float = 1.0
    beta_rep: float = 0.1

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.dim < 1 or self.dim % self.blocks:
            raise ConfigError(
                f"dim {self.dim} must be a multiple of blocks ({self.blocks}), for the block-diagonal GRU."
            )
        if self.heads < 1 or self.width < 1 or self.width % (4 * self.heads):
            raise ConfigError(f"width {self.width} must be a multiple of 4 x heads ({self.heads}), for rotary pairs.")
        if min(self.groups, self.hidden, self.layers) < 1 or self.classes < 2:
            raise ConfigError("groups, hidden and layers must be at least 1, classes at least 2.")
        if not 0 < self.unimix < 1:
            raise ConfigError(f"unimix is {self.unimix}; it must lie in (0, 1), so that no class is impossible.")
        if min(self.free_bits, self.beta_pred, self.beta_dyn, self.beta_rep) < 0:
            raise ConfigError("free_bits and the betas must be at least 0.")


@register("dynamics", "rssm")
class RSSM(Dynamics):
    """The recurrent state-space model.

    Memory a session: `dim + groups * classes` numbers and one latent.
    """

    Config = RSSMConfig
    recurrent: ClassVar[tuple[str, ...]] = ("core.",)

    def __init__(self, config: RSSMConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        state = c.groups * c.classes
        latent = SlabSpec((tokens.n, tokens.channels))
        self.spec = StateSpec({"deter": SlabSpec((c.dim,)), "stoch": SlabSpec((state,)), "previous": latent})
        self.act = ActionEmbedding(action, c.hidden)
        self.encoder = _Encoder(c, tokens)
        self.core = _BlockGRU(c, state)
        self.prior = _Network(c.dim, c.hidden, state)
        self.posterior = _Network(c.dim + c.hidden, c.hidden, state)
        self.readout = _Readout(c, state, tokens)
        self.outcome = _Network(c.dim + state, c.hidden, 2)
        begin_uneventful(self.outcome.blocks[1])

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        h, prior = self._step(slabs, action_BW)
        return self.readout(h, prior, slabs.recurrent["previous"], z_BNZ, noise)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        h, prior = self._step(slabs, action_BW)
        posterior = self._see(h, self.encoder(z_BNZ, tau_B))
        s, z = self._or_imagine(h, prior, posterior, slabs.recurrent["previous"], z_BNZ, tau_B)
        kept = {"deter": h, "stoch": s, "previous": z}
        return slabs.append({}, {k: v.to(slabs.recurrent[k].dtype) for k, v in kept.items()}), self._outcome(h, s)

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. The states follow one another; everything else is done for all frames at once."""
        action, seen = self.act(action_BTW), self.encoder(z_BTNZ, tau_BT)
        unseen = (tau_BT == 0).any(0).tolist()
        slabs = self.spec.slabs
        h, s, z = (z_BTNZ.new_zeros(len(z_BTNZ), *slabs[name].shape) for name in ("deter", "stoch", "previous"))
        frames = []
        for t in range(z_BTNZ.shape[1]):
            previous = z
            h = self.core(h, s, action[:, t])
            prior = self._probabilities(self.prior(h))
            s, z = posterior, z = self._see(h, seen[:, t]), z_BTNZ[:, t]
            if unseen[t]:
                s, z = self._or_imagine(h, prior, posterior, previous, z, tau_BT[:, t])
            frames.append((h, prior, posterior, s, previous))
        h, prior, posterior, s, previous = (torch.stack(values, 1) for values in zip(*frames))
        extra = self._loss(self.readout(h, posterior, previous), prior, posterior, z_BTNZ, tau_BT)
        ahead = h[:, since:], prior[:, since:], previous[:, since:]
        return replace(self._outcome(h, s), extra=extra), lambda z, noise: self.readout(*ahead, z, noise)

    # shared by both

    def _step(self, slabs: Slabs, action: Tensor) -> tuple[Tensor, Tensor]:
        kept = slabs.scratch.get("ahead")  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action:
            h = self.core(slabs.recurrent["deter"], slabs.recurrent["stoch"], self.act(action))
            kept = action, h, self._probabilities(self.prior(h))
            slabs.scratch["ahead"] = kept
        return kept[1], kept[2]

    def _see(self, h: Tensor, seen: Tensor) -> Tensor:
        return self._probabilities(self.posterior(torch.cat([h.to(seen.dtype), seen], -1)))

    def _or_imagine(
        self, h: Tensor, prior: Tensor, posterior: Tensor, previous: Tensor, z: Tensor, tau: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take posterior and frame where it was seen, and where not the prior and what it looks like."""
        seen, imagined = (tau > 0)[:, None], self.readout(h, prior, previous)
        return torch.where(seen, posterior, prior), torch.where(seen[..., None], z, imagined.to(z.dtype))

    def _probabilities(self, logits: Tensor) -> Tensor:
        c = self.config
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(-1, (c.groups, c.classes))
        return ((1 - c.unimix) * wide.softmax(-1) + c.unimix / c.classes).flatten(-2)

    def _outcome(self, h: Tensor, s: Tensor) -> Outcome:
        reward, end = self.outcome(torch.cat([h, s.to(h.dtype)], -1)).unbind(-1)
        return Outcome(reward, end)

    def _loss(self, x: Tensor, prior: Tensor, posterior: Tensor, z: Tensor, tau: Tensor) -> Tensor:
        """Compute the backbone's own loss of each frame, `(B, T)`; a frame that was not seen has none."""
        c = self.config
        error = (tau[..., None, None] * x.float() - z.float()).square().mean((-1, -2))
        divergence = c.beta_dyn * _divergence(posterior.detach(), prior).clamp(min=c.free_bits)
        divergence = divergence + c.beta_rep * _divergence(posterior, prior.detach()).clamp(min=c.free_bits)
        return torch.where(tau > 0, c.beta_pred * error + divergence / z[0, 0].numel(), 0.0)


def _divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) in nats, summed over independent groups, whose classes all lie on the last axis."""
    return (q * (q.log() - p.log())).sum(-1)


class _Network(nn.Module):
    """Two layers; `blocks` is how the optimiser knows the matrices inside a backbone."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(inputs, hidden), Narrow(hidden, outputs)])
        self.norm = RMSNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.norm.weight
        return self.blocks[1](F.silu(self.norm(self.blocks[0](x.to(weight.dtype)))))


class _BlockGRU(nn.Module):
    """A gated recurrent unit whose state is cut into blocks: each reads itself and a summary of all, `h` -> `h`."""

    def __init__(self, c: RSSMConfig, state: int):
        super().__init__()
        self.count, size = c.blocks, c.dim // c.blocks
        self.blocks = nn.ModuleList(nn.Linear(inputs, c.hidden) for inputs in (c.dim, state, c.hidden))
        self.norms = nn.ModuleList(RMSNorm(c.hidden) for _ in self.blocks)
        self.mix = _BlockLinear(c.blocks, size + 3 * c.hidden, size)
        self.norm = RMSNorm(c.dim)
        self.gates = _BlockLinear(c.blocks, size, 3 * size)

    def forward(self, h: Tensor, s: Tensor, action: Tensor) -> Tensor:
        dtype = self.norm.weight.dtype
        parts = zip(self.blocks, self.norms, (h, s, action))
        summary = torch.cat([F.silu(norm(linear(x.to(dtype)))) for linear, norm, x in parts], -1)
        own = h.unflatten(-1, (self.count, -1))
        x = torch.cat([own.to(summary.dtype), summary[:, None].expand(-1, self.count, -1)], -1)
        x = F.silu(self.norm(self.mix(x).flatten(-2))).unflatten(-1, (self.count, -1))
        reset, candidate, update = self.gates(x).to(h.dtype).chunk(3, -1)
        update = (update - 1).sigmoid()  # keeps, until it learns to write
        return torch.lerp(own, torch.tanh(reset.sigmoid() * candidate), update).flatten(-2)


class _BlockLinear(nn.Module):
    """A linear layer for each block, `(B, blocks, inputs)` -> `(B, blocks, outputs)`."""

    def __init__(self, blocks: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(blocks, inputs, outputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(blocks, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (x.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias


class _Encoder(nn.Module):
    """A frame and its signal level in one vector: `(..., N, Z)` -> `(..., hidden)`, a few numbers from each token."""

    def __init__(self, c: RSSMConfig, tokens: TokenSpec):
        super().__init__()
        self.enter = nn.Linear(tokens.channels, c.width)
        self.place = nn.Parameter(torch.randn(tokens.n, c.width) * 0.02)
        self.level = LevelEmbedding(c.width)
        self.norm = RMSNorm(c.width)
        self.blocks = nn.ModuleList([nn.Linear(c.width, SQUEEZE), nn.Linear(tokens.n * SQUEEZE, c.hidden)])

    def forward(self, z: Tensor, tau: Tensor) -> Tensor:
        x = self.enter(z.to(self.place.dtype)) + self.place + self.level(tau)[..., None, :]
        return self.blocks[1](self.blocks[0](F.silu(self.norm(x))).flatten(-2))


class _Readout(nn.Module):
    """From the states and the last latent to the next one; the noisy frame, if there is one, is seen only here."""

    turn: Tensor

    def __init__(self, c: RSSMConfig, state: int, tokens: TokenSpec):
        super().__init__()
        self.enter = nn.Linear(2 * tokens.channels, c.width)
        self.place = nn.Parameter(torch.randn(tokens.n, c.width) * 0.02)
        self.blank = nn.Parameter(torch.randn(tokens.n, tokens.channels) * 0.02)  # stands for z when there is none
        self.spread = nn.Linear(c.dim + state, c.width)
        self.tau, self.d = LevelEmbedding(c.width), LevelEmbedding(c.width)
        self.condition = Modulation(c.width)
        self.blocks = nn.ModuleList(_Layer(c.width, c.heads, c.mlp) for _ in range(c.layers))
        self.leave = ChangeHead(c.width, tokens.channels)
        self.register_buffer("turn", place_turns(tokens, c.width // c.heads), persistent=False)

    def forward(
        self, h: Tensor, s: Tensor, previous: Tensor, z: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        dtype = self.place.dtype
        previous = previous.to(dtype)
        z = self.blank.expand_as(previous) if z is None else z.to(dtype)
        condition = self.spread(torch.cat([h.to(dtype), s.to(dtype)], -1))
        x = self.enter(torch.cat([z, previous], -1))
        x = x + self.place.to(x.dtype) + condition[..., None, :]
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        mods = self.condition(condition, x.dtype)
        for block in self.blocks:
            x = block(x, mods, self.turn, None)
        return previous + self.leave(x)


class _Layer(FrameBlock):
    """A layer of the readout; it has no past of its own."""

    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: None) -> Tensor:
        del past
        own = self.modulation(x, mods)
        return self.feed(self.attend(x, own, turn), own)
