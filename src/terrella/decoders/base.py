"""From what a backbone expects to a frame: the interface of every decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.latents import Predict


class Decoder(nn.Module, ABC):
    """Turns a backbone's predictions into a distribution over the next latent frame.

    It sees the backbone only as a function `predict(z_noisy, noise) -> x_hat`, already bound to past and action. The
    same function serves one frame `(B, N, Z)` when sampling and whole clips `(B, T, N, Z)` in training.

    steps: how many times `sample` calls `predict` unless told otherwise. differentiable: whether what it draws has a
    gradient by what was predicted.
    """

    name: ClassVar[str] = ""
    differentiable: ClassVar[bool] = True
    steps: int = 1

    @abstractmethod
    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Draw the next latent frame from standard normal `noise_BNZ`.

        Raises `ConfigError` for an impossible `steps`.
        """

    @property
    def choices(self) -> tuple[int, ...]:
        """The numbers of steps worth choosing from, rising."""
        return (self.steps,)

    @abstractmethod
    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of every frame, `(B, T)` in float32. `progress` in [0, 1] is the share of training done."""

    def example(self, lead: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw latents `(*lead, Z)` in float64 such as this decoder makes, and the prediction that is sure of them.

        For the laws; a decoder whose latents are not any numbers, or that reads predictions otherwise, has its own.
        """
        z = torch.randn(*lead, 6, generator=generator, dtype=torch.float64)
        return z, z
