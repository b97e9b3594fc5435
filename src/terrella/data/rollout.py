"""Recording one episode in one environment, and how far a recording shall go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions, arenas
from ..errors import DatasetError
from ..spec import EnvSpec, WorldSpec
from .draft import Draft
from .policies import Policy, PolicyFunction, make_policy
from .store import Layout, Packed
from .writer import Writer

EnvMaker = str | EnvSpec | Callable[[], gym.Env]


@dataclass(frozen=True)
class Plan:
    """How every episode is recorded: the environment, who acts, and what is kept. Fields as in `record`."""

    env: EnvMaker
    make: dict[str, Any] = field(default_factory=dict)
    policy: str | Policy | PolicyFunction = "sticky-random"
    seed: int = 0
    max_episode_steps: int | None = None
    save_states: bool = True
    state_every: int = 0


class Goal:
    """When to stop: after so many more episodes or transitions, whichever comes first."""

    def __init__(self, episodes: int | None, steps: int | None) -> None:
        if episodes is None and steps is None:
            raise DatasetError("say how much to record: episodes=100, or steps=20_000.")
        if min(n for n in (episodes, steps) if n is not None) < 1:
            raise DatasetError(f"episodes is {episodes} and steps {steps}; both must be at least 1.")
        self.episodes, self.steps = episodes, steps
        self._from = (0, 0)

    def begin(self, writer: Writer) -> None:
        """Count from what the dataset holds now."""
        self._from = (writer.episodes, writer.steps)

    def steps_left(self, writer: Writer) -> int | None:
        """How many transitions are wanting, or None when only episodes count."""
        return None if self.steps is None else self.steps - (writer.steps - self._from[1])

    def episodes_left(self, writer: Writer) -> int | None:
        """How many episodes are wanting, or None when only transitions count."""
        return None if self.episodes is None else self.episodes - (writer.episodes - self._from[0])

    def reached(self, writer: Writer) -> bool:
        """Whether there is enough."""
        left = (self.steps_left(writer), self.episodes_left(writer))
        return any(n is not None and n <= 0 for n in left)


def episode_seed(seed: int, number: int) -> int:
    """Return what the environment is reset with in episode `number` of a dataset: 31 bits from both."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def episode_rng(seed: int, number: int) -> np.random.Generator:
    """Return the policy's random stream for episode `number` of a dataset."""
    return np.random.default_rng([seed, number, 1])


class EpisodeRecorder:
    """Records episodes in one environment, each from its number alone: who recorded those before does not matter.

    Raises `ActionError` when the policy's action does not fit the environment.
    """

    def __init__(self, env: gym.Env, spec: WorldSpec, plan: Plan) -> None:
        self.env, self.spec, self.plan = env, spec, plan
        self._policy = make_policy(plan.policy)
        self._policy.prepare(spec, env)
        self._fork = arenas.forkable(env) if plan.save_states or plan.state_every else None

    def record(
        self, number: int, layout: Layout, level: int, limit: int | None, on_step: Callable[[], None] | None = None
    ) -> Packed:
        """Record episode `number`, cut after `limit` transitions if it is longer; `on_step` is called after each."""
        env, plan = self.env, self.plan
        limits = [n for n in (limit, plan.max_episode_steps) if n is not None]
        limit = min(limits) if limits else None
        seed = episode_seed(plan.seed, number)
        observation, _ = env.reset(seed=seed)
        draft = Draft(layout, arenas.to_streams(env, observation), seed, level)
        self._policy.begin(env.action_space, episode_rng(plan.seed, number))
        terminated = truncated = False
        self._save_state(draft)
        while not (terminated or truncated):
            action = self._policy.act(observation)
            row = actions.encode(self.spec.action, action)
            observation, reward, terminated, truncated, _ = env.step(action)
            truncated = bool(truncated or (limit is not None and len(draft) + 1 >= limit and not terminated))
            draft.step(row, arenas.to_streams(env, observation), float(reward), bool(terminated), truncated)
            self._save_state(draft)
            if on_step is not None:
                on_step()
        return draft.pack()

    def _save_state(self, draft: Draft) -> None:
        every = self.plan.state_every
        if self._fork is not None and (
            (len(draft) == 0 and self.plan.save_states) or (every and len(draft) % every == 0)
        ):
            draft.save_state(self._fork.save())
