"""An endless stream of random clips that can stop and go on as if it had not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import DatasetError
from .dataset import Dataset
from .episode import Clips
from .index import Split


class ClipSampler:
    """Iterates over batches of `batch` clips of `length` transitions, without end.

    seed: of the random stream. split, weights: as in `Dataset.starts`. prefetch: how many batches a thread reads
    ahead, while the caller is busy (0: none).

    Raises `DatasetError` at once when no episode is long enough.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        length: int,
        seed: int = 0,
        split: Split = "train",
        *,
        weights: np.ndarray | Sequence[float] | None = None,
        prefetch: int = 1,
    ) -> None:
        self.dataset, self.batch, self.length, self.seed = dataset, batch, length, seed
        self.split: Split = split
        self.weights, self.prefetch = weights, prefetch
        self.drawn = 0
        self._rng = np.random.default_rng(seed)
        self._pool = ThreadPoolExecutor(1) if prefetch > 0 else None
        # (generator before the draw, how to get the batch): what was read ahead is not yet drawn for the caller
        self._ahead: deque[tuple[dict[str, Any], Callable[[], Clips]]] = deque()
        dataset.starts(1, length, np.random.default_rng(0), split, weights)

    def __iter__(self) -> Iterator[Clips]:
        return self

    def __next__(self) -> Clips:
        while len(self._ahead) <= self.prefetch:
            before = dict(self._rng.bit_generator.state)
            episodes, starts = self.dataset.starts(self.batch, self.length, self._rng, self.split, self.weights)
            self._ahead.append((before, self._read(episodes, starts)))
        _, ready = self._ahead.popleft()
        clips = ready()
        self.drawn += 1
        return clips

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON values, what `load_state_dict` needs to go on with the next batch."""
        state = self._ahead[0][0] if self._ahead else self._rng.bit_generator.state
        return {"drawn": self.drawn, "generator": state, "dataset": self.dataset.fingerprint, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on from a saved state.

        Raises `DatasetError` when it was saved with other settings or, unless `strict` is false, another dataset: the
        clips would differ.
        """
        for name, mine in self._settings().items():
            if state.get(name) != mine:
                raise DatasetError(f"the sampler was saved with {name} {state.get(name)!r}, but this one has {mine!r}.")
        if strict and state["dataset"] != self.dataset.fingerprint:
            raise DatasetError(
                f"the dataset at {self.dataset.path} has changed since the sampler was saved; it cannot go on with the "
                "same clips. Load with strict=False to go on with others."
            )
        self._ahead.clear()
        self._rng.bit_generator.state = dict(state["generator"])
        self.drawn = int(state["drawn"])

    def _settings(self) -> dict[str, Any]:
        return {"batch": self.batch, "length": self.length, "split": self.split}

    def _read(self, episodes: np.ndarray, starts: np.ndarray) -> Callable[[], Clips]:
        if self._pool is None:
            return lambda: self.dataset.clips(episodes, starts, self.length)
        return self._pool.submit(self.dataset.clips, episodes, starts, self.length).result
