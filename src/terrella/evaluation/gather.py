"""What accumulates over batches of futures, so that only one batch of frames is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..spec import StreamSpec, WorldSpec
from . import events, table
from .metrics import deviations
from .rollout import Dreamer, Errors, compare
from .truth import Truth

_BANK = 8  # true frames a future gives to the ceiling


class Gathered:
    """The errors and guesses of all futures so far; `add` a batch at a time, then ask for the summaries."""

    def __init__(self, spec: WorldSpec, marks: list[int], seed: int) -> None:
        self.spec, self.marks, self.seed = spec, marks, seed
        self.errors: list[Errors] = []
        self.groups: list[int] = []
        self.seeds: list[int] = []
        self.lengths: list[int] = []
        self.skipped = 0
        self.scales: dict[str, np.ndarray | None] = {}
        self._rng = np.random.default_rng([self.seed, 1])
        self._guesses: dict[str, list[events.Guesses]] = {"one_step": [], "rollout": []}
        self._bank: dict[str, list[np.ndarray]] = {name: [] for name in self.spec.modelled}
        self._owners: list[int] = []
        self._took = [0.0, 0]

    def add(self, dreamer: Dreamer, truth: Truth, advance: Callable[[int], None]) -> None:
        """Roll the dreamer beside one batch of futures."""
        if not self.scales:  # from the first batch, and kept, so that all batches are measured with one rule
            self.scales = {name: stream_scale(truth, name, stream) for name, stream in self.spec.modelled.items()}
        errors = compare(dreamer, truth, self.spec, self.marks, self.scales, self._rng, advance)
        self.errors.append(errors)
        self._guesses["one_step"].append(events.one_step(dreamer, truth, self._rng))
        self._guesses["rollout"].append(events.along(truth, errors.rewards, errors.ended))
        for row in range(len(truth)):
            count = truth.context + 1 + int(truth.length[row])
            picks = self._rng.integers(0, count, _BANK)
            for name, kept in self._bank.items():
                kept.append(truth.real_frames(name, row)[picks])
            self._owners += [int(truth.groups[row])] * _BANK
        self.groups += [int(g) for g in truth.groups]
        self.seeds += truth.seeds
        self.lengths += [int(n) for n in truth.length]
        self.skipped += truth.skipped
        self._took = [self._took[0] + truth.seconds, self._took[1] + truth.stepped]

    def tables(self) -> dict[str, Any]:
        """Return `table.stream_table` of every modelled stream."""
        joined, groups, owners = table.join(self.errors), np.array(self.groups), np.array(self._owners)
        tables = {}
        for name, stream in self.spec.modelled.items():
            top = table.ceiling(np.concatenate(self._bank[name]), owners, stream, self.scales[name], seed=self.seed)
            tables[name] = table.stream_table(joined, name, stream, self.marks, top, groups)
        return tables

    def differing(self) -> list[float | None]:
        """Return `table.differing` over all futures."""
        return table.differing(table.join(self.errors))

    def events(self) -> dict[str, Any]:
        """Return `events.score` one step after true contexts and along the rollouts."""
        return {when: events.score(events.Guesses.join(parts)) for when, parts in self._guesses.items()}

    def environment_speed(self) -> float | None:
        """Return steps a second of the true environment, None for a dataset."""
        return self._took[1] / self._took[0] if self._took[0] > 0 else None


def stream_scale(truth: Truth, name: str, stream: StreamSpec) -> np.ndarray | None:
    """Standard deviation of each dimension of a vector over true frames, 1 where it never varies; None for images."""
    if stream.kind != "vector":
        return None
    return deviations(np.concatenate([truth.real_frames(name, row) for row in range(len(truth))]))
