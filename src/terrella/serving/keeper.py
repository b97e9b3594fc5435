"""What outlives a connection and a crash: sessions' journals and snapshots, written by a thread beside the engine's.

The engine thread only hands over lines and copies of states. Journals reach the operating system every `PERIOD`
seconds, so a server that is killed loses less than a second of play (a machine that loses its power, what the operating
system had not written yet). A session belongs to whoever holds its token, of which only a hash is kept.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import State
from ..errors import ServingError
from .journal import Past, act, read_journal
from .moves import PATIENCE, adopt, journal_name, locked, set_adrift
from .snapshots import Snapshots

log = logging.getLogger("terrella.serving")
PERIOD = 0.25  # seconds between two writings of a journal


class Record:
    """The journal of one session, open for writing. Made by `Keeper.record`; its methods never wait for the disk."""

    def __init__(self, keeper: Keeper, path: Path, keys: set[str]):
        self._keeper, self.path, self.keys = keeper, path, keys

    def amend(self, **about: Any) -> None:
        """Note how the session runs: JSON values by name."""
        self._keeper.write(self, {"open": about})

    def start(self, frame: int, key: str, seed: int) -> None:
        """Note that the session begins at this frame, whose snapshot is kept beside."""
        self._keeper.write(self, {"start": [frame, key, seed]})

    def act(self, row: np.ndarray, steps: int | None, mark: str) -> None:
        """Note one frame, and the hash of what it showed."""
        self._keeper.write(self, act(row, steps, mark))

    def back(self, frame: int) -> None:
        """Note a rewind."""
        self._keeper.write(self, {"back": frame})

    def keep(
        self, frame: int, key: str, state: State, shown: Mapping[str, np.ndarray], numbers: Mapping[str, object]
    ) -> None:
        """Keep a snapshot of a frame. `state` belongs to the keeper from now on."""
        self._keeper.put(self, key, state, shown, numbers)
        self._keeper.write(self, {"keep": [frame, key]})


class Keeper:
    """Journals and snapshots under one folder; `start` before the engine, `close` when the server ends.

    Sessions untouched for `days` are deleted when a keeper begins. store: the folder that holds this one and those of
    other servers, from which sessions are taken over (see `moves`). Raises `ServingError` while another server keeps
    its sessions there.
    """

    def __init__(self, folder: str | Path, *, days: float = 7.0, store: Path | None = None):
        self._home, self._store = Path(folder), store
        self._lock = locked(self._home, patience=0.0 if store is None else PATIENCE)
        self._folder = self._home / "sessions"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.snapshots = Snapshots(self._home / "snapshots")
        self._wake = threading.Condition()
        self._lines: dict[Path, list[str]] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._used: Counter[str] = Counter()  # how many journals name a snapshot
        self._asked = self._written = self._done = 0
        self._gone: set[Path] = set()
        self._begun: set[Path] = set()  # journals that are there, unless they were closed or taken away
        self._stopping = False
        self._sweep(time.time() - days * 86400)
        self._thread = threading.Thread(target=self._run, name="terrella-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def record(self, token: str, past: Past | None = None) -> Record:
        """Begin the journal of a session, with a past that another one has had until now."""
        record = Record(self, self._path(token), set())
        if past is not None:
            for line in past.lines():
                self.write(record, line)
            self._name(record, past.kept.values())
        return record

    def resume(self, token: str) -> tuple[Past, Record]:
        """Return the past of a session and its journal, to go on with; raises `ServingError` for a token unknown."""
        path = self._path(token)
        self._settle(lambda: self._written)
        if path in self._gone:
            raise ServingError("this session was closed; open a new one.")
        foreign = self._store is not None and not path.exists()
        if foreign and self._store is not None:
            adopt(self._store, self._home, path.name)
        past = read_journal(path)
        if "world" not in past.about:
            raise ServingError("this session was lost as it began; open a new one.")
        self._mend(path)
        record = Record(self, path, set() if foreign else set(past.kept.values()))
        self._begun.add(path)
        self._name(record, past.kept.values())  # those of a journal that was here are counted already
        return past, record

    def branch(self, record: Record, token: str, frame: int) -> Record:
        """Begin the journal of a fork: the past of `record` until `frame`, whose snapshots both share."""
        self._settle(lambda: self._written)
        past = read_journal(record.path)
        past.back(frame)
        return self.record(token, past)

    def forget(self, record: Record) -> None:
        """Delete a session and the snapshots that no other one needs, soon."""
        with self._wake:
            self._gone.add(record.path)
        self._part(record, lambda: record.path.unlink(missing_ok=True))

    def release(self, record: Record, then: Callable[[], None]) -> None:
        """Let another server of the store have a session, soon, once all of it is written; then call `then`.

        Raises `ServingError` for a keeper without a store.
        """
        store, home = self._store, self._home
        if store is None:
            raise ServingError("this server shares its sessions with no other one.")

        def let_go() -> None:
            try:
                set_adrift(store, home, record.path.name)
            finally:
                then()

        self._part(record, let_go)

    def write(self, record: Record, line: Mapping[str, Any]) -> None:
        """Append a line, soon."""
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self._wake:
            self._lines.setdefault(record.path, []).append(text)

    def put(
        self,
        record: Record,
        key: str,
        state: State,
        shown: Mapping[str, np.ndarray],
        numbers: Mapping[str, object],
    ) -> None:
        """Store a snapshot, soon; a key that is stored already is only noted."""
        self._name(record, [key])
        with self._wake:
            self._jobs.append(lambda: self.snapshots.put(key, state, shown, numbers))
            self._wake.notify()

    def flush(self) -> None:
        """Wait until everything handed over so far is written, snapshots too."""
        self._settle(lambda: self._done)

    def close(self) -> None:
        """Write what is left and end."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        self._lock.close()

    # inside

    def _part(self, record: Record, act: Callable[[], None]) -> None:
        """Do something that takes a journal away, then delete the snapshots that no other one names."""

        def part() -> None:
            act()
            with self._wake:
                self._gone.discard(record.path)
                self._begun.discard(record.path)
                self._used.subtract(record.keys)
                gone = [key for key in record.keys if self._used[key] <= 0]
                for key in gone:
                    del self._used[key]
            for key in gone:
                self.snapshots.drop(key)

        with self._wake:
            self._jobs.append(part)
            self._wake.notify()

    def _settle(self, done: Callable[[], int]) -> None:
        """Wait until what was handed over is done; journals (`_written`) do not wait for snapshots."""
        with self._wake:
            self._asked += 1
            mine = self._asked
            self._wake.notify_all()
            while done() < mine and self._thread.is_alive():
                self._wake.wait(PERIOD)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._jobs or self._asked > self._done):
                    self._wake.wait(PERIOD)
                lines, self._lines = self._lines, {}
                job = self._jobs.popleft() if self._jobs else None
                more, asked, stopping = bool(self._jobs), self._asked, self._stopping
            for path, texts in lines.items():
                self._attempt(lambda path=path, texts=texts: self._append(path, "".join(texts)))
            with self._wake:
                self._written = asked
                self._wake.notify_all()
            if job is not None:  # one at a time: journals do not wait for many snapshots
                self._attempt(job)
            if not more:
                with self._wake:
                    self._done = asked
                    self._wake.notify_all()
                if stopping:
                    return

    def _attempt(self, act: Callable[[], None]) -> None:
        """A full disk costs the past of sessions, not the present."""
        try:
            act()
        except Exception:
            log.exception("a session could not be kept")

    def _name(self, record: Record, keys: Iterable[str]) -> None:
        with self._wake:
            new = set(keys) - record.keys
            record.keys |= new
            self._used.update(new)

    def _path(self, token: str) -> Path:
        return self._folder / journal_name(token)

    def _append(self, path: Path, text: str) -> None:
        """Append to a journal; one that was begun and is not there any more has been taken over, and is let be."""
        try:
            begun = os.open(path, os.O_WRONLY | os.O_APPEND | (0 if path in self._begun else os.O_CREAT), 0o666)
        except FileNotFoundError:
            log.warning("another server goes on with session %s", path.stem[:8])
            return
        with os.fdopen(begun, "a", encoding="utf-8") as file:
            file.write(text)
        self._begun.add(path)

    def _mend(self, path: Path) -> None:
        """Cut off a last line that a crash has left half written, before others are appended to it."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)

    def _sweep(self, oldest: float) -> None:
        for path in self._folder.glob("*.jsonl"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    continue
                self._used.update(set(read_journal(path).kept.values()))
            except (OSError, ServingError) as error:
                log.warning("%s is left out: %s", path.name, error)
        self.snapshots.retain(self._used)
