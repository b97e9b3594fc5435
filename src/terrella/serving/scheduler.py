"""The one thread that owns every world, environment and session, and the rules by which it gives out its time.

Clients post messages from elsewhere; this thread answers them and makes frames. Light messages (acks, actions, pauses)
are handled at once; of those that cost steps (open, fork, rewind) one is done between two frames, so that nobody's
rewinding starves the rest. The frame that must be there first goes first, and takes as many others of its world along
as `choose` lets it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from .curve import BatchCurve
from .dispatch import Dispatcher
from .player import Player
from .protocol import Fork, Message, Open, Reopen, Reset, Rewind, Step, Sync, Watch
from .visitor import Client

HEAVY = (Open, Reopen, Watch, Fork, Rewind, Reset, Sync, Step)
C = TypeVar("C")
T = TypeVar("T")


def choose(due: Sequence[tuple[C, Player]], now: float, most: int) -> list[tuple[C, Player]]:
    """Choose which of the players that are due to step together now, at most `most`.

    The one whose frame must be there first leads; others of its world and denoising steps go along, earliest first. The
    batch is the largest that, by the curve's 95 % quantile, is done in time for its leader, and for another world's
    first frame after it. Where even the leader alone would be late, delay is what everybody has, and the fullest batch
    makes it least. A batch is at most twice the largest that was measured.
    """
    first, *others = sorted(due, key=lambda pair: pair[1].latest)
    kind = _kind(first[1])
    company = [first, *(pair for pair in others if _kind(pair[1]) == kind)]
    curve = _curve(first[1])
    company = company[: min(most, max(1, 2 * curve.largest))]
    end = first[1].latest
    for _, other in others:
        if _kind(other) != kind:
            end = min(end, other.latest - _curve(other).p95(1))
            break
    fit = [size for size in range(1, len(company) + 1) if curve.p95(size) <= end - now]
    return company[: max(fit)] if fit else company


def _kind(player: Player) -> tuple[int, int | None]:
    return id(player.session.served), player.session.steps


def _curve(player: Player) -> BatchCurve:
    return player.session.served.curve(player.session.steps)


class EngineThread:
    """Run sessions for many clients on one thread; `start`, `post` from any thread, `stop`.

    dispatcher: who answers messages and steps sessions; only this thread calls it once it runs.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._light: deque[tuple[Client, Message | None]] = deque()
        self._heavy: deque[tuple[Callable[[Dispatcher], Any], Future[Any]]] = deque()
        self._began: float | None = None
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="terrella-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the frame in hand, close every session and join."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def post(self, client: Client, message: Message) -> Future[None] | None:
        """Hand over a message. Heavy ones return a future that is done when they are; a client should await it."""
        if isinstance(message, HEAVY):
            return self.call(lambda dispatcher: None if client.gone else dispatcher.handle(client, message))
        with self._wake:
            self._light.append((client, message))
            self._wake.notify()
        return None

    def call(self, work: Callable[[Dispatcher], T]) -> Future[T]:
        """Have something done on the thread, between two frames; the future holds what it returned or raised."""
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                future.cancel()
            else:
                self._heavy.append((work, future))
                self._wake.notify()
        return future

    @property
    def busy(self) -> float:
        """Seconds since the thread began what it is at, 0 while it waits."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def leave(self, client: Client) -> None:
        """Close all sessions of a client that is gone."""
        client.gone = True
        with self._wake:
            self._light.append((client, None))
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._light or self._heavy):
                    wait = self._until_due()
                    if wait is not None and wait <= 0:
                        break
                    self._began = None
                    self._wake.wait(wait)
                self._began = time.monotonic()
                light, self._light = self._light, deque()
                heavy = self._heavy.popleft() if self._heavy and not self._stopping else None
                stopping = self._stopping
            for client, message in light:
                self._dispatcher.handle(client, message)
            if stopping:
                break
            if heavy is not None:
                self._carry_out(*heavy)
            self._make_frames()
        self._dispatcher.close()
        for _, future in self._heavy:
            future.cancel()

    def _carry_out(self, work: Callable[[Dispatcher], T], future: Future[T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work(self._dispatcher))
        except Exception as error:
            future.set_exception(error)

    def _until_due(self) -> float | None:
        players = [player for _, player in self._dispatcher.players()]
        times = [player.due_at for player in players if player.waiting()]
        look = self._dispatcher.tiers.next_look(players)
        times += [] if look is None else [look]
        return min(times) - time.monotonic() if times else None

    def _make_frames(self) -> None:
        now = time.monotonic()
        due = [(client, player) for client, player in self._dispatcher.players() if player.due(now)]
        if due:
            self._dispatcher.advance(choose(due, now, self._dispatcher.batch))
        self._dispatcher.tiers.look([player for _, player in self._dispatcher.players()], now)


__all__ = ["EngineThread", "choose"]
