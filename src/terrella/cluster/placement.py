"""Where a session goes: to one of two replicas that a hash of its fork tree's root names, the less loaded of them.

Forks of one session name the same two, so they find their parent's snapshots beside them and stay together, while the
second choice keeps a popular root from filling one replica. Two hash rings and the less loaded choice are DualMap's
(arXiv 2602.06502), which places requests that share a prefix; here a fork tree is the prefix, load is a share of the
replica's time by its measured cost of batches, and whoever comes back goes where the session was, if there is room.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from ..serving.admission import RHO

POINTS = 64  # of each replica on a ring; more of them divide the ring more evenly
BEYOND = 16  # replicas in the order of the ring that are asked where neither choice has room; then the least loaded
OVER = 0.95  # share of its time beyond which a replica gives sessions away


@dataclass(frozen=True)
class Load:
    """How busy a replica is: `used`, the share of its time that its sessions take, and `more`, with one more of them.

    `sessions` are those it has, of the `most` it may have.
    """

    used: float = 0.0
    more: float = 0.0
    sessions: int = 0
    most: int = 2**31

    @property
    def room(self) -> bool:
        """Whether another session would be in time."""
        return self.more <= RHO and self.sessions < self.most

    def plus(self) -> Load:
        """The load once another session is there, as far as can be told before it was measured."""
        return Load(self.more, 2 * self.more - self.used, self.sessions + 1, self.most)


@dataclass(frozen=True)
class Placed:
    """A replica, and why it: it `held` the session, was the better of two `choices`, or both were full (`beyond`)."""

    name: str
    why: str


class Ring:
    """Names on a circle of hashes, each at many points; one more name takes from each other one its share alone."""

    def __init__(self, names: Collection[str], salt: str) -> None:
        self._salt = salt
        points = sorted((_point(f"{salt} {name} {i}"), name) for name in names for i in range(POINTS))
        self._at = [at for at, _ in points]
        self._names = [name for _, name in points]

    def walk(self, key: str, among: Collection[str]) -> Iterator[str]:
        """Yield the names that are `among` others once each, in the order in which they follow the key."""
        start, seen = bisect(self._at, _point(f"{self._salt} {key}")), set[str]()
        for i in range(len(self._names)):
            name = self._names[(start + i) % len(self._names)]
            if name not in seen and name in among:
                seen.add(name)
                yield name


class Placement:
    """Two rings over replicas. Those that are away or drained are walked over, so the rings need not be made again."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self._rings = Ring(names, "first"), Ring(names, "second")

    def choices(self, root: str, among: Collection[str]) -> tuple[str, ...]:
        """The two replicas of a root among those there are; one where there is only one, none where there is none."""
        first = tuple(islice(self._rings[0].walk(root, among), 1))
        second = (name for name in self._rings[1].walk(root, among) if name not in first)
        return (*first, *islice(second, 1))

    def place(
        self, root: str, loads: Mapping[str, Load], *, held: str | None = None, drained: Collection[str] = ()
    ) -> Placed | None:
        """Choose a replica for a session of the fork tree `root`; None where nobody has room.

        loads: of the replicas that answer. held: who has the session's state. drained: who takes no more sessions.
        """
        there = {name: load for name, load in loads.items() if name not in drained} if drained else loads
        if held is not None and held in there and there[held].room:
            return Placed(held, "held")
        best = min(self.choices(root, there), key=lambda name: _rank(there[name]), default=None)
        if best is None:
            return None
        if there[best].room:
            return Placed(best, "choices")
        beyond = islice(self._rings[0].walk(root, there), BEYOND)
        found = next((name for name in beyond if there[name].room), None)
        if found is None:  # the tree has outgrown its neighbourhood
            found = min(there, key=lambda name: _rank(there[name]))
        return Placed(found, "beyond") if there[found].room else None


def crowded(loads: Mapping[str, Load], drained: Collection[str] = ()) -> list[str]:
    """Replicas that should give sessions away, as long as another one could take them."""
    if not any(load.room for name, load in loads.items() if name not in drained):
        return []
    over = [name for name, load in loads.items() if load.used > OVER and load.sessions > 1]  # one is as slow elsewhere
    return [*over, *(name for name, load in loads.items() if name in drained and load.sessions and name not in over)]


def _rank(load: Load) -> tuple[bool, float, int]:
    return not load.room, load.more, load.sessions


def _point(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
