"""What a server counts, in the text format of Prometheus.

| metric | |
|---|---|
| `terrella_connections` | sockets that are open |
| `terrella_sessions{tier, running}` | sessions by where their state lies, and whether their clock runs |
| `terrella_watchers` | people who watch a session that another plays |
| `terrella_frames_total{world}` | frames shown by the clock |
| `terrella_frames_late_total{world}` | of these, more than a frame late |
| `terrella_frame_lateness_seconds{world}` | how long after its time a frame was there |
| `terrella_batch_size{world}`, `terrella_batch_seconds{world}` | sessions stepped together, and what that took |
| `terrella_closed_total{code}` | connections by their close code, 1000 for those that left |
| `terrella_requests_total{method, status}` | HTTP requests |
| `terrella_store_bytes`, `terrella_store_errors` | kept snapshots and journals; writings that failed |
| `terrella_engine_busy_seconds` | since the engine thread began what it is at |
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .player import Player

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.067, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)
TIERS = ("slot", "host", "disk")


class Metrics:
    """The counters of one server. The engine thread calls `batch` and `now`, the event loop the rest."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge, counter = partial(Gauge, registry=self.registry), partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._connections = gauge("terrella_connections", "Open sockets.")
        self._sessions = gauge("terrella_sessions", "Sessions.", ["tier", "running"])
        self._watchers = gauge("terrella_watchers", "People who watch sessions.")
        self._frames = counter("terrella_frames", "Frames shown by the clock.", ["world"])
        self._late = counter("terrella_frames_late", "Frames shown more than a frame late.", ["world"])
        self._lateness = histogram(
            "terrella_frame_lateness_seconds", "Seconds after its time.", ["world"], buckets=SECONDS
        )
        self._size = histogram("terrella_batch_size", "Sessions stepped together.", ["world"], buckets=SIZES)
        self._seconds = histogram("terrella_batch_seconds", "Seconds a batch took.", ["world"], buckets=SECONDS)
        self._closed = counter("terrella_closed", "Connections ended.", ["code"])
        self._requests = counter("terrella_requests", "HTTP requests.", ["method", "status"])
        self._stored = gauge("terrella_store_bytes", "Bytes of kept snapshots and journals.")
        self._failures = gauge("terrella_store_errors", "Writings to the store that failed.")
        self._busy = gauge("terrella_engine_busy_seconds", "Since the engine thread began what it is at.")

    def batch(self, world: str, seconds: float, lateness: Iterable[float], late: int) -> None:
        """Take one batch: what it took, how late each of its frames was, and how many were more than a frame late."""
        count = 0
        histogram = self._lateness.labels(world)
        for each in lateness:
            histogram.observe(max(0.0, each))
            count += 1
        self._frames.labels(world).inc(count)
        self._late.labels(world).inc(late)
        self._size.labels(world).observe(count)
        self._seconds.labels(world).observe(seconds)

    def closed(self, code: int) -> None:
        """Take the end of a connection."""
        self._closed.labels(code).inc()

    def request(self, method: str, status: int) -> None:
        """Take an answered HTTP request."""
        self._requests.labels(method, status).inc()

    def now(self, players: Iterable[Player]) -> Counts[tuple[str, bool]]:
        """Count sessions by tier and by whether they run, and who watches; to be called on the engine thread."""
        there = list(players)
        self._watchers.set(sum(player.watched for player in there))
        return Counts((player.session.tier, player.running) for player in there)

    def render(
        self, sessions: Counts[tuple[str, bool]], connections: int, stored: int, failures: int, busy: float
    ) -> bytes:
        """Write all counters, and what is the case now, as text."""
        self._connections.set(connections)
        for tier in TIERS:
            for running in (True, False):
                self._sessions.labels(tier, str(running).lower()).set(sessions[tier, running])
        self._stored.set(stored)
        self._failures.set(failures)
        self._busy.set(busy)
        return generate_latest(self.registry)
