"""Measure what keeping the keys of drawn tokens could spare at most in masked decoding.

    python benchmarks/speed/settled.py --json settled.json

A token whose digits were all drawn a round ago no longer changes, so that a layer's keys and values of it could be kept
and its row be left out of the round (dKV-Cache: Ma et al., arXiv 2505.15781, which keeps them from one step after). How
many such tokens there are bounds what it gains: if all else cost nothing, a frame takes `1 / (1 - settled)` times as
long without. A world of discrete tokens is trained within `--train` and dreams futures of its environment. `rows` has
one line a number of rounds:

| key | meaning |
|---|---|
| `steps` | rounds a frame |
| `settled` | share of token-rounds whose token was whole a round before |
| `drawn` | the same without the wait: whole at the beginning of the round |
| `by_round` | `settled` in each round |
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, holds_world, recorded, write_json
from compare import futures

import terrella
from terrella.engine import Engine
from terrella.evaluation.truth import Truth
from terrella.nn.codes import by_digit
from terrella.nn.latents import Noise
from terrella.training import world_config
from terrella.world import World

ENV = "procgen/coinrun"


def discrete_world(budget: str, out: Path, seed: int) -> World:
    """Train a world of discrete tokens, or open the one that is there."""
    path = out / f"discrete-{budget}-{seed}"
    if holds_world(path):
        return World.load(path)
    data = recorded(ENV, 60_000, out, seed=1000, max_episode_steps=500)
    config = world_config("tiny", data.spec, decoder="masked")
    return terrella.train(data, path, budget=budget, preset="tiny", config=config, seed=seed)


def whole_tokens(world: World, steps: int, truth: Truth) -> torch.Tensor:
    """Which tokens were whole at the beginning of each round, bool `(frames x B, S, N)`."""
    whole: list[torch.Tensor] = []
    engine = Engine(world, steps=steps, fused=False)
    levels, predict = engine.world.decoder.config.levels, engine.world.dynamics.predict

    def watched(slabs: Any, row: Any, z: torch.Tensor | None = None, noise: Noise | None = None) -> torch.Tensor:
        if z is not None:  # what is hidden is zeros
            whole.append((by_digit(z, levels) != 0).any(-1).all(-1))
        return predict(slabs, row, z, noise)

    engine.world.dynamics.predict = watched
    try:
        engine.rollout(engine.start(*truth.start(), seeds=truth.seeds), truth.future)
    finally:
        del engine.world.dynamics.predict
    return torch.stack(whole).unflatten(0, (-1, steps)).transpose(1, 2).flatten(0, 1)


def main() -> None:
    """Train and count."""
    parser = arguments(__doc__)
    parser.add_argument("--train", default="300steps", metavar="BUDGET", help="of the world (default 300steps)")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="where that world is kept")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--episodes", type=int, default=16, help="futures dreamed (default 16)")
    parser.add_argument("--frames", type=int, default=16, help="of each (default 16)")
    options = parser.parse_args()
    world = discrete_world(options.train, options.out, options.seed)
    truths, rows = futures(world, options.episodes, [options.frames], options.seed), []
    for steps in options.steps:
        whole = torch.cat([whole_tokens(world, steps, truth) for truth in truths]).float().mean((0, 2))  # (S,)
        settled = torch.cat([torch.zeros(1), whole[:-1]])
        rows.append(
            {
                "steps": steps,
                "settled": float(settled.mean()),
                "drawn": float(whole.mean()),
                "by_round": [round(float(share), 4) for share in settled],
            }
        )
    digits = world.tokens.channels // world.decoder.config.levels
    about = {"benchmark": "settled", "env": ENV, "train": options.train, "tokens": world.tokens.n, "digits": digits}
    write_json({**about, "episodes": options.episodes, "frames": options.frames, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
