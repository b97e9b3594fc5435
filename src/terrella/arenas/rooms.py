"""MiniWorld: rooms, corridors and objects in the first person, drawn by OpenGL.

Rooms hold textures and display lists of the graphics driver, which no file can hold. A state therefore names the random
stream from which the episode's reset drew its world, and what has changed since; restoring it in an environment that
is in another episode draws that world again. Two traps of the package are avoided by `settled`: all environments of a
process share one display list, so that each shows the rooms of whichever was reset last, and OpenGL has to be told
before it is first loaded that there is no screen.

Pictures of equal states are equal to the last bit on equal drivers.

Ref: Chevalier-Boisvert et al., 2023, arXiv 2306.13831.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from ..errors import ArenaError
from .base import Simulator, adapter, comes_from
from .graph import attributes
from .quantity import Quantity, attribute

_PLAIN = (bool, int, float, str, np.ndarray, np.generic, type(None))
_ELSEWHERE = ("_np_random", "_np_random_seed", "rooms", "wall_segs", "_origin", "_roster")
_listed: weakref.ref[gym.Env] | None = None  # whose rooms are in the display list


def without_screen() -> None:
    """Tell pyglet to draw through EGL where there is no display; to be called before miniworld is imported."""
    import pyglet

    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        pyglet.options["headless"] = True


def settled(env: gym.Env) -> gym.Env:
    """Return the environment with a note of where its worlds come from, and with pictures that are its own."""
    return Settled(env)


class Settled(gym.Wrapper):
    """Note the random stream before each reset and who is in the new world; draw with the right rooms."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        core: Any = self.env.unwrapped
        if seed is not None:
            core._np_random, core._np_random_seed = seeding.np_random(seed)
        origin = core.np_random.bit_generator.state
        result = self.env.reset(seed=None, options=options)
        _moved_in(core, origin)
        return result

    def step(self, action: Any) -> Any:
        """Step."""
        own_rooms(self.env.unwrapped)
        return self.env.step(action)

    def render(self) -> Any:
        """Return the picture for people."""
        own_rooms(self.env.unwrapped)
        return self.env.render()


def own_rooms(core: Any) -> None:
    """Put the environment's own rooms into the display list, if another's are there."""
    global _listed
    if _listed is None or _listed() is not core:
        core.shadow_window.switch_to()
        core._render_static()
        _listed = weakref.ref(core)


def _moved_in(core: Any, origin: dict[str, Any]) -> None:
    global _listed
    _listed = weakref.ref(core)
    core._origin, core._roster = origin, list(core.entities)


@adapter("miniworld")
class MiniWorldSimulator(Simulator):
    """Where the world was drawn from, then all numbers of the environment and of everything in it."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is built on `MiniWorldEnv`."""
        return comes_from(env, "miniworld")

    def capture(self) -> dict[str, Any]:
        """Return the origin, the environment's numbers, those of each entity, and which are still there."""
        core, roster = self.env, self._roster()
        strangers = [thing for thing in core.entities if all(thing is not known for known in roster)]
        if strangers:
            raise ArenaError(f"{type(strangers[0]).__name__} came after the reset; such worlds cannot be saved.")
        return {
            "origin": core._origin,
            "values": _numbers(core),
            "entities": [_numbers(thing) for thing in roster],
            "present": [_place(roster, thing) for thing in core.entities],
            "carrying": None if core.agent.carrying is None else _place(roster, core.agent.carrying),
        }

    def apply(self, state: dict[str, Any]) -> None:
        """Draw the world again where it is another one, then set the numbers."""
        core = self.env
        if getattr(core, "_origin", None) != state["origin"]:
            core._np_random = np.random.Generator(np.random.PCG64())
            core._np_random.bit_generator.state = state["origin"]
            core.reset()
            _moved_in(core, state["origin"])
        roster = self._roster()
        if len(roster) != len(state["entities"]):
            raise ArenaError(f"this state has {len(state['entities'])} things; the same world here has {len(roster)}.")
        vars(core).update(state["values"])
        for thing, values in zip(roster, state["entities"]):
            vars(thing).update(values)
        core.entities = [roster[i] for i in state["present"]]
        core.agent.carrying = None if state["carrying"] is None else roster[state["carrying"]]

    def quantities(self) -> dict[str, Quantity]:
        """Place `(3,)` and heading of the agent; places `(n, 3)` and headings `(n,)` of the others; steps; health."""
        core, agent = self.env, self.env.agent
        things = [thing for thing in core.entities if thing is not agent]
        carried = "what is carried follows from picking up; place the agent before the thing and take that action"
        table = {
            "position": attribute(agent, "pos", "m"),
            "heading": attribute(agent, "dir", "rad"),
            "objects": Quantity(
                "m",
                lambda: np.array([t.pos for t in things], np.float64).reshape(-1, 3),
                lambda v: _put(things, "pos", v),
            ),
            "object_headings": Quantity(
                "rad", lambda: np.array([t.dir for t in things], np.float64), lambda v: _put(things, "dir", v)
            ),
            "carrying": Quantity(
                "place among the objects, or -1", lambda: _place(things, agent.carrying), fixed=carried
            ),
            "steps": attribute(core, "step_count", "steps", low=0, high=core.max_episode_steps),
        }
        if hasattr(core, "health"):
            table["health"] = attribute(core, "health", "%", low=0, high=100)
        return table

    def observe(self) -> np.ndarray:
        """Draw what the agent sees."""
        own_rooms(self.env)
        return self.env.render_obs()

    def _roster(self) -> list[Any]:
        if not hasattr(self.env, "_roster"):
            raise ArenaError("this MiniWorld was not made by its id, so where its world came from was not noted.")
        return self.env._roster


def _numbers(thing: Any) -> dict[str, Any]:
    """The plain attributes; also sequences of numbers, such as colours."""
    return {k: v for k, v in attributes(thing).items() if k not in _ELSEWHERE and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))


def _place(things: list[Any], thing: Any) -> int:
    return next((i for i, other in enumerate(things) if other is thing), -1)


def _put(things: list[Any], name: str, value: np.ndarray) -> None:
    for thing, new in zip(things, value):
        setattr(thing, name, new.copy() if new.ndim else new.item())
