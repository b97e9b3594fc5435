"""Make an environment from an id, an `EnvSpec` or a function, always in the same way."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from ..config import to_json
from ..errors import ArenaError, did_you_mean, missing_extra
from ..spec import EnvSpec
from . import doom, highway, procgen, rooms
from .grammar import HELD_OUT
from .wrappers import ArenaEnv, FrameSkip, Pixels, Resize, final_frames

log = logging.getLogger("terrella.arenas")


@dataclass(frozen=True)
class _Package:
    """A package whose import registers environments, and the extra that brings it.

    before: what must happen before it is imported. settled: what makes one of its environments fit for exact forks.
    """

    name: str
    extra: str = "arenas"
    before: Callable[[], None] | None = None
    settled: Callable[[gym.Env], gym.Env] | None = None


_HIGHWAY = _Package("highway_env", "arenas-driving", settled=highway.settled)
_ROADS = (
    "exit",
    "highway",
    "intersection",
    "lane-keeping",
    "merge",
    "parking",
    "racetrack",
    "roundabout",
    "two-way",
    "u-turn",
)
# Beginning of an id -> its package.
_PACKAGES = {
    "ALE/": _Package("ale_py"),
    "MiniGrid-": _Package("minigrid"),
    "BabyAI-": _Package("minigrid"),
    "MiniWorld-": _Package("miniworld", "arenas-3d", rooms.without_screen, rooms.settled),
    "Vizdoom": _Package("vizdoom.gymnasium_wrapper", "arenas-doom", settled=doom.settled),
    **{f"{road}-": _HIGHWAY for road in _ROADS},
}
_UNPREFIXED = ("ale_py", "minigrid")  # packages with ids of no common beginning: older Atari ids


def make(
    env: str | EnvSpec | Callable[[], gym.Env],
    *,
    pixels: bool | None = None,
    size: int | None = None,
    frame_skip: int | None = None,
    **kwargs: Any,
) -> gym.Env:
    """Make an environment; `describe(make(x)).env`, made again, is the same environment.

    env: a Gymnasium id ("CartPole-v1", "ALE/Pong-v5", "MiniGrid-DoorKey-5x5-v0", "terrella/Sprites-v0"),
    "procgen/<game>", a recorded `EnvSpec`, or a function that returns an environment. pixels: replace the observation
    by rendered frames. size: resize pictures to `size` x `size` by the area filter (0 keeps them; those smaller than 32
    pixels are symbolic grids and stay; default 64, or 0 where the environment has a true attribute `final_frames`).
    frame_skip: repeat each action and sum the rewards (default 1); time limits of the environment count its own steps.
    kwargs: for the environment; sequences become tuples, so that JSON gives them back equal. With an `EnvSpec`,
    arguments given here replace its own.

    The observation keeps its native form; `to_streams` splits it. Frames are rendered with `render_mode="rgb_array"`
    wherever it exists. ALE games are made with `repeat_action_probability=0` unless another value is given: sticky
    actions are not part of a saved state.

    Raises `UnknownName` for an unknown id, `MissingExtra` when its package is absent, `ArenaError` when it cannot be
    made or rendered.
    """
    spec = env if isinstance(env, EnvSpec) else EnvSpec(id=env if isinstance(env, str) else "")
    given = {"pixels": pixels, "size": size, "frame_skip": frame_skip}
    render_mode = kwargs.pop("render_mode", "rgb_array")  # how it is shown, not what it is: never recorded
    merged = {k: _tuples(v) for k, v in {**spec.kwargs, **kwargs}.items()}
    spec = replace(spec, kwargs=merged, **{k: v for k, v in given.items() if v is not None})
    if spec.size < 0 or spec.frame_skip < 1:
        raise ArenaError(f"size is {spec.size}, frame_skip {spec.frame_skip}; expected at least 0 and 1.")
    to_json(spec)  # refuses, before anything is recorded, what could not be written down
    if isinstance(env, (str, EnvSpec)):
        base, spec = _create(spec, render_mode, typed=isinstance(env, str))
    else:
        base = env(**merged)
        if not isinstance(base, gym.Env):
            raise ArenaError(f"the function returned a {type(base).__name__}; expected a gymnasium.Env.")
    if size is None and not isinstance(env, EnvSpec) and not spec.pixels and final_frames(base):
        spec = replace(spec, size=0)
    if spec.frame_skip > 1:
        base = FrameSkip(base, spec.frame_skip)
    if spec.pixels:
        base = Pixels(base, spec.size)
    elif spec.size:
        base = Resize(base, spec.size)
    return ArenaEnv(base, spec)


def _create(spec: EnvSpec, render_mode: str | None, typed: bool) -> tuple[gym.Env, EnvSpec]:
    """Make the bare environment; returns it with the spec completed by defaults that must be recorded."""
    if not spec.id:
        raise ArenaError(
            "this EnvSpec has no id: the environment was recorded from a function. Pass that function instead."
        )
    if spec.id.startswith("procgen/"):
        name = spec.id.removeprefix("procgen/")
        if name not in procgen.GAMES:
            raise did_you_mean(spec.id, [f"procgen/{game}" for game in procgen.GAMES], "environment")
        kwargs = {"distribution_mode": "easy", **spec.kwargs}
        mode = render_mode if render_mode in procgen.ProcgenEnv.metadata["render_modes"] else None
        try:
            env = procgen.ProcgenEnv(name, render_mode=mode, **kwargs)
        except TypeError as error:
            raise ArenaError(f"cannot make {spec.id} with {kwargs}: {error}.") from error
        return env, replace(spec, kwargs=kwargs)
    registered = _find(spec.id, typed)
    kwargs = dict(spec.kwargs)
    if str(registered.entry_point).startswith("ale_py"):
        kwargs = {"repeat_action_probability": 0.0, **kwargs}
    if spec.id.startswith("terrella/Sentences"):
        kwargs = {"held_out": HELD_OUT, **kwargs}  # what training never hears is to be known of every dataset
    try:
        mode = {"render_mode": render_mode} if render_mode in _render_modes(registered) else {}
        env = gym.make(spec.id, disable_env_checker=True, **mode, **kwargs)
        settled = package.settled if (package := _package(spec.id)) else None
        return settled(env) if settled else env, replace(spec, kwargs=kwargs)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        log.debug("making %s failed", spec.id, exc_info=True)
        extra = package.extra if (package := _package(spec.id)) else "arenas"
        raise missing_extra(getattr(error, "name", None) or _last_line(error), extra, spec.id) from error
    except (gym.error.Error, TypeError, ValueError, AssertionError, OSError) as error:
        raise ArenaError(f"cannot make {spec.id} with {kwargs}: {_last_line(error)}") from error


def _find(name: str, typed: bool) -> Any:
    """Return the registered specification of an id, importing the package that brings it."""
    module, colon, _ = name.rpartition(":")
    if colon and not typed and module not in sys.modules:
        raise ArenaError(
            f"environment {name!r} names a module to import, and a recorded file must not choose code to run. "
            f"If you trust it, import {module} yourself first."
        )
    package = _package(name)
    if package:
        _import(package, name)
    if colon:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ArenaError(f"cannot import {module!r} for environment {name!r}: {error}.") from error
    bare = name[len(module) + len(colon) :]
    if bare not in gym.registry:
        for other in _UNPREFIXED:
            if _available(other):
                _import(_Package(other), name)
    if bare not in gym.registry:
        raise did_you_mean(name, [*gym.registry, *(f"procgen/{game}" for game in procgen.GAMES)], "environment")
    return gym.registry[bare]


def _package(name: str) -> _Package | None:
    return next((package for start, package in _PACKAGES.items() if name.startswith(start)), None)


def _import(package: _Package, what: str) -> None:
    try:
        if package.before:
            package.before()
        importlib.import_module(package.name)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or package.name, package.extra, what) from error


def _available(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _render_modes(registered: Any) -> list[str]:
    entry = registered.entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return list(getattr(creator, "metadata", {}).get("render_modes", []))


def _tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(v) for v in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
