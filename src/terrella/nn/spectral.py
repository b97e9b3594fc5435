"""A bound on the spectral norm of matrices: after each step of an optimiser they are scaled back into the ball.

    W <- W min(1, bound / |W|_2)

The norm is exact, the root of the largest eigenvalue of the smaller Gram matrix, so that nothing has to be remembered
from step to step; averages of weights inside the ball are inside, too.

Ref: Yoshida & Miyato, arXiv 1705.10941, and Miyato et al., arXiv 1802.05957 (spectral norms for stability). Differs:
a projection instead of a division inside the layer, so weights are saved as they are used; matrices below the bound are
left alone; no power iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def spectral_norms(weight: Tensor) -> Tensor:
    """Compute the spectral norm of matrices `(..., m, n)`, as `(...)`."""
    wide = weight.detach().float()
    wide = wide if wide.shape[-2] <= wide.shape[-1] else wide.transpose(-1, -2)
    return torch.linalg.eigvalsh(wide @ wide.transpose(-1, -2))[..., -1].clamp(min=0).sqrt()


class SpectralBound:
    """Holds the matrices of a module whose names begin with one of `prefixes` within `bound`: now, and by `hold`.

    A linear layer for each block is a matrix for each, so each block is bounded, and with it the whole.
    """

    def __init__(self, module: nn.Module, prefixes: tuple[str, ...], bound: float):
        self.bound = bound
        named = module.named_parameters()
        self.weights = [p for n, p in named if n.startswith(prefixes) and p.ndim in (2, 3) and min(p.shape[-2:]) > 1]
        self.hold()  # else an average that began outside would take long to come in

    @torch.no_grad()
    def hold(self) -> None:
        """Scale back what has left the ball."""
        for weight in self.weights:
            norms = spectral_norms(weight)[..., None, None]
            weight.mul_((self.bound / norms.clamp(min=self.bound)).to(weight.dtype))
