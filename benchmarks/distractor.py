"""A background that moves by itself, as a wrapper: motion that is in every frame and that no action brings about."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

SHARE = 0.3  # of each pixel that is background
FASTEST = 3  # pixels a step
EVERY = 4  # steps before it takes another direction, which nobody can foresee


class MovingBackground(gym.Wrapper):
    """Mixes a drifting pattern into images; its way follows from the reset seed alone, so forks are exact."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._key, self._time = 0, 0
        self._place, self._speed = [0, 0], [0, 0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._key, self._time = (self._key + 1 if seed is None else seed), 0
        self._place = np.random.default_rng([self._key, 1]).integers(0, 1000, 2).tolist()
        observation, info = self.env.reset(seed=seed, options=options)
        return self._mixed(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._time % EVERY == 0:
            draw = np.random.default_rng([self._key, 2, self._time])
            self._speed = draw.integers(-FASTEST, FASTEST + 1, 2).tolist()
        self._time += 1
        self._place = [place + speed for place, speed in zip(self._place, self._speed)]
        return self._mixed(observation), reward, terminated, truncated, info

    def _mixed(self, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        y, x = (np.arange(n) + at for n, at in zip((h, w), self._place))
        angles = 2 * np.pi * y[:, None] / 21, 2 * np.pi * x / 17, 2 * np.pi * (y[:, None] + x) / 31
        pattern = 127.5 + 42.5 * (np.sin(angles[0]) + np.sin(angles[1]) + np.sin(angles[2]))
        pattern = pattern.reshape(h, w, *[1] * (image.ndim - 2))
        return ((1 - SHARE) * image + SHARE * pattern).round().astype(np.uint8)
