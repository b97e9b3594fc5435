"""The first phase of a training run: tokenizers on single frames, and how much of a budget that takes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..data import Dataset
from ..data.index import Split
from ..nn.noise import drawn
from ..tokenizers import Tokenizer
from ..world import World
from .budget import Budget
from .material import frame_pool
from .presets import TrainingConfig
from .steps import Steps


def shares(world: World, config: TrainingConfig, budget: Budget) -> tuple[Budget, Budget]:
    """Divide a budget between tokenizers and what comes after them."""
    learning = [t for t in world.tokenizers.values() if isinstance(t, Tokenizer) and t.trains]
    # Vectors need no more than a moment: their linear path is exact from the start.
    images = bool(world.views) or any(t.stream.kind == "image" or t.stream.native is not None for t in learning)
    share = 0.0 if not (learning or world.views) else config.tokenizer_share if images else config.tokenizer_share / 5
    return budget.share(share) if share else Budget(steps=0), budget.share(1 - share)


def fit_tokenizers(
    world: World,
    data: Dataset,
    steps: Steps,
    budget: Budget,
    config: TrainingConfig,
    seed: int,
    splits: tuple[Split, Split] = ("train", "held_out"),
) -> None:
    """Fit tokenizers and views of a world on single frames in the current phase, then measure the scale of latents.

    splits: where frames come from that are trained on, and that the held-out loss is of. Raises `TrainingError` where
    there are none.
    """
    pool = frame_pool(data, world, seed, splits[0])
    test = frame_pool(data, world, seed, splits[1], 256)
    frames = len(next(iter(pool.values())))
    tokenizers = {s: world.tokenizer(s) for s in world.tokenized}
    views = {s: world.view(s) for s in world.config.views}
    for stream, tokenizer in tokenizers.items():
        tokenizer.prepare(pool[stream].to(steps.device))
    for stream, view in views.items():
        view.prepare({s: pool[s].to(steps.device) for s in tokenizers}, pool[stream].to(steps.device))

    def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
        source = test if held_out else pool
        if held_out:
            pick = torch.arange(len(next(iter(test.values()))))
        else:
            pick = drawn(partial(torch.randint, frames), (steps.share(config.tokenizer_batch),), steps.order)
        total = torch.zeros((), device=steps.device)
        for stream, tokenizer in tokenizers.items():
            total = total + tokenizer.loss(source[stream][pick].to(steps.device), steps.generator)
        known = {s: source[s][pick].to(steps.device) for s in tokenizers} if views else {}
        for stream, view in views.items():
            total = total + view.loss(known, source[stream][pick].to(steps.device), steps.generator)
        return total, {}

    steps.run(budget, loss)
    with torch.inference_mode():
        for stream, tokenizer in tokenizers.items():
            tokenizer.normalise(pool[stream][:2048].to(steps.device))
