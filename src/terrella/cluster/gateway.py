"""The door of a cluster: answers every `hello` with the address of a replica, and never sees a frame.

    GET /          the page            GET /healthz   200 while a replica answers
    WS  /ws        `hello`, answered by `moved` and the end of the connection (close code 4005)
    GET /replicas  who there is, and how loaded (where no token is asked for)

A new session is placed by a root drawn for it, one that comes back by the root in its token (see `placement`). Where a
session is, the store says: it is in the folder its journal lies in. If that replica is dead, whoever is chosen takes
the session from there; if it lives and has no room any more, it is asked to give the session up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import ServerFull, ServingError
from ..serving.app import STATIC
from ..serving.guard import Guard
from ..serving.limits import Limits
from ..serving.moves import alive, is_watch, locate, root_of
from ..serving.protocol import FULL, MOVED, POLICY, Error, Moved, dump, parse
from .placement import Load, Placement, crowded

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("terrella.cluster")
EVERY = 1.0  # seconds between two looks at all replicas


@dataclass(frozen=True)
class Berth:
    """A replica that answers: the address of its socket, and its load."""

    url: str
    load: Load


class Replicas(Protocol):
    """What a gateway asks of the replicas, by name; none of it raises for one that is dead."""

    @property
    def names(self) -> Sequence[str]:
        """All of them, dead or alive."""
        ...

    def look(self) -> Mapping[str, Berth]:
        """Those that answer."""
        ...

    def release(self, name: str, count: int | None) -> None:
        """Have one send so many clients elsewhere (None: all)."""
        ...

    def give_up(self, name: str, token: str) -> None:
        """Have one let go of the session of a token."""
        ...


class Gateway:
    """Places sessions on `replicas` that share the folder `store`; its methods may be called from any thread."""

    def __init__(self, replicas: Replicas, store: str | Path) -> None:
        self._replicas, self._store = replicas, Path(store)
        self._placement = Placement(replicas.names)
        self._berths: dict[str, Berth] = {}
        self._drained: set[str] = set()
        self._lock = threading.Lock()

    @property
    def berths(self) -> dict[str, Berth]:
        """The replicas that answered last."""
        return dict(self._berths)

    def refresh(self) -> None:
        """Look at all replicas, and have those that are crowded or drained send a client elsewhere."""
        seen = dict(self._replicas.look())
        with self._lock:
            self._berths, drained = seen, set(self._drained)
        for name in crowded({name: berth.load for name, berth in seen.items()}, drained):
            self._replicas.release(name, None if name in drained else 1)

    def drain(self, name: str) -> None:
        """Place nobody on a replica any more; its clients are sent elsewhere. Before it is taken away."""
        with self._lock:
            self._drained.add(name)
        self.refresh()

    def place(self, resume: str | None = None) -> str:
        """The address for a new session, or for the one with this token; raises `ServerFull`.

        Who watches goes to where the session is, however full that is, and never makes it move.
        """
        root, held = root_of(resume) if resume else secrets.token_hex(4), None
        if resume is not None and (held := locate(self._store, resume)) is not None and not self._lives(held):
            held = None
        watches = resume is not None and is_watch(resume)
        if watches and held in (berths := self.berths):
            return berths[held].url
        with self._lock:
            while True:
                loads = {name: berth.load for name, berth in self._berths.items()}
                placed = self._placement.place(root, loads, held=held, drained=self._drained)
                if placed is None:
                    raise ServerFull(f"none of {len(loads)} replicas has room; try again later.")
                if self._lives(placed.name):
                    break
                del self._berths[placed.name]
            berth = self._berths[placed.name]
            self._berths[placed.name] = replace(berth, load=berth.load.plus())
        if resume is not None and not watches and held is not None and placed.name != held and self._lives(held):
            self._replicas.give_up(held, resume)
        log.info("a session of %s goes to %s (%s)", root, placed.name, placed.why)
        return f"{berth.url}?root={root}"

    def _lives(self, name: str) -> bool:
        """Whether a replica holds its folder: that ends with its process, before anybody has noticed."""
        return name in self._placement.names and alive(self._store / name)


def create_gateway(
    gateway: Gateway, *, token: str | None = None, local: bool = True, limits: Limits | None = None
) -> FastAPI:
    """Build the application for a gateway; `token` must be given by every client, `local` answers to this machine."""
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles
    from starlette.websockets import WebSocket, WebSocketDisconnect

    from ..serving.connection import Refused, check_hello

    limits = limits or Limits()

    async def direct(socket: WebSocket) -> str:
        try:
            raw = await asyncio.wait_for(socket.receive(), limits.hello_seconds)
        except TimeoutError:
            raise Refused(POLICY, "hello", "the first message is 'hello', at once.") from None
        if raw["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(raw.get("code", 1005))
        try:
            hello = check_hello(parse(raw.get("text") or "", limits), token)
        except ServingError as error:
            raise Refused(POLICY, "bad_message", str(error)) from error
        try:
            return await asyncio.to_thread(gateway.place, hello.resume)
        except ServerFull as error:
            raise Refused(FULL, "full", str(error)) from error

    async def play(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await socket.send_text(dump(Moved(await direct(socket))))
            await socket.close(MOVED)
        except Refused as refused:
            await socket.send_text(dump(Error(refused.code, str(refused), fatal=True)))
            await socket.close(refused.close)
        except WebSocketDisconnect:
            pass

    async def health(request: Request) -> PlainTextResponse:
        del request
        return PlainTextResponse("ok", 200) if gateway.berths else PlainTextResponse("no replica answers", 503)

    async def replicas(request: Request) -> JSONResponse:
        del request
        return JSONResponse({name: {"url": b.url, **vars(b.load)} for name, b in gateway.berths.items()})

    async def watch() -> None:
        while True:
            try:
                await asyncio.to_thread(gateway.refresh)
            except Exception:
                log.exception("the replicas could not be looked at")
            await asyncio.sleep(EVERY)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        await asyncio.to_thread(gateway.refresh)
        watching = asyncio.create_task(watch())
        yield
        watching.cancel()

    routes = [
        WebSocketRoute("/ws", play),
        Route("/healthz", health),
        *([Route("/replicas", replicas)] if token is None else []),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]
    return FastAPI(
        title="Terrella gateway",
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, local=local)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
