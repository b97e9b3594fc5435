"""MiniGrid and BabyAI: every attribute of the environment, with its world of objects, written out explicitly.

Objects refer to one another (a box to what it holds, a room to its doors and neighbours, an instruction to the
objects it is about), and the rules compare them by identity, so the whole graph is saved with its shared references.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ArenaError
from .base import Simulator, adapter, comes_from
from .graph import assign, attributes
from .quantity import Quantity, attribute

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

    def quantities(self) -> dict[str, Quantity]:
        """Place `(2,)` and direction of the agent, steps, all cells `(w, h, 3)`, and moving obstacles `(n, 2)`."""
        env = self.env
        whole = "objects refer to one another; the places of the agent and of moving obstacles can be set"
        table = {
            "agent": Quantity("cells", lambda: env.agent_pos, self._set_agent),
            "direction": attribute(env, "agent_dir", "quarter turns", low=0, high=3),
            "steps": attribute(env, "step_count", "steps", low=0, high=env.max_steps),
            "cells": Quantity("codes of MiniGrid", self._cells, fixed=whole),
        }
        if getattr(env, "obstacles", None):
            table["obstacles"] = Quantity("cells", self._obstacles, self._set_obstacles)
        return table

    def observe(self) -> Any:
        """Return what the agent sees."""
        return self.env.gen_obs()

    def _cells(self) -> np.ndarray:
        """Codes of everything that stands still: what moves has a quantity of its own."""
        codes = self.env.grid.encode()
        for column, row in self._obstacles():
            codes[column, row] = (1, 0, 0)  # an empty cell
        return codes

    def _obstacles(self) -> np.ndarray:
        return np.array([thing.cur_pos for thing in getattr(self.env, "obstacles", ())], np.int64).reshape(-1, 2)

    def _set_agent(self, value: np.ndarray) -> None:
        place = self._free(value)
        there = self.env.grid.get(*place)
        if there is not None and not there.can_overlap():
            raise ArenaError(f"quantity 'agent' cannot be {place}: a {there.type} stands there. Choose an empty cell.")
        self.env.agent_pos = place

    def _set_obstacles(self, value: np.ndarray) -> None:
        env, places = self.env, [self._free(row) for row in value]
        taken = {tuple(row) for row in self._obstacles().tolist()}
        full = [p for p in places if p not in taken and env.grid.get(*p) is not None]
        if full or len(set(places)) < len(places) or tuple(env.agent_pos) in places:
            raise ArenaError(f"quantity 'obstacles' cannot be {places}: each needs an empty cell of its own.")
        for thing in env.obstacles:
            env.grid.set(*thing.cur_pos, None)
        for thing, place in zip(env.obstacles, places):
            env.grid.set(*place, thing)
            thing.cur_pos = np.array(place)

    def _free(self, value: np.ndarray) -> tuple[int, int]:
        column, row = value.tolist()
        if not (0 <= column < self.env.width and 0 <= row < self.env.height):
            raise ArenaError(f"there is no cell {(column, row)}; the grid has {self.env.width} x {self.env.height}.")
        return column, row
