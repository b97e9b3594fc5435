"""How long a paused session keeps its place: until the chance that it comes back soon is worth less than the place.

Someone who pauses comes back after a while or never. Putting the session away costs `back` seconds when they do;
keeping it costs others `price` seconds of waiting for each second held. With S the share of pauses that last longer
than tau, a time to live tau costs, in expectation,

    J(tau) = back * (S(tau) - S(H)) + price * integral of S from 0 to tau,

H being the longest pause seen: whoever is away longer does not come back, and costs nothing more than the place. S is
the estimate of Kaplan and Meier (1958), in which pauses that still last count for as long as they have lasted.
Continuum (arXiv 2511.02230) sets a time to live for the caches of language-model agents from the same balance; here
pauses that never end are counted, and the price of a place is measured instead of 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

ENOUGH = 100  # pauses seen before they are trusted
REMEMBERED = 1000


def survival(pauses: Sequence[tuple[float, bool]]) -> list[tuple[float, float]]:
    """Kaplan-Meier estimate: `(t, S(t))` at each length at which somebody came back, rising in t.

    pauses: how long each has lasted, and whether it has ended.
    """
    ordered, at_risk, share = sorted(pauses), len(pauses), 1.0
    steps: list[tuple[float, float]] = []
    for i, (length, ended) in enumerate(ordered):
        if ended:
            share *= 1 - 1 / (at_risk - i)
            if steps and steps[-1][0] == length:
                steps[-1] = (length, share)
            else:
                steps.append((length, share))
    return steps


def costs(pauses: Sequence[tuple[float, bool]], back: float, price: float) -> list[tuple[float, float]]:
    """`(tau, J(tau))` at 0 and at each length at which somebody came back; between them J only rises."""
    steps = survival(pauses)
    last = steps[-1][1] if steps else 1.0
    found, area, before, share = [(0.0, back * (1.0 - last))], 0.0, 0.0, 1.0
    for length, after in steps:
        area += share * (length - before)
        found.append((length, back * (after - last) + price * area))
        before, share = length, after
    return found


class Pauses:
    """The pauses that were seen, and the time to live they call for."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED)

    def note(self, seconds: float, *, ended: bool) -> None:
        """Take a pause: one that has ended, or one that was given up (its session is gone)."""
        self._seen.append((seconds, ended))

    def time_to_live(self, back: float, price: float, default: float, open_pauses: Sequence[float] = ()) -> float:
        """The cheapest time to live, `default` until enough were seen. open_pauses: how long those that last are."""
        if len(self._seen) < ENOUGH:
            return default
        pauses = [*self._seen, *((seconds, False) for seconds in open_pauses)]
        return min(costs(pauses, back, price), key=lambda pair: (pair[1], pair[0]))[0]
