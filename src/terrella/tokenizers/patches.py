"""Image patches as tokens, without any learning: exact, and as many channels as the patch has numbers.

Ref: Li & He, Back to Basics, arXiv 2511.13720: with x-prediction a plain transformer denoises raw patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.latents import TokenSpec
from ..registry import register
from ..spec import StreamSpec
from .base import Tokenizer


@dataclass(frozen=True)
class PatchesConfig:
    """`size`: a patch covers `size x size` pixels."""

    size: int = 8


@register("tokenizer", "patches")
class Patches(Tokenizer):
    """Lossless; height and width must be multiples of `size`."""

    Config = PatchesConfig
    takes: ClassVar[tuple[str, ...]] = ("image",)
    trains: ClassVar[bool] = False

    def __init__(self, config: PatchesConfig, stream: StreamSpec):
        h, w, colours = stream.shape
        if h % config.size or w % config.size:
            raise ConfigError(f"image size {h}x{w} is not a multiple of {config.size}; record with --size or resize.")
        places = tuple((float(r), float(c)) for r in range(h // config.size) for c in range(w // config.size))
        super().__init__(stream, TokenSpec(len(places), colours * config.size**2, places))
        self.config = config

    def encode_raw(self, obs: Tensor) -> Tensor:
        """Cut images `(..., h, w, C)` into patches, scaled to [-1, 1]."""
        images = obs.reshape(-1, *self.stream.shape).permute(0, 3, 1, 2).to(self.scale.dtype) / 127.5 - 1
        z = F.pixel_unshuffle(images, self.config.size).flatten(2).transpose(1, 2)
        return z.reshape(*obs.shape[:-3], self.spec.n, self.spec.channels)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Put patches together again, `(..., h, w, C)` in about [0, 1]."""
        h, w, _ = self.stream.shape
        grid = z.reshape(-1, self.spec.n, self.spec.channels).transpose(1, 2)
        grid = grid.reshape(-1, self.spec.channels, h // self.config.size, w // self.config.size)
        x = (F.pixel_shuffle(grid, self.config.size).permute(0, 2, 3, 1) + 1) / 2
        return x.reshape(*z.shape[:-2], *self.stream.shape)

    @torch.no_grad()
    def normalise(self, obs: Tensor) -> None:
        """Measure one mean and one deviation for all pixels, so that errors of all pixels weigh the same."""
        z = self.encode_raw(obs).float()
        self.shift.fill_(z.mean())
        self.scale.fill_(z.std().clamp(min=1e-3))

    def loss(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Nothing to learn: zero."""
        del obs, generator
        return torch.zeros(())
