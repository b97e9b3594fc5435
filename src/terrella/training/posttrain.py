"""Post-training on what is measured: the decoded error of short free-running rollouts, instead of the one-step loss.

Where drawn frames have a gradient (regression, shortcut), it is taken through whole rollouts:

    loss = frames * (mean over t of |decode(z_t) - o_t|^2 / its size at the start + outcomes' losses)
         + anchor * one-step loss

where every frame but the first is predicted from dreamed ones. Discrete frames have none, and are improved by policy
gradient (`grpo.py`). Only the backbone learns, so that latents mean what they meant, and heads stay valid. Squared
error of frames rewards blur where the future is open: what it does to all else is measured before and after.

Ref: Wu et al., RLVR-World, arXiv 2505.13934 (the metric in use as the reward). Differs: the metric's own gradient where
there is one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import from_json
from ..data import Dataset
from ..errors import ConfigError
from ..world import World
from .budget import Budget
from .further import clips_of, copied, finished, opened, train_further
from .grpo import grpo_loss
from .objective import clip_loss
from .presets import TrainingConfig
from .rollouts import Batch, errors, measure, roll, scales
from .steps import Steps
from .team import Loss

PHASE = "posttrain"


@dataclass(frozen=True)
class PostTraining:
    """method: `gradient`, `grpo`, or `auto`, by the decoder. seen: true frames before a rollout of `horizon` frames.
    batch: pasts a step. lr: of the backbone. frames: weight of rollouts (0: none, to compare). anchor: weight of the
    one-step loss. group: rollouts from one past, and beta: weight of the divergence from the start, of `grpo`.

    Raises `ConfigError` for values out of range.
    """

    method: Literal["auto", "gradient", "grpo"] = "auto"
    seen: int = 4
    horizon: int = 6
    batch: int = 8
    lr: float = 2e-4
    frames: float = 1.0
    anchor: float = 0.1
    group: int = 8
    beta: float = 0.05

    def __post_init__(self) -> None:
        if min(self.seen, self.horizon, self.batch) < 1 or self.group < 2 or not self.lr > 0:
            raise ConfigError(
                f"seen {self.seen}, horizon {self.horizon} and batch {self.batch} must be at least 1, group "
                f"{self.group} at least 2, and lr {self.lr} more than 0."
            )
        if min(self.anchor, self.beta, self.frames) < 0 or self.anchor + self.frames == 0:
            raise ConfigError(
                f"frames is {self.frames}, anchor {self.anchor}, beta {self.beta}; they must not be negative, nor the "
                "first two both 0."
            )


def posttrain(
    world: World,
    dataset: Dataset | str | Path,
    out: str | Path | None = None,
    *,
    budget: str | Budget = "2m",
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> World:
    """Improve a trained world on the decoded error of its rollouts; the world given stays as it is.

    out: folder for the new world, and a checkpoint while it is made, from which the same call goes on if `resume`.
    settings: of `PostTraining`. What it did stands in `record["posttraining"]`: `before` and `after`, as
    `terrella.training.rollouts.measure` returns them.

    Raises `ConfigError` for settings there are not and methods that a world does not allow, `SpecError` for recordings
    of something else, and `TrainingError`, also when `out` holds a finished world.
    """
    recipe = from_json(PostTraining, settings, "post-training")
    method, data = _method(world, recipe), opened(world, dataset)
    device = next(world.parameters()).device
    plain = TrainingConfig(length=recipe.seen + recipe.horizon - 1, self_fed=0.0)
    some = Batch.of(world, data.sample(64, plain.length, np.random.default_rng(seed), "train"))
    held = Batch.of(world, data.sample(32, plain.length, np.random.default_rng(0), "held_out"))
    scale = scales(world, some)
    with torch.no_grad():
        chance = torch.Generator(device=device).manual_seed(seed)
        true = {k: v[:, recipe.seen :] for k, v in some.seen.items()}
        unit = errors(world, roll(world, some, recipe.seen, chance)[0], true, scale).mean().clamp(min=1e-8)

    def objective(new: World, steps: Steps) -> Loss:
        start = copied(world)

        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            generator = torch.Generator(device=device).manual_seed(0) if held_out else steps.generator
            batch = held
            if not held_out:
                batch = Batch.of(new, clips_of(data, steps, seed, recipe.batch, plain.length))
            parts: dict[str, Tensor] = {}
            total = torch.zeros((), device=device)
            if recipe.frames and method == "grpo":
                found, parts = grpo_loss(new, start, batch, recipe.seen, recipe.group, recipe.beta, scale, generator)
                total = total + recipe.frames * found
            elif recipe.frames:
                found, parts = rollout_loss(new, plain, batch, recipe.seen, scale, unit, generator)
                total = total + recipe.frames * found
            if recipe.anchor:
                near, _ = clip_loss(new, plain, batch.z, batch.row, batch.reward, batch.end, 0.0, generator)
                total, parts["one_step"] = total + recipe.anchor * near, near.detach()
            return total, parts

        return loss

    how: dict[str, Any] = {"lr": recipe.lr, "budget": budget, "seed": seed, "resume": resume, "progress": progress}
    about: dict[str, Any] = {"posttraining": asdict(recipe), "method": method}
    new, about = train_further(world, data, objective, PHASE, about, out, **how)
    about |= {name: measure(of, data, plain, recipe.seen) for name, of in (("before", world), ("after", new))}
    return finished(new, world, "posttraining", about, out)


def rollout_loss(
    world: World,
    config: TrainingConfig,
    batch: Batch,
    seen: int,
    scale: dict[str, Tensor],
    unit: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the decoded error of rollouts in `unit`, and that of their outcomes, weighed as in training: a scalar."""
    z, reward, end = roll(world, batch, seen, generator)
    error = errors(world, z, {k: v[:, seen:] for k, v in batch.seen.items()}, scale).mean()
    paid = ((reward - batch.reward[:, seen:]) / world.reward_scale).square().mean()
    ended = F.binary_cross_entropy_with_logits(end, batch.end[:, seen:])
    total = error / unit + config.reward_weight * paid + config.end_weight * ended
    return total, {"error": error.detach(), "reward": paid.detach(), "end": ended.detach()}


def _method(world: World, recipe: PostTraining) -> str:
    name, method = world.decoder.name, recipe.method
    if world.decoder.unit > 1:
        raise ConfigError(f"decoder {name!r} draws chunks of frames, and post-training goes through single ones.")
    if method == "auto":
        method = "grpo" if name == "masked" else "gradient"
    if method == "grpo" and name != "masked":
        raise ConfigError(f"decoder {name!r} draws no discrete tokens; take method='gradient'.")
    if method == "gradient" and not world.decoder.differentiable:
        raise ConfigError(f"what decoder {name!r} draws has no gradient; take method='grpo'.")
    if world.config.reencode:
        raise ConfigError(f"world {world.name!r} rounds each frame to pixels (`reencode`), which has no gradient.")
    return method
