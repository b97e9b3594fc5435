"""Actions for recordings that have none, from a few that do: inverse dynamics reads them off the frames.

Ref: Baker et al., Video PreTraining, arXiv 2206.11795 (an inverse dynamics model fitted on few labels writes
pseudo-labels for many recordings). Differs: the model reads K frames up to the later one, not frames after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import heads
from ..actions import columns
from ..data import Dataset
from ..engine import Trail
from ..errors import SpecError
from ..spec import WorldSpec
from ..training import Budget
from ..training.journal import Journal
from ..training.optim import Optimizer
from ..training.presets import pick, training_config, world_config
from ..training.steps import Learner, Steps
from ..training.tokenizing import fit_tokenizers, shares
from ..world import World
from .frames import encoded, windows
from .learning import relabelled, require_new

FRAMES = 2  # that the inverse model reads


def pseudo_label(
    dataset: Dataset,
    labelled: Dataset,
    out: str | Path,
    *,
    world: World | None = None,
    budget: str | Budget = "1000steps",
    preset: str = "auto",
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    **settings: Any,
) -> Dataset:
    """Write a dataset again with the likeliest actions by an inverse model that was fitted on `labelled`.

    The actions of `dataset` are not read. world: whose tokenizers make latents of frames, and which gets the inverse
    head; by default a new one, whose tokenizers learn from the frames of `dataset`. budget: of these tokenizers and the
    head, as `terrella.train` takes it; few labels are soon learned by heart. settings: of the head (`InverseConfig`).

    Raises `SpecError` for streams that differ, `DatasetError` where `out` is there already, `TrainingError` where
    `labelled` has fewer than two episodes (one is held out), and what `heads.fit` raises.
    """
    if dataset.spec.streams != labelled.spec.streams:
        raise SpecError(
            f"the labelled recordings have streams {labelled.spec.streams}, these have {dataset.spec.streams}; record "
            "the same environment."
        )
    require_new(out)
    whole = Budget.parse(budget)
    if world is None:
        world, whole = _seeing(dataset, labelled.spec, whole, preset, seed, device, progress)
    how = {"frames": FRAMES, "changes": True, **settings, "alone": True}  # nobody knows the actions before, either
    heads.fit(world, labelled, "inverse", budget=whole, seed=seed, progress=progress, **how)
    return relabelled(dataset, out, labelled.spec, Reader(world, world.head("inverse")), "inverse")


class Reader:
    """Reads the likeliest actions off an episode: stream -> `(T + 1, ...)` to rows `(T, W)`, within their bounds."""

    def __init__(self, world: World, head: heads.Inverse):
        self.world, self.head, self.limits = world, head, columns(world.spec.action)

    @torch.no_grad()
    def __call__(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        """See the class."""
        z = windows(encoded(self.world, observations)[None], self.head.config.frames)[0].float()
        unknown = torch.full((*z.shape[:2], len(self.limits.low)), torch.nan, device=z.device)
        rows = self.head.law.mode(self.head(Trail(z, unknown))).double().cpu().numpy()
        rows = np.clip(rows, self.limits.low, self.limits.high)
        return np.where(self.limits.whole, np.rint(rows), rows)


def _seeing(
    data: Dataset,
    spec: WorldSpec,
    budget: Budget,
    preset: str,
    seed: int,
    device: str | torch.device | None,
    progress: bool,
) -> tuple[World, Budget]:
    """A world that has learned to see and nothing else, and what is left of the budget."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = pick(preset, budget, where)
    recipe = training_config(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        world = World(spec, world_config(size, spec, "regression"), "seeing").to(where)
    first, second = shares(world, recipe, budget)
    optimizer = Optimizer(world.tokenizers, recipe.tokenizer_lr, recipe.weight_decay, recipe.clip_norm, muon=False)
    journal = Journal(None, progress)
    learner = Learner(world.tokenizers, optimizer, recipe.average)
    steps = Steps(world, lambda phase: learner, "tokenizer", seed=seed, device=where, journal=journal, about={})
    with journal:
        fit_tokenizers(world, data, steps, first, recipe, seed, ("all", "all"))
    return world.eval().requires_grad_(False), second
