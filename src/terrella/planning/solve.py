"""Test-time thinking: how deep, how wide, and which answer to keep.

Every problem is begun `starts` times and iterated `iters` times; one answer is chosen by how well its latent came to
rest, by how many starts agree on it, or by a cost that can be read off the problem.

Ref: Equilibrium Reasoners, arXiv 2605.21488 (depth, breadth, top-1 converged, majority). Differs: answers are ranked by
the residual of the latent, where the published code ranks by the change of the logits; rows stop by their residual,
where it stops by the learned halt; noise belongs to (seed, problem, start), so that neighbours cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.equilibrium import settle
from ..nn.noise import REASON, RowNoise, row_keys
from .equilibrium import Problem, Reasoner

Select = Literal["residual", "vote", "cost"]
Cost = Callable[[Tensor, Tensor], Tensor]
"""Problems `(B, h, w)` and answers `(B, S, h, w)` -> costs `(B, S)`, the lower the better. It never sees the truth."""
LAST = 3  # residuals whose mean says how well a row rests


@dataclass(frozen=True)
class Solution:
    """What was found for B problems from S starts each.

    answers: int64 `(B, h, w)`, those chosen. chosen: the start of each, int64 `(B,)`. candidates: int64 `(B, S, h, w)`.
    residuals: mean of the last three, `(B, S)`. votes: starts with the same answer, int64 `(B, S)`. halt: logits of
    the learned halt, `(B, S)`. steps: iterations made, int64 `(B, S)`. halted: whether the residual fell below the
    tolerance, `(B, S)`. costs: `(B, S)`, of zeros where no cost was given.
    """

    answers: Tensor
    chosen: Tensor
    candidates: Tensor
    residuals: Tensor
    votes: Tensor
    halt: Tensor
    steps: Tensor
    halted: Tensor
    costs: Tensor


@torch.no_grad()
def solve(
    reasoner: Reasoner,
    problems: Tensor,
    *,
    iters: int = 16,
    starts: int = 1,
    select: Select = "residual",
    tol: float = 0.0,
    seed: int = 0,
    damping: float | None = None,
    noise: float | None = None,
    cost: Cost | None = None,
    rows: int = 1024,
) -> Solution:
    """Answer problems, integers `(B, h, w)`.

    iters: iterations at most. tol: a row whose residual falls below it rests; 0 lets all run. damping, noise: None is
    as trained; noise 0 makes residuals sharper. select: see `choose`. rows: starts computed at once, which bounds
    memory and changes nothing else. The same seed gives the same answers, in any company within rounding.

    Raises `ConfigError` for settings that make no sense, `PuzzleError` for problems of another shape.
    """
    _require(reasoner, starts, select, rows, noise, cost)
    problems = problems.to(next(reasoner.parameters()).device).long()
    each = max(1, rows // starts)
    parts = [_solve(reasoner, p, iters, starts, tol, seed, damping, noise) for p in problems.split(each)]
    candidates, residuals, halt, steps, halted = (torch.cat(part) for part in zip(*parts))
    votes = count_votes(candidates)
    costs = torch.zeros_like(residuals) if cost is None else cost(problems, candidates).to(residuals.dtype)
    chosen = choose(select, residuals, votes, costs)
    answers = candidates[torch.arange(len(chosen), device=chosen.device), chosen]
    return Solution(answers, chosen, candidates, residuals, votes, halt, steps, halted, costs)


def launch(reasoner: Reasoner, problems: Tensor, starts: int = 1, seed: int = 0) -> tuple[Tensor, Problem, RowNoise]:
    """Begin problems int64 `(B, h, w)` from S starts each: latents `(B S, 2, N, D)`, the problems, their noise."""
    keys = row_keys(problems.flatten(1), seed)[:, None, None]  # a problem's noise is its own wherever it stands
    start = torch.arange(starts, device=problems.device)[None, :, None].expand(len(problems), -1, 1)
    noise = RowNoise(row_keys(torch.cat([keys.expand_as(start), start], -1)).flatten(), REASON)
    problem = reasoner.enter(problems.repeat_interleave(starts, 0))
    return reasoner.begin(problem.x, noise), problem, noise


def choose(select: Select, residuals: Tensor, votes: Tensor, costs: Tensor) -> Tensor:
    """Choose a start for each problem, all inputs `(B, S)`: int64 `(B,)`.

    `residual` takes the smallest residual, `vote` the answer that most starts gave, `cost` the cheapest; ties go to the
    smaller residual.
    """
    first = {"residual": torch.zeros_like(residuals), "vote": -votes.to(residuals.dtype), "cost": costs}[select]
    tied = first == first.amin(1, keepdim=True)
    worst = torch.finfo(residuals.dtype).max
    return residuals.nan_to_num(worst, worst).masked_fill(~tied, torch.inf).argmin(1)


def count_votes(candidates: Tensor) -> Tensor:
    """Count for each of S answers, integers `(B, S, h, w)`, how many of the S are equal to it: int64 `(B, S)`."""
    keys = row_keys(candidates.flatten(2))  # whole grids compared by a 64-bit hash
    return (keys[:, :, None] == keys[:, None, :]).sum(-1)


def _solve(
    reasoner: Reasoner,
    problems: Tensor,
    iters: int,
    starts: int,
    tol: float,
    seed: int,
    damping: float | None,
    noise: float | None,
) -> tuple[Tensor, ...]:
    """Candidates `(B, S, h, w)`, and residuals, halt logits, steps and halts, all `(B, S)`."""
    z, problem, source = launch(reasoner, problems, starts, seed)
    z, trace = settle(lambda z: reasoner.think(z, problem, damping, noise, source), z, iters, tol)
    logits, halt = reasoner.read(z)
    shape = len(problems), starts
    candidates = logits.argmax(-1).view(*shape, *problems.shape[1:])
    return candidates, *(part.view(shape) for part in (trace.last(LAST), halt, trace.steps, trace.halted))


def _require(reasoner: Reasoner, starts: int, select: str, rows: int, noise: float | None, cost: Cost | None) -> None:
    if starts < 1 or rows < 1:
        raise ConfigError(f"starts is {starts} and rows {rows}; expected counts from 1 on.")
    if select not in ("residual", "vote", "cost") or (select == "cost") > (cost is not None):
        raise ConfigError(
            f"select is {select!r}, with {'a' if cost else 'no'} cost; expected 'residual', 'vote', or 'cost' with one."
        )
    c = reasoner.config
    if starts > 1 and not c.random_start and not (c.noise if noise is None else noise):
        raise ConfigError(
            f"{starts} starts of a reasoner without random starts and noise are all the same; ask for one, "
            "or train with random_start=True."
        )
