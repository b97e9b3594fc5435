"""A memory of a few tokens, read and written once a frame: constant cost, however long the past.

A finished frame enters as tokens x, after one layer of attention. With S_k(V) a summary of tokens V in k tokens,

    read     r = S_reads([memory; x])
    process  o = transformer(r)
    write    memory' = S_slots([memory; o; x])

    S_k(V) = softmax(score_k(norm(V) + place))^T norm(V),  the softmax over the tokens of V

The next frame is predicted by a small transformer over its places, which start from the previous latent (and a noisy
one) and attend to one another, to o and to the memory; the action enters as modulation.

Notable choices
- A frame that was not seen is replaced by the plain prediction of it, in training with its gradient: training is
  sequential in time anyway, and memory then learns to go on without eyes.
- What is summarised is normalised, so that old and new weigh alike and memory stays bounded; each slot's weight on
  itself starts high, and scores start sharp. With even weights all slots are one mean, in which nothing can be found
  again, and what was seen a few frames ago gives no gradient. Memory keeps the precision of its slab.

Ref: Ryoo et al., Token Turing Machines, arXiv 2211.09119, section 3 (read, process, write; token summaries). Differs:
their output is not a next frame, ours is predicted by a network of its own, which sees memory again, with the action;
places enter the scores alone, so that they do not pile up in memory; the normalisation; the bias to keep a slot.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.attention import attend
from ..nn.blocks import ChangeHead, Modulation, OutcomeHead, place_turns
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, RMSNorm, SwiGLU, modulate
from ..nn.rotary import rotate
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics

KEEP = 4.0  # a slot's first weight on itself, as a logit: about half of the whole, with some fifty tokens
SHARP = 3.0  # first spread of scores


@dataclass(frozen=True)
class TokenMemoryConfig:
    """`slots` tokens of memory, `reads` tokens of it a frame; `layers` process these, and as many predict."""

    dim: int = 192
    layers: int = 2
    heads: int = 3
    mlp: float = 3.0
    slots: int = 32
    reads: int = 16

    def __post_init__(self) -> None:
        if self.dim < 1 or self.heads < 1 or self.dim % (4 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 x heads ({self.heads}), for rotary pairs.")
        if self.layers < 1 or self.slots < 1 or self.reads < 1:
            raise ConfigError("layers, slots and reads must be at least 1.")


@register("dynamics", "token_memory")
class TokenMemory(Dynamics):
    """Memory a session: `(slots + reads) * dim` numbers and one latent."""

    Config = TokenMemoryConfig

    def __init__(self, config: TokenMemoryConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        slabs = {
            "memory": SlabSpec((c.slots, c.dim)),
            "read": SlabSpec((c.reads, c.dim)),
            "previous": SlabSpec((tokens.n, tokens.channels)),
            "level": SlabSpec(()),
        }
        self.spec = StateSpec(slabs)
        self.see = nn.Linear(2 * tokens.channels, c.dim)  # a finished frame, beside the one before
        self.enter = nn.Linear(2 * tokens.channels, c.dim)  # a frame to predict
        self.place = nn.Parameter(torch.randn(2, tokens.n, c.dim) * 0.3)  # to predict, seen
        self.blank = nn.Parameter(torch.randn(tokens.n, tokens.channels) * 0.02)  # stands for z when there is none
        self.act = ActionEmbedding(action, c.dim)
        self.tau, self.d, self.level = LevelEmbedding(c.dim), LevelEmbedding(c.dim), LevelEmbedding(c.dim)
        self.stream = nn.Parameter(torch.randn(2, c.dim) * 0.02)  # predict, commit
        self.condition = Modulation(c.dim)
        self.read = _Summary(c.dim, c.slots + tokens.n, c.reads)
        self.write = _Summary(c.dim, c.slots + c.reads + tokens.n, c.slots)
        self.keep = nn.Parameter(torch.full((c.slots,), KEEP))
        self.see_block = _Block(c, reads=False)
        self.process_blocks = nn.ModuleList(_Block(c, reads=False) for _ in range(c.layers))
        self.predict_blocks = nn.ModuleList(_Block(c, reads=True) for _ in range(c.layers))
        self.source = nn.Parameter(torch.randn(c.reads + c.slots, c.dim) * 0.02)  # tells what is attended to apart
        self.leave, self.outcome = ChangeHead(c.dim, tokens.channels), OutcomeHead(c.dim)
        self.register_buffer("turn", place_turns(tokens, c.dim // c.heads), persistent=False)

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        past = slabs.scratch.get("past")  # the same for all denoising steps of a frame
        if not isinstance(past, _Past):
            past = slabs.scratch["past"] = self._past(_Kept.of(slabs))
        return self._predict(past, self.act(action_BW), z_BNZ, noise)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        z = self._seen(z_BNZ, tau_B, self.predict(slabs, action_BW))
        told, mods = self._told(self.act(action_BW), tau_B)
        x = self._look(z, slabs.recurrent["previous"], told, mods)
        kept = self._commit(_Kept.of(slabs), x, z, tau_B, mods)
        return slabs.append({}, vars(kept)), self._outcome(kept.read)

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. Memory is written frame by frame; then all frames are predicted at once."""
        action, unseen = self.act(action_BTW), bool((tau_BT == 0).any())
        told, mods = self._told(action, tau_BT)
        x = None if unseen else self._look(z_BTNZ, F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0)), told, mods)
        kept = [_Kept(**{n: z_BTNZ.new_zeros(len(z_BTNZ), *s.shape) for n, s in self.spec.slabs.items()})]
        for t in range(z_BTNZ.shape[1]):
            z, tau = z_BTNZ[:, t], tau_BT[:, t]
            if x is None:
                z = self._seen(z, tau, self._predict(self._past(kept[t]), action[:, t], None, None))
                now = self._look(z, kept[t].previous, told[:, t], mods[:, t])
            else:
                now = x[:, t]
            kept.append(self._commit(kept[t], now, z, tau, mods[:, t]))
        past = self._past(
            _Kept(**{n: torch.stack([getattr(k, n) for k in kept[since:-1]], 1) for n in self.spec.slabs})
        )
        outcome = self._outcome(torch.stack([k.read for k in kept[1:]], 1))
        return outcome, lambda z, noise: self._predict(past, action[:, since:], z, noise)

    # shared by both

    def _seen(self, z: Tensor, tau: Tensor, plain: Tensor) -> Tensor:
        return torch.where(tau[..., None, None] == 0, plain.to(z.dtype), z)

    def _told(self, action: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """What a finished frame's tokens are told, `(..., D)`, and the modulation of the blocks that process them."""
        told = action + self.level(tau) + self.stream[1]
        return told, self._mods(told)

    def _mods(self, condition: Tensor) -> Tensor:
        return self.condition(condition, condition.dtype)

    def _look(self, z: Tensor, previous: Tensor, told: Tensor, mods: Tensor) -> Tensor:
        x = self.see(torch.cat([z, previous], -1).to(self.place.dtype)) + self.place[1] + told.unsqueeze(-2)
        return self.see_block(x, mods, turn=self.turn)

    def _commit(self, kept: _Kept, x: Tensor, z: Tensor, tau: Tensor, mods: Tensor) -> _Kept:
        memory, x = kept.memory, x.to(kept.memory.dtype)
        o = self.read(torch.cat([memory, x], -2))
        for block in self.process_blocks:
            o = block(o, mods)
        o = o.to(memory.dtype)
        memory = self.write(torch.cat([memory, o, x], -2), self.keep)
        return _Kept(memory, o, z.to(kept.previous.dtype), tau.to(kept.level.dtype))

    def _past(self, kept: _Kept) -> _Past:
        tokens = torch.cat([kept.read, kept.memory], -2) + self.source.to(kept.read.dtype)
        kv = [block.remember(tokens) for block in self.predict_blocks]  # pyright: ignore[reportCallIssue]
        return _Past(kept.previous, self.level(kept.level), kv)

    def _predict(self, past: _Past, action: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        z = self.blank.expand_as(past.previous) if z is None else z
        dtype = self.place.dtype
        x = self.enter(torch.cat([z.to(dtype), past.previous.to(dtype)], -1)) + self.place[0]
        condition = action + past.level + self.stream[0]
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        mods = self._mods(condition)
        for block, kv in zip(self.predict_blocks, past.kv):
            x = block(x, mods, kv, self.turn)
        # What changes is small: the network starts as "nothing moves" and learns the difference.
        return past.previous.to(x.dtype) + self.leave(x)

    def _outcome(self, read: Tensor) -> Outcome:
        return self.outcome(read.to(self.place.dtype))


@dataclass(frozen=True)
class _Kept:
    """The slabs, `(..., *shape)`: `level` is the previous frame's."""

    memory: Tensor
    read: Tensor
    previous: Tensor
    level: Tensor

    @classmethod
    def of(cls, slabs: Slabs) -> _Kept:
        """Read them, whatever else an engine keeps beside them."""
        return cls(**{f.name: slabs.recurrent[f.name] for f in fields(cls)})


@dataclass(frozen=True)
class _Past:
    """What predicting reads: the previous latent, its level embedded, and each block's keys and values."""

    previous: Tensor
    level: Tensor
    kv: list[tuple[Tensor, Tensor]]


class _Summary(nn.Module):
    """Weighted means of `count` normalised tokens, `(..., count, D)` -> `(..., out, D)`."""

    def __init__(self, dim: int, count: int, out: int):
        super().__init__()
        self.norm = RMSNorm(dim)
        self.place = nn.Parameter(torch.randn(count, dim))
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, out))
        nn.init.normal_(self.score[2].weight, std=SHARP * dim**-0.5)  # pyright: ignore[reportArgumentType]

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Summarise; `keep` `(out,)` favours the first `out` tokens, each for its own mean."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = self.norm(tokens)
        place = self.place.to(tokens.dtype)
        score = self.score((tokens + place).to(place.dtype)).transpose(-1, -2)
        if keep is not None:
            score = score + F.pad(keep.diag(), (0, score.shape[-1] - len(keep)))
        with torch.autocast(tokens.device.type, enabled=False):  # a mean of means of means: errors would add up
            return score.to(tokens.dtype).softmax(-1) @ tokens


class _Block(nn.Module):
    """Attention among tokens and, if it `reads`, to what is remembered, in one softmax; then the feed-forward layer."""

    def __init__(self, c: TokenMemoryConfig, reads: bool):
        super().__init__()
        self.heads = c.heads
        self.norm1, self.norm2 = RMSNorm(c.dim), RMSNorm(c.dim)
        self.qkv = nn.Linear(c.dim, 3 * c.dim, bias=False)
        self.qn, self.kn = RMSNorm(c.dim // c.heads), RMSNorm(c.dim // c.heads)
        self.out = nn.Linear(c.dim, c.dim, bias=False)
        self.mlp = SwiGLU(c.dim, max(16, int(c.mlp * c.dim * 2 / 3) // 16 * 16))
        self.table = nn.Parameter(torch.zeros(6, c.dim))
        self.table.data[2::3] = 0.5  # open the gates a little: deep signal from the first step
        if reads:
            self.norm_kv = RMSNorm(c.dim)
            self.kv = nn.Linear(c.dim, 2 * c.dim, bias=False)

    def remember(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values of remembered tokens, `(..., H, n, d)`."""
        kv = self.kv(self.norm_kv(tokens.to(self.table.dtype)))
        k, v = kv.unflatten(-1, (2, self.heads, -1)).transpose(-4, -2).unbind(-3)
        return self.kn(k), v

    def forward(
        self, x: Tensor, mods: Tensor, past: tuple[Tensor, Tensor] | None = None, turn: Tensor | None = None
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (mods.to(x.dtype) + self.table.to(x.dtype)).unbind(-2)
        qkv = self.qkv(modulate(self.norm1(x), shift1, scale1)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.transpose(-4, -2).unbind(-3)  # (..., H, n, d)
        q, k = self.qn(q), self.kn(k)
        if turn is not None:  # by the tokens' places; what is remembered has none
            q, k = rotate(q, turn), rotate(k, turn)
        if past is not None:
            k, v = torch.cat([k, past[0]], -2), torch.cat([v, past[1]], -2)
        x = torch.addcmul(x, gate1, self.out(attend(q, k, v).transpose(-3, -2).flatten(-2)).to(x.dtype))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)).to(x.dtype))
