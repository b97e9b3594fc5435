"""Where finished files rest that nobody changes any more: a folder, or a filesystem of another kind (`remote`).

Whoever looks finds a file whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from ..files import atomic


class Blobs(Protocol):
    """Files by name; `writing` and `reading` give the path of a file of this machine for as long as the block lasts."""

    def names(self) -> list[str]:
        """All that there are."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """An empty file to write; it is there once the block has ended without raising."""
        ...

    def reading(self, name: str) -> AbstractContextManager[Path]:
        """A file to read, which may not exist; raises `ServingError` where the store does not give it."""
        ...

    def remove(self, name: str) -> int:
        """Delete a file, if it is there; returns the bytes that it took."""
        ...


class Folder:
    """Blobs in a folder of this machine."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._path.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """All that there are."""
        return [path.name for path in self._path.iterdir()]

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            return (self._path / name).stat().st_size
        except FileNotFoundError:
            return None

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """An empty file to write; see `files.atomic`."""
        return atomic(self._path / name)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A file to read, which may not exist."""
        yield self._path / name

    def remove(self, name: str) -> int:
        """Delete a file, if it is there; returns the bytes that it took."""
        size = self.size(name)
        (self._path / name).unlink(missing_ok=True)
        return size or 0
