"""Measure how often `Engine(world, budget_ms=...)` keeps its time, alone and while others take half of the processor.

    python benchmarks/speed/budget.py --json budget.json

The `tiny` preset on 64x64 images with random weights steps one session frame after frame, on one thread. In the middle
third as many busy processes run as there are cores, which leaves it half of what the machine could do for it. Budgets
are `--slack` times what a frame of a single denoising step takes alone. The control of each is the same engine with a
fixed number of steps: the one that the budget took most often while it was alone. `rows` has one line a budget, way and
phase:

| key | meaning |
|---|---|
| `budget_ms`, `slack` | the budget; over the median frame of one step alone |
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
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def load(phase: str) -> Iterator[None]:
    """Keep every core busy with something else in the middle phase."""
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    busy = busy if phase == "loaded" else []
    for process in busy:
        process.start()
    yield
    for process in busy:
        process.terminate()
        process.join()


def phases(stepper: Stepper, frames: int, budget: float) -> list[dict[str, Any]]:
    """Step through all phases."""
    rows = []
    for phase in PHASES:
        with load(phase):
            times, steps = timed(stepper, frames)
        p50, p95, p99 = (float(q) for q in np.quantile(times, [0.5, 0.95, 0.99]))
        row = {"phase": phase, "kept": float(np.mean([t <= budget for t in times])), "steps": float(np.mean(steps))}
        row |= {"usual_steps": int(np.median(steps)), "p50": p50, "p95": p95, "p99": p99}
        print(row, file=sys.stderr, flush=True)
        rows.append(row | {"ms": [round(t, 3) for t in times]})
    return rows


def main() -> None:
    """Compare."""
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=1000, help="of each phase (default 1000)")
    parser.add_argument("--slack", type=float, nargs="+", default=[2.0, 3.0, 5.0], help="budget / a frame of one step")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: a step is small)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    cheapest = make_engine(1)
    steady = Stepper(cheapest, begin(cheapest, 1, rng), rng)
    timed(steady, 50)
    alone = median(timed(steady, 200)[0])
    rows: list[dict[str, Any]] = []
    for slack in options.slack:
        budget = slack * alone
        print(f"budget {budget:.1f} ms", file=sys.stderr)
        about = {"budget_ms": round(budget, 3), "slack": slack}
        engine = make_engine(None, budget_ms=budget)
        kept = phases(Stepper(engine, begin(engine, 1, rng), rng), options.frames, budget)
        plain = make_engine(kept[0]["usual_steps"])
        fixed = phases(Stepper(plain, begin(plain, 1, rng), rng), options.frames, budget)
        for way, found in (("budget", kept), ("fixed steps", fixed)):
            rows += [{**about, "way": way, **row} for row in found]
    write_json({"benchmark": "budget", "ms_one_step": alone, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
