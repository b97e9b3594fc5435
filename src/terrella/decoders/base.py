"""From what a backbone expects to a frame: the interface of every decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.latents import Predict
from ..nn.slabs import SlabSpec

FrameNoise = Callable[[int], Tensor]
"""`j -> (B, N, Z)`: what the frame j after the next one is drawn from, standard normal; -1: fog of the frame before."""


class Decoder(nn.Module, ABC):
    """Turns a backbone's predictions into a distribution over the next latent frame.

    It sees the backbone only as a function `predict(z_noisy, noise) -> x_hat`, already bound to past and action. The
    same function serves one frame `(B, N, Z)` when sampling and whole clips `(B, T, N, Z)` in training.

    steps: how many times `sample` calls `predict` unless told otherwise. differentiable: whether what it draws has a
    gradient by what was predicted. sized: whether it has a network of its own, made for the tokens of its world, which
    the constructor then takes after the config. plain: whether all that it asks for are plain predictions,
    `predict(None, None)`, so that the backbone has no part in denoising. unit: how many frames are drawn together, a
    *chunk*, under the action that begins it. slabs: what a session keeps between the frames of a chunk, and between
    chunks; zeros stand for nothing yet. Where `unit` is above 1, noise and what `sample` returns have an axis of so
    many frames before N.
    """

    name: ClassVar[str] = ""
    differentiable: ClassVar[bool] = True
    sized: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    steps: int = 1
    unit: int = 1
    slabs: Mapping[str, SlabSpec] = MappingProxyType({})

    @abstractmethod
    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Draw the next latent frame from standard normal `noise_BNZ`.

        Raises `ConfigError` for an impossible `steps`.
        """

    def go_on(
        self,
        predict: Predict,
        slabs: Mapping[str, Tensor],
        before_BNZ: Tensor | None,
        noise: FrameNoise,
        steps: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw the next frame `(B, N, Z)` of sessions, and what they keep; writes into nothing.

        before: the last frame committed, for decoders that keep anything (else None). Raises as `sample` does.
        """
        del slabs, before_BNZ
        return self.sample(predict, noise(0), steps), {}

    @property
    def choices(self) -> tuple[int, ...]:
        """The numbers of steps worth choosing from, rising."""
        return (self.steps,)

    @abstractmethod
    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of every frame, `(B, T)` in float32. `progress` in [0, 1] is the share of training done."""

    def example(self, lead: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw latents `(*lead, Z)` in float64 such as this decoder makes, and the prediction that is sure of them.

        For the laws; the last of `lead` is N. A decoder whose latents are not any numbers, or that reads predictions
        otherwise, has its own; one with a network has an N of its own. One that draws chunks: `(*lead, N, Z)`.
        """
        z = torch.randn(*lead, 6, generator=generator, dtype=torch.float64)
        return z, z


def euler(expect: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Go from noise `(..., N, Z)` to data in equal steps of the signal level; the last one lands on what is expected.

    expect: `(z, tau) -> x_hat`, the clean frames behind noisy ones at levels `(...)`.
    """
    z = noise
    for i in range(steps):
        tau = torch.full(z.shape[:-2], i / steps, device=z.device)
        z = z + (expect(z, tau).to(z.dtype) - z) / (steps - i)  # d / (1 - tau) = 1 / (steps - i)
    return z
