"""Planners that imagine candidates and keep the best, without learning where good ones lie.

Ref: predictive sampling: Howell et al., arXiv 2212.00541, section III.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..registry import register
from .base import SamplingPlanner, Settings
from .search import Search, Space


@register("planner", "random")
class RandomShooting(SamplingPlanner):
    """Draws every candidate uniformly from the action space (a Gaussian where there are no bounds); keeps the best."""

    Config = Settings

    def begin(self, space: Space, batch: int, start: np.ndarray | None) -> Search:
        """Look everywhere; a plan to start from is a candidate and no more."""
        del start
        return replace(super().begin(space, batch, None), flat=True)

    def weights(self, cost_BS: np.ndarray) -> np.ndarray:
        """All alike."""
        return np.full(cost_BS.shape, 1 / cost_BS.shape[1])

    def update(self, search: Search, rows_BSHW: np.ndarray, weight_BS: np.ndarray) -> Search:
        """Go on as before."""
        del rows_BSHW, weight_BS
        return search


@register("planner", "predictive")
class PredictiveSampling(SamplingPlanner):
    """Draws candidates around the best plan so far, a_i = a + std eps_i, with a spread that stays.

    Choices of the best plan stay with probability 1 - spread and are drawn anew otherwise.
    """

    Config = Settings

    @property
    def kept(self) -> int:
        """The best plan."""
        return 1

    def weights(self, cost_BS: np.ndarray) -> np.ndarray:
        """The best counts alone; the first of equals."""
        return (np.arange(cost_BS.shape[1]) == cost_BS.argmin(1)[:, None]).astype(np.float64)

    def update(self, search: Search, rows_BSHW: np.ndarray, weight_BS: np.ndarray) -> Search:
        """Move to the best plan."""
        best = rows_BSHW[np.arange(len(rows_BSHW)), weight_BS.argmax(1)]
        return Search.begin(search.space, len(best), best.shape[1], self.config.spread, best)
