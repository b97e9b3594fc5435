"""The plain decoder: the backbone's expectation is the next frame. One pass, no chance.

Blurs where the future is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.latents import Predict
from ..registry import register
from .base import Decoder


@dataclass(frozen=True)
class RegressionConfig:
    """Nothing to set."""


@register("decoder", "regression")
class Regression(Decoder):
    """Mean squared error on the latent; `sample` ignores its noise."""

    Config = RegressionConfig
    plain: ClassVar[bool] = True

    def __init__(self, config: RegressionConfig):
        super().__init__()
        self.config = config

    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Return the expectation; `steps` may only be 1."""
        if steps not in (None, 1):
            raise ConfigError(f"steps is {steps}; a regression decoder takes exactly 1.")
        return predict(None, None).to(noise_BNZ.dtype)

    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """Squared error of the expectation, a frame."""
        del progress, generator
        return (predict(None, None).float() - z_BTNZ.float()).square().mean((-1, -2))
