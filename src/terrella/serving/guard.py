"""Who may talk to a server: its own pages and local programs, nobody else's pages.

A browser lets any page open a WebSocket to any address and says only where the page came from. So the origin is checked
before a connection is accepted, and on the loopback address the host name too, which defeats a foreign name that
resolves to 127.0.0.1.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import ServingError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_LENGTH = 16
HEADERS = {
    b"content-security-policy": b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-cache",
}


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this machine."""
    if host is None:
        return False
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(host: str, token: str | None) -> None:
    """Raise `ServingError` when others could connect and no token, or a short one, would stop them."""
    if token is not None and len(token) < TOKEN_LENGTH:
        raise ServingError(f"the token has {len(token)} characters; use at least {TOKEN_LENGTH}, random ones.")
    if token is None and not is_loopback(host):
        raise ServingError(
            f"binding to {host!r} lets other machines connect, which needs a token that they must give: pass "
            "token=secrets.token_urlsafe(32), or keep host='127.0.0.1'."
        )


def same_token(given: str | None, expected: str) -> bool:
    """Compare tokens in time that does not depend on where they differ."""
    return hmac.compare_digest((given or "").encode("utf-8", "replace"), expected.encode())


def allowed(host: str | None, origin: str | None, *, local: bool, origins: Collection[str] = ()) -> bool:
    """Whether a request with these `Host` and `Origin` may be served; `local` servers know only this machine.

    origins: others than the server's own whose pages may connect as well.
    """
    host_name, host_port = _host(host)
    if local and not is_loopback(host_name):
        return False
    if origin is None or origin in origins:  # None: not a browser's page
        return True
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https"):
        return False
    name, port = _host(parts.netloc)
    if local:
        return is_loopback(name)
    default = 443 if parts.scheme == "https" else 80
    return name is not None and name == host_name and (port or default) == (host_port or default)


def _host(netloc: str | None) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(f"//{netloc or ''}")
        return parts.hostname, parts.port
    except ValueError:
        return None, None


class Guard:
    """ASGI middleware: refuse foreign hosts and origins, and send the headers that keep foreign scripts out."""

    def __init__(self, app: ASGIApp, *, local: bool, origins: Collection[str] = ()) -> None:
        self.app = app
        self.local = local
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request on; answer any other with 403 before it is accepted."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if not allowed(headers.get(b"host"), origin, local=self.local, origins=self.origins):
            if scope["type"] == "websocket":
                await receive()
                return await send({"type": "websocket.close", "code": 1008})
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            return await send({"type": "http.response.body", "body": b"This address is not served here.\n"})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        return await self.app(scope, receive, with_headers)
