"""What a batch costs: a line through the times of the last batches, and how far the slowest of them lie above it."""

from __future__ import annotations

from collections import deque
from statistics import median

UNCOUNTED = 2  # first batches that allocate what later ones find there
RECENT = 48  # times kept for each batch size
RATIOS = 200  # batches by which the spread is judged


class BatchCurve:
    """Seconds of a batch of B sessions, `t(B) = a + b * B`, fitted while batches are made.

    The line goes through the median of each batch size, weighed by how often it was seen, so that one slow batch moves
    nothing. While a single size is known the cost counts as proportional (a = 0), which promises no gain from
    batching until one was seen. `p95(B)` scales the line by the 95 % quantile of measured over fitted.
    """

    def __init__(self) -> None:
        self.a = self.b = 0.0
        self.spread = 1.0
        self.count = 0
        self._times: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._ratios: deque[float] = deque(maxlen=RATIOS)

    @property
    def largest(self) -> int:
        """The largest batch measured, 0 for none."""
        return max(self._times, default=0)

    def note(self, batch: int, seconds: float) -> None:
        """Take what a batch has cost."""
        self.count += 1
        if self.count <= UNCOUNTED:
            return
        self._times.setdefault(batch, deque(maxlen=RECENT)).append(seconds)
        self._medians[batch] = median(self._times[batch])
        self._fit()
        self._ratios.append(seconds / max(self.mean(batch), 1e-9))
        self.spread = max(1.0, sorted(self._ratios)[int(0.95 * (len(self._ratios) - 1))])

    def mean(self, batch: int) -> float:
        """Seconds that a batch takes, 0 as long as none was measured."""
        return self.a + self.b * batch

    def p95(self, batch: int) -> float:
        """Seconds within which 19 of 20 batches are made."""
        return self.spread * self.mean(batch)

    def _fit(self) -> None:
        points = [(size, self._medians[size], len(times)) for size, times in self._times.items()]
        weight = sum(w for _, _, w in points)
        mean_b = sum(w * size for size, _, w in points) / weight
        mean_t = sum(w * t for _, t, w in points) / weight
        square = sum(w * (size - mean_b) ** 2 for size, _, w in points)
        slope = sum(w * (size - mean_b) * (t - mean_t) for size, t, w in points) / square if square else -1.0
        if len(points) == 1 or mean_t - slope * mean_b < 0:  # a batch of none costs nothing at least
            self.a, self.b = 0.0, sum(w * size * t for size, t, w in points) / sum(w * s * s for s, _, w in points)
        else:
            self.b = max(0.0, slope)
            self.a = mean_t - self.b * mean_b
