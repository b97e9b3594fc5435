"""What clients and the whole server may use, and how a rate is held to."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one client and the whole server may use. Bytes, seconds, or counts.

    panes: sessions of one connection, those it watches among them; watchers: of one session; moments: those that a
    connection may share. clients, sessions: of the whole server.
    address_clients, address_sessions: connections and HTTP sessions of one address; this machine's own are only bound
    by the whole. request_bytes: of an HTTP request. outbox: messages that wait for a client who does not read.
    encoders: of H.264, each a stream of a session; beyond them pictures go as JPEG. store_bytes: of all that is kept.
    """

    message_bytes: int = 4096
    messages_per_second: int = 240
    hello_seconds: float = 5.0
    idle_seconds: float = 1800.0
    panes: int = 8
    watchers: int = 16
    moments: int = 64
    clients: int = 16
    sessions: int = 32
    address_clients: int = 8
    address_sessions: int = 16
    request_bytes: int = 65536
    window: int = 2
    outbox: int = 512
    encoders: int = 32
    text: int = 500
    steps_at_once: int = 16
    plans_at_once: int = 64
    max_fps: float = 60.0
    keyframe_every: int = 8
    keyframe_bytes: int = 256 * 2**20
    snapshot_every: int = 64
    resident_bytes: int = 2**30
    store_bytes: int = 16 * 2**30


def default_batch(exact: bool) -> int:
    """How many sessions a server for many steps together at most, where nobody says; exact batches are all padded."""
    return 16 if exact else 32


class Allowance:
    """So many events a second on average, and at most as many at once."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left, self._counted = float(per_second), time.monotonic()

    def take(self) -> bool:
        """Count one event; whether it is within the rate."""
        now = time.monotonic()
        self._left = min(self._per_second, self._left + (now - self._counted) * self._per_second) - 1
        self._counted = now
        return self._left >= 0

    @property
    def full(self) -> bool:
        """Whether nothing was taken for so long that it makes no difference."""
        return self._left + (time.monotonic() - self._counted) * self._per_second >= self._per_second


def client_address(host: str | None) -> str:
    """Who a connection counts as: its address, all of a network for IPv6 (/64); "" for this machine."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if address.is_loopback:
        return ""
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
