"""Measure what is left of a world when its memory of the past is cut, by every policy.

    python benchmarks/speed/kv_policies.py --json kv_policies.json

For each world: the window it was trained with, and every policy with a share of it (at least one frame a head). All see
the same recorded frames, several windows long, so that everything in memory has been chosen by the policy, and then
dream the same futures with the same noise. Times are taken in turns, one frame of one session each; read their ratio
only. `rows` has one line a world, policy and share:

| key | meaning |
|---|---|
| `policy`, `share`, `frames` | the rule; of the window; frames a head that this makes |
| `bytes_ratio` | of a state / of one with the whole window |
| `apart` | squared error to the frames of the whole window, on 0..1, at each horizon |
| `mse`, `over_window`, `action_ratio` | error against the truth; / that of the whole window; as in `gallery.py` |
| `ms_ratio`, `quartiles` | time of a frame / with the whole window |
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, ratio, write_json
from compare import Walker, against_truth, apart, dreams, futures

from terrella.engine import Engine
from terrella.nn.kv_policies import POLICIES, Memory
from terrella.world import World


def measure(world: World, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare all policies on one world."""
    marks = sorted(options.horizons)
    window = world.dynamics.config.window  # pyright: ignore[reportAttributeAccessIssue]
    truths = futures(world, options.episodes, marks, options.seed, options.windows * window)
    made: list[tuple[str, float, Engine]] = [("whole window", 1.0, Engine(world))]
    for share in options.shares:
        frames = max(2, round(share * window))  # one to keep, one for what a policy may put aside
        made += [(name, share, Engine(world, memory=Memory(name, frames))) for name in options.policies]
    walkers = [Walker(engine, truths[0]) for _, _, engine in made]
    times = in_turns(options.rounds, *walkers)
    exact, rows, whole = np.empty(0), [], np.empty(0)
    for (name, share, engine), walker, taken in zip(made, walkers, times):
        frames, _ = dreams(engine, truths, marks)
        scores = against_truth(engine, truths, marks, options.seed)
        if not rows:
            exact, whole = frames, scores["mse"]
        over, quartiles = ratio(taken, times[0])
        memory = engine.world.dynamics.memory
        rows.append(
            {
                "world": world.name,
                "policy": name,
                "share": share,
                "frames": window if memory is None else memory.frames,
                "bytes_ratio": round(walker.state.nbytes / walkers[0].state.nbytes, 4),
                "apart": apart(world, frames, exact, truths[0]),
                **scores,
                "over_window": [round(a / b, 4) for a, b in zip(scores["mse"], whole)],
                "ms_ratio": over,
                "quartiles": quartiles,
                "milliseconds": [round(t, 4) for t in taken],
            }
        )
        print({k: v for k, v in rows[-1].items() if k != "milliseconds"}, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, rounds=40)
    parser.add_argument("--worlds", nargs="*", default=["coinrun", "pong"], help="gallery names or folders")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25, 0.1], help="of the window")
    parser.add_argument("--windows", type=int, default=4, help="windows of recorded frames seen before (default 4)")
    parser.add_argument("--episodes", type=int, default=32, help="futures compared (default 32)")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 8, 32], help="default 1 8 32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for name in options.worlds for row in measure(World.load(name), options)]
    result = {"benchmark": "kv_policies", "horizons": sorted(options.horizons), "windows": options.windows}
    write_json({**result, "threads": options.threads, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
