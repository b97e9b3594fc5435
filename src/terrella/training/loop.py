"""Data to weights: one loop, run twice. Tokenizers first, on frames; then the backbone, on clips of latents.

With frames encoded once, a step of the backbone is all transformer and no convolution; benchmarks/tokenizer_order.py
compares this order with training both together in equal time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import to_json
from ..data import Dataset
from ..data.episode import Clips
from ..errors import ConfigError, DatasetError, TrainingError
from ..nn.spectral import SpectralBound
from ..tokenizers import Tokenizer
from ..world import World, WorldConfig
from .budget import Budget
from .checkpoint import load_checkpoint, save_checkpoint, unbroken
from .error_buffer import ErrorBuffer
from .journal import Journal
from .material import LatentClips, encode_episodes, frame_pool
from .objective import clip_loss
from .optim import Average, Optimizer
from .presets import TrainingConfig, pick, training_config, world_config

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
    progress: bool = True,
) -> World:
    """Train a world on a dataset.

    out: folder for the world, its checkpoint and logs (None keeps everything in memory). budget: `10m`, `90s`, `2h` or
    `5000steps`. preset: `tiny`, `small`, `base`, or `auto`, which follows budget and device. backbone, decoder:
    in place of the preset's. config, training: replace the preset's parts or recipe. resume: continue from `out`'s
    checkpoint; with a budget in steps the weights come out as if training had never stopped. Without `resume`, training
    begins anew and replaces what is in `out`.

    Raises `DatasetError`, `ConfigError`, `UnknownName`, and `TrainingError`, also when `out` holds a finished world.
    """
    if out and resume:
        _require_unfinished(Path(out))
    if config is not None and (decoder or backbone):
        raise ConfigError(
            f"config is given beside backbone={backbone!r} and decoder={decoder!r}; name them in the config alone."
        )
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    whole = Budget.parse(budget)
    size = pick(preset, whole, where)
    recipe = training or training_config(size, backbone)
    parts = config or world_config(size, data.spec, decoder, backbone)
    with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as it was
        torch.manual_seed(seed)
        world = World(data.spec, parts, name or Path(out or "world").name).to(where)
    run = _Run(world, recipe, whole, seed, where, Path(out) if out else None, Journal(out, progress))
    run.record = {
        "preset": size if config is None else "custom",
        "budget": to_json(whole),
        "seed": seed,
        "training": asdict(recipe),
        "dataset": {"fingerprint": data.fingerprint, "episodes": len(data), "steps": data.steps},
        "device": where.type,
        "torch": torch.__version__,
    }
    with run.journal:
        if resume:
            run.resume()
        try:
            run.train_tokenizers(data)
            run.train_backbone(data)
        except KeyboardInterrupt:
            if run.between_steps:  # else the last checkpoint stands
                run.save()
            run.journal.say("interrupted; the same command goes on from here")
            raise
    world.record = run.record
    world.starts = _openings(data, recipe.seen) if recipe.blind else _starts(data)
    world.eval().requires_grad_(False)
    if out:
        world.save(out)
        (Path(out) / "checkpoint.safetensors").unlink(missing_ok=True)
    return world


def _require_unfinished(out: Path) -> None:
    """Raise `TrainingError` when training ended here: there is nothing to resume, and the world shall not be lost."""
    if (out / "world.json").exists() and not (out / "checkpoint.safetensors").exists():
        raise TrainingError(
            f"{out} holds a finished world. Train into another folder, or replace this one with resume=False "
            "(--no-resume on the command line)."
        )


def _starts(data: Dataset, count: int = 8, frames: int = 5) -> Clips | None:
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


class _Run:
    """One training run: what a checkpoint holds, and the two phases."""

    def __init__(
        self,
        world: World,
        config: TrainingConfig,
        budget: Budget,
        seed: int,
        device: torch.device,
        out: Path | None,
        journal: Journal,
    ):
        self.world, self.config, self.seed, self.device, self.journal = world, config, seed, device, journal
        self.record: dict[str, Any] = {}
        if out:
            out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = out / "checkpoint.safetensors" if out else None
        learning = [t for t in world.tokenizers.values() if isinstance(t, Tokenizer) and t.trains]
        # Vectors need no more than a moment: their linear path is exact from the start.
        images = any(t.stream.kind == "image" for t in learning)
        share = 0.0 if not learning else config.tokenizer_share if images else config.tokenizer_share / 5
        self.budgets = {"tokenizer": budget.share(share), "dynamics": budget.share(1 - share)}
        if not learning:
            self.budgets["tokenizer"] = Budget(steps=0)
        self.generator = torch.Generator(device=device).manual_seed(seed)  # noise, on the device
        self.order = torch.Generator().manual_seed(seed)  # which frames and clips
        self.phase, self.step, self.seconds = "tokenizer", 0, 0.0
        self.between_steps = False  # whether weights, averages and counts belong together, so that `save` makes sense
        self.parts: dict[str, nn.Module] = {"tokenizer": world.tokenizers, "dynamics": world.dynamics}
        self.optimizer, self.average = self._fresh()
        self.errors = ErrorBuffer(world.tokens, device) if config.recycled else None
        self.bound = _bound(world, config.spectral)

    def _fresh(self) -> tuple[Optimizer, Average]:
        c, part = self.config, self.parts[self.phase]
        lr = c.lr if self.phase == "dynamics" else c.tokenizer_lr
        optimizer = Optimizer(part, lr, c.weight_decay, c.clip_norm, muon=self.phase == "dynamics")
        return optimizer, Average(part, c.average)

    # the two phases

    def train_tokenizers(self, data: Dataset) -> None:
        """Fit the tokenizers on single frames, then measure the scale of their latents."""
        if self.phase != "tokenizer":
            return
        pool = frame_pool(data, self.world, self.seed)
        test = frame_pool(data, self.world, self.seed, "held_out", 256)
        frames = len(next(iter(pool.values())))
        tokenizers = {s: self.world.tokenizer(s) for s in self.world.spec.modelled}
        for stream, tokenizer in tokenizers.items():
            tokenizer.prepare(pool[stream].to(self.device))

        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            source = test if held_out else pool
            count = len(next(iter(test.values()))) if held_out else frames
            pick = (
                torch.arange(count)
                if held_out
                else torch.randint(frames, (self.config.tokenizer_batch,), generator=self.order)
            )
            total = torch.zeros((), device=self.device)
            for stream, tokenizer in tokenizers.items():
                total = total + tokenizer.loss(source[stream][pick].to(self.device), self.generator)
            return total, {}

        self._loop("tokenizer", loss)
        with torch.inference_mode():
            for stream, tokenizer in tokenizers.items():
                tokenizer.normalise(pool[stream][:2048].to(self.device))
        rewards = np.concatenate([data.episode(int(i)).rewards for i in data.split("train")[:200]])
        self.world.reward_shift.fill_(float(rewards.mean()))
        self.world.reward_scale.fill_(max(float(rewards.std()), 1e-3))
        self._next("dynamics")

    def train_backbone(self, data: Dataset) -> None:
        """Fit backbone, decoder and heads on clips of latents."""
        c = self.config
        with self.journal.task("encode", data.steps + len(data)) as advance, self._precision():
            clips = encode_episodes(data, self.world, "train", c.length, self.device, advance)
            held = encode_episodes(data, self.world, "held_out", c.length, self.device, advance)

        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            source: LatentClips = held if held_out else clips
            generator = torch.Generator().manual_seed(0) if held_out else self.order
            if held_out:
                kept = torch.Generator(device=self.device).manual_seed(0)
                return clip_loss(self.world, c, *source.sample(HELD_OUT_CLIPS, generator, self.device), 0.0, kept)
            progress = self.budgets["dynamics"].progress(self.step, self.seconds)
            count, frames = c.clips_at(progress)
            batch = source.sample(count, generator, self.device, frames)
            return clip_loss(self.world, c, *batch, progress, self.generator, self.errors)

        self._loop("dynamics", loss)
        self.record["steps"] = self.step
        self.record["seconds"] = round(self.record.get("tokenizer_seconds", 0.0) + self.seconds, 1)

    def _loop(self, phase: str, loss: Callable[[bool], tuple[Tensor, dict[str, Tensor]]]) -> None:
        budget, module = self.budgets[phase], self.parts[phase]
        saved = clock = time.monotonic()
        module.train()
        self.between_steps = True
        with self.journal.phase(phase, budget, self.step, self.seconds) as report:
            while budget.progress(self.step, self.seconds) < 1:
                with unbroken():
                    with self._precision():
                        value, parts = loss(False)
                    self.optimizer.step(value, self.step, budget.progress(self.step, self.seconds))
                    if self.bound is not None and phase == "dynamics":
                        self.bound.hold()
                    self.step += 1
                    self.average.update(self.step)
                    now = time.monotonic()
                    self.seconds, clock = self.seconds + now - clock, now
                    report(self.step, self.seconds, {"loss": value.detach(), **parts})
                    if self.step % 250 == 0:
                        self.record[f"{phase}_held_out"] = self._held_out(loss)
                        self.journal.held_out(phase, self.step, self.record[f"{phase}_held_out"])
                    if now - saved > self.config.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
        self.between_steps = False
        self.average.exchange()
        self.average = Average(module, self.config.average)
        module.eval()
        if self.step:
            self.record[f"{phase}_held_out"] = self._held_out(loss)
        self.record[f"{phase}_seconds"] = round(self.seconds, 1)
        self.record[f"{phase}_steps"] = self.step

    @torch.no_grad()
    def _held_out(self, loss: Callable[[bool], tuple[Tensor, dict[str, Tensor]]]) -> float:
        kept = self.generator.get_state()
        with self._precision():
            value = float(loss(True)[0])
        self.generator.set_state(kept)  # looking changes nothing
        return round(value, 6)

    def _next(self, phase: str) -> None:
        self.phase, self.step, self.seconds = phase, 0, 0.0
        self.optimizer, self.average = self._fresh()
        self.save()

    def _precision(self) -> AbstractContextManager[Any]:
        """Matrix products in bfloat16 where the processor has it."""
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16) if fast else nullcontext()

    # stop and go on

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it."""
        if self.checkpoint is None:
            return
        groups = {
            "world": dict(self.world.state_dict()),
            "average": self.average.shadow,
            "optimizer": self.optimizer.tensors(),
            "random": {"device": self.generator.get_state(), "index": self.order.get_state()},
            "errors": {} if self.errors is None else self.errors.tensors(),
        }
        about = {"phase": self.phase, "step": self.step, "seconds": self.seconds, "record": self.record}
        about["config"] = to_json(self.world.config)
        save_checkpoint(self.checkpoint, groups, about)

    def resume(self) -> None:
        """Take up where the checkpoint stands, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        groups, about = load_checkpoint(self.checkpoint)
        config = to_json(self.world.config)
        kept, mine = about["record"] | {"config": about.get("config", config)}, self.record | {"config": config}
        for key in ("preset", "config", "budget", "seed", "training", "dataset", "device"):
            if kept.get(key) != to_json(mine[key]):
                raise TrainingError(
                    f"{self.checkpoint} was made with {key} = {kept.get(key)}, not {mine[key]}. "
                    "Train into another folder, or pass resume=False (--no-resume on the command line) to begin anew."
                )
        self.world.load_state_dict(groups["world"])
        self.phase, self.step, self.seconds = about["phase"], about["step"], about["seconds"]
        self.record = about["record"]
        self.optimizer, self.average = self._fresh()
        self.optimizer.load(groups.get("optimizer", {}))
        self.average.shadow = {k: v.to(self.device) for k, v in groups.get("average", {}).items()}
        if self.errors is not None:
            self.errors.load(groups["errors"])
        self.generator.set_state(groups["random"]["device"])
        self.order.set_state(groups["random"]["index"])
        self.journal.say(f"resumed {self.phase} at step {self.step}")
