"""Chunks of frames from a slow state against frames drawn one by one, after equal training.

    python benchmarks/two_clocks.py --json benchmarks/results/two_clocks.json

All arms see the same recordings for the same time (or, with `--steps`, for as many steps) and go on alone from the same
moments under the same actions as the true environment, for ten times as many frames as a clip in training has. Rows
have `arm, seed, params, train_minutes, steps` and

    seam         how much more changes between frames at a chunk's border than inside chunks, over the same of the truth
                 (1: no seam); frames drawn one by one are cut at the same places, as a control
    share, slope drift, as in benchmarks/drift.py: error as a share of that of an unrelated true frame by horizon, and
                 how fast it grows from 1x to 10x, per 100 frames
    frames       action to sight: after how many frames another action is first seen, over all places in a chunk and all
                 rollouts; 1 is the frame that it leads to
    step_ms      of one session: the step that draws (a chunk or a frame), median; the others hand over what is drawn
    fps          frames a second of one session, all steps together

Timings are taken in turns and mean something as ratios within a run. Worlds are kept in `--out` and not made again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, holds_world, median, recorded, write_json
from drift import LENGTH, TASKS, dreamed, drift, futures
from tabled.language import two_clocks

import terrella
from terrella.data import Dataset
from terrella.engine import Engine
from terrella.evaluation.rollout import stretches
from terrella.evaluation.truth import Truth
from terrella.training.presets import training_config, world_config
from terrella.world import World

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "frame by frame": ("shortcut", {}),
    "frame by frame, no frames of its own": ("shortcut", {"self_fed": 0.0}),
    "chunks": ("swin", {}),
}
LIMIT = 3  # chunks within which another action must be seen


def trained(arm: str, seed: int, data: Dataset, options: argparse.Namespace) -> World:
    """Train the world of an arm, or open it where it was trained before."""
    budget = f"{options.steps}steps" if options.steps else f"{options.minutes * 60:g}s"
    path = options.out / f"{options.task}-{arm.replace(' ', '-').replace(',', '')}-{seed}-{budget}"
    if holds_world(path):
        return World.load(path, options.device)
    decoder, settings = ARMS[arm]
    recipe = replace(training_config("tiny", decoder=decoder), **settings)
    config = world_config("tiny", data.spec, decoder)
    how: dict[str, Any] = {"budget": budget, "seed": seed, "device": options.device}
    return terrella.train(data, path, config=config, training=recipe, **how)


def seams(frames: np.ndarray, alive: np.ndarray, unit: int) -> float:
    """Mean change between frames `(B, T, ...)` where chunks meet, over that inside chunks; `alive` `(B, T)`."""
    change = np.abs(np.diff(frames.astype(np.float32), axis=1)).reshape(len(frames), frames.shape[1] - 1, -1).mean(2)
    known, border = alive[:, 1:], (np.arange(1, frames.shape[1]) % unit == 0)[None]
    return float(change[known & border].mean() / change[known & ~border].mean())


def smoothness(engine: Engine, truths: list[Truth], unit: int) -> float:
    """Seams of the world over those of the truth under the same actions."""
    name, mine, theirs = next(iter(engine.spec.modelled)), [], []
    for truth in truths:
        frames = np.concatenate([f.observation[name] for _, f in stretches(engine, truth, truth.future)], 1)
        alive = np.arange(1, frames.shape[1] + 1) <= truth.length[:, None]
        mine.append(seams(frames, alive, unit))
        theirs.append(seams(truth.observations[name][:, truth.context + 1 :], alive, unit))
    return float(np.mean(mine) / np.mean(theirs))


def latency(engine: Engine, truth: Truth, unit: int) -> float:
    """Frames until another action is seen, the mean over rollouts and places in a chunk; at most `LIMIT` chunks."""
    name, wait = next(iter(engine.spec.modelled)), []
    rows, other = truth.future[:, : (LIMIT + 1) * unit], np.roll(truth.future, 1, 0)[:, : (LIMIT + 1) * unit]
    observations, past = truth.start()
    state = engine.start(observations, past, seeds=truth.seeds)
    one = engine.rollout(state.fork(1), rows)[1].observation[name]
    for place in range(unit):
        edited = np.concatenate([rows[:, :place], other[:, place:]], 1)
        two = engine.rollout(state.fork(1), edited)[1].observation[name]
        differ = (one != two).reshape(*one.shape[:2], -1).any(2)[:, place : place + LIMIT * unit]
        parted = (rows != other)[:, place].any(-1) & differ.any(1)  # where the action there is another one
        wait += [int(n) + 1 for n in differ[parted].argmax(1)]
    return float(np.mean(wait)) if wait else float("nan")


def speeds(engines: dict[str, Engine], truth: Truth, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each step of one session, arms in turns, a chunk each."""
    observations, past = ({k: v[:1] for k, v in truth.start()[0].items()}, truth.start()[1][:1])
    states = {arm: e.start(observations, past, seeds=truth.seeds[:1]) for arm, e in engines.items()}
    longest = max(e.world.decoder.unit for e in engines.values())
    times: dict[str, list[list[float]]] = {arm: [] for arm in engines}
    row = truth.future[:1, 0]
    for number in range(rounds + 3):
        for arm, engine in list(engines.items())[:: 1 if number % 2 else -1]:
            taken = []
            for _ in range(longest):
                began = time.perf_counter()
                states[arm], _ = engine.step(states[arm], row)
                taken.append(1e3 * (time.perf_counter() - began))
            if number >= 3:
                times[arm].append(taken)
    return {
        arm: {
            "step_ms": round(median([t for row in rows for t in row[:: engines[arm].world.decoder.unit]]), 3),
            "fps": round(1e3 * longest / median([sum(row) for row in rows]), 1),
        }
        for arm, rows in times.items()
    }


def main() -> None:
    """Record, train and judge all arms, and print the table and all of it."""
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("--task", choices=TASKS, default="coinrun", help="as of benchmarks/drift.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="training of each world")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps instead")
    parser.add_argument("--episodes", type=int, default=32, help="rollouts of a world")
    parser.add_argument("--records", type=int, default=0, help="transitions recorded (default: the task's)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/two-clocks"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task, rows = TASKS[options.task], []
    data = recorded(task.env, options.records or task.steps, options.out, seed=1000, max_episode_steps=500)
    truths = futures(data.spec, data, options.episodes)
    for seed in options.seeds:
        engines = {arm: Engine(trained(arm, seed, data, options)) for arm in ARMS}
        unit = engines["chunks"].world.decoder.unit
        timed = speeds(engines, truths[0], options.rounds)
        for arm, engine in engines.items():
            error, other, _ = dreamed(engine, truths)
            found = {
                "arm": arm,
                "seed": seed,
                "params": sum(engine.world.parameters_by_part().values()),
                "train_minutes": round(engine.world.record["seconds"] / 60, 2),
                "steps": engine.world.record["steps"],
                "unit": engine.world.decoder.unit,
                "seam": round(smoothness(engine, truths, unit), 4),
                "frames": round(latency(engine, truths[0], unit), 3),
                **timed[arm],
                **drift(error, other),
            }
            rows.append(found)
    result = {"rows": rows, "task": options.task, "length": LENGTH}
    print(two_clocks(result))
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
