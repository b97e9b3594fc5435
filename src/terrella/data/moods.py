"""Who explores where chance alone gets nowhere: play in moods, and a walker of mazes that is often distracted."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..arenas.base import comes_from
from ..arenas.maze import Maze
from ..errors import ActionError
from ..spec import WorldSpec
from .policies import POLICIES, Policy

LONGEST = 16  # steps for which an action is kept on average, in the most patient mood


class Moody(Policy):
    """Acts at random, in another mood in each episode: how long actions last, and which are liked.

    The mean length of an action is drawn log-uniformly from 1 to `LONGEST` steps; a liking for each choice from a
    Dirichlet distribution of concentration 1/2 (numbers stay uniform within their bounds). It knows nothing of any
    goal, and yet episodes differ much more than those of one restlessness: some run to the right, some swing.
    """

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Draw a mood."""
        self._space = copy.deepcopy(space)
        self._space.seed(int(rng.integers(2**31)))
        self._rng, self._left, self._action = rng, 0, None
        self._patience = float(LONGEST ** rng.random())
        self._liking = rng.dirichlet(np.full(int(space.n), 0.5)) if isinstance(space, spaces.Discrete) else None

    def act(self, observation: Any) -> Any:
        """Return the kept action, or another one when its time is over."""
        del observation
        if self._left == 0:
            self._left = int(self._rng.geometric(1 / self._patience))
            if self._liking is None:
                self._action = self._space.sample()
            else:
                self._action = int(
                    getattr(self._space, "start", 0) + self._rng.choice(len(self._liking), p=self._liking)
                )
        self._left -= 1
        return self._action


class Seek(Policy):
    """Goes the shortest way to the goal of a MiniGrid world or a maze, by way of key and doors; is often distracted.

    Each step is drawn at random instead with a probability that is itself drawn for each episode, from 0.2 to 1. It
    reads the world from the environment, not from its frames. Raises `ActionError` for other environments, and for
    those in processes of their own.
    """

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Keep hold of the environment."""
        del spec
        core = None if env is None else env.unwrapped
        if core is None or not (isinstance(core, Maze) or comes_from(core, "minigrid")):
            raise ActionError(
                "the policy 'seek' reads where things are from a MiniGrid world or a maze in this process; it was "
                f"given {core}. Use 'moody'."
            )
        self._env: Any = core

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Draw how distracted it is."""
        self._space, self._rng, self._distraction = space, rng, rng.uniform(0.2, 1.0)

    def act(self, observation: Any) -> int:
        """Return a step of the way, or any."""
        del observation
        action = None if self._rng.random() < self._distraction else self._step()
        return int(self._rng.integers(self._space.n)) if action is None else action  # type: ignore[attr-defined]

    def _step(self) -> int | None:
        """The next action towards what is needed next: the key of a locked door, then the goal; None: no way."""
        if isinstance(self._env, Maze):
            return self._env.way()
        env, actions = self._env, self._env.actions
        things = {
            (x, y): env.grid.get(x, y)
            for x in range(env.width)
            for y in range(env.height)
            if env.grid.get(x, y) is not None
        }
        locked = any(t.type == "door" and t.is_locked for t in things.values())
        wanted = "key" if locked and env.carrying is None and any(t.type == "key" for t in things.values()) else "goal"
        targets = {place for place, thing in things.items() if thing.type == wanted}
        way = self._way(things, targets)
        if way is None:
            return None
        turn = (way - env.agent_dir) % 4
        if turn:
            return int(actions.left if turn == 3 else actions.right)
        ahead = things.get((int(env.front_pos[0]), int(env.front_pos[1])))
        if ahead is not None and ahead.type == "key":
            return int(actions.pickup)
        if ahead is not None and ahead.type == "door" and not ahead.is_open:
            return int(actions.toggle)
        return int(actions.forward)

    def _way(self, things: dict[tuple[int, int], Any], targets: set[tuple[int, int]]) -> int | None:
        """The direction (0 to the right, then each a quarter clockwise) of the first step to the nearest target."""
        start = int(self._env.agent_pos[0]), int(self._env.agent_pos[1])
        first: dict[tuple[int, int], int | None] = {start: None}
        queue = deque([start])
        while queue:
            x, y = queue.popleft()
            if (x, y) in targets:
                return first[x, y]
            for way, (dx, dy) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
                place = x + dx, y + dy
                thing = things.get(place)
                passable = thing is None or thing.type in ("goal", "door") or place in targets
                if passable and place not in first:
                    known = first[x, y]
                    first[place] = way if known is None else known
                    queue.append(place)
        return None


POLICIES["moody"] = Moody
POLICIES["seek"] = Seek
