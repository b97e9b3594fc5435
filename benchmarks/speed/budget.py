"""Measure how often `Engine(world, budget_ms=...)` keeps its time, alone and while others take half of the processor.

    python benchmarks/speed/budget.py --json budget.json

The `tiny` preset on 64x64 images with random weights steps one session frame after frame. In the middle third as many
busy processes run as there are cores, which halves what is left. The budget is `--slack` times what a frame of the
world's usual steps takes alone, so that it can be kept. The control is the same engine without a budget. `rows` has one
line a way and phase:

| key | meaning |
|---|---|
| `way`, `phase` | `budget` or `fixed steps`; `alone`, `loaded`, `alone again` |
| `kept` | share of frames within the budget |
| `steps` | mean denoising steps a frame |
| `p50`, `p95`, `p99` | milliseconds a frame |
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, median, write_json
from rollout import ACTIONS, Stepper, begin, make_engine

PHASES = ("alone", "loaded", "alone again")


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def timed(stepper: Stepper, frames: int) -> tuple[list[float], list[float]]:
    """Milliseconds and denoising steps of each of some frames."""
    times, steps = [], []
    for _ in range(frames):
        row = stepper.rng.integers(0, ACTIONS, (1, 1))
        start = time.perf_counter()
        stepper.state, frame = stepper.engine.step(stepper.state, row)
        times.append(1e3 * (time.perf_counter() - start))
        steps.append(float(frame.info.get("steps", [stepper.engine.steps])[0]))
    return times, steps


def main() -> None:
    """Compare."""
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=1000, help="of each phase (default 1000)")
    parser.add_argument("--slack", type=float, default=1.6, help="budget / time of a usual frame (default 1.6)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: a step is small)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    plain = make_engine(None)
    usual = plain.world.decoder.steps
    plain = make_engine(usual)
    steady = Stepper(plain, begin(plain, 1, rng), rng)
    timed(steady, 50)
    budget = options.slack * median(timed(steady, 200)[0])
    rows: list[dict[str, Any]] = []
    for way in ("budget", "fixed steps"):
        engine = make_engine(None, budget_ms=budget) if way == "budget" else plain
        stepper = Stepper(engine, begin(engine, 1, rng), rng)
        for phase in PHASES:
            busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
            for process in busy if phase == "loaded" else []:
                process.start()
            times, steps = timed(stepper, options.frames)
            for process in busy if phase == "loaded" else []:
                process.terminate()
                process.join()
            p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99])
            row = {"way": way, "phase": phase, "kept": float(np.mean([t <= budget for t in times]))}
            row |= {"steps": float(np.mean(steps)), "p50": p50, "p95": p95, "p99": p99}
            print(row, file=sys.stderr, flush=True)
            rows.append(row | {"ms": [round(t, 3) for t in times]})
    result = {"benchmark": "budget", "budget_ms": budget, "usual_steps": usual, "rows": rows}
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
