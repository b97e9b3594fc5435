"""Who acts while an environment is recorded.

A policy is a name ("random", "sticky-random", "moody", "cover", "wall-walk", "seek", "speak", "hindsight"), a `Policy`,
or any function `f(observation, rng) -> action`: it gets the environment's own observation and a
`numpy.random.Generator` that is fresh for each episode, and returns an action as the environment's action space has it.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..errors import ActionError, did_you_mean
from ..spec import WorldSpec

PolicyFunction = Callable[[Any, np.random.Generator], Any]


class Policy(ABC):
    """Chooses actions for one environment, episode after episode.

    `begin` is called before each episode; whatever is random must come from its `rng`, so that the episode can be
    recorded again. Each environment has its own copy (`copy.copy`) of the policy.
    """

    def __repr__(self) -> str:
        """Name and settings, so that policies made alike read alike, as results kept by them must."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({settings})"

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Learn what the environment looks like; called once, before the first episode. Most need not know.

        `env` is the environment itself, None where it is out of reach: in a vector of processes.
        """
        del spec, env

    @abstractmethod
    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Get ready for an episode with the action space `space`."""

    @abstractmethod
    def act(self, observation: Any) -> Any:
        """Return the next action, in the environment's own form."""


class Random(Policy):
    """Draws every action anew, as the action space does."""

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Seed a copy of the space, so that drawing leaves the environment's own random stream alone."""
        self._space = copy.deepcopy(space)
        self._space.seed(int(rng.integers(2**31)))

    def act(self, observation: Any) -> Any:
        """Return a random action."""
        del observation
        return self._space.sample()


class StickyRandom(Policy):
    """Draws a random action and keeps it for a few steps, then another: gets much farther than trembling in place.

    mean: how many steps an action is kept on average. kind: "geometric" (each step may be the last, as with sticky
    keys) or "uniform" between 1 and `2 * mean - 1`. rest: share of draws that are the action that does nothing.

    Raises `ActionError` for a mean below 1, a share outside 0 to 1, and a rest where no action is known to do nothing.
    """

    def __init__(
        self, mean: float = 4.0, kind: Literal["geometric", "uniform"] = "geometric", rest: float = 0.0
    ) -> None:
        if not mean >= 1:
            raise ActionError(f"mean is {mean}; an action is kept for at least 1 step.")
        if kind not in ("geometric", "uniform"):
            raise did_you_mean(kind, ("geometric", "uniform"), "kind of sticky policy")
        if not 0 <= rest <= 1:
            raise ActionError(f"rest is {rest}; it is a share of draws, from 0 to 1.")
        self.mean, self.kind, self.rest = mean, kind, rest
        self._random = Random()

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Learn which action does nothing, if one is wanted."""
        del env
        if not self.rest:
            return
        if spec.noop is None:
            raise ActionError(f"rest is {self.rest}, but no action here is known to do nothing; leave it 0.")
        self._still = codec.decode(spec.action, np.array(spec.noop, np.float64))

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Forget the action of the last episode."""
        self._random = Random()
        self._random.begin(space, rng)
        self._rng = rng
        self._left = 0
        self._action: Any = None

    def act(self, observation: Any) -> Any:
        """Return the kept action, or a new one when its time is over."""
        if self._left == 0:
            resting = self.rest > 0 and self._rng.random() < self.rest
            self._action = self._still if resting else self._random.act(observation)
            if self.kind == "geometric":
                self._left = int(self._rng.geometric(1 / self.mean))
            else:
                self._left = int(self._rng.integers(1, max(2, round(2 * self.mean))))
        self._left -= 1
        return self._action


class Scripted(Policy):
    """Asks a function `f(observation, rng) -> action`."""

    def __init__(self, function: PolicyFunction) -> None:
        self.function = function

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Keep the episode's random stream for the function."""
        del space
        self._rng = rng

    def act(self, observation: Any) -> Any:
        """Return what the function says."""
        return self.function(observation, self._rng)


class Cover(Policy):
    """Looks at all of a world that repeats itself, as straight as it can, then wanders at random.

    While any place is unseen, each step brings the middle of the view as near as it can, along the shortest way round,
    to an unseen place drawn anew; afterwards actions are drawn uniformly. The world must declare how actions move the
    view (`ActionSpec.motion`), without turns, in pixels, and on a torus, as `terrella/Sprites-v0` does.

    frames: how many, the first one included, may pass until all was seen; up to `DRAWS` walks are drawn to find one
    that does. None takes the first walk.

    Ref: the observation phase of FloWM's MNIST World, arXiv 2601.01075. Raises `ActionError` for other worlds, and when
    no walk drawn is short enough.
    """

    DRAWS = 100

    def __init__(self, frames: int | None = None) -> None:
        if frames is not None and frames < 1:
            raise ActionError(f"frames is {frames}; the first one is always seen, so expected at least 1.")
        self.frames = frames
        self._random = Random()

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Read off the world's extent, the view's size and what each action does."""
        del env
        motion, images = spec.action.motion, [s for s in spec.modelled.values() if s.kind == "image"]
        if motion is None or motion.extent is None or motion.frame != "world" or len(images) != 1:
            raise ActionError(
                "the policy 'cover' needs one image and actions that declare how they slide it over a torus "
                "(ActionSpec.motion); this environment does not. Use 'sticky-random'."
            )
        self._extent, self._view = np.array(motion.extent), images[0].shape[:2]
        self._moves = np.array([np.sum(steps, axis=0)[:2] for steps in itertools.product(*motion.tables)])
        choices = np.array(list(itertools.product(*(range(len(table)) for table in motion.tables))))
        self._actions = choices.reshape(-1, *spec.action.shape) + spec.action.start

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Plan the walk: where it leads does not depend on what is seen."""
        self._random = Random()
        self._random.begin(space, rng)
        limit = int(np.prod(self._extent)) if self.frames is None else self.frames - 1
        walks = (self._walk(limit, rng) for _ in range(self.DRAWS))
        walk = next((w for w in walks if w is not None), None)
        if walk is None:
            raise ActionError(
                f"none of {self.DRAWS} walks saw the whole world within {limit + 1} frames. Give Cover more frames."
            )
        self._walk_left = iter(walk)

    def act(self, observation: Any) -> Any:
        """Return the next action of the walk, or a random one."""
        planned = next(self._walk_left, None)
        return self._random.act(observation) if planned is None else self._actions[planned]

    def _walk(self, limit: int, rng: np.random.Generator) -> list[int] | None:
        """Draw a walk that sees everything, as indices of actions; None when it takes more than `limit`."""
        seen, place, walk = np.zeros(self._extent, bool), np.zeros(2, np.int64), []
        while True:
            rows, columns = (np.arange(n) + p for n, p in zip(self._view, place))
            seen[np.ix_(rows % len(seen), columns % seen.shape[1])] = True
            unseen = np.argwhere(~seen)
            if not len(unseen):
                return walk
            if len(walk) == limit:
                return None
            goal = rng.choice(unseen) - np.array(self._view) // 2 - place
            way = (goal + self._extent // 2) % self._extent - self._extent // 2
            walk.append(int(np.abs(self._moves - way).sum(1).argmin()))
            place = place + self._moves[walk[-1]]


POLICIES: dict[str, Callable[[], Policy]] = {"random": Random, "sticky-random": StickyRandom, "cover": Cover}


def make_policy(policy: str | Policy | PolicyFunction) -> Policy:
    """Return a policy from its name, a function or itself; raises `UnknownName`, or `ActionError` for anything else."""
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise did_you_mean(policy, POLICIES, "policy")
        return POLICIES[policy]()
    if isinstance(policy, Policy):
        return copy.copy(policy)
    if callable(policy):
        return Scripted(policy)
    raise ActionError(
        f"policy is a {type(policy).__name__}; expected one of {', '.join(POLICIES)}, a terrella.data.Policy, or a "
        "function f(observation, rng) -> action."
    )
