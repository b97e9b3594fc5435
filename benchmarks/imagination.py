"""Measure what policies learned in a learned world earn in the true environment, beside those that never see a world.

    python benchmarks/imagination.py --tasks cartpole pendulum --seeds 0 1 2 --json imagination.json

A world is trained on recordings, then PPO learns in it alone, from places in the recordings. Beside it stand acting at
random, cloning the recordings (all, and the best fifth of the episodes), the same PPO in the true environment for as
many steps as were recorded, and for as many as were imagined, which is what a perfect world would give. Recordings are
of two kinds: `random` play, and `mixed`: half of it by a weak policy, which is something to imitate.

Everybody is judged over the same whole episodes of the true environment, from seeds never recorded, by likeliest
actions. Recordings and worlds are kept in `--out` and not made again. One row a task, seed, data and learner:

| key | meaning |
|---|---|
| `data` | what was recorded: `random`, `mixed`, or `none` |
| `learner` | `random`; `recorded`, what the recordings themselves brought; `clone`, `clone-best`; `imagined`, where |
| | episodes end that leave the recordings, and `imagined-anywhere`, where they do not; `true`; `true-long`, PPO in |
| | the true environment with as many steps as were imagined |
| `true_steps`, `imagined_steps` | transitions it learned from, of each kind |
| `return`, `return_interval` | mean over episodes of the undiscounted return, with its bootstrap 95 % interval |
| `cpu_seconds` | of one processor, for learning and being judged; a world's own training is in its `world.json` |
| `promised` | mean return of the last imagined episodes, each cut after `horizon` steps |
| `returns` | raw values, an episode each |

`dyna`, a second part, counts true steps until the mean return over the judged episodes reaches the task's `goal`: for
rounds of recording, training and imagining, and for PPO in the true environment judged at the same numbers of steps
and on, up to 32 times as many.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import holds_world, recorded, recorded_by, write_json

import terrella
from terrella.data import Dataset
from terrella.evaluation.stats import bootstrap
from terrella.learning import LearnedPolicy, NetworkConfig, beginnings, clone, dyna, learn, returns, true_envs
from terrella.training import TrainingConfig
from terrella.world import Part, World, WorldConfig

# Vectors of a few numbers need no more; a step of 64 sessions takes a quarter of the time of the `tiny` preset.
PARTS = WorldConfig(Part("transformer", {"dim": 64, "layers": 2, "heads": 1}), Part("regression"))
RECIPE = TrainingConfig(batch=64, tokenizer_share=0.05, context_noise=0.0)


@dataclass(frozen=True)
class Task:
    """An environment, how much of it is recorded, and how PPO learns in it.

    record: transitions. limit: longest recorded episode. weak: true steps of the policy that plays half of `mixed`.
    horizon: of imagined episodes. goal: the return that `dyna` is to reach. settings: of PPO, everywhere. true: of PPO
    in the true environment besides; few sessions and short batches, because steps are few there.
    """

    env: str
    record: int
    limit: int
    weak: int
    horizon: int
    goal: float
    settings: dict[str, Any]
    true: dict[str, Any] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)


# PPO's settings follow those that Stable-Baselines3's authors publish as tuned (rl-baselines3-zoo); rates are constant.
TASKS = {
    "cartpole": Task(
        "CartPole-v1",
        record=10_000,
        limit=200,
        weak=6_000,
        horizon=50,
        goal=400.0,
        settings={"gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3, "n_epochs": 10, "batch_size": 256},
        true={"n_steps": 32, "num_envs": 8},
    ),
    "pendulum": Task(
        "Pendulum-v1",
        record=10_000,
        limit=200,
        weak=60_000,
        horizon=50,
        goal=-250.0,
        settings={"gamma": 0.9, "gae_lambda": 0.95, "learning_rate": 1e-3, "n_epochs": 10, "batch_size": 256},
        true={"n_steps": 256, "num_envs": 4, "batch_size": 64},
        network=NetworkConfig(state_noise=True),
    ),
    "acrobot": Task(
        "Acrobot-v1",
        record=20_000,
        limit=500,
        weak=20_000,
        horizon=100,
        goal=-110.0,
        settings={"gamma": 0.99, "gae_lambda": 0.94, "learning_rate": 1e-3, "n_epochs": 4, "batch_size": 256},
        true={"n_steps": 64, "num_envs": 8},
    ),
}


def in_truth(
    task: Task, steps: int, seed: int, *, policy: LearnedPolicy | None = None, sessions: int | None = None
) -> LearnedPolicy:
    """PPO in the true environment; with `sessions`, in as many side by side and batches as long as when imagining."""
    few = {} if sessions else {k: v for k, v in task.true.items() if k != "num_envs"}
    envs = true_envs(task.env, sessions or task.true["num_envs"])
    network = None if policy is not None else task.network
    try:
        return learn(envs, steps=steps, seed=seed, settings={**task.settings, **few}, network=network, policy=policy)
    finally:
        envs.close()


def imagine(
    task: Task, world: World, data: Dataset, steps: int, seed: int, options: argparse.Namespace, within: Dataset | None
) -> LearnedPolicy:
    """PPO in a world."""
    how = {"num_envs": options.sessions, "max_episode_steps": task.horizon, "network": task.network, "within": within}
    return learn(world, steps=steps, starts=beginnings(data), seed=seed, settings=task.settings, **how)


def recordings(name: str, task: Task, kind: str, seed: int, options: argparse.Namespace) -> Dataset:
    """Record, or open what was recorded before."""
    steps, how = options.record or task.record, {"seed": seed, "max_episode_steps": task.limit, "progress": False}
    if kind == "random":
        return recorded(task.env, steps, options.out / f"random-{seed}", policy="random", **how)
    path = options.out / f"mixed-{seed}" / f"{name}-{steps}"
    if (path / "dataset.json").exists() and (found := Dataset(path)).steps >= steps:
        return found  # and the weak policy need not be learned again
    weak = in_truth(task, options.weak or task.weak, seed + 100)
    weak.deterministic = False
    return recorded_by(task.env, path, [("random", steps // 2), (weak, steps - steps // 2)], **how)


def trained(data: Dataset, seed: int, options: argparse.Namespace) -> World:
    """Train the world of a recording, or open it where it was trained before."""
    path = data.path.parent / f"{data.path.name}-world-{options.train}"
    if holds_world(path):
        return World.load(path)
    return terrella.train(
        data, path, budget=options.train, config=PARTS, training=RECIPE, seed=seed, device="cpu", progress=False
    )


def scored(found: np.ndarray) -> dict[str, Any]:
    """The figures of one policy's episodes."""
    _, low, high = bootstrap(found[:, None])
    interval = [float(low[0]), float(high[0])] if len(found) > 1 else None
    return {"return": float(found.mean()), "return_interval": interval, "returns": found.round(2).tolist()}


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row without its raw values, for whoever waits."""
    print(json.dumps({k: v for k, v in row.items() if k != "returns"}), file=sys.stderr, flush=True)
    return row


def policies(name: str, task: Task, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows of one task and seed."""
    true_steps, imagined = options.record or task.record, options.imagined

    def row(data: str, learner: str, steps: tuple[int, int], policy: Any, began: float, **more: Any) -> dict[str, Any]:
        seconds = round(time.process_time() - began, 1)
        if isinstance(policy, np.ndarray):
            found = policy
        else:
            found = returns(policy, task.env, episodes=options.episodes, seed=seed)
        about = {"task": name, "seed": seed, "data": data, "learner": learner}
        price = {"true_steps": steps[0], "imagined_steps": steps[1], "cpu_seconds": seconds}
        return show({**about, **price, **scored(found), **more})

    began = time.process_time()
    yield row("none", "random", (0, 0), None, began)
    for learner, steps, sessions in (("true", true_steps, None), ("true-long", imagined, options.sessions)):
        began = time.process_time()
        yield row("none", learner, (steps, 0), in_truth(task, steps, seed, sessions=sessions), began)
    for kind in options.data:
        data = recordings(name, task, kind, seed, options)
        yield row(kind, "recorded", (0, 0), data.returns, time.process_time())
        for learner, share in (("clone", 1.0), ("clone-best", 0.2)):
            began = time.process_time()
            yield row(kind, learner, (true_steps, 0), clone(data, steps=2000, best=share, seed=seed), began)
        world = trained(data, seed, options)
        for learner, within in (("imagined", data), ("imagined-anywhere", None)):
            began = time.process_time()
            policy = imagine(task, world, data, imagined, seed, options, within)
            curve = policy.record["curve"]
            about = {
                "promised": curve[-1][1] if curve else None,
                "horizon": task.horizon,
                "curve": curve[:: max(1, len(curve) // 12)],
            }
            yield row(kind, learner, (true_steps, imagined), policy, began, **about)


def turns(name: str, task: Task, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of `dyna`: the return after so many true steps, with the world and without, until the goal is reached."""

    def row(learner: str, steps: int, policy: LearnedPolicy, began: float) -> dict[str, Any]:
        seconds = round(time.process_time() - began, 1)
        found = returns(policy, task.env, episodes=options.episodes, seed=seed)
        about = {"task": name, "seed": seed, "learner": learner, "true_steps": steps, "cpu_seconds": seconds}
        return show({**about, "goal": task.goal, "reached": bool(found.mean() >= task.goal), **scored(found)})

    began, folder = time.process_time(), options.out / f"dyna-{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # rounds go on from what is there
    learning = {"num_envs": options.sessions, "max_episode_steps": task.horizon, "settings": task.settings}
    training = {"budget": options.train, "config": PARTS, "training": RECIPE, "device": "cpu"}
    for turn in dyna(
        task.env,
        folder,
        rounds=options.rounds,
        imagined=options.imagined_a_round,
        seed=seed,
        training=training,
        reach=2.0,
        learning={**learning, "network": task.network},
    ):
        found = row("dyna", turn.data.steps, turn.policy, began)
        yield found
        if found["reached"]:
            break
    began, policy, steps = time.process_time(), None, 0
    judged = [*np.cumsum(options.rounds).tolist(), *(sum(options.rounds) * 2**k for k in range(1, 6))]
    for wanted in judged:
        policy = in_truth(task, wanted - steps, seed + steps, policy=policy)
        steps = wanted
        found = row("true", steps, policy, began)
        yield found
        if found["reached"]:
            break


def main() -> None:
    """Record and train what is missing, learn, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["cartpole", "pendulum"])
    parser.add_argument("--parts", nargs="+", choices=("policies", "dyna"), default=["policies", "dyna"])
    parser.add_argument("--data", nargs="+", choices=("random", "mixed"), default=["random", "mixed"])
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of recordings, worlds, learners, judges"
    )
    parser.add_argument("--episodes", type=int, default=50, help="judged, of each policy (default 50)")
    parser.add_argument("--imagined", type=int, default=100_000, help="imagined transitions (default 100,000)")
    parser.add_argument("--sessions", type=int, default=64, help="imagined side by side (default 64)")
    parser.add_argument(
        "--train", default="1000steps", help="training of each world: 1000steps, 90s (default 1000steps)"
    )
    parser.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    parser.add_argument("--weak", type=int, help="true steps of the weak policy (default: the task's)")
    parser.add_argument("--rounds", type=int, nargs="+", default=[1000, 1000, 2000, 4000], help="true steps of dyna's")
    parser.add_argument("--imagined-a-round", type=int, default=60_000, help="by dyna (default 60,000)")
    parser.add_argument("--out", type=Path, default=Path("runs/imagination"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {part: [] for part in options.parts}
    for name in options.tasks:
        for seed in options.seeds:
            for part in options.parts:
                made = {"policies": policies, "dyna": turns}[part]
                rows[part] += made(name, TASKS[name], seed, options)
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "out", "seeds")}
    write_json({"benchmark": "imagination", "settings": settings, **rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
