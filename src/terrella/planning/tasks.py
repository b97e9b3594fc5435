"""Tasks whose truth is known: what is to be done in an environment, and how one sees in it that it was done.

A task says how its world is recorded, what a planner is asked for, and what counts as a success. Success is read from
the true environment alone (`Task.at_goal`), never from a world. `TASKS` (`terrella.planning.catalogue`) has those that
come with the package; a task of your own is one more `Task`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from ..arenas import make
from ..errors import ConfigError, SpecError
from ..spec import EnvSpec, WorldSpec
from .objective import Objective, Return

Seen = Mapping[str, np.ndarray]
"""Stream -> one frame, or one for each of B problems, `(B, ...)`."""


@dataclass(frozen=True)
class Goal:
    """A moment to come to: what it shows, stream -> frame, and where the environment stands then, a vector."""

    frames: dict[str, np.ndarray]
    place: np.ndarray


@dataclass(frozen=True)
class Moment:
    """A moment of an episode in the true environment.

    seen: stream -> frame. reward, ended: of the step that led here, zero and false at a start; ended: by itself.
    """

    env: gym.Env
    seen: Seen
    reward: float = 0.0
    ended: bool = False
    goal: Goal | None = None


def _return(goals: Seen, discount: float) -> Objective:
    del goals
    return Return(discount)


@dataclass(frozen=True)
class Task:
    """What is to be done, in actions of `env` (with a frame skip of 4, an action is four of the environment's steps).

    env: how the environment is made. about: what is to be done, for people. at_goal: whether the goal holds at a
    moment. rule: an episode is a success when the goal holds `once` (it then ends), at all of its last `hold` moments
    (`last`), or at every moment (`always`). limit: actions an episode has.

    steps, policy, episode, preset, decoder: how its world is made: transitions recorded, who acts (`terrella.data`),
    where episodes are cut, the size of the world and its decoder (None: the preset's).

    horizon, discount: of plans. execute: actions taken of each plan. objective: what planners minimise, a function of
    the goals, stream -> `(B, ...)`, and the discount; by default the return. settings: of planners, as far as they
    have them.

    place: where the environment stands, a vector; with it, an episode's goal is where `reach` actions of its start's
    seed lead. lead: begin at most so many actions before the goal, in play of `policy` that once came to it (0: begin
    at resets). pose: puts the environment into the state that a vector describes, so that its renderer can draw it.

    Starts at the goal are never played, except by the rule `always`. Raises `ConfigError` for numbers out of range.
    """

    env: EnvSpec
    about: str
    at_goal: Callable[[Moment], bool]
    rule: Literal["once", "last", "always"] = "once"
    hold: int = 1
    limit: int = 40
    steps: int = 20_000
    policy: str = "sticky-random"
    episode: int = 200
    preset: str = "tiny"
    decoder: str | None = None
    horizon: int = 8
    discount: float = 1.0
    execute: int = 1
    objective: Callable[[Seen, float], Objective] = _return
    settings: Mapping[str, Any] = field(default_factory=dict)
    place: Callable[[gym.Env], np.ndarray] | None = None
    reach: int = 4
    lead: int = 0
    pose: Callable[[gym.Env, np.ndarray], None] | None = None

    def __post_init__(self) -> None:
        least = min(self.hold, self.limit, self.steps, self.episode, self.horizon, self.execute, self.reach)
        if least < 1 or self.lead < 0 or self.execute > self.horizon:
            raise ConfigError(
                f"hold {self.hold}, limit {self.limit}, steps {self.steps}, episode {self.episode}, horizon "
                f"{self.horizon}, execute {self.execute} and reach {self.reach} must be at least 1, lead ({self.lead}) "
                "at least 0, and execute no more than the horizon."
            )

    def make(self) -> gym.Env:
        """Make the environment; raises what `terrella.arenas.make` raises."""
        return make(self.env)

    def paced(self, env: EnvSpec) -> Task:
        """The same task in `env`, where each of its actions is several shorter ones.

        Whatever counts actions counts so many more, and the discount of a step is its root. Raises `ConfigError` where
        the task's frame skip is no multiple of the environment's.
        """
        times, rest = divmod(self.env.frame_skip, env.frame_skip)
        if rest:
            raise ConfigError(
                f"the task's actions last {self.env.frame_skip} steps and the environment's {env.frame_skip}; expected "
                "a frame skip that divides the task's."
            )
        counts = ("hold", "limit", "steps", "episode", "horizon", "execute", "reach", "lead")
        more: dict[str, Any] = {name: getattr(self, name) * times for name in counts}
        about = f"{self.about}; {times} actions here are one of these" if times > 1 else self.about
        return replace(self, env=env, about=about, discount=self.discount ** (1 / times), **more)

    def won(self, held: list[bool]) -> bool:
        """Whether an episode is a success whose goal held, or not, after each of its actions."""
        if self.rule == "once":
            return any(held)
        return all(held[-self.hold :] if self.rule == "last" else held) and len(held) >= self.hold

    def require(self, world: WorldSpec, own: WorldSpec) -> None:
        """Raise `SpecError`, with the commands that make a world for the task, where a world is of something else.

        own: the description of the task's environment.
        """
        if world.same_interface(own) and world.env.frame_skip == self.env.frame_skip:
            return
        raise SpecError(
            f"the world is of {world.env.id or 'a nameless environment'}, with streams {', '.join(world.streams)} and "
            f"a frame skip of {world.env.frame_skip}; the task is in {self.env.id}, with streams "
            f"{', '.join(own.streams)} and a frame skip of {self.env.frame_skip}. Make a world for it:\n"
            + "\n".join(self.commands())
        )

    def commands(self, budget: str = "5m") -> tuple[str, str]:
        """The two command lines that record for the task and train its world."""
        name = re.sub(r"[^a-z0-9]+", "-", self.env.id.split("/")[-1].lower()).strip("-")
        how = f"--steps {self.steps} --policy {self.policy} --max-episode-steps {self.episode}"
        how += " --pixels" * self.env.pixels
        how += f" --frame-skip {self.env.frame_skip}" if self.env.frame_skip > 1 else ""
        drawn = f" --decoder {self.decoder}" if self.decoder else ""
        return (
            f"terrella record {self.env.id} {how} --out data/{name}",
            f"terrella train data/{name} --preset {self.preset}{drawn} --budget {budget}",
        )
