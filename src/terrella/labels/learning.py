"""From recordings without actions to latent actions, and to recordings that have them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import from_json, to_json
from ..data import Dataset
from ..errors import DatasetError
from ..spec import WorldSpec
from ..training import Budget, TrainingConfig
from ..training.journal import Journal
from ..training.loop import HELD_OUT_CLIPS
from ..training.material import encode_episodes
from ..training.optim import Optimizer
from ..training.presets import pick, training_config, world_config
from ..training.steps import Learner, Steps
from ..training.tokenizing import fit_tokenizers, shares
from ..world import World
from .latent import LatentActions, LatentConfig, without_noise

HELD_OUT = 10  # one episode in so many; a dataset's own split follows from its actions, too
SAMPLE = 4096  # transitions by which the change from frame to frame is measured


def learn_actions(
    dataset: Dataset | str | Path,
    out: str | Path | None = None,
    *,
    budget: str | Budget = "5m",
    preset: str = "auto",
    backbone: str | None = None,
    training: TrainingConfig | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> LatentActions:
    """Learn latent actions from the frames of a dataset; its actions and rewards are not read.

    out: folder for the result, and for a checkpoint from which the same call goes on if `resume`. budget, preset,
    backbone, training: of the decoder's training, as `terrella.train` takes them (`without_noise`, whatever the recipe
    says of it). settings: of `LatentConfig`. With a budget in steps, equal seeds and frames give equal latent actions.
    `record["deviation"]` tells how much each number of them varies: one that hardly does was not needed, and if none
    does, nothing came through (a smaller `beta` lets it).

    Raises `ConfigError` for settings there are not, `UnknownName`, `DatasetError` and `TrainingError`.
    """
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    config = from_json(LatentConfig, settings, "latent actions")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    whole = Budget.parse(budget)
    size = pick(preset, whole, where)
    recipe, spec = without_noise(training or training_config(size, backbone)), config.spec(data.spec)
    with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as it was
        torch.manual_seed(seed)
        world = World(spec, world_config(size, spec, "regression", backbone), Path(out or "actions").name)
        model = LatentActions(world, config).to(where)
    about = {
        "preset": size,
        "budget": to_json(whole),
        "seed": seed,
        "config": to_json(config),
        "world": to_json(world.config),
        "training": asdict(recipe),
        "dataset": {"fingerprint": data.fingerprint, "episodes": len(data), "steps": data.steps},
        "device": where.type,
    }
    first, second = shares(world, recipe, whole)

    def learner(phase: str) -> Learner:
        last = phase == "actions"
        part, lr = (model.learning, recipe.lr) if last else (world.tokenizers, recipe.tokenizer_lr)
        return Learner(part, Optimizer(part, lr, recipe.weight_decay, recipe.clip_norm, muon=False), recipe.average)

    steps = Steps(
        model,
        learner,
        "tokenizer",
        seed=seed,
        device=where,
        journal=Journal(out, progress),
        about=about,
        checkpoint=Path(out) / "checkpoint.safetensors" if out else None,
    )
    with steps.journal as journal, steps.interruptible():
        if resume:
            steps.resume()
        if steps.phase == "tokenizer":
            fit_tokenizers(world, data, steps, first, recipe, seed, ("all", "all"))
            steps.begin("actions")
        with journal.task("encode", data.steps + len(data)) as advance, steps.precision():
            clips = encode_episodes(data, world, "all", recipe.length, where, advance)
        begins = clips.action[:, 0].isnan()
        held = (begins.cumsum(0)[clips.starts] - 1) % HELD_OUT == HELD_OUT - 1
        train = replace(clips, starts=clips.starts[~held])
        test = replace(clips, starts=clips.starts[held] if bool(held.any()) else clips.starts)
        if steps.step == 0:
            some = clips.starts[torch.randperm(len(clips.starts), generator=steps.order)[:SAMPLE]]
            model.measure(clips.z[some], clips.z[some + 1])
            steps.save()

        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            if held_out:
                order, same = torch.Generator().manual_seed(0), torch.Generator(device=where).manual_seed(0)
                return model.loss(recipe, test.sample(HELD_OUT_CLIPS, order, where)[0], 1.0, same)
            done = second.progress(steps.step, steps.seconds)
            count, frames = recipe.clips_at(done)
            return model.loss(recipe, train.sample(count, steps.order, where, frames)[0], done, steps.generator)

        steps.run(second, loss)
        model.eval().requires_grad_(False)
        few = clips.starts[:: max(1, len(clips.starts) // SAMPLE)]
        pairs = torch.stack([clips.z[few], clips.z[few + 1]], 1).to(where).float()
        deviation = model.read(pairs)[0][:, 0].std(0)
    told = {"deviation": [round(float(x), 4) for x in deviation]}
    model.record = {**about, "torch": torch.__version__, **steps.record, **told}
    if out:
        model.save(out)
        (Path(out) / "checkpoint.safetensors").unlink(missing_ok=True)
    return model


def label(dataset: Dataset, out: str | Path, model: LatentActions) -> Dataset:
    """Write a dataset again with latent actions in place of its own; a world trained on it takes latent actions.

    Raises as `relabelled` does.
    """
    return relabelled(dataset, out, model.config.spec(dataset.spec), model.rows, "latent")


def relabelled(
    dataset: Dataset,
    out: str | Path,
    spec: WorldSpec,
    read: Callable[[dict[str, np.ndarray]], np.ndarray],
    kind: str,
) -> Dataset:
    """Write a dataset again as one of `spec`, with actions that `read` makes of an episode's frames alone.

    read: stream -> `(T + 1, ...)` to rows `(T, W)`. kind: what these are, noted in each episode's `info`. Saved
    simulator states stay behind. The folder appears whole or not at all. Raises `DatasetError` where `out` is there
    already.
    """
    require_new(out)
    partial = Path(out).with_name(Path(out).name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    with Dataset.create(partial, spec, chunk_frames=dataset.layout.chunk_frames) as writer:
        for index in range(len(dataset)):
            episode = dataset.episode(index, states=False)
            about = {**episode.info, "actions": kind}
            writer.add(replace(episode, actions=read(episode.observations), info=about))
    partial.rename(out)
    return Dataset(out)


def require_new(out: str | Path) -> None:
    """Raise `DatasetError` where a labelled dataset would take the place of something."""
    if Path(out).exists():
        raise DatasetError(f"{out} is there already; choose a new folder, or delete it.")
