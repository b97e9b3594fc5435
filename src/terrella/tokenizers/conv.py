"""Convolutional autoencoder for images: continuous tokens, few a frame, each frame by itself.

An image is folded into `fold x fold` blocks (space to depth), so that all convolutions run on a small grid, where a CPU
is fast. Latents are squashed only by a little noise in training, which keeps them smooth; a deterministic autoencoder
with noise on its latents is enough when a diffusion model follows (Dreamer 4, arXiv 2509.24527, has no KL term either).
What all frames share is kept outside the network: it sees and returns deviations from the mean frame, in units of their
spread, so that a small ball on a still background is as much to learn as a scrolling landscape.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.conv import Conv3x3
from ..nn.latents import TokenSpec
from ..nn.noise import chance, drawn
from ..registry import register
from ..spec import StreamSpec
from .base import Tokenizer

WORN = 0.5  # share of batches


@dataclass(frozen=True)
class ConvConfig:
    """`channels` a token; one token covers `stride x stride` pixels; `width` features.

    `blocks` residual blocks a level. With `trips` above 0, half of the batches have been encoded and decoded up to so
    many times before, and are to become what they were: for worlds that re-encode each frame (`WorldConfig.reencode`).
    """

    channels: int = 16
    stride: int = 8
    fold: int = 4
    width: int = 96
    blocks: int = 1
    noise: float = 0.05
    trips: int = 0

    def __post_init__(self) -> None:
        ratio = self.stride / self.fold
        if ratio < 1 or log2(ratio) % 1:
            raise ConfigError(f"stride {self.stride} must be fold ({self.fold}) times a power of two.")
        if self.trips < 0:
            raise ConfigError(f"trips is {self.trips}; it counts how often frames were encoded before, at least 0.")


@register("tokenizer", "conv")
class Conv(Tokenizer):
    """The default tokenizer for images; height and width must be multiples of `stride`."""

    Config = ConvConfig
    takes: ClassVar[tuple[str, ...]] = ("image",)
    encoder_modules: ClassVar[tuple[str, ...]] = ("encoder",)
    decoder_modules: ClassVar[tuple[str, ...]] = ("decoder",)
    mean: Tensor
    spread: Tensor

    def __init__(self, config: ConvConfig, stream: StreamSpec):
        h, w, colours = stream.shape
        if h % config.stride or w % config.stride:
            raise ConfigError(f"image size {h}x{w} is not a multiple of {config.stride}; record with --size or resize.")
        self.rows, self.columns = h // config.stride, w // config.stride
        places = tuple((float(r), float(c)) for r in range(self.rows) for c in range(self.columns))
        super().__init__(stream, TokenSpec(len(places), config.channels, places))
        self.config = config
        self.register_buffer("mean", torch.full(stream.shape, 0.5))
        self.register_buffer("spread", torch.full((), 0.5))
        levels = int(log2(config.stride // config.fold))
        widths = [config.width * 3 ** min(i, 1) // 2 ** min(i, 1) for i in range(levels + 1)]
        folded = colours * config.fold**2

        down: list[nn.Module] = [nn.PixelUnshuffle(config.fold), Conv3x3(folded, widths[0])]
        for i, width in enumerate(widths):
            down += [_Residual(width) for _ in range(config.blocks)]
            if i < levels:
                down += [nn.Conv2d(width, widths[i + 1], 2, stride=2)]
        down += [nn.Conv2d(widths[-1], config.channels, 1)]
        self.encoder = nn.Sequential(*down)

        up: list[nn.Module] = [Conv3x3(config.channels, widths[-1])]
        for i in reversed(range(levels + 1)):
            up += [_Residual(widths[i]) for _ in range(config.blocks + (i == levels))]
            if i > 0:
                up += [nn.Conv2d(widths[i], 4 * widths[i - 1], 1), nn.PixelShuffle(2)]
        up += [Conv3x3(widths[0], folded), nn.PixelShuffle(config.fold)]
        self.decoder = nn.Sequential(*up)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def prepare(self, obs: Tensor) -> None:
        """Measure the mean frame and the spread about it."""
        x = obs.float() / 255
        self.mean.copy_(x.mean(0))
        self.spread.copy_((x - self.mean).std().clamp(min=1e-3))

    def encode_raw(self, obs: Tensor) -> Tensor:
        """Encode uint8 images `(..., h, w, C)`."""
        return self._encode(obs.to(self.mean.dtype) / 255)

    def _encode(self, obs: Tensor) -> Tensor:
        x = (obs.reshape(-1, *self.stream.shape) - self.mean) / self.spread
        z = self.encoder(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))
        return z.flatten(2).transpose(1, 2).reshape(*obs.shape[:-3], self.spec.n, self.spec.channels)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode to floats in about [0, 1], `(..., h, w, C)`."""
        grid = z.reshape(-1, self.rows, self.columns, self.config.channels).permute(0, 3, 1, 2).to(self.mean.dtype)
        x = self.decoder(grid.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        return (self.mean + self.spread * x).reshape(*z.shape[:-2], *self.stream.shape)

    def loss(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error and a little absolute error, in units of the spread, with noise on the latents."""
        true = obs.to(self.mean.dtype) / 255
        worn = self.config.trips > 0 and chance(generator) < WORN
        z = self._encode(self._worn(true, generator) if worn else true).float()
        noise = drawn(torch.randn, z.shape, generator, device=z.device)
        error = (self.decode_raw(z + self.config.noise * noise).float() - true) / self.spread
        small = F.relu(z.square() - 4).mean()  # latents of any size would drown the noise
        return error.square().mean() + 0.05 * error.abs().mean() + 1e-3 * small

    @torch.no_grad()
    def _worn(self, seen: Tensor, generator: torch.Generator) -> Tensor:
        """Pass frames through latents and back, as many times as chance says."""
        for _ in range(1 + int(chance(generator) * self.config.trips)):
            seen = self.decode_raw(self._encode(seen)).clamp(0, 1).to(seen)
        return seen


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8 if width % 8 == 0 else 1, width)
        self.first = Conv3x3(width, width)
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(self.norm(x))))
