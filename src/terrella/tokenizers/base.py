"""Observations to tokens and back: the interface of every tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.latents import TokenSpec
from ..spec import StreamSpec


class Tokenizer(nn.Module, ABC):
    """Turns one stream of observations into latent tokens `(..., N, Z)`, each frame by itself, and back.

    Observations come as tensors `(..., *stream.shape)`: uint8 images `(..., h, w, C)` or float32 vectors `(..., F)`,
    with any leading axes. Latents are normalised to about zero mean and unit variance by `shift` and `scale`, which
    `normalise` measures and which are saved with the weights.

    spec: how many tokens, how many channels, and where each token lies. trains: whether there is anything to learn.
    takes: the forms of streams it can be made for (`StreamSpec.forms`). encoder_modules, decoder_modules: the names of
    the modules that only `encode_raw` and only `decode_raw` call, so that an engine can keep each half's weights in a
    precision of its own.
    """

    name: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("image", "vector")
    encoder_modules: ClassVar[tuple[str, ...]] = ()
    decoder_modules: ClassVar[tuple[str, ...]] = ()
    spec: TokenSpec
    shift: Tensor
    scale: Tensor
    floor: Tensor | None
    ceiling: Tensor | None

    def __init__(self, stream: StreamSpec, spec: TokenSpec):
        super().__init__()
        self.stream, self.spec = stream, spec
        self.register_buffer("shift", torch.zeros(spec.channels))
        self.register_buffer("scale", torch.ones(spec.channels))
        for name, bound in (("floor", stream.low), ("ceiling", stream.high)):
            self.register_buffer(name, None if bound is None else torch.tensor(bound), persistent=False)

    @abstractmethod
    def encode_raw(self, obs: Tensor) -> Tensor:
        """Compute latents before normalisation, `(..., N, Z)`."""

    @abstractmethod
    def decode_raw(self, z: Tensor) -> Tensor:
        """Compute observations as floats from latents before normalisation: images `(..., h, w, C)` in [0, 1]-ish."""

    @abstractmethod
    def loss(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Reconstruction loss of a batch of observations, a scalar."""

    def encode(self, obs: Tensor) -> Tensor:
        """Compute normalised latents, `(..., N, Z)`."""
        return (self.encode_raw(obs) - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Compute observations in their own type, clipped to their bounds: rounded uint8 images, or float32 vectors."""
        x = self.decode_raw(z * self.scale + self.shift)
        if self.stream.kind == "image":
            return (x.float() * 255).round_().clamp_(0, 255).to(torch.uint8)
        if self.floor is None or self.ceiling is None:
            return x.float()
        return x.float().clamp(self.floor.float(), self.ceiling.float())

    def prepare(self, obs: Tensor) -> None:
        """Look at a sample of observations before training."""

    @torch.no_grad()
    def normalise(self, obs: Tensor) -> None:
        """Measure `shift` and `scale` on a sample of observations, a channel each."""
        z = self.encode_raw(obs).float().flatten(0, -2)
        self.shift.copy_(z.mean(0))
        self.scale.copy_(z.std(0).clamp(min=1e-3))
