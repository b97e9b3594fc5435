"""Best-first search: the beginning that costs least goes on, whatever its length.

Ref: Hart, Nilsson and Raphael, IEEE Transactions on Systems Science and Cybernetics 4 (1968), for path costs and what
is still to come (A*). Differs: plans have a fixed length, so that a node is done when it is deep enough or its episode
has ended.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..registry import register
from .base import Plan
from .nodes import Growth, Store, cheapest
from .tree import MergeSettings, Task, TreePlanner, keys


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
