"""What a session has been through, as lines of JSON that are only ever appended: enough to live it again.

    {"open": {...}}                 the world and how the session runs; later ones amend it
    {"start": [frame, key, seed]}   it begins here, from the snapshot of that key; at frame 0 nothing before counts
    {"act": [row, steps, mark]}     one frame, and the hash of what it showed (see `moment.Shot.mark`)
    {"back": frame}                 what came after this frame is forgotten
    {"keep": [frame, key]}          there is a snapshot of this frame

A last line that was cut off by a crash is left out.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ServingError

log = logging.getLogger("terrella.serving")
MOMENT = "moment"  # what the journal of a shared moment says about itself


@dataclass
class Past:
    """A session's past as its journal tells it.

    rows: the actions of all frames, with their denoising steps. marks: the hashes of what came of them, None where the
    journal has none. kept: frame -> key of its snapshot. starts: frames that no action led to, 0 and those at which
    true frames were put in place.
    """

    about: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    rows: list[tuple[np.ndarray, int | None]] = field(default_factory=list)
    marks: list[str | None] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    starts: set[int] = field(default_factory=set)

    @property
    def moment(self) -> bool:
        """Whether nobody plays it: it was kept for others, who go on from it in sessions of their own."""
        return bool(self.about.get(MOMENT))

    @property
    def frame(self) -> int:
        """The present frame."""
        return len(self.rows)

    def take(self, line: dict[str, Any]) -> None:
        """Go through one line; raises `ValueError`, `TypeError` or `KeyError` for one that makes no sense."""
        ((kind, value),) = line.items()
        if kind == "open":
            self.about.update(value)
        elif kind == "start":
            frame, key, self.seed = value
            self.back(frame)
            if frame == 0:
                self.kept, self.starts = {}, set()
            self.kept[frame] = key
            self.starts.add(frame)
        elif kind == "act":
            row, steps, *mark = value
            self.rows.append((np.asarray(row, np.float64), steps))
            self.marks.append(mark[0] if mark else None)
        elif kind == "back":
            self.back(value)
        elif kind == "keep":
            self.kept[value[0]] = value[1]
        else:
            raise ValueError(kind)

    def lines(self) -> list[dict[str, Any]]:
        """Write this past as the shortest journal that tells it."""
        found: list[dict[str, Any]] = [{"open": self.about}]
        for frame in range(len(self.rows) + 1):
            if frame in self.starts:
                found.append({"start": [frame, self.kept[frame], self.seed]})
            elif frame in self.kept:
                found.append({"keep": [frame, self.kept[frame]]})
            found += [act(*self.rows[frame], self.marks[frame])] if frame < len(self.rows) else []
        return found

    def back(self, frame: int) -> None:
        """Forget what came after `frame`; raises `ValueError` where it is not in the past."""
        if not 0 <= frame <= len(self.rows):
            raise ValueError(f"frame {frame} of {len(self.rows)}")
        del self.rows[frame:], self.marks[frame:]
        self.kept = {at: key for at, key in self.kept.items() if at <= frame}
        self.starts = {at for at in self.starts if at <= frame}

    def reach(self, there: Container[str]) -> int:
        """Return the last frame whose snapshot is `there` and from which the actions lead to the present.

        Where a start lacks its snapshot, what came of it is forgotten. Raises `ServingError` if nothing is left.
        """
        while self.starts:
            found = max((at for at, key in self.kept.items() if key in there), default=-1)
            last = max(self.starts)
            if found >= last:
                return found
            if last == 0:
                break
            self.back(last - 1)
        raise ServingError("no snapshot of this session is left; open a new one.")


def act(row: np.ndarray, steps: int | None, mark: str | None = None) -> dict[str, Any]:
    """The line of one frame."""
    return {"act": [[float(number) for number in row], steps, *([mark] if mark else [])]}


def read_journal(path: Path) -> Past:
    """Read a journal; raises `ServingError` for one that is absent or damaged elsewhere than at its end."""
    past = Past()
    for _ in retell(path, past):
        pass
    return past


def retell(path: Path, past: Past) -> Iterator[tuple[str, Any]]:
    """Yield kind and value of every line of a journal, each once `past` has taken it; raises as `read_journal`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError("this session is not kept here; open a new one.") from error
    for number, line in enumerate(text.split("\n")[:-1], 1):  # what follows the last line's end was cut off
        try:
            said = json.loads(line)
            past.take(said)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ServingError(f"line {number} of this session's journal is damaged; open a new one.") from error
        yield from said.items()


def append(path: Path, text: str, *, create: bool) -> int:
    """Append whole lines, all or none of them; returns their bytes.

    create: whether a journal that is not there is begun. Raises `OSError`, `FileNotFoundError` where it is not.
    """
    data, written = text.encode(), 0
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | (os.O_CREAT if create else 0), 0o666)
    with os.fdopen(opened, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)
            raise
    return written


def mend(path: Path) -> None:
    """Cut off a last line that a crash has left half written, before others are appended to it."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def sweep(folder: Path, age: float) -> Counter[str]:
    """Delete journals that are older than the newest by `age` seconds; return how many others name each snapshot.

    Ages are differences of the files' own times, so a clock that was set wrong deletes nothing.
    """
    times, used = {path: path.stat().st_mtime for path in folder.glob("*.jsonl")}, Counter[str]()
    newest = max(times.values(), default=0.0)
    for path, touched in times.items():
        try:
            if touched < newest - age:
                path.unlink()
            else:
                used.update(set(read_journal(path).kept.values()))
        except (OSError, ServingError) as error:
            log.warning("%s is left out: %s", path.name, error)
    return used
