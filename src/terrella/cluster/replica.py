"""One server of a cluster: the serving application with a socket and a folder of sessions of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..errors import ServingError, TerrellaError
from ..serving import create_app, create_server
from ..serving.admission import share
from ..serving.dispatch import Dispatcher
from ..serving.guard import check_binding, is_loopback, same_token
from ..serving.keeper import Keeper
from ..serving.limits import Limits
from ..serving.protocol import Moved, dump
from ..serving.visitor import Client
from .placement import Load

WAIT = 1.0  # seconds for an engine that is in the middle of something; it counts as loaded as it was


class Replica:
    """Serve worlds under `name`, with sessions in `store/name`, from when it is made until `stop`.

    worlds: paths of saved worlds or gallery names, by name. host: the address to bind; `reach` is the one that clients
    use, where it differs. origins: of the gateway's pages. settings: more of `create_app`'s. Raises what that raises,
    and `ServingError` for an unsafe binding.
    """

    def __init__(
        self,
        name: str,
        worlds: Mapping[str, str],
        store: str,
        *,
        host: str = "127.0.0.1",
        reach: str | None = None,
        token: str | None = None,
        origins: Sequence[str] = (),
        limits: Limits | None = None,
        **settings: Any,
    ) -> None:
        check_binding(host, token)
        self.name, self._limits = name, limits or Limits()
        self._keeper = Keeper(Path(store) / name, store=Path(store))
        app = create_app(
            worlds,
            keep=self._keeper,
            token=token,
            origins=origins,
            local=is_loopback(host),
            limits=self._limits,
            **settings,
        )
        self._engine = app.state.thread
        self._server = create_server(app, host=host, port=0, limits=self._limits)
        socket = self._server.config.bind_socket()
        shown = reach or host
        self.url = f"ws://{f'[{shown}]' if ':' in shown else shown}:{socket.getsockname()[1]}/ws"
        self._load = Load(most=self._limits.sessions)
        self._thread = threading.Thread(target=self._server.run, args=([socket],), name="terrella-replica", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise ServingError(f"replica {name} could not serve at {self.url}; see its log.")
            time.sleep(0.01)

    def state(self) -> dict[str, Any]:
        """Where clients reach it, its process, and its `Load` as JSON; raises `ServingError` for a dead engine."""
        if not self._engine.alive:
            raise ServingError(f"the engine of replica {self.name} has stopped.")
        call: Future[Load] = self._engine.call(self._measure)
        try:
            self._load = call.result(WAIT)
        except TimeoutError:
            call.cancel()
        return {"url": self.url, "pid": os.getpid(), "load": vars(self._load)}

    def release(self, count: int | None = None) -> int:
        """Send so many clients elsewhere, those that pause first, or all (None); returns how many there were.

        Each is told `moved` once its sessions are written, up to the frame shown last.
        """

        def send_away(dispatcher: Dispatcher) -> int:
            clients = list({id(client): client for client, _ in dispatcher.players()}.values())
            clients.sort(key=lambda client: any(player.running for player in client.players.values()))
            for client in clients[:count]:
                self._send_away(dispatcher, client)
            return len(clients[:count])

        return self._engine.call(send_away).result()

    def give_up(self, token: str) -> bool:
        """Let another replica have the session of a token; whether it can now."""
        written = threading.Event()

        def part(dispatcher: Dispatcher) -> None:
            for client, player in dispatcher.players():
                if same_token(token, player.token):
                    return self._send_away(dispatcher, client, written.set)
            _, record = self._keeper.resume(token)
            self._keeper.release(record, written.set)

        try:
            self._engine.call(part).result()
        except TerrellaError:  # it was closed, or is gone already
            return False
        return written.wait(10.0)

    def stop(self) -> None:
        """Send everybody away and end."""
        if self._engine.alive:
            self.release()
            self._keeper.flush()
        self._server.should_exit = True
        self._thread.join()

    def _measure(self, dispatcher: Dispatcher) -> Load:
        demands, batch = dispatcher.demands(), dispatcher.batch
        more = share([*demands, demands[-1]], batch) if demands else 0.0
        return Load(share(demands, batch), more, len(dispatcher.players()), self._limits.sessions)

    def _send_away(self, dispatcher: Dispatcher, client: Client, then: Callable[[], None] = lambda: None) -> None:
        """Part with all sessions of a client; once they are written, tell it, and call `then`."""
        sessions = [player.session for player in client.players.values()]
        records = [session.record for session in sessions if session.sound and session.record is not None]
        dispatcher.handle(client, None)  # puts their states on the disk

        def tell() -> None:
            client.send([dump(Moved())])
            then()

        for record in records:
            self._keeper.release(record, tell if record is records[-1] else lambda: None)
        if not records:
            tell()
