"""Results of a suite at rest: one file each, made anew only where the settings differ that it was made under."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import EntrantError
from ..files import atomic

FORMAT = 1  # of a suite's results


class Shelf(Protocol):
    """Where results rest, texts by name."""

    def read(self, name: str) -> str | None:
        """The text of that name, None where there is none."""
        ...

    def write(self, name: str, text: str) -> None:
        """Keep a text, whole or not at all."""
        ...


@dataclass(frozen=True)
class Folder:
    """A shelf that is a folder, a file a text."""

    path: Path

    def read(self, name: str) -> str | None:
        """Read a file."""
        file = self.path / name
        return file.read_text(encoding="utf-8") if file.exists() else None

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic(self.path / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Kept:
    """Results on a shelf, each beside the settings it was made under; None keeps nothing.

    claim: whether the result of a measurement and entrant, by name, is to be made here and not in another process.
    """

    shelf: Shelf | None
    claim: Callable[[str, str], bool] = lambda measurement, entrant: True

    def get(self, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
        """The result made under these settings, from the shelf if it is there, and whether it was.

        Raises `EntrantError` for one that is not made here.
        """
        plain = json.loads(json.dumps(settings))
        if not self.claim(plain["measurement"]["name"], plain["entrant"]["name"]):
            raise EntrantError("another process makes this result.")
        name = _file(plain)
        text = None if self.shelf is None else self.shelf.read(name)
        if text is not None:
            try:
                found = json.loads(text)
            except ValueError:
                found = {}
            if found.get("settings") == plain:
                return found["result"], True
        began = time.perf_counter()
        result = {**make(), "seconds": round(time.perf_counter() - began, 1)}
        if self.shelf is not None:
            self.shelf.write(name, json.dumps({"settings": plain, "result": result}) + "\n")
        return result, False


def _file(settings: dict[str, Any]) -> str:
    """Name a result: measurement, entrant, and a hash that keeps names that look alike apart."""
    names = (settings["measurement"]["name"], settings["entrant"]["name"])
    short = "-".join("".join(c if c.isalnum() else "-" for c in name.lower())[:40] for name in names)
    return f"{short}-{hashlib.blake2b(repr(names).encode(), digest_size=4).hexdigest()}.json"
