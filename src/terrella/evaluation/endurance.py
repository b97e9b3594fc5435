"""A long free rollout, hundreds of frames past the context, and numbers that expose a world that has stopped living.

Freezing shows as motion near 0, collapse to noise as motion and strangeness far above 1, flat frames as spread near 0;
each is a ratio to the same number on true frames. Strangeness is the distance from a frame to the nearest true frame
of *other* episodes.
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
_THUMB = 32  # side of the thumbnails that distances are taken on


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
    """Compare dreams of the first rows of `truth` with what truly followed; JSON values a stream.

    For each stream: `motion`, `spread` (images only) and `strangeness`, each with its true mean, the curve over windows
    of 16 frames as a ratio to the truth, and the ratio over the last quarter, for all and one by one (`sessions`). The
    truth is that of the same episodes at the same time, since late frames differ from early ones; where these have
    ended, their mean over all times. `true_sessions`: each true episode over the same mean, which tells how far apart
    living sessions lie; None for one that has ended before.
    """
    return {
        name: _endure(dreams[name], truth, name, stream, scales[name], np.random.default_rng(seed))
        for name, stream in spec.modelled.items()
    }


def _endure(
    dream: np.ndarray, truth: Truth, name: str, stream: StreamSpec, scale: np.ndarray | None, rng: np.random.Generator
) -> dict[str, Any]:
    real = [truth.real_frames(name, row) for row in range(len(truth))]
    after = [frames[truth.context + 1 :] for frames in real[: len(dream)]]
    result: dict[str, Any] = {
        "sessions": len(dream),
        "frames": dream.shape[1],
        "window": WINDOW,
        "true_lengths": [len(frames) for frames in after],
        "motion": _ratios(motion(dream, stream, scale), [motion(frames, stream, scale) for frames in after]),
    }
    if stream.kind == "image":
        result["spread"] = _ratios(frame_std(dream, stream), [frame_std(frames, stream) for frames in after])
    if len(np.unique(truth.groups)) > 1:
        share = max(2, _BANK // len(real))
        kept = [frames[np.sort(rng.permutation(len(frames))[:share])] for frames in real]
        bank = np.concatenate([thumbnails(frames, stream, scale) for frames in kept])
        owner = np.repeat(truth.groups, [len(frames) for frames in kept])

        def strange(frames: np.ndarray, row: int) -> np.ndarray:
            found = nearest(thumbnails(frames[::4], stream, scale), bank[owner != truth.groups[row]])
            return found.repeat(4)[: len(frames)]

        dreamed = np.stack([strange(frames, row) for row, frames in enumerate(dream)])
        result["strangeness"] = _ratios(dreamed, [strange(frames, row) for row, frames in enumerate(after)])
    return result


def _ratios(dreamed: np.ndarray, real: list[np.ndarray]) -> dict[str, Any]:
    """Numbers of dreams `(B, T)` over those of the truth, whose rows may end earlier."""
    overall = np.concatenate(real)
    if not overall.size or not overall.mean() > 0:
        none = {"curve": None, "last_quarter": None, "sessions": None, "true_sessions": None}
        return {"true": float(overall.mean()) if overall.size else None, **none}

    def unit(first: int, last: int) -> float:
        then = np.concatenate([values[first:last] for values in real])
        true = float(then.mean()) if len(then) >= WINDOW else 0.0
        return true if true > 0 else float(overall.mean())

    def ratio(first: int, last: int) -> float:
        return float(dreamed[:, first:last].mean()) / unit(first, last)

    length = dreamed.shape[1]
    late = length - max(1, length // 4), length
    true_late = [values[slice(*late)] for values in real]
    return {
        "true": float(overall.mean()),
        "curve": [ratio(i, min(i + WINDOW, length)) for i in range(0, length, WINDOW)],
        "last_quarter": ratio(*late),
        "sessions": (dreamed[:, slice(*late)].mean(1) / unit(*late)).tolist(),
        "true_sessions": [float(values.mean()) / unit(*late) if len(values) else None for values in true_late],
    }


def thumbnails(frames: np.ndarray, stream: StreamSpec, scale: np.ndarray | None) -> np.ndarray:
    """Return frames `(n, ...)` as float32 rows that distances are taken on: images averaged to at most 32 x 32."""
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
