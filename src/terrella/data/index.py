"""What of a dataset is in memory: lengths, flags, actions, rewards, and where each chunk lies. About 10 bytes a
transition, in plain arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from ..actions import width
from ..errors import DamagedData, DatasetError
from .store import Layout, Segment, load_rows

Split = Literal["train", "held_out", "all"]
HELD_OUT = 0.1
"""Share of episodes that training never sees."""


@dataclass(frozen=True)
class Place:
    """Where a chunk lies: bytes of a segment's file, and whose it is. `number` counts from the file's start."""

    segment: str
    offset: int
    size: int
    check: int
    number: int
    episode: int


class Index:
    """The rows of a dataset as arrays over episodes (E), transitions (S) and chunks.

    lengths, first: transitions of each episode and its first one's place among all, int64 `(E,)`. terminated,
    truncated: bool `(E,)`, of the last transition. actions: `(S, W)` in the smallest exact type. rewards: float32
    `(S,)`. rows: the rest, an Arrow table.
    """

    def __init__(self, folder: Path, damage: list[str] | None = None) -> None:
        self.layout, self._segments, table = load_rows(folder, damage)
        self.rows: pa.Table = table.select(["uid", "seed", "info", "state_frames", "states"])
        self.uids: list[str] = table["uid"].to_pylist()
        self.lengths = table["steps"].to_numpy().astype(np.int64)
        self.terminated = np.asarray(table["terminated"].to_numpy(zero_copy_only=False), bool)
        self.truncated = np.asarray(table["truncated"].to_numpy(zero_copy_only=False), bool)
        self.first = _starts(self.lengths)
        steps = int(self.lengths.sum())
        actions, self.rewards = _values(table, "actions"), _values(table, "rewards")
        if len(self.rewards) != steps or actions.size != steps * width(self.layout.spec.action):
            raise DamagedData(f"the index of {folder} has {len(self.rewards)} rewards for {steps} transitions.")
        self.actions = narrow(actions.reshape(steps, width(self.layout.spec.action)))
        self._segment, self._row = table["segment"].to_numpy(), table["row"].to_numpy()
        self._chunks(folder, table, self.layout)

    def _chunks(self, folder: Path, table: pa.Table, layout: Layout) -> None:
        counts = {codec.name: -(-(self.lengths + 1) // codec.chunk) for codec in layout.codecs}
        chunks = np.sum(list(counts.values()), axis=0, dtype=np.int64)
        self._sizes, self._checks = _values(table, "sizes"), _values(table, "checks")
        if len(self._sizes) != chunks.sum():
            raise DamagedData(
                f"the index of {folder} names {len(self._sizes)} chunks; its episodes have {chunks.sum()}."
            )
        first = _starts(chunks)
        owner = np.repeat(np.arange(len(self.lengths), dtype=np.int32), chunks)
        into = _starts(self._sizes)
        self._owner = owner
        self._offsets = table["start"].to_numpy()[owner] + into - into[first[owner]]
        self._segment_first = np.searchsorted(self._segment[owner], np.arange(len(self._segments)))
        self.stream_first: dict[str, np.ndarray] = {}
        """Stream -> the number of its first chunk in each episode, int64 `(E,)`."""
        for name, count in counts.items():
            self.stream_first[name] = first
            first = first + count

    def place(self, chunk: int) -> Place:
        """Return where a chunk of the dataset lies."""
        episode = int(self._owner[chunk])
        segment = int(self._segment[episode])
        return Place(
            segment=self._segments[segment].name,
            offset=int(self._offsets[chunk]),
            size=int(self._sizes[chunk]),
            check=int(self._checks[chunk]),
            number=chunk - int(self._segment_first[segment]),
            episode=episode,
        )

    def row(self, episode: int) -> tuple[Segment, int]:
        """Return the segment that an episode is in, and its row there."""
        return self._segments[self._segment[episode]], int(self._row[episode])

    def splits(self) -> dict[Split, np.ndarray]:
        """Return the episodes of each split; see `Dataset.split`."""
        uids = np.array(self.uids, object)
        held = np.array([int(uid[:8], 16) < HELD_OUT * 2**32 for uid in self.uids], bool)
        if len(uids):
            same = uids == uids[0]
            held[same] = False
            if not same.all():
                held |= uids == uids[np.argmin(same)]
        return {"train": np.flatnonzero(~held), "held_out": np.flatnonzero(held), "all": np.arange(len(uids))}

    def check(self, episode: int) -> int:
        """Return an episode's index counted from 0; raises `DatasetError` when there is none."""
        if not -len(self.lengths) <= episode < len(self.lengths):
            raise DatasetError(f"there is no episode {episode}; the dataset has {len(self.lengths)}.")
        return int(episode) % len(self.lengths)


def narrow(values: np.ndarray) -> np.ndarray:
    """Return the same numbers in the smallest type that holds them exactly."""
    if not values.size:
        return values
    low, high = values.min(), values.max()
    for kind in ("int8", "int16", "int32"):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max and np.array_equal(values, np.rint(values)):
            return values.astype(kind)
    with np.errstate(over="ignore"):
        smaller = values.astype(np.float32)
    return smaller if np.array_equal(smaller, values) else values


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where each run begins when runs of `counts` items lie one after another."""
    ends = np.cumsum(counts, dtype=np.int64)
    return ends - counts


def _values(table: pa.Table, column: str) -> np.ndarray:
    """All items of a list column, one after another."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[column].chunks]
    empty = pa.array([], table.schema.field(column).type.value_type).to_numpy()
    return np.concatenate([empty, *chunks])
