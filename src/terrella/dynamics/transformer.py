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

Ref: Hafner et al., Dreamer 4, arXiv 2509.24527, section 3 (axial attention, sparse in time; QK-norm, RMSNorm, SwiGLU);
Peebles & Xie, arXiv 2212.09748 (adaLN); Chen et al., PixArt-alpha, arXiv 2310.00426 (one modulation for all layers);
Yang et al., LongLive, arXiv 2509.22622 (keys kept unrotated); Xiao et al., arXiv 2309.17453 (sinks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.blocks import ChangeHead, FrameBlock, Modulation, OutcomeHead, place_turns
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, RMSNorm
from ..nn.rotary import rotate, rotation
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics


@dataclass(frozen=True)
class TransformerConfig:
    """Size of the backbone. `every`: one layer in so many attends over time, beginning with the second."""

    dim: int = 192
    layers: int = 4
    heads: int = 3
    mlp: float = 3.0
    every: int = 4
    window: int = 16
    sinks: int = 1

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 x heads ({self.heads}), for rotary pairs.")
        if self.layers < 1 or self.every < 1 or self.window < 1 or self.sinks < 0:
            raise ConfigError("layers, every and window must be at least 1, sinks at least 0.")


@register("dynamics", "transformer")
class Transformer(Dynamics):
    """The default backbone.

    Memory a session: `2 * layers/every * (window + sinks) * N * dim` numbers and one latent.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        self.temporal = [i for i in range(c.layers) if i % c.every == min(1, c.layers - 1, c.every - 1)]
        self.depth = self.temporal[-1] + 1  # layers that the commit stream passes
        head = c.dim // c.heads
        framed = SlabSpec((len(self.temporal), tokens.n, c.heads, c.window + c.sinks, head), frame_axis=3)
        previous = SlabSpec((tokens.n, tokens.channels))
        slabs = {"keys": framed, "values": framed, "previous": previous, "level": SlabSpec(())}
        self.spec = StateSpec(slabs, c.window, c.sinks)

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
        self.register_buffer("ages", _age_turns(c, head), persistent=False)

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
        for i, block in enumerate(self._layers()):
            x = block(x, mods, self.turn, self._past(slabs, i))
        return self._leave(x, previous)

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
        keys, values = [], []
        for i, block in enumerate(self._layers()[: self.depth]):
            if i in self.temporal:
                k, v = block.past_kv(x)
                keys.append(k)
                values.append(v)
            x = block(x, mods, self.turn, self._past(slabs, i))
        written = {"keys": torch.stack(keys, 1), "values": torch.stack(values, 1)}
        return written, {"previous": z_BNZ, "level": tau_B}, self.outcome(x)

    # whole clips

    def parallel(
        self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, extra_BTND: Tensor | None = None
    ) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. The commit stream runs once; its keys serve every call of the returned function.

        extra: as in `predict`.
        """
        previous = F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0))
        condition = self.act(action_BTW) + self.level(F.pad(tau_BT[:, :-1], (1, 0)))
        noise = Noise(tau_BT, torch.zeros_like(tau_BT))
        x, mods = self._enter(z_BTNZ, previous, condition, noise, 1, extra_BTND)
        past: dict[int, _ClipPast] = {}
        for i, block in enumerate(self._layers()[: self.depth]):
            if i in self.temporal:
                past[i] = _ClipPast(*block.past_kv(x), self.config)
            x = block(x, mods, self.turn, past.get(i))
        outcome = self.outcome(x)

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            x, mods = self._enter(z, previous, condition, noise, 0, extra_BTND)
            for i, block in enumerate(self._layers()):
                x = block(x, mods, self.turn, past.get(i))
            return self._leave(x, previous)

        return outcome, predict

    # shared by both

    def _layers(self) -> list[_Block]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]

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
        if extra is not None:
            x, condition = x + extra.to(x.dtype), condition + extra.mean(-2)
        return x, self.condition(condition, x.dtype)

    def _step_condition(self, slabs: Slabs, action: Tensor) -> Tensor:
        kept = slabs.scratch.get((self.name, "condition"))  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action:
            kept = action, self.act(action) + self.level(slabs.recurrent["level"])
            slabs.scratch[self.name, "condition"] = kept
        return kept[1]

    def _leave(self, x: Tensor, previous: Tensor) -> Tensor:
        # What changes is small: the network starts as "nothing moves" and learns the difference.
        return previous.to(x.dtype) + self.leave(x)

    def _past(self, slabs: Slabs, layer: int) -> _SlabPast | None:
        if layer not in self.temporal:
            return None
        if layer not in slabs.scratch:  # the same for all denoising steps of a frame
            slabs.scratch[layer] = _SlabPast(slabs, self.temporal.index(layer), self.ages)  # pyright: ignore
        return slabs.scratch[layer]  # pyright: ignore[reportReturnType]


def _age_turns(config: TransformerConfig, head: int) -> Tensor:
    """Rotations by minus the age 0..window, and at the end the one fixed age of sinks."""
    ages = torch.arange(config.window + 2, dtype=torch.float64)
    return rotation(-ages[:, None], head, config.window + 1.0)


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

    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: _SlabPast | _ClipPast | None) -> Tensor:
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


class _SlabPast:
    """Reads the past of one layer from slabs: one query a token, all segments in one softmax."""

    def __init__(self, slabs: Slabs, layer: int, ages: Tensor):
        self.parts = []
        window, sinks = slabs.spec.window, slabs.spec.sinks
        for segment in slabs.segments:
            visible = slabs.visible(segment)
            # Sessions that share a past were forked at one moment and have stepped together since.
            frames, time = segment.frames, slabs.time[:: segment.repeat]
            age = (time[:, None] - frames).clamp(0, window)
            age = torch.where(frames < sinks, window + 1, age)
            keys = segment.tensors["keys"][:, layer]
            turn = ages.to(keys.dtype)[:, age][:, :, None, None]  # (2, rows, 1, 1, cap, d/2)
            keys = rotate(keys, turn)
            mask = torch.zeros(visible.shape, dtype=keys.dtype, device=keys.device).masked_fill_(~visible, -torch.inf)
            self.parts.append((segment.repeat, keys, segment.tensors["values"][:, layer], mask))

    def read(self, q_BNHd: Tensor, null: Tensor) -> Tensor:
        scale = q_BNHd.shape[-1] ** -0.5
        q = q_BNHd * scale
        scores = [(q * null[0]).sum(-1, keepdim=True)]
        grouped = []
        for repeat, keys, values, mask in self.parts:
            # Branches become queries of the one past they share: (rows, N, H, repeat, d) @ (rows, N, H, d, cap).
            qs = q.unflatten(0, (-1, repeat)).movedim(1, 3).to(keys.dtype)
            s = (qs @ keys.transpose(-1, -2)).movedim(3, 1).flatten(0, 1)
            scores.append(s + mask[:, None, None])
            grouped.append((repeat, values))
        weights = torch.cat(scores, -1).softmax(-1)
        parts = weights.split([s.shape[-1] for s in scores], -1)
        total = parts[0] * null[1]
        for part, (repeat, values) in zip(parts[1:], grouped):
            w = part.unflatten(0, (-1, repeat)).movedim(1, 3).to(values.dtype)
            total = total + (w @ values).movedim(3, 1).flatten(0, 1)
        return total


class _ClipPast:
    """Reads the past of one layer inside clips: frame t sees frames before t, under the same window and sinks."""

    def __init__(self, k_BTNHd: Tensor, v_BTNHd: Tensor, config: TransformerConfig):
        steps, head = k_BTNHd.shape[1], k_BTNHd.shape[-1]
        device = k_BTNHd.device
        sinks, window = config.sinks, config.window
        frame = torch.arange(steps, device=device)
        position = frame.to(torch.float64 if k_BTNHd.dtype == torch.float64 else torch.float32)
        self.turn = rotation(position[:, None], head, window + 1.0)[:, :, None, None]
        fixed = rotation(-(position[:1, None] + window + 1), head, window + 1.0)[:, :, None, None]
        k, k_sink = k_BTNHd[:, sinks:], k_BTNHd[:, :sinks]
        self.keys = rotate(k, self.turn[:, sinks:]).movedim(1, 3)  # (B, N, H, T, d)
        self.sinks = rotate(k_sink, fixed).movedim(1, 3)
        self.values = torch.cat([v_BTNHd[:, :sinks], v_BTNHd[:, sinks:]], 1).movedim(1, 3)
        age = frame[:, None] - frame
        visible = (age > 0) & ((frame < sinks) | (age <= window))
        self.mask = torch.zeros(steps, steps, device=device).masked_fill_(~visible, -torch.inf)

    def read(self, q_BTNHd: Tensor, null: Tensor) -> Tensor:
        q = q_BTNHd * q_BTNHd.shape[-1] ** -0.5
        blank = (q * null[0]).sum(-1, keepdim=True).movedim(1, 3)  # (B, N, H, T, 1)
        sinks = q.movedim(1, 3) @ self.sinks.transpose(-1, -2)
        recent = rotate(q, self.turn).movedim(1, 3) @ self.keys.transpose(-1, -2)
        scores = torch.cat([sinks, recent], -1) + self.mask.to(q.dtype)
        weights = torch.cat([blank, scores], -1).softmax(-1)
        total = weights[..., :1] * null[1][:, None] + weights[..., 1:] @ self.values
        return total.movedim(3, 1)
