"""Does a world see the moment that it is asked to go on from? The control that tells perception from prediction.

A frame is given back when the world has encoded and decoded it again. A moment is *recognised* when its last true
frame, given back, lies nearest to itself, in every stream,

    among the last frames of all moments, and
    among its near distractors, the same scene with one attribute changed (`distractors`).

Of near distractors there is a score as well, a matrix as of forks: which of the C frames of a moment does each of them,
given back, lie nearest to? Who gives frames back as they are is always right; who gives the same whatever it is shown
is right in exactly 1 of C. Fork matrices over the recognised moments alone say what a world foresees of what it has
seen.

Ref: after Gao et al. 2025, arXiv 2506.21876, who keep those items of prediction whose perception was right.
Differs: a frame given back stands for their questions in words, so it asks of all that is in the frame at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ..engine import Engine
from ..spec import StreamSpec
from .distractors import Near
from .fork_matrix import interval, repeated, row_hits, scores
from .forks import Forks
from .metrics import frame_mse
from .stats import number

_FRAMES = 32  # encoded at once
Give = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]  # frames, stream -> `(n, ...)`, given back


@torch.inference_mode()
def given_back(engine: Engine, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Encode frames, stream -> `(n, ...)`, and decode them again, as the engine's sessions see and show them."""
    count = len(next(iter(observations.values())))
    parts = []
    for first in range(0, count, _FRAMES):
        some = {name: frames[first : first + _FRAMES] for name, frames in observations.items()}
        latent = engine.world.encode(engine.world.tensors(some, engine.device)).to(engine.dtype)
        parts.append({name: frames.cpu().numpy() for name, frames in engine.world.decode(latent).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def recognised(
    give: Give, forks: Forks, streams: dict[str, StreamSpec], scales: dict[str, np.ndarray | None]
) -> np.ndarray:
    """Which moments of `forks` are nearest to themselves among all moments, bool `(G,)`; equal frames share the place.

    scales: stream -> unit of each dimension `(F,)`, as `frame_mse` has it.
    """
    true = {name: forks.last(name) for name in streams}
    shown = give(true)
    right = np.ones(len(forks), bool)
    for name, stream in streams.items():
        for g, frame in enumerate(shown[name]):  # one row of the matrix at a time: frames are large
            cost = frame_mse(frame, true[name], stream, scales[name])
            right[g] &= bool(np.isfinite(cost[g]) and cost[g] <= cost.min())
    return right


def told_apart(
    give: Give, near: Near, streams: dict[str, StreamSpec], scales: dict[str, np.ndarray | None]
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """Which moments are told from their near distractors, bool `(G,)`, and each stream's score over all their frames.

    A score has `row` with its interval, `chance`, `left` (frames of a moment that differ) and `n` moments with a
    choice.
    """
    shown = give({name: frames.reshape(-1, *frames.shape[2:]) for name, frames in near.frames.items()})
    right, table = np.ones(len(near.there), bool), {}
    for name, stream in streams.items():
        between = partial(frame_mse, spec=stream, scale=scales[name])
        true = near.frames[name]
        back = shown[name].reshape(true.shape)
        apart = np.stack([between(frames[:, None], frames[None]) for frames in true])  # a moment at a time
        cost = np.stack([between(some[:, None], frames[None]) for some, frames in zip(back, true)])
        kept = near.there & ~repeated(apart, near.there)
        hits = row_hits(cost, kept)[:, 0]
        right &= np.isnan(hits) | (hits == 1)
        found = scores(cost, kept)
        asked = found["left"] > 1
        table[name] = {
            "row": interval(found["row"][:, None]),
            "chance": number(found["chance"][asked].mean()) if asked.any() else None,
            "left": number(found["left"][asked].mean()) if asked.any() else None,
            "n": int(asked.sum()),
        }
    return right, table
