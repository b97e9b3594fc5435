"""The cross-entropy method: look next where the best candidates were, as widely as they were spread.

    mu, sigma <- mean and standard deviation of the elites;  for choices p <- how often each was among the elites

`icem` is the same with other settings. Ref: Rubinstein, Methodology and Computing in Applied Probability 1 (1999);
Pinneri et al., iCEM, arXiv 2008.06389, Algorithm 1. Differs: elites that are kept are not imagined again, since equal
actions give equal futures under one key of chance; the mean is a candidate of every iteration but the first, not of the
last alone, because a budget of time does not know which one is the last; choices take part (noise: see
`terrella.planning.search`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..registry import register
from .base import Refitting, SamplingPlanner
from .search import Search


@dataclass(frozen=True)
class CEMConfig(Refitting):
    """elites: share of the candidates from which the search is refitted. keep: share of the elites that stay for the
    next iteration. shrink: by how much fewer candidates each iteration has, down to twice the elites. centre: whether
    the mean is a candidate.
    """

    elites: float = 0.1
    keep: float = 0.0
    shrink: float = 1.0
    centre: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.elites <= 1 or not 0 <= self.keep <= 1 or not self.shrink >= 1:
            raise ConfigError(
                f"elites is {self.elites}, keep {self.keep}, shrink {self.shrink}; expected above 0 to 1, 0 to 1, and "
                "at least 1."
            )


@dataclass(frozen=True)
class ICEMConfig(CEMConfig):
    """The settings of `CEMConfig` with other defaults."""

    beta: float = 2.0
    alpha: float = 0.1
    keep: float = 0.3
    shrink: float = 1.25
    centre: bool = True


class _CrossEntropy(SamplingPlanner):
    """What the two share, which is all but their defaults."""

    config: CEMConfig

    @property
    def elites(self) -> int:
        """How many candidates the search is refitted from, at least 2."""
        return max(2, round(self.config.elites * self.config.candidates))

    @property
    def kept(self) -> int:
        """How many elites stay."""
        return round(self.config.keep * self.elites)

    @property
    def centred(self) -> bool:
        """Whether the mean is a candidate."""
        return self.config.centre

    def population(self, iteration: int) -> int:
        """S / shrink^i, and at least twice the elites (or S, where that is less)."""
        count = math.ceil(self.config.candidates / self.config.shrink ** min(iteration, 1000))
        return max(count, min(2 * self.elites, self.config.candidates))

    def weights(self, cost_BS: np.ndarray) -> np.ndarray:
        """1 / E for the E elites, the first of equals."""
        count = min(self.elites, cost_BS.shape[1])
        weight = np.zeros(cost_BS.shape)
        np.put_along_axis(weight, cost_BS.argsort(1, kind="stable")[:, :count], 1 / count, 1)
        return weight

    def update(self, search: Search, rows_BSHW: np.ndarray, weight_BS: np.ndarray) -> Search:
        """Refit to the elites."""
        return search.refitted(rows_BSHW, weight_BS, self.config.alpha, self.config.floor)


@register("planner", "cem")
class CEM(_CrossEntropy):
    """Plain: white noise, a search that is the elites of the last iteration alone."""

    Config = CEMConfig


@register("planner", "icem")
class ICEM(_CrossEntropy):
    """With coloured noise, kept elites, the mean as a candidate, smoothing, and fewer candidates later on."""

    Config = ICEMConfig
