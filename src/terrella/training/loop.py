"""Data to weights: one loop, run twice. Tokenizers first, on frames; then the backbone, on clips of latents.

With frames encoded once, a step of the backbone is all transformer and no convolution; benchmarks/tokenizer_order.py
compares this order with training both together in equal time.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from ..config import to_json
from ..data import Dataset
from ..data.episode import Clips
from ..data.sentences import count_sentences
from ..errors import ConfigError, DatasetError
from ..nn.spectral import SpectralBound
from ..spec import WorldSpec
from ..world import World, WorldConfig
from .budget import Budget
from .checkpoint import require_unfinished
from .error_buffer import ErrorBuffer
from .journal import Journal
from .material import LatentClips, encode_episodes
from .objective import clip_loss
from .optim import Optimizer
from .presets import MAPS, TrainingConfig, pick, training_config, world_config
from .sharding import gathered, require_rows
from .steps import Learner, Steps
from .team import Team, require_shares, spread
from .tokenizing import fit_tokenizers, shares

HELD_OUT_CLIPS = 32


def train(
    dataset: Dataset | str | Path,
    out: str | Path | None = None,
    *,
    budget: str | Budget = "10m",
    preset: str = "auto",
    seed: int = 0,
    backbone: str | None = None,
    decoder: str | None = None,
    config: WorldConfig | None = None,
    training: TrainingConfig | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
    resume: bool = True,
    progress: bool | Console = True,
    team: Team = Team(),  # noqa: B008  (frozen)
) -> World:
    """Train a world on a dataset.

    out: folder for the world, its checkpoint and logs (None keeps everything in memory). budget: `10m`, `90s`, `2h` or
    `5000steps`. preset: `tiny`, `small`, `base`, or `auto`, which follows budget and device. backbone, decoder:
    in place of the preset's. config, training: replace the preset's parts or recipe. resume: continue from `out`'s
    checkpoint; with a budget in steps the weights come out as if training had never stopped. Without `resume`, training
    begins anew and replaces what is in `out`. progress: whether to show it, or on which console. team: which of several
    processes this is, all of which make the same call and reach the same folder (`terrella.cluster.train` begins them).

    Raises `DatasetError`, `ConfigError`, `UnknownName`, and `TrainingError`, also when `out` holds a finished world.
    """
    if out and resume:
        require_unfinished(Path(out))
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    whole = Budget.parse(budget)
    size, parts, recipe = chosen(data.spec, whole, where, preset, backbone, decoder, config, training)
    require_shares(recipe, team.workers, team.shard)
    with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as it was
        torch.manual_seed(seed)
        world = World(data.spec, parts, name or Path(out or "world").name).to(where)
    about = {
        "preset": size if config is None else "custom",
        "budget": to_json(whole),
        "seed": seed,
        "training": asdict(recipe),
        "dataset": {"fingerprint": data.fingerprint, "episodes": len(data), "steps": data.steps},
        "device": where.type,
    }
    journal = Journal(out, progress) if team.leads else Journal(None, False)
    run = _Run(world, recipe, whole, seed, where, Path(out) if out else None, journal, about, team)
    with run.journal:
        if resume:
            run.steps.resume()
        with run.steps.interruptible():
            run.train_tokenizers(data)
            run.train_backbone(data)
    world = run.world_whole()
    world.record = {**about, "torch": torch.__version__, **run.steps.record}
    world.starts = _openings(data, recipe.seen) if recipe.blind else recorded_starts(data)
    world.sentences = _commonest_sentences(data)
    world.eval().requires_grad_(False)
    if out and team.leads:
        world.save(out)
        (Path(out) / "checkpoint.safetensors").unlink(missing_ok=True)
    return world


def chosen(
    spec: WorldSpec,
    budget: Budget,
    device: torch.device,
    preset: str = "auto",
    backbone: str | None = None,
    decoder: str | None = None,
    config: WorldConfig | None = None,
    training: TrainingConfig | None = None,
) -> tuple[str, WorldConfig, TrainingConfig]:
    """Choose what `train` trains: the size's name, the parts of the world, the recipe; raises as `train` does."""
    if config is not None and (decoder or backbone):
        raise ConfigError(
            f"config is given beside backbone={backbone!r} and decoder={decoder!r}; name them in the config alone."
        )
    size = pick(preset, budget, device)
    parts = config or world_config(size, spec, decoder, backbone)
    return size, parts, training or training_config(size, backbone, parts.decoder.name, spec.without(parts.views))


def recorded_starts(data: Dataset, count: int = 8, frames: int = 5) -> Clips | None:
    """Take a few beginnings from held-out episodes, so that the world can be entered without its environment."""
    rng = np.random.default_rng(0)
    split = "held_out" if any(len(data.episode(int(i))) >= frames for i in data.split("held_out")) else "train"
    try:
        clips = data.sample(count, frames, rng, split)
    except DatasetError:
        return None  # only episodes shorter than a beginning
    # The last transition is dropped, so that no beginning lies on an episode's last frame.
    kept = {name: clips.observations[name][:, :frames] for name in data.spec.modelled}
    return Clips(kept, clips.actions[:, :-1], clips.rewards[:, :-1], clips.terminated[:, :-1])


def _commonest_sentences(data: Dataset, count: int = 12, most: int = 50_000) -> tuple[str, ...]:
    """Take the commonest sentences of at most `most` transitions, where actions are texts: what one may well say."""
    if data.spec.action.kind != "text":
        return ()
    said = list(count_sentences(data, most))[: count + 1]
    return tuple(sentence for sentence in said if sentence.strip())[:count]


def _openings(data: Dataset, frames: int, count: int = 8) -> Clips | None:
    """Take the first frames of held-out episodes, for a world that must have seen as much before it goes on alone."""
    held_out = [int(i) for i in data.split("held_out") if data.lengths[i] > frames]
    chosen = (held_out or [int(i) for i in range(len(data)) if data.lengths[i] > frames])[:count]
    if not chosen:
        return None
    clips, seeds = data.clips(chosen, [0] * len(chosen), max(1, frames - 1)), [data.seeds[i] for i in chosen]
    known = None if None in seeds else np.array(seeds, np.int64)
    kept = {name: clips.observations[name] for name in data.spec.modelled}
    return Clips(kept, clips.actions, clips.rewards, clips.terminated, known)


def _bound(world: World, bound: float | None) -> SpectralBound | None:
    """Make what holds the recurrent matrices; raises `ConfigError` where the backbone has none."""
    if bound is None:
        return None
    if not world.dynamics.recurrent:
        raise ConfigError(
            f"spectral is {bound}, but backbone {world.dynamics.name!r} has no recurrent matrices to bound: it attends "
            "to past frames, or its gates only fade what it keeps. Leave it None."
        )
    return SpectralBound(world.dynamics, world.dynamics.recurrent, bound)


def require_still(world: World, recipe: TrainingConfig) -> None:
    """Raise `ConfigError` where actions are to be withheld from a memory that they move."""
    if recipe.action_dropout and world.dynamics.name in MAPS:
        raise ConfigError(
            f"action_dropout is {recipe.action_dropout}, but backbone {world.dynamics.name!r} moves its map by the "
            "actions: without them it would not know where it is. Leave it 0."
        )


def _require_frames(world: World, recipe: TrainingConfig) -> None:
    """Raise `ConfigError` where a recipe asks for single frames, or short clips, of a decoder that draws chunks."""
    unit = world.decoder.unit
    if unit > 1 and (recipe.self_fed or recipe.recycled or recipe.growth or recipe.length < 2 * unit):
        raise ConfigError(
            f"decoder {world.decoder.name!r} draws chunks of {unit} frames: self_fed ({recipe.self_fed}), recycled "
            f"({recipe.recycled}) and growth ({recipe.growth}) must be 0, and length ({recipe.length}) at least "
            f"{2 * unit}. terrella.training.presets.training_config(preset, decoder={world.decoder.name!r}) is so."
        )


def _require_plain(world: World, recipe: TrainingConfig) -> None:
    """Raise `ConfigError` where latents are to teach a backbone that its decoder asks to denoise."""
    if recipe.supervision == "latent" and not world.decoder.plain:
        raise ConfigError(
            f"supervision is 'latent', but with the decoder {world.decoder.name!r} the backbone itself denoises, and "
            "would never learn to; choose a decoder with a network of its own (swin) or without noise (regression)."
        )


class _Run:
    """One training run: the two phases, and how much each may take."""

    def __init__(
        self,
        world: World,
        config: TrainingConfig,
        budget: Budget,
        seed: int,
        device: torch.device,
        out: Path | None,
        journal: Journal,
        about: dict[str, Any],
        team: Team,
    ):
        _require_frames(world, config)
        _require_plain(world, config)
        require_still(world, config)
        if team.shard:
            require_rows(nn.ModuleDict({"dynamics": world.dynamics, "decoder": world.decoder}))
        self.world, self.config, self.seed, self.device, self.journal = world, config, seed, device, journal
        self.budgets = dict(zip(("tokenizer", "dynamics"), shares(world, config, budget)))
        self.errors = ErrorBuffer(world.tokens, device) if config.recycled else None
        self.bound = _bound(world, config.spectral)
        self.team = team
        self.steps = Steps(
            world,
            self._learner,
            "tokenizer",
            seed=seed,
            device=device,
            journal=journal,
            about={**about, "config": to_json(world.config)},
            checkpoint=out / "checkpoint.safetensors" if out else None,
            every=config.checkpoint_seconds,
            kept={} if self.errors is None else {"errors": self.errors},
            team=team,
        )

    def _learner(self, phase: str) -> Learner:
        c, last = self.config, phase == "dynamics"
        part = self.world.dynamics if last else self.world.framewise
        if last and any(True for _ in self.world.decoder.parameters()):
            part = nn.ModuleDict({"dynamics": self.world.dynamics, "decoder": self.world.decoder})
        over = spread(part, self.team, shard=last)
        optimizer = Optimizer(part, c.lr if last else c.tokenizer_lr, c.weight_decay, c.clip_norm, muon=last)
        return Learner(part, optimizer, c.average, self.bound.hold if last and self.bound else None, over)

    def world_whole(self) -> World:
        """The world, whose backbone may be spread over workers in shards."""
        if not self.team.shard:
            return self.world
        whole = World(self.world.spec, self.world.config, self.world.name).to(self.device)
        whole.load_state_dict(gathered(self.world.state_dict()))
        return whole

    # the two phases

    def train_tokenizers(self, data: Dataset) -> None:
        """Fit the tokenizers on single frames, then measure the scale of their latents."""
        steps = self.steps
        if steps.phase != "tokenizer":
            return
        fit_tokenizers(self.world, data, steps, self.budgets["tokenizer"], self.config, self.seed)
        rewards = np.concatenate([data.episode(int(i)).rewards for i in data.split("train")[:200]])
        self.world.reward_shift.fill_(float(rewards.mean()))
        self.world.reward_scale.fill_(max(float(rewards.std()), 1e-3))
        steps.begin("dynamics")
        steps.save()

    def train_backbone(self, data: Dataset) -> None:
        """Fit backbone, decoder and heads on clips of latents."""
        c, steps = self.config, self.steps
        with self.journal.task("encode", data.steps + len(data)) as advance, steps.precision():
            clips = encode_episodes(data, self.world, "train", c.length, self.device, advance)
            held = encode_episodes(data, self.world, "held_out", c.length, self.device, advance)

        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            source: LatentClips = held if held_out else clips
            generator = torch.Generator().manual_seed(0) if held_out else steps.order
            if held_out:
                kept = torch.Generator(device=self.device).manual_seed(0)
                return clip_loss(self.world, c, *source.sample(HELD_OUT_CLIPS, generator, self.device), 0.0, kept)
            progress = self.budgets["dynamics"].progress(steps.step, steps.seconds)
            count, frames = c.clips_at(progress)
            batch = source.sample(steps.share(count), generator, self.device, frames)
            return clip_loss(self.world, c, *batch, progress, steps.generator, self.errors)

        steps.run(self.budgets["dynamics"], loss)
        steps.record["steps"] = steps.step
        steps.record["seconds"] = round(steps.record.get("tokenizer_seconds", 0.0) + steps.seconds, 1)
