"""MiniGrid and BabyAI: every attribute of the environment, with its world of objects, written out explicitly.

Objects refer to one another (a box to what it holds, a room to its doors and neighbours, an instruction to the
objects it is about), and the rules compare them by identity, so the whole graph is saved with its shared references.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from .base import Simulator, adapter, comes_from
from .graph import assign, attributes

_ELSEWHERE = ("_np_random", "_np_random_seed")  # saved for every environment


@adapter("minigrid")
class MiniGridSimulator(Simulator):
    """All that changes in a `MiniGridEnv`: grid, agent, what it carries, mission, counters, and a game's own extras."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        # A game defined outside the package brings its own objects and rooms.
        self.modules = ("minigrid", type(env).__module__.split(".")[0])

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is built on `MiniGridEnv`."""
        return comes_from(env, "minigrid")

    def capture(self) -> dict[str, Any]:
        """Return all attributes that may change."""
        return {k: v for k, v in attributes(self.env).items() if k not in _ELSEWHERE}

    def apply(self, state: dict[str, Any]) -> None:
        """Set them."""
        kept = {k: v for k, v in attributes(self.env).items() if k in _ELSEWHERE}
        assign(self.env, {**state, **kept})
