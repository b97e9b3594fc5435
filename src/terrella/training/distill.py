"""Guidance distilled: a world whose plain frames are another's guided ones, at the cost of plain frames.

    y(z, a) = f(z, a) + w (f(z, a) - f(z, none))                            the world as it is, guided
    loss    = |g(z, a) - y(z, a)|^2  or, for some clips,  |g(z, none) - f(z, none)|^2
              + weight * distance of outcomes

The noisy latent z, its level and its step size are those at which the decoder asks while it learns, so this is for any
decoder and any of its numbers of steps. Of each clip its last frame is learned: only its own action is withheld from f,
as in stepping, and the memory goes on telling which ones there were before. What comes under "none" stays as it is, so
the new world can be guided, too.

Ref: Meng et al., arXiv 2210.03142, section 3.1 (a student of the guided prediction). Differs: one weight a student,
instead of a weight that it is told; step sizes are distilled together with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import from_json
from ..data import Dataset
from ..errors import ConfigError
from ..nn.latents import Noise, Outcome, Predict
from ..world import World
from .budget import Budget
from .further import clips_of, finished, opened, train_further
from .presets import TrainingConfig
from .rollouts import Batch
from .self_fed import levels, spoilt
from .steps import Steps
from .team import Loss

PHASE = "distill"


@dataclass(frozen=True)
class Distilling:
    """batch: clips a step. length: the longest, in transitions. lr: of the backbone. untold: share of clips from which
    the new world learns what comes under no action. outcomes: weight of the distance of reward and end.

    Raises `ConfigError` for values out of range.
    """

    batch: int = 32
    length: int = 12
    lr: float = 3e-4
    untold: float = 0.1
    outcomes: float = 0.1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.length < 1 or not self.lr > 0 or not 0 <= self.untold < 1 or self.outcomes < 0:
            raise ConfigError(
                f"batch {self.batch} and length {self.length} must be at least 1, lr {self.lr} more than 0, untold "
                f"{self.untold} from 0 to below 1, outcomes {self.outcomes} not negative."
            )


def distill_guidance(
    world: World,
    dataset: Dataset | str | Path,
    weight: float,
    out: str | Path | None = None,
    *,
    budget: str | Budget = "2m",
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> World:
    """Return a new world that draws what `Engine(world, guidance=weight)` draws; the one given stays as it is.

    dataset: recordings of its environment. out: folder for the new world, and a checkpoint while it is made, from which
    the same call goes on if `resume`. settings: of `Distilling`. `record["distilled"]` says what was done.

    Raises `ConfigError` for a world that cannot be guided or draws chunks of frames, and for settings there are not,
    `SpecError` for recordings of something else, `TrainingError`, also when `out` holds a finished world.
    """
    recipe = from_json(Distilling, settings, "distillation")
    _require_guidable(world, weight)
    data, most = opened(world, dataset), world.record["training"].get("context_noise", TrainingConfig.context_noise)
    held = Batch.of(world, data.sample(64, recipe.length, np.random.default_rng(0), "held_out"))

    def objective(new: World, steps: Steps) -> Loss:
        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            generator, batch, last = steps.generator, held, recipe.length
            if held_out:
                generator = torch.Generator(device=steps.device).manual_seed(0)
            else:
                batch = Batch.of(new, clips_of(data, steps, seed, recipe.batch, recipe.length))
                last = int(np.random.default_rng([seed, steps.step, 1]).integers(1, recipe.length + 1))
            untold = torch.rand(len(batch.z), generator=generator, device=steps.device) < recipe.untold
            z, row = batch.z[:, : last + 1], batch.row[:, : last + 1]
            return guided_loss(new, world, weight, z, row, untold, most, recipe.outcomes, generator)

        return loss

    how: dict[str, Any] = {"lr": recipe.lr, "budget": budget, "seed": seed, "resume": resume, "progress": progress}
    about = {"distilling": asdict(recipe), "guidance": weight}
    new, about = train_further(world, data, objective, PHASE, about, out, **how)
    return finished(new, world, "distilled", about, out)


def guided_loss(
    new: World,
    world: World,
    weight: float,
    z_BTNZ: Tensor,
    row_BTW: Tensor,
    untold_B: Tensor,
    context_noise: float,
    outcomes: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare the last frames of clips with the guided ones of `world`; a scalar and its parts.

    untold: clips whose last action the new world is not told either. context_noise: largest noise on past frames.
    """
    tau, fog = levels(z_BTNZ, context_noise, generator)
    past, last = spoilt(z_BTNZ, tau, fog), z_BTNZ.shape[1] - 1
    none = row_BTW.clone()
    none[:, last] = torch.nan
    told = torch.where(untold_B[:, None, None], none, row_BTW)
    outcome, predict = new.dynamics.parallel(past, told, tau, last)
    with torch.no_grad():
        wanted, _ = world.dynamics.parallel(past, told, tau, last)
        teachers = [world.dynamics.parallel(past, rows, tau, last)[1] for rows in (row_BTW, none)]
    frames: list[Tensor] = []

    def asked(z: Tensor | None, noise: Noise | None) -> Tensor:
        x = predict(z, noise)
        if torch.is_grad_enabled():  # what a decoder asks without is a target of its own
            target = _guided(teachers, weight, untold_B, z, noise)
            frames.append((x.float() - target.float()).square().mean())
        return x

    with torch.enable_grad():  # held-out clips, too, tell what learns from what is a target
        new.decoder.loss(asked, z_BTNZ[:, last:], 1.0, generator)
    frame, result = torch.stack(frames).mean(), _apart(outcome, wanted)
    return frame + outcomes * result, {"frame": frame.detach(), "outcome": result.detach()}


@torch.no_grad()
def _guided(teachers: list[Predict], weight: float, untold: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
    told, none = (teacher(z, noise) for teacher in teachers)
    strength = torch.where(untold, -1.0, weight).to(told.dtype)  # -1 leads back to what comes under none
    return told + strength[:, None, None, None] * (told - none)


def _apart(outcome: Outcome, wanted: Outcome) -> Tensor:
    ends = F.binary_cross_entropy_with_logits(outcome.end.float(), wanted.end.float().sigmoid())
    return F.mse_loss(outcome.reward.float(), wanted.reward.float()) + ends


def _require_guidable(world: World, weight: float) -> None:
    if not np.isfinite(weight) or not weight:
        raise ConfigError(f"weight is {weight}; it is the guidance to distil, a finite number other than 0.")
    world.require_guidable()
    if world.decoder.unit > 1:
        raise ConfigError(
            f"decoder {world.decoder.name!r} draws chunks of frames, and what is distilled are single ones."
        )
