"""Shared moments in a remote store: journals that nobody plays, which a server with an empty folder has again.

Their snapshots were handed to the store before they were, and it sends in order.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import ServingError
from ..files import atomic
from .journal import read_journal
from .remote import Remote


class Moments:
    """The moments of `remote`, each of which has its journal in `folder` as well, from which it is played.

    Without a remote store they are in the folder alone, and there is nothing to do.
    """

    def __init__(self, remote: Remote | None, folder: Path):
        self._remote, self._folder = remote, folder

    def restore(self) -> None:
        """Have the journals of all moments in the folder; raises `ServingError` where the store does not give one."""
        for remote, name in self._missing():
            with remote.reading(name) as moment, atomic(self._folder / name) as path:
                shutil.copyfile(moment, path)

    def put(self, path: Path) -> int:
        """Store a moment; returns the bytes that it takes. Raises `ServingError` where its journal is not whole yet."""
        if self._remote is None:
            return 0
        if not read_journal(path).moment:  # the last line says so
            raise ServingError("this moment's journal is not written yet.")
        with self._remote.writing(path.name) as copy:
            shutil.copyfile(path, copy)
        return self._remote.size(path.name) or 0

    def drop(self, path: Path) -> int:
        """Delete a moment from the store, if it is there; returns the bytes that it took."""
        return 0 if self._remote is None else self._remote.remove(path.name)

    def retain(self) -> None:
        """Delete those that have no journal in the folder any more."""
        for remote, name in self._missing():
            remote.remove(name)

    def _missing(self) -> list[tuple[Remote, str]]:
        names = [] if self._remote is None else self._remote.names()
        lost = [name for name in names if name.endswith(".jsonl") and not (self._folder / name).exists()]
        return [(self._remote, name) for name in lost if self._remote is not None]
