"""How many sessions one machine can hold: time needed against time there is.

N sessions at f frames a second are made in `ceil(N / most)` batches a frame, which take `C(N) = (N // most) * t95(most)
+ t95(N % most)` seconds by the curve's 95 % quantile. They are in time while `f * C(N) <= RHO`: the last batch of a
frame is then there before the next frame's first is due, in 19 frames of 20. Sessions of other speeds or worlds are
counted as if they shared no batch, so that `sum f * C(N_f) <= RHO`, and since a batch that has begun is not broken
off, the longest must fit into the shortest frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from .curve import BatchCurve

RHO = 0.8  # share of the time that is given out: the rest is for openings, rewinds and what else the machine does
SPEEDS = (60.0, 50.0, 40.0, 30.0, 25.0, 20.0, 15.0, 12.0, 10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5)
Demand = tuple[BatchCurve, float]
"""A session: what its batches cost, and its frames a second."""


def cover(curve: BatchCurve, count: int, most: int) -> float:
    """Seconds in which `count` sessions get a frame each, in batches of `most`."""
    full, rest = divmod(count, most)
    return full * curve.p95(most) + (curve.p95(rest) if rest else 0.0)


def share(demands: Sequence[Demand], most: int) -> float:
    """The share of its time in which a machine makes 19 of 20 frames. A world that was never measured costs nothing."""
    return sum(fps * cover(curve, count, most) for curve, fps, count in _alike(demands))


def fits(demands: Sequence[Demand], most: int) -> bool:
    """Whether so many sessions get 19 of 20 frames in time."""
    longest = max((curve.p95(min(count, most)) for curve, _, count in _alike(demands)), default=0.0)
    fastest = max((fps for _, fps in demands), default=0.0)
    return share(demands, most) <= RHO and longest * fastest <= 1.0


def refusal(demands: Sequence[Demand], curve: BatchCurve, fps: float, most: int) -> str | None:
    """Say why another session at `fps` does not fit beside those there are, and what would; None if it does.

    The first session is never refused: where even it is slow, it is slow alone.
    """
    if not demands or fits([*demands, (curve, fps)], most):
        return None
    slower = next((f for f in SPEEDS if f < fps and fits([*demands, (curve, f)], most)), None)
    hint = f"ask for {slower:g} frames a second, or come back later" if slower else "come back later"
    batch = min(len(demands) + 1, most)
    there = f"{len(demands)} sessions run" if len(demands) > 1 else "1 session runs"
    return (
        f"{there} here, and {batch} together take {1e3 * curve.p95(batch):.0f} ms a frame; with another one at {fps:g} "
        f"frames a second more than 1 frame in 20 would come late. Please {hint}."
    )


def _alike(demands: Sequence[Demand]) -> list[tuple[BatchCurve, float, int]]:
    """Sessions that can be stepped together: what their batches cost, their speed, how many they are."""
    groups: dict[tuple[int, float], list[BatchCurve]] = {}
    for curve, fps in demands:
        groups.setdefault((id(curve), fps), []).append(curve)
    return [(same[0], fps, len(same)) for (_, fps), same in groups.items()]
