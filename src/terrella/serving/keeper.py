"""What outlives a connection and a crash: sessions' journals and snapshots, written by a thread beside the engine's.

The engine thread only hands over lines and copies of states. Journals reach the operating system every `PERIOD`
seconds, so a server that is killed loses less than a second of play (a machine that loses its power, what the operating
system had not written yet). A session belongs to whoever holds its token, of which only a hash is kept.

A store that fails or hangs costs the past of sessions, never their present. Lines of journals wait in memory until they
can be written, whole; a journal for which too much waits ends there, for good, so that none has a gap.

Journals grow four times a second and are always in the folder. What never changes again, snapshots and shared moments,
may rest in a store of another kind (`remote`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from ..engine import State
from ..errors import ServingError
from .journal import MOMENT, Past, append, mend, read_journal, sweep
from .moments import Moments
from .moves import PATIENCE as TAKEOVER
from .moves import adopt, journal_name, locked, set_adrift
from .record import Record
from .remote import Remote
from .snapshots import Snapshots
from .stores import Folder

log = logging.getLogger("terrella.serving")
PERIOD = 0.25  # seconds between two writings of a journal
PATIENCE = 2.0  # seconds for which others wait for a store that does not answer
RECENT = 10.0  # seconds for which a failure counts as the present state of the store
LINES = 2**18  # characters of a journal that wait at most
STATES = 2**28  # bytes of snapshots that wait at most


class Keeper:
    """Journals and snapshots under one folder; `start` before the engine, `close` when the server ends.

    Sessions that lie for `days` are deleted when a keeper begins, and the oldest that nobody plays when all together
    take more than `most` bytes. `stored` are the bytes that they take. store: the folder that holds this one and those
    of other servers, from which sessions are taken over (see `moves`). url: of a store for snapshots and moments, for a
    server alone. Raises `ServingError` while another server keeps its sessions there, and what `Remote` raises.
    """

    def __init__(
        self, folder: str | Path, *, days: int = 7, most: int = 2**40, store: Path | None = None, url: str | None = None
    ):
        self._home, self._store = Path(folder), store
        self._folder = self._home / "sessions"
        try:
            self._lock = locked(self._home, patience=0.0 if store is None else TAKEOVER)
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServingError(f"sessions cannot be kept in {folder}: {error.strerror}; choose another.") from error
        try:
            self._remote = None if url is None else Remote(url, self._home / "snapshots")
        except ServingError:
            self._lock.close()
            raise
        self._moments = Moments(self._remote, self._folder)
        self.snapshots = Snapshots(self._remote or Folder(self._home / "snapshots"))
        self._wake = threading.Condition()
        self._lines: dict[Path, list[str]] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._open: WeakSet[Record] = WeakSet()
        self._asked = self._written = self._done = self._waiting = 0
        self._gone: set[Path] = set()
        self._cut: set[Path] = set()
        self._begun: set[Path] = set()  # journals that are there, unless they were closed or taken away
        self._failed = float("-inf")
        self._began: float | None = None
        self._stopping = False
        self._most, self._failures = most, 0
        self._moments.restore()
        self._used = sweep(self._folder, days * 86400)  # how many journals name a snapshot
        self.snapshots.retain(self._used)
        self._moments.retain()
        self.stored = self._measured()
        self._thread = threading.Thread(target=self._run, name="terrella-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def failing(self) -> bool:
        """Whether a writing has failed lately, or one takes longer than it should."""
        began, now = self._began, time.monotonic()
        late = began is not None and now - began > PATIENCE
        return late or now - self._failed < RECENT or (self._remote is not None and self._remote.failing)

    @property
    def failures(self) -> int:
        """How many writings have failed."""
        return self._failures + (0 if self._remote is None else self._remote.failures)

    def record(self, token: str, past: Past | None = None) -> Record:
        """Begin the journal of a session, with a past that another one has had until now."""
        record = self._opened(self._path(token), set())
        if past is not None:
            for line in past.lines():
                self.write(record, line)
            self._name(record, past.kept.values())
        return record

    def resume(self, token: str) -> tuple[Past, Record]:
        """Return the past of a session and its journal, to go on with; raises `ServingError` for a token unknown."""
        path = self._path(token)
        record = self._opened(path, set())  # from here on it is not deleted to make room
        foreign = self._adopted(path)
        past = self._past(path)
        if path in self._gone:
            raise ServingError("this session was closed; open a new one.")
        if "world" not in past.about:
            raise ServingError("this session was lost as it began; open a new one.")
        if path.exists():
            mend(path)
            self._begun.add(path)
        self._cut.discard(path)  # whoever goes on from here says so: there will be no gap
        if foreign:
            self._name(record, past.kept.values())
        else:  # they are counted already
            record.keys = set(past.kept.values())
        return past, record

    def branch(self, record: Record, token: str, frame: int) -> Record | None:
        """Begin the journal of a fork: the past of `record` until `frame`, whose snapshots both share.

        None where the store does not answer, or has lost that past: the fork is not kept then.
        """
        try:
            past = self._past(record.path)
            past.back(frame)
        except (ServingError, ValueError) as error:
            log.warning("a fork is not kept: %s", error)
            return None
        return self.record(token, past)

    def share(self, record: Record, token: str, frame: int) -> bool:
        """Keep a moment of `record`, at `frame`, for whoever has the token; whether the store answers."""
        moment = self.branch(record, token, frame)
        if moment is None:
            return False
        moment.amend(**{MOMENT: True})

        def store() -> None:
            self.stored += self._moments.put(moment.path)

        self._soon(store)  # once it is written, as its snapshots are
        return True

    def forget(self, record: Record) -> None:
        """Delete a session and the snapshots that no other one needs, soon."""
        with self._wake:
            self._gone.add(record.path)
        self._soon(lambda: self._delete(record.path, record.keys))

    def release(self, record: Record, then: Callable[[], None]) -> None:
        """Let another server of the store have a session, soon, once all of it is written; then call `then`.

        Raises `ServingError` for a keeper without a store.
        """
        store, home, path = self._store, self._home, record.path
        if store is None:
            raise ServingError("this server shares its sessions with no other one.")

        def let_go() -> None:
            try:
                size = path.stat().st_size
                set_adrift(store, home, path.name)
                self.stored -= size
                self._unname(path, record.keys)
            finally:
                then()

        self._soon(let_go)

    def write(self, record: Record, line: Mapping[str, Any]) -> None:
        """Append a line, soon."""
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self._wake:
            if record.path not in self._cut:
                self._lines.setdefault(record.path, []).append(text)

    def put(
        self,
        record: Record,
        key: str,
        state: State,
        shown: Mapping[str, np.ndarray],
        numbers: Mapping[str, object],
    ) -> None:
        """Store a snapshot, soon; a key that is stored already is only noted.

        It is left out where too many wait already: a session then plays more frames again when it comes back.
        """
        self._name(record, [key])
        size = state.nbytes

        def store() -> None:
            try:
                if key not in self.snapshots:
                    self._make_room(size)
                    self.stored += self.snapshots.put(key, state, shown, numbers)
            finally:
                with self._wake:
                    self._waiting -= size

        with self._wake:
            if self._waiting + size > STATES:
                self._failures += 1
                return
            self._waiting += size
        self._soon(store)

    def flush(self) -> None:
        """Wait until everything handed over so far is written, snapshots too."""
        self._settle(lambda: self._done)

    def close(self) -> None:
        """Write what is left and end."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(5 * PATIENCE)
        if self._thread.is_alive():
            log.error("the store does not answer; what was not written yet is lost")
        if self._remote is not None:
            self._remote.close(5 * PATIENCE)
        self._lock.close()

    # inside

    def _soon(self, job: Callable[[], None]) -> None:
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def _settle(self, done: Callable[[], int]) -> None:
        """Wait until what was handed over is done; journals (`_written`) do not wait for snapshots.

        Raises `ServingError` where one writing takes longer than `PATIENCE`.
        """
        with self._wake:
            self._asked += 1
            mine = self._asked
            self._wake.notify_all()
            while done() < mine and self._thread.is_alive():
                if self._began is not None and time.monotonic() - self._began > PATIENCE:
                    raise ServingError("the place where sessions are kept does not answer; try again later.")
                self._wake.wait(PERIOD)

    def _past(self, path: Path) -> Past:
        """The past of a session, with what could not be written yet; raises `ServingError` where there is none."""
        self._settle(lambda: self._written)
        with self._wake:
            waiting = list(self._lines.get(path, []))
        past = read_journal(path) if path.exists() or not waiting else Past()
        for text in waiting:
            past.take(json.loads(text))
        return past

    def _adopted(self, path: Path) -> bool:
        """Take a session over that is not here from another server's folder; whether it came from there."""
        if self._store is None:
            return False
        self._settle(lambda: self._written)
        with self._wake:
            ours = path in self._lines or path in self._gone
        if ours or path.exists():
            return False
        adopt(self._store, self._home, path.name)
        self.stored = self._measured()
        return True

    def _measured(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir()) + self.snapshots.nbytes

    def _opened(self, path: Path, keys: set[str]) -> Record:
        record = Record(self, path, keys)
        with self._wake:
            self._open.add(record)
        return record

    def _run(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._jobs or self._asked > self._done):
                    self._wake.wait(PERIOD)
                lines, self._lines = self._lines, {}
                job = self._jobs.popleft() if self._jobs else None
                more, asked, stopping = bool(self._jobs), self._asked, self._stopping
            for path, texts in lines.items():
                if not self._attempt("journal", lambda path=path, texts=texts: self._append(path, "".join(texts))):
                    self._hold_back(path, texts)
            with self._wake:
                self._written = asked
                self._wake.notify_all()
            if job is not None:  # one at a time: journals do not wait for many snapshots
                self._attempt("snapshot", job)
            if not more:
                with self._wake:
                    self._done = asked
                    self._wake.notify_all()
                if stopping:
                    return

    def _attempt(self, what: str, act: Callable[[], None]) -> bool:
        """Whether it could be done; of failures in a row only the first is logged."""
        self._began = time.monotonic()
        try:
            act()
        except Exception:
            self._failures += 1
            known, self._failed = time.monotonic() - self._failed < RECENT, time.monotonic()
            if not known:
                log.exception("a %s could not be written; sessions go on, and may be lost with this server", what)
            return False
        finally:
            self._began = None
        return True

    def _append(self, path: Path, text: str) -> None:
        """Append lines; a journal that another server has taken over is let be."""
        self._make_room(len(text))
        try:
            self.stored += append(path, text, create=self._store is None or path not in self._begun)
        except FileNotFoundError:
            if self._store is None or not self._folder.exists():
                raise
            return log.warning("another server goes on with session %s", path.stem[:8])
        self._begun.add(path)

    def _hold_back(self, path: Path, texts: list[str]) -> None:
        """Let lines that could not be written wait; where they are too many the journal ends."""
        with self._wake:
            waiting = texts + self._lines.pop(path, [])
            if sum(map(len, waiting)) <= LINES:
                self._lines[path] = waiting
            else:
                self._cut.add(path)

    def _make_room(self, size: int) -> None:
        """Delete the oldest sessions that nobody plays until there is room; raises `ServingError` if there is none."""
        if self.stored + size <= self._most:
            return
        with self._wake:
            played = {record.path for record in self._open}
        for path in sorted(set(self._folder.glob("*.jsonl")) - played, key=lambda path: path.stat().st_mtime):
            try:
                keys = set(read_journal(path).kept.values())
            except ServingError:
                keys = set()
            self._delete(path, keys)
            if self.stored + size <= self._most:
                return
        raise ServingError(f"kept sessions take {self.stored} bytes, and {self._most} are the most.")

    def _delete(self, path: Path, keys: set[str]) -> None:
        """Delete a session and the snapshots that no other one needs."""
        if path.exists():
            self.stored -= path.stat().st_size
            path.unlink()
        self.stored -= self._moments.drop(path)
        self._unname(path, keys)

    def _unname(self, path: Path, keys: set[str]) -> None:
        """Forget a journal that is not here any more, and delete the snapshots that no other one names."""
        with self._wake:
            self._gone.discard(path)
            self._begun.discard(path)
            self._cut.discard(path)
            self._lines.pop(path, None)
            self._used.subtract(keys)
            gone = [key for key in keys if self._used[key] <= 0]
            for key in gone:
                del self._used[key]
        for key in gone:
            self.stored -= self.snapshots.drop(key)

    def _name(self, record: Record, keys: Iterable[str]) -> None:
        with self._wake:
            new = set(keys) - record.keys
            record.keys |= new
            self._used.update(new)

    def _path(self, token: str) -> Path:
        return self._folder / journal_name(token)
