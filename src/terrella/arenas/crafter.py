"""Crafter: survival on a map of which one sees a part, while animals and monsters go on living in the rest.

The package's game is played as it is, behind Gymnasium's interface, with three causes of hidden chance removed:

- It draws creatures to remove from sets of objects, whose order follows memory addresses: two processes with equal
  seeds part. Here the sets keep the order in which objects came.
- At night its pictures draw noise from the very stream that moves the creatures, so that rendering once more changes
  the future. Here each moment is drawn once, `render` shows that picture, and looking after an intervention puts the
  stream back.
- Its seed is otherwise taken from a global stream. Here it comes from the environment's.

Ref: Hafner, 2021, arXiv 2109.06780.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError, missing_extra
from .base import Simulator, adapter
from .quantity import Quantity

_CREATURES = {"zombies": "Zombie", "skeletons": "Skeleton", "cows": "Cow"}
_URGES = ("hunger", "thirst", "fatigue", "recover")
_LINKS = ("world", "random", "player")  # of an object to others; made again when it is
_KINDS = ("Player", "Cow", "Zombie", "Skeleton", "Arrow", "Plant", "Fence")


class Crafter(gym.Env[np.ndarray, np.int64]):
    """The game with `area` cells, of which a 9 x 7 window around the player is seen, above the inventory.

    Observation: uint8 `(64, 64, 3)`. Actions: `Discrete(17)` (`action_names`). Rewards: 1 for the first time of each
    achievement, 0.1 for each point of health won, -0.1 for each lost. End: termination by death (registered ids are
    truncated after 10,000 steps). `info`: `inventory`, `achievements`, and `semantic`, codes of the whole map.

    Raises `MissingExtra` without crafter.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's own form
    noop = 0

    def __init__(self, *, area: tuple[int, int] = (64, 64), render_mode: str | None = None) -> None:
        if min(area) < 16:
            raise ArenaError(f"area is {area}; expected at least 16 cells each way.")
        package = _import()
        self.objects = package.objects
        self.game = package.Env(area=tuple(area), size=(64, 64), length=0, seed=0)
        self.game._obs = self._draw
        self.action_names = tuple(self.game.action_names)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self.action_names))
        self._frame = np.zeros((64, 64, 3), np.uint8)
        self._noise: Any = None  # the random stream as it was before the frame was drawn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in another world, drawn from the environment's random stream."""
        super().reset(seed=seed)
        self.game._seed, self.game._episode = int(self.np_random.integers(2**31 - 1)), 0
        self.game.reset()
        self.order_chunks({})
        return self._frame.copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act for one tick; raises `ArenaError` for an action outside the space."""
        if not 0 <= int(action) < len(self.action_names):
            raise ArenaError(f"action {action!r} is not among the choices 0..{len(self.action_names) - 1} of Crafter.")
        _, reward, dead, _ = self.game.step(int(action))
        return self._frame.copy(), float(reward), bool(dead), False, self._info()

    def render(self) -> Any:
        """Return the picture of this moment, uint8 `(64, 64, 3)`."""
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def look(self) -> np.ndarray:
        """Draw the current state with the noise of the last picture, and leave the random stream as it is."""
        random, now = self.game._world.random, self.game._world.random.get_state(legacy=False)
        random.set_state(self._noise)
        frame = self._draw()
        random.set_state(now)
        return frame.copy()

    def order_chunks(self, order: dict[tuple[int, ...], list[int]]) -> None:
        """Replace the sets of objects by ordered ones: in the given order of indices, or as the objects came."""
        world = self.game._world
        chunks: defaultdict[Any, Any] = defaultdict(_Ordered)
        if not order:
            order = {key: [] for key in world._chunks}
            for index, thing in enumerate(world._objects):
                if thing is not None:
                    order[world.chunk_key(thing.pos)].append(index)
        for key, indices in order.items():
            chunks[key] = _Ordered.fromkeys(world._objects[i] for i in indices)
        world._chunks = chunks

    def _draw(self) -> np.ndarray:
        self._noise = self.game._world.random.get_state(legacy=False)
        self._frame = np.asarray(self.game.render(), np.uint8)
        return self._frame

    def _info(self) -> dict[str, Any]:
        player = self.game._player
        semantic = self.game._sem_view()
        return {"inventory": dict(player.inventory), "achievements": dict(player.achievements), "semantic": semantic}


class _Ordered(dict):
    """As much of a set as the game uses, in the order of insertion."""

    def add(self, thing: Any) -> None:
        self[thing] = None

    def remove(self, thing: Any) -> None:
        del self[thing]


@adapter("crafter")
class CrafterSimulator(Simulator):
    """Map, objects with their places in every list, counters, and the game's own random stream."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `Crafter`."""
        return type(env) is Crafter

    def capture(self) -> dict[str, Any]:
        """Return everything as plain data: an object is its class and attributes, without its links to others."""
        game, world = self.env.game, self.env.game._world
        places = {thing: index for index, thing in enumerate(world._objects) if thing is not None}
        return {
            "area": tuple(world.area),
            "terrain": world._mat_map,
            "places": world._obj_map,
            "objects": [None if thing is None else _described(thing) for thing in world._objects],
            "chunks": {key: [places[thing] for thing in chunk] for key, chunk in world._chunks.items()},
            "daylight": world.daylight,
            "random": world.random.get_state(legacy=False),
            "noise": self.env._noise,
            "frame": self.env._frame,
            "step": game._step,
            "player": places[game._player],
            "last_health": game._last_health,
            "unlocked": sorted(game._unlocked),
        }

    def apply(self, state: dict[str, Any]) -> None:
        """Build it again; raises `ArenaError` for a map of another size."""
        game, world = self.env.game, self.env.game._world
        if state["area"] != tuple(world.area):
            raise ArenaError(f"this state has a map of {state['area']} cells; here it is {tuple(world.area)}.")
        things = [None if found is None else self._built(*found) for found in state["objects"]]
        game._player = things[state["player"]]
        world.random = np.random.RandomState(0)
        world.random.set_state(state["random"])
        world._mat_map, world._obj_map, world._objects = state["terrain"], state["places"], things
        world.daylight = state["daylight"]
        for thing in filter(None, things):
            thing.world, thing.random = world, world.random
            if type(thing).__name__ in ("Zombie", "Skeleton"):
                thing.player = game._player
        self.env.order_chunks(state["chunks"])
        self.env._noise, self.env._frame = state["noise"], state["frame"]
        game._step, game._last_health, game._unlocked = state["step"], state["last_health"], set(state["unlocked"])

    def reseed(self, seed: int) -> None:
        """Replace the game's own stream."""
        self.env.game._world.random.seed(np.uint32(seed % 2**32))

    def quantities(self) -> dict[str, Quantity]:
        """Terrain, steps (the time of day), the player with inventory and urges, and where creatures are `(n, 2)`."""
        game, world, player = self.env.game, self.env.game._world, self.env.game._player
        table = {
            "terrain": Quantity(
                "codes of materials", lambda: world._mat_map, self._set_terrain, low=1, high=len(world._mat_names) - 1
            ),
            "steps": Quantity("steps", lambda: game._step, self._set_steps, low=0),
            "position": Quantity("cells", lambda: player.pos, lambda value: self._move([player], value[None])),
        }
        for name, kind in _CREATURES.items():
            herd = [thing for thing in world.objects if type(thing).__name__ == kind]
            table[name] = Quantity(
                "cells",
                lambda herd=herd: np.array([thing.pos for thing in herd], np.int64).reshape(-1, 2),
                lambda value, herd=herd: self._move(herd, value),
            )
        for name in _URGES:
            table[name] = Quantity(
                "steps",
                lambda key=f"_{name}": float(vars(player)[key]),
                lambda v, key=f"_{name}": setattr(player, key, v.item()),
            )
        for name in player.inventory:
            table[name] = Quantity(
                "items", lambda n=name: player.inventory[n], lambda v, n=name: self._give(n, v.item()), low=0, high=9
            )
        return table

    def observe(self) -> np.ndarray:
        """Return the picture with the noise it had."""
        return self.env.look()

    def _built(self, kind: str, values: dict[str, Any]) -> Any:
        if kind not in _KINDS:
            raise ArenaError(f"this saved state holds a {kind!r}, which Crafter does not know.")
        thing = object.__new__(getattr(self.env.objects, kind))
        vars(thing).update(values)
        return thing

    def _set_terrain(self, value: np.ndarray) -> None:
        self.env.game._world._mat_map = value

    def _set_steps(self, value: np.ndarray) -> None:
        self.env.game._step = value.item()
        self.env.game._update_time()

    def _give(self, name: str, count: int) -> None:
        game = self.env.game
        if name == "health":  # an intervention earns nothing
            game._last_health += count - game._player.inventory[name]
        game._player.inventory[name] = count

    def _move(self, things: list[Any], value: np.ndarray) -> None:
        """Put objects on other cells, all at once, so that they may change places."""
        world, places = self.env.game._world, [tuple(row) for row in value.tolist()]
        own = {tuple(thing.pos.tolist()) for thing in things}
        for place in places:
            inside = 0 <= place[0] < world.area[0] and 0 <= place[1] < world.area[1]
            if not inside or places.count(place) > 1 or (place not in own and world._obj_map[place]):
                raise ArenaError(
                    f"cell {place} is outside of the map or taken; each thing needs a free cell of its own."
                )
        indices = [world._obj_map[tuple(thing.pos)] for thing in things]
        for thing in things:
            world._obj_map[tuple(thing.pos)] = 0
        for thing, place, index in zip(things, places, indices):
            world._obj_map[place] = index
            old, new = world.chunk_key(thing.pos), world.chunk_key(place)
            if old != new:
                world._chunks[old].remove(thing)
                world._chunks[new].add(thing)
            thing.pos = np.array(place)


def _described(thing: Any) -> tuple[str, dict[str, Any]]:
    return type(thing).__name__, {name: value for name, value in vars(thing).items() if name not in _LINKS}


def _import() -> Any:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # Gymnasium's predecessor, where installed, prints a notice
            import crafter
            import crafter.objects
    except ModuleNotFoundError as error:
        raise missing_extra("crafter", "arenas-crafter", "the Crafter arena") from error
    return crafter


gym.register("terrella/Crafter-v0", f"{__name__}:Crafter", max_episode_steps=10_000)
