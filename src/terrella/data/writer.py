"""Writing a dataset: one writer at a time, one whole episode at a time.

with Dataset.create("runs/mine", spec) as writer:
    for episode in episodes:          # from anywhere: `terrella.data.Episode`
        writer.add(episode)
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..config import to_json
from ..errors import DatasetError, SpecError
from ..spec import WorldSpec
from .draft import Draft
from .episode import Episode
from .store import Layout, Manifest, Packed, finish_segment, read_journal, read_manifest, record_bytes, write_manifest

SEGMENT_BYTES = 256 << 20
SEGMENT_EPISODES = 4096
JOURNAL_BYTES = 64 << 20
SYNC_SECONDS = 1.0


class Writer:
    """Appends whole episodes to a dataset folder, which it makes when there is none; a context manager.

    chunk_frames: image frames a chunk, for a new dataset. level: zstd level; 9 takes a third off the size and is five
    times slower to write.

    Raises `DatasetError` while another writer has the folder, `SpecError` when the dataset there has another spec.
    """

    def __init__(self, path: str | Path, spec: WorldSpec, *, chunk_frames: int = 16, level: int = 3) -> None:
        self.path = Path(path)
        self.level = level
        layout = Layout(spec, chunk_frames)
        self.path.mkdir(parents=True, exist_ok=True)
        self._frames: BinaryIO | None = None
        self._journal: BinaryIO | None = None
        self._segment_episodes = 0
        self._synced = time.monotonic()
        self._lock = _lock(self.path)
        try:
            if (self.path / "dataset.json").exists():
                self._manifest = read_manifest(self.path)
                _require_same(self._manifest.layout.spec, spec, self.path)
            else:
                self._manifest = Manifest(layout)
                write_manifest(self.path, self._manifest)
            self._recover()
        except BaseException:
            self._lock.close()
            raise
        self.episodes = sum(s.episodes for s in self._manifest.segments)
        self.steps = sum(s.steps for s in self._manifest.segments)

    @property
    def layout(self) -> Layout:
        """Spec and chunking of the dataset."""
        return self._manifest.layout

    def draft(self, first: Mapping[str, Any], seed: int | None = None) -> Draft:
        """Begin an episode at observation `o_0`, stream -> frame."""
        return Draft(self.layout, first, seed, self.level)

    def add(self, episode: Episode) -> str:
        """Append a whole episode and return its uid; raises `SpecError` when it does not fit the dataset's spec."""
        names, streams = list(episode.observations), list(episode.observations.values())
        frames = (dict(zip(names, values)) for values in zip(*streams))
        try:
            draft = self.draft(next(frames), episode.seed)
        except StopIteration:
            raise SpecError(
                f"the episode has no streams; this dataset holds {list(self.layout.spec.streams)}."
            ) from None
        draft.info = episode.info
        for t in range(len(episode) + 1):
            if t:
                a = t - 1
                draft.step(
                    episode.actions[a], next(frames), episode.rewards[a], episode.terminated[a], episode.truncated[a]
                )
            if t in episode.states:
                draft.save_state(episode.states[t])
        return self.commit(draft.pack())

    def commit(self, packed: Packed) -> str:
        """Append a packed episode and return its uid. When this returns, killing the process does not lose it."""
        frames, journal = self._begin_segment()
        start, logged = os.fstat(frames.fileno()).st_size, os.fstat(journal.fileno()).st_size
        try:
            _write_all(frames, packed.chunks)
            _write_all(journal, record_bytes({**packed.row, "start": start}))
        except BaseException:  # a full disk, or an interruption: leave no half record for the next to follow
            os.ftruncate(journal.fileno(), logged)
            os.ftruncate(frames.fileno(), start)
            raise
        self.episodes += 1
        self.steps += packed.steps
        self._segment_episodes += 1
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()
        if (
            start + len(packed.chunks) > SEGMENT_BYTES
            or logged > JOURNAL_BYTES
            or self._segment_episodes >= SEGMENT_EPISODES
        ):
            self._finish_segment()
        return packed.row["uid"]

    def close(self) -> None:
        """Finish the open segment and let go of the folder."""
        if self._lock.closed:
            return
        try:
            self._finish_segment()
        finally:
            self._lock.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin_segment(self) -> tuple[BinaryIO, BinaryIO]:
        if self._lock.closed:
            raise DatasetError(f"this writer of {self.path} is closed; open another with Dataset.create.")
        if self._frames is None or self._journal is None:
            numbers = [int(m[1]) for p in self.path.iterdir() if (m := re.match(r"(\d{5,})\.", p.name))]
            self._name = f"{max(numbers, default=-1) + 1:05d}"
            self._frames = _append_to(self.path / f"{self._name}.frames")
            self._journal = _append_to(self.path / f"{self._name}.journal")
            self._segment_episodes = 0
        return self._frames, self._journal

    def _sync(self) -> None:
        for file in (self._frames, self._journal):  # chunks before the records that point to them
            if file is not None:
                os.fsync(file.fileno())
        self._synced = time.monotonic()

    def _finish_segment(self) -> None:
        if self._frames is None or self._journal is None:
            return
        self._sync()
        self._frames.close()
        self._journal.close()
        self._frames = self._journal = None
        self._seal(self._name)

    def _seal(self, name: str) -> None:
        """Turn a journal into Parquet and name the segment in the manifest; the order makes each step repeatable."""
        table = read_journal(self.path, name)
        if table.num_rows:
            segment = finish_segment(self.path, name, table)
            self._manifest = Manifest(self.layout, (*self._manifest.segments, segment))
            write_manifest(self.path, self._manifest)
        else:
            (self.path / f"{name}.frames").unlink(missing_ok=True)
        (self.path / f"{name}.journal").unlink()

    def _recover(self) -> None:
        """Finish what a stopped writer left: seal its journal, remove its temporary files."""
        listed = {s.name for s in self._manifest.segments}
        for path in sorted(self.path.glob("*.journal")):
            if path.stem in listed:  # sealed, but not yet removed
                path.unlink()
            else:
                self._seal(path.stem)
        for path in sorted(self.path.iterdir()):
            match = re.fullmatch(r"(\d{5,})\.frames", path.name)
            if match and not any((self.path / f"{match[1]}.{end}").exists() for end in ("journal", "parquet")):
                path.unlink()  # no episode in it was ever whole
            elif re.fullmatch(r"(\d{5,}(\.states)?\.parquet|dataset\.json)\.tmp", path.name):
                path.unlink()


def _append_to(path: Path) -> BinaryIO:
    return open(path, "ab", buffering=0)


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _require_same(stored: WorldSpec, given: WorldSpec, path: Path) -> None:
    """Raise `SpecError` unless episodes of `given` may join those of `stored`."""
    for name in ("streams", "action", "env"):
        old, new = to_json(getattr(stored, name)), to_json(getattr(given, name))
        if old != new:
            raise SpecError(
                f"the dataset at {path} has {name} = {old}, but the new episodes have {new}. Write them to another "
                "folder."
            )


def _lock(folder: Path) -> BinaryIO:
    """Take the folder's lock; the system drops it when the process ends, however it ends."""
    file = _append_to(folder / ".lock")
    try:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        file.close()
        raise DatasetError(f"another process is writing to {folder}; wait for it, or write elsewhere.") from None
    return file
