"""The one thread that owns every world, environment and session, and the rules by which it gives out its time.

Clients post messages from elsewhere; this thread answers them and makes frames. Light messages (acks, actions, pauses)
are handled at once; of those that cost steps (open, fork, rewind) one is done between two frames, so that nobody's
rewinding starves the rest. The frame with the earliest deadline goes first. Sessions are stepped one by one, never as a
batch: a batch may round differently, and a rewind must show the same bits again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..errors import ServingError, TerrellaError
from . import frames
from .catalogue import Catalogue, Served
from .player import Player
from .protocol import (
    Ack,
    Action,
    Close,
    Closed,
    Error,
    Fork,
    Limits,
    Message,
    Open,
    Opened,
    Pause,
    Reset,
    Resume,
    Rewind,
    Set,
    Step,
    Sync,
    Tick,
    TrueTick,
    dump,
)
from .session import Session, Shot
from .truth import Truth

log = logging.getLogger("terrella.serving")
HEAVY = (Open, Fork, Rewind, Reset, Sync, Step)


@dataclass(eq=False)
class Client:
    """One connection: `send` takes messages in order from the engine thread and never blocks."""

    send: Callable[[list[bytes | str]], None]
    players: dict[int, Player] = field(default_factory=dict)
    last_number: int = 0
    gone: bool = False


class EngineThread:
    """Run sessions for many clients on one thread; `start`, `post` from any thread, `stop`."""

    def __init__(self, catalogue: Catalogue, limits: Limits, *, truth: bool = True) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._truth = truth
        self._clients: list[Client] = []
        self._light: deque[tuple[Client, Message | None]] = deque()
        self._heavy: deque[tuple[Client, Message, Future[None]]] = deque()
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
        future: Future[None] | None = None
        with self._wake:
            if isinstance(message, HEAVY):
                future = Future()
                self._heavy.append((client, message, future))
            else:
                self._light.append((client, message))
            self._wake.notify()
        return future

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
                    self._wake.wait(wait)
                light, self._light = self._light, deque()
                heavy = self._heavy.popleft() if self._heavy else None
                stopping = self._stopping
            for client, message in light:
                self._handle(client, message)
            if stopping:
                break
            if heavy is not None:
                client, message, future = heavy
                if not client.gone and future.set_running_or_notify_cancel():
                    self._handle(client, message)
                    future.set_result(None)
            self._make_one_frame()
        for client in list(self._clients):
            self._handle(client, None)
        for _, _, future in self._heavy:
            future.cancel()

    def _players(self) -> list[tuple[Client, Player]]:
        return [(client, player) for client in self._clients for player in client.players.values()]

    def _until_due(self) -> float | None:
        deadlines = [player.deadline for _, player in self._players() if player.waiting()]
        return min(deadlines) - time.monotonic() if deadlines else None

    def _make_one_frame(self) -> None:
        now = time.monotonic()
        due = [(client, player) for client, player in self._players() if player.due(now)]
        if not due:
            return
        client, player = min(due, key=lambda pair: pair[1].deadline)
        late = now - player.deadline > 1.0 / player.fps
        player.schedule(now)
        try:
            self._advance(client, player, late=late)
        except Exception as error:
            self._fail(client, player, error)

    def _advance(self, client: Client, player: Player, *, late: bool = False) -> None:
        row, over, began = player.take(), player.session.shot.ended, time.perf_counter()
        shot = player.session.advance(row)
        self._show(client, player, shot, time.perf_counter() - began, late=late)
        if shot.ended and not over and player.stop_at_end and player.running:
            player.running = False
            client.send([dump(player.status("ended"))])

    def _show(
        self, client: Client, player: Player, shot: Shot, seconds: float, *, late: bool = False, replayed: bool = False
    ) -> None:
        session, true = player.session, shot.truth
        tick = Tick(
            session=player.number,
            epoch=player.epoch,
            frame=shot.frame,
            oldest=session.oldest,
            seq=player.seq,
            reward=shot.reward,
            score=shot.score,
            end=shot.end,
            ended=shot.ended,
            replayed=replayed,
            late=late,
            step_ms=round(seconds * 1e3, 2),
            truth=None if true is None else TrueTick(true.reward, true.score, true.ended, shot.gap),
        )
        parts = frames.parts(
            shot,
            session.served.spec,
            session.memory(),
            session=player.number,
            epoch=player.epoch,
            seq=player.seq,
            gen_us=int(seconds * 1e6),
            flags=frames.frame_flags(late=late, replayed=replayed),
        )
        player.in_flight.append((player.epoch, shot.frame))
        client.send([*parts, dump(tick)])
        if session.notice:
            client.send([dump(Error("truth", session.notice, player.number))])
            session.notice = ""

    def _handle(self, client: Client, message: Message | None) -> None:
        """Carry out one message; a refusal is told to the client, anything else costs it the session."""
        if message is None:
            for player in client.players.values():
                player.session.close()
            client.players.clear()
            if client in self._clients:
                self._clients.remove(client)
            return
        number, req = getattr(message, "session", None), getattr(message, "req", 0)
        player = client.players.get(number) if number is not None else None
        try:
            if isinstance(message, Open):
                self._open(client, message)
            elif player is not None:
                self._command(client, player, message)
            elif not isinstance(message, (Ack, Action, Close)):  # these may cross with the session's end
                raise ServingError(f"there is no session {number!r:.20} here; open one first.")
        except TerrellaError as error:
            if player is not None and not player.session.sound:
                return self._fail(client, player, error)
            client.send([dump(Error(type(error).__name__, str(error), number if player else None, req))])
        except Exception as error:
            if player is not None:
                self._fail(client, player, error)
            else:
                log.exception("a message failed: %s", type(message).__name__)
                client.send([dump(Error("internal", f"that failed here: {type(error).__name__}.", None, req))])

    def _command(self, client: Client, player: Player, message: Message) -> None:
        match message:
            case Action():
                player.press(message)
            case Ack():
                player.acknowledge(message.epoch, message.frame)
            case Pause() | Resume():
                player.start(time.monotonic()) if isinstance(message, Resume) else player.stop()
                client.send([dump(player.status())])
            case Set():
                self._set(player, message)
                client.send([dump(player.status())])
            case Step():
                for _ in range(message.n):
                    self._advance(client, player)
            case Reset() | Rewind() | Sync():
                self._jump(client, player, message)
            case Fork():
                self._fork(client, player, message)
            case Close():
                del client.players[player.number]
                player.session.close()
                client.send([dump(Closed(player.number))])

    def _open(self, client: Client, message: Open) -> None:
        self._room(client)
        served = self._catalogue.get(message.world)
        truth = self._begin_truth(served) if message.truth and self._truth else None
        try:
            session = Session(served, seed=message.seed, truth=truth, limits=self._limits, steps=message.steps)
        except BaseException:
            if truth is not None:
                truth.close()
            raise
        fps = min(message.fps or served.spec.fps, self._limits.max_fps)
        self._introduce(client, Player(self._number(client), session, self._limits, fps), None, message.req)

    def _begin_truth(self, served: Served) -> Truth | None:
        try:
            return served.truth()
        except Exception as error:
            log.info("%s is played without its environment: %s", served.name, error)
            return None

    def _fork(self, client: Client, player: Player, message: Fork) -> None:
        self._room(client)
        session = player.session.fork(message.frame)
        child = Player(
            self._number(client), session, self._limits, player.fps, player.turns, stop_at_end=player.stop_at_end
        )
        self._introduce(client, child, player.number, message.req)

    def _introduce(self, client: Client, player: Player, parent: int | None, req: int) -> None:
        if client not in self._clients:
            self._clients.append(client)
        client.players[player.number] = player
        session = player.session
        opened = Opened(
            session=player.number,
            world=session.served.name,
            about=session.served.about(),
            seed=session.seed,
            start="environment" if session.from_environment else "recorded",
            truth=session.truth is not None,
            parent=parent,
            req=req,
        )
        client.send([dump(opened), dump(player.status())])
        self._show(client, player, session.shot, 0.0, replayed=parent is not None)

    def _jump(self, client: Client, player: Player, message: Reset | Rewind | Sync) -> None:
        session, began = player.session, time.perf_counter()
        if isinstance(message, Reset):
            session.begin(session.seed if message.seed is None else message.seed)
        elif isinstance(message, Rewind):
            session.rewind(message.frame)
        else:
            session.sync()
        player.epoch += 1
        player.deadline = time.monotonic()
        seconds = time.perf_counter() - began
        self._show(client, player, session.shot, seconds, replayed=isinstance(message, Rewind))
        client.send([dump(player.status())])

    def _set(self, player: Player, message: Set) -> None:
        if message.steps is not None:
            player.session.set_steps(message.steps)
        if message.fps is not None:
            player.set_fps(message.fps, time.monotonic())
        player.stop_at_end = player.stop_at_end if message.stop_at_end is None else message.stop_at_end
        if message.turns is not None:
            player.set_turns(message.turns)

    def _room(self, client: Client) -> None:
        if len(client.players) >= self._limits.panes:
            raise ServingError(f"{self._limits.panes} sessions are open, which is the most; close one first.")
        if len(self._players()) >= self._limits.sessions:
            raise ServingError(f"this server runs {self._limits.sessions} sessions, the most; try again later.")

    def _number(self, client: Client) -> int:
        while True:
            client.last_number = client.last_number % 255 + 1
            if client.last_number not in client.players:
                return client.last_number

    def _fail(self, client: Client, player: Player, error: Exception) -> None:
        """Close one session and leave the others alone."""
        log.error("session %d of world %s failed", player.number, player.session.served.name, exc_info=error)
        client.players.pop(player.number, None)
        try:
            player.session.close()
        except Exception:
            log.debug("closing a failed session failed", exc_info=True)
        said = str(error) if isinstance(error, TerrellaError) else f"the session failed here: {type(error).__name__}."
        client.send([dump(Error("failed", said, player.number)), dump(Closed(player.number, said))])


__all__ = ["Client", "EngineThread"]
