"""What a world perceives, one dimension at a time: answers read out of features, and what should not change them.

A readout is fitted on the items of some layouts and answers those of others. Every answer is equally frequent in each
layout, so whoever sees nothing is right in 1 of `classes`.

Entanglement says how much the share of right answers p_i follows the level i of a factor that should not matter:

    s-RE = mean_i |pbar - p_i| / pbar,   pbar = mean_i p_i

Ref: Gao et al. 2025, arXiv 2506.21876, section 5; the absolute value is from its prose.
Differs: it is given for every factor beside what chance alone would give, from levels permuted within layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from ..errors import ConfigError
from .dimension import Dimension, Items
from .probes import HELD_OUT, Reader
from .readouts import Kind, Rows, fit
from .stats import bootstrap, number

PERMUTED = 200  # draws of levels for what entanglement chance gives
FEW = 24  # values at most of a quantity that is a name rather than an amount
TIE = 1e-6  # answers nearer to one another than this share the credit
HeldOut = Literal["layouts", "combinations"]


def perceive(
    dimension: Dimension,
    items: Items,
    features: np.ndarray,
    *,
    kinds: Sequence[Kind] = ("linear",),
    held_out: HeldOut = "layouts",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Score one dimension of perception by each kind of readout: kind -> JSON values.

    These are `tally` of the layouts held out, and `fitted`, items used. features `(n, D)`, as `read` has them.
    held_out: with `combinations`, the readout has met neither the layouts nor the combinations of levels that it is
    asked about, and who answers by another factor than the one asked for falls below chance. Raises `ConfigError` for
    a dimension of prediction, fewer than three layouts, or factors that do not combine.
    """
    if held_out not in get_args(HeldOut):
        raise ConfigError(f"held_out is {held_out!r}; expected one of {', '.join(get_args(HeldOut))}.")
    names = np.unique(items.layouts)
    if "answer" not in items.factors or len(names) < 3:
        raise ConfigError(
            f"dimension {dimension.id!r} with {len(names)} layouts; expected one of perception with at least three, "
            "two to fit a readout on and one to test."
        )
    order = np.random.default_rng([seed, 3]).permutation(names)
    out = np.isin(items.layouts, order[: min(len(names) - 2, max(1, round(HELD_OUT * len(names))))])
    answers = np.eye(dimension.classes)[items.factors["answer"]]
    fitted = ~out
    if held_out == "combinations":
        rare = diagonal(dimension, items, seed)
        fitted, out = fitted & ~rare, out & rare
    rest = {name: places[out] for name, places in items.factors.items() if name != "answer"}
    rows, table = Rows.of(features, fitted, items.layouts), {}
    for kind in kinds:
        right = credit(fit(rows, answers[fitted], kind, seed)[out], items.factors["answer"][out])
        found = tally(right, np.full_like(right, dimension.chance), items.layouts[out], rest, seed)
        table[kind] = {"fitted": int(fitted.sum()), "held_out": held_out, **found}
    return table


def tally(
    right: np.ndarray, chance: np.ndarray, layouts: np.ndarray, factors: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, Any]:
    """Summarise how often n answers were right, as JSON values.

    right `(n,)`: credit, NaN where nothing was asked. chance `(n,)`: what a blind guess earns. layouts, factors:
    `(n,)`. `accuracy` with its bootstrap 95 % interval by layout, `chance`, `kappa` = (accuracy - chance) /
    (1 - chance), `entanglement` by factor, `raw` share of right answers by layout.
    """
    asked = np.isfinite(right)
    right, chance, layouts = right[asked], chance[asked], layouts[asked]
    middle, low, high = bootstrap(right[:, None], groups=layouts)
    blind = float(chance.mean()) if len(chance) else float("nan")
    return {
        "items": len(right),
        "accuracy": number(middle[0]),
        "interval": [number(low[0]), number(high[0])],
        "chance": number(blind),
        "kappa": number((middle[0] - blind) / (1 - blind)),
        "entanglement": {n: entanglement(right, f[asked], layouts, seed) for n, f in factors.items() if asked.any()},
        "raw": {str(g): float(right[layouts == g].mean()) for g in np.unique(layouts)},
    }


def diagonal(dimension: Dimension, items: Items, seed: int = 0) -> np.ndarray:
    """Which items have a combination of levels to be held out, bool `(n,)`: one in m, a diagonal of their places.

    m is the most levels that a factor other than the answer has. Every level of every factor is also among the rest,
    and every answer is held out equally often in each layout, so that a blind guess stays right in 1 of `classes`.
    Raises `ConfigError` where the answer is the only factor that varies.
    """
    most = max((len(levels) for name, levels in dimension.factors.items() if name != "answer"), default=1)
    if most < 2:
        raise ConfigError(
            f"dimension {dimension.id!r} has no factor beside its answer, so no combination can be held out; expected "
            "at least one with two levels. Hold out layouts alone."
        )
    places = np.sum([items.factors[name] for name in dimension.factors], axis=0)
    return places % most == np.random.default_rng([seed, 5]).integers(most)


def read(items: Items, reader: Reader) -> dict[str, np.ndarray]:
    """Features `(n, D)` of all items by name; sessions of one layout share their seed: chance is no difference."""
    return reader(items.observations, items.past, items.layouts.tolist())


def known(items: Items) -> np.ndarray:
    """All quantities in a form that a readout can use, `(n, D)`: numbers, squares, and those of few values one-hot."""
    columns = items.traces.round(9).T
    marks = [column[:, None] == np.unique(column) for column in columns if 1 < len(np.unique(column)) <= FEW]
    return np.concatenate([items.traces, items.traces**2, *marks], 1)


def credit(said: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Credit `(n,)` of answers said with scores `(n, classes)`: 1 for the right one alone, shared among ties."""
    best = said >= said.max(1, keepdims=True) - TIE
    return np.where(best[np.arange(len(said)), answers], 1 / best.sum(1), 0.0)


def entanglement(right: np.ndarray, places: np.ndarray, layouts: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """s-RE over the levels `(n,)` of a factor: its value, that of permuted levels, and the share right by level."""
    chance = np.random.default_rng([seed, 4])
    order = np.argsort(layouts, kind="stable")
    drawn = []
    for _ in range(PERMUTED):
        shuffled = np.empty_like(places)
        shuffled[order] = places[np.lexsort((chance.random(len(places)), layouts))]
        drawn.append(_s_re(right, shuffled))
    by_level = {str(level): float(right[places == level].mean()) for level in np.unique(places)}
    return {"s_re": number(_s_re(right, places)), "permuted": number(float(np.mean(drawn))), "by_level": by_level}


def _s_re(right: np.ndarray, places: np.ndarray) -> float:
    shares = np.array([right[places == level].mean() for level in np.unique(places)])
    mean = shares.mean()
    return float(np.abs(mean - shares).mean() / mean) if mean > 0 else float("nan")
