"""Sessions that change servers: a journal belongs to the folder it lies in, and whoever renames it has the session.

    store/<server>/lock, sessions/<hash of a hash of the token>.jsonl, snapshots/<key>...
    store/adrift/...

Every server of a store keeps its sessions in a folder of its own, whose lock it holds while it lives. Of a server that
is dead the others take what they are asked for; a living one sets sessions `adrift` for them. Renaming is the one act
that decides: of two servers that want a session one succeeds, and what a server still wants to write into a journal
that was taken from it is dropped.

A token names the root of its fork tree, `<8 hex digits>.<secret>`, so that placement can keep a tree together. To
watch a session takes `<root>.watch-<hash of the token>`, of which the journal's name is the hash: it finds the session,
and neither does a token follow from it nor it from a file's name.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ServingError
from ..files import atomic
from .journal import read_journal

ADRIFT = "adrift"
PATIENCE = 3.0  # seconds that a server which begins waits for its folder: others may be taking sessions from there
MOMENT = 0.3  # seconds to wait for a folder before its server counts as alive, for the same reason
ROOT = re.compile(r"[0-9a-f]{8}")
WATCH = re.compile(r"[0-9a-f]{8}\.watch-[0-9a-f]{64}")


def new_token(root: str = "") -> str:
    """A secret for a session: of this fork tree, or of a new one where `root` is not the name of any."""
    return f"{root if ROOT.fullmatch(root) else secrets.token_hex(4)}.{secrets.token_urlsafe(24)}"


def root_of(token: str) -> str:
    """The name of the fork tree that a token belongs to; for a text that is no token of ours, one of its own."""
    root = token.partition(".")[0]
    return root if ROOT.fullmatch(root) else _digest(token)[:8]


def watch_token(token: str) -> str:
    """What others may have of a session's token: the right to watch it, always the same."""
    return f"{root_of(token)}.watch-{_digest(token)}"


def is_watch(token: str) -> bool:
    """Whether a token is for watching alone."""
    return WATCH.fullmatch(token) is not None


def journal_name(token: str) -> str:
    """The file of a session's journal, which tells nobody its token."""
    return f"{_digest(watch_token(token))}.jsonl"


def locate(store: Path, token: str) -> str | None:
    """The folder of a store in which a session is, to be played or watched; None where nobody has it."""
    name = f"{_digest(token)}.jsonl" if is_watch(token) else journal_name(token)
    found = [path.parents[1].name for path in store.glob(f"*/sessions/{name}")]
    return found[0] if found else None


def locked(folder: Path, *, patience: float = 0.0) -> IO[str]:
    """Hold the lock of a server's folder until the file is closed, or the process killed.

    Raises `ServingError` where another process holds it for longer than `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, until = (folder / "lock").open("w"), time.monotonic() + patience
    if os.name != "posix":
        return file
    import fcntl

    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if time.monotonic() >= until:
                file.close()
                raise ServingError(
                    f"another server keeps its sessions in {folder}; stop it, or choose another folder."
                ) from error
        time.sleep(0.05)


def alive(folder: Path) -> bool:
    """Whether a server holds this folder."""
    try:
        with locked(folder):
            return False
    except ServingError:
        return True


def adopt(store: Path, mine: Path, name: str) -> None:
    """Take a journal, with its snapshots, from a dead server's folder or from those adrift, if it is there.

    Raises `ServingError` where a living server has it.
    """
    for path in store.glob(f"*/sessions/{name}"):
        theirs = path.parents[1]
        if theirs == mine:
            return
        with _held(theirs):
            transfer(theirs, mine, name)


def set_adrift(store: Path, mine: Path, name: str) -> None:
    """Let go of a journal: whoever is asked for it next may take it."""
    adrift = store / ADRIFT
    with _held(adrift):
        transfer(mine, adrift, name)


def transfer(source: Path, target: Path, name: str) -> None:
    """Move a journal and the snapshots it names from one folder to another; nothing where it is gone by now.

    The snapshots are there before the journal is. Both folders' locks must be held.
    """
    journal = source / "sessions" / name
    if not journal.exists():
        return
    for folder in ("sessions", "snapshots"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for key in set(read_journal(journal).kept.values()):
        for path in (source / "snapshots" / f"{key}.state", source / "snapshots" / f"{key}.shot"):
            _link(path, target / "snapshots" / path.name)
    os.replace(journal, target / "sessions" / name)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _link(path: Path, copy: Path) -> None:
    """Have a file under another name as well; one that is missing stays so, a session can do without some of them."""
    with suppress(FileExistsError, FileNotFoundError):
        try:
            os.link(path, copy)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, (FileExistsError, FileNotFoundError)):
                raise
            with atomic(copy) as partial:
                shutil.copyfile(path, partial)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        lock = locked(folder, patience=MOMENT)
    except ServingError as error:
        raise ServingError("this session is on another server; ask there.") from error
    with lock:
        yield


__all__ = [
    "ADRIFT",
    "adopt",
    "alive",
    "is_watch",
    "journal_name",
    "locate",
    "locked",
    "new_token",
    "root_of",
    "set_adrift",
    "watch_token",
]
