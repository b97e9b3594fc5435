"""Measure what a search in a world gains from a reasoner that reads the picture and proposes the way.

    python benchmarks/proposal.py --reasoner "runs/reasoner/mazes-both-{seed}-2000-480s" --json proposal.json

A world is trained on recordings of mazes of each of `--sides`; all act in the same mazes of the test split, which none
has seen, and all plans take equally many model evaluations. The reasoner knows nothing of worlds: it was trained on
mazes of 7 tokens a side, and is asked about larger ones as it is. Without `--reasoner`, one is trained for `--think`.

| `who` | acts by |
|---|---|
| `do-nothing`, `random-actions` | no plan |
| `icem` | a search in the world |
| `random` | the same, from the best of as many proposals drawn at random |
| `reasoned` | the same, from the best of the reasoner's proposals |
| `alone` | the reasoner's first proposal, looked at again as often; no world |
| `walker` | the way itself, by the true state: the ceiling |

Recordings, worlds and finished rows are kept in `--out`, so that the same command goes on where it was stopped
(`--minutes` stops it by itself); `--gather` only prints what there is. A line a side, seed and actor: figures as in
`benchmarks/planning.py`, `seconds` of processor for all its episodes, `model_steps` a plan, and for the reasoner
`right`, the share of first frames whose way is its first proposal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from common import KeptRow, complete, holds_world, keep_row, kept_row, resumable, task_data, time_is_up, write_json

import terrella
from terrella.arenas import describe
from terrella.engine import Engine
from terrella.errors import ConfigError
from terrella.planning import TASKS, Blind, Controller, Follower, MazeReader, Reasoned, begin, make_planner, play
from terrella.planning.base import Plan, Planner
from terrella.planning.equilibrium import Reasoner
from terrella.planning.segmented import FILE, train_reasoner
from terrella.planning.tasks import Seen, Task
from terrella.puzzles import mazes
from terrella.trials import FLOORS, figures
from terrella.world import World

ACTORS = (*FLOORS, "walker", "alone", "icem", "random", "reasoned")
TAUGHT = 7  # tokens a side of the mazes that a reasoner is trained on


def maze_task(side: int) -> Task:
    """The task in mazes of another side: plans reach to the end of the longest way, episodes twice as far."""
    longest = 4 * side + 2
    env = replace(TASKS["maze"].env, kwargs={"side": side, "lengths": (side + 3, longest)})
    return replace(TASKS["maze"], env=env, horizon=longest, limit=2 * longest, episode=2 * longest)


class Sticky:
    """Proposes plans drawn at random, each action kept for 4 steps on average, others at each call."""

    def __init__(self, choices: int, seed: int):
        self.choices, self.rng = choices, np.random.default_rng([seed, 0x57])

    def __call__(self, frames: Seen, count: int, horizon: int, seed: int = 0) -> np.ndarray:
        """Rows `(B, P, H, 1)`."""
        shape = len(next(iter(frames.values()))), count, horizon
        anew = self.rng.random(shape) < 0.25
        anew[..., 0] = True
        since = np.maximum.accumulate(np.where(anew, np.arange(horizon), 0), 2)
        return np.take_along_axis(self.rng.integers(self.choices, size=shape), since, 2)[..., None].astype(np.float64)


class Walker:
    """Goes the way, which it reads from the true environments."""

    def __init__(self, envs: Sequence[gym.Env]):
        self.cores: list[Any] = [env.unwrapped for env in envs]
        self.plan: Plan | None = None

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        """Need nothing."""

    def act(self) -> np.ndarray:
        """Rows `(B, 1)`."""
        return np.array([[core.way()] for core in self.cores], np.float64)

    def see(self, observations: dict[str, np.ndarray]) -> None:
        """Need nothing."""


@dataclass(frozen=True)
class Row(KeptRow):
    """What one row is about."""

    side: int
    seed: int
    who: str


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """All rows, in order."""
    for side in options.sides:
        for seed in options.seeds:
            for who in options.actors:
                yield Row(side, seed, who)


def shown(options: argparse.Namespace) -> dict[str, Any]:
    """What a kept row must agree with."""
    keys = ("rollouts", "proposals", "starts", "iters", "episodes", "execute", "train", "preset", "record", "reasoner")
    return {key: getattr(options, key) for key in (*keys, "think")}


def kept(row: Row, options: argparse.Namespace) -> dict[str, Any] | None:
    """A finished row, None where there is none of these settings."""
    return kept_row(row.path(options.out), shown(options))


class Bench:
    """The episodes of one side and seed; the world and the reasoner once they are needed."""

    def __init__(self, side: int, seed: int, options: argparse.Namespace):
        self.task, self.side, self.seed, self.options = maze_task(side), side, seed, options
        tested = replace(self.task.env, kwargs={**self.task.env.kwargs, "split": "test"})
        self.held_out = replace(self.task, env=tested)
        self.envs = [self.held_out.make() for _ in range(options.episodes)]
        self.spec = describe(self.envs[0])
        self.starts = [begin(self.held_out, env, 100_003 * seed + b) for b, env in enumerate(self.envs)]
        self._engine: Engine | None = None
        self._reader: MazeReader | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            options = self.options
            preset = options.preset or self.task.preset
            path = options.out / "worlds" / f"maze-{self.side}-{self.seed}-{options.train}-{preset}"
            if holds_world(path):
                world = World.load(path, options.device or "cpu")
            else:
                data = task_data(f"maze-{self.side}", self.task, options.out, options.record)
                how = {"budget": options.train, "preset": preset, "seed": self.seed, "device": options.device}
                world = terrella.train(data, path, progress=False, **how)
            self._engine = Engine(world, steps=1, recall=1, device=options.device)
        return self._engine

    @property
    def reader(self) -> MazeReader:
        if self._reader is None:
            options, seed = self.options, self.seed
            if options.reasoner:
                reasoner = Reasoner.load(Path(options.reasoner.format(seed=seed)) / FILE)
            else:
                path = options.out / "reasoners" / f"{seed}-{options.think}"
                made = mazes(2000, TAUGHT, seed=seed)
                reasoner = train_reasoner(made, path, budget=options.think, seed=seed, progress=False).eval()
            self._reader = MazeReader(reasoner, self.side, options.iters, max(options.starts, options.proposals))
        return self._reader

    def planner(self, who: str) -> Planner:
        """A search, from proposals or not, with candidates as `terrella.planning.controller` counts them."""
        few = min(self.options.rollouts, max(8, round(2 * self.options.rollouts**0.5)))
        search = {**self.task.settings, "candidates": few, "max_rows": 1024}
        if who == "icem":
            return make_planner("icem", horizon=self.task.horizon, **search)
        proposer = self.reader if who == "reasoned" else Sticky(self.spec.action.n, self.seed)
        how = {"settings": search, "proposals": self.options.proposals, "max_rows": 1024}
        return Reasoned(Reasoned.Config(horizon=self.task.horizon, **how), proposer)

    def run(self, row: Row) -> dict[str, Any]:
        """Compute a row."""
        task, options, about = self.held_out, self.options, vars(row).copy()
        execute, told = options.execute or task.execute, {}
        if row.who in FLOORS:
            actor: Any = Blind(self.spec, self.envs[0].action_space, len(self.envs), FLOORS[row.who])
        elif row.who == "walker":
            actor = Walker(self.envs)
        elif row.who == "alone":
            actor = Follower(self.reader, task.horizon, execute, self.seed)
        else:
            steps = options.rollouts * task.horizon * self.engine.steps
            told = {"model_steps": steps, "horizon": task.horizon}
            objective, planner = task.objective({}, task.discount), self.planner(row.who)
            actor = Controller(self.engine, objective, planner, execute=execute, budget_steps=steps, seed=self.seed)
        began = time.process_time()  # what was trained on the way is not counted
        try:
            played = play(task, self.spec, self.envs, self.starts, actor)
        except ConfigError as error:  # too few futures for what is proposed
            return about | told | {"refused": str(error)}
        told["seconds"] = round(time.process_time() - began, 2)
        if row.who in ("alone", "reasoned"):
            told["right"] = self.right()
        return about | told | figures(task, played)

    def right(self) -> float:
        """Share of the starts at which the reasoner's first proposal is the way, played in the true environments."""
        follower = Follower(self.reader, self.task.horizon, self.task.horizon, self.seed)
        once = replace(self.held_out, limit=self.task.horizon)
        played = play(once, self.spec, self.envs, self.starts, follower)
        return float(np.mean([once.won(e.held) for e in played]))

    def close(self) -> None:
        for env in self.envs:
            env.close()


def compute(options: argparse.Namespace) -> bool:
    """Make the rows that are missing; False where time was up before all were there."""
    began, bench = time.monotonic(), None
    for row in wanted(options):
        if kept(row, options) is not None:
            continue
        if time_is_up(options, began):
            return False
        if bench is None or (bench.side, bench.seed) != (row.side, row.seed):
            if bench is not None:
                bench.close()
            bench = Bench(row.side, row.seed, options)
        done = bench.run(row)
        keep_row(row.path(options.out), done, shown(options))
    if bench is not None:
        bench.close()
    return True


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = resumable(__doc__, "runs/proposal")
    made.add_argument("--sides", type=int, nargs="+", default=[7, 11], help="tokens a side (default 7 11)")
    made.add_argument("--actors", nargs="+", choices=ACTORS, default=list(ACTORS))
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of worlds, reasoners and episodes")
    made.add_argument("--episodes", type=int, default=50, help="of each row (default 50)")
    made.add_argument("--rollouts", type=int, default=16, help="futures a plan, proposals included (default 16)")
    made.add_argument("--proposals", type=int, default=4, help="of these, priced first (default 4)")
    made.add_argument("--starts", type=int, default=8, help="of the reasoner (default 8)")
    made.add_argument("--iters", type=int, default=32, help="of the reasoner (default 32)")
    made.add_argument("--execute", type=int, help="actions taken of each plan (default: the task's)")
    made.add_argument("--train", default="10m", help="training of each world (default 10m)")
    made.add_argument("--preset", help="size of each world (default: the task's)")
    made.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    made.add_argument("--reasoner", default="", help="folder of trained reasoners, with {seed} in its name")
    made.add_argument("--think", default="8m", help="training of each reasoner without --reasoner (default 8m)")
    return made


def main(args: list[str] | None = None) -> None:
    """Train what is missing, and compare."""
    options = parser().parse_args(args)
    complete(options, compute)
    rows = [found for row in wanted(options) if (found := kept(row, options)) is not None]
    settings = {**shown(options), "sides": options.sides}
    write_json({"benchmark": "proposal", "settings": settings, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
