"""Gymnasium's own small environments (classic control and toy text): a handful of attributes each."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ArenaError
from .base import Simulator, adapter

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
