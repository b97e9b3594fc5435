"""What stands before the HTTP API and the metrics: the token, a rate for each address, and a size for each request."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from .guard import same_token
from .limits import Allowance, Limits, client_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESSES = 1024  # whose rates are remembered; those that ask little need not be
BEARER = "Bearer "


class Gate:
    """ASGI middleware: 401 without the token, 429 beyond the rate, 413 for a body too large, 408 for one too slow.

    answered: told of every answer, by method and status.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, limits: Limits, answered: Callable[[str, int], None]
    ) -> None:
        self.app = app
        self._token, self._limits, self._answered = token, limits, answered
        self._rates: dict[str, Allowance] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on with its whole body, or answer it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        method = scope["method"]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(method if method in METHODS else "other", message["status"])
            await send(message)

        if not self._within_rate(scope):
            most = self._limits.messages_per_second
            return await refuse(counted, 429, "rate", f"more than {most} requests came in a second; slow down.")
        if self._token is not None and not same_token(_bearer(scope), self._token):
            return await refuse(counted, 401, "token", "this server asks for its token: 'Authorization: Bearer TOKEN'.")
        try:
            async with asyncio.timeout(self._limits.hello_seconds):
                body = await _whole(receive, self._limits.request_bytes)
        except TimeoutError:
            return await refuse(counted, 408, "slow", "the request did not end; send it at once.")
        if body is None:
            most = self._limits.request_bytes
            return await refuse(counted, 413, "too_big", f"a request may have {most} bytes; send less at once.")
        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self.app(scope, again, counted)

    def _within_rate(self, scope: Scope) -> bool:
        address = client_address((scope.get("client") or ("",))[0])
        if len(self._rates) >= ADDRESSES and address not in self._rates:
            self._rates = {key: rate for key, rate in self._rates.items() if not rate.full}
        rate = self._rates.setdefault(address, Allowance(self._limits.messages_per_second))
        return rate.take()


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
HEADERS = {401: [(b"www-authenticate", b"Bearer")], 429: [(b"retry-after", b"1")], 503: [(b"retry-after", b"5")]}


async def refuse(send: Send, status: int, code: str, message: str) -> None:
    """Answer with a problem as the API describes it."""
    body = json.dumps({"code": code, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), *HEADERS.get(status, [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _bearer(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[: len(BEARER)].lower() == BEARER.lower().encode():
            return value[len(BEARER) :].decode("latin-1").strip()
    return None


async def _whole(receive: Receive, most: int) -> bytes | None:
    """The body of a request; None for one of more than `most` bytes."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return body
