"""One call from a world, a state of it and an objective to actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import Engine
from ..world import World
from .base import Model, Plan, Sessions, make_planner
from .objective import Future, Objective


def plan(
    world: World | Model,
    state: Sessions,
    objective: Objective | Callable[[Future], np.ndarray],
    planner: str = "icem",
    *,
    start: Plan | np.ndarray | None = None,
    seed: int = 0,
    budget_steps: int | None = None,
    budget_ms: float | None = None,
    **settings: Any,
) -> Plan:
    """Find actions that make the imagined future of every session of `state` cost least.

    world: a `World` or the `Engine` that made the state. planner: its name; `settings` are the planner's. start, seed,
    budgets: as `Planner.plan` takes them. `state` stays as it is. Raises what `make_planner` and `Planner.plan` raise.
    """
    engine = Engine(world) if isinstance(world, World) else world
    made = make_planner(planner, **settings)
    return made.plan(engine, state, objective, start=start, seed=seed, budget_steps=budget_steps, budget_ms=budget_ms)
