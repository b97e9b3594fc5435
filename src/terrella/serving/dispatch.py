"""What clients ask for, carried out: sessions opened, driven, rewound, forked and closed, and their frames shown.

All of it runs on the engine thread. A refusal is told to the client; a session that fails is closed alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import ServerFull, ServingError, TerrellaError
from . import frames
from .admission import Demand, refusal
from .catalogue import Catalogue, Served
from .curve import BatchCurve
from .limits import Limits
from .player import Player
from .protocol import (
    Ack,
    Action,
    Close,
    Closed,
    Error,
    Fork,
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
from .session import Session, advance_together
from .truth import Truth

log = logging.getLogger("terrella.serving")
GRACE = 10.0  # seconds for which a stopped session still counts as one that runs


@dataclass(eq=False)
class Client:
    """One connection: `send` takes messages in order from the engine thread and never blocks.

    `refused` says why a client without a session got none; its connection should end.
    """

    send: Callable[[list[bytes | str]], None]
    players: dict[int, Player] = field(default_factory=dict)
    last_number: int = 0
    gone: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Made:
    """How a frame was made: seconds it took, with how many sessions, and how long after its time it was there."""

    seconds: float = 0.0
    together: int = 1
    lateness: float = 0.0
    late: bool = False
    replayed: bool = False


class Dispatcher:
    """The sessions of all clients.

    batch: how many are stepped together at most; above 1 they keep one phase. admit: whether sessions are refused that
    would make frames late.
    """

    def __init__(
        self, catalogue: Catalogue, limits: Limits, *, truth: bool = True, batch: int = 1, admit: bool = False
    ) -> None:
        self._catalogue = catalogue
        self._admits = admit
        self._limits = limits
        self._truth = truth
        self._batch = batch
        self._clients: list[Client] = []

    def players(self) -> list[tuple[Client, Player]]:
        """Every session with its client."""
        return [(client, player) for client in self._clients for player in client.players.values()]

    def close(self) -> None:
        """Close every session."""
        for client in list(self._clients):
            self.handle(client, None)

    def advance(self, company: Sequence[tuple[Client, Player]]) -> None:
        """Make the next frame of players of one world with equal denoising steps, and note what the batch has cost."""
        began = time.perf_counter()
        due = [player.due_at for _, player in company]
        over = [player.session.shot.ended for _, player in company]
        now = time.monotonic()
        for _, player in company:
            player.schedule(now)
        rows = [player.take() for _, player in company]
        sessions = [player.session for _, player in company]
        try:
            advance_together(sessions, rows)
        except Exception as error:
            self._alone(company, rows, error)
        seconds, now = time.perf_counter() - began, time.monotonic()
        for (client, player), due_at, ended in zip(company, due, over):
            if player.session.sound:
                lateness = now - due_at
                self.show(client, player, Made(seconds, len(sessions), lateness, late=lateness > 1.0 / player.fps))
                self._stop_at_end(client, player, ended)
        first = sessions[0]
        first.served.curve(first.steps).note(len(sessions), time.perf_counter() - began)

    def show(self, client: Client, player: Player, made: Made) -> None:
        """Send what a session shows at its present frame."""
        session, shot = player.session, player.session.shot
        true = shot.truth
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
            replayed=made.replayed,
            late=made.late,
            step_ms=round(made.seconds * 1e3, 2),
            late_ms=round(made.lateness * 1e3, 2),
            together=made.together,
            running=sum(other.running for _, other in self.players()),
            truth=None if true is None else TrueTick(true.reward, true.score, true.ended, shot.gap),
        )
        parts = frames.parts(
            shot,
            session.served.spec,
            session.memory(),
            session=player.number,
            epoch=player.epoch,
            seq=player.seq,
            gen_us=int(made.seconds * 1e6),
            flags=frames.frame_flags(late=made.late, replayed=made.replayed),
        )
        player.in_flight.append((player.epoch, shot.frame))
        client.send([*parts, dump(tick)])
        if session.notice:
            client.send([dump(Error("truth", session.notice, player.number))])
            session.notice = ""

    def handle(self, client: Client, message: Message | None) -> None:
        """Carry out one message, None for a client that is gone.

        A refusal is told to the client, anything else costs it the session.
        """
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
        except ServerFull as error:
            if isinstance(message, Open) and not client.players:
                client.refused = str(error)
            else:
                client.send([dump(Error("full", str(error), number if player else None, req))])
                client.send([] if player is None else [dump(player.status("full"))])
        except TerrellaError as error:
            if player is not None and not player.session.sound:
                return self.fail(client, player, error)
            client.send([dump(Error(type(error).__name__, str(error), number if player else None, req))])
        except Exception as error:
            if player is not None:
                self.fail(client, player, error)
            else:
                log.exception("a message failed: %s", type(message).__name__)
                client.send([dump(Error("internal", f"that failed here: {type(error).__name__}.", None, req))])

    def fail(self, client: Client, player: Player, error: Exception) -> None:
        """Close one session and leave the others alone."""
        log.error("session %d of world %s failed", player.number, player.session.served.name, exc_info=error)
        client.players.pop(player.number, None)
        try:
            player.session.close()
        except Exception:
            log.debug("closing a failed session failed", exc_info=True)
        said = str(error) if isinstance(error, TerrellaError) else f"the session failed here: {type(error).__name__}."
        client.send([dump(Error("failed", said, player.number)), dump(Closed(player.number, said))])

    # inside

    def _alone(self, company: Sequence[tuple[Client, Player]], rows: Sequence[np.ndarray], error: Exception) -> None:
        """After a batch that failed: let every session try alone, so that only those that cannot go on are closed."""
        for (client, player), row in zip(company, rows):
            try:
                if len(company) == 1:
                    raise error
                player.session.recover()
                player.session.advance(row)
            except Exception as own:
                player.session.sound = False
                self.fail(client, player, own)

    def _stop_at_end(self, client: Client, player: Player, over: bool) -> None:
        """Stop the clock where the world has just predicted the end."""
        if player.session.shot.ended and not over and player.stop_at_end and player.running:
            player.stop(time.monotonic())
            client.send([dump(player.status("ended"))])

    def _command(self, client: Client, player: Player, message: Message) -> None:
        match message:
            case Action():
                player.press(message, time.monotonic())
            case Ack():
                player.acknowledge(message.epoch, message.frame, time.monotonic())
            case Pause():
                player.stop(time.monotonic())
                client.send([dump(player.status())])
            case Resume():
                self._admit(player.session.served.curve(player.session.steps), player.fps, player)
                player.start(time.monotonic())
                client.send([dump(player.status())])
            case Set():
                self._set(player, message)
                client.send([dump(player.status())])
            case Step():
                for _ in range(message.n):
                    self._step(client, player)
            case Reset() | Rewind() | Sync():
                self._jump(client, player, message)
            case Fork():
                self._fork(client, player, message)
            case Close():
                del client.players[player.number]
                player.session.close()
                client.send([dump(Closed(player.number))])

    def _step(self, client: Client, player: Player) -> None:
        """One frame by hand, whatever the clock says."""
        row, over, began = player.take(), player.session.shot.ended, time.perf_counter()
        player.session.advance(row)
        self.show(client, player, Made(time.perf_counter() - began))
        self._stop_at_end(client, player, over)

    def _open(self, client: Client, message: Open) -> None:
        self._room(client)
        served = self._catalogue.get(message.world)
        fps = min(message.fps or served.spec.fps, self._limits.max_fps)
        self._admit(served.curve(message.steps), fps)
        truth = self._begin_truth(served) if message.truth and self._truth else None
        try:
            session = Session(served, seed=message.seed, truth=truth, limits=self._limits, steps=message.steps)
        except BaseException:
            if truth is not None:
                truth.close()
            raise
        player = Player(self._number(client), session, self._limits, fps, in_phase=self._batch > 1)
        self._introduce(client, player, None, message.req)

    def _begin_truth(self, served: Served) -> Truth | None:
        try:
            return served.truth()
        except Exception as error:
            log.info("%s is played without its environment: %s", served.name, error)
            return None

    def _fork(self, client: Client, player: Player, message: Fork) -> None:
        self._room(client)
        self._admit(player.session.served.curve(player.session.steps), player.fps)
        child = Player(
            self._number(client),
            player.session.fork(message.frame),
            self._limits,
            player.fps,
            player.turns,
            stop_at_end=player.stop_at_end,
            in_phase=player.in_phase,
        )
        self._introduce(client, child, player.number, message.req)

    def _introduce(self, client: Client, player: Player, parent: int | None, req: int) -> None:
        if client not in self._clients:
            self._clients.append(client)
        client.players[player.number] = player
        player.stopped = time.monotonic()
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
        self.show(client, player, Made(replayed=parent is not None))

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
        self.show(client, player, Made(time.perf_counter() - began, replayed=isinstance(message, Rewind)))
        client.send([dump(player.status())])

    def _set(self, player: Player, message: Set) -> None:
        if message.steps is not None:
            player.session.set_steps(message.steps)
        if message.fps is not None:
            if message.fps > player.fps:
                self._admit(player.session.served.curve(player.session.steps), message.fps, player)
            player.set_fps(message.fps, time.monotonic())
        player.stop_at_end = player.stop_at_end if message.stop_at_end is None else message.stop_at_end
        if message.turns is not None:
            player.set_turns(message.turns)

    def _room(self, client: Client) -> None:
        if len(client.players) >= self._limits.panes:
            raise ServingError(f"{self._limits.panes} sessions are open, which is the most; close one first.")
        if len(self.players()) >= self._limits.sessions:
            raise ServerFull(f"this server runs {self._limits.sessions} sessions, the most; try again later.")

    def _admit(self, curve: BatchCurve, fps: float, player: Player | None = None) -> None:
        """Raise `ServerFull` where a session that begins to run, or this `player`, would make frames late."""
        if not self._admits:
            return
        now, demands = time.monotonic(), list[Demand]()
        for _, other in self.players():
            if other is not player and (other.running or now - other.stopped < GRACE):
                demands.append((other.session.served.curve(other.session.steps), other.fps))
        said = refusal(demands, curve, fps, self._batch)
        if said is not None:
            raise ServerFull(said)

    def _number(self, client: Client) -> int:
        while True:
            client.last_number = client.last_number % 255 + 1
            if client.last_number not in client.players:
                return client.last_number


__all__ = ["Client", "Dispatcher", "Made"]
