"""Gradient descent on actions, through the world.

    a <- P(a - eta dC/da),   eta = |s|^2 / s.y  after a step that helped, s and y being what it changed in a and dC/da

Several starts go down side by side, each with a step of its own: what does not help is taken back and the step made
smaller, so no cost ever rises. P brings numbers back within their bounds (`clip`), or there are none to be left, since
what is learned passes through a tanh. Numbers are measured in halves of their ranges, from their middles.

Ref: Barzilai and Borwein, IMA Journal of Numerical Analysis 8 (1988), for the step. Differs: with backtracking by a
factor, and a first step that changes no number by more than `rate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ..engine import Dream
from ..errors import ConfigError
from ..registry import register
from .base import Model, Plan, Planner, Request, Sessions, Trace, recalled
from .objective import Objective
from .search import Search, Space, draw_noise
from .smooth import SmoothFuture, smooth_cost


class Differentiable(Model, Protocol):
    """A `Model` whose futures have a gradient: `terrella.Engine`, for the worlds that do."""

    def dream(self, state: Any, actions: Tensor, *, observe: bool = True) -> Dream:
        """Take actions `(B, T, W)` with a gradient by them; as `Engine.dream`."""
        ...


@dataclass(frozen=True)
class GradientSettings:
    """horizon: actions a plan has, H. restarts: starts, S: the given plan (or the middle of the action space), and
    others drawn around it with `spread`, in halves of ranges. iterations: without a budget. rate: the largest change of
    a number in the first step, in halves of its range. bounds: how they are kept. max_rows: sessions at a time.
    """

    horizon: int = 8
    restarts: int = 4
    iterations: int = 20
    spread: float = 0.5
    rate: float = 0.1
    bounds: Literal["clip", "tanh"] = "clip"
    max_rows: int = 64

    def __post_init__(self) -> None:
        if min(self.horizon, self.restarts, self.iterations, self.max_rows) < 1 or not min(self.spread, self.rate) > 0:
            raise ConfigError(
                f"horizon {self.horizon}, restarts {self.restarts}, iterations {self.iterations} and max_rows "
                f"{self.max_rows} must be at least 1, spread {self.spread} and rate {self.rate} more than 0."
            )


@register("planner", "gradient")
class Gradient(Planner):
    """The descent above, for actions that are numbers.

    A cost is that of a `Dream`, in which pictures are not rounded. An evaluation counts once, though the way back takes
    about twice as long as the way there. Trace: `mean` is over the starts, `spread` says how far apart they are.
    """

    Config: ClassVar[type[GradientSettings]] = GradientSettings

    def solve(self, request: Request) -> Plan:
        """See `Planner.plan`; budgets as of sampling planners.

        Raises `ConfigError` also for actions that are not numbers, for a world without a gradient, and for functions
        that are not written with torch.
        """
        config, engine, state, space = self.config, request.engine, request.state, request.space
        objective, batch, given = request.objective, state.batch, request.start
        budget_steps, budget_ms, clock = request.budget_steps, request.budget_ms, request.clock
        if len(space.picks) or space.whole.any():
            raise ConfigError("these actions are choices, which have no gradient; plan with cem, beam or mcts.")
        price = config.horizon * engine.steps
        most = np.inf if budget_steps is None else budget_steps // price
        if most < 1:
            raise ConfigError(f"budget_steps is {budget_steps}, but one start takes {price}; give more.")
        search = Search.begin(space, batch, config.horizon, config.spread, given)
        count = int(min(config.restarts, most))
        noise = draw_noise(state.seeds, state.time, request.seed, (count, config.horizon, search.noise_width))
        rows = search.sample(noise)
        rows[:, 0] = search.mode() if given is None else given
        limit = config.iterations if budget_steps is None and budget_ms is None else np.inf
        chart, began, slowest, now = _Chart(space, config.bounds), clock(), 0.0, clock()
        x = chart.enter(torch.from_numpy(rows))
        cost, slope = self._evaluate(engine, state, objective, chart, x)
        step = config.rate / slope.abs().amax((2, 3)).clamp(min=1e-12)
        lines, done = [], 1
        while True:
            rows = chart.leave(x).numpy()
            share = np.full((batch, count), 1 / count)
            search = search.refitted(rows, share)
            known = np.where(np.isfinite(cost), cost, 0.0).sum(1) / np.maximum(np.isfinite(cost).sum(1), 1)
            lines.append((cost.min(1), known, search.spread(), done * count * price))
            slowest, now = max(slowest, clock() - now), clock()
            late = budget_ms is not None and 1e3 * (now - began + slowest) > budget_ms
            if done == limit or (done + 1) * count > most or late:
                break
            trial = chart.bound(x - step[..., None, None] * slope)
            after, steeper = self._evaluate(engine, state, objective, chart, trial)
            done += 1
            better = torch.from_numpy(after < cost)
            moved, bent = trial - x, steeper - slope
            curve = (moved * bent).sum((2, 3))
            newton = moved.square().sum((2, 3)) / curve.clamp(min=1e-12)
            step = torch.where(better, torch.where(curve > 1e-12, newton, 2 * step), step / 4)
            x = torch.where(better[..., None, None], trial, x)
            slope = torch.where(better[..., None, None], steeper, slope)
            cost = np.where(better.numpy(), after, cost)
        best, mean, spread, steps = (np.array(column) for column in zip(*lines))
        first = cost.argmin(1)
        actions = space.clip(rows[np.arange(batch), first])
        return Plan(actions, cost[np.arange(batch), first], Trace(best, mean, spread, steps), search)

    def _evaluate(
        self, engine: Differentiable, state: Sessions, objective: Objective, chart: _Chart, x: Tensor
    ) -> tuple[np.ndarray, Tensor]:
        """Costs `(B, S)`, infinite where they are no numbers, and their gradient by `x`, `(B, S, H, W)`."""
        batch, count = x.shape[:2]
        cost, slope, flat = np.empty(batch * count), torch.zeros_like(x).flatten(0, 1), x.flatten(0, 1)
        problem = np.repeat(np.arange(batch), count)
        for s in range(0, len(flat), self.config.max_rows):
            some = slice(s, min(s + self.config.max_rows, len(flat)))
            part = flat[some].detach().requires_grad_()
            rows = chart.leave(part)
            branches = state.select(problem[some].tolist())
            dreamed, past = engine.dream(branches, rows, observe=objective.observe), recalled(engine, branches)
            seen = SmoothFuture(
                rows.to(dreamed.reward),
                dreamed.reward,
                dreamed.terminated,
                dreamed.observation,
                problem[some],
                None if past is None else past.then(dreamed.latent, rows),
            )
            given = smooth_cost(objective, seen)
            if given.requires_grad:
                (slope[some],) = torch.autograd.grad(given.sum(), part)
            cost[some] = given.detach().double().cpu().numpy()
        whole = slope.flatten(1).isfinite().all(1).numpy() & np.isfinite(cost)
        slope[~torch.from_numpy(whole)] = 0.0
        return np.where(whole, cost, np.inf).reshape(batch, count), slope.unflatten(0, (batch, count))


class _Chart:
    """Between rows of actions and the numbers that go downhill."""

    def __init__(self, space: Space, bounds: str):
        self.middle, self.half = torch.from_numpy(space.middle), torch.from_numpy(space.half)
        self.low = (torch.from_numpy(space.low) - self.middle) / self.half
        self.high = (torch.from_numpy(space.high) - self.middle) / self.half
        self.curved = torch.from_numpy(space.bounded & (bounds == "tanh"))

    def enter(self, rows: Tensor) -> Tensor:
        """From rows; on a bound, where a tanh would need infinity, a little inside."""
        x = (rows - self.middle) / self.half
        return torch.where(self.curved, x.clamp(-0.999, 0.999).atanh(), x)

    def leave(self, x: Tensor) -> Tensor:
        """To rows."""
        return self.middle + self.half * torch.where(self.curved, x.tanh(), x)

    def bound(self, x: Tensor) -> Tensor:
        """Bring numbers that have bounds back within them."""
        return torch.where(self.curved, x, torch.minimum(torch.maximum(x, self.low), self.high))
