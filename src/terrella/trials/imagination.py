"""Any entrant of a suite as a model to plan in: what it needs no method for is done here.

Planners branch a session and look what follows; entrants begin sessions and go on. So a session is what was seen and
done last, as arrays: branching copies them, and each future begins anew from them under the session's seed, as branches
of one moment do everywhere in the suite. All entrants are asked like this, so that none is better for being a world.

    B sessions   S branches   T actions of a future   W numbers an action
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import actions as codec
from ..engine import Frame
from ..errors import EntrantError
from ..evaluation.entrant import Entrant
from ..evaluation.rollout import CHUNK
from ..spec import WorldSpec

PAST = 16  # actions of the past, at most, that an entrant is told with each future


@dataclass(frozen=True)
class Seen:
    """What B sessions have seen and done last: stream -> `(B, c+1, ...)` and float32 `(B, c, W)`, c at most `PAST`.

    seeds, time: int64 `(B,)`, the key of each session's chance and how many frames it has seen in all.
    """

    frames: dict[str, np.ndarray]
    rows: np.ndarray
    seeds: Tensor
    time: Tensor

    @property
    def batch(self) -> int:
        """B."""
        return len(self.rows)

    def fork(self, n: int = 1) -> Seen:
        """Branch each session n times, branches side by side."""
        return self.select(np.repeat(np.arange(self.batch), n).tolist())

    def select(self, indices: Sequence[int]) -> Seen:
        """The sessions at `indices`."""
        index = list(indices)
        frames = {name: v[index] for name, v in self.frames.items()}
        return Seen(frames, self.rows[index], self.seeds[index], self.time[index])


class Imagination:
    """The surface of an engine over an entrant, for planners that ask for whole futures (those that sample).

    A future has the price of its frames, whatever the entrant does for one (`steps` is 1), so that equal budgets are
    equally many futures for all.
    """

    steps = 1

    def __init__(self, entrant: Entrant, spec: WorldSpec):
        self.entrant, self.spec = entrant, spec

    def start(self, observations: Mapping[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Seen:
        """Begin sessions from frames `(B, c+1, ...)`."""
        frames = {name: np.array(observations[name]) for name in self.spec.modelled}
        batch, count = next(iter(frames.values())).shape[:2]
        past = np.zeros((batch, 0, codec.width(self.spec.action))) if actions is None else np.asarray(actions)
        keys = range(int(seeds), int(seeds) + batch) if isinstance(seeds, (int, np.integer)) else seeds
        key, time = torch.tensor([int(k) for k in keys]), torch.full((batch,), count, dtype=torch.int64)
        return Seen(frames, past.astype(np.float32), key, time)

    def observe(self, state: Seen, actions: np.ndarray, observations: Mapping[str, np.ndarray]) -> Seen:
        """Go on with what truly followed actions `(B, W)`."""
        frames = {n: np.concatenate([v, observations[n][:, None]], 1)[:, -PAST - 1 :] for n, v in state.frames.items()}
        rows = np.concatenate([state.rows, np.asarray(actions, np.float32)[:, None]], 1)[:, -PAST:]
        return Seen(frames, rows, state.seeds, state.time + 1)

    def rollout(self, state: Seen, actions: np.ndarray, *, observe: bool = True) -> tuple[Seen, Frame]:
        """Take actions `(B, T, W)` in imagination; the state returned is the one given, as nothing was seen.

        Raises `EntrantError` for numbers that are not finite.
        """
        rows, parts = np.asarray(actions, np.float32), []
        inner = self.entrant.start(state.frames, state.rows, state.seeds.tolist())
        for t in range(0, rows.shape[1], CHUNK):
            inner, frame = self.entrant.rollout(inner, rows[:, t : t + CHUNK])
            require_finite(frame)
            parts.append(frame if observe else Frame({}, frame.reward, frame.terminated))
        seen = {n: np.concatenate([part.observation[n] for part in parts], 1) for n in parts[0].observation}
        reward, ended = (np.concatenate([getattr(part, key) for part in parts], 1) for key in ("reward", "terminated"))
        return state, Frame(seen, reward, np.clip(ended, 0, 1))


def require_finite(frame: Frame) -> None:
    """Raise `EntrantError` for numbers that are not finite."""
    numbers = [frame.reward, frame.terminated, *(v for v in frame.observation.values() if v.dtype != np.uint8)]
    if not all(np.isfinite(values).all() for values in numbers):
        raise EntrantError("rollout gave numbers that are not finite, of which no plan can be made.")
