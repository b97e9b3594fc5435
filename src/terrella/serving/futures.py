"""What plans would bring: branches of a session, imagined side by side for somebody who asks; the session stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine import Frame, State
from .dispatch import Dispatcher
from .session import Session


@dataclass(frozen=True)
class Future:
    """What one plan of T actions would bring: rewards and chances of an end `(T,)`, and the last frame's streams."""

    reward: np.ndarray
    end: np.ndarray
    observation: dict[str, np.ndarray]


class Futures:
    """Branches of a session's present, as many as are stepped together; a frame further at each `advance`.

    rows: plans `(B, T, W)`. A plan brings what the session would show if it were carried out: chance is the session's
    own. Raises what `Engine.step` raises.
    """

    def __init__(self, session: Session, rows: np.ndarray) -> None:
        self._engine, self._steps, self._rows = session.served.engine, session.steps, rows
        self._state: State = session.state().fork(len(rows))
        self._frames: list[Frame] = []

    def __len__(self) -> int:
        return len(self._rows)

    def advance(self, dispatcher: Dispatcher) -> bool:
        """Take one action in each branch, on the engine thread; whether there are more to take."""
        del dispatcher
        at = len(self._frames)
        self._state, frame = self._engine.step(self._state, self._rows[:, at], steps=self._steps)
        self._frames.append(frame)
        return at + 1 < self._rows.shape[1]

    def found(self) -> Sequence[Future]:
        """What each plan has brought."""
        reward, end = (np.stack([getattr(f, name) for f in self._frames], 1) for name in ("reward", "terminated"))
        last = self._frames[-1].observation
        return [Future(reward[i], end[i], {k: v[i] for k, v in last.items()}) for i in range(len(reward))]
