"""What a cached frame goes by: the steps of this frame so far (`Within`), or earlier frames at equal step (`Across`).

A rule says what to expect of a step (`guess`), which sessions would rather compute it (`wanted`), and takes what came
of it (`note`). All tensors have a row a session, and no row depends on another.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .forecast import Points, by_token, curvature, polynomial

RESIDUAL, ROW, LEFT = "cache.residual", "cache.row", "cache.left"


class Rule(Protocol):
    """What `Within` and `Across` have in common."""

    def guess(self, step: int) -> Tensor:
        """Forecast a step after the first, `(B, N, Z)`."""
        ...

    def wanted(self, step: int, by_BNX: Tensor, guess_BNZ: Tensor) -> Tensor:
        """Which sessions should compute it, bool `(B,)`, by its input or what the first layer makes of it."""
        ...

    def note(self, step: int, by_BNX: Tensor, x_BNZ: Tensor, computed_B: Tensor) -> None:
        """Take what `wanted` went by and the value of a step, and which sessions computed it."""
        ...

    def kept(self) -> dict[str, Tensor]:
        """What the sessions remember for their next frame."""
        ...


class Within:
    """Forecasts a step from the computed ones of the same frame.

    rule: `schedule` (mask), `change`, `drift` or `layer`. The change since the last computed step is that of the input
    times how much the value moved with it when both were last seen: `sum |dz| g / |x|`, `g = |dx| / |dz|`. The drift is
    `sum mean(curvature |guess - guess before|)` over tokens. `layer` goes by `|r - r'| / |r'|`: r is what the first
    layer adds, r' what it added at the last computed step.
    """

    def __init__(
        self,
        rule: str,
        mask: tuple[bool, ...],
        *,
        first: int,
        threshold: float,
        furthest: int,
        order: int,
        tokens: bool,
        grid: tuple[int, int] | None,
    ):
        self.rule, self.mask, self.first, self.threshold, self.furthest = rule, mask, first, threshold, furthest
        self.order, self.tokens, self.grid = order, tokens, grid
        self.points = Points()
        self.moved: Tensor | None = None  # (B,), since the last computed step
        self.before: tuple[Tensor, Tensor] | None = None  # input and value of the step before
        self.anchor: Tensor | None = None  # what the first layer added at the last computed step
        self.gain: Tensor | None = None  # (B,)

    def guess(self, step: int) -> Tensor:
        """See `Rule.guess`."""
        if self.tokens:
            return by_token(self.points, step, self.furthest)
        return polynomial(self.points, step, self.order, self.grid)

    def wanted(self, step: int, by_BNX: Tensor, guess_BNZ: Tensor) -> Tensor:
        """See `Rule.wanted`."""
        every = torch.ones(len(by_BNX), dtype=torch.bool, device=by_BNX.device)
        if self.rule == "schedule":
            return every & self.mask[step % len(self.mask)]
        if step < self.first or self.before is None or self.moved is None:
            return every
        z, x = self.before
        if self.rule == "change":
            gain = torch.ones_like(self.moved) if self.gain is None else self.gain
            self.moved = self.moved + gain * _size(by_BNX - z) / _size(x)
        elif self.anchor is not None:
            self.moved = _size(by_BNX - self.anchor) / _size(self.anchor)
        else:
            step_BN = (guess_BNZ - x).norm(dim=-1)
            self.moved = self.moved + (curvature(self.points) * step_BN).mean(-1)
        return (self.moved >= self.threshold) | (self.points.since(step) > self.furthest)

    def note(self, step: int, by_BNX: Tensor, x_BNZ: Tensor, computed_B: Tensor) -> None:
        """See `Rule.note`."""
        self.points.add(step, x_BNZ, computed_B)
        if self.rule == "layer":
            self.anchor = by_BNX if self.anchor is None else torch.where(computed_B[:, None, None], by_BNX, self.anchor)
        elif self.before is not None:
            gain = _size(x_BNZ - self.before[1]) / _size(by_BNX - self.before[0])
            self.gain = gain if self.gain is None else torch.where(computed_B, gain, self.gain)
        moved = torch.zeros_like(x_BNZ[:, 0, 0]) if self.moved is None else self.moved
        self.moved = torch.where(computed_B, 0, moved)
        self.before = by_BNX, x_BNZ

    def kept(self) -> dict[str, Tensor]:
        """See `Rule.kept`: nothing outlives the frame."""
        return {}


class Across:
    """Computes the first step; the others differ from it as they did in an earlier frame of the session.

    After a frame computed in full the next `furthest` ones are forecast, as long as the action stays the same.
    """

    def __init__(self, memory: dict[str, Tensor], row_BW: Tensor, furthest: int):
        self.memory, self.row, self.furthest = memory, row_BW, furthest
        self.fresh = (memory[LEFT] <= 0) | (memory[ROW] != row_BW.to(memory[ROW].dtype)).any(-1)
        self.first: Tensor | None = None
        self.later: list[Tensor] = []
        self.whole = self.fresh  # computed in full, be it because a guard asked

    def guess(self, step: int) -> Tensor:
        """See `Rule.guess`."""
        assert self.first is not None
        return self.first + self.memory[RESIDUAL][:, step - 1]

    def wanted(self, step: int, by_BNX: Tensor, guess_BNZ: Tensor) -> Tensor:
        """See `Rule.wanted`."""
        del step, by_BNX, guess_BNZ
        return self.fresh

    def note(self, step: int, by_BNX: Tensor, x_BNZ: Tensor, computed_B: Tensor) -> None:
        """See `Rule.note`."""
        del by_BNX
        if step == 0:
            self.first = x_BNZ
        elif self.first is not None:
            self.whole = computed_B
            self.later.append(x_BNZ - self.first)

    def kept(self) -> dict[str, Tensor]:
        """See `Rule.kept`."""
        old = self.memory
        residual = torch.stack(self.later, 1) if self.later else old[RESIDUAL]
        left = torch.where(self.whole, float(self.furthest), (old[LEFT] - 1).float())
        return {
            RESIDUAL: torch.where(self.whole[:, None, None, None], residual, old[RESIDUAL]).to(old[RESIDUAL].dtype),
            ROW: self.row.to(old[ROW].dtype),
            LEFT: left.to(old[LEFT].dtype),
        }


def best_mask(values_SBNZ: Tensor, computed: int) -> tuple[bool, ...]:
    """Choose which `computed` of S denoising steps to compute, the others reusing the last computed one.

    values: what the network expected at each step of a rollout in full. Minimises the sum of absolute differences of
    each reused step to the one it reuses, exactly, by dynamic programming over the lengths of runs. The first step is
    always computed. Raises nothing: `computed` is held within 1 and S.
    """
    steps = len(values_SBNZ)
    computed = min(max(1, computed), steps)
    flat = values_SBNZ.flatten(1).double()
    apart = torch.cdist(flat, flat, p=1)  # (S, S)
    cost = apart.triu().cumsum(1)  # cost[i, j]: computing i, reusing it up to j
    best = torch.full((computed + 1, steps + 1), torch.inf, dtype=torch.float64)
    start = torch.zeros(computed + 1, steps + 1, dtype=torch.int64)
    best[0, 0] = 0
    for runs in range(1, computed + 1):
        for end in range(runs, steps + 1):
            totals = best[runs - 1, :end] + cost[:end, end - 1]
            best[runs, end], start[runs, end] = totals.min(0)
    mask, end = [False] * steps, steps
    for runs in range(computed, 0, -1):
        end = int(start[runs, end])
        mask[end] = True
    return tuple(mask)


def _size(x: Tensor) -> Tensor:
    return x.abs().flatten(1).mean(1).clamp(min=1e-8)
