"""One WebSocket: reads and checks messages, hands them to the engine thread, and sends what comes back."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..errors import ServingError
from .frames import choose_codecs, list_codecs
from .guard import same_token
from .limits import Allowance, Limits
from .protocol import (
    FULL,
    IDLE,
    INTERNAL,
    POLICY,
    PROTOCOL,
    TOO_BIG,
    UNAUTHORISED,
    VERSION,
    Error,
    Hello,
    Message,
    Welcome,
    dump,
    parse,
)
from .scheduler import EngineThread
from .visitor import Client

log = logging.getLogger("terrella.serving")


class Refused(Exception):
    """The connection ends with this close code, after an error that says why."""

    def __init__(self, close: int, code: str, message: str) -> None:
        super().__init__(message)
        self.close = close
        self.code = code


class Connection:
    """A client's socket between the event loop and the engine thread; `run` lives as long as it does."""

    def __init__(
        self, socket: WebSocket, thread: EngineThread, worlds: tuple[str, ...], limits: Limits, token: str | None
    ) -> None:
        self._socket = socket
        self._thread = thread
        self._worlds = worlds
        self._limits = limits
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[bytes | str] = deque()
        self._wake = asyncio.Event()
        self._overflow = False
        self._allowance = Allowance(limits.messages_per_second)
        self._client = Client(self._from_thread, root=socket.query_params.get("root", ""))

    async def run(self, *, full: str = "") -> int:
        """Accept, greet, and serve until the client leaves or breaks a rule, or at once say that it is `full`.

        Returns the close code that the client was given, 1000 for one that left.
        """
        await self._socket.accept()
        sender = asyncio.create_task(self._send())
        try:
            if full:
                raise Refused(FULL, "full", full)
            await self._greet()
            await self._serve()
        except Refused as refused:
            await self._end(sender, refused)
            return refused.close
        except WebSocketDisconnect:
            pass
        except Exception:
            log.exception("a connection failed")
            await self._end(sender, Refused(INTERNAL, "internal", "the server failed here; connect again."))
            return INTERNAL
        finally:
            self._thread.leave(self._client)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return 1000

    async def _greet(self) -> None:
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.hello_seconds)
        except TimeoutError:
            raise Refused(POLICY, "hello", "the first message is 'hello', at once.") from None
        codecs = self._client.codecs = choose_codecs(check_hello(message, self._token).codecs)
        self._put([dump(Welcome(PROTOCOL, self._limits, self._worlds, self._worlds[0], codecs[0], list_codecs()))])

    async def _serve(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._receive(), self._limits.idle_seconds)
            except TimeoutError:
                raise Refused(IDLE, "idle", "nothing was heard from this page for long; reload it to go on.") from None
            if isinstance(message, Hello):
                raise Refused(POLICY, "bad_message", "'hello' is said once.")
            done = self._thread.post(self._client, message)
            if done is not None:  # one costly request at a time; the socket holds the rest back
                await asyncio.wrap_future(done)
            if self._client.refused:
                raise Refused(FULL, "full", self._client.refused)

    async def _receive(self) -> Message:
        """Read one well-formed message within the rate; raises `Refused` for any other."""
        raw = await self._socket.receive()
        if raw["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(raw.get("code", 1005))
        if not self._allowance.take():
            most = self._limits.messages_per_second
            raise Refused(POLICY, "rate", f"more than {most} messages came in a second; slow down.")
        if self._overflow:
            raise Refused(POLICY, "slow", "too much waits to be read; read what the server sends.")
        text = raw.get("text")
        if text is None:
            raise Refused(POLICY, "bad_message", "clients send JSON text, no binary messages.")
        if len(text) > self._limits.message_bytes:
            raise Refused(TOO_BIG, "too_big", f"a message may have {self._limits.message_bytes} bytes.")
        try:
            return parse(text, self._limits)
        except ServingError as error:
            raise Refused(POLICY, "bad_message", str(error)) from error

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                message = self._outbox.popleft()
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message)

    async def _end(self, sender: asyncio.Task[None], refused: Refused) -> None:
        """Say why, then close; a client that reads nothing is not waited for."""
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            async with asyncio.timeout(2):
                await self._socket.send_text(dump(Error(refused.code, str(refused), fatal=True)))
                await self._socket.close(refused.close)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            log.debug("the client was gone before it could be told why")

    def _from_thread(self, messages: list[bytes | str]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._put, messages)
        except RuntimeError:  # the loop is closed: the server is stopping
            log.debug("a message came after the server's end")

    def _put(self, messages: list[bytes | str]) -> None:
        self._overflow = self._overflow or len(self._outbox) + len(messages) > self._limits.outbox
        if self._overflow:  # told at its next message; all from here on is dropped, since deltas need what came before
            return
        self._outbox.extend(messages)
        self._wake.set()


def check_hello(message: Message, token: str | None) -> Hello:
    """Return the first message of a client; raises `Refused` for one that may not go on."""
    if not isinstance(message, Hello):
        raise Refused(POLICY, "hello", "the first message is 'hello'.")
    if message.protocol != PROTOCOL:
        raise Refused(VERSION, "version", f"this server speaks protocol {PROTOCOL}; reload the page.")
    if token is not None and not same_token(message.token, token):
        raise Refused(UNAUTHORISED, "token", "this server asks for its token.")
    return message
