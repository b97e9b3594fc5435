"""Texts that worlds model: observations whose words are kept letter by letter, as rows of numbers.

A text in an observation is recorded and otherwise left alone, because most are of no fixed length. `Spelled` gives the
texts of any environment a longest length; then they are streams like any other (`terrella.arenas.streams`), and a world
predicts them.

| id | what it is |
|---|---|
| `terrella/Spelled-v0` | `inside="MiniGrid-GoToDoor-5x5-v0"`, with arguments of its own; `length` characters at most |
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from ..errors import ConfigError, SpecError
from .make import make

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "


class SpelledText(spaces.Text):
    """A text that worlds model, of at most `max_length` characters of its `charset`."""


class Spelled(gym.ObservationWrapper):
    """Makes every text of the observation one that worlds model.

    length: characters that a text may have, at most. A text space with a charset keeps it; others (MiniGrid's missions)
    get all that ASCII can print. Raises `ConfigError` for a length below 1, `SpecError` where there is no text, and
    later for a text that is longer.
    """

    def __init__(self, env: gym.Env, length: int = 64) -> None:
        super().__init__(env)
        if length < 1:
            raise ConfigError(f"length is {length}; a text has room for at least 1 character.")
        self._length, self._texts = length, 0
        self.observation_space = self._spaces(env.observation_space)
        if not self._texts:
            raise SpecError(f"{env} shows no text, so there is nothing to spell. Use it as it is.")

    def observation(self, observation: Any) -> Any:
        """Return the observation as it is; raises `SpecError` for a text that is too long."""
        self._check(self.observation_space, observation)
        return observation

    def _spaces(self, space: gym.Space) -> gym.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._spaces(child) for key, child in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._spaces(child) for child in space.spaces])
        if not is_text(space):
            return space
        self._texts += 1
        charset = space.characters if isinstance(space, spaces.Text) else PRINTABLE
        return SpelledText(self._length, min_length=0, charset=charset)

    def _check(self, space: gym.Space, value: Any) -> None:
        if isinstance(space, spaces.Dict):
            for key, child in space.spaces.items():
                self._check(child, value[key])
        elif isinstance(space, spaces.Tuple):
            for child, part in zip(space.spaces, value):
                self._check(child, part)
        elif isinstance(space, SpelledText) and len(value) > self._length:
            raise SpecError(f"the text {value!r} has {len(value)} characters; give Spelled a length of as many.")


def is_text(space: gym.Space) -> bool:
    """Whether a space holds strings."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and space.dtype.kind == "U")


def spelled(inside: str, length: int = 64, size: int = 64, **kwargs: Any) -> gym.Env:
    """Make an environment whose texts are modelled; kwargs are for the one inside."""
    return Spelled(make(inside, size=size, **kwargs), length)


gym.register("terrella/Spelled-v0", f"{__name__}:spelled")
