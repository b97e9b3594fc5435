"""Who comes when, and plays for how long: made up, or read from a trace of a real server.

    python benchmarks/traffic.py --people 24 --seconds 600 --fps 10 --seed 0 > people.csv
    python benchmarks/serving.py --trace people.csv --arms together

A trace is a CSV file with the columns of BurstGPT (Wang et al., arXiv 2401.17644): `Timestamp` (seconds) and `Session
ID` say who began when; `Response tokens` count as frames of play. Rows without a session are left out. What people say
to a chat server is not how they play: such a trace brings bursts and returns that somebody really had, no more.

Made up, people come in bursts (gaps are gamma distributed with shape 1/2), play for a geometric number of frames, pause
for log-normal times, and one pause in five is for good, after which somebody new comes to the same place.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

COLUMNS = (
    "Timestamp",
    "Session ID",
    "Elapsed time",
    "Model",
    "Request tokens",
    "Response tokens",
    "Total tokens",
    "Log Type",
)


@dataclass(frozen=True)
class Stretch:
    """Somebody plays so many frames, from `at` seconds on."""

    at: float
    person: str
    frames: int


@dataclass(frozen=True)
class Habits:
    """How people come, play and pause; seconds."""

    frames: float = 150.0  # mean of a stretch of play
    arrival: float = 0.25  # mean until a free place is taken
    pause: float = 1.0  # median
    spread: float = 1.0  # of the logarithm
    longest: float = 5.0
    gone: float = 0.2  # pauses that are for good


def make_up(people: int, seconds: float, fps: float, seed: int, habits: Habits | None = None) -> list[Stretch]:
    """Stretches of play that begin within `seconds`, of at most `people` at a time; at `fps` they take their time."""
    habits, found = habits or Habits(), []
    for place in range(people):
        rng = np.random.default_rng((seed, people, place))
        at, visitor = rng.gamma(0.5, 2 * habits.arrival), 0
        while at < seconds:
            frames = int(rng.geometric(1 / habits.frames))
            found.append(Stretch(float(at), f"{place}-{visitor}", frames))
            at += frames / fps
            if rng.random() < habits.gone:
                at, visitor = at + rng.gamma(0.5, 2 * habits.arrival), visitor + 1
            else:
                at += min(habits.longest, habits.pause * rng.lognormal(0.0, habits.spread))
    return sorted(found, key=lambda stretch: stretch.at)


def visits(stretches: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """The stretches of each person, in order; people by their arrival."""
    found: dict[str, list[Stretch]] = {}
    for stretch in sorted(stretches, key=lambda stretch: stretch.at):
        found.setdefault(stretch.person, []).append(stretch)
    yield from found.values()


def read(path: Path) -> list[Stretch]:
    """Read a trace; times count from its first row."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["Session ID"]]
    found = [Stretch(float(r["Timestamp"]), r["Session ID"], max(1, int(r["Response tokens"]))) for r in rows]
    first = min((stretch.at for stretch in found), default=0.0)
    return [Stretch(stretch.at - first, stretch.person, stretch.frames) for stretch in found]


def write(stretches: Iterable[Stretch], fps: float, file: TextIO) -> None:
    """Write a trace."""
    out = csv.writer(file)
    out.writerow(COLUMNS)
    for s in stretches:
        out.writerow([round(s.at, 3), s.person, round(s.frames / fps, 3), "", 0, s.frames, s.frames, "made up"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=24, help="at a time (default 24)")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(make_up(options.people, options.seconds, options.fps, options.seed), options.fps, sys.stdout)


if __name__ == "__main__":
    main()
