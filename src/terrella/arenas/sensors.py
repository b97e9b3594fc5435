"""What is measured of whoever acts, and of the things around, beside the picture: poses and kinds, or places.

A picture of what may come can blur, and what has faded from it is gone. A pose cannot: a world that predicts both knows
at each step where whoever acts is, whatever it shows.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces

from ..errors import ArenaError
from .sentences import find_sentences


class Sensors(gym.ObservationWrapper):
    """Adds what a speaker senses (`Speaker.sensed`) to the picture, `pixels`: a `Dict` of both.

    Raises `ArenaError` for an environment that takes no sentences, whose speaker senses nothing, or that shows
    something else than one picture.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        speaker = find_sentences(env).speaker
        if speaker.sensors is None or not isinstance(env.observation_space, spaces.Box):
            raise ArenaError(
                f"{type(speaker).__name__} senses {speaker.sensors or 'nothing'}, and what {env} shows is a "
                f"{type(env.observation_space).__name__}; expected a speaker with `sensors`, and one picture. Leave "
                "sensors off."
            )
        # As pairs: of a plain dict, Gymnasium would sort the names, and the picture is what stands for the world.
        self.observation_space = spaces.Dict([("pixels", env.observation_space), *speaker.sensors.spaces.items()])

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return picture and measurements."""
        return {"pixels": observation, **find_sentences(self.env).speaker.sensed()}
