"""Of several futures under the same actions, the one whose frames look most as if these actions had been taken.

B sessions   n futures of each   T frames   W numbers in one action
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import heads
from ..engine import Engine, Frame, State
from ..engine.frame import joined
from ..errors import ConfigError
from ..spec import WorldSpec
from .base import recalled
from .learned import Inconsistency
from .objective import Future

OTHER = 1_000_003  # keys of chance that no other session has


class BestOf:
    """Rolls out n futures of every session and goes on with the one that inverse dynamics believes most.

    It starts and rolls out as the engine does, so that evaluation and planners take it for one. every: frames after
    which one is chosen and the others are given up. Chosen frame by frame, each frame has n chances to be right, and a
    rollout is what as many steps are; choose later where an action takes several frames to show. The first of the n has
    the session's own chance, and the state that comes back has its key again. A world without chance (a `regression`
    decoder) has n equal futures.

    Ref: best of n by a verifier, Cobbe et al., arXiv 2110.14168; block by block, Mudgal et al., arXiv
    2310.17022. Differs: the verifier is an inverse dynamics model, and blocks are of frames.

    Raises `ConfigError` for an n or `every` below 1, or an engine that recalls fewer frames than the head reads.
    """

    def __init__(self, engine: Engine, n: int, head: heads.Inverse | None = None, *, every: int = 1):
        self.engine, self.n, self.every = engine, n, every
        self.head: heads.Inverse = engine.world.head("inverse") if head is None else head
        if n < 1 or every < 1 or engine.recall < self.head.config.frames - 1:
            raise ConfigError(
                f"n is {n}, every {every}, and the engine recalls {engine.recall} frames; expected at least 1, at "
                f"least 1, and Engine(world, recall={self.head.config.frames})."
            )

    @property
    def spec(self) -> WorldSpec:
        """What observations and actions look like."""
        return self.engine.spec

    @property
    def steps(self) -> int:
        """Evaluations of the world that one frame takes."""
        return self.n * self.engine.steps

    def start(self, observations: Any, actions: Any = None, seeds: Any = 0) -> State:
        """Begin sessions, as `Engine.start` does."""
        return self.engine.start(observations, actions, seeds)

    def rollout(self, state: State, actions: np.ndarray, *, observe: bool = True) -> tuple[State, Frame]:
        """Take actions `(B, T, W)`, as `Engine.rollout` does; consumes `state`."""
        if self.n == 1:
            return self.engine.rollout(state, actions, observe=observe)
        rows, found = np.asarray(actions, np.float64), []
        for first in range(0, max(1, rows.shape[1]), self.every):
            state, frames = self._choose(state, rows[:, first : first + self.every], observe)
            found.append(frames)
        return state, joined(found)

    def _choose(self, state: State, actions: np.ndarray, observe: bool) -> tuple[State, Frame]:
        """Go on by the frames that these actions are believed to have led to."""
        seeds, batch = state.seeds.tolist(), state.batch
        branch = np.repeat(np.arange(batch), self.n)
        rows = actions[branch]
        keys = [seed if k == 0 else seed * OTHER + k for seed in seeds for k in range(self.n)]
        past = recalled(self.engine, state)
        assert past is not None  # the engine recalls
        many, frame = self.engine.rollout(state.fork(self.n).reseed(keys), rows, observe=observe)
        trail = past.take(branch).then(frame.latent, rows)
        future = Future(rows, frame.reward, frame.terminated, {}, branch, trail)
        cost = Inconsistency(self.head).cost(future).reshape(batch, self.n)
        best = cost.argmin(1) + np.arange(batch) * self.n
        state.take()
        chosen = Frame(
            {name: v[best] for name, v in frame.observation.items()},
            frame.reward[best],
            frame.terminated[best],
            {name: v[best] for name, v in frame.info.items()},
            None if frame.latent is None else frame.latent[best],
        )
        return many.select(best.tolist()).reseed(seeds), chosen
