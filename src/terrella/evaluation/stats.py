"""Scores of guesses, and how sure one may be of a mean: bootstrap by group, Wilson intervals, permutations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError


def bootstrap(
    numerator: np.ndarray,
    denominator: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a mean (or ratio of sums) over rows and its percentile bootstrap 95 % interval: three arrays `(H,)`.

    numerator `(n, H)`: values, NaN where there is none. denominator `(n, H)`: when given, the statistic is the sum of
    numerators over the sum of denominators, on rows where both exist. groups `(n,)`: rows of one group are drawn
    together; default one group a row. With fewer than two groups behind a column its interval is NaN.
    """
    top = np.asarray(numerator, np.float64)
    bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, np.float64)
    valid = ~(np.isnan(top) | np.isnan(bottom))
    labels = np.arange(len(top)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    count = int(labels.max()) + 1 if len(labels) else 0
    sums = np.zeros((3, count, top.shape[1]))
    for total, part in zip(sums, (np.where(valid, top, 0.0), np.where(valid, bottom, 0.0), valid)):
        np.add.at(total, labels, part)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = sums[0].sum(0) / sums[1].sum(0)
        if count < 2:
            return middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)
        weights = (
            np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
        )
        # An infinite error times a weight of 0 is NaN; large finite numbers keep "counts as wrong" without it.
        ratios = (weights @ np.nan_to_num(sums[0], posinf=1e300)) / (weights @ sums[1])
        low, high = _quantiles(ratios)
    thin = (sums[2] > 0).sum(0) < 2
    return middle, np.where(thin, np.nan, low), np.where(thin, np.nan, high)


def _quantiles(ratios: np.ndarray) -> np.ndarray:
    """2.5 % and 97.5 % of each column, over the draws in which it exists: `(2, H)`."""
    result = np.full((2, ratios.shape[1]), np.nan)
    for j, column in enumerate(ratios.T):
        kept = column[~np.isnan(column)]
        if len(kept):
            result[:, j] = np.quantile(kept, [0.025, 0.975], method="nearest")
    return result


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a proportion; (0, 1) when n is 0. Ref: Wilson 1927, JASA 22(158)."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return float(max(0.0, (centre - spread) / scale)), float(min(1.0, (centre + spread) / scale))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the chance that a positive outscores a negative, ties counting half; NaN without both kinds."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    positive, negative = int(labels.sum()), int((~labels).sum())
    if positive == 0 or negative == 0:
        return float("nan")
    order = np.argsort(scores, kind="stable")
    values, first, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    del values
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def detection(guessed: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Count a yes/no guess against the truth: precision, recall, specificity, balanced accuracy, with Wilson intervals.

    Both `(n,)` bool. A rate with nothing to count is None. Balanced accuracy = (recall + specificity) / 2.
    """
    guessed, true = np.asarray(guessed, bool), np.asarray(true, bool)
    hits, misses = int((guessed & true).sum()), int((~guessed & true).sum())
    false, correct = int((guessed & ~true).sum()), int((~guessed & ~true).sum())
    result: dict[str, Any] = {"positives": hits + misses, "negatives": false + correct}
    for name, k, n in (
        ("precision", hits, hits + false),
        ("recall", hits, hits + misses),
        ("specificity", correct, false + correct),
    ):
        result[name] = k / n if n else None
        result[f"{name}_interval"] = list(wilson(k, n)) if n else None
    both = hits + misses > 0 and false + correct > 0
    result["balanced_accuracy"] = (hits / (hits + misses) + correct / (false + correct)) / 2 if both else None
    return result


def derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random permutation of 0..n-1 without fixed points; raises `ConfigError` for n < 2.

    Uniform over derangements by rejection: about e = 2.7 tries on average.
    """
    if n < 2:
        raise ConfigError(f"{n} item(s) cannot be permuted without fixed points; at least 2 are needed.")
    while True:
        order = rng.permutation(n)
        if not (order == np.arange(n)).any():
            return order


def number(value: float) -> float | None:
    """Return a number as JSON has it, which knows neither infinity nor NaN: None for these."""
    return float(value) if np.isfinite(value) else None


def numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers `(n,)` as JSON has them; see `number`."""
    return [number(value) for value in values]
