"""What is expected, and what chance makes of it: a backbone that regresses, and a small denoiser beside it.

The backbone's plain prediction m is the mean of what may come: learned fast, and blurred where the future is open,
until what moves there fades away. A denoiser of its own draws one frame of those that m is the mean of. With signal
level tau and noise eps, on the K levels that are sampled:

    z_tau = (1 - tau) eps + tau z        x_hat = m + g(z_tau, tau, m)
    loss  = |m - z|^2 + w(tau) |x_hat - z|^2,   w(tau) = 0.9 tau + 0.1,   m in g without a gradient
    z <- z + (x_hat - z) / (K - i)       i = 0 .. K - 1; the last step lands on x_hat

Ref: Mardani et al., CorrDiff, arXiv 2309.15214, section 3 (a regression, then diffusion of the residual); Li et al.,
arXiv 2406.11838 (a small denoiser that reads a backbone's output); Hafner et al., arXiv 2509.24527 (x-prediction, the
ramp weight). Differs: both are trained together, and the denoiser hears of the past through m alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.denoiser import Denoiser
from ..nn.latents import Predict, TokenSpec
from ..nn.noise import drawn
from ..registry import register
from .base import Decoder, euler


@dataclass(frozen=True)
class ResidualConfig:
    """`steps` a frame; fewer that divide it will do, and 1 draws nothing but a mean. dim, layers, heads, mlp: size of
    the denoiser.
    """

    steps: int = 4
    dim: int = 192
    layers: int = 2
    heads: int = 3
    mlp: float = 3.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; a frame takes at least 1.")
        if self.layers < 1 or self.heads < 1 or self.dim % (4 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 x heads ({self.heads}), and layers at least 1.")


@register("decoder", "residual")
class Residual(Decoder):
    """Regression whose blur is drawn anew as one of the frames behind it."""

    Config = ResidualConfig
    sized: ClassVar[bool] = True
    plain: ClassVar[bool] = True

    def __init__(self, config: ResidualConfig, tokens: TokenSpec):
        super().__init__()
        self.config, self.steps, c = config, config.steps, config
        self.denoiser = Denoiser(tokens, c.dim, c.layers, c.heads, c.mlp)
        self.shape = (tokens.n, tokens.channels)

    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Draw a frame; `steps` must divide the config's."""
        steps = self.steps if steps is None else steps
        if steps not in self.choices:
            raise ConfigError(f"steps is {steps}; this world draws a frame in {', '.join(map(str, self.choices))}.")
        mean = predict(None, None).to(noise_BNZ.dtype)
        return euler(lambda z, tau: self.denoiser(z, tau, mean), noise_BNZ, steps)

    @property
    def choices(self) -> tuple[int, ...]:
        """See `Decoder.choices`: whose levels training has met."""
        return tuple(n for n in range(1, self.config.steps + 1) if self.config.steps % n == 0)

    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """See `Decoder.loss` and the module's equations."""
        del progress
        draw = drawn(torch.rand, z_BTNZ.shape[:2], generator, device=z_BTNZ.device)
        tau = torch.floor(draw * self.steps) / self.steps
        noise = drawn(torch.randn, z_BTNZ.shape, generator, device=z_BTNZ.device, dtype=z_BTNZ.dtype)
        level = tau[..., None, None].to(z_BTNZ.dtype)
        mean = predict(None, None)
        x = self.denoiser((1 - level) * noise + level * z_BTNZ, tau, mean.detach())
        missed, off = ((said.float() - z_BTNZ.float()).square().mean((-1, -2)) for said in (mean, x))
        return missed + (0.9 * tau + 0.1) * off

    def example(self, lead: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Decoder.example`; N is the decoder's own, and a fresh denoiser leaves what is sure as it is."""
        z = torch.randn(*lead[:-1], *self.shape, generator=generator, dtype=torch.float64)
        return z, z
