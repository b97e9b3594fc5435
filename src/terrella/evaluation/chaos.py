"""A chaotic world: how many Lyapunov times are right, does its own chaos grow as fast, does it stay on the attractor?

    valid time   first time at which the error exceeds `LIMIT` deviations of the attractor, in units of 1 / exponent
    exponent     mean rate at which two rollouts of the world, begun a little apart, part: the slope of the mean log
                 distance while that lies between the first step's and a tenth of the attractor
    invariant    distance between the values that long free rollouts visit and those of the truth, by coordinate:
                 Wasserstein-1 in deviations; and the ratio of deviations

An error that grows is no fault past the valid time; leaving the attractor is one.

Ref: Pathak et al. 2018, Phys. Rev. Lett. 120, 024102 (valid time, climate); Benettin et al. 1980, Meccanica 15.
Differs: the exponent is a slope over many short pairs never pulled together, as worlds take no state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError
from .moments import Moment, Stage
from .rollout import Dreamer
from .stats import bootstrap, number

LIMIT = 0.4  # deviations, as is usual for valid times
FAR = 0.1  # deviations at which two rollouts no longer part exponentially
STREAM = "vector"


def free_rollouts(stage: Stage, groups: int, steps: int, *, context: int = 4) -> tuple[list[Moment], np.ndarray]:
    """Moments of an arena whose observation is its state, and what follows without a push: truths `(G, T, F)`.

    Raises `ConfigError` for an arena with other streams, or with actions that have no rest at 0.
    """
    modelled = stage.spec.modelled
    if list(modelled) != [STREAM] or stage.spec.action.kind != "box":
        raise ConfigError(f"{stage.spec.env.id} shows {list(modelled)}; expected one vector and actions of numbers.")
    moments, truths = [], []
    for _ in range(groups):
        moment = stage.next(context, 1, 0)
        played = stage.play(np.zeros((steps, moment.actions.shape[1]), np.float32)).frames
        moments.append(moment)
        truths.append(np.stack([f[STREAM] for f in played]))
    return moments, np.stack(truths)


def dreamed_states(dreamer: Dreamer, moments: list[Moment], steps: int, shift: float = 0.0) -> np.ndarray:
    """What a world says without a push, float64 `(G, T, F)`; shift is added to contexts. Seeds are places."""
    seen = np.stack([np.stack([f[STREAM] for f in m.frames]) for m in moments])
    context = seen.shape[1] - 1
    past = np.stack([m.actions[:context] for m in moments])
    rows = np.zeros((len(moments), steps, past.shape[2]), np.float32)
    state = dreamer.start({STREAM: (seen + shift).astype(seen.dtype)}, past, list(range(len(moments))))
    return np.asarray(dreamer.rollout(state, rows)[1].observation[STREAM], np.float64)


def chaos_scores(
    dreamer: Dreamer, moments: list[Moment], truths: np.ndarray, *, exponent: float, step: float, apart: float = 1e-3
) -> dict[str, Any]:
    """Score free rollouts as JSON values, intervals by bootstrap over moments.

    exponent: the system's largest, 1/s, as `terrella.arenas.chaos` lists them. step: seconds between frames. apart: the
    shift of a twin's context, in deviations. Raises `ConfigError` for an exponent or a step that is not positive.
    """
    if not (exponent > 0 and step > 0):
        raise ConfigError(f"exponent is {exponent}, step {step}; a chaotic system has both above 0.")
    from scipy.stats import wasserstein_distance  # heavy, and needed by nobody else

    steps = truths.shape[1]
    flat = truths.reshape(-1, truths.shape[2])
    scale = flat.std(0)
    said = dreamed_states(dreamer, moments, steps)
    twin = dreamed_states(dreamer, moments, steps, apart * float(scale.mean()))
    error = np.nan_to_num(np.sqrt(np.square((said - truths) / scale).mean(2)), nan=np.inf)
    over = error > LIMIT
    first = np.where(over.any(1), over.argmax(1), steps)
    valid = first * step * exponent
    mean, low, high = bootstrap(valid[:, None])
    finite = np.isfinite(said).all()
    reach = np.where(np.isfinite(said), said, 0.0).reshape(-1, truths.shape[2])
    distances = [wasserstein_distance(a / s, b / s) for a, b, s in zip(reach.T, flat.T, scale)] if finite else None
    return {
        "groups": len(moments),
        "lyapunov_times_asked": float(steps * step * exponent),
        "valid_time": {"mean": float(mean[0]), "interval": [number(low[0]), number(high[0])]},
        "never_wrong": float((~over.any(1)).mean()),
        "exponent": parting_rate(np.sqrt(np.square((twin - said) / scale).mean(2)), step),
        "true_exponent": exponent,
        "wasserstein": distances,
        "deviation_ratio": (reach.std(0) / scale).tolist() if finite else None,
        "raw": {"valid_time": valid.round(6).tolist()},
    }


def parting_rate(gaps: np.ndarray, step: float) -> float | None:
    """Slope of the mean log of distances `(G, T)`, 1/s, up to where they are far apart; None where nothing parts."""
    grows = (gaps > 0) & np.isfinite(gaps)
    if not grows.all():
        return None
    height = np.log(gaps).mean(0)
    far = np.flatnonzero(height > np.log(FAR))
    end = int(far[0]) if len(far) else len(height)
    if end < 3:
        return None
    return float(np.polyfit(np.arange(end) * step, height[:end], 1)[0])
