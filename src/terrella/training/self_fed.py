"""A past of the world's own making: what training shows instead of recorded frames, while the targets stay recorded.

    depth 1     x_t = dream(z_<t) for a share of frames, all at once: a parallel form of scheduled sampling
    depth r     from a random frame s on, x_t = dream(x_<t): every frame of the past is the world's own, up to r deep

Going on from one's own frames is sequential, but r rounds of the parallel pass do it for all clips and frames at once:
each round dreams every frame from s on anew from what the round before left, so that after r rounds the first r frames
are what stepping would bring, and those after them have gone through r of the world's own frames. As many rounds as
there are frames after s are the rollout itself.

Ref: Bengio et al., arXiv 1506.03099 (scheduled sampling); Huang et al., Self Forcing, arXiv 2506.08009 (training on
one's own rollouts). Differs: the loss is that of the decoder against recorded frames, not one of distributions, with no
gradient through the dreamed past; rounds are the Jacobi iteration of Song et al., arXiv 2002.03629, stopped early.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.noise import chance, drawn
from ..world import World
from .presets import TrainingConfig

KEEP = 0.6  # of the frames of a past of depth 1 stay real


def spoilt(z: Tensor, tau_BT: Tensor, noise: Tensor) -> Tensor:
    """Mix frames `(B, T, N, Z)` with as much noise as their signal levels leave room for."""
    level = tau_BT[..., None, None].to(z.dtype)
    return level * z + (1 - level) * noise


def levels(z: Tensor, most: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a signal level for each frame, from `1 - most` to 1, and noise of the shape of `z`."""
    tau = 1 - most * drawn(torch.rand, z.shape[:2], generator, device=z.device)
    return tau, drawn(torch.randn, z.shape, generator, device=z.device, dtype=z.dtype)


@torch.no_grad()
def own_past(
    world: World, config: TrainingConfig, z_BTNZ: Tensor, action_BTW: Tensor, generator: torch.Generator
) -> Tensor:
    """Replace frames of clips by the world's own, `config.self_fed_depth` deep; the first one stays recorded."""
    tau, fog = levels(z_BTNZ, config.context_noise, generator)
    noise = drawn(torch.randn, z_BTNZ.shape, generator, device=z_BTNZ.device, dtype=z_BTNZ.dtype)
    if config.self_fed_depth > 1:
        since = 1 + int(chance(generator) * (z_BTNZ.shape[1] - 1))
        return rolled_out(world, z_BTNZ, action_BTW, tau, fog, noise, since, config.self_fed_depth)
    dreamed = one_step(world, z_BTNZ, action_BTW, tau, fog, noise)
    real = drawn(torch.rand, (*z_BTNZ.shape[:2], 1, 1), generator, device=z_BTNZ.device) < KEEP
    real[:, 0] = True
    return torch.where(real, z_BTNZ, dreamed)


@torch.no_grad()
def one_step(
    world: World, past: Tensor, action: Tensor, tau: Tensor, fog: Tensor, noise: Tensor, since: int = 0
) -> Tensor:
    """Dream frames from `since` on, each from the past before it, in one pass of the backbone."""
    _, predict = world.dynamics.parallel(spoilt(past, tau, fog), action, tau, since)
    return world.decoder.sample(predict, noise[:, since:], None if world.decoder.plain else 1)


@torch.no_grad()
def rolled_out(
    world: World, z: Tensor, action: Tensor, tau: Tensor, fog: Tensor, noise: Tensor, since: int, depth: int
) -> Tensor:
    """Go on alone from frame `since` in `depth` rounds; see the module. All tensors `(B, T, ...)`."""
    past = z
    for first in range(since, min(since + depth, z.shape[1])):  # frames before `first` are final
        past = torch.cat([past[:, :first], one_step(world, past, action, tau, fog, noise, first).to(z.dtype)], 1)
    return past
