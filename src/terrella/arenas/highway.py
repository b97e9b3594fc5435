"""Driving seen from above (highway-env): road, vehicles and what their drivers intend, as one graph of plain objects.

Two things of the package stand between it and exact forks, and are put right by `settled`: the `info` of a reset holds
an action drawn from an unseeded stream, and with `SDL_VIDEODRIVER=dummy` every frame is black, so that all forks would
agree.

Ref: Leurent, 2018, An environment for autonomous driving decision-making (the package is `highway-env`).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ArenaError
from .base import Simulator, adapter, comes_from
from .graph import assign, attributes
from .quantity import Quantity

# Saved for every environment, or made anew from the configuration.
_ELSEWHERE = ("_np_random", "_np_random_seed", "viewer", "_record_video_wrapper", "config", "action_type")


class Settled(gym.Wrapper):
    """Drop from the `info` of a reset what depends on an action that nobody took; draw off screen, always."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {key: value for key, value in info.items() if key not in ("action", "rewards")}

    def render(self) -> Any:
        """Return the picture; the package would leave it black for SDL's dummy driver, which needs no screen either."""
        core: Any = self.env.unwrapped
        if core.viewer is None and core.render_mode == "rgb_array":
            from highway_env.envs.common.graphics import EnvViewer

            core.viewer = EnvViewer(core)
            core.viewer.enabled = True
        return self.env.render()


def settled(env: gym.Env) -> gym.Env:
    """Return a highway-env environment that renders off screen and whose resets depend on nothing but their seed."""
    core: Any = env.unwrapped
    core.config["offscreen_rendering"] = True
    return Settled(env)


@adapter("highway")
class HighwaySimulator(Simulator):
    """Every attribute of the environment but its window and its spaces, roads and vehicles included."""

    modules = ("highway_env",)

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is built on highway-env's `AbstractEnv`."""
        return comes_from(env, "highway_env")

    @property
    def exact(self) -> bool:
        """True unless observations stack frames: those live in the observation's type, with the window."""
        return "Grayscale" not in str(self.env.config["observation"])

    def capture(self) -> dict[str, Any]:
        """Return road, vehicles, time and the rest."""
        return {name: value for name, value in attributes(self.env).items() if _saved(name)}

    def apply(self, state: dict[str, Any]) -> None:
        """Set them, and link observation and actions to the vehicles."""
        kept = {name: value for name, value in attributes(self.env).items() if not _saved(name)}
        assign(self.env, {**state, **kept})
        self.env.define_spaces()

    def reseed(self, seed: int) -> None:
        """Give the road the environment's new stream: drivers draw from it, new vehicles appear by it."""
        del seed
        self.env.road.np_random = self.env.np_random

    def quantities(self) -> dict[str, Quantity]:
        """Of each vehicle, those that act first: place `(n, 2)`, heading, speed and whether it crashed `(n,)`; time."""
        env = self.env
        egos = list(env.controlled_vehicles)
        cars = egos + [car for car in env.road.vehicles if all(car is not ego for ego in egos)]
        return {
            "position": Quantity("m", lambda: [c.position for c in cars], lambda v: _place(cars, v)),
            "heading": Quantity("rad", lambda: [float(c.heading) for c in cars], lambda v: _turn(cars, v)),
            "speed": Quantity(
                "m/s", lambda: [float(c.speed) for c in cars], lambda v: _each(cars, "speed", v), low=-40.0, high=40.0
            ),
            "crashed": Quantity("0 or 1", lambda: [int(c.crashed) for c in cars], fixed="crashes follow from places"),
            "time": Quantity("s", lambda: float(env.time), lambda v: setattr(env, "time", v.item()), low=0.0),
        }

    def observe(self) -> Any:
        """Return what the environment makes of its state."""
        return self.env.observation_type.observe()


def _saved(name: str) -> bool:
    return name not in _ELSEWHERE and not name.startswith("observation_type")


def _place(cars: list[Any], value: np.ndarray) -> None:
    if len(cars) and not np.isfinite(value).all():
        raise ArenaError(f"positions are finite numbers, not {value.tolist()}.")
    for car, place in zip(cars, value):
        car.position = place.copy()
        car.on_state_update()  # the lane it is on; the lane that its driver wants stays


def _turn(cars: list[Any], value: np.ndarray) -> None:
    for car, heading in zip(cars, value.tolist()):
        car.heading = heading
        car.on_state_update()


def _each(cars: list[Any], name: str, value: np.ndarray) -> None:
    for car, number in zip(cars, value.tolist()):
        setattr(car, name, number)
