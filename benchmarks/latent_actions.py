"""Measure what recordings without actions are worth: worlds from a few labels, and from many frames beside them.

    python benchmarks/latent_actions.py --worlds pendulum sprites --json latent_actions.json

All worlds are trained for equally many steps of the same recipe, and asked which true future follows from which
actions (fork matrices, `terrella.evaluation`). `-moving` is the same environment before a background that moves by
itself. One row a world, seed and arm:

| arm | what it is trained on |
|---|---|
| `labels` | `--labels` transitions whose actions are known, alone |
| `latent` | all frames under latent actions (`learn_actions`), then aligned by these labels |
| `pseudo` | all frames under the actions that inverse dynamics, fitted on these labels, reads off them |
| `all` | all frames under their true actions: the ceiling |
| `frames` | all frames under no actions at all: what is asked for can only be chosen among what the world draws |

| key | meaning |
|---|---|
| `scores` | by N: of N futures of each branch that is taken which the inverse head, fitted on these labels, believes |
| | most, anew after each `--every` frames (1: none is chosen); `row` accuracy and `response` with 95 % intervals, by |
| | stream and horizon |
| `told` | how much of its labels the arm has right on all recordings: share of choices, 1 - squared error over |
| | variance of numbers; for latents the share of their variance that the true action explains |
| `labels` | transitions that were labelled, in how many pieces of recordings |
| `seconds` | of processor time, learning and measuring |

Recordings, worlds and finished rows are kept in `--out`: the same command goes on where it was stopped (`--minutes`
stops it by itself), and `--gather` only prints what there is.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from common import KeptRow, complete, holds_world, keep_row, kept_row, recorded_by, resumable, time_is_up, write_json
from distractor import MovingBackground

import terrella
from terrella.arenas import make
from terrella.data import Dataset, Episode
from terrella.engine import Engine
from terrella.evaluation.forks import Forks, fork_groups
from terrella.evaluation.measurements import measure_forks
from terrella.evaluation.run import LEAD
from terrella.evaluation.source import used_seeds
from terrella.labels import LatentActions, align, controlled, label, learn_actions, pseudo_label
from terrella.labels.controls import Controls, features
from terrella.labels.latent import LatentConfig
from terrella.labels.learning import relabelled
from terrella.planning import BestOf
from terrella.world import World

ENVS = {
    "pendulum": "Pendulum-v1",
    "cartpole": "CartPole-v1",
    "sprites": "terrella/Sprites-v0",
    "pong": "ALE/Pong-v5",
    "coinrun": "procgen/coinrun",
}
WORLDS = (*ENVS, "sprites-moving", "pong-moving", "coinrun-moving")
ARMS = ("labels", "latent", "pseudo", "all", "frames")
PIECE = 20  # transitions of one episode that are labelled
FRAMES = 2  # that inverse dynamics reads
CONTEXT = 4


class OneChoice(gym.ActionWrapper):
    """Sprites whose camera stays or goes two pixels in one of eight directions: choices that a map can stand for."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space, self.motion = gym.spaces.Discrete(9), None
        self._middle = (env.action_space.nvec - 1) // 2  # pyright: ignore[reportAttributeAccessIssue]

    def action(self, action: int) -> np.ndarray:
        return self._middle + 2 * (np.array(divmod(action, 3)) - 1)


def environment(name: str) -> str | Callable[[], gym.Env]:
    """An id, or a function that makes an environment, with a moving background behind its own frames for `-moving`."""
    plain = name.removesuffix("-moving")

    def made() -> gym.Env:
        env = make(ENVS[plain], size=0).env  # pyright: ignore[reportAttributeAccessIssue]
        env = OneChoice(env) if plain == "sprites" else env
        return env if plain == name else MovingBackground(env)

    return made if name not in ENVS or name == "sprites" else ENVS[name]


@dataclass(frozen=True)
class Row(KeptRow):
    """What one row is about."""

    world: str
    seed: int
    arm: str


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """All rows, a world after another."""
    return (Row(w, seed, arm) for w in options.worlds for seed in options.seeds for arm in options.arms)


def shown(options: argparse.Namespace) -> dict[str, Any]:
    """What a kept row must agree with."""
    keys = ("record", "labels", "train", "learn", "read", "preset", "bottleneck", "beta", "size", "best", "groups")
    return {key: getattr(options, key) for key in (*keys, "every", "branches", "marks")}


def recordings(name: str, options: argparse.Namespace) -> Dataset:
    """The recordings of a world, made once."""
    path, how = options.out / "data" / f"{name}-{options.record}", {"max_episode_steps": 200, "progress": False}
    return recorded_by(environment(name), path, [("sticky-random", options.record)], **how)


def few(data: Dataset, path: Path, count: int, seed: int) -> Dataset:
    """Pieces of random episodes, until `count` transitions are there to train on; some are held out beside them."""
    if (path / "dataset.json").exists():
        return Dataset(path)
    rng, left, partial = np.random.default_rng(seed), count, path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    for index in rng.permutation(len(data)).tolist() * count:
        whole = data.episode(index, states=False)
        steps = min(PIECE, left, len(whole))
        at = int(rng.integers(len(whole) - steps + 1))
        cut = slice(at, at + steps)
        truncated = whole.truncated[cut].copy()
        truncated[-1] |= not whole.terminated[cut][-1]
        seen = {name: frames[at : at + steps + 1] for name, frames in whole.observations.items()}
        with Dataset.create(partial, data.spec) as writer:
            writer.add(Episode(seen, whole.actions[cut], whole.rewards[cut], whole.terminated[cut], truncated))
        found = Dataset(partial)
        left = count - int(found.lengths[found.split("train")].sum())
        if left <= 0 and len(found.split("held_out")):
            break
        left = max(left, 1)
    partial.rename(path)
    return Dataset(path)


def kept(path: Path, make: Callable[[], Dataset]) -> Dataset:
    """Open a dataset that was made before, or make it."""
    return Dataset(path) if (path / "dataset.json").exists() else make()


class Bench:
    """The arms of one world and seed."""

    def __init__(self, name: str, seed: int, options: argparse.Namespace):
        self.name, self.seed, self.options = name, seed, options
        self.data = recordings(name, options)
        self.folder = options.out / f"{name}-{options.record}-{seed}"
        self.few = few(self.data, self.folder / f"few-{options.labels}", options.labels, seed)
        self._forks: Forks | None = None

    @property
    def forks(self) -> Forks:
        """True futures, the same for all arms and seeds."""
        if self._forks is None:
            env, options = make(environment(self.name)), self.options
            how: dict[str, Any] = {"branches": options.branches, "marks": options.marks, "taken": used_seeds(self.data)}
            groups = fork_groups(env, self.data.spec, sizes=[options.groups], context=CONTEXT, lead=LEAD, **how)
            self._forks = next(groups)
            env.close()
        return self._forks

    def train(self, data: Dataset, named: str) -> World:
        """Train a world, or open it where it was trained before."""
        options = self.options
        path = self.folder / f"world-{named}-{options.train}-{options.preset}"
        if holds_world(path):
            return World.load(path)
        how: dict[str, Any] = {"preset": options.preset, "seed": self.seed, "device": options.device}
        return terrella.train(data, path, budget=options.train, progress=False, **how)

    def world(self, arm: str) -> tuple[World, dict[str, Any]]:
        """The world of an arm, and what is to be said of its labels."""
        options = self.options
        how: dict[str, Any] = {"preset": options.preset, "seed": self.seed, "device": options.device, "progress": False}
        if arm == "labels":
            return self.train(self.few, f"labels-{options.labels}"), {}
        if arm == "all":
            return self.train(self.data, arm), {}
        if arm == "frames":
            return self.untold(), {}
        if arm == "pseudo":
            named = f"pseudo-{options.labels}-{options.read}"
            path = self.folder / named
            data = kept(path, lambda: pseudo_label(self.data, self.few, path, budget=options.read, **how))
            return self.train(data, named), {"told": told(self.data, data)}
        settings = {"bottleneck": options.bottleneck, "beta": options.beta, "size": options.size}
        named = "-".join(["latent", *map(str, settings.values()), options.learn])
        path = self.folder / named
        if (path / "actions" / "encoder.safetensors").exists():
            model = LatentActions.load(path / "actions")
        else:
            model = learn_actions(self.data, path / "actions", budget=options.learn, **how, **settings)
        data = kept(path / "data", lambda: label(self.data, path / "data", model))
        world = self.train(data, named)
        controls = align(model, self.few, split="train")
        every = align(model, self.data, transitions=4096)
        record = {k: v for k, v in model.record.items() if k.startswith("actions_")}
        explained = {"told": every.record["explained"], "aligned": controls.record["explained"]}
        return controlled(world, controls, self.few), {**explained, **record}

    def untold(self) -> World:
        """A world that has met no action: one latent action that is always 0, and all controls stand for it."""
        path, silent = self.folder / "frames", LatentConfig(size=1).spec(self.data.spec)
        data = kept(path, lambda: relabelled(self.data, path, silent, nothing, "none"))
        action = self.few.spec.action
        numbers = features(action, self.few.episode(0).actions[:1]).shape[-1]
        controls = Controls(np.zeros((1, numbers)), np.zeros(1), action)
        return controlled(self.train(data, "frames"), controls, self.few)

    def run(self, arm: str) -> dict[str, Any]:
        """Compute a row."""
        options, began = self.options, time.process_time()
        world, about = self.world(arm)
        engine = Engine(world, recall=FRAMES, device=options.device)
        if max(options.best) > 1:
            source = self.data if arm == "all" else self.few
            how: dict[str, Any] = {"budget": options.read, "seed": self.seed, "progress": False, "frames": FRAMES}
            terrella.heads.fit(engine.world, source, "inverse", changes=True, **how)
        scores = {}
        for n in options.best:
            dreamer = engine if n == 1 else BestOf(engine, n, every=options.every)
            measured = measure_forks(dreamer, self.forks, world.spec.modelled, lambda frames: None)
            scores[str(n)] = {stream: self._short(table) for stream, table in measured["streams"].items()}
        count = {"transitions": int(self.few.lengths[self.few.split("train")].sum()), "pieces": len(self.few)}
        seconds = round(time.process_time() - began, 1)
        about |= {"labels": count, "train": options.train, "seconds": seconds}
        return {"world": self.name, "seed": self.seed, "arm": arm, **about, "scores": scores}

    def _short(self, table: dict[str, Any]) -> dict[str, Any]:
        part = table["all"]
        return {
            "horizons": table["horizons"],
            "groups": table["groups"],
            "chance": part["chance"],
            "row": part["row"]["mean"],
            "row_interval": part["row"]["interval"],
            "row_kappa": part["row_kappa"]["mean"],
            "response": table["response"]["mean"],
            "response_interval": table["response"]["interval"],
        }


def nothing(seen: dict[str, np.ndarray]) -> np.ndarray:
    """The rows of an episode of which no action is known, `(T, 1)`."""
    return np.zeros((len(next(iter(seen.values()))) - 1, 1))


def told(true: Dataset, said: Dataset) -> float:
    """How much of the true actions of a dataset another one has right."""
    pairs = [(a.actions, b.actions) for a, b in zip(true, said)]
    right, found = (np.concatenate(rows) for rows in zip(*pairs))
    if true.spec.action.kind == "box":
        return float(1 - np.square(right - found).sum() / np.square(right - right.mean(0)).sum())
    return float((right == found).all(1).mean())


def compute(options: argparse.Namespace) -> bool:
    """Make the rows that are missing; False where time was up before all were there."""
    began, bench = time.monotonic(), None
    for row in wanted(options):
        if kept_row(row.path(options.out), shown(options)) is not None:
            continue
        if time_is_up(options, began):
            return False
        if bench is None or (bench.name, bench.seed) != (row.world, row.seed):
            bench = Bench(row.world, row.seed, options)
        keep_row(row.path(options.out), bench.run(row.arm), shown(options))
    return True


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = resumable(__doc__, "runs/latent_actions")
    made.add_argument("--worlds", nargs="+", choices=WORLDS, default=["pendulum", "sprites", "sprites-moving"])
    made.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--record", type=int, default=20_000, help="transitions to record (default 20000)")
    made.add_argument("--labels", type=int, default=100, help="of them with known actions (default 100)")
    made.add_argument("--train", default="3000steps", help="training of each world (default 3000steps)")
    made.add_argument("--learn", default="3000steps", help="learning of latent actions (default 3000steps)")
    made.add_argument("--read", default="1000steps", help="fitting of inverse dynamics (default 1000steps)")
    made.add_argument("--preset", default="tiny", help="size of each world (default tiny)")
    made.add_argument("--bottleneck", choices=("kl", "fsq"), default="kl", help="of latent actions (default kl)")
    made.add_argument("--beta", type=float, default=0.001, help="weight of its divergence (default 0.001)")
    made.add_argument("--size", type=int, default=4, help="numbers of a latent action (default 4)")
    made.add_argument("--best", type=int, nargs="+", default=[1, 2, 4, 8], help="futures to choose among")
    made.add_argument("--every", type=int, default=1, help="frames after which one is chosen (default 1)")
    made.add_argument("--groups", type=int, default=48, help="moments whose futures are compared (default 48)")
    made.add_argument("--branches", type=int, default=6, help="futures of each (default 6)")
    made.add_argument("--marks", type=int, nargs="+", default=[1, 4, 16], help="horizons (default 1 4 16)")
    return made


def main(args: list[str] | None = None) -> None:
    """Train what is missing, and compare."""
    options = parser().parse_args(args)
    complete(options, compute)
    found = (kept_row(row.path(options.out), shown(options)) for row in wanted(options))
    rows = [row for row in found if row is not None]
    result = {"benchmark": "latent_actions", "settings": shown(options), "rows": rows}
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
