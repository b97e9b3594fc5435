"""How well a future fits into a world, by the world's own loss: the other cost of a fork matrix.

Where `fork_matrix.matrices` compares frames that were sampled, this asks the decoder how badly it would have guessed
the true frames, each after the true ones before it: the denoising loss of diffusion, the cross-entropy of masked
tokens, the squared error of a regression. Noise and noise levels are the same for all pairs of a group, so that only
actions and futures differ, and who ignores actions has equal rows. The two costs are never mixed: this one forgives
drift.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..world import World
from .fork_matrix import Matrices
from .forks import Forks


@torch.inference_mode()
def denoising_matrices(
    world: World,
    forks: Forks,
    same: np.ndarray,
    *,
    draws: int = 4,
    seed: int = 0,
    on_frames: Callable[[int], None] = lambda n: None,
) -> Matrices:
    """Compute the mean loss of every true future under the actions of every branch, up to each of `forks.marks`.

    forks: with frames at all steps from 1 to the last mark. same: bool `(G, H, k)`, branches to keep, as `matrices` of
    any stream has them. draws: of noise and levels. Raises `ConfigError` for frames that are missing.
    """
    last = max(forks.marks)
    if forks.horizons[:last] != tuple(range(1, last + 1)):
        raise ConfigError(f"a loss needs every true frame up to {last}; these forks have {list(forks.horizons)}.")
    device = next(world.parameters()).device
    past = world.encode(world.tensors(forks.observations, device))
    flat = {name: frames[:, :, :last].reshape(-1, last, *frames.shape[3:]) for name, frames in forks.truths.items()}
    futures = world.encode(world.tensors(flat, device)).unflatten(0, (len(forks), forks.k))
    before = torch.from_numpy(forks.past).to(device)
    none = torch.full((len(forks), 1, before.shape[-1]), torch.nan, device=device)
    ahead = torch.from_numpy(forks.branches[:, :, :last]).to(device)
    costs = np.zeros((len(forks), forks.k, forks.k, last))
    for i in range(forks.k):
        rows = torch.cat([none, before, ahead[:, i]], 1)
        for j in range(forks.k):
            clip = torch.cat([past, futures[:, j]], 1)
            for draw in range(draws):
                lost = _loss(world, clip, rows, torch.Generator(device=device).manual_seed(seed * 1000 + draw))
                costs[:, i, j] += lost[:, -last:].double().cpu().numpy() / draws
            on_frames(len(forks) * last * draws)
    # A future that ended earlier has frames of zeros after its end; such branches are not kept at these horizons.
    upto = costs.cumsum(-1) / np.arange(1, last + 1)
    cost = np.stack([upto[..., mark - 1] for mark in forks.marks], 1)
    return Matrices(cost, cost, same, {})


def _loss(world: World, z: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    level = torch.full(z.shape[:2], world.config.context_level, device=z.device)
    noise = torch.randn(z.shape[1:], generator=generator, device=z.device, dtype=z.dtype)
    _, predict = world.dynamics.parallel(level[..., None, None] * z + (1 - level[..., None, None]) * noise, rows, level)
    return world.decoder.loss(predict, z, 0.0, generator)
