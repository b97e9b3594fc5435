"""The share of planning's worth that a world keeps: what plans made in it earn in the true environment.

    share = (R_world - R_random) / (R_true - R_random)

R is the mean over episodes that begin in the same saved states: of plans made in the world, of random actions (the
floor), and of plans made in the true simulator (the ceiling) by the same planner with equally many futures a plan. 0 is
no better than acting at random, 1 as good as planning in the truth. The ceiling is what this planner does with this
budget, not the best there is, so a share may exceed 1.

Scores are returns where the task is planned by reward, else successes. The interval is a bootstrap by episode of the
ratio; where the ceiling is not surely above the floor, there is no share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from typing import Any

import gymnasium as gym
import numpy as np

from ..arenas import describe
from ..evaluation.entrant import Entrant
from ..evaluation.measurements import Measurement
from ..evaluation.report import html_table
from ..evaluation.stats import bootstrap, number
from ..evaluation.subject import Subject
from ..evaluation.suite import Ground
from ..planning.catalogue import task_in
from ..planning.tasks import Task
from ..planning.trial import Blind, Start, attempt, begin, play
from ..registry import register
from .imagination import Imagination
from .run import FLOORS, figures

PLANNER = "icem"


@dataclass
class _Course:
    """A task, its environments and starts, and the rows that every entrant is held against, by name."""

    task: Task
    envs: Sequence[gym.Env]
    starts: Sequence[Start]
    rows: dict[str, dict[str, Any]]


@register("subject", "planning")
class PlanningShare(Subject):
    """Measurement: `groups` episodes, `branches` futures that a plan may imagine."""

    note = (
        "Plans are made in the world and carried out in the true environment. Share: how much of what planning in the "
        "true simulator earns above random actions is kept; 0 is no better than chance, 1 as good as planning in the "
        "truth, with the same planner and as many futures a plan. All episodes begin in the same states."
    )

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Without a task in the catalogue nobody knows what to plan for, and a slow simulator would plan for hours."""
        env = describe(ground.env).env
        task = task_in(env)
        if task is None:
            return f"the catalogue has no task in {env.id or 'this environment'}."
        plans = -(-task.limit // task.execute)
        return ground.too_slow(m.groups * (plans * m.branches * task.horizon + (len(FLOORS) + 1) * task.limit))

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """Carry out the task with plans made in an entrant.

        Returns the settings, `rows` as `terrella.trials.figures` has them, and `share` with its interval; its mean is
        None, with the reason `why`, where the ceiling is not surely above the floor.
        """
        course: _Course = ground.once(m, lambda: _prepared(m, ground))
        task, model = course.task, Imagination(entrant, ground.spec)
        played = attempt(task, course.envs, course.starts, PLANNER, m.branches, model, seed=ground.seed)
        advance(m.frames)
        rows = {**course.rows, "world": figures(task, played)}
        settings = {"planner": PLANNER, "budget": m.branches, "horizon": task.horizon, "execute": task.execute}
        key = "returns" if task.objective is Task.objective else "successes"
        result = {"task": task.about, "settings": {**settings, "limit": task.limit}, "score": key, "rows": rows}
        return result | share(*(np.array(rows[n][key], float) for n in ("world", "random-actions", "simulator")))

    def line(self, row: dict[str, Any]) -> str:
        """The share, or why there is none."""
        if row["share"]["mean"] is None:
            return f"planning: {row['why']}"
        low, high = row["share"]["interval"]
        known = "" if low is None else f" ({low:.2f}…{high:.2f})"
        return f"planning keeps {row['share']['mean']:.2f}{known} of what it earns in the true simulator"

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """Shares, and beside them what was earned."""
        heads = ["entrant", "episodes", "share", "95 %", "of"]
        shares, earned = [], []
        for who, row in rows.items():
            shares.append([who, row["rows"]["world"]["episodes"], *row["share"].values(), row["score"]])
            for name in ("do-nothing", "random-actions", "world", "simulator"):
                found = row["rows"][name]
                kept = [found[key] for key in ("success", "success_interval", "return", "return_interval")]
                earned.append([f"{who}: {name}", *kept, found["imagined"], found["realised"]])
        first, how = next(iter(rows.values())), next(iter(rows.values()))["settings"]
        what = (
            f"To {first['task']}, in at most {how['limit']} actions. Plans of {how['horizon']} actions by "
            f"{how['planner']}, the best of {how['budget']} futures; {how['execute']} are taken of each."
        )
        whys = "".join(f"<p>{escape(who)}: {escape(row['why'])}</p>" for who, row in rows.items() if row["why"])
        columns = ["", "success", "95 %", "return", "95 %", "imagined", "realised"]
        return f'<p class="note">{escape(what)}</p>' + html_table(heads, shares) + whys + html_table(columns, earned)


def share(world: np.ndarray, floor: np.ndarray, ceiling: np.ndarray) -> dict[str, Any]:
    """The share with its bootstrap 95 % interval, from scores `(E,)` of the same episodes; see the module."""
    gained, room = (world - floor)[:, None], (ceiling - floor)[:, None]
    width, low, _ = (float(value[0]) for value in bootstrap(room))
    if not (width > 0 and (low > 0 or len(room) == 1)):
        why = "in these episodes the true simulator's plans are not surely better than random actions."
        return {"share": {"mean": None, "interval": [None, None]}, "why": why}
    middle, least, most = (number(float(value[0])) for value in bootstrap(gained, room))
    return {"share": {"mean": middle, "interval": [least, most]}, "why": None}


def _prepared(m: Measurement, ground: Ground) -> _Course:
    task = task_in(describe(ground.env).env)
    assert task is not None  # `missing` has said so
    envs = [ground.opened.enter_context(closing(task.make())) for _ in range(m.groups)]
    starts = [begin(task, env, ground.seed * 100_003 + b) for b, env in enumerate(envs)]
    rows = {}
    for name, at_random in FLOORS.items():
        actor = Blind(ground.spec, envs[0].action_space, m.groups, at_random)
        rows[name] = figures(task, play(task, ground.spec, envs, starts, actor))
    rows["simulator"] = figures(task, attempt(task, envs, starts, PLANNER, m.branches, seed=ground.seed))
    return _Course(task, envs, starts, rows)
