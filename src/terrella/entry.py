"""A world made ready to be entered as an environment: its Gymnasium spaces, where episodes begin, how it is drawn.

What `WorldEnv` and `WorldVectorEnv` share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw

from . import actions
from .data import Dataset
from .data.episode import Clips
from .engine import Engine, State, engine_settings
from .errors import ConfigError, SpecError, WorldError, did_you_mean
from .spec import ActionSpec, StreamSpec, WorldSpec
from .world import World

CONTEXT = 4  # transitions before the first frame, where a dataset gives the beginnings
MEMORY = 96  # frames of a vector that a rendered plot shows
_BANDS = 12  # numbers of a vector that it shows
_COLOURS = ("#7ec8ff", "#ffb36b", "#9be38a", "#e8a2ff")


@dataclass(frozen=True)
class Beginning:
    """Where an episode begins: observations stream -> `(c+1, ...)`, rows `(c, W)` between them, and a key of chance.

    start: which recorded beginning it is (a clip, or an episode of a dataset; -1 for a random place in one).
    """

    observations: dict[str, np.ndarray]
    rows: np.ndarray
    start: int
    seed: int

    @property
    def last(self) -> dict[str, np.ndarray]:
        """The frame that the episode begins with."""
        return {name: frames[-1] for name, frames in self.observations.items()}

    @property
    def info(self) -> dict[str, Any]:
        """What `reset` tells about it."""
        return {"start": self.start, "seed": self.seed}


class Stage:
    """One world made ready to be entered: its engine, its Gymnasium spaces, and where episodes begin.

    Raises `WorldError` without any beginnings, `SpecError` for those of another interface, `UnknownName` or
    `ConfigError` for a world or a number of denoising steps that does not exist.
    """

    def __init__(
        self,
        world: World | str | Path,
        starts: Clips | Dataset | str | Path | None,
        steps: int | None,
        device: torch.device | str | None,
        engine: Mapping[str, Any] | None = None,
    ):
        self.world = world if isinstance(world, World) else World.load(world)
        self.spec: WorldSpec = self.world.spec
        self.engine = Engine(self.world, **engine_settings(engine, steps=steps, device=device))
        self.observation_space = observation_space(self.spec)
        self.action_space = actions.action_space(self.spec.action)
        self._low, self._high = _bounds(self.spec.action)
        self._starts = self._checked(starts if starts is not None else self.world.starts)

    def _checked(self, starts: Clips | Dataset | str | Path | None) -> Clips | Dataset:
        if starts is None:
            raise WorldError(
                f"world {self.world.name!r} holds no recorded beginnings. Pass starts=: a Dataset, or Clips from "
                "Dataset.sample."
            )
        if not isinstance(starts, Clips):
            dataset = starts if isinstance(starts, Dataset) else Dataset(starts)
            if not self.spec.same_interface(dataset.spec):
                raise SpecError(
                    f"the dataset at {dataset.path} has other observations or actions than world {self.world.name!r}; "
                    "pass one of the same environment."
                )
            dataset.starts(1, CONTEXT + 1, np.random.default_rng(0))  # tells now if all episodes are too short
            return dataset
        seen = {name: tuple(v.shape[:2]) for name, v in self.world.tensors(starts.observations).items()}
        rows = np.shape(starts.actions)
        wanted = (rows[0], rows[1] + 1) if len(rows) == 3 else None
        if (
            wanted is None
            or rows[0] < 1
            or rows[2] != actions.width(self.spec.action)
            or set(seen.values()) != {wanted}
        ):
            raise SpecError(
                f"starts have actions of shape {rows} and frames {seen}; expected (B, c, "
                f"{actions.width(self.spec.action)}) and (B, c+1), B at least 1."
            )
        return starts

    def draw(self, rng: np.random.Generator, start: int | None = None) -> Beginning:
        """Draw a beginning, or take the one numbered `start`; a drawn one never lies on an episode's last frame.

        A number counts the clips, or the episodes of a dataset (entered at their first frames). Raises `ConfigError`
        or `DatasetError` for a number that does not exist.
        """
        starts = self._starts
        if start is not None and not isinstance(start, (int, np.integer)):
            raise ConfigError(f"start is {start!r}; expected the number of a recorded beginning.")
        if isinstance(starts, Dataset):  # a transition more is asked for and dropped: the episode goes on after it
            found = starts.sample(1, CONTEXT + 1, rng) if start is None else starts.clips([start], [0], CONTEXT + 1)
            frames, index, label = CONTEXT + 1, 0, -1 if start is None else int(start)
        else:
            found, frames = starts, starts.actions.shape[1] + 1
            label = index = self._pick(starts, rng, start)
        seen = {name: found.observations[name][index, :frames] for name in self.spec.modelled}
        return Beginning(seen, found.actions[index, : frames - 1], label, int(rng.integers(1 << 31)))

    @staticmethod
    def _pick(clips: Clips, rng: np.random.Generator, start: int | None) -> int:
        count = len(clips.actions)
        if start is None:
            alive = np.flatnonzero(~clips.terminated.any(1))
            return int(rng.choice(alive if len(alive) else count))
        if not 0 <= start < count:
            raise ConfigError(f"start is {start}; this environment has the beginnings 0 to {count - 1}.")
        return int(start)

    def begin(self, beginnings: Sequence[Beginning]) -> State:
        """Start one session for each beginning."""
        observations = {s: np.stack([b.observations[s] for b in beginnings]) for s in self.spec.modelled}
        rows = np.stack([b.rows for b in beginnings])
        return self.engine.start(observations, rows, [b.seed for b in beginnings])

    def row(self, action: Any) -> np.ndarray:
        """Turn a native action into a row `(W,)`, numbers clipped to the bounds of their Box; raises `ActionError`."""
        return actions.encode(self.spec.action, action).clip(self._low, self._high)

    def present(self, observation: Mapping[str, np.ndarray]) -> Any:
        """Give an observation (with or without a batch axis) the form of the space; see `present`."""
        return present(self.spec, observation)

    @property
    def fps(self) -> int:
        """Frames a second at which a person would play it, whole as Gymnasium's player wants it."""
        return max(1, round(self.spec.fps))


def observation_space(spec: WorldSpec) -> gym.Space:
    """Build the space of observations that a world of `spec` shows, as `WorldEnv` describes it."""
    each: dict[str, gym.Space] = {name: _space(stream) for name, stream in spec.modelled.items()}
    return next(iter(each.values())) if _bare(spec) else spaces.Dict(each)


def present(spec: WorldSpec, observation: Mapping[str, Any]) -> Any:
    """Give streams (with or without a batch axis) the form of `observation_space`: new arrays within its bounds."""
    parts = {}
    for name, stream in spec.modelled.items():
        value = np.array(observation[name], np.uint8 if stream.kind == "image" else np.float32)
        limited = stream.low is not None and stream.high is not None
        value = value.clip(*np.array([stream.low, stream.high], np.float32)) if limited else value
        parts[name] = value if stream.native is None else _in_own_form(stream.native, value)
    return parts[next(iter(parts))] if _bare(spec) else parts


def _bare(spec: WorldSpec) -> bool:
    """Whether observations are no dictionary: `arenas.to_streams` gives these names to what was recorded as one box."""
    return list(spec.streams) in (["pixels"], ["vector"])


def picture(spec: WorldSpec, past: Sequence[Mapping[str, np.ndarray]], size: int = 192) -> np.ndarray:
    """Draw the last of some observations, uint8 RGB `(h, w, 3)`.

    The first image as it is; without images the first vector as lines, one a number, over the past.
    """
    images = [n for n, s in spec.modelled.items() if s.kind == "image"]
    if images:
        image = np.asarray(past[-1][images[0]])
        return image[..., :3].copy() if image.shape[-1] >= 3 else np.repeat(image[..., -1:], 3, axis=-1)
    name, stream = next(iter(spec.modelled.items()))
    lines = np.array([seen[name][:_BANDS] for seen in past], np.float64).T
    canvas = Image.new("RGB", (size, size), (24, 24, 28))
    pen, height = ImageDraw.Draw(canvas), size / len(lines)
    for band, line in enumerate(lines):
        low = line.min() if stream.low is None else stream.low[band]
        high = line.max() if stream.high is None else stream.high[band]
        middle = height * (band + 0.5)
        y = middle - (line - (low + high) / 2) / max(high - low, 1e-6) * height * 0.8
        x = np.linspace(0, size - 1, MEMORY)[-len(line) :]
        colour = _COLOURS[band % len(_COLOURS)]
        pen.line([(0, middle), (size, middle)], fill=(56, 56, 64))
        pen.line(list(zip(x.tolist(), y.tolist())), fill=colour, width=2)
        pen.ellipse((x[-1] - 3, y[-1] - 3, x[-1] + 2, y[-1] + 2), fill=colour)
    return np.array(canvas)


def check_options(max_episode_steps: int | None, render_mode: str | None) -> None:
    """Raise `ConfigError` for a limit or a render mode that cannot be."""
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps is {max_episode_steps}; expected at least 1, or None for no limit.")
    if render_mode not in (None, "rgb_array"):
        raise ConfigError(f"render_mode is {render_mode!r}; a world renders 'rgb_array', or nothing with None.")


def start_option(options: Mapping[str, Any] | None) -> Any:
    """Read `start` from the options of a reset, None without it; raises `UnknownName` for any other option."""
    for name in options or {}:
        if name != "start":
            raise did_you_mean(str(name), ["start"], "reset option")
    return (options or {}).get("start")


def _in_own_form(native: ActionSpec, rows: np.ndarray) -> Any:
    """Rows `(W,)`, or a batch of them, as values of their space; a batch of texts is a tuple, as Gymnasium has it."""
    if native.kind != "text":
        flat = rows.reshape(-1, rows.shape[-1])
        return np.stack([actions.decode(native, row) for row in flat]).reshape(*rows.shape[:-1], *native.shape)
    if rows.ndim > 1:
        return tuple(_in_own_form(native, row) for row in rows)
    return actions.decode(native, rows)[: native.n // 4]


def _space(stream: StreamSpec) -> gym.Space:
    if stream.native is not None:
        return actions.action_space(stream.native)
    if stream.kind == "image":
        return spaces.Box(0, 255, stream.shape, np.uint8)
    if stream.low is None or stream.high is None:
        return spaces.Box(-np.inf, np.inf, stream.shape, np.float32)
    return spaces.Box(*np.array([stream.low, stream.high], np.float32), dtype=np.float32)


def _bounds(spec: ActionSpec) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of an action's row; infinite where there are none to clip to."""
    if spec.kind == "box":
        return np.array(spec.low), np.array(spec.high)
    if spec.kind in ("tuple", "dict"):
        parts = [_bounds(child) for child in spec.children]
        return tuple(np.concatenate([p[i] for p in parts] or [np.empty(0)]) for i in (0, 1))  # pyright: ignore
    return np.full(actions.width(spec), -np.inf), np.full(actions.width(spec), np.inf)
