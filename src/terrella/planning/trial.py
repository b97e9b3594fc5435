"""Tasks carried out in the true environment: where episodes begin, who acts in them, and what came of it.

A start is a saved state, so that every actor meets the same one with the same luck to come. Episodes are played side by
side; what each plan promised is kept beside what the same steps then brought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from ..actions import decode, encode
from ..arenas import Forkable, describe, forkable, to_streams
from ..data import make_policy
from ..errors import ArenaError, ConfigError
from ..registry import lookup
from ..spec import WorldSpec
from .base import Model, Plan, Planner, make_planner
from .mpc import Actor, Controller
from .search import Space
from .simulator import Simulator
from .tasks import Goal, Moment, Seen, Task

TRIES = 100  # resets among which a start is looked for


@dataclass(frozen=True)
class Start:
    """Where an episode begins: a saved state of the environment, its goal, and the seed of who acts."""

    saved: bytes
    goal: Goal | None
    seed: int


class Blind:
    """Acts in B episodes at random, or does nothing: the floors that need no plan."""

    def __init__(self, spec: WorldSpec, space: gym.Space, batch: int, at_random: bool):
        self.spec, self.space, self.batch, self.at_random = spec, space, batch, at_random
        self.plan: Plan | None = None
        self._rngs: list[np.random.Generator] = []

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        """Begin again."""
        del observations
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self) -> np.ndarray:
        """Rows `(B, W)`: draws of the action space, or its no-op (the middle of numbers, the first of choices)."""
        if not self.at_random:
            return np.tile(_nothing(self.spec), (self.batch, 1))
        return np.stack([_drawn(self.space, self.spec, rng) for rng in self._rngs])

    def see(self, observations: dict[str, np.ndarray]) -> None:
        """Look away."""
        del observations


@dataclass
class Episode:
    """What one episode brought. held: whether the goal held after each action. promised: by the plan that begins there,
    NaN where none does.

    over: for whatever reason; ended: by itself.
    """

    rewards: list[float] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    promised: list[float] = field(default_factory=list)
    over: bool = False
    ended: bool = False


def begin(task: Task, env: gym.Env, seed: int) -> Start:
    """Find where an episode of this seed begins, not at the goal.

    Raises `ArenaError` for an environment whose state cannot be saved, `ConfigError` where no start is found.
    """
    fork = forkable(env)
    if fork is None:
        raise ArenaError(f"the state of {env} cannot be saved, so that not all could meet the same starts.")
    for number in range(TRIES):
        own = int(np.random.SeedSequence([0x7A5C, seed, number]).generate_state(1)[0] >> 1)
        seen = to_streams(env, env.reset(seed=own)[0])
        if task.lead and not _rehearsed(task, env, fork, own):
            continue
        if task.lead:
            seen = to_streams(env, fork.last_observation())
        saved = fork.save()
        goal = None if task.place is None else _wandered(task, env, fork, saved, own)
        if task.rule == "always" or not task.at_goal(Moment(env, _arrays(seen), goal=goal)):
            return Start(saved, goal, own)
    raise ConfigError(f"none of {TRIES} starts of seed {seed} is one from which this task makes sense: {task.about}.")


def play(
    task: Task,
    spec: WorldSpec,
    envs: Sequence[gym.Env],
    starts: Sequence[Start],
    actor: Actor,
    watch: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> list[Episode]:
    """Play one episode in each environment side by side; those that are over wait for the others.

    watch: called with the number of actions taken and the frames `(B, ...)` after them, first at the start.
    """
    episodes, frames = [Episode() for _ in envs], _restored(spec, envs, starts)
    actor.begin(frames, [start.seed for start in starts])
    if watch is not None:
        watch(0, frames)
    for step in range(task.limit):
        before, rows = actor.plan, actor.act()
        promised = None if actor.plan is None or actor.plan is before else -actor.plan.cost
        for b, (env, start, episode) in enumerate(zip(envs, starts, episodes)):
            if episode.over:
                continue
            observation, reward, terminated, truncated, _ = env.step(decode(spec.action, rows[b]))
            seen = _arrays(to_streams(env, observation))
            episode.rewards.append(float(reward))
            episode.promised.append(np.nan if promised is None else float(promised[b]))
            episode.ended = bool(terminated)
            episode.held.append(bool(task.at_goal(Moment(env, seen, float(reward), episode.ended, start.goal))))
            episode.over = bool(terminated or truncated or (task.rule == "once" and episode.held[-1]))
            for name in frames:
                frames[name][b] = seen[name]
        if watch is not None:
            watch(step + 1, frames)
        if all(e.over for e in episodes):
            break
        actor.see(frames)
    return episodes


def controller(
    task: Task,
    model: Model,
    planner: str,
    rollouts: int,
    starts: Sequence[Start],
    *,
    horizon: int | None = None,
    execute: int | None = None,
    seed: int = 0,
) -> Controller:
    """The controller of a task's episodes, whose plans take `rollouts` futures of the horizon each, and no more.

    All planners get equally many model evaluations; candidates are as many as leave room for iterations. horizon: 1 is
    the greedy floor. Raises `ConfigError` where a planner cannot plan with so few.
    """
    length = task.horizon if horizon is None else horizon
    taken = min(length, task.execute if execute is None else execute)
    goals: Seen = {}
    if starts[0].goal is not None:
        goals = {n: np.stack([s.goal.frames[n] for s in starts if s.goal]) for n in starts[0].goal.frames}
    made = _sized(task, model, planner, rollouts, length)
    steps = rollouts * length * model.steps
    objective: Any = task.objective(goals, task.discount)
    return Controller(model, objective, made, execute=taken, budget_steps=steps, seed=seed)  # type: ignore[arg-type]


def attempt(
    task: Task,
    envs: Sequence[gym.Env],
    starts: Sequence[Start],
    planner: str,
    rollouts: int,
    engine: Any = None,
    *,
    watch: Callable[[Controller, int, dict[str, np.ndarray]], None] | None = None,
    **how: Any,
) -> list[Episode]:
    """Carry out a task with a planner that looks ahead in `engine`, or (None) in the true simulator.

    In the simulator episodes are played one after another, since it plays one future at a time anyway. watch: as
    `play` calls it, with the controller of these episodes first. how: horizon, execute and seed, as `controller` takes
    them.
    """
    spec, episodes = describe(envs[0]), []
    groups = [(envs, starts)] if engine is not None else [([e], [s]) for e, s in zip(envs, starts)]
    for some, begun in groups:
        model = Simulator(some[0]) if engine is None else engine
        actor = controller(task, model, planner, rollouts, begun, **how)
        episodes += play(task, spec, some, begun, actor, None if watch is None else partial(watch, actor))
    return episodes


def gap(task: Task, episodes: Sequence[Episode], horizon: int | None = None) -> tuple[float | None, float | None]:
    """What plans for a return promised, and what came of the same steps, where all of these were played: two means.

    None without plans, or where the objective is no return.
    """
    length = task.horizon if horizon is None else horizon
    if task.objective is not Task.objective:
        return None, None
    promised, realised, weight = [], [], task.discount ** np.arange(length)
    for episode in episodes:
        rewards = np.array(episode.rewards)
        last = len(rewards) if episode.ended else len(rewards) - length + 1
        for t in np.flatnonzero(np.isfinite(episode.promised[: max(0, last)])):
            part = rewards[t : t + length]
            promised.append(episode.promised[t])
            realised.append(float((weight[: len(part)] * part).sum()))
    return (float(np.mean(promised)), float(np.mean(realised))) if promised else (None, None)


def _sized(task: Task, model: Model, planner: str, rollouts: int, horizon: int) -> Planner:
    known = {f.name for f in fields(lookup("planner", planner).Config)}
    actions = max(1, int(np.prod(Space(model.spec.action).choices.astype(np.float64))))
    few = min(rollouts, max(8, round(2 * rollouts**0.5)))
    sizes = {"candidates": rollouts if planner == "random" else few, "width": max(1, rollouts // actions)}
    sizes |= {"leaves": max(1, min(actions, rollouts // 4))}
    settings = {**sizes, **task.settings, "horizon": horizon}
    return make_planner(planner, **{k: v for k, v in settings.items() if k in known})


def _rehearsed(task: Task, env: gym.Env, fork: Forkable, seed: int) -> bool:
    """Put the environment `lead` actions, or less, before play at random comes to the goal; False where it does not."""
    policy = make_policy(task.policy)
    policy.prepare(describe(env), env)
    policy.begin(env.action_space, np.random.default_rng([seed, 1]))
    observation, past = fork.last_observation(), [fork.save()]
    for _ in range(task.episode):
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        seen = _arrays(to_streams(env, observation))
        if task.at_goal(Moment(env, seen, float(reward), bool(terminated))):
            fork.restore(past[-min(task.lead, len(past))])
            return True
        if terminated or truncated:
            return False
        past = [*past[-task.lead :], fork.save()]
    return False


def _wandered(task: Task, env: gym.Env, fork: Forkable, saved: bytes, seed: int) -> Goal:
    """Where `reach` random actions lead; the environment is back at the start afterwards."""
    assert task.place is not None
    spec, rng = describe(env), np.random.default_rng([seed, 2])
    observation = fork.last_observation()
    for _ in range(task.reach):
        observation = env.step(decode(spec.action, _drawn(env.action_space, spec, rng)))[0]
    seen = _arrays(to_streams(env, observation))
    goal = Goal({n: seen[n].copy() for n in spec.modelled}, np.array(task.place(env)))
    fork.restore(saved)
    return goal


def _restored(spec: WorldSpec, envs: Sequence[gym.Env], starts: Sequence[Start]) -> dict[str, np.ndarray]:
    seen = []
    for env, start in zip(envs, starts):
        fork = forkable(env)
        assert fork is not None  # `begin` has saved one of its states
        seen.append(to_streams(env, fork.restore(start.saved)))
    return {name: np.stack([s[name] for s in seen]) for name in spec.modelled}


def _drawn(space: gym.Space, spec: WorldSpec, rng: np.random.Generator) -> np.ndarray:
    space.seed(int(rng.integers(2**31)))
    return encode(spec.action, space.sample())


def _nothing(spec: WorldSpec) -> np.ndarray:
    if spec.noop is not None:
        return np.array(spec.noop, np.float64)
    space = Space(spec.action)
    rows = np.zeros(space.width)
    rows[space.numbers], rows[space.picks] = space.middle, space.low[space.picks]
    return space.clip(rows)


def _arrays(seen: Any) -> dict[str, np.ndarray]:
    return {name: value for name, value in seen.items() if isinstance(value, np.ndarray)}
