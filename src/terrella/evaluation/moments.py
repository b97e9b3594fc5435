"""Moments of true episodes to compare futures from: how they are reached, and what is played on from them.

A moment is a context of c actions and c+1 frames, played by a policy (as in recordings, by default one that repeats
random actions), and where the environment can be forked the state at its end. It lies at a random place of an episode's
first `lead` steps: what follows a reset is the easiest part of many games.

Reset seeds are 31 random bits from a stream that recordings do not use, so one coincides with a recorded episode's with
a chance of about episodes / 2^31; seeds known to be used are left out outright.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas import forkable, to_streams
from ..data import Policy, make_policy
from ..data.policies import Random, StickyRandom
from ..errors import ArenaError, SpecError
from ..spec import WorldSpec

POLICY = "sticky-random"  # the recorder's default
BLIND = (Random, StickyRandom)  # act without looking
SEED_TAG = 0x7E57  # keeps this stream apart from any other stream made from the same number
_ATTEMPTS = 200


@dataclass
class Played:
    """A stretch of an episode: what each action brought. over: whether the episode ended with the last of them."""

    frames: list[dict[str, np.ndarray]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    over: bool = False


@dataclass(frozen=True)
class Moment:
    """A place to part from.

    seed: of the episode. frames: the c+1 of the context, stream -> array each. actions: float32 `(c+T, W)`, those of
    the context and T that the policy would go on with. state: to restore, None where there is no forking. steps: what
    the environment made to get here.
    """

    seed: int
    frames: list[dict[str, np.ndarray]]
    actions: np.ndarray
    state: bytes | None
    steps: int


class Stage:
    """Plays one environment for comparisons: reaches moments, and goes on from them.

    skipped: how many episodes ended inside the context so far.
    """

    def __init__(
        self,
        env: gym.Env,
        spec: WorldSpec,
        seed: int,
        taken: frozenset[int] = frozenset(),
        policy: str | Policy = POLICY,
    ) -> None:
        self.env, self.spec, self.fork = env, spec, forkable(env)
        self.actor = make_policy(policy)
        self.actor.prepare(spec, env)
        self.blind = self.actor if isinstance(self.actor, BLIND) else make_policy(POLICY)
        self.seeds = held_out_seeds(seed, taken)
        self.skipped = 0

    def next(self, context: int, frames: int, lead: int) -> Moment:
        """Reach the next moment, with `frames` = T actions to go on with. The environment stands there.

        Raises `SpecError` when nearly all episodes end inside the context.
        """
        for _ in range(_ATTEMPTS):
            moment = self._reach(next(self.seeds), context, frames, lead)
            if moment is not None:
                return moment
            self.skipped += 1
        raise SpecError(
            f"{_ATTEMPTS} episodes in a row ended within the first {context + 1} steps, so there is nothing to "
            "predict. Pass a smaller context."
        )

    def restore(self, moment: Moment, chance: int | None = None) -> None:
        """Return to a moment; with `chance`, what happens by chance from there on is drawn anew.

        Raises `ArenaError` where the environment cannot be forked.
        """
        if self.fork is None or moment.state is None:
            raise ArenaError(
                f"the state of {self.spec.env.id or 'this environment'} cannot be saved, so it has no forks."
            )
        self.fork.restore(moment.state)
        if chance is not None:
            self.redraw(chance)

    def redraw(self, chance: int) -> None:
        """Draw anew what will happen by chance from here on; raises `ArenaError` where that cannot be done."""
        if self.fork is None:
            raise ArenaError(f"the chance of {self.spec.env.id or 'this environment'} cannot be drawn anew.")
        self.fork.reseed(chance)

    def play(self, rows: np.ndarray) -> Played:
        """Step through actions `(T, W)` from where the environment stands, until they or the episode end."""
        played = Played()
        for row in rows.astype(np.float64):
            observation, reward, terminated, truncated, _ = self.env.step(codec.decode(self.spec.action, row))
            played.frames.append(self._copy(observation))
            played.rewards.append(float(reward))
            if terminated or truncated:
                played.terminated, played.over = bool(terminated), True
                break
        return played

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw `count` actions without looking, float32 `(count, W)`, as the policy does if it does not look."""
        self.blind.begin(self.env.action_space, rng)
        return self._encode([self.blind.act(None) for _ in range(count)])

    def _reach(self, seed: int, context: int, frames: int, lead: int) -> Moment | None:
        rng = np.random.default_rng([seed, SEED_TAG])
        rows = self._choose(seed, rng, lead + context + frames)
        offset = 0
        if lead:
            self.env.reset(seed=seed)
            offset = int(rng.integers(max(1, len(self.play(rows[:lead]).frames) - context)))
        begun = self._copy(self.env.reset(seed=seed)[0])
        before = self.play(rows[:offset])
        shown = self.play(rows[offset : offset + context])
        if shown.over:
            return None
        first = before.frames[-1] if offset else begun
        state = self.fork.save() if self.fork else None
        actions = rows[offset : offset + context + frames]
        return Moment(seed, [first, *shown.frames], actions, state, offset + len(shown.frames))

    def _choose(self, seed: int, rng: np.random.Generator, count: int) -> np.ndarray:
        """Choose `count` actions of an episode, float32 `(count, W)`: a world may be asked to go on after its end.

        A policy that looks plays the episode once; past its end, and for one that does not look, they come blindly.
        """
        actions: list[Any] = []
        if self.actor is not self.blind:
            self.actor.begin(self.env.action_space, rng)
            observation, over = self.env.reset(seed=seed)[0], False
            while len(actions) < count and not over:
                actions.append(self.actor.act(observation))
                observation, _, terminated, truncated, _ = self.env.step(actions[-1])
                over = terminated or truncated
        blind = self.draw(rng, count - len(actions))
        return np.concatenate([self._encode(actions), blind]) if actions else blind

    def _encode(self, actions: Sequence[Any]) -> np.ndarray:
        rows = np.array([codec.encode(self.spec.action, a) for a in actions], np.float32)
        return rows.reshape(len(actions), codec.width(self.spec.action))

    def _copy(self, observation: Any) -> dict[str, np.ndarray]:
        # Some simulators reuse one buffer for all observations.
        return {name: np.array(frame) for name, frame in to_streams(self.env, observation).items()}


def held_out_seeds(seed: int, taken: frozenset[int] = frozenset()) -> Iterator[int]:
    """Yield reset seeds below 2^31 without repeats, none of them in `taken`; `seed` decides them."""
    rng = np.random.default_rng([SEED_TAG, seed])
    seen = set(taken)
    while True:
        candidate = int(rng.integers(2**31))
        if candidate not in seen:
            seen.add(candidate)
            yield candidate
