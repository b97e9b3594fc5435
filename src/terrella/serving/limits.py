"""What clients and the whole server may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one client and the whole server may use. Bytes, seconds, or counts."""

    message_bytes: int = 4096
    messages_per_second: int = 240
    hello_seconds: float = 5.0
    idle_seconds: float = 1800.0
    panes: int = 8
    clients: int = 16
    sessions: int = 32
    window: int = 2
    outbox: int = 512
    text: int = 500
    steps_at_once: int = 16
    max_fps: float = 60.0
    keyframe_every: int = 8
    keyframe_bytes: int = 256 * 2**20
    snapshot_every: int = 64
    resident_bytes: int = 2**30
