"""Planning again and again: plan ahead, take the first actions, look what truly came of them, plan on.

A `Controller` does it for B episodes side by side. It keeps a state of the world of its own, which after each action
goes on from the frame that was truly seen (`Engine.observe`), never from the dreamed one; each plan begins from what is
left of the last one. `MPC` is the same as a policy for `terrella.record` and `terrella.evaluate`.

Ref: receding-horizon control; see Richalet et al., Automatica 14 (1978).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from .. import actions
from ..arenas import to_streams
from ..data import Policy
from ..errors import ActionError, ConfigError, SpecError, StateError
from ..spec import WorldSpec
from .base import Model, Plan, Planner, make_planner
from .objective import Future, Objective, as_objective

Observations = Mapping[str, np.ndarray]


class Observer(Model, Protocol):
    """A `Model` that takes in what truly happens: `terrella.Engine`, or a simulator with the same surface."""

    def start(self, observations: Observations, actions: Any = None, seeds: Any = 0) -> Any:
        """Begin sessions from frames `(B, 1, ...)`."""
        ...

    def observe(self, state: Any, actions: np.ndarray, observations: Observations) -> Any:
        """Go on with the frames `(B, ...)` that followed actions `(B, W)`; consumes `state`."""
        ...


class Controller:
    """Receding-horizon control of B episodes: `begin` with first frames, then `act` and `see` in turns.

    engine, objective: as `Planner.plan` takes them. planner: a `Planner`, or the name of one. execute: actions taken
    of each plan before the next one is made. budget_steps, budget_ms: of each plan. seed: of the candidates.

    plan: the last plan. state: what the world remembers now; fork it, do not step it.

    Raises `ConfigError` for `execute` outside 1 to the horizon, `UnknownName` for a planner there is not.
    """

    def __init__(
        self,
        engine: Observer,
        objective: Objective | Callable[[Future], np.ndarray],
        planner: Planner | str = "icem",
        *,
        execute: int = 1,
        budget_steps: int | None = None,
        budget_ms: float | None = None,
        seed: int = 0,
    ):
        self.engine, self.objective = engine, as_objective(objective)
        self.planner = make_planner(planner) if isinstance(planner, str) else planner
        horizon = self.planner.config.horizon
        if not 1 <= execute <= horizon:
            raise ConfigError(f"execute is {execute}; of a plan of {horizon} actions 1 to {horizon} can be taken.")
        self.execute, self.seed = execute, seed
        self.budget_steps, self.budget_ms = budget_steps, budget_ms
        self.plan: Plan | None = None
        self.state: Any = None
        self._taken, self._rows = 0, None

    def begin(self, observations: Observations, seeds: int | Sequence[int] = 0) -> None:
        """Begin B episodes from their first frames, stream -> `(B, ...)`; seeds: as `Engine.start` takes them."""
        first = {name: np.asarray(frames)[:, None] for name, frames in observations.items()}
        self.state = self.engine.start(first, None, seeds)
        self.plan, self._taken, self._rows = None, 0, None

    def act(self) -> np.ndarray:
        """The next action of each episode, rows `(B, W)`. Raises `StateError` before `begin`, or twice in a row."""
        if self.state is None or self._rows is not None:
            raise StateError("a controller begins with `begin(frames)`, then takes `act()` and `see(frames)` in turns.")
        if self.plan is None or self._taken == self.execute:
            self.plan = self.planner.plan(
                self.engine,
                self.state,
                self.objective,
                start=None if self.plan is None else self.plan.shifted(self._taken),
                seed=self.seed,
                budget_steps=self.budget_steps,
                budget_ms=self.budget_ms,
            )
            self._taken = 0
        self._rows = self.plan.actions[:, self._taken]
        self._taken += 1
        return self._rows

    @property
    def fresh(self) -> bool:
        """Whether the action that waits for its frame was the first of a plan, so that `state` is where it began."""
        return self._rows is not None and self._taken == 1

    def see(self, observations: Observations) -> None:
        """Take in the frames `(B, ...)` that truly followed. Raises `StateError` where no action was taken."""
        if self._rows is None:
            raise StateError("there is nothing to see yet: take an action first, `act()`.")
        self.state = self.engine.observe(self.state, self._rows, observations)
        self._rows = None


class Actor(Protocol):
    """Who acts in B episodes; `Controller` is one. plan: the last one, None for who has none."""

    plan: Plan | None

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        """Take in first frames."""
        ...

    def act(self) -> np.ndarray:
        """Rows `(B, W)`."""
        ...

    def see(self, observations: dict[str, np.ndarray]) -> None:
        """Take in what followed."""
        ...


class Acting(Policy):
    """A policy made of an actor that knows a world: recording plays one episode at a time, as one of B = 1.

    A kind of it says who acts in an episode (`actor`).
    """

    def __init__(self, engine: Observer):
        self.engine = engine
        self._env: gym.Env | None = None
        self._begun = False
        self._actor: Actor | None = None

    @abstractmethod
    def actor(self, env: gym.Env) -> Actor:
        """Whoever acts in the episode that has begun in `env`."""

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Check that the environment is one of the world's kind.

        Raises `SpecError` where it is not, `ActionError` where it is out of reach (in a vector of processes).
        """
        if env is None:
            raise ActionError("a planner needs the environment beside it; record without worker processes of a vector.")
        if not self.engine.spec.same_interface(spec):
            raise SpecError(
                f"this environment has streams {spec.streams} and actions {spec.action}; the world it shall be planned "
                f"in has {self.engine.spec.streams} and {self.engine.spec.action}."
            )
        self._env = env

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Forget the last episode."""
        del space
        self._seed = int(rng.integers(1 << 31))
        self._actor, self._begun = None, True

    def act(self, observation: Any) -> Any:
        """Take in what is seen and return the action to take now."""
        if self._env is None or not self._begun:
            raise StateError("call prepare(spec, env) and begin(space, rng) first, as recording does.")
        seen = to_streams(self._env, observation)
        frames = {name: np.asarray(seen[name])[None] for name in self.engine.spec.modelled}
        if self._actor is None:
            self._actor = self.actor(self._env)
            self._actor.begin(frames, [self._seed])
        else:
            self._actor.see(frames)
        return actions.decode(self.engine.spec.action, self._actor.act()[0])


class MPC(Acting):
    """A policy that plans in a world: `terrella.record("Pendulum-v1", policy=MPC(engine, Return()))`.

    Arguments are those of `Controller`. Episodes differ in their chance as recordings do; equal ones get equal actions
    (unless planned against the clock).

    Raises what `Controller` raises.
    """

    def __init__(
        self,
        engine: Observer,
        objective: Objective | Callable[[Future], np.ndarray],
        planner: Planner | str = "icem",
        **settings: Any,
    ):
        super().__init__(engine)
        self.objective, self.planner, self.settings = objective, planner, settings
        self._new()  # refuses wrong settings now

    def actor(self, env: gym.Env) -> Controller:
        """A controller."""
        del env
        return self._new()

    def _new(self) -> Controller:
        return Controller(self.engine, self.objective, self.planner, **self.settings)
