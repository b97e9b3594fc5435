"""Those who watch sessions that others play.

A watcher never keeps a session waiting: who has not acknowledged `Limits.window` frames is shown no more, and the
newest one once it has. Large pictures come to watchers as WebP or JPEG, encoded once for all of them, since H.264 needs
an encoder for everybody who may have missed a frame.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from ..errors import ServingError
from .limits import Limits
from .player import Player
from .protocol import Closed, dump
from .scene import Scene
from .visitor import Client


@dataclass(eq=False)
class Watcher:
    """One who watches, the number that the session has there, and the newest frame that could not be shown yet."""

    client: Client
    number: int
    in_flight: deque[tuple[int, int]] = field(default_factory=deque)
    missed: Scene | None = None

    def show(self, scene: Scene, window: int) -> None:
        """Send a frame, or keep it until there is room."""
        if len(self.in_flight) >= window:
            self.missed = scene
            return
        self.missed = None
        self.in_flight.append(scene.moment)
        self.client.send(scene.messages(self.number, self.client.codecs[1]))


class Audience:
    """Who watches which session; the engine thread's alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._watchers: dict[Player, list[Watcher]] = {}

    def join(self, client: Client, player: Player) -> Watcher:
        """Let a client watch a session, which is shown from the next frame on; raises `ServingError` if too many do."""
        watchers = self._of(player)
        if len(watchers) >= self._limits.watchers:
            raise ServingError(f"{len(watchers)} people watch this session, which is the most; try later.")
        watcher = Watcher(client, client.number())
        client.watching[watcher.number] = player
        self._watchers[player] = [*watchers, watcher]
        player.watched = len(watchers) + 1
        return watcher

    def show(self, player: Player, scene: Scene) -> None:
        """Show a session's present frame to all who watch it."""
        for watcher in self._of(player):
            watcher.show(scene, self._limits.window)

    def tell(self, player: Player, reason: str = "") -> None:
        """Say how a session runs."""
        for watcher in self._of(player):
            watcher.client.send([dump(replace(player.status(reason), session=watcher.number))])

    def acknowledge(self, client: Client, number: int, epoch: int, frame: int) -> None:
        """Free a watcher's window up to this frame; show the newest if some were left out."""
        watcher = self._find(client, number)
        if (epoch, frame) in watcher.in_flight:
            while watcher.in_flight.popleft() != (epoch, frame):
                pass
        if watcher.missed is not None:
            watcher.show(watcher.missed, self._limits.window)

    def leave(self, client: Client, number: int) -> Player:
        """Let a client watch no more; returns the player of the session."""
        watcher = self._find(client, number)
        player = client.watching.pop(number)
        self._watchers[player].remove(watcher)
        player.watched = len(self._watchers[player])
        if not player.watched:
            del self._watchers[player]
        return player

    def end(self, player: Player, reason: str) -> None:
        """Tell all who watch a session that there is no more to see."""
        for watcher in list(self._of(player)):
            self.leave(watcher.client, watcher.number)
            watcher.client.send([dump(Closed(watcher.number, reason))])

    def _of(self, player: Player) -> list[Watcher]:
        return self._watchers.get(player, [])

    def _find(self, client: Client, number: int) -> Watcher:
        watchers = self._watchers[client.watching[number]]
        return next(w for w in watchers if w.client is client and w.number == number)


__all__ = ["Audience", "Watcher"]
