"""A long free rollout, hundreds of frames past the context, and numbers that expose a world that has stopped living.

Freezing shows as motion near 0, collapse to noise as motion and strangeness far above 1, flat frames as spread near 0;
each is a ratio to the same number on true frames. Strangeness is the distance from a frame to the nearest true frame
of *other* episodes, and its reference the same distance from true frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..spec import StreamSpec, WorldSpec
from .metrics import frame_std, motion
from .rollout import Dreamer, stretches
from .truth import Truth

WINDOW = 16  # frames averaged into one point of the curves
_BANK = 768  # true frames that a dreamed frame is compared with
_THUMB = 16  # side of the thumbnails that distances are taken on


def long_dream(
    dreamer: Dreamer, truth: Truth, frames: int, on_frames: Callable[[int], None] = lambda n: None
) -> dict[str, np.ndarray]:
    """Roll all of `truth`'s futures for `frames` frames under their own actions: stream -> `(B, frames, ...)`."""
    parts: dict[str, list[np.ndarray]] = {}
    for _, frame in stretches(dreamer, truth, truth.future[:, :frames]):
        for name, images in frame.observation.items():
            parts.setdefault(name, []).append(np.asarray(images))
        on_frames(len(truth) * frame.reward.shape[1])
    return {name: np.concatenate(images, axis=1) for name, images in parts.items()}


def endurance(
    dreams: dict[str, np.ndarray], truth: Truth, spec: WorldSpec, scales: dict[str, np.ndarray | None], seed: int = 0
) -> dict[str, Any]:
    """Compare dreams of the first rows of `truth` with true frames of all its rows; JSON values a stream.

    For each stream: `motion`, `spread` (images only) and `strangeness`, each with its true value, the curve over
    windows of 16 frames as a ratio to it, and the ratio over the last quarter.
    """
    return {
        name: _endure(dreams[name], truth, name, stream, scales[name], seed) for name, stream in spec.modelled.items()
    }


def _endure(
    dream: np.ndarray, truth: Truth, name: str, stream: StreamSpec, scale: np.ndarray | None, seed: int
) -> dict[str, Any]:
    real = [truth.real_frames(name, row) for row in range(len(truth))]
    moves = np.concatenate([motion(frames, stream, scale) for frames in real])
    result = {
        "sessions": len(dream),
        "frames": dream.shape[1],
        "window": WINDOW,
        "motion": _ratio(motion(dream, stream, scale), float(moves.mean())),
    }
    if stream.kind == "image":
        spread = float(np.concatenate([frame_std(frames, stream) for frames in real]).mean())
        result["spread"] = _ratio(frame_std(dream, stream), spread)
    if len(np.unique(truth.groups)) > 1:
        result["strangeness"] = _strangeness(dream, real, truth.groups, stream, scale, np.random.default_rng(seed))
    return result


def _ratio(values: np.ndarray, true: float) -> dict[str, Any]:
    """`values` `(B, T)` over their true mean: the curve by window and the last quarter."""
    if not true > 0:
        return {"true": true, "curve": None, "last_quarter": None}
    mean = values.mean(axis=0)
    curve = [float(mean[i : i + WINDOW].mean()) / true for i in range(0, len(mean), WINDOW)]
    return {"true": true, "curve": curve, "last_quarter": float(mean[-max(1, len(mean) // 4) :].mean()) / true}


def _strangeness(
    dream: np.ndarray,
    real: list[np.ndarray],
    groups: np.ndarray,
    stream: StreamSpec,
    scale: np.ndarray | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    share = max(2, _BANK // len(real))
    kept = [frames[np.sort(rng.permutation(len(frames))[:share])] for frames in real]
    bank = np.concatenate([thumbnails(frames, stream, scale) for frames in kept])
    owner = np.repeat(groups, [len(frames) for frames in kept])
    true = np.concatenate([nearest(bank[owner == group], bank[owner != group]) for group in np.unique(groups)])
    every = slice(0, None, 4)
    found = np.stack(
        [nearest(thumbnails(d[every], stream, scale), bank[owner != groups[row]]) for row, d in enumerate(dream)]
    )
    return _ratio(np.repeat(found, 4, axis=1)[:, : dream.shape[1]], float(true.mean()))


def thumbnails(frames: np.ndarray, stream: StreamSpec, scale: np.ndarray | None) -> np.ndarray:
    """Return frames `(n, ...)` as float32 rows that distances are taken on: images averaged to at most 16 x 16."""
    if stream.kind == "vector":
        return (frames / (1.0 if scale is None else scale)).astype(np.float32)
    n, h, w = frames.shape[:3]
    rows, columns = (np.linspace(0, side, min(side, _THUMB) + 1).astype(int)[:-1] for side in (h, w))
    sums = np.add.reduceat(np.add.reduceat(frames.astype(np.float32) / 255.0, rows, axis=1), columns, axis=2)
    area = np.diff([*rows, h])[:, None, None] * np.diff([*columns, w])[None, :, None]
    return (sums / area).reshape(n, -1)


def nearest(points: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Return the root-mean-square distance of each of `points` `(n, F)` to the nearest row of `bank` `(m, F)`."""
    squares = (points**2).sum(1)[:, None] + (bank**2).sum(1)[None] - 2.0 * points @ bank.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0.0) / points.shape[1])
