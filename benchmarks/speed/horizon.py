"""Measure whether a frame costs the same however long a session has run, for every backbone.

    python benchmarks/speed/horizon.py --json horizon.json

Each is the `tiny` preset on 64x64 images with random weights, which changes no timing. One session steps to `--late`
(10,000), a second one to frame 100 when the first is there; then both step in turns, so that whatever else the machine
does falls on both. `rows` has one line a backbone:

| key | meaning |
|---|---|
| `late_over_early`, `quartiles` | a step at the late frame / at frame 100: ratio of medians, quartiles of the pairs |
| `bytes_early`, `bytes_late` | of the state at these frames |
| `ms_early`, `ms_late` | raw values |
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, ratio, write_json
from rollout import Stepper, begin

from terrella.engine import Engine
from terrella.laws import shaken
from terrella.registry import names
from terrella.spec import ActionSpec, Motion, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

EARLY = 100
STEPS = tuple((4 * r, 4 * c, 0) for r in (-1, 0, 1) for c in (-1, 0, 1))
TURNS = ((0, 0, 1), (0, 0, -1), (-1, 0, 0), (0, 0, 0))
MOTIONS = {"flow": Motion((STEPS,), extent=(128, 128)), "flow_wedge": Motion((TURNS,), frame="body")}


def subject(backbone: str) -> tuple[Engine, int]:
    """A world on this backbone, and how many actions it has."""
    motion = MOTIONS.get(backbone)
    actions = 15 if motion is None else len(motion.tables[0])
    spec = WorldSpec({"pixels": StreamSpec("image", (64, 64, 3))}, ActionSpec("discrete", n=actions, motion=motion))
    torch.manual_seed(0)
    return Engine(shaken(World(spec, world_config("tiny", spec, backbone=backbone), backbone))), actions


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, rounds=200)
    parser.add_argument("--backbones", nargs="+", choices=names("dynamics"), default=names("dynamics"))
    parser.add_argument("--late", type=int, default=10_000, help="the late frame (default 10000)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for backbone in options.backbones:
        engine, actions = subject(backbone)
        rng = np.random.default_rng(options.seed)
        late, early = (Stepper(engine, begin(engine, 1, rng), rng, actions) for _ in range(2))
        late.advance(options.late)
        early.advance(EARLY)
        sizes = early.state.nbytes, late.state.nbytes
        late_times, early_times = in_turns(options.rounds, late, early)
        share, quartiles = ratio(late_times, early_times)
        rows.append(
            {
                "backbone": backbone,
                "late_over_early": share,
                "quartiles": quartiles,
                "bytes_early": sizes[0],
                "bytes_late": sizes[1],
                "ms_early": [round(t, 4) for t in early_times],
                "ms_late": [round(t, 4) for t in late_times],
            }
        )
        print(f"{backbone}: {share} {quartiles}, {sizes[0]:,} and {sizes[1]:,} bytes", file=sys.stderr, flush=True)
    result = {"benchmark": "horizon", "early": EARLY, "late": options.late, "rows": rows}
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
