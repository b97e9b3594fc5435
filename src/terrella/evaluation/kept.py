"""Results of a suite at rest: one file each, made anew only where the settings differ that it was made under."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EntrantError
from ..files import atomic

FORMAT = 1  # of a suite's results


@dataclass(frozen=True)
class Kept:
    """A folder of results, each beside the settings it was made under; None keeps nothing.

    claim: whether the result of a measurement and entrant, by name, is to be made here and not in another process.
    """

    folder: Path | None
    claim: Callable[[str, str], bool] = lambda measurement, entrant: True

    def get(self, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
        """The result made under these settings, from the folder if it is there, and whether it was.

        Raises `EntrantError` for one that is not made here.
        """
        plain = json.loads(json.dumps(settings))
        if not self.claim(plain["measurement"]["name"], plain["entrant"]["name"]):
            raise EntrantError("another process makes this result.")
        path = None if self.folder is None else self.folder / _file(plain)
        if path is not None and path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                found = {}
            if found.get("settings") == plain:
                return found["result"], True
        began = time.perf_counter()
        result = {**make(), "seconds": round(time.perf_counter() - began, 1)}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as unfinished:
                unfinished.write_text(json.dumps({"settings": plain, "result": result}) + "\n", encoding="utf-8")
        return result, False


def _file(settings: dict[str, Any]) -> str:
    """Name a result: measurement, entrant, and a hash that keeps names that look alike apart."""
    names = (settings["measurement"]["name"], settings["entrant"]["name"])
    short = "-".join("".join(c if c.isalnum() else "-" for c in name.lower())[:40] for name in names)
    return f"{short}-{hashlib.blake2b(repr(names).encode(), digest_size=4).hexdigest()}.json"
