"""What keeps a long rollout from drifting, and what tells that it has: worlds that differ in one switch, and an alarm.

    python benchmarks/drift.py --json benchmarks/results/drift.json

All worlds of a task see the same recordings for the same time (or, with `--steps`, for as many steps), and go on alone
from the same moments under the same actions as the true environment, for as many frames as a clip in training has (1x)
and ten times as many. The `baseline` is trained as pictures are unless something else is said, and so are vectors here.
Switches of stepping are tried on its weights; `rssm` is a backbone with a recurrent transition, for a bound on it.
CoinRun has the `tiny` preset; Pendulum, three numbers a frame, smaller worlds.

Rows have `task, arm, against, seed, params, train_minutes, steps, horizons`, `mse` (error at each horizon, mean over
rollouts), `share` (the same as a share of the error of an unrelated true frame of the same horizon) and `slope` (of
that share, at every frame from 1x to 10x, by least squares; per 100 frames). Rows of `baseline`, and of worlds of
the gallery (`alarms`), have `alarm`: for each signal, `auroc` at each horizon (wrong: an error above the median of the
rollouts at that horizon), `pooled` over all frames (wrong: more than ten times the median error one step ahead), and of
alarms that the threshold gives: `early` (share of frames up to 1x), `late` (of those at 10x), `recall` and `precision`,
beside the share of frames that are `wrong`. `age` is no signal but the number of frames since the truth was seen: what
a clock knows.

Worlds and results are kept in `--out` and not made again, so that it can be run in parts, by `--tasks`, `--arms` and
`--seeds`; `--gather` trains nothing and prints what there is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, holds_world, recorded, with_conv, write_json

import terrella
from terrella.data import Dataset
from terrella.engine import Engine, calibrate
from terrella.evaluation.gather import stream_scale
from terrella.evaluation.metrics import frame_mse
from terrella.evaluation.rollout import stretches
from terrella.evaluation.source import open_truth
from terrella.evaluation.stats import auroc
from terrella.evaluation.truth import Truth
from terrella.files import atomic
from terrella.spec import WorldSpec
from terrella.training import SIZES
from terrella.training.presets import training_config, world_config
from terrella.world import Part, World, WorldConfig

LENGTH = SIZES["tiny"].training.length  # frames of a clip that are predicted: 1x
HORIZONS = tuple(LENGTH * k for k in (1, 2, 4, 7, 10))
MARKS = (1, 4, *HORIZONS)
MULTIPLE = 10  # of the error one step ahead: more is wrong
CONTEXT, LEAD = 4, 60  # lead: futures begin early enough for ten times the trained length


@dataclass(frozen=True)
class Task:
    """What is recorded, for how many minutes a world of it is trained by default, and backbones that are not `tiny`."""

    env: str
    steps: int
    minutes: float
    backbones: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One switch: a setting of training (a dictionary), of tokenizers, of the world or engine, or of the backbone.

    against: the arm that differs by it; of: the arm whose weights it steps, if it has none of its own.
    """

    training: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    backbone: str = "transformer"
    against: str = "baseline"
    of: str | None = None
    tasks: tuple[str, ...] = ("pendulum", "coinrun")


SMALL = {
    "transformer": Part("transformer", {"dim": 64, "layers": 2, "heads": 2, "window": LENGTH}),
    "rssm": Part("rssm", {"dim": 128, "groups": 16, "hidden": 64, "width": 64, "layers": 1, "heads": 2}),
}
TASKS = {
    "pendulum": Task("Pendulum-v1", 10_000, 0.6, SMALL),
    "coinrun": Task("procgen/coinrun", 20_000, 1.6),
}
GALLERY = ("pendulum", "coinrun", "ninja")
ARMS = {
    "baseline": Arm(),
    "no noise on the past": Arm({"context_noise": 0.0}),
    "no frames of its own": Arm({"self_fed": 0.0}),
    "self-forcing, 4 deep": Arm({"self_fed_depth": 4}),
    "error buffer": Arm({"recycled": 0.3}),
    "no averaged weights": Arm({"average": 0.0}),
    "re-encoding": Arm(engine={"reencode": 1}, of="baseline"),
    "re-encoding every 4th": Arm(engine={"reencode": 4}, of="baseline"),
    "re-encoding, met worn frames": Arm(tokenizer={"trips": 8}, engine={"reencode": 1}, tasks=("coinrun",)),
    "noise on dreamed frames": Arm(world={"dream_level": 0.9}, of="baseline"),
    "rssm": Arm(backbone="rssm", against="rssm", tasks=("pendulum",)),
    "rssm, spectral bound": Arm({"spectral": 1.0}, backbone="rssm", against="rssm", tasks=("pendulum",)),
}


def trained(task: Task, arm: Arm, seed: int, budget: str, path: Path, data: Dataset, device: str | None) -> World:
    """Train the world of an arm, or open it where it was trained before."""
    if holds_world(path):
        return World.load(path, device or "cpu")
    recipe = replace(training_config("tiny", arm.backbone), **arm.training)
    own = task.backbones.get(arm.backbone)
    tiny = world_config("tiny", data.spec, backbone=arm.backbone)
    config = tiny if own is None else WorldConfig(own, Part("shortcut"))
    how: dict[str, Any] = {"budget": budget, "seed": seed, "device": device}
    return terrella.train(data, path, config=with_conv(config, arm.tokenizer), training=recipe, **how)


def futures(spec: WorldSpec, data: Dataset | None, episodes: int) -> list[Truth]:
    """True futures of ten times the trained length, the same for all worlds."""
    how: dict[str, Any] = {"context": CONTEXT, "frames": HORIZONS[-1], "marks": [1], "lead": LEAD}
    return list(open_truth(spec, None, data, episodes=episodes, seed=0, policy="sticky-random", **how)[1])


def dreamed(engine: Engine, truths: list[Truth]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Go on from the truths: errors of all frames, those of unrelated true frames, and the alarm's levels, `(B, T)`.

    NaN past an episode's end.
    """
    name, stream = next(iter(engine.spec.modelled.items()))
    scale, rows = stream_scale(truths[0], name, stream), []
    for truth in truths:
        frames, levels = [], []
        for _, frame in stretches(engine, truth, truth.future):
            frames.append(frame.observation[name])
            levels.append(frame.info.get("alarm", np.zeros(frame.reward.shape)))
        real = truth.observations[name][:, CONTEXT + 1 :]
        alive = np.arange(1, real.shape[1] + 1) <= truth.length[:, None]
        both = alive & np.roll(alive, 1, 0)
        error = np.where(alive, frame_mse(np.concatenate(frames, 1), real, stream, scale), np.nan)
        other = np.where(both, frame_mse(np.roll(real, 1, 0), real, stream, scale), np.nan)
        rows.append((error, other, np.concatenate(levels, 1)))
    error, other, level = (np.concatenate(parts) for parts in zip(*rows))
    return error, other, None if engine.alarm is None else level


def drift(error: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Errors by horizon, and how fast they grow from 1x to 10x."""
    known = ~np.isnan(error) & ~np.isnan(other)
    share = np.where(known, error, 0).sum(0) / np.where(known, other, 0).sum(0)
    at = np.arange(LENGTH, HORIZONS[-1] + 1)
    return {
        "horizons": list(MARKS),
        "rollouts": [int(known[:, h - 1].sum()) for h in MARKS],
        "mse": [float(np.nanmean(error[:, h - 1])) for h in MARKS],
        "share": [float(share[h - 1]) for h in MARKS],
        "slope": float(100 * np.polyfit(at, share[at - 1], 1)[0]),
    }


def told(level: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """How well levels tell which frames are wrong."""
    known = ~np.isnan(error)
    wrong, alarmed = error > MULTIPLE * np.nanmedian(error[:, 0]), level > 1
    by = {}
    for h in HORIZONS:
        one, own = error[known[:, h - 1], h - 1], level[known[:, h - 1], h - 1]
        by[str(h)] = defined(auroc(own, one > np.median(one)))
    return {
        "auroc": by,
        "pooled": defined(auroc(level[known], wrong[known])),
        "wrong": float(wrong[known].mean()),
        "early": float(alarmed[:, :LENGTH][known[:, :LENGTH]].mean()),
        "late": float(alarmed[:, -1][known[:, -1]].mean()),
        "recall": share(alarmed & wrong & known, wrong & known),
        "precision": share(alarmed & wrong & known, alarmed & known),
    }


def defined(value: float) -> float | None:
    """A number, or None where all are wrong or none is."""
    return None if np.isnan(value) else float(value)


def share(part: np.ndarray, whole: np.ndarray) -> float | None:
    """The share of one set in another, None where there is nothing."""
    return float(part.sum() / whole.sum()) if whole.any() else None


def row(
    name: str, label: str, seed: int, data: Callable[[], Dataset], truths: Callable[[], list[Truth]], options: Any
) -> dict[str, Any] | None:
    """Train and judge one arm, as far as that has not been done."""
    task, arm = TASKS[name], ARMS[label]
    minutes = options.minutes or task.minutes
    budget = f"{options.steps}steps" if options.steps else f"{minutes * 60:g}s"
    path = options.out / f"{name}-{label.replace(' ', '-').replace(',', '')}-{seed}-{budget}"
    result = path / f"result-{options.episodes}.json"
    if result.exists():
        return json.loads(result.read_text())
    if options.gather:
        return None
    weights = arm if arm.of is None else ARMS[arm.of]
    folder = path if arm.of is None else options.out / f"{name}-{arm.of}-{seed}-{budget}"
    world = trained(task, weights, seed, budget, folder, data(), options.device)
    world.config = replace(world.config, **arm.world)
    error, other, _ = dreamed(Engine(world, **arm.engine), truths())
    found = {
        "task": name,
        "arm": label,
        "against": arm.against,
        "seed": seed,
        "params": sum(world.parameters_by_part().values()),
        "train_minutes": round(world.record["seconds"] / 60, 2),
        "steps": world.record["steps"],
        **drift(error, other),
    }
    if label == "baseline":
        found["alarm"] = alarms(world, truths(), error, data())
    return written(found, result)


def shipped(name: str, options: Any) -> dict[str, Any] | None:
    """What the alarm knows of a world of the gallery, as far as that has not been measured."""
    result = options.out / f"gallery-{name}" / f"result-{options.episodes}.json"
    if result.exists():
        return json.loads(result.read_text())
    if options.gather:
        return None
    world = World.load(name, options.device)
    truths = futures(world.spec, None, options.episodes)
    error, other, _ = dreamed(Engine(world), truths)
    found = {"world": name, **drift(error, other), "alarm": alarms(world, truths, error)}
    return written(found, result)


def alarms(world: World, truths: list[Truth], error: np.ndarray, data: Dataset | None = None) -> dict[str, Any]:
    """What each signal, and a clock, tell of errors. data: what thresholds are measured from, if not the beginnings."""
    found = {"age": told(np.broadcast_to(np.arange(error.shape[1]) / LENGTH, error.shape), error)}
    world.alarm = calibrate(world, data)
    for signal in world.alarm:
        _, _, level = dreamed(Engine(world, alarm=signal), truths)
        assert level is not None
        found[signal] = told(level, error)
    return found


def written(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Keep a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    """Record, train and judge what is asked for, and print all of it."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--gallery", nargs="*", default=list(GALLERY), help="worlds to try the alarm on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=0.0, help="training of each world (default: the task's)")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps instead")
    parser.add_argument("--episodes", type=int, default=32, help="rollouts of a world")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/drift"))
    parser.add_argument("--gather", action="store_true", help="train nothing, print what there is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.tasks:
        data, truths = sources(name, options)
        for seed in options.seeds:
            for label in options.arms:
                if name in ARMS[label].tasks:
                    found = row(name, label, seed, data, truths, options)
                    rows += [found] if found else []
    shown = [found for name in options.gallery if (found := shipped(name, options))]
    write_json(
        {"rows": rows, "alarms": shown, "length": LENGTH, "multiple": MULTIPLE}, options.json, seeds=options.seeds
    )


def sources(name: str, options: argparse.Namespace) -> tuple[Callable[[], Dataset], Callable[[], list[Truth]]]:
    """The recordings and true futures of a task, made when first asked for."""
    task = TASKS[name]
    data = cache(lambda: recorded(task.env, task.steps, options.out, seed=1000, max_episode_steps=500))
    return data, cache(lambda: futures(data().spec, data(), options.episodes))


if __name__ == "__main__":
    main()
