"""Training a trained world further: a copy whose backbone alone learns, so that latents mean what they meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..config import to_json
from ..data import Dataset
from ..data.episode import Clips
from ..errors import SpecError
from ..world import World
from .budget import Budget
from .checkpoint import require_unfinished
from .journal import Journal
from .optim import Optimizer
from .steps import Learner, Steps
from .team import Loss

Objective = Callable[[World, Steps], Loss]
"""`(the world that learns, its steps) -> loss`."""


def opened(world: World, dataset: Dataset | str | Path) -> Dataset:
    """Open recordings of a world's own environment; raises `SpecError` for others."""
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    if not world.spec.same_interface(data.spec):
        raise SpecError(f"the dataset is of another environment than world {world.name!r}; record the same one.")
    return data


def train_further(
    world: World,
    data: Dataset,
    objective: Objective,
    phase: str,
    about: dict[str, Any],
    out: str | Path | None = None,
    *,
    lr: float,
    budget: str | Budget,
    seed: int,
    resume: bool,
    progress: bool,
) -> tuple[World, dict[str, Any]]:
    """Train a copy of a world's backbone down an objective.

    phase: its name in the journal. about: what a checkpoint must agree with. out: folder for the checkpoint, from which
    the same call goes on if `resume`. Returns the new world, not saved yet, and what there is to record of it. Raises
    `TrainingError`, also where `out` holds a finished world.
    """
    whole, device = Budget.parse(budget), next(world.parameters()).device
    checkpoint = Path(out) / "checkpoint.safetensors" if out else None
    if out and resume:
        require_unfinished(Path(out))
    new = copied(world)
    new.dynamics.requires_grad_(True)
    steps = Steps(
        new,
        lambda phase: Learner(new.dynamics, Optimizer(new.dynamics, lr, 0.0, 1.0, muon=False)),
        phase,
        seed=seed,
        device=device,
        journal=Journal(out, progress),
        about={
            **about,
            "budget": to_json(whole),
            "seed": seed,
            "dataset": data.fingerprint,
            "config": to_json(world.config),
            "device": device.type,
        },
        checkpoint=checkpoint,
    )
    loss = objective(new, steps)
    with steps.journal:
        if resume:
            steps.resume()
        with steps.interruptible():
            steps.run(whole, loss)
    return new.eval().requires_grad_(False), {**steps.about, **steps.record}


def finished(new: World, world: World, key: str, about: dict[str, Any], out: str | Path | None) -> World:
    """Note under a key of the record what became of a world, and save the new one, which ends its checkpoint."""
    new.record = {**world.record, key: to_json(about)}
    if out:
        new.save(out)
        (Path(out) / "checkpoint.safetensors").unlink(missing_ok=True)
    return new


def clips_of(data: Dataset, steps: Steps, seed: int, count: int, length: int) -> Clips:
    """Draw the clips of one step: a function of the step alone, so that there is nothing to save."""
    return data.sample(count, length, np.random.default_rng([seed, steps.step]), "train")


def copied(world: World) -> World:
    """A world with weights of its own, frozen."""
    device = next(world.parameters()).device
    new = World(world.spec, world.config, world.name).to(device)
    new.load_state_dict(world.state_dict())
    new.starts, new.sentences, new.heads = world.starts, world.sentences, dict(world.heads)
    return new.eval().requires_grad_(False)
