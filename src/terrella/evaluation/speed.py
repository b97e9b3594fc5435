"""How many frames a second a world gives, one session and several at once, stepped as a player would step it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .rollout import Dreamer
from .truth import Truth


def measure_speed(
    dreamer: Dreamer, truth: Truth, sizes: Sequence[int] = (1, 8), seconds: float = 2.0
) -> list[dict[str, Any]]:
    """Time single steps for `seconds` at each batch size, after five untimed ones.

    Returns for each size: sessions, steps timed, frames_per_second (all sessions together, from the wall clock, at
    which the machine's other work shows) and the median and 95th percentile of one step in milliseconds.
    """
    results = []
    observations, past = truth.start()
    for size in sizes:
        rows = np.arange(size) % len(truth)
        state = dreamer.start({k: v[rows] for k, v in observations.items()}, past[rows], seeds=list(range(size)))
        actions = truth.future[rows]
        taken: list[float] = []
        t = 0
        while t < 8 or sum(taken) < seconds:
            action = actions[:, t % actions.shape[1]][:, None]
            before = time.perf_counter()
            state, _ = dreamer.rollout(state, action)
            if t >= 5:
                taken.append(time.perf_counter() - before)
            t += 1
        results.append(
            {
                "sessions": size,
                "steps": len(taken),
                "frames_per_second": size * len(taken) / sum(taken),
                "step_ms_median": 1e3 * float(np.median(taken)),
                "step_ms_p95": 1e3 * float(np.quantile(taken, 0.95)),
            }
        )
    return results
