"""One frame of a session as it is sent: to its player, and to whoever watches, encoded once for each codec."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import frames
from .header import renumber
from .player import Player
from .protocol import Tick, TrueTick, dump
from .video import Video


@dataclass(frozen=True)
class Made:
    """How a frame was made: seconds it took, with how many sessions, and how long after its time it was there."""

    seconds: float = 0.0
    together: int = 1
    lateness: float = 0.0
    late: bool = False
    replayed: bool = False


class Scene:
    """What a session shows at its present frame. running: sessions that run on this server."""

    def __init__(self, player: Player, made: Made, running: int) -> None:
        session = player.session
        self._shot = shot = session.shot
        self._spec, self._memory, self._made = session.served.spec, session.memory(), made
        self._parts: dict[str, list[bytes]] = {}
        true = shot.truth
        self.tick = Tick(
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

    @property
    def moment(self) -> tuple[int, int]:
        """Epoch and frame, by which it is acknowledged."""
        return self.tick.epoch, self.tick.frame

    def messages(self, number: int, codec: str, video: Video | None = None) -> list[bytes | str]:
        """The parts and the tick under a connection's own number of the session; `video` takes large pictures."""
        if video is not None:
            parts = self._encode(number, codec, video)
        else:
            if codec not in self._parts:
                self._parts[codec] = self._encode(self.tick.session, codec)
            parts = self._parts[codec]
            if number != self.tick.session:
                parts = [renumber(part, number) for part in parts]
        return [*parts, dump(replace(self.tick, session=number))]

    def _encode(self, number: int, codec: str, video: Video | None = None) -> list[bytes]:
        return frames.parts(
            self._shot,
            self._spec,
            self._memory,
            codec=codec,
            video=video,
            session=number,
            epoch=self.tick.epoch,
            seq=self.tick.seq,
            gen_us=int(self._made.seconds * 1e6),
            flags=frames.frame_flags(late=self._made.late, replayed=self._made.replayed),
        )


__all__ = ["Made", "Scene"]
