"""Trees of actions: beam search and best-first search, on states as values.

Sampling planners imagine whole plans; a tree imagines each beginning once, and goes on from it by a fork. Beginnings
that have come to the same are one, if asked for (`merge`): the one that costs least goes on.

Ref: beam search: Lowerre, The HARPY speech recognition system (1976); best-first search with path costs: Hart, Nilsson
and Raphael, IEEE Transactions on Systems Science and Cybernetics 4 (1968). Differs: plans have a fixed length, so
that a node is done when it is deep enough or its episode has ended; the rest of the way costs what `value` says.
"""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..errors import ConfigError
from ..registry import register
from .base import Model, Plan, Planner, Trace, checked_start
from .nodes import Branches, Growth, Store, Value, action_sets, cheapest, with_start
from .objective import Future, Objective, as_objective
from .search import Space


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


@dataclass(frozen=True)
class BeamSettings(MergeSettings):
    """width: beginnings that go on, of each length."""

    width: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.width >= 1:
            raise ConfigError(f"width is {self.width}; it must be at least 1.")


@dataclass(frozen=True)
class BestFirstSettings(MergeSettings):
    """expansions: nodes that are continued, without a budget. leaves: how many at a time. rising: a promise that costs
    never fall as a plan goes on; beginnings that cost as much as a whole plan are then left, and the search ends, with
    the best plan there is, when all are. max_nodes: in memory, for each problem.
    """

    expansions: int = 100
    leaves: int = 1
    rising: bool = False
    max_nodes: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.expansions, self.leaves, self.max_nodes) < 1:
            raise ConfigError(
                f"expansions {self.expansions}, leaves {self.leaves} and max_nodes {self.max_nodes} must be at least 1."
            )


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

    def plan(
        self,
        engine: Model,
        state: Branches,
        objective: Objective | Callable[[Future], np.ndarray],
        *,
        start: Plan | np.ndarray | None = None,
        seed: int = 0,
        budget_steps: int | None = None,
        budget_ms: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Plan:
        """See `Planner.plan`. The objective is asked about beginnings of plans, too, which are shorter futures.

        start: imagined first; where its numbers are not among the actions tried, they are tried as well. seed: of drawn
        actions; where all are tried, it does not matter.
        """
        config, space = self.config, Space(engine.spec.action)
        sets = action_sets(space, state, config.horizon, config.branching, config.grid, config.spread, seed)
        chosen = None
        if start is not None:
            given = checked_start(start, (state.batch, config.horizon, space.width), space)
            sets, chosen = with_start(sets, given)
        most = None if budget_steps is None else budget_steps // engine.steps
        needed = config.horizon if start is not None else self.least(sets.shape[1])
        if most is not None and most < needed:
            raise ConfigError(
                f"budget_steps is {budget_steps}, but the least plan takes {needed * engine.steps} ({needed} frames "
                f"with {sets.shape[1]} actions at a node); give more, or plan less far ahead."
            )
        growth = Growth(engine, as_objective(objective), sets, self.value, config.discount, config.over)
        return self.search(Task(growth, state, chosen, most, budget_ms, clock))


def keys(growth: Growth, config: MergeSettings, state: Branches, ids: np.ndarray) -> np.ndarray:
    """A number for each node, the same for those that are one: `(R,)`, of the sessions that `state` holds."""
    if config.merge == "none":
        return ids.astype(np.int64)
    found = state.digest(config.tolerance, config.merge == "memory").cpu().numpy()
    going = np.rint(growth.nodes["alive"][ids] / config.tolerance).astype(np.int64)
    where = growth.nodes["problem"][ids] * growth.horizon + growth.nodes["depth"][ids]
    with np.errstate(over="ignore"):
        return found + going * np.int64(0x5851F42D4C957F2D) + where * np.int64(0x14057B7EF767814F)


@register("planner", "beam")
class Beam(TreePlanner):
    """Takes every action in the `width` best beginnings of each length, one batch a step.

    A width that keeps all is exhaustive search. Levels are narrowed to fit a budget, of steps or of time, to an equal
    share for each step that is left; one beginning always goes on.
    """

    Config = BeamSettings
    config: BeamSettings

    def least(self, actions: int) -> int:
        """One beginning a step."""
        return actions * self.config.horizon

    def search(self, task: Task) -> Plan:
        """See the class."""
        growth, config, batch = task.growth, self.config, task.growth.batch
        widest = config.max_rows // growth.actions
        if config.width > widest:
            raise ConfigError(
                f"a beam of {config.width} with {growth.actions} actions needs {config.width * growth.actions} rows at "
                f"a time; max_rows is {config.max_rows}. Make one smaller or the other larger."
            )
        if task.start_BH is not None:
            growth.follow(task.state.fork(1), task.start_BH)
        each = max(1, config.max_rows // (config.width * growth.actions))  # problems at a time
        blocks = [range(b, min(b + each, batch)) for b in range(0, batch, each)]
        parts = [(task.state if len(some) == batch else task.state.select(some), np.array(some)) for some in blocks]
        pace, last = 0.0, np.empty(0, np.int64)
        for level in range(config.horizon):
            share = growth.actions * (config.horizon - level)
            width = np.minimum(config.width, task.left_B // share)
            if pace > 0 and np.isfinite(task.left_s):
                width = np.minimum(width, max(1, int(task.left_s / pace / share / batch)))
            added = []
            for p, (state, front) in enumerate(parts):
                kept = self._kept(growth, state, front, width)
                if len(kept) == 0:
                    continue
                if len(kept) < len(front):
                    state, front = state.select(kept.tolist()), front[kept]
                choice = np.tile(np.arange(growth.actions), len(front))
                before = task.clock()
                state, ids = growth.take(state.fork(growth.actions), front.repeat(growth.actions), choice)
                pace = max(pace, (task.clock() - before) / len(ids))
                parts[p] = state, ids
                added.append(ids)
            if not added:
                break
            last = np.concatenate(added)
            task.note(last)
        return task.plan(last)

    def _kept(self, growth: Growth, state: Branches, front: np.ndarray, width: np.ndarray) -> np.ndarray:
        on = np.flatnonzero(~growth.nodes["whole"][front])
        order = on[np.lexsort((growth.nodes["cost"][front[on]], growth.nodes["problem"][front[on]]))]
        if len(order) and self.config.merge != "none":
            _, first = np.unique(keys(growth, self.config, state, front)[order], return_index=True)
            order = order[np.sort(first)]
        best = cheapest(growth.nodes["problem"][front[order]], growth.nodes["cost"][front[order]], width)
        return np.sort(order[best])


@register("planner", "best_first")
class BestFirst(TreePlanner):
    """Takes every action in the beginning that costs least, whatever its length, again and again.

    With costs that rise along a plan it finds the best one first (`rising`); with `value` as what is still to come, it
    is A*. With rewards, which make costs fall, it dives: the deepest are the cheapest. Where no plan is whole in the
    end, the deepest beginning that costs least goes on as it began.
    """

    Config = BestFirstSettings
    config: BestFirstSettings

    def least(self, actions: int) -> int:
        """One plan."""
        return self.config.horizon

    def search(self, task: Task) -> Plan:
        """See the class."""
        growth, config, nodes = task.growth, self.config, task.growth.nodes
        if task.start_BH is not None:
            growth.follow(task.state.fork(1), task.start_BH)
        roots = np.arange(growth.batch)
        nodes.column("open", (), np.bool_)
        nodes.column("session", (), np.int64)
        nodes.column("key", (), np.int64)
        nodes["open"][roots], nodes["session"][roots], nodes["key"][roots] = True, roots, roots
        store, closed, at_once = Store(task.state.fork(1)), np.empty(0, np.int64), config.max_rows // growth.actions
        for i in itertools.count():
            ids = self._next(task, closed)
            done = task.most is None and task.budget_ms is None and i >= config.expansions
            if len(ids) == 0 or done or (i > 0 and task.late):
                break
            closed, added = np.append(closed, nodes["key"][ids]), []
            nodes["open"][ids] = False
            for s in range(0, len(ids), at_once):
                some = ids[s : s + at_once]
                forked = store.take(nodes["session"][some]).fork(growth.actions)
                choice = np.tile(np.arange(growth.actions), len(some))
                state, new = growth.take(forked, some.repeat(growth.actions), choice)
                nodes["key"][new], nodes["open"][new] = keys(growth, config, state, new), ~nodes["whole"][new]
                nodes["session"][new] = store.add(state)
                added.append(new)
            task.note(np.concatenate(added))
        deepest = self._ranked(growth, by_depth=True)
        last = deepest[cheapest(nodes["problem"][deepest], np.zeros(len(deepest)), np.ones(growth.batch, np.int64))]
        last = last[np.isin(nodes["problem"][last], growth.undone)]
        if len(last):
            growth.finish(store.take(nodes["session"][last]), last)
        return task.plan(np.empty(0, np.int64))

    def _next(self, task: Task, closed: np.ndarray) -> np.ndarray:
        """The nodes to expand now."""
        growth, config = task.growth, self.config
        ids = self._ranked(growth)
        problem, key = growth.nodes["problem"], growth.nodes["key"]
        if config.rising:
            ids = ids[growth.nodes["cost"][ids] < growth.best[problem[ids]]]
        if config.merge != "none":
            ids = ids[~np.isin(key[ids], closed)]
            ids = ids[np.sort(np.unique(key[ids], return_index=True)[1])]
        undone = np.isin(np.arange(growth.batch), growth.undone)
        frames = task.left_B - np.where(undone, config.horizon, 0)  # what is left undone must be finished
        room = config.max_nodes - growth.frames
        most = np.minimum(config.leaves, np.minimum(frames, room) // growth.actions)
        return ids[cheapest(problem[ids], growth.nodes["cost"][ids], most)]

    @staticmethod
    def _ranked(growth: Growth, by_depth: bool = False) -> np.ndarray:
        """Open nodes by problem and cost, the deeper of equals first; or by depth, the cheaper of equals first."""
        ids = np.flatnonzero(growth.nodes["open"])
        cost, deep = growth.nodes["cost"][ids], -growth.nodes["depth"][ids]
        return ids[np.lexsort((*((cost, deep) if by_depth else (deep, cost)), growth.nodes["problem"][ids]))]
