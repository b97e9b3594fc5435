"""Finished files in any filesystem that fsspec knows: `s3://bucket/prefix`, `sftp://host/path`, `file:///mnt/nfs`, ...

Files are put there under a temporary name and then moved, so that nobody sees half of one: file servers rename in one
act, object stores copy a whole object.

A store may be slow, fail, or never answer; that stops nobody. What is written is in a folder of this machine first, the
outbox, from which a thread sends it in order. What is read is waited for no longer than `PATIENCE`, and while one
reading hangs others are refused at once.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import ServingError, did_you_mean
from ..files import atomic

log = logging.getLogger("terrella.serving")
PATIENCE = 2.0  # seconds for which others wait while a file is fetched
START = 30.0  # seconds in which a store must say what it holds
SLOW = 30.0  # seconds after which a file that is still being sent counts as a failure
RETRY = 1.0  # seconds until a file that could not be sent is tried again; twice as long each time, up to 64 times
SILENT = "the store of sessions does not answer; try again later."
PART = ".part"  # after the name of a file that is not whole yet
OWNER = "owner"  # the file by which a store knows whose it is
T = TypeVar("T")


class Remote:
    """Blobs of one server in the filesystem that `url` names, on their way there in the folder `outbox`.

    Credentials come from where fsspec and its packages look for them (the environment, files of the user), never from
    the URL. What is in the outbox already is sent; `failures` counts what could not be. A store belongs to the folder
    beside which the outbox lies. Raises `ServingError` for a URL that is not understood, a store that does not answer,
    or one that is another folder's.
    """

    def __init__(self, url: str, outbox: str | Path):
        _check(url)
        self.url, self._outbox = url, Path(outbox)
        self._outbox.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix="terrella-", ignore_cleanup_errors=True)
        self._coming: tuple[str, Future[Path]] | None = None
        self._here = threading.Lock()  # while a file of the outbox is read or deleted
        self._turn = threading.Condition()
        self._stopping, self._began = False, float("inf")
        self.failures = self._refused = 0  # all, and those in a row
        begun = _begin(self._open)
        try:
            self._known = begun.result(START)
        except TimeoutError:
            raise ServingError(f"the store {self.url} does not answer; start the server when it does.") from None
        except ServingError:
            raise
        except Exception as error:  # every package has errors of its own
            raise ServingError(f"the store {self.url} cannot be used: {_said(error)}.") from error
        waiting = sorted(self._outbox.iterdir(), key=lambda path: path.stat().st_mtime_ns)  # as they were written
        self._queue = deque(path.name for path in waiting if path.suffix != ".tmp")
        self._known |= {name: (self._outbox / name).stat().st_size for name in self._queue}
        threading.Thread(target=self._run, name="terrella-store", daemon=True).start()

    @property
    def failing(self) -> bool:
        """Whether what was written last could not be sent, or is taking longer than it should."""
        return self._refused > 0 or time.monotonic() - self._began > SLOW

    def names(self) -> list[str]:
        """All that there are, here or there."""
        return list(self._known)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none; nobody is asked."""
        return self._known.get(name)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """An empty file to write, which is sent soon."""
        with atomic(self._outbox / name) as path:
            yield path
        self._known[name] = (self._outbox / name).stat().st_size
        self._see_to(name)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A file to read; raises `ServingError` where the store does not give it in time."""
        with self._here:
            if (path := self._outbox / name).exists():
                yield path
                return
        path = self._fetched(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def remove(self, name: str) -> int:
        """Delete a file, if it is there, soon; returns the bytes that it took."""
        size = self._known.pop(name, None)
        if size is None:
            return 0
        with self._here:
            (self._outbox / name).unlink(missing_ok=True)
        self._see_to(name)
        return size

    def flush(self, seconds: float) -> bool:
        """Wait until all is sent, so long at most; whether it is."""
        with self._turn:
            return self._turn.wait_for(lambda: not self._queue, seconds)

    def close(self, seconds: float) -> None:
        """Send what waits, for so long at most; what is left waits in the outbox for the next server."""
        if not self.flush(seconds):
            log.warning("%d files wait to be sent to the store; the next server sends them", len(self._queue))
        with self._turn:
            self._stopping = True
            self._turn.notify_all()

    # inside

    def _open(self) -> dict[str, int]:
        """Connect; return the sizes of what the store holds, once it is ours."""
        from fsspec.core import url_to_fs

        fs, root = self._fs, self._root = url_to_fs(self.url, skip_instance_cache=True)
        self._reader, _ = url_to_fs(self.url, skip_instance_cache=True)  # two threads may not share a connection
        with suppress(FileExistsError):
            fs.mkdir(root, create_parents=False)
        found = list[dict[str, Any]]()
        with suppress(FileNotFoundError):  # object stores know no empty folder
            found = [info for info in fs.ls(root, detail=True) if info["type"] == "file"]
        fs.invalidate_cache()  # what was listed is not true for long
        known = {info["name"].rsplit("/", 1)[-1]: int(info["size"]) for info in found}
        mine = self._outbox.with_name(OWNER)
        if known.pop(OWNER, None) is None:
            with atomic(mine) as path:
                path.write_text(secrets.token_hex(16))
            fs.pipe_file(f"{root}/{OWNER}", mine.read_bytes())
        elif not mine.exists() or mine.read_bytes() != fs.cat_file(f"{root}/{OWNER}"):
            raise ServingError(
                f"the store {self.url} is that of another folder's sessions; give every server one of its own, or "
                f"delete the file {OWNER!r} there, so that this one goes on with it."
            )
        for name in [name for name in known if name.endswith(PART)]:  # it was killed as it sent that
            fs.rm_file(f"{root}/{name}")
            del known[name]
        return known

    def _see_to(self, name: str) -> None:
        with self._turn:
            self._queue.append(name)
            self._turn.notify_all()

    def _run(self) -> None:
        """Make the store like what is known here, a name at a time and in order; what fails is tried until it works."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                name, self._began = self._queue[0], time.monotonic()
            try:
                self._settle(name)
            except Exception as error:
                self.failures += 1
                self._refused += 1
                if self._refused == 1:
                    log.error("%s could not be sent to the store (%s); it waits here", name, _said(error))
                with self._turn:
                    self._began = float("inf")
                    self._turn.wait_for(lambda: self._stopping, RETRY * 2 ** min(self._refused - 1, 6))
                continue
            with self._turn:
                self._queue.popleft()
                self._refused, self._began = 0, float("inf")
                self._turn.notify_all()

    def _settle(self, name: str) -> None:
        """Have one file in the store if it is known here, and not there if it is not."""
        waiting, there = self._outbox / name, f"{self._root}/{name}"
        if name not in self._known:
            with suppress(FileNotFoundError):
                self._fs.rm_file(there)
        elif waiting.exists():
            self._fs.put_file(str(waiting), there + PART)
            self._fs.mv(there + PART, there)
            with self._here:
                waiting.unlink(missing_ok=True)

    def _fetched(self, name: str) -> Path:
        """The path of a copy, made within `PATIENCE`. What takes longer is there for who asks again."""
        with self._turn:
            if self._coming is not None and self._coming[0] != name and self._coming[1].done():
                (Path(self._scratch.name) / self._coming[0]).unlink(missing_ok=True)
                self._coming = None
            if self._coming is None:
                self._coming = name, _begin(lambda: self._fetch(name))
            elif not self._coming[1].done():
                raise ServingError(SILENT)
            fetched = self._coming[1]
        try:
            path = fetched.result(PATIENCE)
        except Exception as error:
            if not fetched.done():
                raise ServingError(SILENT) from None
            self._coming = None
            raise ServingError(f"{name} is not to be had from the store of sessions: {_said(error)}.") from None
        self._coming = None
        return path

    def _fetch(self, name: str) -> Path:
        path = Path(self._scratch.name) / name
        self._reader.get_file(f"{self._root}/{name}", str(path))
        return path


def _check(url: str) -> None:
    """Raise `ServingError` for a URL that has a secret in it, and does not say it, or needs what is not there."""
    import fsspec

    parts, known = urlsplit(url), {*fsspec.available_protocols(), *fsspec.registry}
    if parts.password is not None or parts.query:
        raise ServingError(
            "a store's URL has no password and no question mark; credentials come from the environment, as the "
            f"package for {parts.scheme}:// reads them."
        )
    if parts.scheme not in known:
        raise did_you_mean(parts.scheme, known, "protocol of a store")
    try:
        fsspec.get_filesystem_class(parts.scheme)
    except ImportError as error:
        raise ServingError(f"{parts.scheme}:// needs a package that is not installed: {error}.") from error


def _said(error: BaseException) -> str:
    """The kind of an error alone: what libraries say of a request may have its signature in it."""
    return type(error).__name__


def _begin(act: Callable[[], T]) -> Future[T]:
    """Do something on a thread of its own, since it may never end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="terrella-fetch", daemon=True).start()
    return future
