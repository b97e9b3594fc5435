"""What clients ask for, carried out: sessions opened, driven, rewound, forked and closed, and their frames shown.

All of it runs on the engine thread. A refusal is told to the client; a session that fails is closed alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ServerFull, ServingError, TerrellaError
from .admission import Demand, refusal
from .audience import Audience
from .catalogue import Catalogue
from .curve import BatchCurve
from .guard import same_token
from .keeper import Keeper
from .limits import Limits
from .openings import Openings
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
    Pause,
    Reopen,
    Reset,
    Resume,
    Rewind,
    Set,
    Shared,
    Step,
    Sync,
    Watch,
    dump,
)
from .scene import Made, Scene
from .session import advance_together
from .tiers import Tiers
from .video import Studio, Video
from .visitor import Client

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger("terrella.serving")
GRACE = 10.0  # seconds for which a stopped session still counts as one that runs
LEFT = "nobody plays this session now."


class Dispatcher:
    """The sessions of all clients.

    batch: how many are stepped together at most; above 1 they keep one phase. admit: whether sessions are refused that
    would make frames late. keeper: what lets sessions outlive their connection.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limits: Limits,
        *,
        truth: bool = True,
        batch: int = 1,
        admit: bool = False,
        keeper: Keeper | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._openings = Openings(catalogue, limits, self._admit, truth=truth, in_phase=batch > 1, keeper=keeper)
        self._admits = admit
        self._keeper = keeper
        self.tiers = Tiers(limits, disk=keeper is not None)
        self.studio = Studio(limits.encoders)
        self._audience = Audience(limits)
        self._limits = limits
        self.batch = batch
        self._clients: list[Client] = []

    def players(self) -> list[tuple[Client, Player]]:
        """Every session with its client."""
        return [(client, player) for client in self._clients for player in client.players.values()]

    def demands(self, leave_out: Player | None = None) -> list[Demand]:
        """What the sessions that run, or ran a moment ago, ask of the engine."""
        now, found = time.monotonic(), list[Demand]()
        for _, player in self.players():
            if player is not leave_out and (player.running or now - player.stopped < GRACE):
                found.append((player.session.served.curve(player.session.steps), player.fps))
        return found

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
        seconds, now, late = time.perf_counter() - began, time.monotonic(), 0
        for (client, player), due_at, ended in zip(company, due, over):
            if player.session.sound:
                made = Made(seconds, len(sessions), now - due_at, late=now - due_at > 1.0 / player.fps)
                late += made.late
                self.show(client, player, made)
                self._stop_at_end(client, player, ended)
        first, seconds = sessions[0], time.perf_counter() - began
        first.served.curve(first.steps).note(len(sessions), seconds)
        if self._metrics is not None:
            self._metrics.batch(first.served.name, seconds, [now - due_at for due_at in due], late)

    def show(self, client: Client, player: Player, made: Made) -> None:
        """Send what a session shows at its present frame, to all who see it."""
        scene = Scene(player, made, self._running())
        client.show(player, scene)
        self._audience.show(player, scene)

    def handle(self, client: Client, message: Message | None) -> None:
        """Carry out one message, None for a client that is gone.

        A refusal is told to the client, anything else costs it the session.
        """
        if message is None:
            for player in list(client.players.values()):
                self.let_go(client, player)
            for watched in list(client.watching):
                self._unwatch(client, watched)
            if client in self._clients:
                self._clients.remove(client)
            return
        number, req = getattr(message, "session", None), getattr(message, "req", 0)
        player = client.players.get(number) if number is not None else None
        try:
            if isinstance(message, Open):
                self._open(client, message)
            elif isinstance(message, Reopen):
                self._reopen(client, message)
            elif isinstance(message, Watch):
                self._watch(client, message)
            elif number in client.watching:
                self._observe(client, number, message)
            elif player is not None:
                self._command(client, player, message)
            elif not isinstance(message, (Ack, Action, Close)):  # these may cross with the session's end
                raise ServingError(f"there is no session {number!r:.20} here; open one first.")
        except ServerFull as error:
            if isinstance(message, (Open, Reopen)) and not client.players:
                client.refused = str(error)
            else:
                client.send([dump(Error("full", str(error), number if player else None, req))])
                if player is not None:
                    self._tell(client, player, "full")
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

    def let_go(self, client: Client, player: Player) -> None:
        """Free a session that nobody asks for any more; where sessions are kept it can be reopened."""
        client.drop(player)
        self._audience.end(player, LEFT)
        self.tiers.ended(player, time.monotonic(), back=False)
        if self._keeper is not None and player.session.sound:
            player.session.rest("disk")
        player.session.close()

    def fail(self, client: Client, player: Player, error: Exception) -> None:
        """Close one session and leave the others alone."""
        log.error("session %d of world %s failed", player.number, player.session.served.name, exc_info=error)
        client.drop(player)
        try:
            player.session.close()
        except Exception:
            log.debug("closing a failed session failed", exc_info=True)
        said = str(error) if isinstance(error, TerrellaError) else f"the session failed here: {type(error).__name__}."
        client.send([dump(Error("failed", said, player.number)), dump(Closed(player.number, said))])
        self._audience.end(player, LEFT)

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
            self._tell(client, player, "ended")

    def _command(self, client: Client, player: Player, message: Message) -> None:
        match message:
            case Action():
                player.press(message, time.monotonic())
            case Ack():
                player.acknowledge(message.epoch, message.frame, time.monotonic())
            case Pause():
                player.stop(time.monotonic())
                self._tell(client, player)
            case Resume():
                self._admit(player.session.served.curve(player.session.steps), player.fps, player)
                player.session.wake()
                self.tiers.ended(player, time.monotonic(), back=True)
                player.start(time.monotonic())
                self._tell(client, player)
            case Set():
                self._set(player, message)
                self._tell(client, player)
            case Step():
                for _ in range(message.n):
                    self._step(client, player)
            case Reset() | Rewind() | Sync():
                self._jump(client, player, message)
            case Fork():
                self._fork(client, player, message)
            case Close():
                client.drop(player)
                self.tiers.ended(player, time.monotonic(), back=False)
                player.session.close()
                if self._keeper is not None and player.session.record is not None:
                    self._keeper.forget(player.session.record)
                client.send([dump(Closed(player.number))])
                self._audience.end(player, LEFT)

    def _step(self, client: Client, player: Player) -> None:
        """One frame by hand, whatever the clock says."""
        row, over, began = player.take(), player.session.shot.ended, time.perf_counter()
        player.session.advance(row)
        player.stopped = time.monotonic()
        self.show(client, player, Made(time.perf_counter() - began))
        self._stop_at_end(client, player, over)

    def _open(self, client: Client, message: Open) -> None:
        self._room(client)
        self._introduce(client, self._openings.open(client, message), None, message.req)

    def _reopen(self, client: Client, message: Reopen) -> None:
        """Give a session back to whoever holds its token: taken over from a connection, or as its journal tells it."""
        self._room(client, new=False)
        for other, player in self.players():
            if same_token(message.token, player.token):
                other.drop(player)
                other.send([dump(Closed(player.number, "this session goes on in another window."))])
                player.stop(time.monotonic())
                player.in_flight.clear()
                player.number = client.number()
                return self._introduce(client, player, None, message.req)
        self._room(client)
        self._introduce(client, self._openings.reopen(client, message), None, message.req)

    def _fork(self, client: Client, player: Player, message: Fork) -> None:
        if message.share:
            client.send([dump(Shared(self._openings.share(client, player, message.frame), message.req))])
            return
        self._room(client)
        self._admit(player.session.served.curve(player.session.steps), player.fps)
        self._introduce(client, self._openings.fork(client, player, message.frame), player.number, message.req)

    def _introduce(self, client: Client, player: Player, parent: int | None, req: int) -> None:
        if client not in self._clients:
            self._clients.append(client)
        client.players[player.number] = player
        player.video = Video(self.studio) if client.codecs[0] == "h264" else None
        player.stopped = time.monotonic()
        session = player.session
        about = {"world": session.served.name, "engine": session.served.plain_settings}
        self._note(player, **about, truth=session.truth is not None)
        token = None if session.record is None else player.token
        client.send([dump(player.opened(parent=parent, req=req, token=token))])
        self._tell(client, player)
        self.show(client, player, Made(replayed=parent is not None))

    def _watch(self, client: Client, message: Watch) -> None:
        """Let a client see a session that somebody plays here."""
        self._room(client, new=False)
        for owner, player in self.players():
            if same_token(message.token, player.watch):
                watcher = self._audience.join(client, player)
                opened = replace(player.opened(req=message.req, watching=True), session=watcher.number)
                client.send([dump(opened)])
                self._tell(owner, player)
                return watcher.show(Scene(player, Made(replayed=True), self._running()), self._limits.window)
        raise ServingError(LEFT)

    def _observe(self, client: Client, number: int, message: Message) -> None:
        """What somebody may say of a session that is another one's."""
        if isinstance(message, Ack):
            self._audience.acknowledge(client, number, message.epoch, message.frame)
        elif isinstance(message, Close):
            self._unwatch(client, number)
            client.send([dump(Closed(number))])
        else:
            raise ServingError("somebody else plays this session, you watch it; open one to play.")

    def _unwatch(self, client: Client, number: int) -> None:
        player = self._audience.leave(client, number)
        for owner, played in self.players():
            if played is player:
                self._tell(owner, player)

    def _tell(self, client: Client, player: Player, reason: str = "") -> None:
        """Say how a session runs, to all who see it."""
        client.send([dump(player.status(reason))])
        self._audience.tell(player, reason)

    def _running(self) -> int:
        return sum(player.running for _, player in self.players())

    def _jump(self, client: Client, player: Player, message: Reset | Rewind | Sync) -> None:
        session, began = player.session, time.perf_counter()
        if isinstance(message, Reset):
            session.begin(session.seed if message.seed is None else message.seed)
        elif isinstance(message, Rewind):
            session.rewind(message.frame)
        else:
            session.sync()
        player.epoch += 1
        player.deadline = player.stopped = time.monotonic()
        self.show(client, player, Made(time.perf_counter() - began, replayed=isinstance(message, Rewind)))
        self._tell(client, player)

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
        self._note(player)

    def _note(self, player: Player, **more: object) -> None:
        """Write down how a session runs."""
        record, steps = player.session.record, player.session.steps
        if record is not None:
            record.amend(fps=player.fps, turns=player.turns, stop_at_end=player.stop_at_end, steps=steps, **more)

    def _room(self, client: Client, *, new: bool = True) -> None:
        """Raise where this client, or for a `new` session the server, has as many as it may."""
        most = client.most or self._limits.panes
        if len(client.players) + len(client.watching) >= most:
            raise ServingError(f"{most} sessions are open, which is the most; close one first.")
        if new and len(self.players()) >= self._limits.sessions:
            raise ServerFull(f"this server runs {self._limits.sessions} sessions, the most; try again later.")

    def _admit(self, curve: BatchCurve, fps: float, player: Player | None = None) -> None:
        """Raise `ServerFull` where a session that begins to run, or this `player`, would make frames late."""
        if not self._admits:
            return
        said = refusal(self.demands(player), curve, fps, self.batch)
        if said is not None:
            raise ServerFull(said)


__all__ = ["Dispatcher"]
