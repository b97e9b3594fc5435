"""Sessions' states at rest, each under a key that is a hash of the session's whole past.

The key of a start hashes the world, the engine's settings, the seed and the frames that were given; each action hashes
onto it. Equal pasts have equal keys and are stored once, and a state never meets another world. Hash chains of what was
said, instead of hashes of states, after LMCache (Liu et al., arXiv 2510.09665), whose chains run over tokens; here an
action and the denoising steps of its frame are a link.

A snapshot is two safetensors files, in a folder or in any other store (`stores`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..engine import Engine, State
from ..errors import ServingError
from .stores import Blobs


def first_key(about: Mapping[str, object], observations: Mapping[str, np.ndarray], rows: np.ndarray) -> str:
    """The key of a session that starts from these frames, under what else decides its future (JSON values)."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(observations):
        array = np.ascontiguousarray(observations[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    digest.update(np.ascontiguousarray(rows, np.float64).tobytes())
    return digest.hexdigest()


def next_key(key: str, row: np.ndarray, steps: int | None) -> str:
    """The key after one more action, a flat row, whose frame took so many denoising steps."""
    link = f"{key} {steps} ".encode() + np.ascontiguousarray(row, np.float64).tobytes()
    return hashlib.sha256(link).hexdigest()


def parted_key(key: str, salt: str) -> str:
    """A key of its own for a session whose state is no function of its past, from a random `salt`."""
    return hashlib.sha256(f"{key} {salt}".encode()).hexdigest()


class Snapshots:
    """States and what was shown with them, as files of a store."""

    def __init__(self, blobs: Blobs):
        self._blobs = blobs

    def __contains__(self, key: str) -> bool:
        return self._blobs.size(_shot(key)) is not None  # written last

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(self._blobs.size(name) or 0 for name in self._blobs.names())

    def put(self, key: str, state: State, shown: Mapping[str, np.ndarray], numbers: Mapping[str, object]) -> int:
        """Store a state of one session with the frame shown and its numbers (JSON values), unless it is there.

        Returns the bytes that it takes. A snapshot that cannot be written leaves nothing behind.
        """
        if key in self:
            return 0
        try:
            with self._blobs.writing(_state(key)) as path:
                state.save(path)
            with self._blobs.writing(_shot(key)) as path:
                arrays = {name: np.ascontiguousarray(value) for name, value in shown.items()}
                save_file(arrays, path, {"terrella": json.dumps(dict(numbers))})
        except BaseException:
            self._blobs.remove(_state(key))
            raise
        return (self._blobs.size(_state(key)) or 0) + (self._blobs.size(_shot(key)) or 0)

    def get(self, key: str, engine: Engine) -> tuple[State, dict[str, np.ndarray], dict[str, Any]]:
        """Return a state, the frame shown and its numbers; raises `ServingError` or `StateError` if it cannot."""
        try:
            with self._blobs.reading(_shot(key)) as path, safe_open(str(path), "np") as file:
                numbers = json.loads((file.metadata() or {})["terrella"])
                shown = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ServingError(f"snapshot {key[:12]} cannot be read: {error}; begin a new session.") from error
        with self._blobs.reading(_state(key)) as path:
            return engine.load_state(path), shown, numbers

    def drop(self, key: str) -> int:
        """Delete a snapshot, if it is there; return the bytes that it took."""
        return self._blobs.remove(_shot(key)) + self._blobs.remove(_state(key))

    def retain(self, keys: Container[str]) -> None:
        """Delete all snapshots but those of these keys."""
        for name in self._blobs.names():
            key, _, kind = name.partition(".")
            if kind in ("state", "shot") and key not in keys:
                self._blobs.remove(name)


def _state(key: str) -> str:
    return f"{key}.state"


def _shot(key: str) -> str:
    return f"{key}.shot"
