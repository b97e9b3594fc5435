"""Small readouts fitted on features: ridge regression in closed form, and a network of one hidden layer.

Both standardise features and answers by the fitting rows alone. How strongly ridge is held back is chosen on a fifth
of the fitting *groups*, so that rows of one episode never stand on both sides. Features may be many more than rows:
both see them through inner products of rows alone (`Rows`), summed over some columns at a time, once for all answers
and kinds; ridge is solved in its dual form, and the network sees the first principal components.

Ref: Alain and Bengio 2016, arXiv 1610.01644 (linear probes); Hewitt and Liang 2019, arXiv 1909.03368 (controls).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ..errors import ConfigError

Kind = Literal["linear", "mlp"]
STRENGTHS = tuple(10.0**e for e in range(-4, 4))  # of the penalty, for features of unit variance
COMPONENTS, HIDDEN, UPDATES = 128, 64, 300  # of the network
COLUMNS = 8192  # in double precision at a time
FLAT = 1e-8  # a feature that varies less, relative to the largest, is noise of rounding
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rows:
    """What readouts see of n rows of D features: inner products `(n, f)` with the f rows that they are fitted on.

    fitted: which rows these are, bool `(n,)`. groups `(n,)`: rows that must not be parted when the penalty is chosen.
    """

    products: np.ndarray
    fitted: np.ndarray
    groups: np.ndarray
    width: int

    @classmethod
    def of(cls, features: np.ndarray, fitted: np.ndarray, groups: np.ndarray) -> Rows:
        """Take inner products of features `(n, D)`, standardised by the fitted rows, over D.

        Raises `ConfigError` for arrays that do not fit, fewer than two fitted groups, or fitted features that are not
        finite.
        """
        if features.ndim != 2 or not len(features) == len(fitted) == len(groups):
            raise ConfigError(
                f"features {features.shape}, fitted {np.shape(fitted)} and groups {np.shape(groups)} do not fit; "
                "expected (n, D), (n,) and (n,)."
            )
        if len(np.unique(groups[fitted])) < 2:
            raise ConfigError("a readout is fitted on at least two groups; gather more episodes.")
        known, width = features[fitted], features.shape[1]
        if not np.isfinite(known).all():
            raise ConfigError("features hold numbers that are not finite; no readout can be fitted on them.")
        flat, total = _flat(known), np.zeros((len(features), len(known)))
        for first in range(0, width, COLUMNS):
            some = slice(first, first + COLUMNS)
            units = _standard(known[:, some], flat)[0](features[:, some])
            total += units @ units[fitted].T
        return cls(total / max(1, width), fitted, groups, width)


def fit(rows: Rows, answers: np.ndarray, kind: Kind = "linear", seed: int = 0) -> np.ndarray:
    """Fit answers `(f, M)` of the fitted rows; returns what is then said of every row, `(n, M)`.

    Classes are answers in one-hot form. Raises `ConfigError` for arrays that do not fit, another kind, or numbers that
    are not finite.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"kind is {kind!r}; expected one of {', '.join(get_args(Kind))}.")
    gram = rows.products[rows.fitted]
    if answers.ndim != 2 or len(answers) != len(gram):
        raise ConfigError(f"answers {answers.shape} do not fit {len(gram)} fitted rows; expected ({len(gram)}, M).")
    if not np.isfinite(answers).all():
        raise ConfigError("answers hold numbers that are not finite; no readout can be fitted on them.")
    to_units, back = _standard(answers, _flat(answers))
    y, groups = to_units(answers), rows.groups[rows.fitted]
    readout = _ridge(gram, y, groups, seed) if kind == "linear" else _network(gram, y, rows.width, seed)
    return back(readout(rows.products))


def _flat(rows: np.ndarray) -> float:
    """The deviation below which a column does not vary."""
    return FLAT * max(1.0, float(np.abs(rows.mean(0, dtype=np.float64)).max(initial=0)))


def _standard(rows: np.ndarray, flat: float) -> tuple[Predict, Predict]:
    """Functions to units of the standard deviation and back; what does not vary becomes 0."""
    rows = rows.astype(np.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    varies = deviation > flat
    scale = np.where(varies, deviation, 1.0)
    return lambda x: np.where(varies, (x - mean) / scale, 0.0), lambda x: np.where(varies, x, 0.0) * scale + mean


def _ridge(gram: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Predict:
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    out = np.isin(groups, names[: max(1, len(names) // 5)])
    part, cross = gram[np.ix_(~out, ~out)], gram[np.ix_(out, ~out)]
    errors = [float(np.square(cross @ _solved(part, y[~out], s) - y[out]).mean()) for s in STRENGTHS]
    dual = _solved(gram, y, STRENGTHS[int(np.argmin(errors))])
    return lambda new: new @ dual


def _solved(gram: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    return np.linalg.solve(gram + strength * np.eye(len(gram)), y)


def _network(gram: np.ndarray, y: np.ndarray, width: int, seed: int) -> Predict:
    """Descend the squared error with all rows at once, AdamW and a falling rate."""
    values, vectors = np.linalg.eigh(gram)
    keep = np.argsort(values)[::-1][: min(COMPONENTS, width)]
    keep = keep[values[keep] > FLAT * max(float(values[-1]), 1e-300)]
    # Not whitened: components that hardly vary would be as loud as the others.
    basis = vectors[:, keep] / np.sqrt(np.maximum(values[keep], 1e-300))
    basis = basis / np.sqrt(max(float(values[keep].mean()), 1e-300) / len(gram)) if len(keep) else basis
    generator = torch.Generator().manual_seed(seed)
    sizes = (len(keep), HIDDEN, y.shape[1])
    weights = [torch.randn(a, b, generator=generator) / max(a, 1) ** 0.5 for a, b in itertools.pairwise(sizes)]
    layers = [w.requires_grad_() for w in weights] + [torch.zeros(b, requires_grad=True) for b in sizes[1:]]

    def network(rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(rows @ layers[0] + layers[2]) @ layers[1] + layers[3]

    rows, aim = (torch.from_numpy(a).float() for a in (gram @ basis, y))
    optimiser = torch.optim.AdamW(layers, lr=1e-2, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
    with torch.enable_grad():
        for _ in range(UPDATES):
            optimiser.zero_grad()
            (network(rows) - aim).square().mean().backward()
            optimiser.step()
            rate.step()

    @torch.no_grad()
    def predict(new: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(new @ basis).float()).double().numpy()

    return predict
