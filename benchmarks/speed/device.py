"""Measure frames a second on an accelerator, and how near they come to what its memory could feed.

    python benchmarks/speed/device.py --json device.json

Presets on 64x64 images with random weights in bfloat16, one step of a batch of sessions, frames brought to the host;
eager and compiled in turns. At least the weights of the backbone and the memory of every session are read at each
denoising step and once more to commit, and the halves of the tokenizer once: these bytes over the time of a step,
divided by the bandwidth of a large copy, are `share`. `rows` has one line a preset, batch and way:

| key | meaning |
|---|---|
| `preset`, `batch`, `way` | `eager` or `compiled` |
| `fps_total` | frames a second of all sessions together |
| `gain` | time of the eager way / of this one, `quartiles` of the pairs |
| `share` | of the bandwidth limit |
| `bytes_step` | read at least, a step of the batch |
| `compile_seconds` | until the engine was ready |
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, median, ratio, write_json
from rollout import SPEC, Stepper, begin

from terrella.engine import Engine, State
from terrella.laws import shaken
from terrella.training import world_config
from terrella.world import World


def bandwidth(device: str, megabytes: int = 512) -> float:
    """Bytes a second that a copy reads and writes, the best of ten."""
    source = torch.empty(megabytes * 2**20, dtype=torch.uint8, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(10):
        began = time.perf_counter()
        target.copy_(source)
        target[-1].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


def least_bytes(engine: Engine, state: State) -> int:
    """What one step of a batch must read: see the module."""
    weights = engine.weight_bytes
    return (
        (engine.steps + 1) * (weights["dynamics"] + state.nbytes)
        + weights["decoder"]
        + weights["encoder"] * bool(engine.world.config.reencode)
    )


def main() -> None:
    """Compare."""
    cuda = torch.cuda.is_available()
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--presets", nargs="+", default=["small", "base"] if cuda else ["tiny"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256] if cuda else [1, 4])
    parser.add_argument("--ways", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--steps", type=int, default=2, help="denoising steps a frame (default 2)")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limit, rows = bandwidth(options.device), []
    for preset in options.presets:
        torch.manual_seed(0)
        world = shaken(World(SPEC, world_config(preset, SPEC), preset)).to(options.device)
        for batch in options.batches:
            steppers, ready = [], []
            for way in options.ways:
                rng, began = np.random.default_rng(options.seed), time.perf_counter()
                sizes = [batch] if way == "compiled" else []
                engine = Engine(world, steps=options.steps, dtype=torch.bfloat16, compiled=sizes)
                steppers.append(Stepper(engine, begin(engine, batch, rng), rng))
                ready.append(time.perf_counter() - began)
            times = in_turns(options.rounds, *steppers)
            for way, stepper, seconds, taken in zip(options.ways, steppers, ready, times):
                gain, quartiles = ratio(times[0], taken)
                read = least_bytes(stepper.engine, stepper.state)
                row: dict[str, Any] = {
                    "preset": preset,
                    "batch": batch,
                    "way": way,
                    "fps_total": round(1e3 * batch / median(taken), 2),
                    "gain": gain,
                    "quartiles": quartiles,
                    "share": round(read / (median(taken) / 1e3) / limit, 4),
                    "bytes_step": read,
                    "compile_seconds": round(seconds, 1) if way == "compiled" else None,
                }
                print(row, file=sys.stderr, flush=True)
                rows.append(row | {"ms": [round(t, 4) for t in taken]})
    result = {"benchmark": "device", "device": options.device, "bandwidth": limit, "steps": options.steps}
    write_json({**result, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
