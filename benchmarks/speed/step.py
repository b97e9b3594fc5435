"""Measure what each way of making frames saves, alone and together: the fused commit, compiled graphs, bfloat16.

    python benchmarks/speed/step.py --json step.json

The `tiny` preset on 64x64 images with random weights. A rollout of 16 known actions is timed for every way in
turns, as is a single step, which cannot be fused. `rows` has one line a way and batch size:

| key | meaning |
|---|---|
| `dtype`, `fused`, `compiled` | the way; bfloat16 is of weights and memory |
| `rollout_gain`, `step_gain` | time of the plain float32 way / of this one; `..._quartiles` of the pairs |
| `fps_rollout`, `fps_step` | frames a second of all sessions together |
| `compile_seconds` | until the engine was ready |
| `ms_rollout`, `ms_step` | raw values, of the whole rollout and of a step |
"""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, median, ratio, write_json
from rollout import ACTIONS, Stepper, begin, make_engine

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Roller(Stepper):
    """A state that a call takes many frames further."""

    frames = 16

    def __call__(self) -> None:
        """Take random actions, known ahead."""
        rows = self.rng.integers(0, ACTIONS, (self.state.batch, self.frames, 1))
        self.state, _ = self.engine.rollout(self.state, rows)


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--steps", type=int, default=2, help="denoising steps a frame (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for batch in options.batches:
        ways: list[tuple[str, bool, bool]] = list(product(options.types, (False, True), (False, True)))
        rollers, steppers, ready = [], [], []
        for dtype, fused, compiled in ways:
            rng, began = np.random.default_rng(options.seed), time.perf_counter()
            engine = make_engine(options.steps, dtype=TYPES[dtype], fused=fused, compiled=[batch] if compiled else [])
            rollers.append(Roller(engine, begin(engine, batch, rng), rng))
            rollers[-1]()
            steppers.append(Stepper(engine, begin(engine, batch, rng), rng))
            ready.append(time.perf_counter() - began)
        rolled, stepped = in_turns(options.rounds, *rollers), in_turns(options.rounds, *steppers)
        for (dtype, fused, compiled), seconds, long, short in zip(ways, ready, rolled, stepped):
            row: dict[str, Any] = {"batch": batch, "dtype": dtype, "fused": fused, "compiled": compiled}
            row["rollout_gain"], row["rollout_gain_quartiles"] = ratio(rolled[0], long)
            row["step_gain"], row["step_gain_quartiles"] = ratio(stepped[0], short)
            row["fps_rollout"] = round(1e3 * batch * Roller.frames / median(long), 2)
            row["fps_step"] = round(1e3 * batch / median(short), 2)
            row["compile_seconds"] = round(seconds, 1) if compiled else None
            print(row, file=sys.stderr, flush=True)
            rows.append(row | {"ms_rollout": [round(t, 3) for t in long], "ms_step": [round(t, 3) for t in short]})
    result = {"benchmark": "step", "steps": options.steps, "threads": options.threads, "rows": rows}
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
