"""Frames that are nearly a moment's own: the same scene with one attribute changed, drawn by the simulator itself.

From the saved state of a moment one entry of one named quantity is set to another value: a number moves by a share of
how far it differs between moments, of which there are coarse and fine ones, and a whole number (a cell, a colour, a
digit) by one. What cannot be set, or shows in no frame, is left out. Where an arena lets nothing be set, the frames
that may follow after one action stand in: the same scene, a step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arenas import Forkable, to_streams
from ..errors import ArenaError
from .forks import Forks
from .moments import SEED_TAG, Moment, Stage

COUNT = 5  # distractors of a moment, at most
SHARES = (1 / 4, 1 / 16, 1 / 64, 1 / 256)  # of a quantity's deviation between moments
_TRIES = 30


@dataclass
class Near:
    """G moments of C frames: stream -> `(G, C, ...)`, the first of each true. there: which exist, bool `(G, C)`."""

    frames: dict[str, np.ndarray]
    there: np.ndarray


def near_frames(stage: Stage, forks: Forks, seed: int = 0) -> Near:
    """Draw near distractors of the last frame of each group of `forks`."""
    assert stage.fork is not None  # groups were forked
    fork, units = stage.fork, _deviations(stage, forks)
    frames = {name: np.repeat(forks.last(name)[:, None], 1 + COUNT, 1) for name in forks.observations}
    there = np.zeros((len(forks), 1 + COUNT), bool)
    there[:, 0] = True
    for g, (own, state) in enumerate(zip(forks.seeds, forks.states)):
        rng = np.random.default_rng([SEED_TAG, seed, own, 4])
        stage.restore(Moment(own, [], forks.branches[g, 0], state, 0))
        names, count = [name for name in units if name in fork.quantities()], 1
        for _ in range(_TRIES if names else 0):
            seen = _changed(stage, fork, state, str(rng.choice(names)), units, rng)
            new = seen is not None and all(
                any((seen[name] != kept[g, c]).any() for name, kept in frames.items()) for c in range(count)
            )
            if seen is not None and new:
                for name, kept in frames.items():
                    kept[g, count] = seen[name]
                there[g, count] = True
                count += 1
            if count > COUNT:
                break
        if count == 1:
            _next_frames(forks, g, frames, there)
    return Near(frames, there)


def _deviations(stage: Stage, forks: Forks) -> dict[str, float]:
    """Of each quantity that can be set, how far its numbers differ between moments; 1 for whole numbers."""
    fork, values = stage.fork, {}
    assert fork is not None
    for g, state in enumerate(forks.states):
        stage.restore(Moment(forks.seeds[g], [], forks.branches[g, 0], state, 0))
        for name, value in fork.quantities().items():
            values.setdefault(name, []).append(np.array(value))
    units = {}
    for name, found in values.items():
        try:
            fork.intervene(name, fork.quantities()[name])
        except (ArenaError, KeyError):  # it cannot be set, or is not here now
            continue
        units[name] = 1.0 if found[0].dtype.kind != "f" else _spread(found)
    return {name: unit for name, unit in units.items() if unit > 0}


def _spread(found: Sequence[np.ndarray]) -> float:
    """Deviation between moments, or where moments have different numbers of things, of all numbers together."""
    alike = all(value.shape == found[0].shape for value in found)
    values = np.stack(found).std(0) if alike else np.concatenate([value.ravel() for value in found]).std()
    return float(np.mean(values)) if np.size(values) else 0.0


def _changed(
    stage: Stage, fork: Forkable, state: bytes, name: str, units: dict[str, float], rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """The moment with one entry of a quantity changed, as streams; None where the arena does not take it."""
    fork.restore(state)
    value = np.array(fork.quantities()[name])
    if not value.size:
        return None
    whole = value.dtype.kind != "f"
    step = (1 if whole else units[name] * float(rng.choice(SHARES))) * int(rng.choice([-1, 1]))
    place = np.unravel_index(int(rng.integers(value.size)), value.shape)
    value[place] = not value[place] if value.dtype.kind == "b" else value[place] + step
    try:
        seen = to_streams(stage.env, fork.intervene(name, value if value.ndim else value.item()))
    except ArenaError:
        return None
    return {key: np.array(seen[key]) for key in stage.spec.modelled}


def _next_frames(forks: Forks, g: int, frames: dict[str, np.ndarray], there: np.ndarray) -> None:
    """Put what may follow after the first kept horizon in place of distractors; equal ones are dropped by who asks."""
    first = min(forks.horizons)
    for b in range(min(COUNT, forks.k)):
        if forks.length[g, b] >= first:
            for name, kept in frames.items():
                kept[g, 1 + b] = forks.at(name, first)[g, b]
            there[g, 1 + b] = True
