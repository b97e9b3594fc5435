"""Which of several plans to take: the cheapest, the one most like the others, or the one that holds under other chance.

A search looks for what is cheap under one key of chance, and finds what that key favours. Other keys, which no search
has seen, say what a plan is worth: what it costs on average, or at worst. A search also finds what is cheap because the
world errs; heads that were fitted on recordings (`terrella.heads`) say which futures look as recorded ones do.

    B problems   P plans   K keys   H steps   W numbers in one action
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from ..engine import Engine
from ..errors import ConfigError
from ..registry import register
from .base import Model, Plan, Planner, Request, Sessions, Trace, imagine, make_planner
from .learned import Disagreement, Energy, Inconsistency
from .objective import Objective
from .search import Space

Rule = Literal["cost", "consensus", "mean", "worst", "inverse", "energy", "disagreement"]
HEADS = {"inverse": "inverse", "energy": "energy", "disagreement": "value"}  # what a rule asks


class Reseeded(Sessions, Protocol):
    """What verifying needs of a state beyond `Sessions`."""

    def reseed(self, seeds: Sequence[int]) -> Any:
        """The same sessions with other chance; this state may be consumed."""
        ...


def medoid(space: Space, rows: np.ndarray) -> np.ndarray:
    """Which of the plans `(B, P, H, W)` is nearest to all others on average, `(B,)`, the first of equals.

    Numbers differ by halves of their ranges, choices by whether they do.
    """
    numbers = rows[..., space.numbers] / np.where(space.half > 0, space.half, 1.0)
    picks = rows[..., space.picks]
    apart = np.abs(numbers[:, :, None] - numbers[:, None]).sum((3, 4))
    apart = apart + (picks[:, :, None] != picks[:, None]).sum((3, 4))
    return apart.sum(2).argmin(1)


def verified(
    engine: Model, state: Reseeded, rows: np.ndarray, objective: Objective, keys: int, max_rows: int = 256
) -> np.ndarray:
    """What plans `(B, P, H, W)` cost under `keys` other keys of chance, `(K, B, P)`, the same ones for all plans."""
    base = state.seeds.cpu() * 1_000_003
    again = (state.fork(1).reseed((base + 1 + k).tolist()) for k in range(keys))
    return np.stack([imagine(engine, other, rows, objective, max_rows) for other in again])


@dataclass(frozen=True)
class VerifiedSettings:
    """horizon: actions a plan has, H. inner, settings: what searches, by name. plans: searches, P, which differ in
    what they draw. rule: `cost`, the least; `consensus`, the medoid; `mean` or `worst`, the least under other keys of
    chance. keys: how many of these, K. Or by heads of the world, under as many keys, the plan whose future can be
    believed most on average: `inverse`, its frames look as if these actions had been taken; `energy`, its frames follow
    from one another; `disagreement`, it stays where the members of the value head agree. max_rows: sessions imagined
    at a time when verifying.
    """

    horizon: int = 12
    inner: str = "icem"
    settings: dict[str, Any] = field(default_factory=dict)
    plans: int = 4
    rule: Rule = "mean"
    keys: int = 4
    max_rows: int = 256

    def __post_init__(self) -> None:
        if min(self.horizon, self.plans, self.keys, self.max_rows) < 1 or self.inner == "verified":
            raise ConfigError(
                f"horizon {self.horizon}, plans {self.plans}, keys {self.keys} and max_rows {self.max_rows} must be at "
                f"least 1, and the planner another one than this (it is {self.inner!r})."
            )


@register("planner", "verified")
class Verified(Planner):
    """Lets another planner search several times, and chooses among its plans.

    Worth it for planners that draw: one that tries everything finds the same plan each time. `Plan.cost` is by the
    rule, or what the search said where heads choose. Trace: an iteration is a search, `mean` what its plan cost under
    its own chance.
    """

    Config: ClassVar[type[VerifiedSettings]] = VerifiedSettings

    def __init__(self, config: Any):
        super().__init__(config)
        self.inner = make_planner(config.inner, **{**config.settings, "horizon": config.horizon})

    def solve(self, request: Request) -> Plan:
        """See `Planner.plan`. Verifying is paid from the budget first; of time, it gets as much as a search does.

        Raises `ConfigError` where a rule asks a head and the engine has no world that could have one, and `WorldError`
        where it has not.
        """
        config, engine, state, objective = self.config, request.engine, request.state, request.objective
        budget_steps, budget_ms = request.budget_steps, request.budget_ms
        asked = _asked(engine, config.rule) if config.rule in HEADS else objective
        verify = config.rule in ("mean", "worst", *HEADS)
        price = config.plans * config.keys * config.horizon * engine.steps if verify else 0
        if budget_steps is not None and budget_steps <= price:
            raise ConfigError(
                f"budget_steps is {budget_steps}, but verifying {config.plans} plans takes {price}; give more, or "
                "verify fewer."
            )
        each = None if budget_steps is None else (budget_steps - price) // config.plans
        share = None if budget_ms is None else budget_ms / (config.plans + verify)
        found = [
            self.inner.plan(
                engine,
                state,
                objective,
                start=request.start,
                seed=request.seed * config.plans + p,
                budget_steps=each,
                budget_ms=share,
                clock=request.clock,
            )
            for p in range(config.plans)
        ]
        rows, cost = np.stack([p.actions for p in found], 1), np.stack([p.cost for p in found], 1)
        own = judged = cost
        if verify:
            many = verified(engine, state, rows, asked, config.keys, config.max_rows)
            judged = many.max(0) if config.rule == "worst" else many.mean(0)
        cost = own if config.rule in HEADS else judged
        chosen = medoid(request.space, rows) if config.rule == "consensus" else judged.argmin(1)
        b = np.arange(len(rows))
        best = np.minimum.accumulate(own.T, 0)
        best[-1] = cost[b, chosen]
        steps = np.cumsum([p.trace.steps[-1] for p in found])
        steps[-1] += price
        trace = Trace(best, own.T, np.stack([p.trace.spread[-1] for p in found]), steps)
        return Plan(rows[b, chosen], cost[b, chosen], trace, found[0].search)


def _asked(engine: Any, rule: str) -> Objective:
    if not isinstance(engine, Engine):
        raise ConfigError(f"rule {rule!r} asks a head of a world, and this is a {type(engine).__name__}.")
    head = engine.world.head(HEADS[rule])
    return {"inverse": Inconsistency, "energy": Energy, "disagreement": Disagreement}[rule](head)
