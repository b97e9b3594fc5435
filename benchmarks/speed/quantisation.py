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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, median, ratio, write_json
from compare import Walker, against_truth, apart, dreams, futures, main_stream

from terrella.engine import Engine, Precision
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


def measure(world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Compare all variants of one world."""
    marks = sorted(options.horizons)
    truths, made = futures(world, options.episodes, marks, options.seed), variants(world)
    times = in_turns(options.rounds, *(Walker(v.engine, truths[0]) for v in made))
    exact, whole = dreams(made[0].engine, truths, [1])[0], sum(made[0].engine.weight_bytes.values())
    result: dict[str, Any] = {"world": world.name, "stream": main_stream(world), "horizons": marks, "variants": []}
    for variant, taken in zip(made, times):
        engine = variant.engine
        scores = against_truth(engine, truths, marks, options.seed)
        if not result["variants"]:
            held = np.concatenate([truth.frame(result["stream"], 0) for truth in truths])[:, None]
            result["one_frame_held"] = apart(world, held, exact, truths[0])[0]
        count = sum(engine.weight_bytes.values())
        over, quartiles = ratio(taken, times[0])
        result["variants"].append(
            {
                "name": variant.name,
                "precision": asdict(variant.precision) if variant.precision else None,
                "steps": engine.steps,
                "bytes": engine.weight_bytes,
                "bytes_total": count,
                "bytes_ratio": round(count / whole, 4),
                "one_frame": apart(world, dreams(engine, truths, [1])[0], exact, truths[0])[0],
                **scores,
                "ms": round(median(taken), 4),
                "ms_ratio": over,
                "ms_quartiles": quartiles,
                "milliseconds": [round(t, 4) for t in taken],
            }
        )
    return result


def main() -> None:
    parser = arguments(__doc__, rounds=100)
    parser.add_argument("--worlds", nargs="*", default=World.list_gallery(), help="gallery names or folders")
    parser.add_argument("--episodes", type=int, default=64, help="futures compared (default 64)")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 8, 32], help="default 1 8 32")
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
