"""Do two judges rank the same candidates alike? Rank correlations and rank violations, with intervals by episode.

P candidates (policies), each judged on the same E episodes by both, `(P, E)`; a candidate's score is its mean.

    pearson     how nearly one judge's scores are a straight line of the other's
    spearman    the same of their ranks
    kendall     tau-b: pairs in the same order less pairs in the other, over the geometric mean of the pairs that
                each judge tells apart
    violation   mean over i of max_j |R_i - R_j| [(S_i < S_j) != (R_i < R_j)], over the range of R: how much worse, in
                the truth R, is the worst candidate that the other judge S would put in another's place

Ref: Kendall, Biometrika 33 (1945), tau-b; Li et al. 2024, arXiv 2405.05941, section IV (mean maximum rank violation).
Differs: a violation is given over the range of true scores, so that 0 is none and tasks compare.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError
from .stats import number, numbers

SCORES = ("spearman", "kendall", "pearson", "violation")
_DIGITS = 9  # to which two scores must agree to be a tie: sums differ in their last bits


def agreement(true: np.ndarray, judged: np.ndarray, *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """How well `judged` ranks as `true` does, both `(P, E)`: each of `SCORES` with intervals, as JSON values.

    mean: of all episodes. interval: 95 %, bootstrap over episodes, which both judges keep in common; the candidates
    stay. chance: within which 95 % lie if the candidates of `judged` are exchanged at random, which with few candidates
    is wide: what is within it may be luck.

    An episode with a value that is not finite in `judged` counts as if it had been ranked upside down. Where all of
    `judged` are equal, correlations are 0; where all of `true` are, there is nothing to rank and everything is None.

    Raises `ConfigError` for fewer than two candidates, no episode, or shapes that differ.
    """
    real, said = np.asarray(true, np.float64), np.asarray(judged, np.float64)
    if real.ndim != 2 or real.shape != said.shape or len(real) < 2 or real.shape[1] < 1 or not np.isfinite(real).all():
        raise ConfigError(
            f"scores of shape {real.shape} and {said.shape}; expected twice (P, E), at least two candidates and one "
            "episode, all true ones finite."
        )
    said = np.where(np.isfinite(said).all(0), said, -real)
    episodes = real.shape[1]
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(episodes, np.full(episodes, 1 / episodes), size=draws) / episodes
    middle = scores(real.mean(1)[None], said.mean(1)[None])
    drawn = scores(weights @ real.T, weights @ said.T)
    mixed = rng.permuted(np.tile(said.mean(1), (draws, 1)), axis=1)
    lucky = scores(np.tile(real.mean(1), (draws, 1)), mixed)
    return {
        name: {
            "mean": number(middle[name][0]),
            "interval": _middle(drawn[name]) if episodes > 1 else [None, None],
            "chance": _middle(lucky[name]),
        }
        for name in SCORES
    }


def scores(true: np.ndarray, judged: np.ndarray) -> dict[str, np.ndarray]:
    """Each of `SCORES` of D pairs of scores `(D, P)`: name -> `(D,)`, NaN where all true scores are equal."""
    from scipy.stats import rankdata

    real, said = _ties(true), _ties(judged)
    order, guess = (np.sign(values[:, :, None] - values[:, None]) for values in (real, said))
    apart = np.abs(real[:, :, None] - real[:, None])
    broken = (guess < 0) != (order < 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "spearman": _cosine(_centred(rankdata(real, axis=1)), _centred(rankdata(said, axis=1))),
            "kendall": _cosine(order.reshape(len(order), -1), guess.reshape(len(guess), -1)),
            "pearson": _cosine(_centred(real), _centred(said)),
            "violation": (apart * broken).max(2).mean(1) / np.where(apart.any((1, 2)), apart.max((1, 2)), np.nan),
        }


def _middle(values: np.ndarray) -> list[float | None]:
    """The 95 % in the middle of those that are numbers."""
    known = values[~np.isnan(values)]
    return numbers(np.quantile(known, [0.025, 0.975], method="nearest")) if len(known) else [None, None]


def _ties(values: np.ndarray) -> np.ndarray:
    """Scores `(D, P)` rounded to so many digits of the largest of each row."""
    unit = np.maximum(np.abs(values).max(1, keepdims=True), np.finfo(np.float64).tiny)
    return np.round(values / unit, _DIGITS) * unit


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from each row's mean, exactly 0 in rows of equal values."""
    equal = (values == values[:, :1]).all(1, keepdims=True)
    return np.where(equal, 0.0, values - values.mean(1, keepdims=True))


def _cosine(true: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """The cosine of each pair of rows; 0 where `judged` is all zeros, NaN where `true` is."""
    product = (true * judged).sum(1) / np.sqrt(np.square(true).sum(1) * np.square(judged).sum(1))
    return np.where(true.any(1), np.where(judged.any(1), product, 0.0), np.nan)
