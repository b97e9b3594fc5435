"""What teaches a backbone that a decoder of chunks renders: the decoder's loss, or the latents that came.

    python benchmarks/supervision.py --json benchmarks/results/supervision.json

Both arms have the same parts (a backbone, the decoder `swin`), recordings and number of steps. `observations`: the
loss of the decoder alone teaches the backbone what comes next. `latents`: its plain prediction is drawn to the latent
of the frame that came, and nothing of the decoder's loss reaches it (`TrainingConfig.supervision`). Worlds go on alone
from the same moments under the same actions as the true environment.

Rows have `task, arm, backbone, seed, params, train_minutes, steps`, `horizons`, `mse`, `share` and `slope` as in
benchmarks/drift.py (error as a share of that of an unrelated true frame; how fast it grows from 1x to 10x the trained
length, per 100 frames), and

    state        squared error of the slow state, read as the latent of the frame that came, over the latents'
                 variance, on held-out clips: how much of the next frame the backbone says without its decoder
    action       the share of that error's rise under other clips' actions: 0, actions say nothing to the slow state

Recordings, worlds and finished rows are kept in `--out`: the same command goes on where it was stopped, in parts by
`--tasks`, `--arms` and `--seeds`; `--gather` trains nothing and prints what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, holds_world, keep_row, kept_row, recorded, with_conv, write_json
from drift import LENGTH, dreamed, drift, futures
from tabled.language import supervision

import terrella
from terrella.data import Dataset
from terrella.engine import Engine
from terrella.evaluation.truth import Truth
from terrella.registry import names
from terrella.spec import WorldSpec
from terrella.training.presets import training_config, world_config
from terrella.world import Part, World, WorldConfig

TASKS = {"pendulum": ("Pendulum-v1", 10_000), "sprites": ("terrella/Sprites-v0", 20_000)}
ARMS = {"observations": "decoder", "latents": "latent"}
SMALL = {"dim": 64, "layers": 2, "heads": 2, "window": LENGTH}
CLIPS = 64  # held out, for the slow state


@dataclass(frozen=True)
class Row:
    """What one row is about."""

    task: str
    seed: int
    arm: str

    def path(self, options: argparse.Namespace) -> Path:
        """The folder of its world, with the row beside it."""
        return options.out / f"{self.task}-{options.backbone}-{self.arm}-{self.seed}-{options.steps}"


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """All rows, a task after another."""
    return (Row(task, seed, arm) for task in options.tasks for seed in options.seeds for arm in options.arms)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a kept row must agree with."""
    return {key: getattr(options, key) for key in ("backbone", "steps", "episodes")}


def parts(spec: WorldSpec, backbone: str) -> WorldConfig:
    """Small parts: a world of a few minutes."""
    tiny = world_config("tiny", spec, "swin", backbone)
    sizes = {key: value for key, value in SMALL.items() if key in tiny.dynamics.config}
    swin = tiny.decoder.config | {"dim": 64, "layers": 2, "heads": 2}
    small = replace(tiny, dynamics=Part(backbone, tiny.dynamics.config | sizes), decoder=Part("swin", swin))
    return with_conv(small, {"width": 32})


def trained(row: Row, data: Dataset, options: argparse.Namespace) -> World:
    """Train the world of a row, or open it where it was trained before."""
    path = row.path(options)
    if holds_world(path):
        return World.load(path, options.device)
    recipe = replace(training_config("tiny", options.backbone, "swin"), supervision=ARMS[row.arm])
    config, how = parts(data.spec, options.backbone), {"seed": row.seed, "device": options.device}
    return terrella.train(data, path, budget=f"{options.steps}steps", config=config, training=recipe, **how)


@torch.no_grad()
def said(world: World, data: Dataset) -> dict[str, float]:
    """What the slow state says of the next latent, and what actions say to it."""
    clips = data.sample(CLIPS, LENGTH, np.random.default_rng(0), "held_out")
    z = world.encode(world.tensors(clips.observations, next(world.parameters()).device))
    rows = torch.from_numpy(clips.actions).float().to(z.device)
    rows = torch.cat([torch.full_like(rows[:, :1], torch.nan), rows], 1)
    error = {}
    for name, given in (("own", rows), ("other", torch.cat([rows[:, :1], rows[:, 1:].roll(1, 0)], 1))):
        slow = world.dynamics.parallel(z, given, torch.ones(z.shape[:2], device=z.device))[1](None, None)
        error[name] = float((slow - z)[:, 1:].square().mean() / z[:, 1:].var())
    return {"state": round(error["own"], 5), "action": round(1 - error["own"] / error["other"], 5)}


def judged(row: Row, data: Dataset, truths: list[Truth], options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one arm."""
    world = trained(row, data, options)
    error, other, _ = dreamed(Engine(world), truths)
    return {
        **vars(row),
        "backbone": options.backbone,
        "params": sum(world.parameters_by_part().values()),
        "train_minutes": round(world.record["seconds"] / 60, 2),
        "steps": world.record["steps"],
        **said(world, data),
        **drift(error, other),
    }


def sources(task: str, options: argparse.Namespace) -> tuple[Callable[[], Dataset], Callable[[], list[Truth]]]:
    """The recordings and true futures of a task, made when first asked for."""
    env, steps = TASKS[task]
    data = cache(lambda: recorded(env, options.records or steps, options.out, seed=1000, max_episode_steps=500))
    return data, cache(lambda: futures(data().spec, data(), options.episodes))


def main() -> None:
    """Record, train and judge what is missing, and print all there is."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--backbone", choices=names("dynamics"), default="language")
    parser.add_argument("--steps", type=int, default=3000, help="training of each world (default 3000)")
    parser.add_argument("--episodes", type=int, default=32, help="rollouts of a world (default 32)")
    parser.add_argument("--records", type=int, default=0, help="transitions recorded (default: the task's)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/supervision"))
    parser.add_argument("--gather", action="store_true", help="train nothing, print what there is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = {task: sources(task, options) for task in options.tasks}
    rows = []
    for row in wanted(options):
        file = row.path(options) / "row.json"
        found = kept_row(file, settings(options))
        if found is None and not options.gather:
            data, truths = made[row.task]
            found = judged(row, data(), truths(), options)
            keep_row(file, found, settings(options))
        rows += [found] if found else []
    result = {"rows": rows, "settings": settings(options), "length": LENGTH}
    print(supervision(result))
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
