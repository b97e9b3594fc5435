"""A small client of the socket for programs, which stays with its session wherever that goes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ServingError
from .header import Header
from .protocol import PROTOCOL

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

BETWEEN = 0.2  # seconds between two attempts


class Follower:
    """One session on a server, or on a cluster. Where the connection is lost it goes on if sessions are kept.

    url: the socket of the server or gateway, `ws://.../ws`. token: the server's. patience: seconds for which a lost
    session is looked for. codecs: as in `hello`; H.264 is for `terrella.serving.video.Decoder`, and begins anew after a
    move. `open`, `reopen` or `watch` first; `read` gives what comes, and answers frames with `ack`. Every `opened` that
    it gives says that the session has moved; `moves` counts them. A clock that runs goes along, with what is held.
    Raises `ServingError` where the server refuses, or the session is not found in time.
    """

    def __init__(
        self, url: str, *, token: str | None = None, codecs: Sequence[str] = (), patience: float = 30.0
    ) -> None:
        self._home, self._patience = url, patience
        self._hello = {"protocol": PROTOCOL, "token": token, "codecs": list(codecs)}
        self._socket: ClientConnection | None = None
        self._parts: list[tuple[Header, bytes]] = []
        self._action: dict[str, Any] | None = None
        self._running = False
        self.opened: dict[str, Any] = {}
        self.moves = 0

    def open(self, world: str, **fields: Any) -> dict[str, Any]:
        """Begin a session; returns `opened`."""
        return self._begin(None, {"type": "open", "world": world, **fields})

    def reopen(self, token: str) -> dict[str, Any]:
        """Go on with the session of a token; returns `opened`."""
        return self._begin(token, {"type": "reopen", "token": token})

    def watch(self, token: str) -> dict[str, Any]:
        """See what somebody plays, by `watch` of their `opened`; returns `opened`. Who leaves is awaited."""
        return self._begin(token, {"type": "watch", "token": token})

    def send(self, kind: str, **fields: Any) -> None:
        """Say something about the session. Only actions and the clock are said again on another replica."""
        body = {"type": kind, "session": self.opened["session"], **fields}
        self._action = body if kind == "action" else self._action
        self._running = {"resume": True, "pause": False}.get(kind, self._running)
        self._say(body)

    def read(self, timeout: float = 20.0) -> dict[str, Any]:
        """The next message; a `tick` has the `parts` of its frame, `(header, payload)` each.

        Raises `TimeoutError` when nothing comes.
        """
        from websockets.exceptions import ConnectionClosed

        while True:
            try:
                if self._socket is None:
                    return self._again()
                message = self._socket.recv(timeout)
            except TimeoutError:  # which counts as an OSError
                raise
            except (ConnectionClosed, OSError):
                self._socket = None
                continue
            if isinstance(message, bytes):
                self._parts.append(Header.unpack(message))
                continue
            body = json.loads(message)
            if body["type"] == "moved" or (body["type"] == "closed" and self.opened["watching"] and body["reason"]):
                self._leave()
                continue
            if body["type"] == "tick":
                body["parts"], self._parts = self._parts, []
                self._say({k: body[k] for k in ("session", "epoch", "frame")} | {"type": "ack"})
            return body

    def close(self) -> None:
        """Leave; the session is kept as long as the server keeps sessions."""
        self._leave()

    def _again(self) -> dict[str, Any]:
        """Find the session, and have it as it was."""
        until, watching = time.monotonic() + self._patience, self.opened["watching"]
        token = self.opened["watch" if watching else "token"]
        if token is None:
            raise ServingError("the connection is lost, and this server keeps no sessions.")
        while True:
            try:
                opened = self.watch(token) if watching else self.reopen(token)
                break
            except (ServingError, OSError) as error:
                self._leave()
                if time.monotonic() > until:
                    raise ServingError(f"the session was not found again in {self._patience:.0f} s: {error}") from error
            time.sleep(BETWEEN)
        self.moves += 1
        if self._running:
            if self._action is not None:
                self._say(self._action | {"session": opened["session"]})
            self._say({"type": "resume", "session": opened["session"]})
        return opened

    def _begin(self, token: str | None, request: dict[str, Any]) -> dict[str, Any]:
        """Be led to a replica, and ask it."""
        from websockets.exceptions import ConnectionClosed, InvalidMessage
        from websockets.sync.client import connect

        url: str | None = self._home
        try:
            while url is not None:
                self._leave()
                self._socket = connect(url, max_size=None, compression=None, open_timeout=5, close_timeout=1)
                self._say({"type": "hello", **self._hello, "resume": token})
                answer = self._heard("welcome", "moved")
                url = answer.get("url") if answer["type"] == "moved" else None
            self._say(request)
            self.opened = self._heard("opened")
        except (ConnectionClosed, InvalidMessage, TimeoutError) as error:  # killed as it took the connection: no answer
            raise ServingError(f"the server left before it answered: {error}") from error
        return self.opened

    def _heard(self, *kinds: str) -> dict[str, Any]:
        assert self._socket is not None  # just made
        while True:
            message = self._socket.recv(20.0)
            body = {} if isinstance(message, bytes) else json.loads(message)
            if body.get("type") in kinds:
                return body
            if body.get("type") == "error":
                raise ServingError(body["message"])

    def _say(self, body: dict[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            if self._socket is not None:
                self._socket.send(json.dumps(body))
        except (ConnectionClosed, OSError):
            self._socket = None  # `read` goes after it

    def _leave(self) -> None:
        self._parts = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None
