"""Measure what weights in fewer bits save and cost, for each part of the gallery's worlds apart and for all together.

    python benchmarks/speed/quantisation.py --json quantisation.json

Every variant dreams the same futures with the same noise as the float32 engine, so that only weights differ. The
control beside them is float32 with one denoising step, where a world takes more. Times are taken in turns with
float32, one frame of one session each; read their ratio only.

| key of a variant | meaning |
|---|---|
| `precision`, `steps` | of each part, null for `Engine(dtype=torch.bfloat16)`; denoising steps a frame |
| `bytes`, `bytes_total`, `bytes_ratio` | of the weights, by part; in all; in all / float32's |
| `one_frame` | squared error of the first frame against float32's, images on the scale 0..1 |
| `mse`, `mse_interval`, `action_ratio` | against the truth, at each horizon, as in `benchmarks/gallery.py` |
| `ms`, `ms_ratio`, `ms_quartiles` | a frame; over float32's of the same turns; quartiles of the pairwise ratios |

`one_frame_held` of a world is the error of the frame before against float32's: what there is to predict.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, in_turns, median, ratio, write_json
from train_gallery import acting

from terrella.engine import Engine, Precision
from terrella.evaluation.gather import Gathered
from terrella.evaluation.metrics import frame_mse
from terrella.evaluation.run import LEAD, default_context
from terrella.evaluation.source import open_truth
from terrella.evaluation.truth import POLICY, Truth
from terrella.world import World

KINDS = ("bfloat16", "int8", "int4")


@dataclass(frozen=True)
class Variant:
    """One way to run a world."""

    name: str
    precision: Precision | None
    engine: Engine


def variants(world: World) -> list[Variant]:
    """All ways to compare, float32 first; of a world with weights in one part alone, only all together."""
    full = Precision()
    made = [Variant("float32", full, Engine(world, precision=full))]
    if world.decoder.steps > 1:
        made.append(Variant("float32, 1 step", full, Engine(world, precision=full, steps=1)))
    made.append(Variant("dtype bfloat16", None, Engine(world, dtype=torch.bfloat16)))
    count = made[0].engine.weight_bytes
    parts = [part for part in asdict(full) if count[part]]
    for kind in KINDS:
        named = {f"{part} {kind}": Precision.of({part: kind}) for part in parts} if len(parts) > 1 else {}
        named[f"all {kind}"] = Precision.of(kind)
        made += [Variant(name, precision, Engine(world, precision=precision)) for name, precision in named.items()]
    return made


def futures(world: World, episodes: int, horizons: Sequence[int], seed: int, context: int | None = None) -> list[Truth]:
    """Play what really happens, once for all variants. context: frames seen before (default: the world's own)."""
    how: dict[str, Any] = {"policy": POLICY, "lead": LEAD} | acting(world.name)
    how |= {"episodes": episodes, "context": default_context(world) if context is None else context, "seed": seed}
    _, truths = open_truth(world.spec, None, None, frames=max(horizons), marks=horizons, **how)
    return list(truths)


def first_frames(engine: Engine, truths: Sequence[Truth], stream: str) -> np.ndarray:
    """Dream the frame after each context, under the true action, `(episodes, ...)`."""
    frames = []
    for truth in truths:
        state = engine.start(*truth.start(), seeds=truth.seeds)
        frames.append(engine.step(state, truth.future[:, 0])[1].observation[stream])
    return np.concatenate(frames)


class Walker:
    """One session that a call takes a frame further, under the actions of a true future again and again."""

    def __init__(self, engine: Engine, truth: Truth):
        first = truth.first(1)
        self.engine, self.rows, self.time = engine, first.future, 0
        self.state = engine.start(*first.start(), seeds=first.seeds)

    def __call__(self) -> None:
        """Step."""
        self.state, _ = self.engine.step(self.state, self.rows[:, self.time % self.rows.shape[1]])
        self.time += 1


def measure(world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Compare all variants of one world; its first image stream, or its first stream, stands for it."""
    streams, marks = world.spec.modelled, sorted(options.horizons)
    stream = next((n for n, s in streams.items() if s.kind == "image"), next(iter(streams)))
    truths, made = futures(world, options.episodes, marks, options.seed), variants(world)
    times = in_turns(options.rounds, *(Walker(v.engine, truths[0]) for v in made))
    exact, whole = first_frames(made[0].engine, truths, stream), sum(made[0].engine.weight_bytes.values())
    result: dict[str, Any] = {"world": world.name, "stream": stream, "horizons": marks, "variants": []}
    for variant, taken in zip(made, times):
        engine, gathered = variant.engine, Gathered(world.spec, marks, options.seed)
        for truth in truths:
            gathered.add(engine, truth, lambda frames: None)
        table, scale = gathered.tables()[stream], gathered.scales[stream]
        if not result["variants"]:
            held = np.concatenate([truth.frame(stream, 0) for truth in truths])
            result["one_frame_held"] = float(frame_mse(held, exact, streams[stream], scale).mean())
            result |= {"n": table["n"], "mse_copy_last": table["copy_last"]["mean"]}
        apart = frame_mse(first_frames(engine, truths, stream), exact, streams[stream], scale)
        count = sum(engine.weight_bytes.values())
        over, quartiles = ratio(taken, times[0])
        result["variants"].append(
            {
                "name": variant.name,
                "precision": asdict(variant.precision) if variant.precision else None,
                "steps": engine.steps or world.decoder.steps,
                "bytes": engine.weight_bytes,
                "bytes_total": count,
                "bytes_ratio": round(count / whole, 4),
                "one_frame": float(apart.mean()),
                "mse": table["mse"]["mean"],
                "mse_interval": table["mse"]["interval"],
                "action_ratio": table["action_ratio"]["mean"],
                "ms": round(median(taken), 4),
                "ms_ratio": over,
                "ms_quartiles": quartiles,
                "milliseconds": [round(t, 4) for t in taken],
            }
        )
    return result


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--worlds", nargs="*", default=World.list_gallery(), help="gallery names or folders")
    parser.add_argument("--episodes", type=int, default=64, help="futures compared (default 64)")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 8, 32], help="default 1 8 32")
    parser.add_argument("--rounds", type=int, default=100, help="frames timed of each variant (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: a step is small)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.worlds:
        rows.append(measure(World.load(name), options))
        print(f"{name}: {len(rows[-1]['variants'])} variants", file=sys.stderr)
    result = {"benchmark": "quantisation", "episodes": options.episodes, "threads": options.threads, "worlds": rows}
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
