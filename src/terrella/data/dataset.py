"""A recorded dataset, read only: whole episodes, and random clips fast.

The index is in memory (`index.py`); frames stay on disk and are decompressed chunk by chunk. Decompressed chunks are
kept up to a limit, so that a small dataset soon costs only a copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..config import to_json
from ..errors import DamagedData, DatasetError
from ..spec import WorldSpec
from .chunks import REMEDY, ChunkCache, ChunkReader, StreamCodec
from .episode import Clips, Episode
from .index import Index, Split
from .store import checked_bytes, digest, read_states
from .writer import Writer


class Dataset:
    """Episodes in a folder, as `record` and `Dataset.create` write them.

    path: the folder. cache_mb: memory for decompressed chunks (0 for none). threads: how many decode one batch.

    What is there when it is opened is what it shows; open it again to see what was appended since.
    Raises `DatasetError` when there is no dataset, `DamagedData` when its index fails a checksum.
    """

    def __init__(self, path: str | Path, *, cache_mb: int = 512, threads: int = 1) -> None:
        self._load(Path(path), cache_mb, threads, None)

    @staticmethod
    def create(path: str | Path, spec: WorldSpec, *, chunk_frames: int = 16, level: int = 3) -> Writer:
        """Open a writer on a new dataset, or on an existing one of the same spec, to append to it."""
        return Writer(path, spec, chunk_frames=chunk_frames, level=level)

    @classmethod
    def damaged(cls, path: str | Path, found: list[str]) -> Dataset:
        """Open what can be opened of a damaged dataset; what is lost of its index is left out and noted in `found`."""
        dataset = cls.__new__(cls)
        dataset._load(Path(path), 0, 1, found)
        return dataset

    def _load(self, path: Path, cache_mb: int, threads: int, damage: list[str] | None) -> None:
        self.path = path
        self._options = (cache_mb, threads)
        self._index = Index(path, damage)
        self.layout = self._index.layout
        self.lengths = self._index.lengths
        self._reader = ChunkReader(path)
        self._cache = ChunkCache(cache_mb << 20)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._checked: set[str] = set()
        self._splits = self._index.splits()

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(i) for i in range(len(self)))

    def __repr__(self) -> str:
        streams = ", ".join(f"{n} {'x'.join(map(str, s.shape)) or s.kind}" for n, s in self.spec.streams.items())
        return f"Dataset({str(self.path)!r}: {len(self)} episodes, {self.steps} transitions, {streams})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, *self._options)

    @property
    def spec(self) -> WorldSpec:
        """Streams, actions and environment of the episodes."""
        return self.layout.spec

    @property
    def steps(self) -> int:
        """Transitions in all episodes together."""
        return int(self.lengths.sum())

    @property
    def uids(self) -> list[str]:
        """A hash of each episode's content; equal episodes have equal ones."""
        return list(self._index.uids)

    @property
    def seeds(self) -> list[int | None]:
        """What the environment was reset with, an episode each."""
        return self._index.rows["seed"].to_pylist()

    @property
    def returns(self) -> np.ndarray:
        """Sum of rewards of each episode, float64 `(episodes,)`."""
        total = np.concatenate([[0.0], np.cumsum(self._index.rewards, dtype=np.float64)])
        return total[self._index.first + self.lengths] - total[self._index.first]

    @property
    def actions(self) -> np.ndarray:
        """The rows of all transitions, episode after episode, `(steps, W)` in the smallest type that holds them."""
        return self._index.actions

    @property
    def fingerprint(self) -> str:
        """A hash of the streams, the action space and every episode's content, in order."""
        spec = json.dumps([to_json(self.spec.streams), to_json(self.spec.action)], sort_keys=True)
        return digest("\n".join([spec, *self.uids]).encode())

    def episode(self, index: int, *, states: bool = True) -> Episode:
        """Read one episode whole (without its simulator states if `states` is false).

        Raises `DatasetError` for an index out of range, `DamagedData` when a chunk of it fails its checksum.
        """
        index = self._index.check(index)
        steps, first = int(self.lengths[index]), int(self._index.first[index])
        ends = np.zeros((2, steps), bool)
        ends[:, -1] = self._index.terminated[index], self._index.truncated[index]
        observations = {}
        for codec in self.layout.codecs:
            out = np.empty((steps + 1, *codec.shape), codec.dtype)
            self._fill(out, codec, index, 0)
            observations[codec.name] = out
        return Episode(
            observations=observations,
            actions=self._index.actions[first : first + steps].astype(np.float64),
            rewards=self._index.rewards[first : first + steps].copy(),
            terminated=ends[0],
            truncated=ends[1],
            seed=self._index.rows["seed"][index].as_py(),
            states=self.states(index) if states else {},
            info=json.loads(self._index.rows["info"][index].as_py()),
        )

    def states(self, index: int) -> dict[int, bytes]:
        """Read the simulator states saved in an episode: frame -> bytes (empty where there are none).

        Raises `DamagedData` when their file fails its checksum.
        """
        index = self._index.check(index)
        frames = self._index.rows["state_frames"][index].as_py()
        if not frames:
            return {}
        blobs = self._index.rows["states"][index].as_py()
        if blobs is None:  # sealed: no longer in the journal, whose records are checked when it is opened
            segment, row = self._index.row(index)
            path = self.path / f"{segment.name}.states.parquet"
            if segment.name not in self._checked:
                checked_bytes(path, segment.states)
                self._checked.add(segment.name)
            blobs = read_states(path, row)
        return {frame: self._reader.decompress(blob) for frame, blob in zip(frames, blobs, strict=True)}

    def split(self, split: Split = "train") -> np.ndarray:
        """Return the indices of the episodes of a split, int64, ascending: "train", "held_out" or "all".

        An episode is held out by a hash of its content (one in ten), so appending moves none and equal episodes fall
        on the same side. The first episode is always for training; the first that differs from it is always held out.
        """
        if split not in self._splits:
            raise DatasetError(f"there is no split {split!r}; choose 'train', 'held_out' or 'all'.")
        return self._splits[split]

    def starts(
        self,
        batch: int,
        length: int,
        rng: np.random.Generator,
        split: Split = "train",
        weights: np.ndarray | Sequence[float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw `batch` clip positions: episodes and their first frames, int64 `(B,)` each.

        Uniform over all positions at which `length` transitions fit into an episode; with `weights`, one number an
        episode of the dataset, a position of episode e is drawn in proportion to `weights[e]`.
        Raises `DatasetError` when no episode is long enough, or the weights do not fit.
        """
        if length < 1 or batch < 1:
            raise DatasetError(f"batch is {batch} and length {length}; both must be at least 1.")
        episodes = self.split(split)
        rooms = self.lengths[episodes] - length + 1
        if not (rooms > 0).any():
            raise DatasetError(self._why_none(split, length))
        mass = np.maximum(rooms, 0).astype(np.float64)
        if weights is not None:
            given = np.asarray(weights, np.float64)
            if given.shape != (len(self),) or not np.isfinite(given).all() or (given < 0).any():
                raise DatasetError(
                    f"weights have shape {given.shape}; expected ({len(self)},), one finite number >= 0 an episode."
                )
            mass *= given[episodes]
            if not mass.sum() > 0:
                raise DatasetError(f"every {split} episode of {length} or more transitions has weight 0; raise one.")
        edges = np.cumsum(mass)
        picked = np.searchsorted(edges, rng.random(batch) * edges[-1], side="right")
        picked = np.minimum(picked, np.flatnonzero(mass)[-1])  # rounding at the very end of the line
        return episodes[picked], rng.integers(0, rooms[picked])

    def sample(
        self,
        batch: int,
        length: int,
        rng: np.random.Generator,
        split: Split = "train",
        weights: np.ndarray | Sequence[float] | None = None,
    ) -> Clips:
        """Draw `batch` random clips of `length` transitions (`length + 1` frames); see `starts` for the odds."""
        return self.clips(*self.starts(batch, length, rng, split, weights), length)

    def clips(self, episodes: np.ndarray | Sequence[int], starts: np.ndarray | Sequence[int], length: int) -> Clips:
        """Read the clips of `length` transitions at given positions: episode and first frame of each.

        Raises `DatasetError` when a clip would cross its episode's end, `DamagedData` when a chunk fails its checksum.
        """
        index = np.asarray([self._index.check(i) for i in episodes], np.int64)
        at = np.asarray(starts, np.int64)
        if index.shape != at.shape or index.ndim != 1 or length < 1:
            raise DatasetError(
                f"{index.shape} episodes, {at.shape} starts, length {length}: expected (B,), (B,), >= 1."
            )
        if len(at) and ((at < 0) | (at + length > self.lengths[index])).any():
            b = int(np.argmax((at < 0) | (at + length > self.lengths[index])))
            raise DatasetError(
                f"a clip of {length} transitions from frame {at[b]} does not fit episode {index[b]}, which has "
                f"{self.lengths[index[b]]}."
            )
        flat = (self._index.first[index] + at)[:, None] + np.arange(length)
        terminated = np.zeros(flat.shape, bool)
        if len(at):
            terminated[:, -1] = self._index.terminated[index] & (at + length == self.lengths[index])
        observations = {}
        for codec in self.layout.codecs:
            out = np.empty((len(at), length + 1, *codec.shape), codec.dtype)
            jobs = [(out[b], codec, int(index[b]), int(at[b])) for b in range(len(at))]
            if self._pool is None:
                for job in jobs:
                    self._fill(*job)
            else:
                list(self._pool.map(lambda job: self._fill(*job), jobs))
            observations[codec.name] = out
        return Clips(observations, self._index.actions[flat].astype(np.float32), self._index.rewards[flat], terminated)

    def verify(self) -> list[str]:
        """Read and check every byte of the dataset on disk; one message for each damage, none when it is whole."""
        from .repair import verify

        return verify(self.path)

    def check_chunks(self) -> list[str]:
        """Decode every chunk of every episode; one message for each that is damaged. `verify` checks more."""
        found = []
        for codec in self.layout.codecs:
            for episode, steps in enumerate(self.lengths.tolist()):
                first = int(self._index.stream_first[codec.name][episode])
                for start in range(0, steps + 1, codec.chunk):
                    try:
                        self._read_chunk(first + start // codec.chunk, codec, min(codec.chunk, steps + 1 - start))
                    except DamagedData as error:
                        found.append(str(error))
        return found

    def _fill(self, out: np.ndarray, codec: StreamCodec, episode: int, start: int) -> None:
        """Copy frames `start ..` of an episode into `out (n, ...)`."""
        size, stop = codec.chunk, start + len(out)
        first = int(self._index.stream_first[codec.name][episode])
        for chunk in range(start // size, (stop - 1) // size + 1):
            low, high = max(start, chunk * size), min(stop, (chunk + 1) * size)
            frames = self._chunk(first + chunk, codec, min(size, int(self.lengths[episode]) + 1 - chunk * size))
            out[low - start : high - start] = frames[low - chunk * size : high - chunk * size]

    def _chunk(self, number: int, codec: StreamCodec, frames: int) -> np.ndarray:
        chunk = self._cache.get(number)
        if chunk is None:
            chunk = self._read_chunk(number, codec, frames)
            self._cache.put(number, chunk)
        return chunk

    def _read_chunk(self, number: int, codec: StreamCodec, frames: int) -> np.ndarray:
        place = self._index.place(number)
        try:
            return codec.unpack(self._reader.read(place.segment, place.offset, place.size, place.check), frames)
        except (ValueError, OSError) as error:
            raise DamagedData(
                f"{self.path / place.segment}.frames, chunk {place.number} (episode {place.episode}, stream "
                f"{codec.name!r}) is damaged: {error}. {REMEDY}"
            ) from error

    def _why_none(self, split: Split, length: int) -> str:
        if not len(self):
            return f"the dataset at {self.path} has no episodes. Record some with terrella.record."
        lengths = self.lengths[self.split(split)]
        if not len(lengths):
            return f"no episode is {split.replace('_', ' ')}: all {len(self)} are alike. Record more, with other seeds."
        return (
            f"no {split} episode has {length} transitions; the longest of {len(lengths)} has {lengths.max()}. "
            f"Ask for clips of {lengths.max()} or shorter, or record longer episodes."
        )


def _reopen(path: Path, cache_mb: int, threads: int) -> Dataset:
    return Dataset(path, cache_mb=cache_mb, threads=threads)
