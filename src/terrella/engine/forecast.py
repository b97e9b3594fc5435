"""From the last computed denoising steps to the next one: polynomials through them, by band or by token.

A point is a step's number `s` and the network's expectation `F` of the clean frame there. With the last three points

    v1 = (F0 - F1) / (s0 - s1)        v2 = (F1 - F2) / (s1 - s2)        D2 = (v1 - v2) / (s0 - s2)
    F(s) = F0 + P[(s - s0) v1 + (s - s0) (s - s1) D2]

which is Newton's interpolation: exact on quadratics for any spacing. Each session has points of its own.

Ref: Liu et al., TaylorSeer, arXiv 2503.06923 (forecast instead of reuse); Liu et al., FreqCa, arXiv 2510.08669 (P keeps
high frequencies: the low ones are reused); Feng et al., WorldCache, arXiv 2603.06331 (tokens by curvature, damping).
Differs: TaylorSeer and FreqCa take evenly spaced points, and FreqCa's second-order term is moved by a constant, so that
it is not exact on a straight line; frequencies are those of the token grid, split by means over 2x2 places.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

POINTS = 3
_TINY = 1e-8


@dataclass
class Points:
    """The last computed steps of each session: numbers `(B,)` and values `(B, N, Z)`, the latest first."""

    at: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, step: int, x_BNZ: Tensor, computed_B: Tensor) -> None:
        """Take the values of a step for those sessions that computed it."""
        if not self.values:
            self.at = [x_BNZ.new_full(x_BNZ.shape[:1], step - i) for i in range(POINTS)]
            self.values = [x_BNZ] * POINTS  # as if nothing had changed before
            return
        now = torch.full_like(self.at[0], step)
        self.at = _shift(now, self.at, computed_B)
        self.values = _shift(x_BNZ, self.values, computed_B[:, None, None])

    def since(self, step: int) -> Tensor:
        """How many steps ago each session computed, `(B,)`."""
        return step - self.at[0]

    def slopes(self) -> tuple[Tensor, Tensor]:
        """The last two slopes a step, `(B, N, Z)`, the latest first."""
        (s0, s1, s2), (f0, f1, f2) = self.at, self.values
        return (f0 - f1) / _wide(s0 - s1), (f1 - f2) / _wide(s1 - s2)

    def bend(self) -> Tensor:
        """The second divided difference, `(B, N, Z)`."""
        v1, v2 = self.slopes()
        return (v1 - v2) / _wide(self.at[0] - self.at[2])


def polynomial(points: Points, step: int, order: int, grid: tuple[int, int] | None = None) -> Tensor:
    """Continue to `step` with a polynomial of `order` 0, 1 or 2, `(B, N, Z)`.

    grid: height and width of the tokens, where only what is fine on it is continued and the rest is reused.
    """
    change = torch.zeros_like(points.values[0])
    if order >= 1:
        change = _wide(step - points.at[0]) * points.slopes()[0]
    if order >= 2:
        change = change + _wide((step - points.at[0]) * (step - points.at[1])) * points.bend()
    return points.values[0] + (change if grid is None else fine(change, grid))


def fine(x_BNZ: Tensor, grid: tuple[int, int]) -> Tensor:
    """What differs from the mean over 2x2 neighbours on the token grid: a linear projection."""
    image = x_BNZ.transpose(1, 2).unflatten(2, grid)
    pool = [2 - n % 2 for n in grid]  # an odd side is not pooled
    low = F.avg_pool2d(image, pool).repeat_interleave(pool[0], 2).repeat_interleave(pool[1], 3)
    return x_BNZ - low.flatten(2).transpose(1, 2)


def curvature(points: Points) -> Tensor:
    """How much each token's path bends, `(B, N)`: 0 on a straight line."""
    v1, _ = points.slopes()
    return points.bend().norm(dim=-1) * 2 / (v1.square().sum(-1) + _TINY)


def by_token(points: Points, step: int, furthest: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    """Reuse tokens that barely bend, continue the middle ones straight, and damp those that bend most, `(B, N, Z)`.

    low, high: the quantiles of curvature, in a session's frame, that part the three. furthest: steps after which the
    slope of a bending token is wholly the older one.
    """
    bends = curvature(points)
    calm, wild = (bends.float().quantile(q, dim=1, keepdim=True).to(bends.dtype) for q in (low, high))
    k = _wide(points.since(step))
    v1, v2 = points.slopes()
    x = (k / furthest).clamp(max=1)
    share = 3 * x.square() - 2 * x**3
    slope = torch.where((bends > wild)[..., None], (1 - share) * v1 + share * v2, v1)
    return points.values[0] + torch.where((bends < calm)[..., None], 0, k * slope)


def _shift(new: Tensor, old: list[Tensor], computed: Tensor) -> list[Tensor]:
    return [torch.where(computed, a, b) for a, b in zip([new, *old[:-1]], old)]


def _wide(x_B: Tensor) -> Tensor:
    return x_B[:, None, None]
