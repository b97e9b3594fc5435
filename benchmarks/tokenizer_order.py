"""Tokenizer first, or together with the backbone? Equal time, equal data, error of rollouts against copy-last.

    python benchmarks/tokenizer_order.py --seconds 240 --seeds 0 1 2 --json order.json

Prints rows of `order, seed, seconds, horizons, mse, mse_copy_last`. Together means: in each step the
tokenizer takes a step on frames, and the backbone one on clips freshly encoded by it (no gradient between them,
latents rescaled now and then).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import recorded_by, write_json

import terrella
from terrella.data import Dataset
from terrella.training import SIZES, TrainingConfig, world_config
from terrella.training.material import frame_pool
from terrella.training.objective import clip_loss
from terrella.training.optim import Average, Optimizer
from terrella.world import World

HORIZONS = (1, 2, 4, 8, 16, 32)
RESCALE_EVERY = 100


def together(data: Dataset, seconds: float, seed: int, config: TrainingConfig) -> World:
    """Train tokenizer and backbone in one loop."""
    torch.manual_seed(seed)
    world = World(data.spec, world_config("tiny", data.spec))
    pool = frame_pool(data, world, seed)["pixels"]
    tokenizer = world.tokenizers["pixels"]
    tokenizer.prepare(pool[:2048])  # pyright: ignore[reportCallIssue]
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    optimizers = [
        Optimizer(tokenizer, config.tokenizer_lr, config.weight_decay, config.clip_norm, muon=False),
        Optimizer(world.dynamics, config.lr, config.weight_decay, config.clip_norm, muon=True),
    ]
    averages = [Average(tokenizer), Average(world.dynamics)]
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / seconds) < 1:
        if step % RESCALE_EVERY == 0:
            tokenizer.normalise(pool[:512])  # pyright: ignore[reportCallIssue]
        with torch.autocast("cpu", torch.bfloat16):
            frames = pool[torch.randint(len(pool), (config.tokenizer_batch,), generator=generator)]
            optimizers[0].step(tokenizer.loss(frames, generator), step, progress)  # pyright: ignore[reportCallIssue]
            clips = data.sample(config.batch, config.length, rng)
            with torch.no_grad():
                z = world.encode(world.tensors(clips.observations)).float()
            action = torch.nn.functional.pad(torch.from_numpy(clips.actions), (0, 0, 1, 0), value=torch.nan)
            reward = torch.nn.functional.pad(torch.from_numpy(clips.rewards), (1, 0))
            end = torch.nn.functional.pad(torch.from_numpy(clips.terminated).float(), (1, 0))
            loss, _ = clip_loss(world, config, z, action.float(), reward, end, progress, generator)
            optimizers[1].step(loss, step, progress)
        step += 1
        for average in averages:
            average.update(step)
    for average in averages:
        average.exchange()
    tokenizer.normalise(pool[:2048])  # pyright: ignore[reportCallIssue]
    world.record = {"steps": step, "seed": seed}
    return world.eval().requires_grad_(False)


def main() -> None:
    """Train both ways for each seed and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, default=Path("runs/order-data"))
    options = parser.parse_args()
    data = recorded_by("procgen/coinrun", options.data, [("sticky-random", 24_000)], seed=1000)
    rows = []
    for seed in options.seeds:
        for order in ("first", "together"):
            if order == "first":
                world = terrella.train(data, budget=f"{options.seconds}s", preset="tiny", seed=seed, progress=False)
            else:
                world = together(data, options.seconds, seed, SIZES["tiny"].training)
            report = terrella.evaluate(world, episodes=32, horizons=HORIZONS, long=0, progress=False)
            table = report["streams"]["pixels"]
            rows.append(
                {
                    "order": order,
                    "seed": seed,
                    "seconds": options.seconds,
                    "steps": world.record["steps"],
                    "horizons": list(HORIZONS),
                    "mse": table["mse"]["mean"],
                    "mse_copy_last": table["copy_last"]["mean"],
                }
            )
    write_json({"rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
