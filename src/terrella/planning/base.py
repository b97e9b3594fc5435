"""What a planner is, and the loop of those that sample: draw candidates, imagine them, look closer where it was good.

A sampling planner is a rule for the last of these: how much each candidate counts (`weights`), and what becomes of the
search (`update`). Everything else is here once: candidates are branches of the states handed in (`State.fork`), those
of one problem under one key of chance, so that no plan wins by luck; the best plan ever imagined is what is returned;
the plan to start from is a candidate itself, so that it is never made worse; budgets are kept exactly.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from ..config import from_json
from ..engine import Engine, Frame, Trail
from ..errors import ActionError, ConfigError
from ..registry import lookup
from ..spec import WorldSpec
from .objective import Future, Objective, as_objective
from .search import Search, Space, draw_noise


class Sessions(Protocol):
    """What planners need of a state: B sessions as a value, as `terrella.State` is."""

    @property
    def batch(self) -> int:
        """B."""
        ...

    @property
    def seeds(self) -> Tensor:
        """The key of each session's chance, int64 `(B,)`."""
        ...

    @property
    def time(self) -> Tensor:
        """Frames that each session has seen, int64 `(B,)`."""
        ...

    def fork(self, n: int = 1) -> Any:
        """Branch each session n times, branches side by side; this state stays usable."""
        ...

    def select(self, indices: Sequence[int]) -> Any:
        """Copy the sessions at `indices`; this state stays usable."""
        ...


class Model(Protocol):
    """What planners need of an engine: `terrella.Engine`, or a simulator with the same surface."""

    @property
    def spec(self) -> WorldSpec:
        """What observations and actions look like."""
        ...

    @property
    def steps(self) -> int:
        """Evaluations of the model that one frame takes: the denoising steps of a world."""
        ...

    def rollout(self, state: Any, actions: np.ndarray, *, observe: bool = True) -> tuple[Any, Frame]:
        """Take actions `(B, T, W)`; as `Engine.rollout`."""
        ...


@dataclass(frozen=True)
class Trace:
    """How a plan was found, a row an iteration (I of them).

    best: cost of the best plan so far, `(I, B)`. mean: mean cost of the candidates, each counted as the planner does
    (the elites of CEM), `(I, B)`. spread: how undecided the search was afterwards, `(I, B)`. steps: model evaluations
    taken so far for one problem, frames times denoising steps, int64 `(I,)`.
    """

    best: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The best plan found for each of B problems.

    actions: rows `(B, H, W)`, as `Engine.step` takes them one after another. cost: `(B,)`, what it cost in imagination.
    search: where the planner would look next (a tree: how it would choose the first action, H = 1).
    """

    actions: np.ndarray
    cost: np.ndarray
    trace: Trace
    search: Search = field(repr=False)

    def shifted(self, by: int = 1) -> np.ndarray:
        """What is left of the plan after its first actions, `(B, H, W)`; its last action is repeated at the end."""
        index = np.minimum(np.arange(self.actions.shape[1]) + by, self.actions.shape[1] - 1)
        return self.actions[:, index]


@dataclass(frozen=True)
class Settings:
    """What all sampling planners share.

    horizon: actions a plan has, H. candidates: imagined each iteration, S. iterations: without a budget. spread: of
    the first candidates: deviation of numbers in halves of their ranges, and around a given plan the share of
    choices drawn anew. beta: neighbouring steps are alike as noise of spectrum 1/f^beta is (0: not at all).
    max_rows: sessions imagined at a time.

    Raises `ConfigError` for values out of range.
    """

    horizon: int = 12
    candidates: int = 64
    iterations: int = 4
    spread: float = 0.5
    beta: float = 0.0
    max_rows: int = 256

    def __post_init__(self) -> None:
        if min(self.horizon, self.candidates, self.iterations, self.max_rows) < 1:
            raise ConfigError(
                f"horizon {self.horizon}, candidates {self.candidates}, iterations {self.iterations} and max_rows "
                f"{self.max_rows} must all be at least 1."
            )
        if not self.spread > 0 or not self.beta >= 0:
            raise ConfigError(f"spread is {self.spread}, beta {self.beta}; expected more than 0, and at least 0.")


@dataclass(frozen=True)
class Refitting(Settings):
    """What planners share whose search follows the weighted candidates.

    alpha: share of the old search that stays. floor: the least spread, so that no number or choice is ever settled:
    deviation in halves of ranges, and the share of choices that stays uniform.
    """

    alpha: float = 0.0
    floor: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < 1 or not 0 <= self.floor <= 1:
            raise ConfigError(f"alpha is {self.alpha}, floor {self.floor}; expected 0 to below 1, and 0 to 1.")


@dataclass(frozen=True)
class Request:
    """What `Planner.plan` was asked for, checked. start: rows `(B, H, W)` within bounds, or None. The rest as there."""

    engine: Any
    state: Any
    objective: Objective
    space: Space
    start: np.ndarray | None
    seed: int
    budget_steps: int | None
    budget_ms: float | None
    clock: Callable[[], float]


class Planner(ABC):
    """Searches for the actions of least cost. A final class says how, in `solve`.

    `Config` holds its settings, `horizon` among them: the actions that a plan has, H. Register with
    `@register("planner", name)`; `make_planner(name)` then makes it.
    """

    name: ClassVar[str]
    Config: ClassVar[type]

    def __init__(self, config: Any):
        self.config = config

    @abstractmethod
    def solve(self, request: Request) -> Plan:
        """Plan what `plan` was asked for."""

    def plan(
        self,
        engine: Any,
        state: Any,
        objective: Objective | Callable[[Future], np.ndarray],
        *,
        start: Plan | np.ndarray | None = None,
        seed: int = 0,
        budget_steps: int | None = None,
        budget_ms: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Plan:
        """Find actions for every session of `state`, B problems side by side, none of which touches another.

        engine: an `Engine`, with a state of it, or a simulator with the same surface. objective: what to minimise.
        start: a plan to begin from (`Plan.shifted` of the last one), which is never made worse. seed: of what is drawn,
        with each session's own seed and time: equal states get equal plans. budget_steps: evaluations of the model
        (frames times denoising steps) for each problem; never more. budget_ms: milliseconds for all of them; something
        is always planned. clock: seconds.

        `state` stays as it is. Raises `ConfigError` for a budget that is too small and for costs that do not fit,
        `ActionError` for a start or actions that do not, and what the engine raises.
        """
        wanted, space = as_objective(objective), Space(engine.spec.action)
        given = None if start is None else _checked(start, (state.batch, self.config.horizon, space.width), space)
        return self.solve(Request(engine, state, wanted, space, given, seed, budget_steps, budget_ms, clock))


class SamplingPlanner(Planner):
    """Draws candidates. A final class says how much they count and where to look next."""

    Config: ClassVar[type[Settings]] = Settings

    @abstractmethod
    def weights(self, cost_BS: np.ndarray) -> np.ndarray:
        """How much each candidate counts, `(B, S)`, sums of 1. Costs may be infinite, never NaN."""

    @abstractmethod
    def update(self, search: Search, rows_BSHW: np.ndarray, weight_BS: np.ndarray) -> Search:
        """Where to look after these candidates."""

    def begin(self, space: Space, batch: int, start: np.ndarray | None) -> Search:
        """Where to look first; start: a plan to begin from, `(B, H, W)`."""
        return Search.begin(space, batch, self.config.horizon, self.config.spread, start)

    def population(self, iteration: int) -> int:
        """How many candidates are imagined in an iteration."""
        del iteration
        return self.config.candidates

    @property
    def kept(self) -> int:
        """How many of the best candidates, with what they cost, stay for the next iteration."""
        return 0

    @property
    def centred(self) -> bool:
        """Whether the most likely plan is a candidate of every iteration but the first."""
        return False

    def solve(self, request: Request) -> Plan:
        """See `Planner.plan`.

        start: the first candidate, without it the middle of the action space is (the first of choices). budget_steps:
        instead of `iterations`, go on until so many evaluations are spent; at least one candidate. budget_ms: go on
        while another iteration as slow as the slowest would fit; one is always made.
        """
        config, engine, state, space = self.config, request.engine, request.state, request.space
        batch, given, budget_ms, clock = state.batch, request.start, request.budget_ms, request.clock
        price = config.horizon * engine.steps
        left = _rollouts(request.budget_steps, price)
        iterations = config.iterations if left is None and budget_ms is None else None
        search = self.begin(space, batch, given)
        best_rows, best_cost = np.empty((batch, config.horizon, space.width)), np.full(batch, np.inf)
        kept_rows, kept_cost = np.empty((batch, 0, config.horizon, space.width)), np.empty((batch, 0))
        lines: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []
        began, slowest, spent = clock(), 0.0, 0
        for i in itertools.count():
            now = clock()
            count = self.population(i) if left is None else min(self.population(i), left - spent)
            late = budget_ms is not None and 1e3 * (now - began + slowest) > budget_ms
            if count == 0 or i == iterations or (late and i > 0):
                break
            shape = count, config.horizon, search.noise_width
            noise = draw_noise(state.seeds, state.time * _MOST_ITERATIONS + i, request.seed, shape, config.beta)
            rows = search.sample(noise)
            if i == 0 or self.centred:
                rows[:, 0] = search.mode() if i > 0 or given is None else given
            cost = imagine(engine, state, rows, request.objective, config.max_rows)
            first = cost.argmin(1)
            better = np.take_along_axis(cost, first[:, None], 1)[:, 0] < best_cost
            if i == 0:
                better[:] = True  # even where every candidate is refused, one of them is the plan
            best_rows[better], best_cost[better] = rows[better, first[better]], cost[better, first[better]]
            rows, cost = np.concatenate([kept_rows, rows], 1), np.concatenate([kept_cost, cost], 1)
            weight = self.weights(cost)
            search = self.update(search, rows, weight)
            order = cost.argsort(1, kind="stable")[:, : self.kept]
            kept_rows, kept_cost = rows[np.arange(batch)[:, None], order], np.take_along_axis(cost, order, 1)
            spent, slowest = spent + count, max(slowest, clock() - now)
            counted = (weight * np.where(weight > 0, cost, 0.0)).sum(1)
            lines.append((best_cost.copy(), counted, search.spread(), spent * price))
        best, mean, spread, steps = (np.array(column) for column in zip(*lines))
        return Plan(best_rows, best_cost, Trace(best, mean, spread, steps), search)


_MOST_ITERATIONS = 1 << 20  # so that no two iterations of a session's life share their noise


def imagine(engine: Model, state: Sessions, rows_BSHW: np.ndarray, objective: Objective, max_rows: int) -> np.ndarray:
    """What S plans for each of B sessions cost, `(B, S)`, imagined in branches of `state`, `max_rows` at a time.

    Raises `ConfigError` where the objective does not give one number each.
    """
    batch, count, horizon, width = rows_BSHW.shape
    cost = np.empty((batch, count))
    problems = min(batch, max_rows)
    each = max(1, max_rows // problems)
    for b in range(0, batch, problems):
        some = range(b, min(b + problems, batch))
        part = state if len(some) == batch else state.select(some)
        for s in range(0, count, each):
            rows = rows_BSHW[b : b + problems, s : s + each]
            flat = np.ascontiguousarray(rows.reshape(-1, horizon, width))
            past = recalled(engine, part)
            _, frame = engine.rollout(part.fork(rows.shape[1]), flat, observe=objective.observe)
            branch = np.repeat(np.arange(len(some)), rows.shape[1])
            trail = None if past is None else past.take(branch).then(frame.latent, flat)
            seen = frame.reward, frame.terminated, frame.observation
            given = costs(objective, Future(flat, *seen, branch + some.start, trail))
            cost[b : b + problems, s : s + each] = given.reshape(rows.shape[:2])
    return cost


def recalled(engine: Any, state: Any) -> Trail | None:
    """The frames before a state as latents, for heads; None from an engine that recalls none."""
    return engine.recent(state) if isinstance(engine, Engine) and engine.recall else None


def costs(objective: Objective, future: Future) -> np.ndarray:
    """What R futures cost, `(R,)`; raises `ConfigError` where the objective does not give one number each."""
    given = objective.cost(future)
    if np.shape(given) != (len(future.rows),) or not (given > -np.inf).all():
        raise ConfigError(
            f"the objective gave shape {np.shape(given)} for {len(future.rows)} futures, or NaN or -infinity among "
            "them; expected one number each, infinity for a future that is out of the question."
        )
    return given


def make_planner(name: str, **settings: Any) -> Planner:
    """Make a planner by its name: `make_planner("icem", horizon=12, candidates=64)`.

    Raises `UnknownName` for a planner there is not, `ConfigError` for settings it has not.
    """
    cls = lookup("planner", name)
    return cls(from_json(cls.Config, settings, f"planner {name}"))


def _rollouts(budget_steps: int | None, price: int) -> int | None:
    if budget_steps is not None and budget_steps < price:
        raise ConfigError(
            f"budget_steps is {budget_steps}, but one candidate takes {price} (horizon times denoising steps); give "
            "more, or plan less far ahead."
        )
    return None if budget_steps is None else budget_steps // price


def _checked(start: Plan | np.ndarray, shape: tuple[int, int, int], space: Space) -> np.ndarray:
    """A plan to start from as rows `(B, H, W)` within bounds; raises `ActionError` for another shape."""
    rows = np.asarray(start.actions if isinstance(start, Plan) else start, np.float64)
    if rows.shape != shape or not np.isfinite(rows).all():
        raise ActionError(f"a start has shape {rows.shape}; expected {shape} for these sessions, every number finite.")
    return space.clip(rows)
