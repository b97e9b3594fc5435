"""Simulate where sessions go on many replicas: by two choices, by one, to the better of two at random.

    python benchmarks/placement.py --world coinrun --fps 15 --json placement.json

What a batch costs is measured on this machine first (`--curve A B` gives the line instead, in seconds), and each of a
thousand replicas is taken to cost as much. People come in bursts, play for a geometric number of frames, pause for
log-normal times, one pause in five is for good; in some pauses forks of the session begin, which others play. A
directory that is a second old says how loaded replicas are; the gateway adds what it has placed since. Two thirds into
the measured time every hundredth replica dies, and every hundredth other one is drained.

| key | meaning |
|---|---|
| `balance` | sessions that run on a replica over their mean: deviation, 99th percentile, largest; medians over time |
| `bounced` | share of placements that a replica refused, since it had less room than the directory had said |
| `beside_parent` | share of forks that began on the replica on which their parent was |
| `together` | share of the sessions of fork trees that lie where most of their tree does, at the end |
| `refused` | share of openings, of forks and of returns from a pause for which there was no room |
| `moved` | share of returns from a pause that went to another replica for want of room |
| `beyond` | share of placements on neither of the two choices |
| `saved` | sessions of dead and drained replicas that found room elsewhere, and their share |
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from common import arguments, write_json
from scipy.special import zeta

from terrella.cluster.placement import Load, Placed, Placement
from terrella.serving.admission import RHO, cover
from terrella.serving.catalogue import Served
from terrella.serving.curve import BatchCurve
from terrella.serving.limits import Limits
from terrella.serving.session import Session, advance_together
from terrella.world import World

POLICIES = ("two choices", "one choice", "two at random", "least loaded")
LOOK, SAMPLE = 1.0, 5.0  # seconds between two looks of the directory, and between two samples of the balance
FRAMES, PAUSE, SPREAD, GONE = 150.0, 1.0, 1.0, 0.2  # habits, as in benchmarks/serving.py
FORKS, MOST = 0.03, 300  # pauses in which forks begin, how many do at most


@dataclass
class Person:
    """A session: the root of its fork tree, and where it is."""

    root: str
    where: int = -1
    running: bool = False
    number: int = 0


@dataclass
class Counts:
    """What happened once the crowd had come."""

    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    beside: int = 0
    saved: int = 0
    homeless: int = 0


class Fleet:
    """Replicas of equal cost, people on them, and a gateway that knows what the directory said last."""

    def __init__(self, policy: str, replicas: int, loads: list[Load], rng: np.random.Generator) -> None:
        self.policy, self.loads, self.rng = policy, loads, rng
        self.names = [f"r{i}" for i in range(replicas)]
        self.index = {name: i for i, name in enumerate(self.names)}
        self.placement = Placement(self.names)
        self.running = np.zeros(replicas, np.int64)
        self.view = {name: loads[0] for name in self.names}
        self.drained: set[str] = set()
        self.dead: set[str] = set()
        self.people: dict[int, Person] = {}

    def look(self) -> None:
        """What a directory says that asks every replica."""
        for name, sessions in zip(self.names, self.running.tolist()):
            if name not in self.dead:
                self.view[name] = self.loads[sessions]

    def put(self, person: Person, why: Counter[str]) -> bool:
        """Place a person that wants to run; whether there was room."""
        held = self.names[person.where] if person.where >= 0 else None
        for _ in range(2):  # a replica that has less room than was thought says so, and is known better then
            placed = self.choose(person.root, held if held in self.view else None)
            if placed is None:
                return False
            i = self.index[placed.name]
            if self.loads[self.running[i]].room:
                why[placed.why] += 1
                self.view[placed.name] = self.view[placed.name].plus()
                person.where, person.running = i, True
                self.running[i] += 1
                return True
            self.view[placed.name] = self.loads[self.running[i]]
            why["bounced"] += 1
        return False

    def choose(self, root: str, held: str | None) -> Placed | None:
        if self.policy == "two choices":
            return self.placement.place(root, self.view, held=held, drained=self.drained)
        if held is not None and held not in self.drained and self.view[held].room:
            return Placed(held, "held")
        if self.policy == "one choice":
            (first, *_) = self.placement.choices(root, self.view)
            return Placed(first, "choices") if self.view[first].room and first not in self.drained else None
        if self.policy == "two at random":
            some = [self.names[i] for i in self.rng.integers(len(self.names), size=2)]
        else:
            some = list(self.view)
        some = [name for name in some if name in self.view and name not in self.drained]
        best = min(some, key=lambda name: self.view[name].more, default=None)
        return Placed(best, "choices") if best is not None and self.view[best].room else None

    def stop(self, person: Person) -> None:
        if person.running:
            person.running = False
            self.running[person.where] -= 1


def simulate(policy: str, loads: list[Load], options: Any) -> dict[str, Any]:
    """Let people come, play, pause, fork and go, and tell what came of it."""
    rng, comes = np.random.default_rng(options.seed), np.random.default_rng(options.seed + 2)
    fleet = Fleet(policy, options.replicas, loads, np.random.default_rng(options.seed + 1))
    capacity = sum(load.room for load in loads)
    stretch = FRAMES / options.fps
    stay = stretch / GONE  # seconds that somebody runs in all
    children = FORKS / GONE * zeta(options.tail)  # forks of a session in all, on average
    rate = options.fill * capacity * options.replicas * (1 - children) / stay
    warm, end = options.seconds, 3 * options.seconds
    trouble = warm + 2 / 3 * (end - warm)
    numbers, ticket = count(), count()
    events: list[tuple[float, int, str, int]] = []
    counts, samples = Counts(), []

    def later(at: float, kind: str, number: int = -1) -> None:
        heappush(events, (at, next(ticket), kind, number))

    def begin(now: float, root: str, parent: int = -1) -> None:
        person, kind = Person(root, where=parent, number=next(numbers)), "open" if parent < 0 else "fork"
        counts.asked[kind] += 1
        if not fleet.put(person, counts.why):
            counts.refused[kind] += 1
            return
        counts.beside += kind == "fork" and person.where == parent
        fleet.people[person.number] = person
        later(now + rng.geometric(1 / FRAMES) / options.fps, "pause", person.number)

    def back(now: float, person: Person) -> None:
        was = person.where
        counts.asked["return"] += 1
        if fleet.put(person, counts.why):
            counts.moved += was >= 0 and person.where != was
            later(now + rng.geometric(1 / FRAMES) / options.fps, "pause", person.number)
        else:
            counts.refused["return"] += 1
            later(now + 2.0, "resume", person.number)

    for at in comes.uniform(0.0, stretch, int(rate * stay)):
        later(at, "open")  # those who were there before
    later(0.0, "arrive")
    later(0.0, "look")
    later(warm, "sample")
    later(trouble, "trouble")
    while events:
        now, _, kind, number = heappop(events)
        if now > end:
            break
        if kind == "arrive":  # a second's worth of people, many or few
            for at in comes.uniform(now, now + 1.0, comes.poisson(rate * comes.gamma(2.0, 0.5))):
                later(at, "open")
            later(now + 1.0, "arrive")
            if now < warm <= now + 1.0:
                counts = Counts()
        elif kind == "open":
            begin(now, f"{rng.integers(2**32):08x}")
        elif kind == "look":
            fleet.look()
            later(now + LOOK, "look")
        elif kind == "sample":
            living = np.asarray([r for name, r in zip(fleet.names, fleet.running) if name not in fleet.dead])
            samples.append(np.asarray([living.std(), np.quantile(living, 0.99), living.max()]) / living.mean())
            later(now + SAMPLE, "sample")
        elif kind == "trouble":
            dies, leaves = set(fleet.names[::100]), set(fleet.names[50::100])
            gone = {fleet.index[name] for name in dies | leaves}
            for name in dies:
                del fleet.view[name]
            fleet.dead |= dies
            fleet.drained |= leaves
            for person in fleet.people.values():
                if person.where in gone:
                    was = person.running
                    fleet.stop(person)
                    person.where = -1
                    if was:
                        saved = fleet.put(person, counts.why)
                        counts.saved += saved
                        counts.homeless += not saved
                        if not saved:
                            later(now + 2.0, "resume", person.number)
        elif (person := fleet.people.get(number)) is not None:
            if kind == "pause" and not person.running:
                continue
            if kind == "resume":
                if not person.running:
                    back(now, person)
                continue
            fleet.stop(person)
            if rng.random() < FORKS:
                for _ in range(min(MOST, 1 + int(rng.pareto(options.tail)))):
                    begin(now, person.root, person.where)
            if rng.random() < GONE:
                del fleet.people[number]
            else:
                later(now + PAUSE * rng.lognormal(0.0, SPREAD), "resume", number)
    trees: dict[str, Counter[int]] = defaultdict(Counter)
    for person in fleet.people.values():
        trees[person.root][person.where] += 1
    forked = [tree for tree in trees.values() if tree.total() > 1]
    placed = max(counts.why.total() - counts.why["bounced"], 1)
    spread, p99, largest = np.median(samples, axis=0).round(3).tolist()
    return {
        "policy": policy,
        "balance": {"deviation": spread, "p99": p99, "largest": largest},
        "bounced": round(counts.why["bounced"] / placed, 4),
        "beside_parent": round(counts.beside / max(1, counts.asked["fork"] - counts.refused["fork"]), 4),
        "together": round(sum(max(t.values()) for t in forked) / max(1, sum(t.total() for t in forked)), 4),
        "refused": {k: round(counts.refused[k] / max(1, counts.asked[k]), 4) for k in ("open", "fork", "return")},
        "moved": round(counts.moved / max(1, counts.asked["return"]), 4),
        "beyond": round(counts.why["beyond"] / placed, 4),
        "saved": [counts.saved, round(counts.saved / max(1, counts.saved + counts.homeless), 4)],
        "asked": dict(counts.asked),
        "running": int(fleet.running.sum()),
    }


def measured(world: str, batch: int, frames: int) -> BatchCurve:
    """What batches of a world cost on this machine's processor, in seconds that others on it do not count for."""
    served = Served(world, World.load(world))
    limits = Limits(keyframe_every=10**6)
    curve = BatchCurve()
    sessions = [Session(served, seed=i, truth=None, limits=limits) for i in range(batch)]
    row = np.asarray(served.spec.noop or next(iter(served.spec.keys.values())), np.float64)
    size = 1
    while size <= batch:
        for i in range(frames + 2):
            began = time.process_time()
            advance_together(sessions[:size], [row] * size)
            if i >= 2:  # the first ones gather the batch
                curve.note(size, time.process_time() - began)
        size *= 2
    return curve


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--world", default="coinrun", help="whose batches are measured (default coinrun)")
    parser.add_argument(
        "--curve", type=float, nargs=2, metavar=("A", "B"), help="seconds of a batch, instead of measuring"
    )
    parser.add_argument("--batch", type=int, default=16, help="sessions stepped together at most (default 16)")
    parser.add_argument("--fps", type=float, default=15.0, help="frames a second (default 15)")
    parser.add_argument(
        "--tail", type=float, default=1.5, help="exponent of how many forks begin at once (default 1.5)"
    )
    parser.add_argument("--replicas", type=int, default=1000, help="replicas (default 1000)")
    parser.add_argument("--fill", type=float, default=0.85, help="share of all room that people ask for (default 0.85)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="simulated to fill, and twice measured (default 60)"
    )
    parser.add_argument(
        "--policies", nargs="+", default=["two choices", "one choice", "two at random"], choices=POLICIES
    )
    options = parser.parse_args()
    if options.curve is None:
        curve = measured(options.world, options.batch, 12)
    else:
        curve = BatchCurve()
        curve.a, curve.b = options.curve
    many = 4 * int(RHO / options.fps / max(curve.p95(1) - curve.a, 1e-6)) + 64
    used = [options.fps * cover(curve, n, options.batch) for n in range(many + 1)]
    loads = [Load(used[n], used[n + 1], n) for n in range(many)]
    if not loads[0].room:
        raise SystemExit(
            f"a frame of one session takes {curve.p95(1):.3f} s; ask for less than {options.fps:g} a second."
        )
    rows = []
    for policy in options.policies:
        began = time.process_time()
        rows.append(simulate(policy, loads, options) | {"seconds": round(time.process_time() - began, 1)})
    result = {
        "rows": rows,
        "curve": {"a": curve.a, "b": curve.b, "spread": curve.spread},
        "room": sum(load.room for load in loads),
        "settings": {k: v for k, v in vars(options).items() if k not in ("json", "seed")},
        "label": "synthetic load: bursts by the second, geometric play, log-normal pauses, 20 % gone for good, forks",
    }
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
