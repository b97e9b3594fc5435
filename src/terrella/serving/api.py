"""The HTTP API: worlds and sessions for programs that ask and wait, such as learners and planners.

    GET    /v1/worlds                   names            GET  /v1/worlds/{world}     one of them
    POST   /v1/sessions                 begin one        GET  /v1/sessions/{id}      as it is now
    POST   /v1/sessions/{id}/step       take actions     DELETE /v1/sessions/{id}    end it
    POST   /v1/sessions/{id}/rewind     to a frame       POST /v1/sessions/{id}/reset
    POST   /v1/sessions/{id}/fork       another session  POST /v1/sessions/{id}/snapshot  one that stays as it is
    POST   /v1/sessions/{id}/evaluate   what plans would bring
    GET    /v1/openapi.json             all of this for machines

Sessions are those of `desk`; token, rate and size of requests are checked by `gate`, host and origin by `guard`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
from fastapi import FastAPI, Path, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ..errors import TerrellaError
from .api_models import (
    ID,
    Forking,
    Frames,
    FutureShown,
    FuturesShown,
    NewSession,
    Pixels,
    Plans,
    Problem,
    Resetting,
    Rewinding,
    SessionShown,
    Shown,
    Steps,
    TrueSide,
    Worlds,
    WorldShown,
)
from .catalogue import Catalogue, Served
from .desk import Desk, Frame, Held, Part, Refusal
from .dispatch import Dispatcher
from .frames import encode
from .gate import HEADERS
from .header import JPEG, MAP, PICTURE, RAW, TRUE, VECTOR
from .limits import Limits
from .protocol import Open, Reset, Rewind
from .scheduler import EngineThread

FORMATS = {RAW: "rgb", JPEG: "jpeg", VECTOR: "float32"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request is no HTTP request that makes sense."},
    401: {"model": Problem, "description": "The server asks for its token."},
    404: {"model": Problem, "description": "There is no such world or session."},
    408: {"model": Problem, "description": "The request did not end."},
    409: {"model": Problem, "description": "The world or the session cannot do that; the message says what it can."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "A field is unknown, absent, of another type, or out of bounds."},
    429: {"model": Problem, "description": "Too many requests in a second."},
    503: {"model": Problem, "description": "There is no room or no time for another session now."},
}
Id = Annotated[str, Path(pattern=ID, description="The id of a session or a snapshot.")]
Name = Annotated[str, Path(min_length=1, max_length=Limits.text, description="A name from GET /v1/worlds.")]


def create_api(thread: EngineThread, desk: Desk, catalogue: Catalogue, *, secured: bool) -> FastAPI:
    """Build the application that is mounted at `/v1`; where it is `secured` its description asks for the token."""
    token = HTTPBearer(auto_error=False, description="The server's token.")
    api = FastAPI(
        title="Terrella",
        version="1",
        description="Worlds to step, fork and rewind over HTTP.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=REFUSALS,
        dependencies=[Security(token)] if secured else [],
    )
    api.add_exception_handler(Refusal, _refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, http_problem)
    api.add_exception_handler(Exception, _failed)

    @api.get("/worlds")
    async def worlds() -> Worlds:
        """The worlds that are served."""
        return Worlds(worlds=list(catalogue.names))

    @api.get("/worlds/{world}")
    async def world(world: Name) -> WorldShown:
        """What a world shows and takes. The first time it is asked for it is loaded, which may take seconds."""

        def look(dispatcher: Dispatcher) -> tuple[Served, dict[str, Any]]:
            del dispatcher  # on its thread, since a world may have to be loaded
            served = catalogue.get(world)
            return served, served.about()

        try:
            served, about = await asyncio.wrap_future(thread.call(look))
        except TerrellaError as error:
            raise Refusal(404, type(error).__name__, str(error)) from error
        starts = served.world.starts
        count = 0 if starts is None else len(starts.actions)
        return WorldShown(name=world, about=about, starts=count, context=served.context)

    @api.post("/sessions", status_code=201)
    async def begin(new: NewSession, request: Request) -> SessionShown:
        """Begin a session. Recorded starts are chosen by `seed`, modulo their number."""
        asked = Open(new.world, seed=new.seed, truth=new.truth, steps=new.steps)
        return _session(*await desk.open(_host(request), asked))

    @api.get("/sessions/{id}")
    async def show(id: Id, request: Request) -> SessionShown:
        """Show a session at its present frame."""
        return _session(*await desk.show(id, _host(request)))

    @api.post("/sessions/{id}/step")
    async def step(id: Id, steps: Steps, request: Request) -> Frames:
        """Take actions, a frame each. If one of them is no action of the world, none is taken."""
        held, frames = await desk.step(id, _host(request), steps.actions)
        return Frames(frames=[_shown(held, frame) for frame in frames])

    @api.post("/sessions/{id}/evaluate")
    async def evaluate(id: Id, asked: Plans, request: Request) -> FuturesShown:
        """Imagine plans from the present of a session or a snapshot, which stays as it is."""
        held, futures = await desk.evaluate(id, _host(request), asked.plans)
        shown = []
        for future in futures:
            last = {name: _frame(future.observation[name]) for name in held.streams} if asked.last else None
            shown.append(FutureShown(reward=future.reward.tolist(), end=future.end.tolist(), last=last))
        return FuturesShown(futures=shown)

    @api.post("/sessions/{id}/rewind")
    async def rewind(id: Id, to: Rewinding, request: Request) -> SessionShown:
        """Go back to exactly this frame; what came after it is forgotten."""
        return _session(*await desk.change(id, _host(request), Rewind, to.frame))

    @api.post("/sessions/{id}/reset")
    async def reset(id: Id, to: Resetting, request: Request) -> SessionShown:
        """Begin again, with another seed if one is given."""
        return _session(*await desk.change(id, _host(request), Reset, to.seed))

    @api.post("/sessions/{id}/fork", status_code=201)
    async def fork(id: Id, at: Forking, request: Request) -> SessionShown:
        """Begin another session with this one's past, or with a snapshot's."""
        return _session(*await desk.fork(id, _host(request), at.frame))

    @api.post("/sessions/{id}/snapshot", status_code=201)
    async def snapshot(id: Id, at: Forking, request: Request) -> SessionShown:
        """Keep a moment: a session that cannot be stepped, only forked. It counts as a session until it is deleted."""
        return _session(*await desk.fork(id, _host(request), at.frame, snapshot=True))

    @api.delete("/sessions/{id}", status_code=204)
    async def close(id: Id, request: Request) -> None:
        """End a session or drop a snapshot, for good."""
        await desk.close(id, _host(request))

    return api


def _host(request: Request) -> str | None:
    return None if request.client is None else request.client.host


def _session(held: Held, frame: Frame) -> SessionShown:
    return SessionShown(
        id=held.id,
        watch=held.opened["watch"],
        world=held.opened["world"],
        seed=held.opened["seed"],
        start=held.opened["start"],
        truth=frame.tick["truth"] is not None,
        oldest=frame.tick["oldest"],
        frame=_shown(held, frame),
    )


def _shown(held: Held, frame: Frame) -> Shown:
    """One frame as the API tells it."""
    tick, names = frame.tick, held.streams
    mine = [(header, data) for header, data in frame.parts if not header.flags & TRUE]
    theirs = [(header, data) for header, data in frame.parts if header.flags & TRUE]
    true, side = tick["truth"], {"observation": _streams(theirs, names), "picture": _extra(theirs, PICTURE)}
    return Shown(
        observation=_streams(mine, names),
        memory=_extra(mine, MAP),
        truth=None if true is None else TrueSide(**true, **side),
        **{name: tick[name] for name in ("frame", "reward", "score", "end", "ended")},
    )


def _streams(parts: Sequence[Part], names: Sequence[str]) -> dict[str, Pixels]:
    return {names[header.stream]: _pixels(header, data) for header, data in parts if header.stream < len(names)}


def _extra(parts: Sequence[Part], stream: int) -> Pixels | None:
    return next((_pixels(header, data) for header, data in parts if header.stream == stream), None)


def _pixels(header: Any, data: bytes) -> Pixels:
    return _encoded(header.kind, data, header.width, header.height)


def _frame(array: np.ndarray) -> Pixels:
    return _encoded(*encode(array))


def _encoded(kind: int, data: bytes, width: int, height: int) -> Pixels:
    shape = [width] if kind == VECTOR else [height, width, 3]
    name = cast(Literal["rgb", "jpeg", "float32"], FORMATS[kind])
    return Pixels(format=name, shape=shape, data=base64.b64encode(data).decode("ascii"))


def _problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    more = {name.decode(): value.decode() for name, value in HEADERS.get(status, [])}
    return JSONResponse({"code": code, "message": message[:1000]}, status, {**more, **(headers or {})})


async def _refused(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, Refusal)
    return _problem(error.status, error.code, str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Say where a request is wrong; never what it said, which may not be writable as JSON."""
    del request
    assert isinstance(error, RequestValidationError)
    said = [f"{'.'.join(map(str, e['loc']))[:80]}: {e['msg'][:120]}" for e in error.errors()[:5]]
    return _problem(422, "invalid", "; ".join(said))


async def http_problem(request: Request, error: Exception) -> JSONResponse:
    """Paths and methods that there are not; `Allow` lists all methods of the path."""
    assert isinstance(error, HTTPException)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        there = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
        headers["allow"] = ", ".join(sorted({method for route in there for method in route.methods or ()}))
    return _problem(error.status_code, "http", str(error.detail), headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    del request  # the web server logs the error
    return _problem(500, "internal", f"that failed here: {type(error).__name__}.")
