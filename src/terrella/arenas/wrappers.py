"""What `make` puts around an environment: frame skip, rendered pixels, resized images, the last observation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from ..errors import ArenaError
from ..spec import EnvSpec

Stepped = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
# Images with a shorter side below this are symbolic grids (cells, not light); averaging their codes means nothing.
SMALLEST_PICTURE = 32


def area(image: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 `(h, w)` or `(h, w, C)` to `size` x `size` by the area filter: each pixel is the mean of its patch.

    The aspect ratio is not kept. Rows and columns are averaged one after the other, each rounded, so that a value may
    be 1 off. An image that already has the size is returned as it is.
    """
    if image.shape[:2] == (size, size):
        return image
    if image.ndim == 3 and image.shape[2] != 3:  # alpha must not weigh the colours, and two channels are no picture
        return np.stack([area(image[:, :, c], size) for c in range(image.shape[2])], axis=2)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.resize((size, size), Image.Resampling.BOX))


def image_shape(space: gym.Space) -> tuple[int, int, int] | None:
    """Return `(h, w, C)` when `space` holds images (uint8 `(h, w)` or `(h, w, C)`, C at most 4), else None."""
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        if len(space.shape) == 2:
            return (*space.shape, 1)
        if len(space.shape) == 3 and space.shape[2] <= 4:
            return space.shape
    return None


def _is_picture(space: gym.Space) -> bool:
    shape = image_shape(space)
    return shape is not None and min(shape[:2]) >= SMALLEST_PICTURE


def final_frames(env: gym.Env) -> bool:
    """Whether the environment says that its frames keep their size, say because its actions are counted in pixels."""
    return getattr(env.unwrapped, "final_frames", False) is True


def repeat(step: Callable[[], Stepped], times: int) -> Stepped:
    """Step so many times, or until the episode ends: what the last step returned, with the rewards of all summed."""
    observation, reward, terminated, truncated, info = step()
    total = float(reward)
    for _ in range(times - 1):
        if terminated or truncated:
            break
        observation, reward, terminated, truncated, info = step()
        total += float(reward)
    return observation, total, terminated, truncated, info


class FrameSkip(gym.Wrapper):
    """Repeat each action `frame_skip` times, or until the episode ends, and sum the rewards."""

    def __init__(self, env: gym.Env, frame_skip: int) -> None:
        super().__init__(env)
        if frame_skip < 1:
            raise ArenaError(f"frame_skip is {frame_skip}; expected 1 or more.")
        self._frame_skip = frame_skip

    def step(self, action: Any) -> Stepped:
        """Return the last observation and the summed reward."""
        return repeat(lambda: self.env.step(action), self._frame_skip)


class Resize(gym.ObservationWrapper):
    """Resize every picture of the observation to `size` x `size`; numbers, text and symbolic grids stay as they are."""

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self._size = size
        self._native = env.observation_space
        self.observation_space = self._resized(env.observation_space)

    def observation(self, observation: Any) -> Any:
        """Return the observation with its pictures resized."""
        return self._walk(self._native, observation)

    def _walk(self, space: gym.Space, value: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._walk(child, value[key]) for key, child in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._walk(child, v) for child, v in zip(space.spaces, value))
        return area(np.asarray(value), self._size) if _is_picture(space) else value

    def _resized(self, space: gym.Space) -> gym.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict([(key, self._resized(child)) for key, child in space.spaces.items()])
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized(child) for child in space.spaces])
        if not _is_picture(space):
            return space
        return spaces.Box(0, 255, (self._size, self._size, *(space.shape or ())[2:]), np.uint8)


class Pixels(gym.ObservationWrapper):
    """Replace the observation by the rendered frame, uint8 `(h, w, 3)`, resized to `size` x `size` (0 keeps it)."""

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self._size = size
        if env.render_mode != "rgb_array":
            raise ArenaError(
                f"{env.unwrapped} cannot render frames: its render mode is {env.render_mode!r}, expected 'rgb_array'. "
                "Leave pixels off, or make the environment with render_mode='rgb_array'."
            )
        if size:
            shape = (size, size, 3)
        else:  # only a rendered frame tells its size, and most environments render nothing before a reset
            env.reset()
            shape = self.observation(None).shape
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """Return the rendered frame."""
        del observation
        frame = self.env.render()
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ArenaError(f"{self.env.unwrapped} rendered {got}; expected uint8 (h, w, 3).")
        return area(frame, self._size) if self._size else frame


class ArenaEnv(gym.Wrapper):
    """The outermost wrapper: knows how the environment was made (`env_spec`) and what it showed last."""

    def __init__(self, env: gym.Env, env_spec: EnvSpec) -> None:
        super().__init__(env)
        self.env_spec = env_spec
        self.last_observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode and remember its first observation."""
        self.last_observation, info = self.env.reset(seed=seed, options=options)
        return self.last_observation, info

    def step(self, action: Any) -> Stepped:
        """Step and remember the observation."""
        self.last_observation, reward, terminated, truncated, info = self.env.step(action)
        return self.last_observation, reward, terminated, truncated, info

    @property
    def unseen(self) -> gym.Env:
        """The environment without its pictures being drawn or resized: step it, then call `look`."""
        return self.env.env if isinstance(self.env, (Pixels, Resize)) else self.env

    def look(self, observation: Any) -> Any:
        """Turn the last observation of `unseen` into what `step` would have returned, and remember it."""
        self.last_observation = (
            self.env.observation(observation) if isinstance(self.env, (Pixels, Resize)) else observation
        )
        return self.last_observation


def find_arena(env: gym.Env) -> ArenaEnv:
    """Return the `ArenaEnv` inside `env`; raises `ArenaError` when it was not made by `terrella.arenas.make`."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, ArenaEnv):
            return layer
        layer = layer.env
    raise ArenaError(
        f"{env} was not made by terrella.arenas.make, so how to make it again is unknown. Pass its id, or a function "
        "that returns it: terrella.arenas.make(lambda: my_env)."
    )
