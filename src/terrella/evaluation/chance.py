"""Is a world as unsure as the truth is? Samples of a world against reseeded true futures of the same moment (C7).

For a moment, R true futures Y are played with chance drawn anew, and S sessions of the world X begin from the same
context with other noise seeds.

    energy score      E|X - y| - E|X - X'| / 2                     mean over y in Y; least for the true distribution
    energy distance   2 E|X - Y| - E|X - X'| - E|Y - Y'|           0 for equal distributions
    Brier score       sum_c (p_c - o_c)^2                          over outcomes c, the different true frames
    coverage          share of the outcomes that some sample is nearest to and close to
    impossible        share of samples that are close to no outcome

|.| is the Euclidean distance of frames, divided by the root of their size. Expectations over pairs leave out a sample
with itself. Who always says the mean has no spread: its energy distance is large where outcomes are several.

An outcome that R futures did not show may yet be possible: unseen in 64 only means p < 4.6 % (at 95 %).

Ref: Gneiting and Raftery 2007, J. Am. Stat. Assoc. 102(477), eq. 21; Székely and Rizzo 2013, J. Stat. Plan. Inference
143(8); Brier 1950, Mon. Weather Rev. 78(1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Frame
from ..errors import ArenaError, ConfigError
from .moments import Moment, Stage
from .rollout import Dreamer
from .stats import bootstrap, numbers

NEAR = 0.25  # a sample is close to an outcome within this share of the least distance between two outcomes
NAMES = ("energy_score", "energy_distance", "brier", "coverage", "impossible", "outcomes")


@dataclass
class Draws:
    """Moments and their true futures. moments: G. truths: stream -> `(G, R, H, ...)` at `horizons`."""

    moments: list[Moment]
    truths: dict[str, np.ndarray]
    horizons: tuple[int, ...]
    context: int


def draws(
    stage: Stage, groups: int, *, context: int, horizons: Sequence[int], reseeds: int = 64, lead: int = 0
) -> Draws:
    """Play `reseeds` true futures of each moment, all under the actions that the policy would go on with.

    Moments whose futures end early are passed over. Raises `ArenaError` where there is no forking or no reseeding.
    """
    if stage.fork is None:
        raise ArenaError("chance is drawn anew from saved states; this environment cannot be forked.")
    last, moments, kept = max(horizons), [], []
    for _ in range(50 * groups):
        if len(moments) == groups:
            break
        moment = stage.next(context, last, lead)
        played = []
        for r in range(reseeds):
            stage.restore(moment, chance=r)
            played.append(stage.play(moment.actions[context:]).frames)
            if len(played[-1]) < last:
                break
        else:
            moments.append(moment)
            kept.append(played)
    if len(moments) < groups:
        raise ArenaError(f"nearly all futures end within {last} steps; ask for shorter horizons.")
    truths = {
        name: np.stack([np.stack([np.stack([f[h - 1][name] for h in horizons]) for f in group]) for group in kept])
        for name in stage.spec.modelled
    }
    return Draws(moments, truths, tuple(horizons), context)


def sampled(dreamer: Dreamer, found: Draws, samples: int) -> dict[str, np.ndarray]:
    """What a world says: stream -> `(G, S, H, ...)`. Session s of group g has the noise seed `g * samples + s`."""
    said: dict[str, list[np.ndarray]] = {}
    places = [h - 1 for h in found.horizons]
    for g, moment in enumerate(found.moments):
        seen = {name: np.repeat(np.stack([f[name] for f in moment.frames])[None], samples, 0) for name in found.truths}
        rows = np.repeat(moment.actions[None], samples, 0)
        seeds = list(range(g * samples, (g + 1) * samples))
        state = dreamer.start(seen, rows[:, : found.context], seeds)
        _, frame = dreamer.rollout(state, rows[:, found.context : found.context + max(found.horizons)])
        for name in found.truths:
            said.setdefault(name, []).append(np.asarray(frame.observation[name])[:, places])
    return {name: np.stack(parts) for name, parts in said.items()}


def calibration(dreamer: Dreamer, found: Draws, stream: str, samples: int = 32, unit: float = 255.0) -> dict[str, Any]:
    """Score a world's samples of one stream against the true futures, as JSON values by horizon.

    unit: what the numbers are divided by, 255 for images. Each score with its bootstrap 95 % interval over moments.
    Raises `ConfigError` for fewer than two samples.
    """
    if samples < 2 or found.truths[stream].shape[1] < 2:
        raise ConfigError(
            f"{samples} samples of {found.truths[stream].shape[1]} futures; expected two of each or more."
        )
    said = sampled(dreamer, found, samples)[stream]
    values = {name: np.zeros(said.shape[0:3:2]) for name in NAMES}
    for g in range(said.shape[0]):
        for h in range(said.shape[2]):
            x, y = (a[g, :, h].reshape(a.shape[1], -1) / unit for a in (said, found.truths[stream]))
            for name, value in spread_scores(x, y).items():
                values[name][g, h] = value
    result: dict[str, Any] = {"horizons": list(found.horizons), "groups": len(said), "samples": samples}
    for name, scores in values.items():
        mean, low, high = bootstrap(scores)
        result[name] = {"mean": numbers(mean), "interval": [list(p) for p in zip(numbers(low), numbers(high))]}
    return result


def spread_scores(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Compare samples `(S, D)` with true futures `(R, D)`: the scores of this module, and how many outcomes there are.

    With one outcome only, `close` is measured against the size of a hundredth; numbers that are not finite are
    infinitely far.
    """
    x, y = (np.nan_to_num(a.astype(np.float64), nan=1e6, posinf=1e6, neginf=-1e6) for a in (x, y))
    across, within, true = _distances(x, y), _distances(x, x), _distances(y, y)
    spread_x = within.sum() / (len(x) * (len(x) - 1))
    spread_y = true.sum() / (len(y) * (len(y) - 1))
    outcomes, counts = np.unique(y, axis=0, return_counts=True)
    apart = _distances(outcomes, outcomes)
    least = apart[~np.eye(len(outcomes), dtype=bool)].min() if len(outcomes) > 1 else 0.04
    near = _distances(x, outcomes)
    close = near.min(1) <= NEAR * least
    hit = np.bincount(near.argmin(1)[close], minlength=len(outcomes)) / len(x)
    share = counts / counts.sum()
    # Mass on no outcome is one more class that never comes.
    brier = np.square(hit).sum() - 2 * (hit * share).sum() + 1 + np.square(1 - hit.sum())
    return {
        "energy_score": float(across.mean() - spread_x / 2),
        "energy_distance": float(2 * across.mean() - spread_x - spread_y),
        "brier": float(brier),
        "coverage": float((hit > 0).mean()),
        "impossible": float(1 - close.mean()),
        "outcomes": float(len(outcomes)),
    }


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    # Equal rows differ by rounding alone, which a root would blow up.
    same = square <= 1e-10 * (1 + np.square(a).sum(1)[:, None])
    return np.sqrt(np.where(same, 0.0, np.maximum(square, 0)) / a.shape[1])


class TrueChance:
    """Plays the truth with chance of its own: what `calibration` should find perfect.

    states: noise seed -> saved state. The seeds of chance lie far from those of `draws`.
    """

    def __init__(self, stage: Stage, states: Mapping[int, bytes]) -> None:
        self.stage, self.states = stage, states

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> list[int]:
        """Remember the seeds."""
        return [int(s) for s in seeds]

    def rollout(self, state: list[int], actions: Any) -> tuple[list[int], Frame]:
        """Play each session from its state; an ended episode stays as it is. For one rollout after each start."""
        frames: dict[str, list[np.ndarray]] = {}
        for seed, rows in zip(state, np.asarray(actions, np.float32)):
            self.stage.restore(Moment(seed, [], rows, self.states[seed], 0), chance=1_000_003 + seed)
            played = self.stage.play(rows).frames
            for name in self.stage.spec.modelled:
                shown = [f[name] for f in played]
                frames.setdefault(name, []).append(np.stack(shown + shown[-1:] * (len(rows) - len(shown))))
        blank = np.zeros(np.shape(actions)[:2], np.float32)
        return state, Frame({n: np.stack(f) for n, f in frames.items()}, blank, blank.copy())
