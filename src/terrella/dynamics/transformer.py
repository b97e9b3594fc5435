"""Block-causal space-time transformer: full attention inside a frame, attention to past frames in every fourth layer.

Notable choices
- Two streams share all weights. The *commit* stream carries finished frames at a low, known noise level and writes keys
  and values; the *predict* stream carries noisy frames and reads the keys of strictly earlier ones. Training therefore
  meets exactly what stepping meets, at every frame of a clip; per-frame independent noise levels (diffusion forcing)
  meet it only in one corner.
- The commit stream ends after the last layer that attends over time; nothing later of it is ever read.
- Each token also sees the previous frame's latent at its place, so that motion needs no search.
- Keys rest without rotation and are turned by their age when read, so positions stay bounded. Sinks have one fixed age.
- One modulation network for all layers, with a small table a layer.
- With `history`, a few frames that left the window are fetched by similarity (`terrella.nn.history`). With `memory`,
  stepping keeps frames by a policy within a fixed budget (`terrella.nn.kv_store`); training is the same.

Ref: Hafner et al., Dreamer 4, arXiv 2509.24527, section 3 (axial attention, sparse in time; QK-norm, RMSNorm, SwiGLU);
Peebles & Xie, arXiv 2212.09748 (adaLN); Chen et al., PixArt-alpha, arXiv 2310.00426 (one modulation for all layers);
Yang et al., LongLive, arXiv 2509.22622 (keys kept unrotated); Xiao et al., arXiv 2309.17453 (sinks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.blocks import ChangeHead, FrameBlock, Modulation, OutcomeHead, place_turns
from ..nn.history import Fetched, History
from ..nn.kv_policies import Memory
from ..nn.kv_store import SlotPast, SlotStore
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, RMSNorm
from ..nn.past import ClipPast, PairPast, SlabPast, age_turns, newer_past
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics


@dataclass(frozen=True)
class TransformerConfig:
    """Size of the backbone. `every`: one layer in so many attends over time, beginning with the second.

    history: 0, or how many frames are kept to fetch `fetch` of them a frame once they have left the window; one frame
    in `stride` is kept. Training must show clips longer than the window, or fetching is never learned.
    memory: None, or which frames stepping keeps in place of the last `window`; weights and training do not know of it.
    """

    dim: int = 192
    layers: int = 4
    heads: int = 3
    mlp: float = 3.0
    every: int = 4
    window: int = 16
    sinks: int = 1
    history: int = 0
    fetch: int = 4
    stride: int = 1
    memory: Memory | None = None

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 x heads ({self.heads}), for rotary pairs.")
        if self.layers < 1 or self.every < 1 or self.window < 1 or self.sinks < 0:
            raise ConfigError("layers, every and window must be at least 1, sinks at least 0.")
        if self.history < 0 or self.fetch < 1 or self.stride < 1:
            raise ConfigError("history must be at least 0, fetch and stride at least 1.")
        if self.history and (self.fetch > self.history or self.history * self.stride <= self.window):
            raise ConfigError(
                f"history ({self.history}) must be at least fetch ({self.fetch}), and history x stride "
                f"({self.history * self.stride}) more than window ({self.window}): what is in it is not fetched."
            )
        if self.history and self.memory is not None:
            raise ConfigError("a world with a history cannot step with a memory policy: history relies on the window.")


@register("dynamics", "transformer")
class Transformer(Dynamics):
    """The default backbone.

    Memory a session: `2 * layers/every * (window + sinks + history) * N * dim` numbers and one latent. What belongs to
    `history` is copied for each branch of a fork; the window is shared. With a memory policy, see `SlotStore`.
    """

    Config = TransformerConfig
    layered: ClassVar[bool] = True
    turn: Tensor
    ages: Tensor

    def __init__(self, config: TransformerConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        self.temporal = [i for i in range(c.layers) if i % c.every == min(1, c.layers - 1, c.every - 1)]
        self.depth = self.temporal[-1] + 1  # layers that the commit stream passes
        head = c.dim // c.heads
        framed = SlabSpec((len(self.temporal), tokens.n, c.heads, c.window + c.sinks, head), frame_axis=3)
        slabs = {"previous": SlabSpec((tokens.n, tokens.channels)), "level": SlabSpec(())}

        self.enter = nn.Linear(2 * tokens.channels, c.dim)
        self.place = nn.Parameter(torch.randn(tokens.n, c.dim) * 0.02)
        self.blank = nn.Parameter(torch.randn(tokens.n, tokens.channels) * 0.02)  # stands for z when there is none
        self.act = ActionEmbedding(action, c.dim)
        self.tau, self.d, self.level = LevelEmbedding(c.dim), LevelEmbedding(c.dim), LevelEmbedding(c.dim)
        self.stream = nn.Parameter(torch.randn(2, c.dim) * 0.02)  # predict, commit
        self.condition = Modulation(c.dim)
        self.blocks = nn.ModuleList(_Block(c, i in self.temporal) for i in range(c.layers))
        self.leave, self.outcome = ChangeHead(c.dim, tokens.channels), OutcomeHead(c.dim)
        self.register_buffer("turn", place_turns(tokens, head), persistent=False)
        self.register_buffer("ages", age_turns(c.window, head), persistent=False)
        self.history = _history(c, tokens, len(self.temporal)) if c.history else None
        self.store = None
        if c.memory is None:
            slabs = {"keys": framed, "values": framed, **slabs, **(self.history.slabs if self.history else {})}
            self.spec = StateSpec(slabs, c.window, c.sinks)
        else:
            sizes = {"layers": len(self.temporal), "places": tokens.n, "heads": c.heads, "head": head}
            self.store = SlotStore(c.memory, **sizes, window=c.window, sinks=c.sinks)
            self.spec = StateSpec({**slabs, **self.store.slabs})
            self.memory, self.agrees = self.store.memory, self.store.agrees

    # one frame

    def predict(
        self,
        slabs: Slabs,
        action_BW: Tensor,
        z_BNZ: Tensor | None = None,
        noise: Noise | None = None,
        extra_BND: Tensor | None = None,
    ) -> Tensor:
        """See `Dynamics.predict`.

        extra: what something else knows, for each token; it is added to them, and its mean to the frame's condition.
        """
        previous = slabs.recurrent["previous"]
        x, mods = self._enter(z_BNZ, previous, self._step_condition(slabs, action_BW), noise, 0, extra_BND)
        fetched = self._fetched(slabs, action_BW, extra_BND)
        return self._leave(self._through(x, mods, slabs, fetched), previous)

    def begin(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """See `Dynamics.begin`."""
        previous = slabs.recurrent["previous"]
        x, mods = self._enter(z_BNZ, previous, self._step_condition(slabs, action_BW), noise, 0, None)
        fetched = self._fetched(slabs, action_BW, None)
        first = self._through(x, mods, slabs, fetched, 0, 1)
        return first - x, lambda: self._leave(self._through(first, mods, slabs, fetched, 1), previous)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        written, recurrent, outcome = self.write(slabs, action_BW, z_BNZ, tau_B)
        return slabs.append(written, recurrent), outcome

    def write(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor, extra_BND: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Outcome]:
        """Compute what `commit` appends, framed and recurrent, and the outcome. extra: as in `predict`."""
        noise = Noise(tau_B, torch.zeros_like(tau_B))
        condition = self._step_condition(slabs, action_BW)
        x, mods = self._enter(z_BNZ, slabs.recurrent["previous"], condition, noise, 1, extra_BND)
        fetched = self._fetched(slabs, action_BW, extra_BND)
        keys, values = [], []
        for i, block in enumerate(self._layers()[: self.depth]):
            if i in self.temporal:
                k, v = block.past_kv(x)
                keys.append(k)
                values.append(v)
            x = block(x, mods, self.turn, self._past(slabs, i, fetched))
        written = {"keys": torch.stack(keys, 1), "values": torch.stack(values, 1)}
        recurrent = {"previous": z_BNZ, "level": tau_B}
        if self.store is not None:
            if self.store.rule.looks == "blind":
                self._look(slabs, condition, extra_BND)
            pasts = [self.store.past(slabs, i, self.ages) for i in range(len(keys))]
            return {}, recurrent | self.store.keep(slabs, written["keys"], written["values"], pasts), self.outcome(x)
        if self.history is not None:
            known = _with_extra(condition, extra_BND)
            told = self.history.tell(slabs.recurrent["previous"], known, z_BNZ, tau_B)
            recurrent |= self.history.keep(slabs.recurrent, slabs.time, written["keys"], written["values"], told)
        return written, recurrent, self.outcome(x)

    def commit_and_predict(
        self,
        slabs: Slabs,
        action_BW: Tensor,
        z_BNZ: Tensor,
        tau_B: Tensor,
        next_BW: Tensor,
        noisy_BNZ: Tensor | None,
        noise: Noise | None,
    ) -> tuple[Slabs, Outcome, Tensor]:
        """See `Dynamics.commit_and_predict`. Both streams pass the layers side by side, as twice the batch."""
        if self.history is not None or self.store is not None:
            return super().commit_and_predict(slabs, action_BW, z_BNZ, tau_B, next_BW, noisy_BNZ, noise)
        clean = Noise(tau_B, torch.zeros_like(tau_B))
        condition = self._step_condition(slabs, action_BW)
        written = self._enter(z_BNZ, slabs.recurrent["previous"], condition, clean, 1, None)
        entered = self._enter(noisy_BNZ, z_BNZ, self.act(next_BW) + self.level(tau_B), noise, 0, None)
        x, mods = (torch.cat(pair) for pair in zip(written, entered))
        batch, keys, values = len(z_BNZ), [], []
        for i, block in enumerate(self._layers()[: self.depth]):
            past = None
            if i in self.temporal:
                k, v = block.past_kv(x[:batch])
                now = self._past(slabs, i, None)
                past = PairPast(now, newer_past(slabs, len(keys), self.ages, k, v))  # pyright: ignore[reportArgumentType]
                keys.append(k)
                values.append(v)
            x = block(x, mods, self.turn, past)
        outcome, x = self.outcome(x[:batch]), x[batch:]
        for block in self._layers()[self.depth :]:
            x = block(x, mods[batch:], self.turn, None)
        framed = {"keys": torch.stack(keys, 1), "values": torch.stack(values, 1)}
        after = slabs.append(framed, {"previous": z_BNZ, "level": tau_B})
        return after, outcome, self._leave(x, z_BNZ)

    # whole clips

    def parallel(
        self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0, extra_BTND: Tensor | None = None
    ) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. The commit stream runs once; its keys serve every call of the returned function.

        extra: as in `predict`.
        """
        previous = F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0))
        condition = self.act(action_BTW) + self.level(F.pad(tau_BT[:, :-1], (1, 0)))
        noise = Noise(tau_BT, torch.zeros_like(tau_BT))
        x, mods = self._enter(z_BTNZ, previous, condition, noise, 1, extra_BTND)
        chosen = None
        if self.history is not None:
            known = _with_extra(condition, extra_BTND)
            told = self.history.tell(previous, known, z_BTNZ, tau_BT)
            chosen = self.history.choose(self.history.ask(previous, known), told, z_BTNZ, tau_BT)
        past: dict[int, ClipPast] = {}
        for i, block in enumerate(self._layers()[: self.depth]):
            if i in self.temporal:
                k, v = block.past_kv(x)
                fetched = self.history.read(len(past), k, v, chosen) if self.history is not None else None
                past[i] = ClipPast(k, v, self.config.window, self.config.sinks, fetched)
            x = block(x, mods, self.turn, past.get(i))
        outcome = self.outcome(x)
        outcome = outcome if chosen is None else replace(outcome, extra=chosen.miss)

        previous, condition = previous[:, since:], condition[:, since:]
        extra = None if extra_BTND is None else extra_BTND[:, since:]
        late = {i: p.since(since) for i, p in past.items()}

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            x, mods = self._enter(z, previous, condition, noise, 0, extra)
            for i, block in enumerate(self._layers()):
                x = block(x, mods, self.turn, late.get(i))
            return self._leave(x, previous)

        return outcome, predict

    # shared by both

    def _layers(self) -> list[_Block]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]

    def _through(
        self,
        x: Tensor,
        mods: Tensor,
        slabs: Slabs,
        fetched: list[Fetched] | None,
        since: int = 0,
        until: int | None = None,
    ) -> Tensor:
        for i, block in enumerate(self._layers()[since:until], since):
            x = block(x, mods, self.turn, self._past(slabs, i, fetched))
        return x

    def _enter(
        self,
        z: Tensor | None,
        previous: Tensor,
        condition: Tensor,
        noise: Noise | None,
        stream: int,
        extra: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = self.place.dtype
        z = self.blank.expand_as(previous) if z is None else z
        x = self.enter(torch.cat([z.to(dtype), previous.to(dtype)], -1))
        x = x + self.place.to(x.dtype)
        condition = condition + self.stream[stream]
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        x = x if extra is None else x + extra.to(x.dtype)
        return x, self.condition(_with_extra(condition, extra), x.dtype)

    def _step_condition(self, slabs: Slabs, action: Tensor) -> Tensor:
        kept = slabs.scratch.get((self.name, "condition"))  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action:
            kept = action, self.act(action) + self.level(slabs.recurrent["level"])
            slabs.scratch[self.name, "condition"] = kept
        return kept[1]

    def _leave(self, x: Tensor, previous: Tensor) -> Tensor:
        # What changes is small: the network starts as "nothing moves" and learns the difference.
        return previous.to(x.dtype) + self.leave(x)

    def _look(self, slabs: Slabs, condition: Tensor, extra: Tensor | None) -> None:
        # Tokens of which nothing is known yet look at the past, so that its slots are scored by them.
        previous, none = slabs.recurrent["previous"], torch.zeros_like(slabs.recurrent["level"])
        x, mods = self._enter(torch.zeros_like(previous), previous, condition, Noise(none, none), 0, extra)
        for i, block in enumerate(self._layers()[: self.depth]):
            x = block(x, mods, self.turn, self._past(slabs, i, None))

    def _past(self, slabs: Slabs, layer: int, fetched: list[Fetched] | None) -> SlabPast | SlotPast | None:
        if layer not in self.temporal:
            return None
        index = self.temporal.index(layer)
        if self.store is not None:
            return self.store.past(slabs, index, self.ages)
        past = slabs.scratch.get(layer)
        if not isinstance(past, SlabPast):  # the same for all denoising steps of a frame
            past = slabs.scratch[layer] = SlabPast(slabs, index, self.ages)
        return past if fetched is None else past.beside(fetched[index])

    def _fetched(self, slabs: Slabs, action: Tensor, extra: Tensor | None) -> list[Fetched] | None:
        if self.history is None:
            return None
        kept = slabs.scratch.get((self.name, "fetched"))  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action or kept[1] is not extra:
            known = _with_extra(self._step_condition(slabs, action), extra)
            asked = self.history.ask(slabs.recurrent["previous"], known)
            kept = action, extra, self.history.fetch(slabs.recurrent, asked)
            slabs.scratch[self.name, "fetched"] = kept
        return kept[2]


def _history(c: TransformerConfig, tokens: TokenSpec, layers: int) -> History:
    return History(
        tokens,
        dim=c.dim,
        heads=c.heads,
        layers=layers,
        window=c.window,
        sinks=c.sinks,
        size=c.history,
        fetch=c.fetch,
        stride=c.stride,
    )


def _with_extra(condition: Tensor, extra: Tensor | None) -> Tensor:
    return condition if extra is None else condition + extra.mean(-2)


Past = SlabPast | SlotPast | PairPast | ClipPast


class _Block(FrameBlock):
    """Attention over the frame's tokens, then over past frames at the same place, then the feed-forward layer."""

    def __init__(self, c: TransformerConfig, temporal: bool):
        super().__init__(c.dim, c.heads, c.mlp)
        head = c.dim // c.heads
        if temporal:
            self.norm_t = RMSNorm(c.dim)
            self.q_t = nn.Linear(c.dim, c.dim, bias=False)
            self.kv_t = nn.Linear(c.dim, 2 * c.dim, bias=False)
            self.qn_t, self.kn_t = RMSNorm(head), RMSNorm(head)
            self.out_t = nn.Linear(c.dim, c.dim, bias=False)
            self.null = nn.Parameter(torch.randn(2, c.heads, head) * 0.02)  # read when the past is empty

    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: Past | None) -> Tensor:
        own = self.modulation(x, mods)
        x = self.attend(x, own, turn)
        if past is not None:
            q = self.qn_t(self.q_t(self.norm_t(x)).unflatten(-1, (self.heads, -1)))
            x = x + self.out_t(past.read(q, self.null.to(x.dtype)).flatten(-2))
        return self.feed(x, own)

    def past_kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what this layer remembers of a frame: keys (unrotated) and values, `(..., N, H, d)`."""
        k, v = self.kv_t(self.norm_t(x)).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return self.kn_t(k), v
