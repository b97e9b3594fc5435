"""A session in wall-clock time: what is held, when the next frame is due, and how far the client has kept up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..actions import action_space, decode, encode, width
from ..errors import ActionError
from ..spec import ActionSpec
from .limits import Limits
from .moves import watch_token
from .protocol import Action, Opened, Status
from .session import Session
from .video import Video

UNANSWERED = 512  # frames remembered that a client has not acknowledged; who steps by hand need not
REPEAT_AFTER = 0.25  # seconds a held key waits before it repeats, when the world waits for actions


@dataclass
class Press:
    """What the client holds: a row, or none for nothing; `used` once a frame has consumed it."""

    seq: int = 0
    row: np.ndarray | None = None
    used: bool = True


@dataclass(eq=False)
class Player:
    """The clock and the controls of one session.

    With `turns` the world waits for an action before each frame; otherwise the idle action stands in when nothing is
    held. A world without an idle action always waits. A press that is let go before a frame could use it is kept for
    that frame, so that no tap is lost. A player `in_phase` makes its frames at whole multiples of its period, so that
    players of equal speed are due together. `video` is there where the client has its large pictures as H.264. It is
    `watched` by so many others.
    """

    number: int
    session: Session
    limits: Limits
    fps: float
    turns: bool = False
    running: bool = False
    stop_at_end: bool = True
    in_phase: bool = False
    epoch: int = 0
    deadline: float = 0.0
    since: float = 0.0
    stopped: float = 0.0
    token: str = ""
    video: Video | None = None
    watched: int = 0
    seq: int = 0
    in_flight: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=UNANSWERED))
    _held: Press = field(default_factory=Press)
    _tapped: Press | None = None

    def __post_init__(self) -> None:
        noop = self.session.served.spec.noop
        self._idle = None if noop is None else np.asarray(noop, np.float64)
        self.turns = self.turns or self._idle is None

    def press(self, action: Action, now: float = 0.0) -> None:
        """Take what is held from now on; raises `ActionError` when it does not fit the world's actions."""
        blocked = not self.waiting()
        spec = self.session.served.spec.action
        row = None
        if action.text is not None:
            row = encode(spec, action.text)
        elif action.row is not None:
            row = check_row(spec, action.row)
        let_go = row is None or (self._idle is not None and np.array_equal(row, self._idle))
        if let_go and not self._held.used and self._held.row is not None:
            self._tapped = self._held
        self._held = Press(action.seq, row, used=False)
        self._freed(blocked, now)

    def ready(self) -> bool:
        """Whether there is an action for the next frame."""
        return self._tapped is not None or self._held.row is not None or not self.turns

    def take(self) -> np.ndarray:
        """Consume the action for the next frame; raises `ActionError` when there is none."""
        press, self._tapped = self._tapped or self._held, None
        press.used, self.seq = True, press.seq
        row = press.row if press.row is not None else self._idle
        if row is None:
            raise ActionError("this world has no idle action; hold one before stepping.")
        return row

    def due(self, now: float) -> bool:
        """Whether the next frame should be made now: running, acknowledged, with an action, and time."""
        return now >= self.deadline and self.waiting()

    def waiting(self) -> bool:
        """Whether only the clock keeps the next frame back."""
        return self.running and len(self.in_flight) < self.limits.window and self.ready()

    @property
    def due_at(self) -> float:
        """When the next frame should be begun: at its time, or when what held it back was gone."""
        return max(self.deadline, self.since)

    @property
    def latest(self) -> float:
        """When the next frame should be there: one frame after its time."""
        return self.due_at + 1.0 / self.fps

    def schedule(self, now: float) -> None:
        """Set the next deadline: in step with the last one, or from now on after a miss, never a burst to catch up."""
        fresh = self.turns and self._tapped is None and not self._held.used
        period = max(1.0 / self.fps, REPEAT_AFTER if fresh else 0.0)
        self.deadline = self.deadline + period if now - self.deadline < period else now + period
        if self.in_phase and not self.turns:  # half a frame sooner or later, once
            self.deadline = round(self.deadline * self.fps) / self.fps

    def start(self, now: float) -> None:
        """Let the clock run."""
        self.running, self.deadline = True, max(self.deadline, now)

    def stop(self, now: float = 0.0) -> None:
        """Stop the clock."""
        if self.running:
            self.running, self.stopped = False, now

    def rest(self, tier: str) -> None:
        """Put the session away, and free what encodes its pictures."""
        self.session.rest(tier)
        if self.video is not None:
            self.video.close()

    def set_turns(self, turns: bool) -> None:
        """Wait for actions, or not; a world without an idle action goes on waiting."""
        self.turns = turns or self._idle is None

    def set_fps(self, fps: float, now: float) -> None:
        """Change the speed, from the next frame on."""
        self.fps = fps
        self.deadline = min(self.deadline, now + 1.0 / fps)

    def acknowledge(self, epoch: int, frame: int, now: float = 0.0) -> None:
        """Free the window up to this frame; an ack of something not in flight is ignored."""
        blocked = not self.waiting()
        if (epoch, frame) in self.in_flight:
            while self.in_flight.popleft() != (epoch, frame):
                pass
        self._freed(blocked, now)

    def _freed(self, blocked: bool, now: float) -> None:
        """Note when a frame that was held back no longer is."""
        if blocked and self.waiting():
            self.since = now

    @property
    def watch(self) -> str:
        """The token with which others may watch."""
        return watch_token(self.token)

    def opened(self, **more: Any) -> Opened:
        """What session this is, for the client."""
        return Opened(
            session=self.number,
            world=self.session.served.name,
            about=self.session.served.about(),
            seed=self.session.seed,
            start="environment" if self.session.from_environment else "recorded",
            truth=self.session.truth is not None,
            watch=self.watch,
            **more,
        )

    def status(self, reason: str = "") -> Status:
        """How the session runs, for the client."""
        return Status(
            session=self.number,
            running=self.running,
            turns=self.turns,
            fps=self.fps,
            steps=self.session.steps,
            stop_at_end=self.stop_at_end,
            seed=self.session.seed,
            reason=reason,
            watched=self.watched,
        )


def check_row(spec: ActionSpec, row: tuple[float, ...]) -> np.ndarray:
    """Return a client's row as float64 `(W,)`; raises `ActionError` unless it is an action of the space."""
    array = np.asarray(row, np.float64)
    if array.shape != (width(spec),) or not np.isfinite(array).all() or np.abs(array).max(initial=0) > 2**53:
        raise ActionError(f"an action of this world is {width(spec)} finite numbers; got {len(row)}.")
    native = decode(spec, array)
    space = action_space(spec)
    if not space.contains(native) or not np.allclose(encode(spec, native), array, rtol=1e-6, atol=1e-6):
        raise ActionError(f"that row is not in {space}.")
    return array


__all__ = ["Player", "Press", "check_row"]
