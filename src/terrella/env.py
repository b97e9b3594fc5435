"""A world as a `gymnasium.Env`: `reset` enters a recorded beginning, `step` takes a native action.

What the single and the vector environment share is here, too: `Stage` knows the engine, the spaces and the beginnings.
An episode is a function of the seed alone: `reset(seed=s)` seeds `np_random`, which draws the beginning and the key of
the world's own chance, so equal seeds and actions give equal episodes, bit for bit.
"""

from __future__ import annotations

from collections import deque
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
from .engine import Engine, Frame, State
from .errors import ConfigError, SpecError, StateError, WorldError, did_you_mean
from .spec import ActionSpec, StreamSpec, WorldSpec
from .world import World

CONTEXT = 4  # transitions before the first frame, where a dataset gives the beginnings
ID = "terrella/World-v0"
_MEMORY = 96  # frames of a vector that a rendered plot shows
_BANDS = 12  # numbers of a vector that it shows
_COLOURS = ("#7ec8ff", "#ffb36b", "#9be38a", "#e8a2ff")
_PYGAME = {"ArrowRight": 1073741903, "ArrowLeft": 1073741904, "ArrowDown": 1073741905, "ArrowUp": 1073741906}
_PYGAME |= {"Space": 32, "Enter": 13, "Tab": 9}


def register() -> None:
    """Let `gymnasium.make("terrella/World-v0", world=...)` and `make_vec` find these environments.

    Importing the package registers nothing; call this first. Calling it twice does no harm.
    """
    if ID not in gym.registry:
        gym.register(ID, "terrella.env:WorldEnv", vector_entry_point="terrella.vector_env:WorldVectorEnv")


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


@dataclass(frozen=True)
class Moment:
    """A moment of a `WorldEnv` to come back to, as often as you like; its state is never stepped itself."""

    state: State
    observation: dict[str, np.ndarray]
    elapsed: int
    over: bool


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
    ):
        self.world = world if isinstance(world, World) else World.load(world)
        self.spec: WorldSpec = self.world.spec
        self.engine = Engine(self.world, steps=steps, device=device)
        # The observation is bare where it was recorded so; these are the names that `arenas.to_streams` then gives.
        self.bare = list(self.spec.streams) in (["pixels"], ["vector"])
        each: dict[str, gym.Space] = {name: _space(stream) for name, stream in self.spec.modelled.items()}
        self.observation_space = next(iter(each.values())) if self.bare else spaces.Dict(each)
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
        """Give an observation (with or without a batch axis) the form of the space: new arrays within its bounds."""
        parts = {}
        for name, stream in self.spec.modelled.items():
            value = np.array(observation[name], np.uint8 if stream.kind == "image" else np.float32)
            limited = stream.low is not None and stream.high is not None
            parts[name] = value.clip(*np.array([stream.low, stream.high], np.float32)) if limited else value
        return parts[next(iter(parts))] if self.bare else parts

    def check(self, frame: Frame) -> None:
        """Raise `WorldError` when a frame holds anything but finite numbers."""
        if not all(np.isfinite(a).all() for a in (frame.reward, frame.terminated, *frame.observation.values())):
            raise WorldError(
                f"world {self.world.name!r} predicted numbers that are not finite. Train it longer or with a smaller "
                "learning rate; until then, reset."
            )

    @property
    def fps(self) -> int:
        """Frames a second at which a person would play it, whole as Gymnasium's player wants it."""
        return max(1, round(self.spec.fps))


class WorldEnv(gym.Env[Any, Any]):
    """A world, stepped like the environment that it was recorded from.

    world: a `World`, a folder, or a name in the gallery. starts: where episodes begin: clips, a dataset (any place in
    its training episodes), or None for the beginnings kept in the world. max_episode_steps: truncate there.
    render_mode: None or "rgb_array". steps: denoising steps a frame (None: the world's own).

    Observations: as recorded, a `Box` of uint8 `(h, w, C)` or float32 `(F,)` (other shapes flattened, choices one-hot),
    or a flat `Dict` of these where there were several; text is left out, numbers stay within their declared bounds.
    Actions: the recorded space; numbers beyond the bounds of a `Box` are clipped.
    Reward: as predicted. Termination: when the predicted probability of the end exceeds one half, so that an episode is
    a function of seed and actions; `info["end_probability"]` has the probability.
    Reset: `options={"start": i}` chooses the i-th clip, or the i-th episode of a dataset.

    Raises what `Stage` raises; `ActionError` for an action that does not fit; `StateError` for a step before `reset` or
    after the end.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        world: World | str | Path,
        *,
        starts: Clips | Dataset | str | Path | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        steps: int | None = None,
        device: torch.device | str | None = None,
    ):
        check_options(max_episode_steps, render_mode)
        self.stage = Stage(world, starts, steps, device)
        self.observation_space, self.action_space = self.stage.observation_space, self.stage.action_space
        self.metadata = {**type(self).metadata, "render_fps": self.stage.fps}  # pyright: ignore[reportAttributeAccessIssue]
        self.render_mode, self.max_episode_steps = render_mode, max_episode_steps
        self._state: State | None = None
        self._elapsed, self._over = 0, False
        self._past: deque[dict[str, np.ndarray]] = deque(maxlen=1 if render_mode is None else _MEMORY)

    @property
    def engine(self) -> Engine:
        """The engine that runs the world, for planners that step its states themselves."""
        return self.stage.engine

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; returns the last recorded frame, and which beginning and key of chance it has."""
        super().reset(seed=seed)
        beginning = self.stage.draw(self.np_random, start_option(options))
        self._state = self.stage.begin([beginning])
        self._elapsed, self._over = 0, False
        self._past.clear()
        return self._see(beginning.last), beginning.info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one native action."""
        state = self._alive()
        if self._over:
            raise StateError("the episode has ended; call reset() before the next step.")
        row = self.stage.row(action)
        self._state, frame = self.engine.step(state, row[None])
        self.stage.check(frame)
        self._elapsed += 1
        terminated = bool(frame.ended[0])
        truncated = self.max_episode_steps is not None and self._elapsed >= self.max_episode_steps
        self._over = terminated or truncated
        seen = self._see({name: frames[0] for name, frames in frame.observation.items()})
        return seen, float(frame.reward[0]), terminated, truncated, {"end_probability": float(frame.terminated[0])}

    # state is a value

    @property
    def state(self) -> State:
        """A copy of the present state (one session), yours to fork and step with `env.engine`."""
        return self._alive().select([0])

    def save_state(self) -> Moment:
        """Remember this moment; `restore_state` comes back to it."""
        return Moment(self.state, self._past[-1], self._elapsed, self._over)

    def restore_state(self, moment: Moment, seed: int | None = None) -> Any:
        """Come back to a moment, of this environment or another one of the same world; returns its observation.

        The same actions then bring the same frames; a `seed` gives the branch another chance.
        """
        if moment.state.world != self.engine.fingerprint:
            raise StateError("this moment belongs to another world; restore it in an environment of that world.")
        state = moment.state.select([0])
        self._state = state if seed is None else state.reseed([seed])
        self._elapsed, self._over = moment.elapsed, moment.over
        self._past.clear()
        return self._see(moment.observation)

    # people

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the first image of the observation, RGB, or a plot of the first vector; None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn('nothing is rendered: make this environment with render_mode="rgb_array".')
            return None
        self._alive()
        return picture(self.stage.spec, self._past)

    @property
    def noop(self) -> Any:
        """The native action when no key is held, or None where every action acts."""
        row = self.stage.spec.noop
        return None if row is None else actions.decode(self.stage.spec.action, np.asarray(row))

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Map held keys (pygame codes) to native actions, for `gymnasium.utils.play.play(env, noop=env.noop)`."""
        found = {}
        for chord, row in self.stage.spec.keys.items():
            codes = [_pygame_code(key) for key in chord.split("+")]
            if None not in codes:
                held = tuple(sorted(code for code in codes if code is not None))
                found[held] = actions.decode(self.stage.spec.action, np.asarray(row))
        return found

    def close(self) -> None:
        """Let the state go; `reset` begins anew."""
        self._state = None

    def _alive(self) -> State:
        if self._state is None:
            raise StateError("there is no episode yet; call reset() first.")
        return self._state

    def _see(self, observation: dict[str, np.ndarray]) -> Any:
        self._past.append(observation)
        return self.stage.present(observation)


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
        x = np.linspace(0, size - 1, _MEMORY)[-len(line) :]
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


def _space(stream: StreamSpec) -> spaces.Box:
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


def _pygame_code(key: str) -> int | None:
    """Turn a DOM key code into pygame's number; None for keys that have none here."""
    letter = key.removeprefix("Key").removeprefix("Digit")
    return ord(letter.lower()) if len(letter) == 1 and letter != key else _PYGAME.get(key)
