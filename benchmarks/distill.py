"""Measure how near a distilled world comes to the guided one it was made of, and what its frames cost.

    python benchmarks/distill.py --tasks pendulum cartpole --seeds 0 1 2 --json distill.json

A world is trained with a tenth of its actions withheld, and distilled for each weight. All draw the same held-out
futures with the same noise. Rows have `task`, `seed`, `weight`, and

| key | meaning |
|---|---|
| `left` | squared distance to the guided frames, of the distilled world's / of the plain ones, at each of `horizons` |
| `error` | squared error against the recording of `plain`, `guided` and `distilled` frames, in units of the data |
| `cost` | time of a step of 16 sessions, `guided` and `distilled` / plain, timed in turns |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, holds_world, in_turns, ratio, task_data, write_json

import terrella
from terrella.data.episode import Clips
from terrella.engine import Engine
from terrella.planning import TASKS
from terrella.training import distill_guidance
from terrella.training.presets import training_config
from terrella.world import World

SEEN, HORIZONS, SESSIONS = 6, (1, 8), 16


def frames(engine: Engine, clips: Clips) -> np.ndarray:
    """Dream the frames after the first `SEEN`, flat and one vector a frame: `(B, T, F)`."""
    seen = {name: value[:, :SEEN] for name, value in clips.observations.items()}
    state = engine.start(seen, clips.actions[:, : SEEN - 1], seeds=0)
    _, dreamed = engine.rollout(state, clips.actions[:, SEEN - 1 :])
    return flat(dreamed.observation, engine.world)


def flat(observations: Any, world: World) -> np.ndarray:
    """Put the streams that a world models side by side."""
    return np.concatenate([observations[s].reshape(*observations[s].shape[:2], -1) for s in world.spec.modelled], -1)


def stepping(engine: Engine, clips: Clips) -> Callable[[], None]:
    """A call that takes sessions a frame further."""
    seen = {name: value[:SESSIONS, :SEEN] for name, value in clips.observations.items()}
    state = engine.start(seen, clips.actions[:SESSIONS, : SEEN - 1])

    def step() -> None:
        nonlocal state
        state, _ = engine.step(state, clips.actions[:SESSIONS, -1])

    return step


def compared(teacher: World, student: World, weight: float, clips: Clips, rounds: int) -> dict[str, Any]:
    """Hold a distilled world beside the guided one."""
    engines = {"plain": Engine(teacher), "guided": Engine(teacher, guidance=weight), "distilled": Engine(student)}
    drawn = {who: frames(engine, clips) for who, engine in engines.items()}
    real, at = flat(clips.observations, teacher)[:, SEEN:], [h - 1 for h in HORIZONS]
    unit = real.reshape(-1, real.shape[-1]).std(0).clip(1e-6)

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square((a - b) / unit)[:, at].mean((0, 2))

    left = apart(drawn["distilled"], drawn["guided"]) / apart(drawn["plain"], drawn["guided"])
    plain, *others = in_turns(rounds, *(stepping(engine, clips) for engine in engines.values()))
    return {
        "left": left.round(4).tolist(),
        "error": {who: apart(seen, real).round(5).tolist() for who, seen in drawn.items()},
        "cost": {who: ratio(times, plain)[0] for who, times in zip(("guided", "distilled"), others)},
    }


def main() -> None:
    """Train what is missing, distil, and compare."""
    parser = arguments(__doc__, rounds=40)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["pendulum", "cartpole"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--train", default="1500steps", help="training of each world (default 1500steps)")
    parser.add_argument("--budget", default="1000steps", help="of each distillation (default 1000steps)")
    parser.add_argument("--out", type=Path, default=Path("runs/distill"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.tasks:
        data = task_data(name, TASKS[name], options.out)
        clips = data.sample(256, SEEN - 1 + max(HORIZONS), np.random.default_rng(0), "held_out")
        for seed in options.seeds:
            path = options.out / f"{name}-{seed}-{options.train}"
            if holds_world(path):
                teacher = World.load(path)
            else:
                how = {"preset": "nano", "training": replace(training_config("nano"), action_dropout=0.1)}
                teacher = terrella.train(data, path, budget=options.train, seed=seed, device="cpu", **how)
            for weight in options.weights:
                student = distill_guidance(teacher, data, weight, budget=options.budget, seed=seed)
                found = compared(teacher, student, weight, clips, options.rounds)
                rows.append({"task": name, "seed": seed, "weight": weight, **found})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    settings = {"train": options.train, "budget": options.budget, "horizons": HORIZONS}
    write_json({"benchmark": "distill", **settings, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
