"""Where a world may be believed: near frames that were recorded.

A learner goes where its world errs in its favour, and worlds err where nobody has been. An imagined episode that leaves
the recordings ends, at a price; so what was learned stays where it was learned from what is known.

Ref: halting where a model is not known, Kidambi et al., arXiv 2005.05951 (MOReL), section 3. Differs: what is known is
told by the distance to the nearest recorded frame, not by an ensemble's disagreement, so one world is enough.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..data import Dataset
from ..errors import ConfigError, SpecError

FRAMES = 8192  # of the recordings, that others are compared with


class Support:
    """What lies near the frames of a dataset's vectors: `support(frames)` tells which do not.

    Distances are Euclidean, each number in units of its deviation over the recordings, to the nearest of `FRAMES`
    recorded frames. reach: how far is far, in units of the distance within which 99 % of other recorded frames lie.
    worst: the least reward recorded.

    Raises `SpecError` for images, between whose pixels distances say little, and `ConfigError` for a reach of 0 or
    less.
    """

    def __init__(self, dataset: Dataset, reach: float = 2.0, seed: int = 0):
        if any(s.kind != "vector" for s in dataset.spec.modelled.values()):
            raise SpecError("a support is of vectors, and this dataset has images; learn without one.")
        if not reach > 0:
            raise ConfigError(f"reach is {reach}; expected more than 0.")
        self.names = list(dataset.spec.modelled)
        episodes = [dataset.episode(int(i), states=False) for i in dataset.split("train")]
        frames = np.concatenate([self._joined(e.observations) for e in episodes])
        self.worst = float(min(e.rewards.min() for e in episodes))
        self.scale = np.maximum(frames.std(0), 1e-6)
        order = np.random.default_rng(seed).permutation(len(frames))
        count = min(FRAMES, max(1, len(frames) * 4 // 5))
        self._known = torch.from_numpy(frames[order[:count]] / self.scale).float()
        others = frames[order[count : count + 2048]]
        self.limit = reach * float(np.quantile(self.distance(others), 0.99)) if len(others) else float("inf")

    def distance(self, frames: np.ndarray) -> np.ndarray:
        """Return how far frames `(B, F)`, streams one after another, are from the nearest recorded one, `(B,)`."""
        scaled = torch.from_numpy(np.asarray(frames, np.float64) / self.scale).float()
        return torch.cdist(scaled, self._known).amin(1).numpy()

    def price(self, discount: float) -> float:
        """What leaving costs: as much as the least reward recorded, or nothing, for ever after."""
        return min(0.0, self.worst) / max(1 - discount, 1e-3)

    def __call__(self, streams: Mapping[str, np.ndarray]) -> np.ndarray:
        """Tell which frames, stream -> `(B, F)`, are far from all recorded ones, bool `(B,)`."""
        return self.distance(self._joined(streams)) > self.limit

    def _joined(self, streams: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(streams[name]) for name in self.names], -1)
