"""Save and restore a made environment: wrappers, simulator, random stream and current observation together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import gymnasium as gym
from gymnasium.utils import seeding

from ..config import to_json
from ..errors import ArenaError
from .base import Forkable, Simulator, find_adapter
from .graph import assign, attributes, pack, unpack
from .quantity import Value, set_quantity
from .wrappers import ArenaEnv, find_arena


def forkable(env: gym.Env) -> Forkable | None:
    """Return the way to save and restore `env`, or None when its simulator has no adapter.

    `env` comes from `terrella.arenas.make`; wrappers put around it afterwards are not part of the saved state.
    Raises `ArenaError` for other environments, whose observations nobody has kept.
    """
    arena = find_arena(env)
    found = find_adapter(arena.unwrapped)
    return None if found is None else Fork(arena, found[0], found[1](arena.unwrapped))


class Fork:
    """The one implementation of `Forkable`: any stack of wrappers around any adapter's simulator."""

    def __init__(self, arena: ArenaEnv, name: str, simulator: Simulator) -> None:
        self._arena = arena
        self._simulator = simulator
        self._core: Any = arena.unwrapped
        self._layers = _layers(arena)
        self._modules = simulator.modules
        self._anchors = {str(i): layer for i, layer in enumerate(self._layers)} | {"core": self._core}
        self._header = {
            "arena": name,
            "env": to_json(arena.env_spec),
            "layers": [type(layer).__name__ for layer in (*self._layers, self._core)],
        }

    @property
    def exact(self) -> bool:
        """Whether a restored state has exactly the saved one's future."""
        return self._simulator.exact

    def save(self) -> bytes:
        """Return the current state as bytes."""
        self.last_observation()  # refuses before the first reset
        state = {
            "layers": [attributes(layer) for layer in self._layers],
            "core": self._simulator.capture(),
            "random": self._core._np_random,
            "random_seed": self._core._np_random_seed,
        }
        return pack(self._header, state, self._anchors, self._modules)

    def restore(self, state: bytes) -> Any:
        """Return to a saved state and return its observation."""
        value = unpack(state, self._check, self._anchors, self._modules)
        self._simulator.apply(value["core"])
        for layer, saved in zip(self._layers, value["layers"]):
            assign(layer, saved)
        self._core._np_random, self._core._np_random_seed = value["random"], value["random_seed"]
        return self._arena.last_observation

    def reseed(self, seed: int) -> None:
        """Replace the random stream that decides the future."""
        before = self._core._np_random, self._core._np_random_seed
        self._core._np_random, self._core._np_random_seed = seeding.np_random(seed)
        try:
            self._simulator.reseed(seed)
        except ArenaError:
            self._core._np_random, self._core._np_random_seed = before
            raise

    def last_observation(self) -> Any:
        """Return the observation of the last reset, step or restore."""
        if self._arena.last_observation is None:
            raise ArenaError("this environment was never reset, so there is no state yet; call reset() first.")
        return self._arena.last_observation

    def quantities(self) -> dict[str, Value]:
        """Return the named quantities of the true state."""
        self.last_observation()
        return {name: quantity.value() for name, quantity in self._simulator.quantities().items()}

    def units(self) -> dict[str, str]:
        """Return the unit of each quantity."""
        self.last_observation()
        return {name: quantity.unit for name, quantity in self._simulator.quantities().items()}

    def intervene(self, name: str, value: Any) -> Any:
        """Set one quantity and return what is now observed."""
        return self.set({name: value})

    def set(self, values: Mapping[str, Any]) -> Any:
        """Set several quantities in turn and return what is then observed."""
        self.last_observation()
        if self._blind:  # before anything is changed
            raise ArenaError(
                f"the wrapper {self._blind} makes observations out of steps, so what it would show after an "
                "intervention is unknown. Build it as a gymnasium.ObservationWrapper, or leave it out."
            )
        for name, value in values.items():
            set_quantity(self._simulator.quantities(), name, value)
        observation = self._simulator.observe()
        for layer in reversed(self._layers):
            if isinstance(layer, gym.ObservationWrapper):
                observation = layer.observation(observation)
        self._arena.last_observation = observation
        return observation

    @cached_property
    def _blind(self) -> str | None:
        """The name of a wrapper that makes other observations and cannot make them of a state alone, or None."""
        for layer in self._layers:
            if not isinstance(layer, gym.ObservationWrapper) and layer.observation_space != layer.env.observation_space:
                return type(layer).__name__
        return None

    def _check(self, header: Mapping[str, Any]) -> None:
        for key, what in (("arena", "simulator"), ("env", "environment"), ("layers", "stack of wrappers")):
            if header[key] != self._header[key]:
                raise ArenaError(
                    f"this state was saved in another {what}: {header[key]}; here it is {self._header[key]}. "
                    "Restore it in an environment made from the EnvSpec it was recorded with."
                )


def _layers(arena: ArenaEnv) -> list[gym.Wrapper]:
    """All wrappers from `arena` inwards."""
    layers: list[gym.Wrapper] = []
    env: gym.Env = arena
    while isinstance(env, gym.Wrapper):
        layers.append(env)
        env = env.env
    return layers
