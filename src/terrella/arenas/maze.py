"""A maze with one way to the goal, seen from above: a token is a colour, an action a step.

The mazes are those of `terrella.puzzles`, and pictures show their tokens as they are, the agent where a puzzle has its
start: what is seen at any moment is again a maze with one path, so that whoever solves puzzles can say what to do here.

| id | tokens a side | picture | longest way |
|---|---|---|---|
| `terrella/Maze-v0` | 7 (`side`) | 64 (`view`) | 30 steps |
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError
from ..puzzles import mazes
from ..puzzles.base import Split
from ..puzzles.mazes import GOAL, OPEN, START, WALL, distances
from .base import Simulator, adapter
from .quantity import Quantity

COLOURS = np.array([(30, 34, 46), (222, 218, 206), (40, 120, 235), (240, 130, 30)], np.uint8)  # a token each
MOVES = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])  # rows before columns
ACTIONS = ("stay", "up", "right", "down", "left")
FINEST = 3  # pixels that a token has at least
UP, DOWN, RIGHT, LEFT = 1073741906, 1073741905, 1073741903, 1073741904  # pygame's numbers


class Maze(gym.Env[np.ndarray, np.int64]):
    """A perfect maze of `side x side` tokens, another one at each reset.

    Observation: uint8 `(view, view, 3)`, `COLOURS` of walls, open tokens, the agent and the goal. Actions:
    `Discrete(5)`, stay or a step up, right, down or left; walls and the rim stop it. Rewards: 1 at the goal, which ends
    the episode, else 0 (registered ids are truncated after 300 steps).

    side, lengths, split: as `terrella.puzzles.mazes` takes them; mazes of the two splits are never the same.

    Raises `PuzzleError` for mazes that there are not, `ArenaError` for a view of less than 3 pixels a token.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 6}  # noqa: RUF012 - Gymnasium's own form
    action_names = ACTIONS

    def __init__(
        self,
        *,
        side: int = 7,
        view: int = 64,
        lengths: tuple[int, int] | None = None,
        split: Split = "train",
        render_mode: str | None = None,
    ) -> None:
        if view < FINEST * side:
            raise ArenaError(f"view is {view} pixels for {side} tokens a side; expected at least {FINEST * side}.")
        self.side, self.view, self.lengths = side, view, lengths
        self.split: Split = split
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (view, view, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._place(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in another maze, drawn from the environment's random stream."""
        super().reset(seed=seed)
        self._place(int(self.np_random.integers(1 << 31)))
        return self.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, unless a wall is there; raises `ArenaError` for an action outside the space."""
        if not self.action_space.contains(action):
            raise ArenaError(f"action {action!r} is not an integer from 0 to {len(ACTIONS) - 1}.")
        there = self.position + MOVES[int(action)]
        if self.is_open(there):
            self.position = there
        done = bool((self.position == self.goal).all())
        return self.picture(), float(done), done, False, {}

    def tokens(self) -> np.ndarray:
        """The maze as a puzzle that begins where the agent is, uint8 `(side, side)`; at the goal none is left."""
        grid = np.where(self.free, OPEN, WALL).astype(np.uint8)
        grid[tuple(self.goal)] = GOAL
        grid[tuple(self.position)] = START
        return grid

    def picture(self) -> np.ndarray:
        """Draw the tokens."""
        at = np.arange(self.view) * self.side // self.view
        return COLOURS[self.tokens()[at[:, None], at]]

    def render(self) -> Any:
        """Return the picture, uint8 `(view, view, 3)`."""
        return self.picture() if self.render_mode == "rgb_array" else None

    def is_open(self, place: np.ndarray) -> bool:
        """Whether one can stand at `place` (row, column)."""
        return bool((place >= 0).all() and (place < self.side).all() and self.free[tuple(place)])

    def way(self) -> int:
        """The action that the one way to the goal begins with; to stay where one is there."""
        away = distances(self.free[None], np.array([self.goal[0] * self.side + self.goal[1]]))[0]
        here = away[tuple(self.position)]
        ways = ((i, self.position + move) for i, move in enumerate(MOVES))
        return next((i for i, there in ways if self.is_open(there) and away[tuple(there)] < here), 0)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Arrows move; without one, stay."""
        return {(): 0, (UP,): 1, (RIGHT,): 2, (DOWN,): 3, (LEFT,): 4}

    def _place(self, seed: int) -> None:
        (grid,) = mazes(1, self.side, seed=seed, lengths=self.lengths, split=self.split).tokens
        self.free = grid != WALL
        self.position, self.goal = (np.argwhere(grid == token)[0] for token in (START, GOAL))


@adapter("maze")
class MazeSimulator(Simulator):
    """Which tokens are open, the agent and the goal. Subclasses are left alone: they may have more."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `Maze`."""
        return type(env) is Maze

    def capture(self) -> dict[str, Any]:
        """Return the arrays."""
        return {name: getattr(self.env, name) for name in ("free", "position", "goal")}

    def apply(self, state: dict[str, Any]) -> None:
        """Set them; raises `ArenaError` when they come from a maze of another side."""
        side = self.env.side
        if state["free"].shape != (side, side):
            raise ArenaError(f"this state is of a maze of shape {state['free'].shape}; this one has {side} a side.")
        for name, value in state.items():
            setattr(self.env, name, value)

    def quantities(self) -> dict[str, Quantity]:
        """Agent and goal, `(2,)` rows before columns; which tokens are open, `(side, side)`, only to be read."""
        env, high = self.env, self.env.side - 1

        def place(name: str) -> Quantity:
            def write(value: np.ndarray) -> None:
                if not env.is_open(value):
                    raise ArenaError(f"quantity {name!r} cannot be {value.tolist()}: there is a wall; see 'open'.")
                setattr(env, name, value)

            return Quantity("tokens", lambda: getattr(env, name), write, low=0, high=high)

        free = Quantity("1", lambda: env.free, fixed="other walls would make it a maze of several ways, or none")
        return {"position": place("position"), "goal": place("goal"), "open": free}

    def observe(self) -> np.ndarray:
        """Return the picture."""
        return self.env.picture()


gym.register("terrella/Maze-v0", f"{__name__}:Maze", max_episode_steps=300)
