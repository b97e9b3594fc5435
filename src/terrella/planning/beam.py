"""Beam search: of the beginnings of each length, the best few go on.

Ref: Lowerre, The HARPY speech recognition system (1976).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..registry import register
from .base import Plan
from .nodes import Branches, Growth, cheapest
from .tree import MergeSettings, Task, TreePlanner, keys


@dataclass(frozen=True)
class BeamSettings(MergeSettings):
    """width: beginnings that go on, of each length."""

    width: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.width >= 1:
            raise ConfigError(f"width is {self.width}; it must be at least 1.")


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
