"""What machines ask a server about itself: does it live, can it take more, what has it counted.

GET /health    200 while the engine thread lives and ends what it begins    (`/healthz` is the same)
GET /ready     200 while it can also take another client; both say why not
GET /metrics   the counters of `metrics`, with the token where there is one
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .gate import Gate
from .limits import Limits
from .metrics import CONTENT_TYPE, Metrics
from .scheduler import EngineThread

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .keeper import Keeper

STUCK = 60.0  # seconds after which an engine thread that is still at the same thing counts as stuck


def create_probes(
    thread: EngineThread,
    metrics: Metrics,
    limits: Limits,
    *,
    keeper: Keeper | None,
    connections: Callable[[], int],
    token: str | None,
) -> list[Route]:
    """Build the routes. connections: how many sockets are open."""
    counted = metrics.now([])

    def wrong() -> str:
        if not thread.alive:
            return "stopped"
        return "stuck" if thread.busy > STUCK else ""

    async def health(request: Request) -> Response:
        del request
        return PlainTextResponse(wrong() or "ok", 503 if wrong() else 200)

    async def ready(request: Request) -> Response:
        del request
        why = wrong() or ("full" if connections() >= limits.clients else "")
        failing = keeper is not None and keeper.failing
        return JSONResponse(
            {"ready": not why, "why": why, "store": "failing" if failing else "ok"}, 503 if why else 200
        )

    async def render(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal counted
        if thread.alive and thread.busy < 1.0:  # else what was counted last
            try:
                asked = thread.call(lambda dispatcher: metrics.now(player for _, player in dispatcher.players()))
                counted = await asyncio.wait_for(asyncio.wrap_future(asked), 2.0)
            except TimeoutError:
                pass
        stored, failures = (0, 0) if keeper is None else (keeper.stored, keeper.failures)
        text = metrics.render(counted, connections(), stored, failures, thread.busy)
        await Response(text, media_type=CONTENT_TYPE)(scope, receive, send)

    gated = Gate(render, token=token, limits=limits, answered=metrics.request)
    return [
        Route("/health", health),
        Route("/healthz", health),
        Route("/ready", ready),
        Route("/metrics", gated, methods=["GET"]),
    ]
