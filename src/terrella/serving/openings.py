"""How sessions come to be: from a seed, from a journal, from another session, from a moment that somebody shared.

A shared moment is a journal that nobody plays. Whoever says `reopen` with its token begins a session of their own
there, so any number of people go on from it, and nobody can change it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import ServingError
from .catalogue import Catalogue, Served
from .curve import BatchCurve
from .journal import MOMENT
from .keeper import Keeper
from .limits import Limits
from .moves import new_token, root_of
from .player import Player
from .protocol import Open, Reopen
from .session import Session
from .truth import Truth
from .visitor import Client

log = logging.getLogger("terrella.serving")


class Openings:
    """Makes players of sessions; none of them is any client's yet.

    admit: raises `ServerFull` where sessions of this cost and rate would make frames late. truth: whether true
    environments may run. in_phase: whether sessions keep one phase. keeper: what lets them outlive their connection.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limits: Limits,
        admit: Callable[[BatchCurve, float], None],
        *,
        truth: bool,
        in_phase: bool,
        keeper: Keeper | None,
    ) -> None:
        self._catalogue, self._limits, self._admit = catalogue, limits, admit
        self._truth, self._in_phase, self._keeper = truth, in_phase, keeper

    def open(self, client: Client, message: Open) -> Player:
        """Begin a session; raises `UnknownName` for a world that is not served, `ServerFull` where there is no time."""
        served = self._catalogue.get(message.world)
        fps = min(message.fps or served.spec.fps, self._limits.max_fps)
        self._admit(served.curve(message.steps), fps)
        token = new_token(client.root)
        record = None if self._keeper is None else self._keeper.record(token)
        try:
            session = self._begin(served, message.truth, seed=message.seed, steps=message.steps, record=record)
        except BaseException:
            if record is not None and self._keeper is not None:
                self._keeper.forget(record)
            raise
        return self._player(client, session, token, fps)

    def reopen(self, client: Client, message: Reopen) -> Player:
        """Go on with a session as its journal tells it, or from a shared moment.

        Raises `ServingError` for a token that is not kept here, `ServerFull` where there is no time.
        """
        if self._keeper is None:
            raise ServingError("this server keeps no sessions; open a new one.")
        token = message.token
        past, record = self._keeper.resume(token)
        served, about = self._catalogue.get(str(past.about.get("world"))), past.about
        self._admit(served.curve(about["steps"]), about["fps"])
        if about.pop(MOMENT, False):
            token = new_token(root_of(token))
            record = self._keeper.record(token, past)
        session = self._begin(served, about["truth"], seed=past.seed, steps=about["steps"], record=record, past=past)
        return self._player(client, session, token, about["fps"], about["turns"], stop_at_end=about["stop_at_end"])

    def fork(self, client: Client, player: Player, frame: int | None) -> Player:
        """Begin a session with another one's past, until `frame` or the present."""
        token, session = new_token(root_of(player.token)), player.session.fork(frame)
        if self._keeper is not None and player.session.record is not None:
            session.record = self._keeper.branch(player.session.record, token, session.shot.frame)
        return self._player(client, session, token, player.fps, player.turns, stop_at_end=player.stop_at_end)

    def share(self, client: Client, player: Player, frame: int | None) -> str:
        """Keep a moment of a session's past, or the present, under a token that is returned.

        Raises `ServingError` where nothing is kept, the frame is not in the past, or the client has shared too many.
        """
        session, most = player.session, self._limits.moments
        if self._keeper is None or session.record is None:
            raise ServingError("this server keeps no sessions, so none of their moments; start it with --keep FOLDER.")
        frame = session.shot.frame if frame is None else frame
        if not session.oldest <= frame <= session.shot.frame:
            raise ServingError(f"frame {frame} is not in the past; expected {session.oldest} to {session.shot.frame}.")
        if client.shared >= most:
            raise ServingError(f"{most} moments were shared over this connection, which is the most; connect again.")
        token = new_token(root_of(player.token))
        if not self._keeper.share(session.record, token, frame):
            raise ServingError("the place where sessions are kept does not answer; try again later.")
        client.shared += 1
        return token

    def _player(
        self, client: Client, session: Session, token: str, fps: float, turns: bool | None = None, **how: Any
    ) -> Player:
        more = () if turns is None else (turns,)
        return Player(client.number(), session, self._limits, fps, *more, in_phase=self._in_phase, token=token, **how)

    def _begin(self, served: Served, truth: bool, **settings: Any) -> Session:
        """A session, with the true environment beside it if that is wanted and there."""
        env = self._begin_truth(served) if truth and self._truth else None
        try:
            return Session(served, truth=env, limits=self._limits, **settings)
        except BaseException:
            if env is not None:
                env.close()
            raise

    def _begin_truth(self, served: Served) -> Truth | None:
        try:
            return served.truth()
        except Exception as error:
            log.info("%s is played without its environment: %s", served.name, error)
            return None
