"""Fixed points of a weight-tied update: iterate until little changes, each row of a batch for itself.

One application moves a latent z under an input u:

    z <- damping * z + (1 - damping) * f(z + u) + noise * e,        e ~ N(0, 1)

Its residual is the size of f(z + u) - z, which costs nothing more. If f has Lipschitz constant l < 1 around a fixed
point z*, then |z - z*| <= |f(z + u) - z| / (1 - l): a small residual certifies convergence, though not that z* is
right.

Ref: Equilibrium Reasoners, arXiv 2605.21488, the latent update and the bound of the section on theory; Bai et al., Deep
equilibrium models, arXiv 1909.01377. Differs: rows stop by their residual, where the published code has a learned halt
alone; the residual is taken before the fresh noise is added; plain iteration, no Anderson or Broyden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .noise import RowNoise

Random = torch.Generator | RowNoise | None
Map = Callable[[Tensor], Tensor]
Step = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trace:
    """How rows of a batch came to rest.

    residuals: `(I, B)` over the I iterations made; after its halt a row repeats its last one. steps: int64 `(B,)`,
    iterations that moved the row. halted: bool `(B,)`, whether its residual fell below the tolerance.
    """

    residuals: Tensor
    steps: Tensor
    halted: Tensor

    def last(self, count: int = 3) -> Tensor:
        """Mean of the last `count` residuals that each row had, `(B,)`; of fewer where a row made fewer."""
        back = self.steps - 1 - torch.arange(count, device=self.steps.device)[:, None]
        return (self.residuals.gather(0, back.clamp(min=0)) * (back >= 0)).sum(0) / (back >= 0).sum(0)


def iterate(
    f: Map,
    z0: Tensor,
    x: Tensor | float,
    iters: int,
    damping: float = 0.0,
    noise: float = 0.0,
    tol: float = 0.0,
    generator: Random = None,
) -> tuple[Tensor, Trace]:
    """Apply `f` to `z + x` over and over, from `z0` `(B, ...)`: the latent `(B, ...)` and the trace.

    iters: applications at most. tol: a row whose residual is below it takes this step and then rests, bit for bit; 0
    lets all run. generator: where noise comes from, a stream for the batch or a `RowNoise` with a key for each row.
    Gradients flow through all applications. Raises `ConfigError` for settings out of range.
    """
    _require(damping, noise)

    def step(z: Tensor) -> tuple[Tensor, Tensor]:
        moved, proposal = apply(f, z, x, damping, noise, generator)
        return moved, residual(proposal, z)

    return settle(step, z0, iters, tol)


def settle(step: Step, z: Tensor, iters: int, tol: float = 0.0) -> tuple[Tensor, Trace]:
    """Repeat `step`, which gives the next latent `(B, ...)` and residuals `(B,)`, as `iterate` does.

    All rows are computed until the last of them rests: shapes stay as they are. With a tolerance the device is waited
    for once a step, to see whether that is so. Raises `ConfigError` for settings out of range.
    """
    if iters < 1 or not 0 <= tol < float("inf"):
        raise ConfigError(f"iters is {iters} and tol {tol}; expected at least one iteration and a tolerance from 0 on.")
    running = torch.ones(len(z), dtype=torch.bool, device=z.device)
    steps, residuals = torch.zeros_like(running, dtype=torch.int64), []
    for _ in range(iters):
        moved, now = step(z)
        if tol and residuals:
            now = torch.where(running, now, residuals[-1])
            moved = torch.where(running.view(-1, *[1] * (z.ndim - 1)), moved, z)
        z = moved
        residuals.append(now)
        steps = steps + running
        running = running & ~(now < tol)  # a row that is not finite never rests
        if tol and not running.any():
            break
    return z, Trace(torch.stack(residuals), steps, ~running)


def apply(
    f: Map, z: Tensor, u: Tensor | float, damping: float, noise: float, generator: Random
) -> tuple[Tensor, Tensor]:
    """Apply `f` once: the next latent, and `f(z + u)`, both of the shape of `z`. No noise is drawn where it is 0."""
    proposal = f(z + u)
    moved = proposal.lerp(z, damping) if damping else proposal
    return (moved + noise * normal(z, generator) if noise else moved), proposal


def residual(proposal: Tensor, z: Tensor) -> Tensor:
    """Root mean square of `proposal - z` over each row, `(B, ...)` -> `(B,)`, in float32 at least.

    A mean, so that one tolerance serves latents of any size; the bound above holds in this norm as in any.
    """
    gap = (proposal - z).detach().flatten(1)
    wide = torch.promote_types(gap.dtype, torch.float32)
    return torch.linalg.vector_norm(gap, dim=1, dtype=wide) / gap.shape[1] ** 0.5


def normal(like: Tensor, generator: Random) -> Tensor:
    """Draw standard normal noise of the shape, type and device of `like`."""
    if isinstance(generator, RowNoise):
        return generator(like)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def truncated(noise: Tensor, bound: float = 2.0) -> Tensor:
    """Turn standard normal numbers into ones cut off at `bound` deviations and widened to unit variance again."""
    edge = torch.tensor(bound, dtype=torch.float64)
    inside = float(torch.erf(edge / 2**0.5))
    spread = (1 - 2 * float(edge * torch.exp(-(edge**2) / 2)) / (2 * torch.pi) ** 0.5 / inside) ** 0.5
    return torch.erfinv(torch.erf(noise / 2**0.5) * inside) * (2**0.5 / spread)


def _require(damping: float, noise: float) -> None:
    if not 0 <= damping < 1 or not 0 <= noise < float("inf"):
        raise ConfigError(f"damping is {damping} and noise {noise}; expected 0 <= damping < 1 and noise from 0 on.")
