"""Rollouts of a world in training: short, free-running, with a gradient by its weights; and what they are worth.

B clips   T frames dreamed after S that were seen   N tokens   Z channels   W numbers in one action
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Dataset
from ..data.episode import Clips
from ..world import World
from .objective import clip_loss
from .presets import TrainingConfig

PASTS, AHEAD = 32, 16  # of measuring


@dataclass(frozen=True)
class Batch:
    """Recorded clips as training takes them: the row that led to each frame, NaN for the first, and its outcome.

    seen: stream -> observations `(B, S + T, ...)`. z: their latents. row: `(B, S + T, W)`. reward, end: `(B, S + T)`.
    """

    seen: Mapping[str, Tensor]
    z: Tensor
    row: Tensor
    reward: Tensor
    end: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, world: World, clips: Clips) -> Batch:
        """Encode clips, on the world's device."""
        device = next(world.parameters()).device
        seen = world.tensors({name: clips.observations[name] for name in world.spec.modelled}, device)
        row = F.pad(torch.from_numpy(clips.actions).float(), (0, 0, 1, 0), value=torch.nan)
        reward, end = (F.pad(torch.from_numpy(x).float(), (1, 0)) for x in (clips.rewards, clips.terminated))
        return cls(seen, world.encode(seen), row.to(device), reward.to(device), end.to(device))

    def repeated(self, times: int) -> Batch:
        """Each clip `times` times, side by side."""
        z, row, reward, end = (x.repeat_interleave(times, 0) for x in (self.z, self.row, self.reward, self.end))
        return Batch({k: v.repeat_interleave(times, 0) for k, v in self.seen.items()}, z, row, reward, end)


def roll(world: World, batch: Batch, seen: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Dream the frames after the first `seen` ones, under the actions of the clips and chance of `generator`.

    Returns z `(B, T, N, Z)`, and the reward (in its units) and logit of the end of each frame, `(B, T)`.
    """
    config, z, dynamics, drawn, rewards, ends = world.config, batch.z, world.dynamics, [], [], []
    level = config.context_level if config.dream_level is None else config.dream_level
    slabs = dynamics.init(len(z), z.device, z.dtype)

    def noisy(frame: Tensor, at: float) -> tuple[Tensor, Tensor]:
        noise = torch.randn(frame.shape, generator=generator, device=frame.device, dtype=frame.dtype)
        return at * frame + (1 - at) * noise, torch.full(frame.shape[:1], at, device=frame.device)

    for t in range(z.shape[1]):
        row = batch.row[:, t]
        if t < seen:
            slabs, _ = dynamics.commit(slabs, row, *noisy(z[:, t], config.context_level))
            continue
        noise = torch.randn(z[:, t].shape, generator=generator, device=z.device, dtype=z.dtype)
        now = slabs
        frame = world.decoder.sample(lambda x, n: dynamics.predict(now, row, x, n), noise)  # noqa: B023  (called here)
        slabs, outcome = dynamics.commit(slabs, row, *noisy(frame, level))
        drawn.append(frame)
        rewards.append(outcome.reward.float() * world.reward_scale + world.reward_shift)
        ends.append(outcome.end.float())
    return torch.stack(drawn, 1), torch.stack(rewards, 1), torch.stack(ends, 1)


def errors(world: World, z: Tensor, true: Mapping[str, Tensor], scale: Mapping[str, Tensor]) -> Tensor:
    """Squared error of decoded frames, `(B, T)`: images as numbers 0 to 1, vectors by `scale`; the mean over streams.

    With a gradient: pictures are not rounded.
    """
    total = []
    for name, shown in world.decode_raw(z).items():
        unit = 255 if world.spec.modelled[name].kind == "image" else 1
        gap = (shown.float() - true[name].float() / unit) / scale[name]
        total.append(gap.square().flatten(2).mean(-1))
    return torch.stack(total).mean(0)


def scales(world: World, batch: Batch) -> dict[str, Tensor]:
    """By what vectors are divided: the deviation of each number in these clips. Images stay as they are."""
    found = {}
    for name, stream in world.spec.modelled.items():
        seen = batch.seen[name].float()
        image = stream.kind == "image"
        found[name] = torch.ones((), device=seen.device) if image else seen.flatten(0, 1).std(0).clamp(min=1e-3)
    return found


@torch.no_grad()
def measure(world: World, data: Dataset, config: TrainingConfig, seen: int = 4, seed: int = 0) -> dict[str, Any]:
    """What a world does on held-out clips, as JSON values; the same clips and chance for equal seeds.

    one_step: the parts of the training loss, for clips of the same length. error: of free-running frames by horizon,
    `copy_last` beside it. reward, end: squared error and cross-entropy of outcomes along these rollouts. action_ratio:
    error under the actions of other clips over error under their own.
    """
    longest = int(data.lengths[data.split("held_out")].max())
    ahead = max(1, min(AHEAD, longest - seen + 1))
    rng = np.random.default_rng(seed)
    batch = Batch.of(world, data.sample(PASTS, seen + ahead - 1, rng, "held_out"))
    device = batch.z.device

    def chance() -> torch.Generator:
        return torch.Generator(device=device).manual_seed(seed)

    unit, true = scales(world, batch), {k: v[:, seen:] for k, v in batch.seen.items()}
    z, reward, end = roll(world, batch, seen, chance())
    error = errors(world, z, true, unit).mean(0)
    still = errors(world, batch.z[:, seen - 1 : seen].expand_as(z), true, unit).mean(0)
    others = batch.row.clone()
    others[:, seen:] = batch.row.roll(1, 0)[:, seen:]
    swapped = roll(world, Batch(batch.seen, batch.z, others, batch.reward, batch.end), seen, chance())[0]
    _, parts = clip_loss(world, config, batch.z, batch.row, batch.reward, batch.end, 0.0, chance())
    horizons = [h for h in (1, 2, 4, 8, 16) if h <= ahead]
    return {
        "one_step": {k: round(float(v), 5) for k, v in parts.items()},
        "error": {str(h): round(float(error[h - 1]), 6) for h in horizons},
        "copy_last": {str(h): round(float(still[h - 1]), 6) for h in horizons},
        "reward": round(float(F.mse_loss(reward, batch.reward[:, seen:])), 6),
        "end": round(float(F.binary_cross_entropy_with_logits(end, batch.end[:, seen:])), 6),
        "action_ratio": round(float(errors(world, swapped, true, unit).mean() / error.mean()), 3),
    }
