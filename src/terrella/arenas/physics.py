"""Gymnasium's MuJoCo environments: the integration state, and the few things that are computed one step behind.

`mj_step` derives positions of bodies before it moves on, so that what an environment reads between two steps is of
the last one. A restored state must therefore bring these derived arrays along.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ArenaError
from .base import Simulator, adapter
from .graph import attributes

# Derived arrays that environments read between steps: positions and velocities of bodies and sites, contact forces.
DERIVED = (
    "xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "subtree_com",
    "cinert", "cvel", "cfrc_ext", "cfrc_int", "cacc", "qfrc_actuator", "actuator_force", "sensordata",
)  # fmt: skip
_CONSTANT = ("model", "data", "mujoco_renderer", "init_qpos", "init_qvel", "_np_random", "_np_random_seed")


@adapter("mujoco")
class MujocoSimulator(Simulator):
    """`mjSTATE_INTEGRATION`, derived arrays, placements of bodies in the model, and plain attributes such as goals."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is built on gymnasium's `MujocoEnv`."""
        return any(c.__module__ == "gymnasium.envs.mujoco.mujoco_env" for c in type(env).__mro__)

    def capture(self) -> dict[str, Any]:
        """Return what decides the future, and what is read before the next step."""
        mujoco: Any = import_module("mujoco")  # its attributes have no types

        model, data, kind = self.env.model, self.env.data, mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, state, kind)
        return {
            "state": state,
            "derived": {name: np.array(getattr(data, name)) for name in DERIVED},
            "bodies": np.array(model.body_pos),
            "own": {k: v for k, v in attributes(self.env).items() if _is_plain(v) and k not in _CONSTANT},
        }

    def apply(self, state: dict[str, Any]) -> None:
        """Set them; raises `ArenaError` for a state of another model."""
        mujoco: Any = import_module("mujoco")  # its attributes have no types

        model, data, kind = self.env.model, self.env.data, mujoco.mjtState.mjSTATE_INTEGRATION
        if state["state"].shape != (mujoco.mj_stateSize(model, kind),):
            raise ArenaError(f"a state of {state['state'].size} numbers is of another model than {self.env}.")
        model.body_pos[:] = state["bodies"]
        mujoco.mj_setState(model, data, state["state"], kind)
        for name, value in state["derived"].items():
            getattr(data, name)[:] = value
        for name, value in state["own"].items():
            setattr(self.env, name, value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic))
