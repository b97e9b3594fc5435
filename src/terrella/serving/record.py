"""The journal of one session as its player writes it; `keeper` carries that to the disk, and the player never waits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import State
from .journal import act

if TYPE_CHECKING:
    from .keeper import Keeper


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
