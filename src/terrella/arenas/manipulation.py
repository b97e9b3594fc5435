"""Meta-World: a robot arm on a table with one of fifty tasks (MuJoCo), drawn from a corner.

A state is MuJoCo's integration state (positions, velocities, actuation, the solver's warm start), the parts of the
model that a reset moves, and the numbers that the task keeps in Python. Setting it takes a forward pass, which changes
the warm start, so it is set twice. The pictures leave out shadows, reflections and multisampling, which would take most
of the time on a processor. Where there is no display, EGL draws them unless the variable `MUJOCO_GL` says otherwise.

Ref: Yu et al., 2019, arXiv 1910.10897; McLean et al., 2025, arXiv 2505.11289 (the package's version 3).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from ..errors import ArenaError, did_you_mean, missing_extra
from .base import Simulator, adapter, comes_from
from .graph import attributes
from .quantity import Quantity, attribute

ARM = 9  # joints of the arm and the two fingers; those of the object follow
_PLAIN = (bool, int, float, str, np.ndarray, np.generic, type(None))
_MOVED = (
    "body_pos",
    "body_quat",
    "site_pos",
    "site_quat",
    "geom_pos",
    "geom_rgba",
    "eq_data",
)  # of the model, by resets
_ELSEWHERE = ("_np_random", "_np_random_seed")


class Table(gym.Wrapper):
    """Seed resets by their seed, which the package ignores, and draw the random task from the environment's stream."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode: other places of object and goal."""
        core: Any = self.env.unwrapped
        if seed is not None:
            core._np_random, core._np_random_seed = seeding.np_random(seed)
        return self.env.reset(options=options)

    def render(self) -> Any:
        """Return the picture, turned round where the model's camera hangs upside down, as those of the corners do."""
        frame, core = self.env.render(), self.env.unwrapped
        up = core.data.camera(core.camera_name).xmat[7]  # type: ignore[attr-defined]  # height of its second axis
        return frame[::-1, ::-1].copy() if isinstance(frame, np.ndarray) and up < 0 else frame


def build(task: str = "push-v3", *, view: int = 64, camera: str = "corner2", render_mode: Any = None) -> gym.Env:
    """Return a task with its goal in the observation. Actions: `Box(-1, 1, (4,))`, hand motion and gripper.

    view: pixels a side of the pictures. camera: one of the model's ("corner", "corner2", "topview", ...). Episodes are
    truncated after 500 steps. Raises `UnknownName` for a task that does not exist, `MissingExtra` without the package.
    """
    try:
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")
        metaworld: Any = import_module("metaworld")
    except ModuleNotFoundError as error:
        raise missing_extra("metaworld", "arenas-manipulation", "a manipulation arena") from error
    tasks = metaworld.ALL_V3_ENVIRONMENTS
    if task not in tasks:
        raise did_you_mean(task, tasks, "Meta-World task")
    core: Any = tasks[task](render_mode=render_mode, camera_name=camera, width=view, height=view)
    core._partially_observable, core._freeze_rand_vec, core.seeded_rand_vec = False, False, True
    core._set_task_called = True
    vars(core).pop("sawyer_observation_space", None)  # cached when the goal was still hidden
    core.observation_space = core.sawyer_observation_space
    core.model.vis.quality.shadowsize = core.model.vis.quality.offsamples = 0
    if render_mode == "rgb_array":
        mujoco: Any = import_module("mujoco")  # its attributes have no types

        scene = core.mujoco_renderer._get_viewer("rgb_array").scn
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            scene.flags[flag] = False
    return Table(core)


@adapter("metaworld")
class MetaWorldSimulator(Simulator):
    """MuJoCo's state, what resets move in the model, and the task's numbers."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is a task of Meta-World."""
        return comes_from(env, "metaworld")

    def capture(self) -> dict[str, Any]:
        """Return them."""
        core = self.env
        return {
            "physics": self._physics(),
            "model": {name: np.array(getattr(core.model, name)) for name in _MOVED},
            "values": {k: v for k, v in attributes(core).items() if k not in _ELSEWHERE and _is_plain(v)},
        }

    def apply(self, state: dict[str, Any]) -> None:
        """Set them; raises `ArenaError` for another task."""
        core, size = self.env, len(self._physics())
        if len(state["physics"]) != size or state["values"]["task_name"] != core.task_name:
            raise ArenaError(f"this state is of {state['values']['task_name']}; here it is {core.task_name}.")
        for name, array in state["model"].items():
            getattr(core.model, name)[:] = array
        vars(core).update(state["values"])
        self._forward(state["physics"])

    def quantities(self) -> dict[str, Quantity]:
        """Joints of the arm (the last two are the fingers) and the object, their rates, the hand's aim, the goal."""
        core = self.env

        def part(array: str, where: slice, unit: str) -> Quantity:
            def write(value: np.ndarray) -> None:
                getattr(core.data, array)[where] = value
                self._forward(self._physics())

            return Quantity(unit, lambda: getattr(core.data, array)[where], write)

        return {
            "arm": part("qpos", slice(ARM), "rad, fingers m"),
            "object": part("qpos", slice(ARM, None), "m and quaternion, or rad of a hinge"),
            "arm_rates": part("qvel", slice(ARM), "rad/s, fingers m/s"),
            "object_rates": part("qvel", slice(ARM, None), "m/s and rad/s"),
            "aim": part("mocap_pos", slice(None), "m"),
            "goal": Quantity("m", lambda: core._target_pos, self._set_goal),
            "steps": attribute(core, "curr_path_length", "steps", low=0, high=core.max_path_length - 1),
        }

    def observe(self) -> np.ndarray:
        """Return what the environment makes of its state; the part of the step before is that of this one."""
        core, before = self.env, self.env._prev_obs
        space = core.sawyer_observation_space
        seen = np.clip(core._get_obs(), space.low, space.high, dtype=np.float64)
        core._prev_obs = before
        return seen

    def _set_goal(self, value: np.ndarray) -> None:
        self.env._target_pos = value
        self._forward(self._physics())

    def _physics(self) -> np.ndarray:
        mujoco: Any = import_module("mujoco")  # its attributes have no types

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self.env.model, kind), np.float64)
        mujoco.mj_getState(self.env.model, self.env.data, state, kind)
        return state

    def _forward(self, state: np.ndarray) -> None:
        """Set MuJoCo's state, compute what follows from it, and set it again; then show the goals."""
        mujoco: Any = import_module("mujoco")  # its attributes have no types

        core, kind = self.env, mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(core.model, core.data, state, kind)
        mujoco.mj_forward(core.model, core.data)
        mujoco.mj_setState(core.model, core.data, state, kind)
        for site in core._target_site_config:
            core._set_pos_site(*site)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return isinstance(value, _PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))


build.metadata = {"render_modes": ["rgb_array"]}  # type: ignore[attr-defined]  # where makers of environments look
gym.register("terrella/MetaWorld-v0", f"{__name__}:build")
