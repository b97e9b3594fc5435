"""Simulative reasoning: an agent proposes sentences, imagines what each would lead to, and says the best one.

    scene -> proposer -> S sentences -> a branch of the world for each -> critic -> S costs -> the cheapest

The sentence is then carried out in the true environment for a chunk, what truly came of it is seen, and all begins
again. The world takes no part in choosing what to imagine, nor in judging it; proposers and critics never see the true
state.

Ref: PAN, arXiv 2511.09057, section 4: propose, simulate, judge, commit. Differs: what comes next is seen in the true
environment, and not taken from the branch that was chosen.

    B episodes   S sentences   H steps of a chunk   W numbers in one action
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..errors import ActionError, ConfigError, StateError
from .base import Plan
from .critics import SentenceCritic
from .mpc import Acting, Observations, Observer
from .objective import Future
from .proposers import Scene, SentenceProposer


@dataclass(frozen=True)
class DeliberateSettings:
    """chunk: steps that a sentence is imagined and said, H. count: sentences proposed at a time, S. rest: what is said
    where nothing is proposed (None: what the world is told where nobody acts). max_rows: sessions imagined at a time.

    Raises `ConfigError` for values out of range.
    """

    chunk: int = 12
    count: int = 32
    rest: str | None = None
    max_rows: int = 256

    def __post_init__(self) -> None:
        if min(self.chunk, self.count, self.max_rows) < 1:
            raise ConfigError(
                f"chunk is {self.chunk}, count {self.count} and max_rows {self.max_rows}; expected at least 1 each."
            )


@dataclass(frozen=True)
class Decision:
    """What was considered at one moment of one episode. costs: `(S,)`, NaN where nothing was imagined."""

    sentences: tuple[str, ...]
    costs: np.ndarray
    chosen: int
    dropped: int

    @property
    def sentence(self) -> str:
        """What was said."""
        return self.sentences[self.chosen]


class Deliberator:
    """Acts in B episodes by sentences, side by side: `begin` with first frames, then `act` and `see` in turns.

    engine: the world, or a simulator (of one episode). critic: None says one of the proposed sentences at random, and
    imagines nothing: the floor. goals: one an episode. seed: of what proposers draw.

    decisions: of each episode so far. futures: imagined so far, all together. plan: None, as of all actors that promise
    no cost.

    Raises `ActionError` where actions are no sentences, `ConfigError` for another number of goals than of episodes.
    """

    def __init__(
        self,
        engine: Observer,
        proposer: SentenceProposer,
        critic: SentenceCritic | None,
        goals: Sequence[str],
        settings: DeliberateSettings | None = None,
        *,
        seed: int = 0,
    ):
        if engine.spec.action.kind != "text":
            raise ActionError(
                f"actions here are {codec.describe(engine.spec.action)}; who deliberates says sentences. Take an "
                "environment that is told what to do, such as terrella/SentencesGrid-v0."
            )
        self.engine, self.proposer, self.critic, self.goals = engine, proposer, critic, list(goals)
        self.settings, self.seed = settings or DeliberateSettings(), seed
        still = "" if engine.spec.noop is None else codec.decode(engine.spec.action, np.array(engine.spec.noop))
        self.rest: str = still if self.settings.rest is None else self.settings.rest
        self.plan: Plan | None = None
        self.decisions: list[list[Decision]] = []
        self.futures = 0
        self._scenes: list[Scene] = []
        self._rngs: list[np.random.Generator] = []
        self._rows, self._taken, self._waits = np.empty(0), 0, False
        self._state: Any = None

    def begin(self, observations: Observations, seeds: int | Sequence[int] = 0) -> None:
        """Begin B episodes from their first frames, stream -> `(B, ...)`; seeds: as `Engine.start` takes them."""
        batch = len(next(iter(observations.values())))
        if len(self.goals) != batch:
            raise ConfigError(f"{len(self.goals)} goals for {batch} episodes; give one each.")
        keys = [seeds + b for b in range(batch)] if isinstance(seeds, (int, np.integer)) else list(seeds)
        first = {name: np.array(frames) for name, frames in observations.items()}
        if self.critic is not None:
            self._state = self.engine.start({name: frames[:, None] for name, frames in first.items()}, None, keys)
        each = [{name: frames[b] for name, frames in first.items()} for b in range(batch)]
        self._scenes = [Scene(goal, seen, seen) for goal, seen in zip(self.goals, each)]
        self._rngs = [np.random.default_rng([self.seed, int(key)]) for key in keys]
        self.decisions, self._taken, self._waits = [[] for _ in range(batch)], 0, False

    def act(self) -> np.ndarray:
        """The sentence of each episode, rows `(B, W)`; raises `StateError` before `begin`, or twice in a row."""
        if not self._scenes or self._waits:
            raise StateError("an agent begins with `begin(frames)`, then takes `act()` and `see(frames)` in turns.")
        if self._taken % self.settings.chunk == 0:
            self._decide()
        self._taken, self._waits = self._taken + 1, True
        return self._rows

    def see(self, observations: Observations) -> None:
        """Take in the frames `(B, ...)` that truly followed; raises `StateError` where no action was taken."""
        if not self._waits:
            raise StateError("there is nothing to see yet: take an action first, `act()`.")
        self._waits = False
        if self._state is not None:
            self._state = self.engine.observe(self._state, self._rows, observations)
        for b, scene in enumerate(self._scenes):
            seen = {name: np.array(frames[b]) for name, frames in observations.items()}
            said = (
                (*scene.said, self.decisions[b][-1].sentence) if self._taken % self.settings.chunk == 0 else scene.said
            )
            self._scenes[b] = Scene(scene.goal, scene.first, seen, said)

    @property
    def dropped(self) -> int:
        """Sentences proposed so far that nobody knew."""
        return sum(decision.dropped for decisions in self.decisions for decision in decisions)

    def _decide(self) -> None:
        """Propose, imagine and judge for every episode."""
        settings, spec = self.settings, self.engine.spec.action
        proposed = [self.proposer.propose(s, settings.count, rng) for s, rng in zip(self._scenes, self._rngs)]
        offered = [p.sentences or (self.rest,) for p in proposed]
        cost = [np.full(len(sentences), np.nan) for sentences in offered]
        if self.critic is not None:
            most = max(map(len, offered))
            part = max(1, settings.max_rows // most)
            for b in range(0, len(offered), part):
                cost[b : b + part] = self._imagined(self.critic, range(b, min(b + part, len(offered))), offered)
        chosen = [
            int(c.argmin()) if self.critic is not None else int(rng.integers(len(c)))
            for c, rng in zip(cost, self._rngs)
        ]
        for b, sentences in enumerate(offered):
            self.decisions[b].append(Decision(sentences, cost[b], chosen[b], proposed[b].dropped))
        self._rows = np.stack([codec.encode(spec, sentences[i]) for sentences, i in zip(offered, chosen)])

    def _imagined(self, critic: SentenceCritic, some: range, offered: list[tuple[str, ...]]) -> list[np.ndarray]:
        """What the sentences offered in some episodes cost; where there are fewer, the last one is imagined again."""
        most, chunk, spec = max(len(offered[b]) for b in some), self.settings.chunk, self.engine.spec.action
        filled = [(*offered[b], *[offered[b][-1]] * (most - len(offered[b]))) for b in some]
        said = np.stack([codec.encode(spec, sentence) for sentences in filled for sentence in sentences])
        rows = np.repeat(said[:, None], chunk, 1)
        _, frame = self.engine.rollout(self._state.select(list(some)).fork(most), rows, observe=critic.observe)
        self.futures += sum(len(offered[b]) for b in some)
        judged = []
        for i, b in enumerate(some):
            at = slice(i * most, i * most + len(offered[b]))
            seen = {name: frames[at] for name, frames in frame.observation.items()}
            count = at.stop - at.start
            future = Future(rows[at], frame.reward[at], frame.terminated[at], seen, np.zeros(count, np.int64))
            judged.append(_checked(critic.judge(self._scenes[b], offered[b], future), count))
        return judged


class Deliberate(Acting):
    """A policy that deliberates: `terrella.record(env, policy=Deliberate(engine, proposer, critic, goal))`.

    goal: in words, or a function that tells it from the environment, in an episode that has begun. Other arguments are
    those of `Deliberator`, whose settings it takes; it raises what that does.
    """

    def __init__(
        self,
        engine: Observer,
        proposer: SentenceProposer,
        critic: SentenceCritic | None,
        goal: str | Callable[[gym.Env], str],
        settings: DeliberateSettings | None = None,
        *,
        seed: int = 0,
    ):
        super().__init__(engine)
        self.proposer, self.critic, self.goal = proposer, critic, goal
        self.settings, self.seed = settings or DeliberateSettings(), seed
        Deliberator(engine, proposer, critic, [""], self.settings)  # refuses wrong settings now

    def actor(self, env: gym.Env) -> Deliberator:
        """Whoever acts in the episode that begins."""
        goal = self.goal if isinstance(self.goal, str) else self.goal(env)
        return Deliberator(self.engine, self.proposer, self.critic, [goal], self.settings, seed=self.seed)


def _checked(cost: np.ndarray, count: int) -> np.ndarray:
    cost = np.asarray(cost, np.float64)
    if cost.shape != (count,) or np.isnan(cost).any():
        raise ConfigError(f"the critic gave shape {cost.shape}, or NaN, for {count} futures; expected a number each.")
    return cost
