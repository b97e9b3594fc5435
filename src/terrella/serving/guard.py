"""Who may talk to a server: its own pages and local programs, nobody else's pages.

A browser lets any page open a WebSocket to any address and says only where the page came from. So the origin is checked
before a connection is accepted, and on the loopback address the host name too, which defeats a foreign name that
resolves to 127.0.0.1. A server behind a proxy is told the address that people know, and serves that one beside.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import ServingError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_LENGTH = 16
DEFAULT_PORT = {"http": 80, "https": 443}
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


def check_binding(host: str, token: str | None, public: str | None = None) -> None:
    """Raise `ServingError` when others could connect and no token, or a short one, would stop them."""
    if public is not None:
        site(public)
    if token is not None and len(token) < TOKEN_LENGTH:
        raise ServingError(f"the token has {len(token)} characters; use at least {TOKEN_LENGTH}, random ones.")
    if token is None and (public is not None or not is_loopback(host)):
        raise ServingError(
            f"serving at {public or host!r} lets other machines connect, which needs a token that they must give: pass "
            "token=secrets.token_urlsafe(32), or keep host='127.0.0.1' and no public address."
        )


def read_token(path: str | Path) -> str:
    """Return the token in a file; where there is none, a file with a random token is made, for its owner alone to read.

    Raises `ServingError` for a file that cannot be read or made.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            token = secrets.token_urlsafe(32)
            file.write(token + "\n")
            return token
    except FileExistsError:
        pass
    except OSError as error:
        raise ServingError(f"no token can be written to {path}: {error.strerror}; choose another file.") from error
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"the token in {path} cannot be read; give a file with one line of text.") from error


def site(public: str) -> tuple[str, str, int]:
    """Split a public address into scheme, name and port; raises `ServingError` for one with more or less than that."""
    try:
        parts = urlsplit(public)
        name, port = parts.hostname, parts.port
    except ValueError:
        parts, name, port = urlsplit(""), None, None
    bare = not (parts.query or parts.fragment or parts.username) and parts.path in ("", "/")
    if parts.scheme not in DEFAULT_PORT or name is None or not bare:
        raise ServingError(f"{public!r} is no public address; write it like 'https://world.example'.")
    return parts.scheme, name, port or DEFAULT_PORT[parts.scheme]


def same_token(given: str | None, expected: str) -> bool:
    """Compare tokens in time that does not depend on where they differ."""
    return hmac.compare_digest((given or "").encode("utf-8", "replace"), expected.encode())


def allowed(
    host: str | None, origin: str | None, *, local: bool, public: str | None = None, origins: Collection[str] = ()
) -> bool:
    """Whether a request with these `Host` and `Origin` may be served.

    `local` servers know only names of this machine. public: another address under which people reach the server.
    origins: others than the server's own whose pages may connect as well.
    """
    host_name, host_port = _host(host)
    if public is not None:
        scheme, name, port = site(public)
        if (host_name, host_port or DEFAULT_PORT[scheme]) == (name, port):
            return origin is None or _origin(origin) == (scheme, name, port)
    if local and not is_loopback(host_name):
        return False
    if origin is None or origin in origins:  # None: not a browser's page
        return True
    scheme, name, port = _origin(origin)
    if scheme is None or name is None:
        return False
    if local:
        return is_loopback(name)
    return name == host_name and port == (host_port or DEFAULT_PORT[scheme])


def _origin(origin: str) -> tuple[str | None, str | None, int | None]:
    """Scheme, name and port of a page's origin; no scheme for what is no web page."""
    scheme, _, netloc = origin.partition("://")
    if scheme not in DEFAULT_PORT:
        return None, None, None
    name, port = _host(netloc)
    return scheme, name, port or DEFAULT_PORT[scheme]


def _host(netloc: str | None) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(f"//{netloc or ''}")
        return parts.hostname, parts.port
    except ValueError:
        return None, None


class Guard:
    """ASGI middleware: refuse foreign hosts and origins, and send the headers that keep foreign scripts out."""

    def __init__(self, app: ASGIApp, *, local: bool, public: str | None = None, origins: Collection[str] = ()) -> None:
        self.app = app
        self.local, self.public, self.origins = local, public, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request on; answer any other with 403 before it is accepted."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if not allowed(headers.get(b"host"), origin, local=self.local, public=self.public, origins=self.origins):
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
