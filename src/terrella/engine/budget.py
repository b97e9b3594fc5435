"""How many denoising steps a frame may take, so that it is there in time.

The engine offers rungs, from the best frames to the cheapest. A budget watches what each costs, for every batch size
apart, and takes the best one that the slowest of the last frames say will fit. A rung that was never timed is taken to
cost as many times more as it has steps, which is more than it will: the first frame is the cheapest, and it climbs from
there. What is too slow now may not be later, so a rung that was given up is tried again after a while, at ever longer
intervals as long as it fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..errors import ConfigError

SHARE = 0.85  # of the budget that a frame should take at most: what follows is not exact
RECENT = 12  # frames by which a rung is judged
PATIENCE = 30  # frames until a rung that failed is tried again; doubles each time it fails


class Budget:
    """Chooses among rungs of so many steps (falling) to keep to `milliseconds` a frame.

    Raises `ConfigError` for a budget that is not positive.
    """

    def __init__(self, milliseconds: float, steps: Sequence[int]):
        if not milliseconds > 0:
            raise ConfigError(f"budget_ms is {milliseconds}; a frame needs some time, more than 0.")
        self.milliseconds, self.steps = milliseconds, tuple(steps)
        self._batches: dict[int, _Ladder] = {}

    def choose(self, batch: int) -> int:
        """The index of the rung for the next frame of so many sessions."""
        return self._ladder(batch).choose(SHARE * self.milliseconds)

    def note(self, batch: int, rung: int, milliseconds: float) -> None:
        """Take what a frame on a rung has cost."""
        self._ladder(batch).note(rung, milliseconds, SHARE * self.milliseconds)

    def _ladder(self, batch: int) -> _Ladder:
        return self._batches.setdefault(batch, _Ladder(self.steps))


class _Ladder:
    """What the rungs cost for one batch size."""

    def __init__(self, steps: tuple[int, ...]):
        self.steps, self.frame = steps, 0
        self.times: list[deque[float]] = [deque(maxlen=RECENT) for _ in steps]
        self.again = [0] * len(steps)  # the frame from which a rung may be tried
        self.patience = [PATIENCE] * len(steps)

    def choose(self, most: float) -> int:
        fits = (i for i in range(len(self.steps)) if self.frame >= self.again[i] and self._expected(i) <= most)
        return next(fits, len(self.steps) - 1)

    def note(self, rung: int, milliseconds: float, most: float) -> None:
        self.frame += 1
        self.times[rung].append(milliseconds)
        if milliseconds > most:
            self.again[rung] = self.frame + self.patience[rung]
            self.patience[rung] *= 2
            self.times[rung].clear()  # when it is tried again, the machine may be another
        elif len(self.times[rung]) == RECENT:
            self.patience[rung] = PATIENCE

    def _expected(self, rung: int) -> float:
        """The slowest recent frame, or what cheaper rungs let fear."""
        if self.times[rung]:
            return max(self.times[rung])
        below = next((i for i in range(rung + 1, len(self.steps)) if self.times[i]), None)
        if below is None:
            return float("inf")
        return max(self.times[below]) * self.steps[rung] / self.steps[below]
