"""Discrete tokens for images: the convolutional autoencoder with its latents rounded to a few values.

Each token has `digits` numbers; each is bounded and rounded to one of `levels` values. Rounding has no gradient, so
training passes it by (straight through). There is no codebook that could collapse and no loss to keep one in use. What
backbones get is the centred one-hot code of every digit (`terrella.nn.codes`), in which a mean is a distribution.

Ref: Mentzer et al., Finite Scalar Quantization, arXiv 2309.15505, section 3. Differs: values are counted from zero,
`round((levels - 1) (tanh(x) + 1) / 2)`, which treats odd and even numbers of levels alike and needs no offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.codes import bounded, from_code, rounded, to_code
from ..nn.latents import TokenSpec
from ..registry import register
from ..spec import StreamSpec
from .base import Tokenizer
from .conv import Conv, ConvConfig


@dataclass(frozen=True)
class FSQConfig:
    """`digits` a token, each of `levels` values; the rest is the convolutional tokenizer's (see `ConvConfig`)."""

    digits: int = 8
    levels: int = 8
    stride: int = 8
    fold: int = 4
    width: int = 96
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.digits < 1 or self.levels < 2:
            raise ConfigError(f"a token needs digits >= 1 and levels >= 2; got {self.digits} and {self.levels}.")


@register("tokenizer", "fsq")
class FSQ(Tokenizer):
    """Codes of `digits * levels` channels a token; height and width must be multiples of `stride`."""

    Config = FSQConfig
    takes: ClassVar[tuple[str, ...]] = ("image",)
    encoder_modules: ClassVar[tuple[str, ...]] = ("networks.encoder",)
    decoder_modules: ClassVar[tuple[str, ...]] = ("networks.decoder",)

    def __init__(self, config: FSQConfig, stream: StreamSpec):
        c = config
        networks = Conv(ConvConfig(c.digits, c.stride, c.fold, c.width, c.blocks, noise=0.0), stream)
        super().__init__(stream, TokenSpec(networks.spec.n, c.digits * c.levels, networks.spec.places))
        self.config, self.networks = config, networks

    def prepare(self, obs: Tensor) -> None:
        """Measure the mean frame and the spread about it."""
        self.networks.prepare(obs)

    def normalise(self, obs: Tensor) -> None:
        """Nothing to measure: codes have zero mean and unit variance."""
        del obs

    def encode_raw(self, obs: Tensor) -> Tensor:
        """Encode uint8 images `(..., h, w, C)` to codes, exactly."""
        x = bounded(self.networks.encode_raw(obs), self.config.levels)
        return to_code(x.round().long(), self.config.levels, x.dtype)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode the codes nearest to any latents to floats in about [0, 1], `(..., h, w, C)`."""
        index = from_code(z, self.config.levels)
        return self._show(index.to(z.dtype))

    def loss(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error and a little absolute error, in units of the spread, through the rounded values."""
        del generator
        x = rounded(bounded(self.networks.encode_raw(obs).float(), self.config.levels))
        error = (self._show(x).float() - obs.float() / 255) / self.networks.spread
        return error.square().mean() + 0.05 * error.abs().mean()

    def _show(self, values: Tensor) -> Tensor:
        return self.networks.decode_raw(values * (2 / (self.config.levels - 1)) - 1)
