"""Frames to compressed chunks and back. Every chunk read is checked before it is decoded.

One chunk is one zstd frame of up to `StreamCodec.chunk` frames of one stream of one episode. Neighbouring frames
resemble one another, so that 16 together are several times smaller than 16 alone, and still quick to open at random.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from ..errors import DamagedData, SpecError
from ..spec import StreamSpec

REMEDY = (
    "Restore it from a copy, or keep the intact episodes with terrella.data.salvage(dataset, new_folder); "
    "terrella.data.verify lists all damage."
)
_OPEN_FILES = 128


@dataclass(frozen=True)
class StreamCodec:
    """Turns frames of one stream into bytes and back. `chunk` is how many frames a chunk holds."""

    name: str
    spec: StreamSpec
    chunk: int

    @property
    def dtype(self) -> np.dtype:
        """uint8 for images, little-endian float32 for vectors, object for text."""
        return np.dtype({"image": "u1", "vector": "<f4", "text": "O"}[self.spec.kind])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame, `()` for text."""
        return self.spec.shape if self.spec.kind != "text" else ()

    def check(self, frame: Any) -> Any:
        """Return one frame in the stored type; raises `SpecError` when it does not fit the stream."""
        if self.spec.kind == "text":
            if isinstance(frame, str):
                return frame
            raise SpecError(f"stream {self.name!r} is text, but a frame is a {type(frame).__name__}.")
        array = np.asarray(frame)
        wrong = array.dtype != np.uint8 if self.spec.kind == "image" else array.dtype.kind not in "fiub"
        if array.shape != self.shape or wrong:
            raise SpecError(
                f"stream {self.name!r} has a frame of shape {array.shape} and type {array.dtype}; this dataset holds "
                f"{self.spec.kind}s of shape {self.shape} and type {self.dtype.name}. Record it into another dataset, "
                "or convert it first."
            )
        return array

    def pack(self, frames: np.ndarray) -> bytes:
        """Turn frames `(n, ...)` into bytes, uncompressed."""
        if self.spec.kind == "text":
            return json.dumps(list(frames)).encode()
        return np.ascontiguousarray(frames, self.dtype).tobytes()

    def unpack(self, raw: bytes, frames: int) -> np.ndarray:
        """Turn bytes into `(frames, ...)`; raises `ValueError` when they do not fit."""
        if self.spec.kind != "text":
            return np.frombuffer(raw, self.dtype).reshape(frames, *self.shape)
        texts = json.loads(raw)
        if not isinstance(texts, list) or len(texts) != frames:
            raise ValueError("not a list of texts")
        return np.array([*texts, None], object)[:-1]  # the None keeps numpy from making a string array


def compress(raw: bytes, level: int = 3) -> bytes:
    """Compress to one zstd frame that knows its own size."""
    return zstandard.ZstdCompressor(level=level).compress(raw)


class ChunkReader:
    """Reads, checks and decompresses pieces of `.frames` files; safe to use from several threads.

    A file is read by position rather than mapped: a file that is cut while mapped would kill the process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()
        self._local = threading.local()

    def read(self, name: str, offset: int, size: int, check: int) -> bytes:
        """Return the decompressed bytes of a chunk; raises `ValueError` in words when they are not what was written."""
        data = self._open(name).read(offset, size)
        if len(data) != size:
            raise ValueError(f"the file ends {size - len(data)} bytes too early")
        if zlib.crc32(data) != check:
            raise ValueError("its checksum differs")
        return self.decompress(data)

    def decompress(self, data: bytes) -> bytes:
        """Decompress one zstd frame; raises `ValueError` when it is none."""
        decompressor = getattr(self._local, "zstd", None)
        if decompressor is None:  # a decompressor serves one thread at a time
            decompressor = self._local.zstd = zstandard.ZstdDecompressor()
        try:
            return decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise ValueError(f"it cannot be decompressed ({error})") from error

    def _open(self, name: str) -> _File:
        with self._lock:
            file = self._files.get(name)
            if file is None:
                path = self.folder / f"{name}.frames"
                try:
                    file = _File(path)
                except OSError as error:
                    raise DamagedData(f"{path} cannot be opened ({error.strerror}). {REMEDY}") from error
                self._files[name] = file
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(name)
            return file


class _File:
    """A file open for reading by position; closed when the last thread that uses it lets go."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        if sys.platform == "win32":
            with self._lock:
                os.lseek(self._fd, offset, os.SEEK_SET)
                return os.read(self._fd, size)
        return os.pread(self._fd, size, offset)

    def __del__(self) -> None:
        if (fd := getattr(self, "_fd", None)) is not None:  # absent when opening failed
            os.close(fd)


class ChunkCache:
    """The most recently used decompressed chunks, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._chunks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int) -> np.ndarray | None:
        """Return the chunk with this number, or None."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: int, chunk: np.ndarray) -> None:
        """Keep a chunk, letting go of those unused for longest."""
        if chunk.nbytes > self.limit:
            return
        with self._lock:
            if key in self._chunks:
                return
            self._chunks[key] = chunk
            self.nbytes += chunk.nbytes
            while self.nbytes > self.limit:
                self.nbytes -= self._chunks.popitem(last=False)[1].nbytes
