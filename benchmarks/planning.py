"""Measure what planning in a learned world earns in the true environment, by planner and budget.

    python benchmarks/planning.py --tasks pendulum cartpole --train 10m --seeds 0 1 2 --json planning.json

A world is trained on random play, then each planner controls the true environment through it (a new plan at each step,
going on from the true frame), in episodes that start from seeds never recorded. The same planner in the true simulator,
through saved states, says what a perfect world would give; doing nothing and acting at random say what needs no plan. A
budget of 1 is `--rollouts` futures a decision, each of the task's horizon; all planners get equally many.

Worlds and recordings are kept in `--out` and not made again. One line a task, seed, model, planner and budget:

| key | meaning |
|---|---|
| `model` | where it was planned: `world`, `simulator`, or `none` |
| `planner`, `budget` | who planned, and with how much |
| `rollouts`, `model_steps` | futures and model evaluations (frames x denoising steps) a decision |
| `return`, `return_interval` | mean over episodes of the undiscounted return, with its bootstrap 95 % interval |
| `success`, `success_interval` | share of episodes that did the task (see `TASKS`), with its Wilson 95 % interval |
| `imagined`, `realised` | mean discounted return that plans promised, and what the same steps then brought: the gap |
| | shows how far a planner exploits errors of its model |
| `returns`, `lengths`, `successes` | raw values, an episode each |
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from common import recorded, write_json

import terrella
from terrella.actions import decode, encode
from terrella.arenas import describe, make, to_streams
from terrella.engine import Engine
from terrella.evaluation.stats import bootstrap, wilson
from terrella.planning import Controller, Plan, Return, Simulator, Space, make_planner
from terrella.registry import names
from terrella.spec import WorldSpec
from terrella.world import World


@dataclass(frozen=True)
class Task:
    """An environment, how long an episode is, how far ahead is planned, and when an episode counts as a success.

    steps: transitions recorded. won: a function of an episode's rewards and whether it ended by itself.
    settings: of the planners, as far as they have them.
    """

    env: str
    steps: int
    limit: int
    horizon: int
    won: Callable[[np.ndarray, bool], bool]
    discount: float = 0.99
    settings: dict[str, Any] = field(default_factory=dict)


def _earned(rewards: np.ndarray, ended: bool) -> bool:
    del ended
    return bool(rewards.sum() > 0)


TASKS = {
    # upright and nearly still over the last 50 steps
    "pendulum": Task("Pendulum-v1", 20_000, 200, 20, lambda r, e: bool(r[-50:].mean() > -0.5)),
    # never falls
    "cartpole": Task("CartPole-v1", 20_000, 200, 16, lambda r, e: not e),
    # reaches the top
    "mountaincar": Task(
        "MountainCarContinuous-v0", 40_000, 400, 80, lambda r, e: e, settings={"beta": 3.0, "spread": 1.0}
    ),
    "empty": Task("MiniGrid-Empty-5x5-v0", 20_000, 40, 12, _earned, settings={"beta": 1.0}),
    "doorkey": Task("MiniGrid-DoorKey-5x5-v0", 60_000, 80, 24, _earned, settings={"beta": 1.0}),
    "coinrun": Task("procgen/coinrun", 60_000, 200, 24, _earned, settings={"beta": 2.0}),
}


class Actor(Protocol):
    """Who acts in B episodes; `terrella.planning.Controller` is one. plan: the last one, None for who has none."""

    plan: Plan | None

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        """Take in first frames."""
        ...

    def act(self) -> np.ndarray:
        """Rows `(B, W)`."""
        ...

    def see(self, observations: dict[str, np.ndarray]) -> None:
        """Take in what followed."""
        ...


class Blind:
    """Does nothing, or acts at random."""

    def __init__(self, spec: WorldSpec, spaces: Sequence[gym.Space], at_random: bool):
        self.spec, self.spaces, self.at_random = spec, spaces, at_random
        self.plan: Plan | None = None
        space = Space(spec.action)
        self.nothing = (
            np.array(spec.noop) if spec.noop is not None else space.clip(np.nan_to_num((space.low + space.high) / 2))
        )
        if spec.noop is None and len(space.picks):
            self.nothing[space.picks] = space.low[space.picks]

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        del observations
        for space, seed in zip(self.spaces, seeds):
            space.seed(seed)

    def act(self) -> np.ndarray:
        if self.at_random:
            return np.stack([encode(self.spec.action, space.sample()) for space in self.spaces])
        return np.tile(self.nothing, (len(self.spaces), 1))

    def see(self, observations: dict[str, np.ndarray]) -> None:
        del observations


@dataclass
class Episode:
    """What one episode brought, and what plans promised at each of its steps."""

    rewards: list[float] = field(default_factory=list)
    promised: list[float] = field(default_factory=list)
    over: bool = False  # done, for whatever reason
    ended: bool = False  # by itself


def play(task: Task, spec: WorldSpec, envs: Sequence[gym.Env], seeds: Sequence[int], actor: Actor) -> list[Episode]:
    """Play one episode in each environment side by side; those that are over wait for the others."""
    episodes = [Episode() for _ in envs]
    seen = [to_streams(env, env.reset(seed=seed)[0]) for env, seed in zip(envs, seeds)]
    frames = {name: np.stack([s[name] for s in seen]) for name in spec.modelled}
    actor.begin(frames, seeds)
    for _ in range(task.limit):
        rows = actor.act()
        promised = None if actor.plan is None else -actor.plan.cost
        for b, (env, episode) in enumerate(zip(envs, episodes)):
            if episode.over:
                continue
            observation, reward, terminated, truncated, _ = env.step(decode(spec.action, rows[b]))
            episode.rewards.append(float(reward))
            episode.promised.append(np.nan if promised is None else float(promised[b]))
            episode.ended, episode.over = bool(terminated), bool(terminated or truncated)
            for name, frame in to_streams(env, observation).items():
                if name in frames:
                    frames[name][b] = frame
        if all(e.over for e in episodes):
            break
        actor.see(frames)
    return episodes


def gap(task: Task, episodes: Sequence[Episode]) -> tuple[float | None, float | None]:
    """What plans promised and what came of the same steps, where all of these were played."""
    promised, realised = [], []
    for episode in episodes:
        weight, rewards = task.discount ** np.arange(task.horizon), np.array(episode.rewards)
        last = len(rewards) if episode.ended else len(rewards) - task.horizon + 1
        for t in range(max(0, last)):
            part = rewards[t : t + task.horizon]
            promised.append(episode.promised[t])
            realised.append(float((weight[: len(part)] * part).sum()))
    if not promised or np.isnan(promised).any():
        return None, None
    return float(np.mean(promised)), float(np.mean(realised))


def scored(task: Task, episodes: Sequence[Episode]) -> dict[str, Any]:
    """The figures of one row."""
    returns = np.array([sum(e.rewards) for e in episodes])
    won = [task.won(np.array(e.rewards), e.ended) for e in episodes]
    _, low, high = bootstrap(returns[:, None])
    imagined, realised = gap(task, episodes)
    return {
        "episodes": len(episodes),
        "return": float(returns.mean()),
        "return_interval": [float(low[0]), float(high[0])] if len(episodes) > 1 else None,
        "success": float(np.mean(won)),
        "success_interval": list(wilson(sum(won), len(won))),
        "imagined": imagined,
        "realised": realised,
        "returns": returns.round(4).tolist(),
        "lengths": [len(e.rewards) for e in episodes],
        "successes": won,
    }


def controller(
    task: Task, model: Engine | Simulator, planner: str, rollouts: int, execute: int, seed: int
) -> Controller:
    """The controller of one row: as many candidates as iterations leave room for, within the same budget for all."""
    candidates = min(rollouts, max(8, round(2 * rollouts**0.5)))
    settings = {"horizon": task.horizon, "candidates": candidates, **task.settings}
    if planner == "random":
        settings["candidates"] = rollouts
    made = make_planner(planner, **settings)
    price = task.horizon * model.steps
    return Controller(model, Return(task.discount), made, execute=execute, budget_steps=rollouts * price, seed=seed)


def trained(name: str, task: Task, seed: int, options: argparse.Namespace) -> World:
    """Train the world of a task, or open it where it was trained before."""
    path = options.out / f"{name}-{seed}-{options.train}-{options.preset}"
    if (path / "world.json").exists() and not (path / "checkpoint.safetensors").exists():
        return World.load(path, options.device or "cpu")
    longest = TASKS[name].limit  # more beginnings, and nothing that no episode here reaches
    data = recorded(task.env, options.record or task.steps, options.out, seed=0, max_episode_steps=longest)
    settings = {"budget": options.train, "preset": options.preset, "seed": seed, "device": options.device}
    return terrella.train(data, path, **settings)


def rows_of(name: str, task: Task, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one task and seed."""
    limit = options.limit or task.limit
    task = Task(**{**vars(task), "limit": limit, "horizon": min(task.horizon, limit)})
    envs = [make(task.env) for _ in range(options.episodes)]
    spec = describe(envs[0])
    seeds = np.random.SeedSequence([0x91A7, seed]).generate_state(options.episodes, np.uint32) >> 1
    starts, rows = [int(s) for s in seeds], []

    def add(model: str, planner: str, budget: int, steps: int, episodes: list[Episode]) -> None:
        rollouts = budget * options.rollouts
        about = {"task": name, "seed": seed, "model": model, "planner": planner, "budget": budget}
        price = {"rollouts": rollouts, "model_steps": rollouts * task.horizon * steps, "horizon": task.horizon}
        rows.append({**about, **price, **scored(task, episodes)})
        shown = {k: v for k, v in rows[-1].items() if k not in ("returns", "lengths", "successes")}
        print(json.dumps(shown), file=sys.stderr, flush=True)

    for kind in ("do-nothing", "random-actions"):
        actor = Blind(spec, [env.action_space for env in envs], kind == "random-actions")
        add("none", kind, 0, 0, play(task, spec, envs, starts, actor))
    engine = Engine(trained(name, task, seed, options), steps=options.steps) if "world" in options.models else None
    for planner in options.planners:
        for budget in options.budgets:
            rollouts = budget * options.rollouts
            if engine is not None:
                actor = controller(task, engine, planner, rollouts, options.execute, seed)
                add("world", planner, budget, engine.steps, play(task, spec, envs, starts, actor))
            if "simulator" in options.models:
                episodes = []
                for env, start in zip(envs, starts):  # a simulator plays one future at a time anyway
                    env.reset(seed=start)
                    actor = controller(task, Simulator(env), planner, rollouts, options.execute, seed)
                    episodes += play(task, spec, [env], [start], actor)
                add("simulator", planner, budget, Simulator.steps, episodes)
    for env in envs:
        env.close()
    return rows


def main() -> None:
    """Train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["pendulum", "cartpole", "mountaincar"])
    parser.add_argument("--planners", nargs="+", choices=names("planner"), default=names("planner"))
    parser.add_argument("--models", nargs="+", choices=("world", "simulator"), default=["world", "simulator"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rollouts", type=int, default=16, help="futures a decision at budget 1 (default 16)")
    parser.add_argument("--episodes", type=int, default=50, help="of each row (default 50)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of worlds, episodes and candidates")
    parser.add_argument("--execute", type=int, default=1, help="actions taken of each plan (default 1)")
    parser.add_argument("--steps", type=int, help="denoising steps of a frame (default: the world's own)")
    parser.add_argument("--train", default="10m", help="training of each world: 10m, 90s, 2000steps (default 10m)")
    parser.add_argument("--preset", default="tiny", help="size of each world (default tiny)")
    parser.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    parser.add_argument("--limit", type=int, help="longest episode (default: the task's)")
    parser.add_argument("--out", type=Path, default=Path("runs/planning"))
    parser.add_argument("--device", help="where to train and plan (default: train on a GPU if there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = [
        row for name in options.tasks for seed in options.seeds for row in rows_of(name, TASKS[name], seed, options)
    ]
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "out", "seeds")}
    write_json({"benchmark": "planning", "settings": settings, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
