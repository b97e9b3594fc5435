"""Measure what forecasting denoising steps saves and costs, beside the same world with fewer steps.

    python benchmarks/speed/feature_caches.py --json feature_caches.json
    python benchmarks/speed/feature_caches.py --fine 2000steps --steps 16 64 --json feature_caches_fine.json

The gallery's worlds take at most 8 steps. `--fine` trains one of CoinRun within a budget that takes up to 64, and
measures it instead.

For each world and number of steps: the plain engine, every cache by name, the schedule that dynamic programming finds
best for half of the steps on a rollout of the world itself, and as control the plain engine at each smaller number of
steps. All dream the same futures with the same noise. Times are taken in turns with the plain engine, one frame of one
session each; read their ratio only. `rows` has one line a world, number of steps and way:

| key | meaning |
|---|---|
| `way`, `steps`, `of` | cache or `fewer steps`; its steps; the steps of the plain engine beside it |
| `evaluations` | denoising steps computed a frame, mean |
| `gain`, `quartiles` | time of the plain engine / its time; quartiles of the pairs |
| `ideal` | `of / evaluations`: the gain if nothing but denoising took time |
| `apart`, `ssim` | squared error to the plain engine's frames on 0..1, and their likeness, at each horizon |
| `mse`, `action_ratio` | against the truth, at each horizon, as in `benchmarks/gallery.py` |
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, holds_world, in_turns, ratio, recorded, write_json
from compare import Walker, against_truth, apart, dreams, futures

import terrella
from terrella.engine import CACHES, Engine, FeatureCache
from terrella.engine.cache_rules import best_mask
from terrella.evaluation.metrics import ssim
from terrella.evaluation.truth import Truth
from terrella.nn.latents import Noise
from terrella.training import world_config
from terrella.world import Part, World


def calibrated(world: World, steps: int, truth: Truth) -> FeatureCache:
    """The mask that reuses best, from what the network expects at every step of one rollout."""
    seen: list[torch.Tensor] = []
    engine = Engine(world, steps=steps, fused=False)
    predict = engine.world.dynamics.predict

    def watched(slabs: Any, row: Any, z: torch.Tensor | None = None, noise: Noise | None = None) -> torch.Tensor:
        seen.append(predict(slabs, row, z, noise))
        return seen[-1]

    engine.world.dynamics.predict = watched
    try:
        engine.rollout(engine.start(*truth.start(), seeds=truth.seeds), truth.future)
    finally:
        del engine.world.dynamics.predict
    values = torch.stack(seen).unflatten(0, (-1, steps)).transpose(0, 1).flatten(1, 2)  # (S, frames x B, N, Z)
    return FeatureCache(mask=best_mask(values, max(1, steps // 2)))


def ways(world: World, steps: int, truth: Truth) -> list[tuple[str, Engine]]:
    """All engines to compare, the plain one first."""
    made = [("plain", Engine(world, steps=steps))]
    made += [(name, Engine(world, steps=steps, cache=cache)) for name, cache in CACHES.items()]
    made.append(("best mask", Engine(world, steps=steps, cache=calibrated(world, steps, truth))))
    fewer = steps // 2
    while fewer:
        made.append(("fewer steps", Engine(world, steps=fewer)))
        fewer //= 2
    return made


def measure(world: World, steps: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare all ways at one number of steps."""
    marks = sorted(options.horizons)
    truths = futures(world, options.episodes, marks, options.seed)
    made = ways(world, steps, truths[0])
    times = in_turns(options.rounds, *(Walker(engine, truths[0]) for _, engine in made))
    exact, rows = np.empty(0), []
    for (name, engine), taken in zip(made, times):
        frames, asked = dreams(engine, truths, marks)
        exact = exact if rows else frames
        scores = against_truth(engine, truths, marks, options.seed)
        gain, quartiles = ratio(times[0], taken)
        rows.append(
            {
                "world": world.name,
                "way": name,
                "steps": engine.steps,
                "of": steps,
                "evaluations": round(asked, 3),
                "gain": gain,
                "quartiles": quartiles,
                "ideal": round(steps / asked, 3),
                "apart": apart(world, frames, exact, truths[0]),
                "ssim": [float(ssim(frames[:, i], exact[:, i]).mean()) for i in range(len(marks))],
                **scores,
                "milliseconds": [round(t, 4) for t in taken],
            }
        )
        print({k: v for k, v in rows[-1].items() if k != "milliseconds"}, file=sys.stderr, flush=True)
    return rows


def fine_world(budget: str, out: Path) -> World:
    """Train a world of CoinRun with a grid of 64 denoising steps, or open the one that is there."""
    path = out / f"coinrun-fine-{budget}"
    if holds_world(path):
        return World.load(path)
    data = recorded("procgen/coinrun", 60_000, out, seed=1000, max_episode_steps=500)
    config = world_config("tiny", data.spec)
    config = replace(config, decoder=Part("shortcut", {**config.decoder.config, "finest": 64}))
    return terrella.train(data, path, budget=budget, preset="tiny", config=config)


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, rounds=60)
    parser.add_argument("--worlds", nargs="*", default=["coinrun", "pong"], help="gallery names or folders")
    parser.add_argument("--fine", metavar="BUDGET", help="measure a world trained within this, see above")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="where that world is kept")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8], help="as far as a world goes")
    parser.add_argument("--episodes", type=int, default=32, help="futures compared (default 32)")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 8, 32], help="default 1 8 32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for world in [fine_world(options.fine, options.out)] if options.fine else map(World.load, options.worlds):
        for steps in (s for s in options.steps if s in world.decoder.choices):
            rows += measure(world, steps, options)
    result = {"benchmark": "feature_caches", "horizons": sorted(options.horizons), "episodes": options.episodes}
    write_json({**result, "threads": options.threads, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
