"""A connection as the engine thread sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .player import Player
from .protocol import Error, dump
from .scene import Scene


@dataclass(eq=False)
class Client:
    """One connection: `send` takes messages in order from the engine thread and never blocks.

    most: sessions that it may have; 0 for as many as a connection. `refused` says why a client without a session got
    none; its connection should end. `root` names the fork tree of the sessions that it opens, "" for a tree of their
    own (see `moves`). `codecs` are those of its large images, and of all others. `watching` are sessions of others (see
    `audience`), by its own numbers. `shared` counts moments that it has kept for others.
    """

    send: Callable[[list[bytes | str]], None]
    most: int = 0
    root: str = ""
    codecs: tuple[str, str] = ("jpeg", "jpeg")
    players: dict[int, Player] = field(default_factory=dict)
    watching: dict[int, Player] = field(default_factory=dict)
    last_number: int = 0
    shared: int = 0
    gone: bool = False
    refused: str = ""

    def number(self) -> int:
        """A number for another session."""
        while True:
            self.last_number = self.last_number % 255 + 1
            if self.last_number not in self.players and self.last_number not in self.watching:
                return self.last_number

    def drop(self, player: Player) -> None:
        """Have a session no more, nor what encodes its pictures for this connection."""
        self.players.pop(player.number, None)
        if player.video is not None:
            player.video.close()

    def show(self, player: Player, scene: Scene) -> None:
        """Send what a session shows, and what befell its true environment."""
        player.in_flight.append(scene.moment)
        self.send(scene.messages(player.number, self.codecs[1], player.video))
        session = player.session
        if session.notice:
            self.send([dump(Error("truth", session.notice, player.number))])
            session.notice = ""
