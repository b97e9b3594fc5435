"""A connection as the engine thread sees it, and what it tells of how a frame was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..spec import WorldSpec
from . import frames
from .player import Player
from .protocol import Error, Tick, TrueTick, dump


@dataclass(frozen=True)
class Made:
    """How a frame was made: seconds it took, with how many sessions, and how long after its time it was there."""

    seconds: float = 0.0
    together: int = 1
    lateness: float = 0.0
    late: bool = False
    replayed: bool = False


@dataclass(eq=False)
class Client:
    """One connection: `send` takes messages in order from the engine thread and never blocks.

    most: sessions that it may have; 0 for as many as a connection. `refused` says why a client without a session got
    none; its connection should end. `root` names the fork tree of the sessions that it opens, "" for a tree of their
    own (see `moves`). `codecs` are those of its large images, and of all others. `shared` counts moments that it has
    kept for others.
    """

    send: Callable[[list[bytes | str]], None]
    most: int = 0
    root: str = ""
    codecs: tuple[str, str] = ("jpeg", "jpeg")
    players: dict[int, Player] = field(default_factory=dict)
    last_number: int = 0
    shared: int = 0
    gone: bool = False
    refused: str = ""

    def number(self) -> int:
        """A number for another session."""
        while True:
            self.last_number = self.last_number % 255 + 1
            if self.last_number not in self.players:
                return self.last_number

    def drop(self, player: Player) -> None:
        """Have a session no more, nor what encodes its pictures for this connection."""
        self.players.pop(player.number, None)
        if player.video is not None:
            player.video.close()

    def show(self, player: Player, made: Made, running: int) -> None:
        """Send what a session shows at its present frame. running: sessions that run on this server."""
        session, shot = player.session, player.session.shot
        spec: WorldSpec = session.served.spec
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
            running=running,
            truth=None if true is None else TrueTick(true.reward, true.score, true.ended, shot.gap),
            said=shot.said,
            possible=session.possible(always=made.replayed),
        )
        parts = frames.parts(
            shot,
            spec,
            session.memory(),
            codec=self.codecs[1],
            video=player.video,
            session=player.number,
            epoch=player.epoch,
            seq=player.seq,
            gen_us=int(made.seconds * 1e6),
            flags=frames.frame_flags(late=made.late, replayed=made.replayed),
        )
        player.in_flight.append((player.epoch, shot.frame))
        self.send([*parts, dump(tick)])
        if session.notice:
            self.send([dump(Error("truth", session.notice, player.number))])
            session.notice = ""
