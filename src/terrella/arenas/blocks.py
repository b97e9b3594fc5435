"""Blocks that slide through a square room, seen by somebody who walks in it: a world that goes on behind one's back.

The whole truth is at hand (`truth`, `visible`), so that a world model's memory of what left the view can be compared
with what became of it. One tick: the action moves the viewer, every block moves by its velocity, then the view is
drawn. Everything stands on whole metres and looks along an axis, so that states are integers and repeat exactly.

| id | room | pixels | blocks |
|---|---|---|---|
| `terrella/Blocks-v0` | 16 m | 64 | 6 to 10 |
| `terrella/BlocksSmall-v0` | 8 m | 32 | 3 to 4 |
| `terrella/BlocksStill-v0` | 8 m | 32 | 3 to 4, which stay |

Ref: the Dynamic Block World of FloWM, arXiv 2601.01075 (`view=128` is its size; `static` and `textured` are its other
two worlds). Differences: a frame shows the blocks after their move without being asked for twice, and is kept as it is
instead of as lossy video; spawning is uniform from 1 m off the walls, where theirs follows each body's radius; the
no-op is action 3, theirs 4; box textures are those of miniworld's package, with a tiling for their checkerboard.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError
from ..spec import Motion
from .base import Simulator, adapter
from .quantity import Quantity, attribute
from .stage import STEPS, Scene, Thing, check_installed, draw

TURN_LEFT, TURN_RIGHT, FORWARD, NOOP = range(4)
COLOURS = ("green", "red", "yellow", "blue", "purple", "grey")
WALLS, FLOORS = ("brick_wall", "wood_planks", "wood"), ("cardboard", "grass", "concrete")
BOXES = ("ceiling_tiles", "airduct_grate", "floor_tiles_bw")
PLAIN = ("white", "concrete")  # walls and floor without `textured`
LEFT_KEY, RIGHT_KEY, UP_KEY = 1073741904, 1073741903, 1073741906  # pygame's numbers
_CHANGING = ("_agent", "_heading", "_positions", "_velocities", "_colours", "_balls", "_textures", "_surfaces")


class Blocks(gym.Env[np.ndarray, np.int64]):
    """A room of `room` metres square with blocks, seen from 1.5 m above the floor in a field of view of 60 degrees.

    Observation: uint8 `(view, view, 3)`. Actions: 0 turns left by a quarter, 1 turns right, 2 goes 1 m forward, 3 does
    nothing; a step into a wall leaves the viewer where it is. Rewards: 0. End: never (registered ids are truncated
    after 500 steps). `info["motion"]`: how the viewer really moved, `(down, right, left)` as in `Motion`, which says
    what the action stands for and cannot know of walls.

    At a reset the viewer and the blocks draw a place of 1..room-1 each way (uniform in metres, then rounded, so that
    the outermost are half as likely); the viewer looks along the columns. The number of blocks is drawn from `count`,
    both ends included; their colours are as different as six colours allow, further ones are drawn freely. Each block
    moves by 1 m a tick along one of four directions for ever, through others and the viewer; at a wall it turns round
    and steps back in the same tick (14, 15, 14), so that all repeats after `2 * (room - 2)` ticks.

    static: blocks stay; all else is as in the moving world of equal seed. textured: walls, floor and boxes wear one of
    three textures each, and every block is a ball with a chance of a third.

    Frames are final: `terrella.arenas.make` resizes them only when told to. Pictures of equal states are equal to the
    last bit on equal drivers (`terrella.arenas.stage`).

    Raises `ArenaError` for numbers that make no world, for an action outside the space and where OpenGL cannot be used;
    `MissingExtra` without miniworld.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form
    final_frames = True
    action_names = ("left", "right", "forward", "rest")
    motion = Motion(tables=(((0, 0, 1), (0, 0, -1), (-1, 0, 0), (0, 0, 0)),), frame="body")

    def __init__(
        self,
        *,
        room: int = 16,
        view: int = 64,
        count: tuple[int, int] = (6, 10),
        static: bool = False,
        textured: bool = False,
        render_mode: str | None = None,
    ) -> None:
        low, high = count
        if not (room >= 3 and view >= 1 and 0 <= low <= high) or any(x != int(x) for x in (room, view, low, high)):
            raise ArenaError(
                f"room is {room}, view {view}, count {count}; expected integers, room at least 3, view at least 1, "
                "and count a pair that does not fall."
            )
        check_installed()
        self.room, self.view, self.count = int(room), int(view), (int(low), int(high))
        self.static, self.textured, self.render_mode = static, textured, render_mode
        self.observation_space = spaces.Box(0, 255, (self.view, self.view, 3), np.uint8)
        self.action_space = spaces.Discrete(4)
        self._place(np.random.default_rng(0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in another room, drawn from the environment's random stream."""
        super().reset(seed=seed)
        self._place(self.np_random)
        return self._look(), {"motion": (0, 0, 0)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the viewer, then the blocks, then look."""
        if not self.action_space.contains(action):
            raise ArenaError(f"action {action!r} is not an integer between 0 and 3.")
        down, right, left = self.motion.tables[0][int(action)]
        if self.blocked() and action == FORWARD:
            down = 0
        self._agent = self._agent - down * np.array(STEPS[self._heading])
        self._heading = (self._heading + left) % 4
        outside = np.abs(self._positions + self._velocities - self.room / 2) >= self.room / 2
        self._velocities = np.where(outside, -self._velocities, self._velocities)
        self._positions = self._positions + self._velocities
        return self._look(), 0.0, False, False, {"motion": (down, right, left)}

    def blocked(self) -> bool:
        """Whether a wall stops the next step forward."""
        ahead = self._agent + STEPS[self._heading]
        return bool((ahead <= 0).any() or (ahead >= self.room).any())

    @property
    def truth(self) -> dict[str, Any]:
        """The state, with n blocks, in metres, rows before columns as on a map.

        `agent` `(2,)`, `heading` 0 to 3 (along the columns, then each a quarter further left: up the rows, back along
        the columns, down the rows), `positions` and `velocities` `(n, 2)`, `colours` and `kinds` ("box" or "ball").
        """
        return {
            "agent": self._agent.copy(),
            "heading": self._heading,
            "positions": self._positions.copy(),
            "velocities": self._velocities.copy(),
            "colours": tuple(COLOURS[c] for c in self._colours),
            "kinds": tuple("ball" if ball else "box" for ball in self._balls),
        }

    def visible(self) -> np.ndarray:
        """Return which blocks have their middle inside the view, bool `(n,)`; one may still hide behind another."""
        ahead = np.array(STEPS[self._heading])
        way = self._positions - self._agent
        forward, across = way @ ahead, way @ ahead[::-1]
        return (forward > 0) & (3 * across**2 <= forward**2)  # the tangent of 30 degrees is the root of 1/3

    def view_with(self, positions: np.ndarray) -> np.ndarray:
        """Return what the viewer would see now if the blocks stood at other `positions` `(n, 2)`."""
        return self._look(positions)

    def render(self) -> Any:
        """Return what the viewer sees, uint8 `(view, view, 3)`."""
        return self._look() if self.render_mode == "rgb_array" else None

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """The arrows left, right and up; no key is a rest."""
        return {(): NOOP, (LEFT_KEY,): TURN_LEFT, (RIGHT_KEY,): TURN_RIGHT, (UP_KEY,): FORWARD}

    def _place(self, random: np.random.Generator) -> None:
        """Draw everything, in an order that gives static and textured worlds the places of the plain one."""
        n, distinct = int(random.integers(self.count[0], self.count[1] + 1)), random.permutation(len(COLOURS))
        self._agent, self._heading = self._somewhere(random, ()), 0
        self._positions = self._somewhere(random, (n,))
        self._velocities = np.array(STEPS, np.int64)[random.integers(4, size=n)] * (not self.static)
        self._colours = np.concatenate([distinct, random.integers(len(COLOURS), size=n)])[:n]
        self._balls, self._textures, self._surfaces = np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(2, np.int64)
        if self.textured:
            self._balls, self._textures = random.random(n) < 1 / 3, random.integers(len(BOXES), size=n)
            self._surfaces = random.integers((len(WALLS), len(FLOORS)))

    def _somewhere(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.rint(random.uniform(1, self.room - 1, (*shape, 2))).astype(np.int64)

    def _look(self, positions: np.ndarray | None = None) -> np.ndarray:
        wall, floor = self._surfaces
        places = self._positions if positions is None else np.asarray(positions, np.int64)
        blocks = zip(places.tolist(), self._colours, self._balls, self._textures)
        things = tuple(
            Thing("ball" if ball else "box", COLOURS[colour], row, column, BOXES[texture] if self.textured else "")
            for (row, column), colour, ball, texture in blocks
        )
        surfaces = (WALLS[wall], FLOORS[floor]) if self.textured else PLAIN
        row, column = self._agent.tolist()
        return draw(Scene(self.room, *surfaces, things, row, column, self._heading), self.view)


@adapter("blocks")
class BlocksSimulator(Simulator):
    """Viewer, blocks and what they wear. Subclasses are left alone: they may have more."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `Blocks`."""
        return type(env) is Blocks

    def capture(self) -> dict[str, Any]:
        """Return what changes, and what it was made for."""
        return {"values": {name: getattr(self.env, name) for name in _CHANGING}, "made_of": self._made_of()}

    def apply(self, state: dict[str, Any]) -> None:
        """Set it; raises `ArenaError` when it comes from a world made otherwise."""
        if state["made_of"] != self._made_of():
            raise ArenaError(f"this state is of a block world with {state['made_of']}; here it is {self._made_of()}.")
        for name, value in state["values"].items():
            setattr(self.env, name, value)

    def quantities(self) -> dict[str, Quantity]:
        """Places of the viewer `(2,)` and the blocks `(n, 2)`, heading, velocities and colours (as in `COLOURS`)."""
        env, last = self.env, self.env.room - 1
        return {
            "agent": attribute(env, "_agent", "m", low=1, high=last),
            "heading": attribute(env, "_heading", "quarter turns", low=0, high=3),
            "positions": attribute(env, "_positions", "m", low=0, high=last + 1),
            "velocities": attribute(env, "_velocities", "m/step", low=-1, high=1),
            "colours": attribute(env, "_colours", "places in COLOURS", low=0, high=len(COLOURS) - 1),
        }

    def observe(self) -> np.ndarray:
        """Return what the viewer sees."""
        return self.env._look()

    def _made_of(self) -> dict[str, Any]:
        return {name: getattr(self.env, name) for name in ("room", "view", "count", "static", "textured")}


gym.register("terrella/Blocks-v0", f"{__name__}:Blocks", max_episode_steps=500)
gym.register(
    "terrella/BlocksSmall-v0",
    f"{__name__}:Blocks",
    max_episode_steps=500,
    kwargs={"room": 8, "view": 32, "count": (3, 4)},
)
gym.register(
    "terrella/BlocksStill-v0",
    f"{__name__}:Blocks",
    max_episode_steps=500,
    kwargs={"room": 8, "view": 32, "count": (3, 4), "static": True},
)
