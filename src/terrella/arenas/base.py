"""The contract of environments whose true state can be saved and restored, and the adapters that provide it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import gymnasium as gym

from ..errors import ArenaError
from .quantity import Quantity, Value

S = TypeVar("S", bound="type[Simulator]")


@runtime_checkable
class Forkable(Protocol):
    """An environment made by `terrella.arenas.make` whose whole state is a value.

    **Law.** After `restore(s)`, the same actions give the same observations, rewards, flags and infos, bit for bit:
    in this instance or another one made from the same `EnvSpec`, in this process or a later one, however often, and
    across the ends of episodes (`reset()` without a seed continues the saved random stream). It holds where `exact`
    is true. A *live* run and a restored one agree as well, but compare restored ones with restored ones: begin every
    branch, the factual one too, with `restore`.

    **What is in a state.** The simulator, its random generators, the wrappers around it (step counts of time limits
    included) and the current observation. Not in it: the random stream of `action_space.sample`, windows, and
    wrappers put around the environment after `make` returned it.

    **Bytes.** JSON and raw arrays; reading them runs no code, so they may be stored in datasets. They are tied to the
    environment's `EnvSpec` and to the simulator's version. Native simulators (ALE, procgen) parse their own part
    themselves: a checksum protects it from accidents, not from an author of hostile files.
    """

    @property
    def exact(self) -> bool:
        """Whether the law holds; false for simulators with hidden state, such as ALE with sticky actions."""
        ...

    def save(self) -> bytes:
        """Return the current state; the environment goes on unchanged. Raises `ArenaError` before the first reset
        and when something that changes during an episode is not plain data."""
        ...

    def restore(self, state: bytes) -> Any:
        """Return to a saved state and return the observation that was current then, in the environment's own form.

        Raises `ArenaError`, leaving the environment as it was, for a damaged state or one of another environment.
        `render()` may show an older picture until the next step; the returned observation is right.
        """
        ...

    def reseed(self, seed: int) -> None:
        """Replace the random stream that decides the future; what has happened stays.

        Equal state, seed and actions give equal futures. Changes nothing where the simulator has no chance. Raises
        `ArenaError` where it has chance that cannot be drawn anew (ViZDoom).
        """
        ...

    def last_observation(self) -> Any:
        """Return the observation of the last reset, step, restore or intervention, in the environment's own form."""
        ...

    def quantities(self) -> dict[str, Value]:
        """Return the true state as far as it has names: name -> number or array (see `Quantity`); may be empty."""
        ...

    def units(self) -> dict[str, str]:
        """Return the unit of each quantity, by the same names."""
        ...

    def intervene(self, name: str, value: Any) -> Any:
        """Set one quantity, leave everything else as it is, and return what is now observed.

        Random streams are untouched: the future differs by the consequences of the change alone. What the actions
        since the last reset earned stays. Raises `UnknownName` with the nearest names, `ArenaError` when the quantity
        cannot be set or not to this value; then nothing has changed.
        """
        ...

    def set(self, values: Mapping[str, Any]) -> Any:
        """Set several quantities in turn, as `intervene` does each, and look once.

        Where one of them is refused, those before it stay set.
        """
        ...


class Simulator(ABC):
    """What an adapter knows about one simulator: its innermost environment, without wrappers.

    `capture` returns plain data (numbers, strings, containers, arrays, bytes, instances of classes from `modules`);
    `apply` receives an equal copy, possibly in a fresh instance that was never reset, and must take nothing but it
    into account. The generator `env.np_random`, wrappers and the current observation are looked after elsewhere.
    """

    modules: tuple[str, ...] = ()  # top-level packages whose instances may appear in what `capture` returns

    def __init__(self, env: gym.Env) -> None:
        self.env: Any = env

    @classmethod
    @abstractmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether this adapter is for `env`, an unwrapped environment."""

    @property
    def exact(self) -> bool:
        """Whether a restored state has exactly the saved one's future."""
        return True

    @abstractmethod
    def capture(self) -> dict[str, Any]:
        """Return everything that decides the simulator's future."""

    @abstractmethod
    def apply(self, state: dict[str, Any]) -> None:
        """Put the simulator into a captured state; raises `ArenaError` when it does not fit."""

    def reseed(self, seed: int) -> None:
        """Reseed random streams of the simulator's own, if it has any besides `env.np_random`."""
        del seed

    def quantities(self) -> dict[str, Quantity]:
        """Return the named quantities of the current state; none unless an adapter knows them."""
        return {}

    def observe(self) -> Any:
        """Return the innermost environment's observation of the current state, without a step.

        Needed where a quantity can be set; must not draw from any random stream that the future depends on.
        """
        raise ArenaError(f"{type(self.env).__name__} cannot be looked at without a step.")


_ADAPTERS: dict[str, type[Simulator]] = {}


def adapter(name: str) -> Callable[[S], S]:
    """Register a `Simulator` class under `name`; raises `ArenaError` when another one has it."""

    def add(cls: S) -> S:
        other = _ADAPTERS.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ArenaError(f"arena {name!r} is already {other.__module__}.{other.__qualname__}; choose another name.")
        _ADAPTERS[name] = cls
        return cls

    return add


def find_adapter(env: gym.Env) -> tuple[str, type[Simulator]] | None:
    """Return the name and class of the adapter for an unwrapped environment, or None."""
    return next(((name, cls) for name, cls in _ADAPTERS.items() if cls.matches(env)), None)


def list_arenas() -> list[str]:
    """List the simulators whose state can be saved, sorted."""
    return sorted(_ADAPTERS)


def comes_from(env: gym.Env, package: str) -> bool:
    """Whether `env` is an instance of a class of `package`, without importing it."""
    return any(cls.__module__.split(".")[0] == package for cls in type(env).__mro__)
