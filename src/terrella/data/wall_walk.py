"""How the published block worlds were walked through: along the walls, and across the room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from ..arenas.blocks import FORWARD, NOOP, TURN_LEFT, TURN_RIGHT, Blocks
from ..arenas.stage import STEPS
from ..errors import ActionError
from ..spec import WorldSpec
from .policies import POLICIES, Policy


class WallWalk(Policy):
    """Keeps to the walls of a block world, looks at the room, crosses it, and never runs into anything.

    It goes to a wall, then for ever: faces the middle of the room and rests for 7 ticks; turns to a side drawn anew
    and crawls along the wall, turning at corners; at the first failure faces the middle and walks into the room; at
    the next failure, or a wall, turns to a side drawn anew, goes straight to the wall and turns round. Crawling and
    walking go on with the probability `forward` a step, and fail otherwise; by default it is .92 where blocks move
    and .90 where they rest or wear textures. Each change of phase costs a tick of rest; the 7 include two.

    It reads the viewer's place from the environment, not from its frames. Raises `ActionError` for other environments,
    for those in processes of their own, and for a probability outside [0, 1).

    Ref: FloWM, arXiv 2601.01075. Difference: their released walker crawls at once when nothing stands ahead, and so
    begins towards the middle of the room; here it turns along the wall first.
    """

    REST = 7

    def __init__(self, forward: float | None = None) -> None:
        if forward is not None and not 0 <= forward < 1:
            raise ActionError(f"forward is {forward}; expected a probability below 1, or the walk would never fail.")
        self.forward = forward

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Keep hold of the environment; raises `ActionError` when it is no block world."""
        del spec
        core = None if env is None else env.unwrapped
        if not isinstance(core, Blocks):
            raise ActionError(
                f"the policy 'wall-walk' reads where it stands from a block world, such as terrella/Blocks-v0, in this "
                f"process; it was given {core}. Use 'sticky-random'."
            )
        self._env = core
        slower = core.static or core.textured
        self._forward = self.forward if self.forward is not None else 0.90 if slower else 0.92

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Begin the walk where the viewer stands."""
        del space
        self._rng = rng
        self._walk = self._actions()

    def act(self, observation: Any) -> int:
        """Return the next action of the walk."""
        del observation
        return next(self._walk)

    def _actions(self) -> Iterator[int]:
        """Each action is chosen when asked for, from where the viewer stands by then."""
        yield from self._straight()
        while True:
            yield NOOP
            yield from self._face_middle()
            for _ in range(self.REST):
                yield NOOP
            side, back = self._sides()
            yield side
            yield NOOP
            yield from self._crawl(back)
            yield NOOP
            yield from self._face_middle()
            yield NOOP
            while self._goes_on() and not self._env.blocked():
                yield FORWARD
            yield NOOP
            yield self._sides()[0]
            yield NOOP
            yield from self._straight()
            yield NOOP
            yield TURN_LEFT
            yield TURN_LEFT

    def _straight(self) -> Iterator[int]:
        while not self._env.blocked():
            yield FORWARD

    def _crawl(self, back: int) -> Iterator[int]:
        while True:
            goes_on = self._goes_on()
            if self._env.blocked():
                yield back  # a corner: the wall stays on the same hand
            elif goes_on:
                yield FORWARD
            else:
                return

    def _face_middle(self) -> Iterator[int]:
        """Turn to the direction that comes nearest to the middle's; where two do, to the one with fewer turns."""
        truth = self._env.truth
        nearness = np.array(STEPS) @ (self._env.room / 2 - truth["agent"])
        turns = {0: (), 1: (TURN_LEFT,), 3: (TURN_RIGHT,), 2: (TURN_LEFT, TURN_LEFT)}
        yield from next(t for n, t in turns.items() if nearness[(truth["heading"] + n) % 4] == nearness.max())

    def _sides(self) -> tuple[int, int]:
        """A side drawn at random, and the other."""
        return (TURN_LEFT, TURN_RIGHT) if self._rng.random() < 0.5 else (TURN_RIGHT, TURN_LEFT)

    def _goes_on(self) -> bool:
        return bool(self._rng.random() < self._forward)


POLICIES["wall-walk"] = WallWalk
