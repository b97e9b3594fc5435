"""What a made environment looks like, as data: streams, actions, how to make it again, how a person plays it."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym

from ..actions import action_spec
from ..spec import Motion, WorldSpec
from .base import comes_from
from .keys import controls
from .streams import streams
from .wrappers import final_frames, find_arena

DEFAULT_FPS = 15.0
ALE_FPS = 60.0  # the console's; the metadata of ALE environments says 30 whatever the frame skip is


def describe(env: gym.Env) -> WorldSpec:
    """Return the `WorldSpec` of an environment made by `terrella.arenas.make`.

    Raises `ArenaError` for other environments, `SpecError` or `ActionError` for spaces that have no description.
    """
    arena = find_arena(env)
    hands = controls(env)
    return WorldSpec(
        streams=streams(env.observation_space),
        action=replace(action_spec(env.action_space), motion=_motion(env) if arena.env_spec.frame_skip == 1 else None),
        env=arena.env_spec,
        action_names=hands.names,
        keys=hands.keys,
        noop=hands.noop,
        fps=_fps(env) / arena.env_spec.frame_skip,
    )


def _motion(env: gym.Env) -> Motion | None:
    """How actions move the viewer, where the environment has an attribute `motion` that says so, or a wrapper that
    turns its actions into others.

    None when a view that slides was to keep its size and did not: then a step is no longer a step.
    """
    declared = env.get_wrapper_attr("motion") if env.has_wrapper_attr("motion") else None
    if not isinstance(declared, Motion):
        return None
    resized = env.observation_space != env.unwrapped.observation_space
    return None if declared.frame == "world" and final_frames(env) and resized else declared


def _fps(env: gym.Env) -> float:
    core = env.unwrapped
    if comes_from(core, "ale_py"):
        skip = core._frameskip  # type: ignore[attr-defined]
        return ALE_FPS / (skip if isinstance(skip, int) else (skip[0] + skip[1] - 1) / 2)
    rate = env.metadata.get("render_fps")
    return float(rate) if isinstance(rate, (int, float)) and 0 < rate <= 120 else DEFAULT_FPS
