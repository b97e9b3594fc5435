"""A search that begins from the best of some plans that somebody proposed, or of the one it was given.

B problems   P proposals   H steps   W numbers in one action
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ConfigError
from .base import Plan, Planner, Request, Trace, imagine


def search_from(
    inner: Planner,
    request: Request,
    propose: Callable[[], np.ndarray],
    proposals: int,
    horizon: int,
    *,
    frames: int = 0,
    max_rows: int,
) -> Plan:
    """Price what `propose` gives, rows `(B, P, H, W)`, and let `inner` search from the cheapest; see `Planner.plan`.

    frames: of the model that proposing takes for each problem. These and pricing are paid from the budget, and all the
    time that passes counts. Trace: its first iteration is the proposals'. Raises `ConfigError` for a budget that
    proposals alone would spend, before anything is proposed.
    """
    engine, state, start = request.engine, request.state, request.start
    price = (frames + (proposals + (start is not None)) * horizon) * engine.steps
    left = None if request.budget_steps is None else request.budget_steps - price
    if left is not None and left <= 0:
        raise ConfigError(f"budget_steps is {request.budget_steps}, but proposals alone take {price}; give more.")
    began, rows = request.clock(), propose()
    if start is not None:
        rows = np.concatenate([start[:, None], rows], 1)
    cost = imagine(engine, state, rows, request.objective, max_rows)
    best, spent_ms = cost.min(1), 1e3 * (request.clock() - began)
    found = inner.plan(
        engine,
        state,
        request.objective,
        start=rows[np.arange(len(rows)), cost.argmin(1)],
        seed=request.seed,
        budget_steps=left,
        budget_ms=None if request.budget_ms is None else max(1e-3, request.budget_ms - spent_ms),
        clock=request.clock,
    )
    known = np.where(np.isfinite(cost), cost, 0.0).sum(1) / np.maximum(np.isfinite(cost).sum(1), 1)
    trace = Trace(
        np.concatenate([best[None], np.minimum(best, found.trace.best)]),
        np.concatenate([known[None], found.trace.mean]),
        np.concatenate([found.trace.spread[:1], found.trace.spread]),
        np.concatenate([[price], price + found.trace.steps]),
    )
    return Plan(found.actions, found.cost, trace, found.search)
