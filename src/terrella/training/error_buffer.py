"""Errors that the world made lately, kept to spoil recorded pasts with: what drift looks like, without a rollout.

A ring of residuals `dreamed - recorded`, whole latent frames. A recycled batch adds residuals drawn at random to a
share of its past frames, and now and then also dreams one step from that very past; what it then does wrong enters the
ring. So residuals are of frames dreamed from pasts that were already wrong, deeper the longer training goes on, at the
price of one pass in `1 / COLLECT` recycled batches. Targets stay recorded.

Ref: LongLive 2.0 (errors of prediction stored by noise level and added to the context); Venkatraman et al., AAAI 2015
(recorded targets after predicted pasts). Differs: errors come from one-step dreams of the spoilt past, are not sorted
by level, and are added to other frames than those they were made on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.latents import TokenSpec
from ..nn.noise import chance
from ..world import World
from .presets import TrainingConfig
from .self_fed import KEEP, levels, one_step

SLOTS = 512  # residuals kept
COLLECT = 0.25  # share of recycled batches that also look at what the world makes of them


class ErrorBuffer:
    """The ring. count: residuals seen so far; `tensors` and `load` are for a checkpoint."""

    def __init__(self, tokens: TokenSpec, device: torch.device | str = "cpu", slots: int = SLOTS):
        self.store = torch.zeros(slots, tokens.n, tokens.channels, device=device)
        self.count = 0

    def add(self, errors_MNZ: Tensor) -> None:
        """Keep residuals in place of the oldest; of more than there are slots, the last ones."""
        kept = errors_MNZ[-len(self.store) :].detach().to(self.store)
        place = torch.arange(self.count, self.count + len(kept), device=kept.device) % len(self.store)
        self.store[place] = kept
        self.count += len(kept)

    def draw(self, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        """Draw a residual for each frame, `(batch, frames, N, Z)`; zeros while there are none."""
        filled = max(1, min(self.count, len(self.store)))
        return self.store[torch.randint(filled, (batch, frames), generator=generator, device=self.store.device)]

    def tensors(self) -> dict[str, Tensor]:
        """Return the ring, name -> tensor."""
        return {"store": self.store, "count": torch.tensor(self.count)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the ring of a checkpoint back."""
        self.store.copy_(tensors["store"])
        self.count = int(tensors["count"])


@torch.no_grad()
def recycled_past(
    world: World,
    config: TrainingConfig,
    z_BTNZ: Tensor,
    action_BTW: Tensor,
    errors: ErrorBuffer,
    generator: torch.Generator,
) -> Tensor:
    """Add kept residuals to past frames (the first one stays recorded), and now and then collect new ones."""
    batch, frames = z_BTNZ.shape[:2]
    real = torch.rand(batch, frames, 1, 1, generator=generator, device=z_BTNZ.device) < KEEP
    real[:, 0] = True
    past = torch.where(real, z_BTNZ, z_BTNZ + errors.draw(batch, frames, generator).to(z_BTNZ.dtype))
    if errors.count == 0 or chance(generator) < COLLECT:
        tau, fog = levels(z_BTNZ, config.context_noise, generator)
        noise = torch.randn(z_BTNZ.shape, generator=generator, device=z_BTNZ.device, dtype=z_BTNZ.dtype)
        dreamed = one_step(world, past, action_BTW, tau, fog, noise, 1)
        errors.add((dreamed.float() - z_BTNZ[:, 1:].float()).flatten(0, 1))
    return past
