"""Measure how many frames a second each backbone and preset learns from.

    python benchmarks/speed/training.py --json training.json

A short training of each on one recording, a step budget for the tokenizer and the backbone together; the first steps,
which allocate, count as well. `rows` has one line a preset and backbone:

| key | meaning |
|---|---|
| `tokenizer_fps` | frames a second while tokenizers learn |
| `dynamics_fps` | frames a second while the backbone learns, shown and predicted ones alike |
| `steps_per_s` | steps of the backbone a second; `batch` clips of `frames` frames each |
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, recorded, write_json

import terrella
from terrella.registry import names
from terrella.training.presets import MAPS, training_config


def main() -> None:
    """Compare."""
    known = [name for name in names("dynamics") if name not in MAPS]  # maps need declared motion
    parser = arguments(__doc__)
    parser.add_argument("--presets", nargs="+", default=["tiny"])
    parser.add_argument("--backbones", nargs="+", choices=known, default=known)
    parser.add_argument("--env", default="procgen/coinrun")
    parser.add_argument("--recorded", type=int, default=4000, help="transitions (default 4000)")
    parser.add_argument("--steps", type=int, default=160, help="of both phases together (default 160)")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: its own choice)")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = recorded(options.env, options.recorded, options.out, seed=0)
    rows = []
    for preset in options.presets:
        for backbone in options.backbones:
            recipe = training_config(preset, backbone)
            how: dict[str, Any] = {"preset": preset, "backbone": backbone, "seed": options.seed}
            record = terrella.train(data, budget=f"{options.steps}steps", progress=False, **how).record
            frames = recipe.length + 1
            rate = record["dynamics_steps"] / record["dynamics_seconds"]
            tokenizer = record["tokenizer_steps"] / max(record["tokenizer_seconds"], 1e-9)
            rows.append(
                {
                    "preset": preset,
                    "backbone": backbone,
                    "tokenizer_fps": round(tokenizer * recipe.tokenizer_batch, 1),
                    "dynamics_fps": round(rate * recipe.batch * frames, 1),
                    "steps_per_s": round(rate, 3),
                    "batch": recipe.batch,
                    "frames": frames,
                    "record": {k: v for k, v in record.items() if k.endswith(("steps", "seconds"))},
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    result = {"benchmark": "training", "threads": torch.get_num_threads(), "rows": rows}
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
