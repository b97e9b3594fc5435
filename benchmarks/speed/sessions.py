"""Measure how many frames a second a batch of sessions makes, against one session after another.

    python benchmarks/speed/sessions.py --json sessions.json

The `tiny` preset on 64x64 images with random weights. All batch sizes, number types and thread counts are timed in
turns, one step each. `rows` has one line each; `gain` is its total frames a second over those of one session after
another at the best setting for a single one, which is the fairest reading of "one after another".

| key | meaning |
|---|---|
| `batch`, `dtype`, `threads` | the setting |
| `fps_total`, `fps_each` | frames a second of all sessions together, and of each |
| `gain` | `fps_total` / the best `fps_total` of batch 1 |
| `ms` | raw values of one step of the batch |
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, median, write_json
from rollout import Stepper, begin, make_engine

BATCHES = (1, 2, 4, 8, 16, 32, 64)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def with_threads(threads: int, step: Callable[[], None]) -> Callable[[], None]:
    """Take a step with so many threads."""

    def run() -> None:
        torch.set_num_threads(threads)
        step()

    return run


def main() -> None:
    """Compare."""
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps a frame (default 2)")
    parser.add_argument("--rounds", type=int, default=30, help="timings of each kind (default 30)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    engines = {name: make_engine(options.steps, dtype=dtype) for name, dtype in TYPES.items()}
    settings: list[tuple[int, str, int]] = list(product(options.batches, TYPES, options.threads))
    calls = []
    for batch, dtype, threads in settings:
        stepper = Stepper(engines[dtype], begin(engines[dtype], batch, rng), rng)
        calls.append(with_threads(threads, stepper))
    times = in_turns(options.rounds, *calls)
    total = [1e3 * batch / median(t) for (batch, _, _), t in zip(settings, times)]
    alone = max((fps for (batch, _, _), fps in zip(settings, total) if batch == 1), default=None)
    rows = [
        {
            "batch": batch,
            "dtype": dtype,
            "threads": threads,
            "fps_total": round(fps, 2),
            "fps_each": round(fps / batch, 2),
            "gain": round(fps / alone, 3) if alone else None,
            "ms": [round(x, 3) for x in t],
        }
        for (batch, dtype, threads), fps, t in zip(settings, total, times)
    ]
    write_json({"benchmark": "sessions", "steps": options.steps, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
