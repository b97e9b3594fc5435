"""Searches among beginnings of plans, on states as values: settings, limits and traces of all of them.

Sampling planners imagine whole plans; a tree imagines each beginning once, and goes on from it by a fork. Beginnings
that have come to the same are one, if asked for (`merge`): the one that costs least goes on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..errors import ConfigError
from .base import Plan, Planner, Request, Trace, recalled
from .nodes import Branches, Growth, Value, action_sets, with_start


@dataclass(frozen=True)
class TreeSettings:
    """What tree searches share.

    horizon: actions a plan has, H. branching: actions tried at a node: all of them where there are no more, else so
    many drawn for each step. grid: values at which a number with bounds is tried (below 2: numbers are drawn). spread:
    deviation of drawn numbers, in halves of their ranges. discount: of `value`. over: a beginning that goes on with no
    more than this probability is not continued. max_rows: sessions imagined at a time.

    Raises `ConfigError` for values out of range.
    """

    horizon: int = 8
    branching: int = 16
    grid: int = 0
    spread: float = 1.0
    discount: float = 1.0
    over: float = 1e-3
    max_rows: int = 1024

    def __post_init__(self) -> None:
        if min(self.horizon, self.branching, self.max_rows) < 1 or self.max_rows <= self.branching:
            raise ConfigError(
                f"horizon is {self.horizon}, branching {self.branching} and max_rows {self.max_rows}; expected at "
                "least 1, and more rows than the actions of a node."
            )
        if not self.spread > 0 or not 0 < self.discount <= 1 or not 0 <= self.over < 1:
            raise ConfigError(
                f"spread is {self.spread}, discount {self.discount}, over {self.over}; expected more than 0, above 0 "
                "to 1, and 0 to below 1."
            )


@dataclass(frozen=True)
class MergeSettings(TreeSettings):
    """merge: which beginnings of equal length are one: `none`; those after which a session remembers the same
    (`memory`); or those whose last frames alone are the same, as far as the backbone keeps one (`recurrent`: what is
    overwritten at each frame, without frames in sight). tolerance: what they remember is rounded to its multiples.

    One of them goes on, so what matters later must be in the memory: right for costs that add up over steps.
    """

    merge: Literal["none", "memory", "recurrent"] = "none"
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tolerance > 0:
            raise ConfigError(f"tolerance is {self.tolerance}; it must be more than 0.")


@dataclass
class Task:
    """One call to `plan`: its trees, its limits, and its trace. most: frames allowed for each problem, or None."""

    growth: Growth
    state: Any
    start_BH: np.ndarray | None
    most: int | None
    budget_ms: float | None
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._began = self._now = self.clock()
        self.slowest = 0.0
        self._lines: list[tuple[np.ndarray, ...]] = []

    @property
    def left_B(self) -> np.ndarray:
        """Frames that each problem may still take, more than any could need without a budget."""
        most = np.iinfo(np.int64).max if self.most is None else self.most
        return most - self.growth.frames

    @property
    def left_s(self) -> float:
        """Seconds left, infinite without a budget."""
        return np.inf if self.budget_ms is None else self._began + self.budget_ms / 1e3 - self.clock()

    @property
    def late(self) -> bool:
        """Whether another iteration as slow as the slowest would not fit."""
        return self.left_s < self.slowest

    def note(self, ids: np.ndarray, basis: np.ndarray | None = None, weight: np.ndarray | None = None) -> None:
        """End an iteration, which added the nodes `ids`.

        basis: the nodes on which the choice of the first action rests (those added), weight: how much each counts.
        """
        growth, before, self._now = self.growth, self._now, self.clock()
        self.slowest = max(self.slowest, self._now - before)
        problem, cost = growth.nodes["problem"][ids], growth.nodes["cost"][ids]
        count = np.bincount(problem, minlength=growth.batch)
        last = self._lines[-1][1] if self._lines else growth.best
        with np.errstate(invalid="ignore"):
            mean = np.where(count > 0, np.bincount(problem, cost, growth.batch) / np.maximum(count, 1), last)
        share, steps = growth.shares(ids if basis is None else basis, weight), growth.frames.max() * growth.engine.steps
        self._lines.append((growth.best.copy(), mean, share, np.array(steps)))

    def plan(self, ids: np.ndarray, weight: np.ndarray | None = None) -> Plan:
        """The best plan. ids, weight: what the choice of the first action rests on, and how much each counts."""
        if not self._lines:
            self.note(ids[:0])
        growth = self.growth
        best, mean, share, steps = (np.array(column) for column in zip(*self._lines))
        best[-1], steps[-1] = growth.best, growth.frames.max() * growth.engine.steps  # with plans finished since
        spread = growth.firsts(share).spread().reshape(best.shape)
        trace = Trace(best, mean, spread, steps)
        return Plan(growth.plans(), growth.best.copy(), trace, growth.firsts(growth.shares(ids, weight)[None]))


class TreePlanner(Planner):
    """Searches among beginnings of plans.

    value: what is still to come after the last frame of futures, `(R,)`, in units of return (minus cost); it may be
    learned. None: nothing.

    Trace: an iteration is a level of a beam, or one expansion a problem. Its `mean` is over the nodes it added, and
    `best` is infinite until one plan is whole.
    """

    Config: ClassVar[type[TreeSettings]] = TreeSettings

    def __init__(self, config: Any, value: Value | None = None):
        super().__init__(config)
        self.value = value

    @abstractmethod
    def least(self, actions: int) -> int:
        """Frames that it needs for a plan without a start, where nodes have so many actions."""

    @abstractmethod
    def search(self, task: Task) -> Plan:
        """Grow the trees and return the plan."""

    def solve(self, request: Request) -> Plan:
        """See `Planner.plan`. The objective is asked about beginnings of plans, too, which are shorter futures.

        start: imagined first; where its numbers are not among the actions tried, they are tried as well. seed: of drawn
        actions; where all are tried, it does not matter.
        """
        config, engine, state, start = self.config, request.engine, request.state, request.start
        budget_steps, tried = request.budget_steps, (config.branching, config.grid, config.spread)
        sets, chosen = action_sets(request.space, state, config.horizon, *tried, request.seed), None
        if start is not None:
            sets, chosen = with_start(sets, start)
        most = None if budget_steps is None else budget_steps // engine.steps
        needed = config.horizon if start is not None else self.least(sets.shape[1])
        if most is not None and most < needed:
            raise ConfigError(
                f"budget_steps is {budget_steps}, but the least plan takes {needed * engine.steps} ({needed} frames "
                f"with {sets.shape[1]} actions at a node); give more, or plan less far ahead."
            )
        past = recalled(engine, state)
        growth = Growth(engine, request.objective, sets, self.value, config.discount, config.over, past)
        return self.search(Task(growth, state, chosen, most, request.budget_ms, request.clock))


def keys(growth: Growth, config: MergeSettings, state: Branches, ids: np.ndarray) -> np.ndarray:
    """A number for each node, the same for those that are one: `(R,)`, of the sessions that `state` holds."""
    if config.merge == "none":
        return ids.astype(np.int64)
    found = state.digest(config.tolerance, config.merge == "memory").cpu().numpy()
    going = np.rint(growth.nodes["alive"][ids] / config.tolerance).astype(np.int64)
    where = growth.nodes["problem"][ids] * growth.horizon + growth.nodes["depth"][ids]
    with np.errstate(over="ignore"):
        return found + going * np.int64(0x5851F42D4C957F2D) + where * np.int64(0x14057B7EF767814F)
