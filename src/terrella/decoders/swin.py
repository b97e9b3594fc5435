"""Chunks of frames from one slow state, joined by a sliding window: two clocks.

A window holds a frame before it, an older chunk, a newer one. With signal level tau (1 = clean) and K steps a chunk,

    newer chunk at tau = i/K < 1/2     reads the older one at tau + 1/2, and the frame before that one
    a chunk at tau >= 1/2              stands in the older place, and reads the frame before it alone
    z <- z + (x_hat - z) / (K - i)     i = 0 .. K - 1; the last step lands on x_hat
    loss = w(tau) |x_hat - z|^2        w(tau) = 0.9 tau + 0.1, both chunks of a window, tau = i/K

As an older chunk never reads a newer one, its path is the same with or without it: it is kept (the K/2 latents from
level 1/2 on), and the newer chunk's first half is computed from it when its action is known. What begins a session, or
follows an observed frame, has no older chunk, and takes all its steps in the older place.

Ref: PAN, arXiv 2511.09057 (Causal Swin-DPM: two chunks half a schedule apart, chunk-causal, a conditioning frame with a
little noise, the window shifts by a chunk; a slow state by zero-initialised cross-attention). Differs: x-prediction
with the ramp weight of Hafner et al., arXiv 2509.24527, on the grid that is sampled; the newer chunk needs no action
before the older one is shown; the slow state is what any backbone expects, learned through this loss, not a language
model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.latents import Predict, TokenSpec
from ..nn.noise import chance, drawn
from ..nn.slabs import SlabSpec
from ..nn.window import CHUNKS, Window
from ..registry import register
from .base import Decoder, FrameNoise

SHOWN, CHUNK, PATH, SLOW, BEFORE = "swin.shown", "swin.chunk", "swin.path", "swin.slow", "swin.before"
FIRST = 0.25  # of windows in training have no older chunk
UNSEEN = 0.05  # of windows in training have no frame before them


@dataclass(frozen=True)
class SwinConfig:
    """`unit` frames a chunk, drawn in `steps` steps (even). `fog`: noise on the frame before a window.

    dim, layers, heads, mlp: size of the denoiser.
    """

    unit: int = 4
    steps: int = 4
    dim: int = 192
    layers: int = 3
    heads: int = 3
    mlp: float = 3.0
    fog: float = 0.055

    def __post_init__(self) -> None:
        if self.unit < 2:
            raise ConfigError(f"unit is {self.unit}; a chunk has at least 2 frames. Frame by frame, take shortcut.")
        if self.steps < 2 or self.steps % 2:
            raise ConfigError(f"steps is {self.steps}; two chunks half a schedule apart need an even number.")
        if self.layers < 1 or self.heads < 1 or self.dim % (4 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 x heads ({self.heads}), and layers at least 1.")
        if not 0 <= self.fog < 1:
            raise ConfigError(f"fog is {self.fog}; it must lie in [0, 1).")


@dataclass(frozen=True)
class Older:
    """The chunk before, as a window reads it. `there`: bool `(B,)`, the sessions that have one.

    path: `(B, K/2, unit, N, Z)`. slow, before: its slow state and the frame before it, fog included, `(B, N, Z)`.
    """

    there: Tensor
    path: Tensor
    slow: Tensor
    before: Tensor


@register("decoder", "swin")
class Swin(Decoder):
    """The decoder of two clocks.

    It asks the backbone for one plain prediction a chunk, and reads that as the slow state; in training one for each
    frame, of which the beginnings of chunks are read.
    """

    Config = SwinConfig
    differentiable: ClassVar[bool] = False  # by an action inside a chunk, its frames have none
    sized: ClassVar[bool] = True
    plain: ClassVar[bool] = True

    def __init__(self, config: SwinConfig, tokens: TokenSpec):
        super().__init__()
        self.config, self.tokens, c = config, tokens, config
        self.steps, self.unit, self.middle = c.steps, c.unit, c.steps // 2
        self.window = Window(tokens, c.unit, c.dim, c.layers, c.heads, c.mlp)
        frame = (tokens.n, tokens.channels)
        self.slabs = {
            SHOWN: SlabSpec((), dtype=torch.int64),  # frames of the chunk that are out; 0: there is none
            CHUNK: SlabSpec((c.unit, *frame)),
            PATH: SlabSpec((self.middle, c.unit, *frame)),
            SLOW: SlabSpec(frame),
            BEFORE: SlabSpec(frame),
        }

    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Draw a chunk `(B, unit, N, Z)` that nothing is known to precede, from noise of that shape."""
        self._require(steps)
        slow = predict(None, None).to(noise_BNZ.dtype)
        if noise_BNZ.ndim != slow.ndim + 1 or noise_BNZ.shape[-3] != self.unit:
            raise ConfigError(
                f"noise has shape {tuple(noise_BNZ.shape)}; this decoder draws chunks of {self.unit} frames, from "
                f"noise (B, {self.unit}, N, Z). What asks for single frames (self_fed or recycled training, "
                "post-training) needs the decoder shortcut."
            )
        return self._draw(slow, torch.zeros_like(slow), 0.0, noise_BNZ, None)[0]

    def go_on(
        self,
        predict: Predict,
        slabs: Mapping[str, Tensor],
        before_BNZ: Tensor | None,
        noise: FrameNoise,
        steps: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Decoder.go_on`: where a chunk is out, the next one is drawn; its frames are handed over one by one."""
        self._require(steps)
        shown, kept = slabs[SHOWN], {name: slabs[name] for name in self.slabs}
        new = (shown == 0) | (shown == self.unit)
        if bool(new.any()):  # one question to the device a frame, instead of a chunk that nobody needs
            assert before_BNZ is not None
            fresh = self._begin(predict, slabs, before_BNZ, noise)
            for name, value in fresh.items():
                kept[name] = torch.where(new.view(-1, *[1] * (value.ndim - 1)), value, slabs[name])
        at = torch.where(new, 0, shown)
        rows = torch.arange(len(at), device=at.device)
        return kept[CHUNK][rows, at], {**kept, SHOWN: at + 1}

    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """See `Decoder.loss`. Frames that no window holds count as the mean of those of their clip that one does.

        Raises `ConfigError` for clips of less than `2 * unit + 1` frames.
        """
        del progress
        span, device = 1 + CHUNKS * self.unit, z_BTNZ.device
        batch, frames = z_BTNZ.shape[:2]
        if frames < span:
            raise ConfigError(
                f"clips have {frames} frames; a window of two chunks of {self.unit} needs {span}. Train with a length "
                f"of at least {span - 1} that does not grow, or choose a smaller unit."
            )
        windows = (frames - 1) // (span - 1)
        begin = int(chance(generator) * (frames - windows * (span - 1)))
        starts = begin + (span - 1) * torch.arange(windows, device=device)
        held = starts[:, None] + torch.arange(span, device=device)  # (W, U)
        z = z_BTNZ[:, held].flatten(0, 1)
        plain = predict(None, None)
        slow = plain[:, held[:, 1 :: self.unit]].flatten(0, 1)  # what is expected where each chunk begins
        tau, counts = self._levels(len(z), generator, device)
        noise = drawn(torch.randn, z.shape, generator, device=device, dtype=z.dtype)
        level = tau[..., None, None].to(z.dtype)
        x = self.window((1 - level) * noise + level * z, tau, slow)
        error = (x.float() - z[:, 1:].float()).square().mean((-1, -2))
        weight = (0.9 * tau[:, 1:] + 0.1) * counts
        lost = (weight * error).unflatten(0, (batch, windows)).flatten(1)
        scored = counts.unflatten(0, (batch, windows)).flatten(1)
        mean = lost.sum(1, keepdim=True) / scored.sum(1, keepdim=True)
        inside = torch.where(scored > 0, lost, mean)
        return mean.expand(-1, frames).clone().scatter(1, held[:, 1:].flatten().expand(batch, -1), inside)

    def example(self, lead: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Decoder.example`; slow states may be any numbers, and are sure of nothing."""
        shape = (*lead, self.tokens.n, self.tokens.channels)
        z, slow = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        return z, slow

    def _levels(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw levels `(count, U)` as sampling meets them, and which chunks' frames count, float `(count, U - 1)`."""
        draw = drawn(torch.rand, (4, count), generator, 1, device=device)
        step, alone = (draw[0] * self.middle).floor(), draw[1] < FIRST
        older = torch.where(alone, (draw[2] * self.steps).floor(), step + self.middle) / self.steps
        newer = torch.where(alone, 0.0, step) / self.steps  # where it is alone, the older one reads no other
        before = torch.where(draw[3] < UNSEEN, 0.0, 1 - self.config.fog)
        chunks = torch.stack([older, newer], 1).repeat_interleave(self.unit, 1)
        counts = torch.stack([torch.ones_like(older), (~alone).float()], 1).repeat_interleave(self.unit, 1)
        return torch.cat([before[:, None], chunks], 1), counts

    def _begin(
        self, predict: Predict, slabs: Mapping[str, Tensor], before: Tensor, noise: FrameNoise
    ) -> dict[str, Tensor]:
        """Draw the next chunk of every session: what to keep of it."""
        eps = torch.stack([noise(j) for j in range(self.unit)], 1)
        slow, clear = predict(None, None).to(eps.dtype), 1 - self.config.fog
        foggy = clear * before.to(eps.dtype) + self.config.fog * noise(-1)
        older = Older(slabs[SHOWN] == self.unit, slabs[PATH], slabs[SLOW], slabs[BEFORE])
        chunk, path = self._draw(slow, foggy, clear, eps, older)
        return {CHUNK: chunk, PATH: path, SLOW: slow, BEFORE: foggy}

    def _draw(
        self, slow: Tensor, before: Tensor, clear: float, noise: Tensor, older: Older | None
    ) -> tuple[Tensor, Tensor]:
        """Denoise a chunk; returns it, and its path from half a schedule on, `(B, K/2, unit, N, Z)`."""
        z, path = noise, []
        for i in range(self.steps):
            if i >= self.middle:
                path.append(z)
            if older is None or i >= self.middle:
                x = self._expect(before, clear, (z, slow, self._level(i, z)))
            else:
                x = self._beside(z, slow, before, clear, older, i)
            z = z + (x.to(z.dtype) - z) / (self.steps - i)
        return z, torch.stack(path, 1)

    def _beside(self, z: Tensor, slow: Tensor, before: Tensor, clear: float, older: Older, i: int) -> Tensor:
        """Expect a chunk in its first half: beside the older one, or in its place where there is none."""
        there = older.there.view(-1, 1, 1)
        first = (
            torch.where(there[..., None], older.path[:, i].to(z.dtype), z),
            torch.where(there, older.slow.to(z.dtype), slow),
            torch.where(older.there, self._level(i + self.middle, z), self._level(i, z)),
        )
        ahead = torch.where(there, older.before.to(z.dtype), before)
        x = self._expect(ahead, clear, first, (z, slow, self._level(i, z)))
        return torch.where(there[..., None], x[:, self.unit :], x[:, : self.unit])

    def _level(self, step: int, like: Tensor) -> Tensor:
        return torch.full(like.shape[:1], step / self.steps, device=like.device)

    def _expect(self, before: Tensor, clear: float, *chunks: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Ask the window: the frame before it and its level, then chunks: latents, slow state, level `(B,)`."""
        z, slow, level = zip(*chunks)
        tau = torch.full((len(before), 1), clear, device=before.device)
        tau = torch.cat([tau, torch.stack(level, 1).repeat_interleave(self.unit, 1)], 1)
        return self.window(torch.cat([before[:, None], *z], 1), tau, torch.stack(slow, 1))

    def _require(self, steps: int | None) -> None:
        if steps not in (None, self.steps):
            raise ConfigError(f"steps is {steps}; this world draws its chunks in {self.steps}, as it was trained.")
