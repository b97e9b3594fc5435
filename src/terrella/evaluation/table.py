"""From raw errors of every future to the numbers of a report: means, intervals, skill, the action ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..spec import StreamSpec
from .metrics import frame_mse, half_skill_horizon, psnr, skill
from .rollout import Errors
from .stats import bootstrap, number, numbers


def join(parts: Sequence[Errors]) -> Errors:
    """Put the errors of several batches one after another."""

    def stack(name: str) -> dict[str, np.ndarray]:
        return {s: np.concatenate([getattr(p, name)[s] for p in parts]) for s in getattr(parts[0], name)}

    return Errors(
        mse=stack("mse"),
        raw=stack("raw"),
        ssim=stack("ssim"),
        copy_last=stack("copy_last"),
        copy_last_ssim=stack("copy_last_ssim"),
        shuffled=stack("shuffled"),
        other=stack("other"),
        floor=None if parts[0].floor is None else stack("floor"),
        differs=np.concatenate([p.differs for p in parts]),
        rewards=np.concatenate([p.rewards for p in parts]),
        ended=np.concatenate([p.ended for p in parts]),
    )


def ceiling(
    frames: np.ndarray,
    owner: np.ndarray,
    stream: StreamSpec,
    scale: np.ndarray | None,
    pairs: int = 2000,
    seed: int = 0,
) -> float:
    """Return the mean error between random true frames `(n, ...)` of different owners `(n,)`; NaN with one owner."""
    if len(np.unique(owner)) < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, len(frames), (2, 4 * pairs))
    apart = np.flatnonzero(owner[left] != owner[right])[:pairs]
    errors = [frame_mse(frames[left[i]], frames[right[i]], stream, scale) for i in apart]
    return float(np.mean(errors))


def stream_table(
    errors: Errors, name: str, stream: StreamSpec, horizons: Sequence[int], top: float, groups: np.ndarray
) -> dict[str, Any]:
    """Summarise one stream by horizon, as JSON values; `top` is its ceiling, `groups` `(n,)` what is drawn together.

    Lists have one entry a horizon. `interval` of a mean is `[low, high]`. What is undefined is None: an action ratio
    over an error of 0, anything at a horizon that no episode reached.
    """
    marks = np.asarray(horizons)
    mse, held = errors.mse[name], errors.copy_last[name]
    mean = bootstrap(mse, groups=groups)
    held_mean = bootstrap(held, groups=groups)
    floor = errors.floor[name] if errors.floor is not None else np.where(np.isnan(mse), np.nan, 0.0)
    low = np.nan_to_num(bootstrap(floor, groups=groups)[0])
    gained, held_gained = skill(mean[0], low, top), skill(held_mean[0], low, top)
    result: dict[str, Any] = {
        "kind": stream.kind,
        "unit": "pixels in 0..1" if stream.kind == "image" else "standard deviations",
        "n": (~np.isnan(mse)).sum(axis=0).tolist(),
        "mse": _summary(mean),
        "copy_last": _summary(held_mean),
        "floor": {"measured": errors.floor is not None, "mean": numbers(low)},
        "ceiling": number(top),
        "other_episode": _summary(bootstrap(errors.other[name], groups=groups)),
        "against_copy_last": _summary(bootstrap(mse, held, groups)),
        "skill": numbers(gained),
        "copy_last_skill": numbers(held_gained),
        "half_skill_horizon": half_skill_horizon(marks, gained),
        "copy_last_half_skill_horizon": half_skill_horizon(marks, held_gained),
        "shuffled": _summary(bootstrap(errors.shuffled[name], groups=groups)),
        "action_ratio": _summary(
            bootstrap(errors.shuffled[name], np.where(np.isnan(errors.shuffled[name]), np.nan, mse), groups)
        ),
        "failed": int(np.isinf(mse).sum()),
        "raw": {key: _rows(getattr(errors, key)[name]) for key in ("mse", "copy_last", "shuffled")},
    }
    if errors.floor is not None:
        result["raw"]["floor"] = _rows(errors.floor[name])
    if stream.kind == "image":
        result["psnr"] = numbers(psnr(mean[0]))
        result["ssim"] = _summary(bootstrap(errors.ssim[name], groups=groups))
        result["copy_last_ssim"] = _summary(bootstrap(errors.copy_last_ssim[name], groups=groups))
        result["raw"]["ssim"] = _rows(errors.ssim[name])
    else:
        result["mse_unscaled"] = _summary(bootstrap(errors.raw[name], groups=groups))
    return result


def differing(errors: Errors) -> list[float | None]:
    """How many of the shuffled futures had received another action than the true one by each horizon, as a share."""
    return numbers(bootstrap(errors.differs)[0])


def _summary(statistic: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, Any]:
    mean, low, high = statistic
    return {"mean": numbers(mean), "interval": [[number(a), number(b)] for a, b in zip(low, high)]}


def _rows(values: np.ndarray) -> list[list[float | None]]:
    return [numbers(np.round(row, 9)) for row in values]
