"""Model predictive path integral control: every candidate counts, the cheap ones exponentially more.

    w_i ~ exp(-(C_i - C_min) / (temperature * spread of C));  mu <- sum_i w_i a_i

The temperature divides (some code multiplies costs by a number of that name), and costs are measured by the standard
deviation among a problem's candidates, so that one temperature does for any objective: near 0 the best candidate counts
alone, at infinity all count alike. Choices take part by their weighted frequencies.

Ref: Williams et al., ICRA 2017, Algorithm 2 (deviation fixed); Hansen et al., TD-MPC, arXiv 2203.04955, eq. 6
(`adapt`). Differs: costs are normalised unless told otherwise; noise costs nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..registry import register
from .base import Refitting, SamplingPlanner
from .search import Search


@dataclass(frozen=True)
class MPPIConfig(Refitting):
    """temperature: see the module. normalise: whether costs are measured by their spread. adapt: whether the deviation
    follows the weighted candidates, too.
    """

    temperature: float = 0.1
    normalise: bool = True
    adapt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be more than 0.")


@register("planner", "mppi")
class MPPI(SamplingPlanner):
    """See the module. The mean is a candidate of every iteration but the first."""

    Config = MPPIConfig
    config: MPPIConfig

    @property
    def centred(self) -> bool:
        """The mean is what this planner is after, so it is imagined as well."""
        return True

    def weights(self, cost_BS: np.ndarray) -> np.ndarray:
        """See the module; a refused candidate counts nothing, unless all are."""
        fine = np.isfinite(cost_BS)
        fine |= ~fine.any(1, keepdims=True)
        cost = np.where(fine & np.isfinite(cost_BS), cost_BS, 0.0)
        above = cost - np.where(fine, cost, np.inf).min(1, keepdims=True)
        scale = np.full((len(cost), 1), self.config.temperature)
        if self.config.normalise:
            number = fine.sum(1, keepdims=True)
            mean = (fine * cost).sum(1, keepdims=True) / number
            spread = np.sqrt((fine * np.square(cost - mean)).sum(1, keepdims=True) / number)
            scale = scale * np.where(spread > 0, spread, 1.0)
        weight = np.where(fine, np.exp(-above / scale), 0.0)
        return weight / weight.sum(1, keepdims=True)

    def update(self, search: Search, rows_BSHW: np.ndarray, weight_BS: np.ndarray) -> Search:
        """Move to the weighted mean."""
        go = search.refitted if self.config.adapt else search.moved
        return go(rows_BSHW, weight_BS, self.config.alpha, self.config.floor)
