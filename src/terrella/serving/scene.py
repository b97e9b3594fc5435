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
        """Parts and tick, under the number that the session has there; the player's `video` takes large ones."""
        if video is not None:
            return [*self._encode(codec, video), dump(self.tick)]
        if codec not in self._parts:
            self._parts[codec] = self._encode(codec)
        if number == self.tick.session:
            return [*self._parts[codec], dump(self.tick)]
        return [*(renumber(part, number) for part in self._parts[codec]), dump(replace(self.tick, session=number))]

    def _encode(self, codec: str, video: Video | None = None) -> list[bytes]:
        return frames.parts(
            self._shot,
            self._spec,
            self._memory,
            codec=codec,
            video=video,
            session=self.tick.session,
            epoch=self.tick.epoch,
            seq=self.tick.seq,
            gen_us=int(self._made.seconds * 1e6),
            flags=frames.frame_flags(late=self._made.late, replayed=self._made.replayed),
        )


__all__ = ["Made", "Scene"]
