"""What training reads: a pool of frames for tokenizers, then every episode as latents, encoded once and kept in memory.

Encoding once is what makes tokenizer-first training cheap: afterwards no convolution runs at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset
from ..data.index import Split
from ..errors import TrainingError
from ..nn.noise import drawn
from ..world import World

POOL_FRAMES = 16_384
LATENT_BYTES = 4 << 30  # a larger dataset is trained on the part of its episodes that fits


def frame_pool(
    dataset: Dataset, world: World, seed: int, split: Split = "train", most: int = POOL_FRAMES
) -> dict[str, Tensor]:
    """Draw frames of random episodes, stream -> `(frames, *shape)`, at most `most`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(dataset.split(split))
    pool: dict[str, list[np.ndarray]] = {name: [] for name in world.spec.modelled}
    count = 0
    # Few frames of many episodes say more than all frames of a few.
    each = max(16, 2 * most // max(1, len(order)))
    for index in order:
        episode = dataset.episode(int(index))
        frames = len(episode) + 1
        take = rng.permutation(frames)[: min(each, most - count)]
        for name in pool:
            pool[name].append(episode.observations[name][np.sort(take)])
        count += len(take)
        if count >= most:
            break
    if not count:
        raise TrainingError(f"the dataset has no {split} episodes; record at least two.")
    return world.tensors({name: np.concatenate(parts) for name, parts in pool.items()})


@dataclass
class LatentClips:
    """Episodes as latents, laid end to end.

    z: bfloat16 `(frames, N, Z)`. action: float32 `(frames, W)`, the row that led to each frame, NaN at an episode's
    first.
    reward, end: float32 `(frames,)`. starts: frame indices from which `length` transitions stay inside one episode.
    """

    z: Tensor
    action: Tensor
    reward: Tensor
    end: Tensor
    starts: Tensor
    length: int

    def sample(
        self, batch: int, generator: torch.Generator, device: torch.device, frames: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw clips of `length + 1` frames, or pieces of them: z `(B, T, N, Z)`, action `(B, T, W)`, reward and end
        `(B, T)`."""
        first = self.starts[drawn(partial(torch.randint, len(self.starts)), (batch,), generator)]
        most = self.length + 1
        if frames is not None and frames < most:
            first, most = first + drawn(partial(torch.randint, most - frames + 1), (batch,), generator), frames
        index = first[:, None] + torch.arange(most)
        action = self.action[index]
        action[:, 0] = torch.nan  # a clip begins as a session does: with no action behind it
        parts = (self.z[index].float(), action, self.reward[index], self.end[index])
        return tuple(p.to(device, non_blocking=True) for p in parts)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def encode_episodes(
    dataset: Dataset,
    world: World,
    split: Split,
    length: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda frames: None,
) -> LatentClips:
    """Encode the episodes of a split; raises `TrainingError` when none is as long as a clip."""
    limit = LATENT_BYTES // (world.tokens.n * world.tokens.channels * 2)
    chosen = dataset.split(split)
    frames = dataset.lengths[chosen].cumsum() + np.arange(1, len(chosen) + 1)
    chosen = chosen[: int(np.searchsorted(frames, limit)) + 1]
    count = int(frames[len(chosen) - 1]) if len(chosen) else 0
    z = torch.empty(count, world.tokens.n, world.tokens.channels, dtype=torch.bfloat16)  # once: it may be gigabytes
    actions, rewards, ends, starts = [], [], [], []
    done = 0
    for index in chosen:
        episode = dataset.episode(int(index))
        steps = len(episode)
        for at in range(0, steps + 1, 256):
            piece = {k: v[at : at + 256] for k, v in episode.observations.items()}
            z[done + at : done + min(at + 256, steps + 1)] = world.encode(world.tensors(piece, device))
        none = np.full((1, episode.actions.shape[1]), np.nan)
        actions.append(torch.from_numpy(np.concatenate([none, episode.actions]).astype(np.float32)))
        rewards.append(torch.from_numpy(np.concatenate([[0.0], episode.rewards]).astype(np.float32)))
        ends.append(torch.from_numpy(np.concatenate([[0.0], episode.terminated]).astype(np.float32)))
        if steps >= length:
            starts.append(torch.arange(done, done + steps - length + 1))
        done += steps + 1
        advance(steps + 1)
    if not starts:
        longest = max((len(a) - 1 for a in actions), default=0)
        raise TrainingError(
            f"no {split} episode has {length} transitions (longest: {longest}). Record longer episodes, "
            "or train with a shorter clip (TrainingConfig.length)."
        )
    action, reward, end, start = (torch.cat(parts) for parts in (actions, rewards, ends, starts))
    return LatentClips(z, action, reward, end, start, length)
