"""An episode in the making, compressed as it grows, so that a long one never lies in memory raw."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard

from ..actions import width
from ..errors import DatasetError, SpecError
from .chunks import StreamCodec
from .store import Layout, Packed, digest


class Draft:
    """An episode in the making: `o_0` first, then `step` for each transition, then `pack`.

    first: stream -> frame `o_0`. seed: what the environment was reset with. level: zstd level.
    """

    def __init__(self, layout: Layout, first: Mapping[str, Any], seed: int | None = None, level: int = 3) -> None:
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise DatasetError(f"seed {seed} does not fit 64 bits; use a smaller one.")
        self.layout = layout
        self.seed = seed
        self.info: dict[str, Any] = {}
        self._width = width(layout.spec.action)
        self._streams = [_StreamDraft(codec, zstandard.ZstdCompressor(level=level)) for codec in layout.codecs]
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._terminated = self._truncated = False
        self._states: dict[int, bytes] = {}
        self._append(first)

    def __len__(self) -> int:
        """Transitions so far."""
        return len(self._actions)

    def step(
        self, action: np.ndarray, observation: Mapping[str, Any], reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Append the transition that `action`, a row `(W,)`, made: it leads to `observation`.

        Raises `SpecError` when a stream is missing or of another shape, `DatasetError` after the episode's end.
        """
        if self._terminated or self._truncated:
            raise DatasetError("the episode has ended; begin another draft from the observation after the reset.")
        if np.shape(action) != (self._width,):
            raise SpecError(f"action row has shape {np.shape(action)}; this dataset holds rows of ({self._width},).")
        self._append(observation)
        self._actions.append(np.array(action, np.float64))
        self._rewards.append(float(reward))
        self._terminated, self._truncated = bool(terminated), bool(truncated)

    def save_state(self, state: bytes) -> None:
        """Keep the simulator's state at the newest frame."""
        self._states[len(self)] = self._compressor.compress(state)

    def truncate(self) -> None:
        """Say that the episode was cut after its newest transition."""
        self._truncated = not self._terminated

    def pack(self) -> Packed:
        """Return the whole episode, ready for `Writer.commit`; raises `DatasetError` when it has no transition."""
        if not self._actions:
            raise DatasetError("the episode has no transition; an episode is at least o_0, a_0, o_1.")
        for stream in self._streams:
            stream.flush()
        try:
            info = json.dumps(self.info)
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"the episode's info is not JSON: {error}. Keep numbers, strings, lists, dicts."
            ) from error
        actions, rewards = np.concatenate(self._actions), np.array(self._rewards, np.float32)
        blobs = [blob for stream in self._streams for blob in stream.blobs]
        row = {
            "steps": len(self),
            "seed": self.seed,
            "terminated": self._terminated,
            "truncated": self._truncated,
            "actions": actions,
            "rewards": rewards,
            "info": info,
            "sizes": [len(b) for b in blobs],
            "checks": [zlib.crc32(b) for b in blobs],
            "state_frames": list(self._states),
            "states": list(self._states.values()),
        }
        # The uid is a hash of what happened (not of the compressed bytes, which change with the zstd version): equal
        # episodes get equal uids, hence the same side of the held-out split.
        raw_checks = np.array([c for stream in self._streams for c in stream.raw_checks], "<u4")
        ends = bytes([self._terminated, self._truncated])
        row["uid"] = digest(b"".join([raw_checks.tobytes(), actions.tobytes(), rewards.tobytes(), ends]))
        return Packed(row, b"".join(blobs))

    def _append(self, observation: Mapping[str, Any]) -> None:
        if observation.keys() != self.layout.spec.streams.keys():
            raise SpecError(
                f"observation has the streams {sorted(observation)}; this dataset holds "
                f"{sorted(self.layout.spec.streams)}."
            )
        checked = [stream.codec.check(observation[stream.codec.name]) for stream in self._streams]
        for stream, frame in zip(self._streams, checked):
            stream.append(frame)


class _StreamDraft:
    """Collects the frames of one stream and compresses them a chunk at a time."""

    def __init__(self, codec: StreamCodec, compressor: zstandard.ZstdCompressor) -> None:
        self.codec = codec
        self.blobs: list[bytes] = []
        self.raw_checks: list[int] = []
        self._compressor = compressor
        self._buffer = np.empty((codec.chunk, *codec.shape), codec.dtype)
        self._filled = 0

    def append(self, frame: Any) -> None:
        self._buffer[self._filled] = frame  # a copy: environments may reuse their arrays
        self._filled += 1
        if self._filled == self.codec.chunk:
            self.flush()

    def flush(self) -> None:
        if self._filled:
            raw = self.codec.pack(self._buffer[: self._filled])
            self.raw_checks.append(zlib.crc32(raw))
            self.blobs.append(self._compressor.compress(raw))
            self._filled = 0
