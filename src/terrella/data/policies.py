"""Who acts while an environment is recorded.

A policy is a name ("random", "sticky-random"), a `Policy`, or any function `f(observation, rng) -> action`: it gets the
environment's own observation and a `numpy.random.Generator` that is fresh for each episode, and returns an action as
the environment's action space has it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from ..errors import ActionError, did_you_mean

PolicyFunction = Callable[[Any, np.random.Generator], Any]


class Policy(ABC):
    """Chooses actions for one environment, episode after episode.

    `begin` is called before each episode; whatever is random must come from its `rng`, so that the episode can be
    recorded again. Each environment has its own copy (`copy.copy`) of the policy.
    """

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
    keys) or "uniform" between 1 and `2 * mean - 1`.

    Raises `ActionError` for a mean below 1.
    """

    def __init__(self, mean: float = 4.0, kind: Literal["geometric", "uniform"] = "geometric") -> None:
        if not mean >= 1:
            raise ActionError(f"mean is {mean}; an action is kept for at least 1 step.")
        if kind not in ("geometric", "uniform"):
            raise did_you_mean(kind, ("geometric", "uniform"), "kind of sticky policy")
        self.mean, self.kind = mean, kind
        self._random = Random()

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
            self._action = self._random.act(observation)
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


POLICIES: dict[str, Callable[[], Policy]] = {"random": Random, "sticky-random": StickyRandom}


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
