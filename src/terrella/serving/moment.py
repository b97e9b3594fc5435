"""What a session shows at a frame, and what it keeps of one to come back to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..engine import State
from .truth import Mark, TrueFrame

NUMBERS = ("frame", "reward", "score", "end", "ended")


@dataclass(frozen=True)
class Shot:
    """What there is to show at one frame: streams without batch axis, and the true environment's side if it runs.

    `end` is the predicted probability that the episode ends here; `score` the sum of predicted rewards; `gap` the mean
    absolute difference between world and truth, images scaled to 0..1; `said` the sentence that led here.
    """

    frame: int
    observation: dict[str, np.ndarray]
    reward: float = 0.0
    score: float = 0.0
    end: float = 0.0
    ended: bool = False
    truth: TrueFrame | None = None
    gap: float | None = None
    said: str = ""

    def mark(self) -> str:
        """The hash of what the world shows, raw and before any codec: 64 bits of BLAKE2b over the streams by name."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(self.observation):
            digest.update(np.ascontiguousarray(self.observation[name]).data)
        return digest.hexdigest()

    def numbers(self) -> dict[str, float]:
        """What of it is numbers of the world's own, by name."""
        return {name: getattr(self, name) for name in NUMBERS}


@dataclass(frozen=True)
class Keyframe:
    """A moment to come back to, under the key of its past.

    Its state is only ever copied, never stepped, so sessions may share it. Shot and state are None where they rest in a
    store under the key.
    """

    frame: int
    key: str
    shot: Shot | None = None
    state: State | None = None
    truth: Mark | None = None


def gap(seen: dict[str, np.ndarray], true: TrueFrame) -> float:
    """Mean absolute difference, over images if there are any (0..1), else over vectors (in their own units)."""
    images = [name for name, a in seen.items() if a.dtype == np.uint8]
    gaps = []
    for name in images or list(seen):
        difference = np.abs(seen[name].astype(np.float32) - true.observation[name].astype(np.float32))
        gaps.append(float(difference.mean()) / (255.0 if images else 1.0))
    return float(np.mean(gaps))
