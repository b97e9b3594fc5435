"""Does a world see the moment that it is asked to go on from? The control that tells perception from prediction.

A moment is *recognised* when its last true frame, encoded and decoded again by the world, lies nearest to itself among
the last frames of all moments, in every stream; equal frames share the place. Who gives nothing back recognises 1 in G.
Fork matrices over these moments alone say what a world foresees of what it has seen.

Ref: after Gao et al. 2025, arXiv 2506.21876, who keep those items of prediction whose perception was right.
Differs: a frame given back stands for their questions in words, so it asks of all that is in the frame at once.
"""

from __future__ import annotations

import numpy as np
import torch

from ..engine import Engine
from ..spec import StreamSpec
from .forks import Forks
from .metrics import frame_mse

_FRAMES = 32  # encoded at once


@torch.inference_mode()
def given_back(engine: Engine, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Encode frames, stream -> `(G, ...)`, and decode them again, as the engine's sessions see and show them."""
    count = len(next(iter(observations.values())))
    parts = []
    for first in range(0, count, _FRAMES):
        some = {name: frames[first : first + _FRAMES] for name, frames in observations.items()}
        latent = engine.world.encode(engine.world.tensors(some, engine.device)).to(engine.dtype)
        parts.append({name: frames.cpu().numpy() for name, frames in engine.world.decode(latent).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def recognised(
    engine: Engine, forks: Forks, streams: dict[str, StreamSpec], scales: dict[str, np.ndarray | None]
) -> np.ndarray:
    """Which moments of `forks` the world of `engine` recognises, bool `(G,)`.

    scales: stream -> unit of each dimension `(F,)`, as `frame_mse` has it.
    """
    true = {name: forks.last(name) for name in streams}
    shown = given_back(engine, true)
    right = np.ones(len(forks), bool)
    for name, stream in streams.items():
        for g, frame in enumerate(shown[name]):  # one row of the matrix at a time: frames are large
            cost = frame_mse(frame, true[name], stream, scales[name])
            right[g] &= bool(np.isfinite(cost[g]) and cost[g] <= cost.min())
    return right
