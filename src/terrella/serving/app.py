"""The server: a static page, a WebSocket, an HTTP API, and one engine thread behind them.

    GET /          the page                                    GET /health, /ready, /metrics   see `probes`
    WS  /ws        the protocol of `terrella.serving.protocol`   /v1                             see `api`

The web server is imported inside the functions that start it, so that importing this module stays cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import engine_settings
from ..errors import ServingError
from ..world import World
from .catalogue import Catalogue
from .dispatch import Dispatcher
from .guard import Guard, check_binding, is_loopback
from .keeper import Keeper
from .limits import Limits, client_address
from .scheduler import EngineThread

if TYPE_CHECKING:
    import socket

    import uvicorn
    from fastapi import FastAPI

    from .desk import Desk

log = logging.getLogger("terrella.serving")
STATIC = Path(__file__).parent / "static"
Source = World | str | Path
Sources = Source | Sequence[str | Path] | Mapping[str, Source]


def create_app(
    worlds: Sources,
    *,
    truth: bool = True,
    steps: int | None = None,
    device: str = "cpu",
    engine: Mapping[str, Any] | None = None,
    batch: int = 1,
    exact: bool = False,
    admit: bool | None = None,
    keep: str | Path | Keeper | None = None,
    store: str | None = None,
    token: str | None = None,
    local: bool = True,
    public: str | None = None,
    origins: Sequence[str] = (),
    gallery: bool = False,
    limits: Limits | None = None,
) -> FastAPI:
    """Build the application for one world, or for several by name; the first is shown first.

    `truth` runs the true environment beside a world where it is installed. `steps` are denoising steps a frame.
    `device` is where worlds that are given by name or path run. `engine` are more settings of their `Engine`, by name,
    such as `precision` or `budget_ms`. `batch` sessions of a world are stepped together at most; their frames are those
    they would have alone within rounding, or, if `exact`, bit for bit, every batch being padded to `batch`. `admit`
    refuses sessions that would make frames late (None: where `batch` is above 1). `keep` is a folder in which sessions
    outlive their connection and the server, or the keeper of one; `store` is the URL of another filesystem for what
    never changes of them (see `remote`). `token` must be given by every client. `local` answers only to names of this
    machine. `public` is another address under which a proxy offers this server, as `https://world.example`. Pages of
    `origins` may connect as well as the server's own. `gallery` adds the worlds that ship with the package, loaded when
    asked for. Raises what `World.load` raises for the first world, `ServingError` when there is nothing to serve or
    `batch` is less than 1, and what `Keeper` raises.
    """
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.routing import Mount, WebSocketRoute
    from starlette.staticfiles import StaticFiles
    from starlette.websockets import WebSocket

    from .api import create_api, http_problem
    from .connection import Connection
    from .desk import Desk
    from .gate import Gate
    from .metrics import Metrics
    from .probes import create_probes

    if batch < 1:
        raise ServingError(f"batch is {batch}; it is how many sessions are stepped together at most, 1 for each alone.")
    limits = limits or Limits()
    settings = engine_settings(engine, steps=steps, exact=batch if exact else None)
    if store is not None and (keep is None or isinstance(keep, Keeper)):
        raise ServingError("a store is for sessions that are kept: keep='folder' as well, in which their journals lie.")
    keeper = keep if keep is None or isinstance(keep, Keeper) else Keeper(keep, most=limits.store_bytes, url=store)
    metrics = Metrics()
    catalogue = Catalogue(
        name_worlds(worlds, gallery=gallery),
        device=device,
        settings=settings,
        repeats=exact or batch == 1,
        store=None if keeper is None else keeper.snapshots,
    )
    catalogue.get(catalogue.names[0])  # a wrong path should be said here, not on the page
    admits = batch > 1 if admit is None else admit
    thread = EngineThread(
        Dispatcher(catalogue, limits, truth=truth, batch=batch, admit=admits, keeper=keeper, metrics=metrics)
    )
    desk = Desk(thread, limits, kept=keeper is not None)
    api = create_api(thread, desk, catalogue, secured=token is not None)
    connections: dict[Connection, str] = {}

    async def play(socket: WebSocket) -> None:
        connection, began = Connection(socket, thread, catalogue.names, limits, token), time.monotonic()
        address = client_address(None if socket.client is None else socket.client.host)
        connections[connection] = address
        full = _full(connections.values(), address, limits)
        code = 1006
        try:
            code = await connection.run(full=full)
        finally:
            del connections[connection]
            metrics.closed(code)
            log.info("connection ended", extra={"code": code, "seconds": round(time.monotonic() - began, 1)})

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        if keeper is not None:
            keeper.start()
        thread.start()
        sweeping = asyncio.create_task(_sweep(desk, limits.idle_seconds / 8))
        yield
        sweeping.cancel()
        thread.stop()
        if keeper is not None:
            keeper.close()

    routes = [
        WebSocketRoute("/ws", play),
        *create_probes(thread, metrics, limits, keeper=keeper, connections=lambda: len(connections), token=token),
        Mount("/v1", Gate(api, token=token, limits=limits, answered=metrics.request)),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]
    app = FastAPI(
        title="Terrella",
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, local=local, public=public, origins=tuple(origins))],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.add_exception_handler(HTTPException, http_problem)  # a path with a line break is no path of any mount
    app.state.thread, app.state.keeper = thread, keeper
    return app


def create_server(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    proxied: bool = False,
    limits: Limits | None = None,
) -> uvicorn.Server:
    """Put an application under a web server that enforces the limit on message size; `run()` it.

    proxied: whether a proxy on this machine may say on whose behalf it asks.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=proxied,
        ws_max_size=(limits or Limits()).message_bytes,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


def serve(
    world: Sources,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    truth: bool = True,
    steps: int | None = None,
    device: str = "cpu",
    engine: Mapping[str, Any] | None = None,
    batch: int = 1,
    exact: bool = False,
    admit: bool | None = None,
    keep: str | Path | None = None,
    store: str | None = None,
    token: str | None = None,
    public: str | None = None,
    gallery: bool = True,
    limits: Limits | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Let people play a world in their browser until interrupted.

    `world` is a world, the path of a saved one, a gallery name, several of these, or several by name. `host` other than
    this machine, or a `public` address, needs a `token`, which the page asks for. `port` 0 takes a free one. `on_ready`
    is called with the page's address once it answers; it is logged as well. See `create_app` for the rest. Raises
    `ServingError` for an unsafe binding or a port in use.
    """
    check_binding(host, token, public)
    app = create_app(
        world,
        truth=truth,
        steps=steps,
        device=device,
        engine=engine,
        batch=batch,
        exact=exact,
        admit=admit,
        keep=keep,
        store=store,
        token=token,
        local=is_loopback(host),
        public=public,
        gallery=gallery,
        limits=limits,
    )
    server = create_server(app, host=host, port=port, proxied=public is not None, limits=limits)
    socket = bind(server)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{socket.getsockname()[1]}/"

    def announce() -> None:
        while not server.started:
            if server.should_exit:
                return
            time.sleep(0.05)
        log.info("playing at %s", url)
        if on_ready is not None:
            on_ready(url)
        if open_browser:
            webbrowser.open(url)

    threading.Thread(target=announce, name="terrella-announce", daemon=True).start()
    server.run([socket])


def bind(server: uvicorn.Server) -> socket.socket:
    """Take the port that a server was made for; raises `ServingError` where another one has it."""
    try:
        return server.config.bind_socket()
    except SystemExit as error:
        port, host = server.config.port, server.config.host
        raise ServingError(
            f"port {port} of {host} cannot be bound; choose another port, or 0 for a free one."
        ) from error


async def _sweep(desk: Desk, period: float) -> None:
    while True:
        await asyncio.sleep(period)
        try:
            await desk.sweep()
        except Exception:
            log.exception("sessions that nobody asks for could not be let go")


def _full(addresses: Collection[str], mine: str, limits: Limits) -> str:
    """Why there is no room for another connection of an address, which is among them already; "" if there is."""
    if len(addresses) > limits.clients:
        return f"{limits.clients} clients are connected, which is the most; try later."
    if mine and sum(address == mine for address in addresses) > limits.address_clients:
        return f"{limits.address_clients} clients are connected from your address, which is the most; close one."
    return ""


def name_worlds(worlds: Sources, *, gallery: bool = False) -> dict[str, Source]:
    """Give every world the name by which clients ask for it; raises `ServingError` where two have the same."""
    named: dict[str, Source] = {}
    if isinstance(worlds, World):
        named[worlds.name or "world"] = worlds
    elif isinstance(worlds, Mapping):
        named.update(worlds)
    else:
        for source in [worlds] if isinstance(worlds, (str, Path)) else worlds:
            in_gallery = str(source) in World.list_gallery() and not (Path(source) / "world.json").exists()
            name = str(source) if in_gallery else Path(source).resolve().name or "world"
            if name in named:
                raise ServingError(f"two worlds are called {name!r}; give them names: {{'one': ..., 'other': ...}}.")
            named[name] = source
    if gallery:
        for name in World.list_gallery():
            named.setdefault(name, name)
    return named
