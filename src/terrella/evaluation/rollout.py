"""Roll a world beside the truth and keep the errors: under the true actions, and under somebody else's.

The two runs share context and noise seeds and differ only in the actions, so a world that ignores them makes exactly
the same error twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..spec import WorldSpec
from .metrics import frame_mse, ssim
from .stats import derangement
from .truth import Truth

CHUNK = 16  # frames asked of the engine at a time, which bounds memory and lets progress show


class Dreamer(Protocol):
    """What evaluation needs of an engine; a simulator wrapped to serve as a reference may have it, too."""

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Begin sessions from a context: observations stream -> `(B, c+1, ...)`, actions `(B, c, W)`."""
        ...

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Any]:
        """Step through actions `(B, T, W)`; returns the next state and a frame with a T axis after B."""
        ...


@dataclass
class Errors:
    """What one batch of futures gave; every array of one stream is `(B, H)`, H horizons, NaN past an episode's end.

    mse: scaled error (images 0..1, vectors in units of their standard deviation). raw: unscaled vector error. ssim:
    images only. copy_last, copy_last_ssim: the last context frame held. shuffled: under other actions. other: another
    episode's true frame at the same horizon. floor: truth against its twin, or None. differs: whether the other actions
    have differed by then, 0 or 1. rewards, ended: `(B, T)` as the world had them, for the true actions.
    """

    mse: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]
    ssim: dict[str, np.ndarray]
    copy_last: dict[str, np.ndarray]
    copy_last_ssim: dict[str, np.ndarray]
    shuffled: dict[str, np.ndarray]
    other: dict[str, np.ndarray]
    floor: dict[str, np.ndarray] | None
    differs: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray


def compare(
    dreamer: Dreamer,
    truth: Truth,
    spec: WorldSpec,
    horizons: Sequence[int],
    scales: dict[str, np.ndarray | None],
    rng: np.random.Generator,
    on_frames: Callable[[int], None] = lambda n: None,
) -> Errors:
    """Roll the world under the true and under permuted actions and compare each with the truth at the `horizons`.

    A batch of one future cannot be permuted; its shuffled errors are NaN.
    """
    frames, rewards, ended = dream(dreamer, truth, truth.future, horizons, on_frames)
    alive = truth.length[:, None] >= np.asarray(horizons)[None]
    blank = np.where(alive, 0.0, np.nan)
    none = np.full_like(blank, np.nan)
    order = derangement(len(truth), rng) if len(truth) > 1 else None
    swapped = None
    if order is not None:
        swapped, _, _ = dream(dreamer, truth, truth.future[order], horizons, on_frames)
        changed = (truth.future != truth.future[order]).any(-1).cumsum(1) > 0
        differs = changed[:, [h - 1 for h in horizons]] + blank
        # Windows of one recorded episode are no strangers to each other.
        strangers = blank + blank[order] + np.where(truth.groups == truth.groups[order], np.nan, 0.0)[:, None]
    else:
        differs = strangers = none
    result = Errors({}, {}, {}, {}, {}, {}, {}, None if truth.twin is None else {}, differs, rewards, ended)
    for name, stream in spec.modelled.items():
        real = np.stack([truth.frame(name, h) for h in horizons], axis=1)
        held = np.broadcast_to(truth.frame(name, 0)[:, None], real.shape)
        scale = scales[name]
        result.mse[name] = frame_mse(frames[name], real, stream, scale) + blank
        result.raw[name] = frame_mse(frames[name], real, stream) + blank
        result.copy_last[name] = frame_mse(held, real, stream, scale) + blank
        result.shuffled[name] = none if swapped is None else frame_mse(swapped[name], real, stream, scale) + blank
        result.other[name] = none if order is None else frame_mse(real[order], real, stream, scale) + strangers
        if stream.kind == "image":
            result.ssim[name] = ssim(frames[name], real) + blank
            result.copy_last_ssim[name] = ssim(held, real) + blank
        if result.floor is not None and truth.twin is not None and truth.twin_length is not None:
            both = np.where(truth.twin_length[:, None] >= np.asarray(horizons)[None], blank, np.nan)
            result.floor[name] = frame_mse(truth.twin[name], real, stream, scale) + both
    return result


def dream(
    dreamer: Dreamer,
    truth: Truth,
    actions: np.ndarray,
    horizons: Sequence[int],
    on_frames: Callable[[int], None] = lambda n: None,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Roll from the truth's context under `actions` `(B, T, W)`, T = the last horizon.

    Returns the frames at the horizons, stream -> `(B, H, ...)`, and rewards and end probabilities `(B, T)`.
    """
    kept: dict[str, list[np.ndarray]] = {}
    rewards, ended = [], []
    wanted = set(horizons)
    for first, frame in stretches(dreamer, truth, actions[:, : max(horizons)]):
        length = frame.reward.shape[1]
        for name, images in frame.observation.items():
            marks = [t for t in range(length) if first + t + 1 in wanted]
            kept.setdefault(name, []).append(np.asarray(images)[:, marks])
        rewards.append(np.asarray(frame.reward, np.float32))
        ended.append(np.asarray(frame.terminated, np.float32))
        on_frames(length * len(truth))
    joined = {name: np.concatenate(parts, axis=1) for name, parts in kept.items()}
    return joined, np.concatenate(rewards, axis=1), np.concatenate(ended, axis=1)


def stretches(dreamer: Dreamer, truth: Truth, actions: np.ndarray):
    """Yield (frames before it, frame with a T axis) for each chunk of a rollout under `actions` `(B, T, W)`."""
    observations, past = truth.start()
    state = dreamer.start(observations, past, seeds=truth.seeds)
    for first in range(0, actions.shape[1], CHUNK):
        state, frame = dreamer.rollout(state, actions[:, first : first + CHUNK])
        yield first, frame
