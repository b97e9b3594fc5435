"""Measure what guidance costs: a guided step against a plain one, for one session and for sixteen.

    python benchmarks/guidance.py --json guidance.json

The world is the `tiny` preset on 64x64 images; its weights are random, which changes no timing. Both are timed in
turns, one call each; a figure is the ratio of medians, with the quartiles of the pairwise ratios beside it.

| key | meaning |
|---|---|
| `<decoder>_1`, `<decoder>_16` | a guided step / a plain one, of one session and of sixteen in one batch |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from common import arguments, in_turns, ratio, write_json

from terrella.engine import Engine
from terrella.laws import shaken
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

SPEC = WorldSpec({"pixels": StreamSpec("image", (64, 64, 3))}, ActionSpec("discrete", n=5))


def stepping(engine: Engine, batch: int, guidance: float) -> Callable[[], None]:
    """A call that takes sessions one frame further."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 2, 64, 64, 3), np.uint8)
    state = engine.start({"pixels": pixels}, np.zeros((batch, 1, 1)))

    def step() -> None:
        nonlocal state
        state, _ = engine.step(state, np.ones((batch, 1)), guidance=guidance)

    return step


def main() -> None:
    parser = arguments(__doc__, rounds=40)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, object] = {"rounds": options.rounds}
    for decoder in ("shortcut", "masked"):
        torch.manual_seed(options.seed)
        world = shaken(World(SPEC, world_config("tiny", SPEC, decoder), "tiny"))
        world.record = {"training": {"action_dropout": 0.1}}  # random weights may be guided, too
        engine = Engine(world)
        for batch in (1, 16):
            plain, guided = in_turns(options.rounds, *(stepping(engine, batch, w) for w in (0.0, 1.0)))
            found, quartiles = ratio(guided, plain)
            result |= {f"{decoder}_{batch}": found, f"{decoder}_{batch}_quartiles": quartiles}
            result[f"{decoder}_{batch}_ms"] = {"plain": plain, "guided": guided}
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
