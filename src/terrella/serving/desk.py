"""Sessions over HTTP: each request is said to the engine thread in the messages of the protocol, and answered at once.

An address is one client, with sessions that never run on the clock. A session's id is the right to it; where sessions
are kept it is the same token that a socket may `reopen`, and outlives the server. A snapshot is a session that nobody
plays: it rests wherever paused sessions rest, is only forked, and goes when whoever has its id says so. A moment that
was shared over a socket (see `openings`) may be forked as well, and is nobody's to drop.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..actions import encode
from ..errors import ActionError, ServingError, WorldError
from .dispatch import Dispatcher
from .futures import Future, Futures
from .header import Header
from .limits import Limits, client_address
from .player import check_row
from .protocol import Action, Close, Fork, Message, Open, Reopen, Reset, Rewind, Step
from .scene import Made
from .scheduler import EngineThread
from .visitor import Client

GONE = "this session is gone; another connection goes on with it, or it was closed."
SNAPSHOT = "snap-"  # before the id of what is not stepped
STATUS = {"UnknownName": 404, "full": 503, "failed": 500, "internal": 500, "WorldError": 500, "StateError": 500}
Part = tuple[Header, bytes]


class Refusal(ServingError):
    """A request that cannot be met, with the HTTP status that says so."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(eq=False)
class Seat:
    """One address as the engine thread sees it, what was said to it, and how many requests wait for an answer."""

    client: Client
    inbox: list[bytes | str]
    asking: int = 0


@dataclass(eq=False)
class Held:
    """A session, what `opened` said of it, and when it was last asked for."""

    id: str
    seat: Seat
    number: int
    opened: dict[str, Any]
    used: float
    seq: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def streams(self) -> list[str]:
        """Names of the streams, in the order of their numbers."""
        return [stream["name"] for stream in self.opened["about"]["streams"]]


@dataclass
class Frame:
    """A tick and the parts that came before it."""

    tick: dict[str, Any]
    parts: list[Part]


class Desk:
    """The sessions of all who ask over HTTP; to be used on the event loop. Raises `Refusal`."""

    def __init__(self, thread: EngineThread, limits: Limits, *, kept: bool) -> None:
        self._thread, self._limits, self._kept = thread, limits, kept
        self._seats: dict[str, Seat] = {}
        self._held: dict[str, Held] = {}

    async def open(self, host: str | None, message: Open) -> tuple[Held, Frame]:
        """Begin a session for an address."""
        return await self._begin(self._seat(host), message)

    async def show(self, key: str, host: str | None) -> tuple[Held, Frame]:
        """Show a session as it is."""
        held = await self._find(key, host)

        def again(dispatcher: Dispatcher) -> None:
            player = held.seat.client.players.get(held.number)
            if player is not None:
                dispatcher.show(held.seat.client, player, Made())

        async with held.lock:
            return held, self._one(held, await self._ask(held.seat, again))

    async def step(
        self, key: str, host: str | None, actions: Sequence[Sequence[float] | str | None]
    ) -> tuple[Held, list[Frame]]:
        """Take actions, a frame each; none if one of them is no action of the world."""
        held = await self._find(key, host, stepped=True)
        async with held.lock:
            rows = [self._row(held, action) for action in actions]
            frames = []
            for row in rows:  # one at a time, so that nobody's steps keep others waiting for more than one
                held.seq += 1
                said = (Action(held.number, held.seq, row=row), Step(held.number))
                frames.append(self._one(held, await self._say(held.seat, *said)))
            return held, frames

    async def evaluate(
        self, key: str, host: str | None, plans: Sequence[Sequence[Sequence[float] | str | None]]
    ) -> tuple[Held, list[Future]]:
        """Imagine plans from the present; the session, or the snapshot, stays as it is."""
        if len({len(plan) for plan in plans}) > 1:
            raise Refusal(409, "ActionError", "plans have different lengths; expected equally many actions in each.")
        async with self._used(key, host) as held:
            rows = [[self._row(held, action) or self._idle(held) for action in plan] for plan in plans]
            try:
                return held, await self._imagine(held, rows)
            except Refusal:
                raise
            except (ServingError, WorldError) as error:
                code = type(error).__name__
                raise Refusal(STATUS.get(code, 409), code, str(error)) from error

    async def change(
        self, key: str, host: str | None, message: type[Rewind] | type[Reset], value: int | None
    ) -> tuple[Held, Frame]:
        """Rewind to a frame, or reset to a seed."""
        held = await self._find(key, host, stepped=True)
        async with held.lock:
            said = Reset(held.number, value) if value is None else message(held.number, value)
            frame = self._one(held, await self._say(held.seat, said))
            if isinstance(said, Reset) and value is not None:
                held.opened["seed"] = value
            return held, frame

    async def fork(
        self, key: str, host: str | None, frame: int | None, *, snapshot: bool = False
    ) -> tuple[Held, Frame]:
        """Fork a session, a snapshot or a shared moment; into a `snapshot` if wanted."""
        async with self._used(key, host) as held:
            return await self._begin(held.seat, Fork(held.number, frame), snapshot=snapshot)

    async def close(self, key: str, host: str | None) -> None:
        """End a session or drop a snapshot."""
        held = await self._find(key, host)
        async with held.lock:
            await self._say(held.seat, Close(held.number))
            self._forget(held)
        if held.id != key:
            raise Refusal(409, "snapshot", "a shared moment cannot be dropped; it is deleted a week after it was made.")

    async def sweep(self) -> None:
        """Let go of sessions that nobody has asked for in a long time; those that are kept can be asked for again."""
        oldest = time.monotonic() - self._limits.idle_seconds
        for held in [held for held in self._held.values() if held.used < oldest and not held.lock.locked()]:
            self._forget(held)

            def let_go(dispatcher: Dispatcher, held: Held = held) -> None:
                player = held.seat.client.players.get(held.number)
                if player is not None:
                    dispatcher.let_go(held.seat.client, player)

            await self._ask(held.seat, let_go)
        used = {id(held.seat) for held in self._held.values()}
        for address, seat in list(self._seats.items()):
            if id(seat) not in used and not seat.asking:
                del self._seats[address]
                self._thread.leave(seat.client)

    # inside

    def _seat(self, host: str | None) -> Seat:
        address = client_address(host)
        if address not in self._seats:
            inbox: list[bytes | str] = []
            most = min(255, self._limits.address_sessions if address else self._limits.sessions)
            self._seats[address] = Seat(Client(partial(_take, inbox), most), inbox)
        return self._seats[address]

    async def _find(self, key: str, host: str | None, *, stepped: bool = False) -> Held:
        if stepped and key.startswith(SNAPSHOT):
            raise Refusal(409, "snapshot", "a snapshot stays as it is; open a session from it.")
        held = self._held.get(key)
        if held is not None and held.number not in held.seat.client.players:  # taken over by a socket, or failed
            self._forget(held)
            held = None
        if held is None and self._kept:
            held, _ = await self._begin(self._seat(host), Reopen(key.removeprefix(SNAPSHOT)), key=key)
            if stepped and held.id != key:
                await self.close(held.id, host)
                raise Refusal(409, "snapshot", "a shared moment stays as it is; fork it.")
        if held is None:
            raise Refusal(404, "session", "there is no such session; it was closed, or nobody asked for it for long.")
        held.used = time.monotonic()
        return held

    @asynccontextmanager
    async def _used(self, key: str, host: str | None) -> AsyncIterator[Held]:
        """A session to look at or to fork, nobody else's meanwhile; of a shared moment, one begun for this alone."""
        held = await self._find(key, host)
        try:
            async with held.lock:
                yield held
        finally:
            if held.id != key:
                await self.close(held.id, host)

    async def _begin(
        self, seat: Seat, message: Open | Fork | Reopen, *, key: str = "", snapshot: bool = False
    ) -> tuple[Held, Frame]:
        try:
            opened, frames = await self._say(seat, message)
        except Refusal as refusal:
            if isinstance(message, Reopen) and refusal.status == 409:
                raise Refusal(404, "session", str(refusal)) from refusal
            raise
        if opened is None or not frames:
            raise Refusal(500, "internal", "no session came of that.")
        if not key or opened["token"] not in (None, key.removeprefix(SNAPSHOT)):  # a shared moment's is not its own
            key = SNAPSHOT * snapshot + (opened["token"] or secrets.token_urlsafe(24))
        held = Held(key, seat, opened["session"], opened, time.monotonic())
        self._held[key] = held
        return held, frames[-1]

    async def _imagine(self, held: Held, rows: Sequence[Sequence[Sequence[float]]]) -> list[Future]:
        """Imagine plans, as many at a time as are stepped together, a frame between two batches of those that play."""
        found, left = list[Future](), np.array(rows, np.float32)

        def begin(dispatcher: Dispatcher) -> Futures:
            player = held.seat.client.players.get(held.number)
            if player is None:
                raise Refusal(404, "session", GONE)
            return Futures(player.session, left[: dispatcher.batch])

        while len(left):
            futures = await asyncio.wrap_future(self._thread.call(begin))
            while await asyncio.wrap_future(self._thread.call(futures.advance)):
                pass
            found += futures.found()
            left = left[len(futures) :]
        return found

    def _row(self, held: Held, action: Sequence[float] | str | None) -> tuple[float, ...] | None:
        """Turn an action into a row; raises `Refusal` for one that the world does not have."""
        player = held.seat.client.players.get(held.number)
        if player is None or action is None:
            return None
        spec = player.session.served.spec.action
        try:
            row = encode(spec, action) if isinstance(action, str) else check_row(spec, tuple(action))
        except ActionError as error:
            raise Refusal(409, "ActionError", str(error)) from error
        return tuple(map(float, row))

    def _idle(self, held: Held) -> tuple[float, ...]:
        """The row of doing nothing; raises `Refusal` where there is none."""
        idle = held.opened["about"]["noop"]
        if idle is None:
            raise Refusal(409, "ActionError", "this world has no idle action; a plan needs an action for each frame.")
        return tuple(idle)

    def _one(self, held: Held, said: tuple[dict[str, Any] | None, list[Frame]]) -> Frame:
        """The last frame that was shown; raises `Refusal` where the session is gone."""
        if not said[1]:
            self._forget(held)
            raise Refusal(404, "session", GONE)
        return said[1][-1]

    async def _say(self, seat: Seat, *messages: Message) -> tuple[dict[str, Any] | None, list[Frame]]:
        def work(dispatcher: Dispatcher) -> None:
            for message in messages:
                dispatcher.handle(seat.client, message)

        return await self._ask(seat, work)

    async def _ask(self, seat: Seat, work: Any) -> tuple[dict[str, Any] | None, list[Frame]]:
        """Do `work` on the engine thread; return `opened`, if that was said, and the frames that were shown."""

        def whole(dispatcher: Dispatcher) -> tuple[list[bytes | str], str]:
            work(dispatcher)
            for player in seat.client.players.values():
                player.in_flight.clear()  # nobody runs ahead of what was asked for
            said, refused = list(seat.inbox), seat.client.refused
            seat.inbox.clear()
            seat.client.refused = ""
            return said, refused

        seat.asking += 1
        try:
            said, refused = await asyncio.wrap_future(self._thread.call(whole))
        finally:
            seat.asking -= 1
        if refused:
            raise Refusal(503, "full", refused)
        return self._read(seat, said)

    def _read(self, seat: Seat, said: Sequence[bytes | str]) -> tuple[dict[str, Any] | None, list[Frame]]:
        opened, error = None, None
        frames, parts = list[Frame](), list[Part]()
        for message in said:
            if isinstance(message, bytes):
                parts.append(Header.unpack(message))
                continue
            body = json.loads(message)
            if body["type"] == "tick":
                frames.append(Frame(body, parts))
                parts = []
            elif body["type"] == "opened":
                opened = body
            elif body["type"] == "closed":
                for held in [h for h in self._held.values() if h.seat is seat and h.number == body["session"]]:
                    self._forget(held)
            elif body["type"] == "error" and body["code"] != "truth":  # that is a notice: the world goes on
                error = error or body
        if error is not None:
            raise Refusal(STATUS.get(error["code"], 409), error["code"], error["message"])
        return opened, frames

    def _forget(self, held: Held) -> None:
        if self._held.get(held.id) is held:  # not one that was reopened meanwhile
            del self._held[held.id]


def _take(inbox: list[bytes | str], messages: Sequence[bytes | str]) -> None:
    """Keep what may be an answer; a status comes unasked as well, such as when somebody begins to watch."""
    inbox += [said for said in messages if isinstance(said, bytes) or not said.startswith('{"type":"status"')]
