"""How a dataset lies on disk, and how every byte of it is checked when it is read.

    dataset.json          format version, WorldSpec, list of finished segments with the hashes of their tables
    00000.frames          zstd chunks, one after another: for each episode, for each stream, its frames in order
    00000.parquet         one row an episode: actions, rewards, flags, seed, where its chunks lie, their CRC-32
    00000.states.parquet  one row a saved simulator state (only when there are any)
    00001.frames, 00001.journal   the segment being written: the same rows as a log of checksummed records

A chunk holds 16 frames of an image stream, or 256 of a vector or text stream, and never frames of two episodes.
An episode exists once its journal record is whole; the record is written after the chunks. Closing the writer turns
the journal into Parquet and then names the segment in `dataset.json`, each by writing a temporary file, syncing it
and renaming it. Killing the writer at any point therefore costs at most the episode in flight. A power cut can also
cost what was not yet synced (about a second): trailing episodes that are cut, or of which a page holds only zeros
because it never reached the disk, are not there. Whatever else fails its checksum was damaged later, and is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..config import from_json, to_json
from ..errors import ConfigError, DamagedData, DatasetError, SpecError
from ..files import atomic
from ..spec import WorldSpec
from .chunks import REMEDY, StreamCodec

FORMAT = 1
ROW_CHUNK = 256
"""Frames in a chunk of a vector or text stream."""

_MAGIC = b"TERRELLA"
_RECORD = struct.Struct("<8sQ8s")
_PAGE = 4096  # what a system writes out at a time
_LEAST_ZEROS = 16  # fewer at a page's edge may be content
log = logging.getLogger("terrella.data")

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),  # hash of the episode's content
        ("steps", pa.int32()),
        ("seed", pa.int64()),
        ("terminated", pa.bool_()),  # of the last transition; the others are false
        ("truncated", pa.bool_()),
        ("actions", pa.large_list(pa.float64())),  # T rows of W, flattened
        ("rewards", pa.large_list(pa.float32())),
        ("info", pa.string()),  # JSON
        ("start", pa.int64()),  # where the first chunk begins in the .frames file
        ("sizes", pa.large_list(pa.int32())),
        ("checks", pa.large_list(pa.uint32())),
        ("state_frames", pa.list_(pa.int32())),
        ("states", pa.list_(pa.large_binary())),  # zstd; in the journal only, then in .states.parquet
    ]
)
STATES_ROW_GROUP = 64
STATES_SCHEMA = pa.schema([("episode", pa.int32()), ("frame", pa.int32()), ("state", pa.large_binary())])


@dataclass(frozen=True)
class Layout:
    """What a dataset holds and how it is cut into chunks. `chunk_frames` is for images."""

    spec: WorldSpec
    chunk_frames: int = 16

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise DatasetError(f"chunk_frames is {self.chunk_frames}; a chunk holds at least one frame.")
        if not self.spec.streams:
            raise SpecError("the spec has no streams; a dataset needs at least one to record.")

    @cached_property
    def codecs(self) -> tuple[StreamCodec, ...]:
        """One codec a stream, in the order in which their chunks lie."""
        return tuple(
            StreamCodec(name, stream, self.chunk_frames if stream.kind == "image" else ROW_CHUNK)
            for name, stream in self.spec.streams.items()
        )


@dataclass(frozen=True)
class Segment:
    """A finished segment, as `dataset.json` names it; `table` and `states` are hashes of its Parquet files."""

    name: str
    episodes: int
    steps: int
    bytes: int
    table: str
    states: str = ""


@dataclass(frozen=True)
class Manifest:
    """The content of `dataset.json`."""

    layout: Layout
    segments: tuple[Segment, ...] = ()
    format: int = FORMAT


@dataclass
class Packed:
    """One episode ready to be appended: its row (without `start`) and its chunks joined."""

    row: dict[str, Any]
    chunks: bytes

    @property
    def steps(self) -> int:
        """Transitions T."""
        return self.row["steps"]


def digest(data: bytes | memoryview) -> str:
    """Return a 64-bit BLAKE2b hash in hex."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `dataset.json` with a checksum over its content."""
    body = to_json(manifest)
    totals = {key: sum(getattr(s, key) for s in manifest.segments) for key in ("episodes", "steps", "bytes")}
    text = json.dumps({"checksum": _checksum(body), "totals": totals, **body}, indent=1)
    with atomic(folder / "dataset.json") as partial:
        partial.write_bytes(text.encode())


def read_manifest(folder: Path) -> Manifest:
    """Read `dataset.json`; raises `DatasetError` when there is none, `DamagedData` when it fails its checksum."""
    path = folder / "dataset.json"
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(
            f"there is no dataset at {folder} (no dataset.json). Make one with terrella.record."
        ) from None
    except ValueError as error:
        raise DamagedData(f"{path} is not valid JSON: {error}. Restore it from a copy.") from error
    if not isinstance(body, dict) or not isinstance(body.get("format"), int):
        raise DamagedData(f"{path} does not describe a dataset. Restore it from a copy.")
    if body["format"] != FORMAT:
        raise DatasetError(
            f"{path} has format {body['format']}; this version reads {FORMAT}. Install a matching version."
        )
    checksum, _ = body.pop("checksum", None), body.pop("totals", None)
    if checksum != _checksum(body):
        raise DamagedData(f"{path} fails its checksum: it was damaged or edited. Restore it from a copy.")
    try:
        return from_json(Manifest, body)
    except (ConfigError, SpecError) as error:
        raise DamagedData(f"{path} cannot be read: {error}") from error


def _checksum(body: Any) -> str:
    return digest(json.dumps(body, sort_keys=True).encode())


def record_bytes(row: dict[str, Any]) -> bytes:
    """Turn a row into one journal record: magic, length, hash, then an Arrow stream."""
    batch = pa.RecordBatch.from_pylist([row], schema=SCHEMA)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_batch(batch)
    payload = sink.getvalue()
    return _RECORD.pack(_MAGIC, len(payload), bytes.fromhex(digest(payload))) + payload


def read_journal(folder: Path, name: str, damage: list[str] | None = None) -> pa.Table:
    """Read the whole episodes of an unfinished segment; what an interrupted write left is left out with a warning.

    Raises `DamagedData` for a record that was written whole and no longer fits its checksum; with a list `damage`,
    notes it there instead and leaves its episode out.
    """
    path = folder / f"{name}.journal"
    data = path.read_bytes()
    batches: list[pa.RecordBatch] = []
    at = number = 0
    while at < len(data):
        payload = _payload(data, at)
        if payload is not None:
            with pa.ipc.open_stream(pa.py_buffer(payload)) as stream:
                batches.extend(stream)
            at += _RECORD.size + len(payload)
        else:
            following = _next_record(data, at + 1)
            if following == len(data) and _interrupted(data, at):
                log.warning(
                    "%s ends in the middle of an episode (its writer was stopped, or is at it); it is left out.", path
                )
                break
            message = f"record {number} of {path} (episode {number} of its segment) fails its checksum. {REMEDY}"
            if damage is None:
                raise DamagedData(message)
            damage.append(message)
            at = following
        number += 1
    batches = _without_torn_chunks(folder / f"{name}.frames", batches)
    return pa.Table.from_batches(batches, schema=SCHEMA)


def _payload(data: bytes, at: int) -> memoryview | None:
    """Return what the record at byte `at` holds, None where there is no whole one."""
    if len(data) - at < _RECORD.size:
        return None
    magic, size, check = _RECORD.unpack_from(data, at)
    payload = memoryview(data)[at + _RECORD.size : at + _RECORD.size + size]
    return payload if magic == _MAGIC and len(payload) == size and digest(payload) == check.hex() else None


def _next_record(data: bytes, at: int) -> int:
    """Return where the first whole record from byte `at` on begins, the end of `data` if there is none."""
    while (at := data.find(_MAGIC, at)) >= 0:
        if _payload(data, at) is not None:
            return at
        at += 1
    return len(data)


def _interrupted(data: bytes, at: int) -> bool:
    """Whether the last record, at byte `at` and not whole, can be what a stopped writer or a power cut left."""
    rest = memoryview(data)[at:]
    if len(rest) < _RECORD.size:
        return True
    magic, size, check = _RECORD.unpack_from(rest)
    payload = rest[_RECORD.size :]
    if digest(payload) == check.hex():
        return False  # all was written: its length or its mark are what is wrong
    return (magic == _MAGIC and len(payload) < size) or _unwritten(rest, at)


def _unwritten(data: bytes | memoryview, at: int) -> bool:
    """Whether a page of `data`, which lies at byte `at` of its file, never reached the disk, and so reads as zeros."""
    edges = [at, *range(at - at % _PAGE + _PAGE, at + len(data), _PAGE), at + len(data)]
    pages = (bytes(data[first - at : last - at]) for first, last in pairwise(edges))
    return any(len(page) >= _LEAST_ZEROS and not any(page) for page in pages)


def _without_torn_chunks(path: Path, batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Drop trailing episodes whose chunks did not reach the disk; those damaged later are named when they are read."""
    if not path.exists():
        if batches:
            raise DamagedData(f"{path} is missing. {REMEDY}")
        return []
    with open(path, "rb") as file:
        while batches and _torn(file, batches[-1].select(["start", "sizes", "checks"]).to_pylist()[0]):
            log.warning("%s: the last episode did not reach the disk whole; it is left out.", path)
            batches = batches[:-1]
    return batches


def _torn(file: BinaryIO, row: dict[str, Any]) -> bool:
    """Whether chunks of an episode are not all there."""
    at = row["start"]
    file.seek(at)
    for size, check in zip(row["sizes"], row["checks"]):
        chunk = file.read(size)
        if zlib.crc32(chunk) != check and (len(chunk) < size or _unwritten(chunk, at)):
            return True
        at += size
    return False


def finish_segment(folder: Path, name: str, table: pa.Table) -> Segment:
    """Write the rows of a segment as Parquet files and return what `dataset.json` shall say of it."""
    states = {"episode": [], "frame": [], "state": []}
    for episode, (frames, blobs) in enumerate(
        zip(table["state_frames"].to_pylist(), table["states"].to_pylist(), strict=True)
    ):
        states["episode"] += [episode] * len(frames)
        states["frame"] += frames
        states["state"] += blobs
    states_digest = ""
    if states["frame"]:
        states_table = pa.table(states, schema=STATES_SCHEMA)
        states_digest = _write_parquet(folder / f"{name}.states.parquet", states_table, STATES_ROW_GROUP, "none")
    return Segment(
        name=name,
        episodes=table.num_rows,
        steps=int(np.sum(table["steps"].to_numpy())),
        bytes=(folder / f"{name}.frames").stat().st_size,
        table=_write_parquet(folder / f"{name}.parquet", table.drop_columns(["states"]), 4096, "zstd"),
        states=states_digest,
    )


def _write_parquet(path: Path, table: pa.Table, row_group: int, compression: str) -> str:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group, compression=compression)
    data = sink.getvalue()
    with atomic(path) as partial:
        partial.write_bytes(data)
    return digest(data)


def load_rows(folder: Path, damage: list[str] | None = None) -> tuple[Layout, list[Segment], pa.Table]:
    """Read the index of a dataset: its layout, its segments, and one row an episode.

    The rows are `SCHEMA` (states only where they are still in a journal, else null) and `segment`, `row`: where an
    episode is. Raises `DamagedData` for a table or a record that fails its hash; with a list `damage`, notes it there
    instead and leaves out the segment of the table, or the episode of the record.
    """
    for _ in range(5):  # a writer may seal the journal between our two looks; then look again
        manifest = read_manifest(folder)
        try:
            return manifest.layout, *_load_segments(folder, manifest, damage)
        except FileNotFoundError:
            continue
    raise DatasetError(f"the dataset at {folder} changes too fast to be opened; try again.")


def _load_segments(folder: Path, manifest: Manifest, damage: list[str] | None) -> tuple[list[Segment], pa.Table]:
    sealed = {segment.name for segment in manifest.segments}
    journals = sorted(p.stem for p in folder.glob("*.journal") if p.stem not in sealed)
    segments, tables = [], []
    for segment in [*manifest.segments, *(Segment(name, 0, 0, 0, "") for name in journals)]:
        try:
            if segment.name in sealed:
                table = read_segment(folder, segment)
                table = table.append_column(SCHEMA.field("states"), pa.nulls(len(table), SCHEMA.field("states").type))
            else:
                table = read_journal(folder, segment.name, damage)
        except DamagedData as error:
            if damage is None:
                raise
            damage.append(str(error))
            continue
        table = table.append_column("segment", pa.array(np.full(len(table), len(segments), np.int32)))
        tables.append(table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32))))
        segments.append(segment)
    schema = pa.schema([*SCHEMA, ("segment", pa.int32()), ("row", pa.int32())])
    rows = pa.concat_tables([t.select(schema.names) for t in tables]) if tables else schema.empty_table()
    return segments, rows


def read_segment(folder: Path, segment: Segment) -> pa.Table:
    """Read the rows of a finished segment; raises `DamagedData` when the file is missing or fails its hash."""
    path = folder / f"{segment.name}.parquet"
    # Without threads: Arrow's pools, once started, can abort a process at its exit next to other libraries' pools.
    return pq.ParquetFile(pa.BufferReader(checked_bytes(path, segment.table))).read(use_threads=False)


def read_states(path: Path, row: int) -> list[bytes]:
    """Read the compressed states of an episode, the `row`-th of its segment, in the order of their frames."""
    with pq.ParquetFile(path) as file:
        episodes = file.read(["episode"], use_threads=False)["episode"].to_numpy()
        at = np.flatnonzero(episodes == row)
        groups = np.unique(at // STATES_ROW_GROUP)
        states = file.read_row_groups(groups.tolist(), ["state"], use_threads=False)["state"]
        # An episode's rows are neighbours, hence so are their groups: only those before the first are missing.
        return [states[int(i)].as_py() for i in at - groups[0] * STATES_ROW_GROUP]


def checked_bytes(path: Path, expected: str) -> bytes:
    """Read a whole file and compare its hash; raises `DamagedData`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedData(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
    if digest(data) != expected:
        raise DamagedData(f"{path} fails its checksum: it was damaged or cut. {REMEDY}")
    return data
