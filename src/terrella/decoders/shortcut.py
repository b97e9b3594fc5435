"""Shortcut forcing: a diffusion decoder that samples in 1, 2, 4, ... steps without a teacher.

With signal level tau and noise eps, `z_tau = (1 - tau) eps + tau z`; the backbone predicts the clean z. On the finest
step the target is z itself; on a coarser step d it is where two steps of d/2 lead:

    v1 = (f(z_tau, tau, d/2) - z_tau) / (1 - tau)         z' = z_tau + d/2 v1
    v2 = (f(z', tau + d/2, d/2) - z') / (1 - tau - d/2)   y  = z_tau + (1 - tau) (v1 + v2) / 2
    loss = w(tau) |x_hat - y|^2,  w(tau) = 0.9 tau + 0.1

Ref: Frans et al., arXiv 2410.12557 (shortcut models); Hafner et al., Dreamer 4, arXiv 2509.24527, eqs. 7-8
(x-prediction, x-space loss, ramp weight). Differs: whole batches, not rows, are of the coarse kind, and none before
`warm` of training, so that no forward pass is spent on targets that mean nothing yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.latents import Noise, Predict
from ..nn.noise import chance, drawn
from ..registry import register
from .base import Decoder, euler


@dataclass(frozen=True)
class ShortcutConfig:
    """`finest` steps a frame at most (a power of two), `steps` by default.

    `coarse` share of batches learn long steps.
    """

    finest: int = 8
    steps: int = 2
    coarse: float = 0.25
    warm: float = 0.3

    def __post_init__(self) -> None:
        for name in ("finest", "steps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ConfigError(f"{name} is {value}; it must be a power of two.")
        if self.steps > self.finest:
            raise ConfigError(f"steps {self.steps} exceeds the finest grid, {self.finest}.")


@register("decoder", "shortcut")
class Shortcut(Decoder):
    """The default decoder."""

    Config = ShortcutConfig

    def __init__(self, config: ShortcutConfig):
        super().__init__()
        self.config, self.steps = config, config.steps

    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Take `steps` Euler steps from noise to data; the last one lands on the prediction."""
        steps = self.steps if steps is None else steps
        if steps < 1 or steps > self.config.finest or steps & (steps - 1):
            raise ConfigError(f"steps is {steps}; this world samples in a power of two up to {self.config.finest}.")
        return euler(lambda z, tau: predict(z, Noise(tau, torch.full_like(tau, 1 / steps))), noise_BNZ, steps)

    @property
    def choices(self) -> tuple[int, ...]:
        """See `Decoder.choices`: what training has met."""
        return tuple(2**i for i in range(int(log2(self.config.finest)) + 1))

    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """See `Decoder.loss` and the module's equations."""
        batch, steps = z_BTNZ.shape[:2]
        device = z_BTNZ.device
        draw = drawn(torch.rand, (2, batch, steps), generator, 1, device=device)
        levels = int(log2(self.config.finest))
        coarse = levels > 0 and progress >= self.config.warm and chance(generator) < self.config.coarse
        if coarse:
            d = 0.5 ** torch.floor(draw[0] * levels)  # 1, 1/2, ... but not the finest
        else:
            d = torch.full((batch, steps), 1 / self.config.finest, device=device)
        tau = torch.floor(draw[1] / d) * d
        noise = drawn(torch.randn, z_BTNZ.shape, generator, device=device, dtype=z_BTNZ.dtype)
        level = tau[..., None, None].to(z_BTNZ.dtype)
        noisy = (1 - level) * noise + level * z_BTNZ
        target = self._bootstrap(predict, noisy, tau, d) if coarse else z_BTNZ
        x = predict(noisy, Noise(tau, d))
        return (0.9 * tau + 0.1) * (x.float() - target.float()).square().mean((-1, -2))

    @staticmethod
    @torch.no_grad()
    def _bootstrap(predict: Predict, noisy: Tensor, tau: Tensor, d: Tensor) -> Tensor:
        half = d / 2
        level, step = tau[..., None, None].to(noisy.dtype), half[..., None, None].to(noisy.dtype)
        v1 = (predict(noisy, Noise(tau, half)).to(noisy.dtype) - noisy) / (1 - level)
        middle = noisy + step * v1
        v2 = (predict(middle, Noise(tau + half, half)).to(noisy.dtype) - middle) / (1 - level - step)
        return noisy + (1 - level) * (v1 + v2) / 2
