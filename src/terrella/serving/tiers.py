"""Which paused sessions keep their place: in a slot of the engine's device, then on the host, then on disk.

A session is put away when it has paused for longer than the time to live of its tier (`retention`), or, the place worth
least first, when all sessions together take more memory than there should be. It comes back by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .limits import Limits
from .player import Player
from .retention import Pauses

DEFAULT = {"host": 5.0, "disk": 30.0}  # seconds, until enough pauses were seen
RETURN = {"host": 2e-3, "disk": 5e-2}  # seconds, until a state has come back
WINDOW = 60.0  # seconds over which sessions put away for want of memory are counted
EVERY = 1.0  # seconds between two looks
FADING = 60.0  # seconds of pause after which a place is worth half


class Tiers:
    """Puts sessions away. disk: whether there is a store for them."""

    def __init__(self, limits: Limits, *, disk: bool):
        self._limits = limits
        self._last = "disk" if disk else "host"
        self._pauses = Pauses()
        self._pressed: deque[float] = deque()  # when memory was wanting
        self._next = 0.0

    def ended(self, player: Player, now: float, *, back: bool) -> None:
        """Note the end of a pause: the player is `back`, or gone."""
        if not player.running:
            self._pauses.note(now - player.stopped, ended=back)
            player.stopped = now

    def next_look(self, players: Sequence[Player]) -> float | None:
        """When to look again; None while nobody could be put away."""
        return self._next if any(self._movable(player) for player in players) else None

    def look(self, players: Sequence[Player], now: float) -> None:
        """Put away whose time has come."""
        if now < self._next:
            return
        self._next = now + EVERY
        paused = sorted((p for p in players if self._movable(p)), key=lambda p: self._worth(p, now))
        if not paused:
            return
        while self._pressed and self._pressed[0] < now - WINDOW:
            self._pressed.popleft()
        idle = [now - player.stopped for player in paused]
        total = sum(player.session.nbytes for player in players)
        for player, seconds in zip(paused, idle):
            held = player.session.nbytes
            if total > self._limits.resident_bytes:
                self._pressed.append(now)
                player.rest(self._last)
                total -= held  # soon, where a snapshot is still to be written
                continue
            over = [tier for tier in ("host", self._last) if seconds > self.time_to_live(player, tier, idle)]
            if over:
                player.rest(over[-1])

    def time_to_live(self, player: Player, tier: str, idle: Sequence[float]) -> float:
        """Seconds after which a paused session goes to a tier.

        The price of a place is what it costs others: sessions that had to go for want of memory in the last minute
        would come back in so much time, shared among those that pause.
        """
        back = player.session.served.returns.get(tier, RETURN[tier])
        price = len(self._pressed) / WINDOW * back / max(1, len(idle))
        return self._pauses.time_to_live(back, price, DEFAULT[tier], idle)

    def _worth(self, player: Player, now: float) -> float:
        """Seconds of a return that a place saves, for each byte that it takes; less the longer nobody came."""
        back = player.session.served.returns.get(self._last, RETURN[self._last])
        return back / max(1, player.session.nbytes) / (1 + (now - player.stopped) / FADING)

    def _movable(self, player: Player) -> bool:
        return not player.running and player.session.sound and player.session.tier != self._last
