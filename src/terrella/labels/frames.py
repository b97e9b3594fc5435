"""What is read off an episode: its frames as latents, in windows that end between one frame and the next."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..world import World

PIECE = 256  # frames encoded at a time


@torch.no_grad()
def encoded(world: World, observations: Mapping[str, np.ndarray]) -> Tensor:
    """The latents of F frames, stream -> `(F, ...)`: `(F, N, Z)`, on the world's device; raises `SpecError`."""
    device, seen = next(world.parameters()).device, world.tensors(observations)
    frames = len(next(iter(seen.values())))
    pieces = ({k: v[at : at + PIECE].to(device) for k, v in seen.items()} for at in range(0, frames, PIECE))
    return torch.cat([world.encode(piece) for piece in pieces])


def windows(z_BTNZ: Tensor, frames: int) -> Tensor:
    """The windows of K frames that end at each frame but the first: `(B, T, N, Z)` to `(B, T - 1, K, N, Z)`.

    The first frame stands in for those before it.
    """
    early = z_BTNZ[:, :1].expand(-1, frames - 2, -1, -1)
    return torch.cat([early, z_BTNZ], 1).unfold(1, frames, 1).movedim(-1, 2)
