"""Measure what planning in a learned world earns in the true environment, by planner and budget.

    python benchmarks/planning.py --tasks pendulum cartpole --train 3m --json planning.json --plot planning.png

A world is trained on a task's recording (`terrella.planning.TASKS`), then each planner controls the true environment
through it, going on from the true frames, in episodes that start from seeds never recorded. The same planner in the
true simulator, through saved states, says what a perfect world would give; `greedy` plans one action ahead with as many
futures; doing nothing and acting at random say what needs no plan. A budget of 1 is `--rollouts` futures a plan, each
of the task's horizon; all planners get equally many.

Recordings, worlds and finished rows are kept in `--out` and not made again, so that the same command goes on where it
was stopped (`--minutes` stops it by itself); `--gather` only prints what there is. A row that a planner refuses, such
as a tree with too few futures, says why (`refused`). One line a task, seed, model, planner and budget:

| key | meaning |
|---|---|
| `model` | where it was planned: `world`, `simulator`, or `none` |
| `planner`, `budget` | who planned, and with how much |
| `rollouts`, `model_steps` | futures and model evaluations (frames x denoising steps) a plan |
| `cpu_seconds` | processor time of all its episodes |
| `success`, `success_interval` | share of episodes that did the task, with its Wilson 95 % interval |
| `return`, `return_interval` | mean over episodes of the undiscounted return, with its bootstrap 95 % interval |
| `imagined`, `realised` | mean discounted return that plans promised, and what the same steps then brought: the gap |
| | shows how far a planner exploits errors of its model |
| `returns`, `lengths`, `successes` | raw values, an episode each |
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from common import KeptRow, complete, holds_world, keep_row, kept_row, resumable, task_data, time_is_up, write_json

import terrella
from terrella.arenas import describe
from terrella.engine import Engine
from terrella.errors import ConfigError
from terrella.planning import TASKS, Blind, Start, Task, attempt, begin, play
from terrella.registry import names
from terrella.spec import WorldSpec
from terrella.trials import FLOORS, figures
from terrella.world import World

TREES = ("beam", "best_first", "mcts")


@dataclass(frozen=True)
class Row(KeptRow):
    """What one row is about. horizon 1 is the greedy floor."""

    task: str
    seed: int
    model: str
    planner: str
    budget: int


def wanted(name: str, seed: int, options: argparse.Namespace) -> Iterator[Row]:
    """All rows of a task and seed, the cheapest first."""
    discrete = TASKS[name].make().action_space
    planners = [p for p in options.planners if p not in TREES or isinstance(discrete, gym.spaces.Discrete)]
    for kind in FLOORS:
        yield Row(name, seed, "none", kind, 0)
    for model in options.models:
        yield Row(name, seed, model, "greedy", max(options.budgets))
    for budget in options.budgets:
        for model in options.models:
            for planner in planners:
                yield Row(name, seed, model, planner, budget)


def shown(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """What a kept row must agree with; only those of a world depend on how it was made."""
    keys = ["rollouts", "episodes", "execute", "limit"]
    keys += ["steps", "train", "preset", "decoder", "record"] if row.model == "world" else []
    return {key: getattr(options, key) for key in keys}


def kept(row: Row, options: argparse.Namespace) -> dict[str, Any] | None:
    """A finished row, None where there is none of these settings."""
    return kept_row(row.path(options.out), shown(row, options))


def trained(name: str, task: Task, seed: int, options: argparse.Namespace) -> World:
    """Train the world of a task, or open it where it was trained before."""
    preset, decoder = options.preset or task.preset, options.decoder or task.decoder
    path = options.out / "worlds" / f"{name}-{seed}-{options.train}-{preset}-{decoder}"
    if holds_world(path):
        return World.load(path, options.device or "cpu")
    data = task_data(name, task, options.out, options.record)
    settings = {"budget": options.train, "preset": preset, "decoder": decoder, "seed": seed, "device": options.device}
    return terrella.train(data, path, progress=False, **settings)


class Bench:
    """The episodes of one task and seed: environments, starts, and the world once it is needed."""

    def __init__(self, name: str, seed: int, options: argparse.Namespace):
        task = TASKS[name]
        limit = options.limit or task.limit
        self.name, self.seed, self.options = name, seed, options
        self.task = replace(task, limit=limit, horizon=min(task.horizon, limit), execute=min(task.execute, limit))
        self.envs = [task.make() for _ in range(options.episodes)]
        self.spec: WorldSpec = describe(self.envs[0])
        self.starts: list[Start] = [begin(self.task, env, 100_003 * seed + b) for b, env in enumerate(self.envs)]
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            world = trained(self.name, self.task, self.seed, self.options)
            self._engine = Engine(world, steps=self.options.steps, device=self.options.device)
        return self._engine

    def run(self, row: Row) -> dict[str, Any]:
        """Compute a row."""
        task, options = self.task, self.options
        about: dict[str, Any] = vars(row).copy()
        if row.model == "none":
            actor = Blind(self.spec, self.envs[0].action_space, len(self.envs), FLOORS[row.planner])
            return about | figures(task, play(task, self.spec, self.envs, self.starts, actor))
        engine, rollouts = self.engine if row.model == "world" else None, row.budget * options.rollouts
        greedy = row.planner == "greedy"
        horizon = 1 if greedy else task.horizon
        about |= {"rollouts": rollouts, "horizon": horizon}
        about["model_steps"] = rollouts * horizon * (1 if engine is None else engine.steps)
        how = {"horizon": horizon, "execute": options.execute, "seed": self.seed}
        began = time.process_time()
        try:
            planner = "random" if greedy else row.planner
            played = attempt(task, self.envs, self.starts, planner, rollouts, engine, **how)
        except ConfigError as error:
            return about | {"refused": str(error)}
        spent = round(time.process_time() - began, 2)
        return about | {"cpu_seconds": spent} | figures(task, played, horizon)

    def close(self) -> None:
        for env in self.envs:
            env.close()


def gathered(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows that are finished, in order."""
    rows = (row for name in options.tasks for seed in options.seeds for row in wanted(name, seed, options))
    return [found for row in rows if (found := kept(row, options)) is not None]


def compute(options: argparse.Namespace) -> bool:
    """Make the rows that are missing, tasks one after another; False where time was up before all were there."""
    began = time.monotonic()
    for name in options.tasks:
        for seed in options.seeds:
            missing = [row for row in wanted(name, seed, options) if kept(row, options) is None]
            bench = Bench(name, seed, options) if missing else None
            for row in missing:
                if time_is_up(options, began):
                    return False
                assert bench is not None
                done = bench.run(row)
                keep_row(row.path(options.out), done, shown(row, options))
            if bench is not None:
                bench.close()
    return True


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw success against budget, a panel a task: the world solid, the simulator dashed, floors as grey lines."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    planners = [p for p in dict.fromkeys(r["planner"] for r in rows if r["model"] != "none") if p != "greedy"]
    columns = min(3, len(tasks))
    figure = Figure(figsize=(3.6 * columns, 2.9 * -(-len(tasks) // columns)), layout="constrained")
    for i, task in enumerate(tasks):
        axes = figure.add_subplot(-(-len(tasks) // columns), columns, i + 1, title=task)
        own = [row for row in rows if row["task"] == task and "success" in row]
        for model, style in (("world", "-"), ("simulator", "--")):
            for j, planner in enumerate(planners):
                found = [row for row in own if (row["model"], row["planner"]) == (model, planner)]
                budgets = sorted({row["rollouts"] for row in found})
                shares = [[w for row in found if row["rollouts"] == b for w in row["successes"]] for b in budgets]
                if budgets:
                    means = [sum(s) / len(s) for s in shares]
                    axes.plot(budgets, means, style, marker=".", color=f"C{j}", label=f"{planner}, {model}")
        for floor, style in (("do-nothing", ":"), ("random-actions", "-."), ("greedy", "--")):
            wins = [
                w for row in own if row["planner"] == floor and row["model"] != "simulator" for w in row["successes"]
            ]
            if wins:
                axes.axhline(sum(wins) / len(wins), color="0.6", linestyle=style, linewidth=1, label=floor)
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="futures a plan", ylabel="success")
        axes.set_xscale("log", base=2)
    if tasks:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = resumable(__doc__, "runs/planning")
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=["pendulum", "cartpole", "mountaincar"])
    made.add_argument("--planners", nargs="+", choices=names("planner"), default=["random", "icem", "mppi", *TREES])
    made.add_argument("--models", nargs="+", choices=("world", "simulator"), default=["world", "simulator"])
    made.add_argument("--budgets", type=int, nargs="+", default=[1, 4, 16])
    made.add_argument("--rollouts", type=int, default=2, help="futures a plan at budget 1 (default 2)")
    made.add_argument("--episodes", type=int, default=50, help="of each row (default 50)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of worlds, episodes and candidates")
    made.add_argument("--execute", type=int, help="actions taken of each plan (default: the task's)")
    made.add_argument("--steps", type=int, default=1, help="denoising steps of a frame (default 1)")
    made.add_argument("--train", default="3m", help="training of each world: 10m, 90s, 2000steps (default 3m)")
    made.add_argument("--preset", help="size of each world (default: the task's)")
    made.add_argument("--decoder", help="of each world (default: the task's)")
    made.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    made.add_argument("--limit", type=int, help="longest episode (default: the task's)")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw success against budget")
    return made


def main(args: list[str] | None = None) -> None:
    """Train what is missing, and compare."""
    options = parser().parse_args(args)
    complete(options, compute)
    rows = gathered(options)
    if options.plot is not None:
        plot(rows, options.plot)
    hidden = ("json", "plot", "out", "seeds", "minutes", "gather")
    settings = {k: v for k, v in vars(options).items() if k not in hidden}
    write_json({"benchmark": "planning", "settings": settings, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
