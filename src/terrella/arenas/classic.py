"""Gymnasium's own small environments (classic control and toy text): a handful of attributes each."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError
from .base import Simulator, adapter
from .quantity import Quantity, attribute

# Class -> what changes during an episode, what the picture shows included.
CHANGING: dict[str, tuple[str, ...]] = {
    "AcrobotEnv": ("state",),
    "CartPoleEnv": ("state", "steps_beyond_terminated"),
    "Continuous_MountainCarEnv": ("state",),
    "MountainCarEnv": ("state",),
    "PendulumEnv": ("state", "last_u"),
    "BlackjackEnv": ("player", "dealer", "dealer_top_card_suit", "dealer_top_card_value_str"),
    "CliffWalkingEnv": ("s", "lastaction"),
    "FrozenLakeEnv": ("s", "lastaction"),
    "TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
}
# Class -> names and units of the numbers in `state`.
STATE: dict[str, dict[str, str]] = {
    "AcrobotEnv": {"angle_1": "rad", "angle_2": "rad", "rate_1": "rad/s", "rate_2": "rad/s"},
    "CartPoleEnv": {"position": "m", "velocity": "m/s", "angle": "rad", "rate": "rad/s"},
    "Continuous_MountainCarEnv": {"position": "1", "velocity": "1/step"},
    "MountainCarEnv": {"position": "1", "velocity": "1/step"},
    "PendulumEnv": {"angle": "rad", "rate": "rad/s"},
}


@adapter("classic")
class ClassicSimulator(Simulator):
    """The attributes named in `CHANGING`. Subclasses are left alone: they may have more."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly one of the classes listed."""
        return type(env).__name__ in CHANGING and type(env).__module__.startswith("gymnasium.envs.")

    def capture(self) -> dict[str, Any]:
        """Return the changing attributes, and the map of those that may have been made with a random one."""
        values = {name: getattr(self.env, name) for name in CHANGING[type(self.env).__name__]}
        return {"values": values, "map": getattr(self.env, "desc", None)}

    def apply(self, state: dict[str, Any]) -> None:
        """Set them; raises `ArenaError` when the map differs."""
        if state["map"] is not None and not np.array_equal(state["map"], self.env.desc):
            raise ArenaError("this state belongs to another map. Make the environment with a fixed `desc`.")
        for name, value in state["values"].items():
            setattr(self.env, name, value)

    def quantities(self) -> dict[str, Quantity]:
        """The numbers of a state by name; the cell of a board; the hands of a card game, which cannot be set."""
        env = self.env
        if hasattr(env, "s"):
            space: spaces.Discrete = env.observation_space
            return {"state": attribute(env, "s", "number of the state", low=0, high=int(space.n) - 1)}
        if hasattr(env, "dealer"):
            dealt = "cards are dealt, and the picture shows which"
            hands = {"player": lambda: env.player, "dealer": lambda: env.dealer}
            return {name: Quantity("card values", read, fixed=dealt) for name, read in hands.items()}
        table = {}
        for i, (name, unit) in enumerate(STATE[type(env).__name__].items()):
            table[name] = Quantity(unit, lambda i=i: env.state[i], lambda value, i=i: self._set(i, value))
        return table

    def observe(self) -> Any:
        """Return what the environment makes of its state."""
        env = self.env
        if hasattr(env, "s"):
            return int(env.s)
        own = getattr(env, "_get_obs", None) or getattr(env, "_get_ob", None)
        return own() if own else np.array(env.state, np.float32)

    def _set(self, index: int, value: np.ndarray) -> None:
        numbers = list(self.env.state)
        numbers[index] = value[()]
        self.env.state = tuple(numbers) if isinstance(self.env.state, tuple) else np.array(numbers)
