"""Vectors to tokens by a small network beside a linear path that alone is already exact."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.latents import TokenSpec
from ..nn.layers import Narrow
from ..nn.noise import drawn
from ..registry import register
from ..spec import StreamSpec
from .base import Tokenizer


@dataclass(frozen=True)
class VectorConfig:
    """`channels` a token (as many tokens as the vector needs); `hidden` units of the network.

    Latent `noise` in training.
    """

    channels: int = 16
    hidden: int = 64
    noise: float = 0.01


@register("tokenizer", "vector")
class Vector(Tokenizer):
    """The tokenizer for vectors: standardised, then `z = P x + mlp(x)` and back, P the padded identity at the start."""

    Config = VectorConfig
    takes: ClassVar[tuple[str, ...]] = ("vector",)
    encoder_modules: ClassVar[tuple[str, ...]] = ("enter", "encoder")
    decoder_modules: ClassVar[tuple[str, ...]] = ("leave", "decoder")
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: VectorConfig, stream: StreamSpec):
        (length,) = stream.shape
        n = max(1, ceil(length / config.channels))
        # One column beyond any image grid column, so that positions of several streams differ.
        super().__init__(stream, TokenSpec(n, config.channels, tuple((float(i), -1.0) for i in range(n))))
        self.config = config
        total = n * config.channels
        self.enter, self.leave = nn.Linear(length, total), Narrow(total, length)
        for linear in (self.enter, self.leave):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.encoder = _network(length, config.hidden, total)
        self.decoder = _network(total, config.hidden, length)
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("deviation", torch.ones(length))

    def encode_raw(self, obs: Tensor) -> Tensor:
        """Encode vectors `(..., F)`."""
        x = ((obs.float() - self.mean.float()) / self.deviation.float()).to(self.enter.weight.dtype)
        return (self.enter(x) + self.encoder(x)).unflatten(-1, (self.spec.n, self.spec.channels))

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode to vectors `(..., F)` in their own units."""
        z = z.flatten(-2).to(self.leave.weight.dtype)
        x = self.leave(z) + self.decoder(z)
        return x.float() * self.deviation.float() + self.mean.float()

    def loss(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error in standard deviations, with a little noise on the latents."""
        z = self.encode_raw(obs)
        noise = drawn(torch.randn, z.shape, generator, device=z.device)
        x = self.decode_raw(z + self.config.noise * noise)
        return ((x - obs.float()) / self.deviation).square().mean()

    @torch.no_grad()
    def prepare(self, obs: Tensor) -> None:
        """Measure mean and deviation of each number."""
        flat = obs.float().flatten(0, -2)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0).clamp(min=1e-4))

    @torch.no_grad()
    def normalise(self, obs: Tensor) -> None:
        """Measure one deviation for all channels: padding must not be blown up to unit variance."""
        z = self.encode_raw(obs).float()
        self.shift.fill_(z.mean())
        self.scale.fill_(z[..., : max(1, min(self.stream.shape[0], z.shape[-1]))].std().clamp(min=1e-3))


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = Narrow(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), last)
