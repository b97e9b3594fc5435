"""What really happens: futures of the true environment, or of held-out episodes, to hold a world against.

A future begins with a context of c actions and c+1 frames, played by a policy (as in recordings, by default one that
repeats random actions), and goes on for T more actions of the same policy. It begins at a random moment of an episode's
first `lead` steps: what follows a reset is the easiest part of many games. Where the environment can be forked, the
state at the context's end is saved; both the truth and its *twin* (same state, same actions, other chance) start from
that restored state, never from the live simulator, so that restoring itself cannot be mistaken for chance.

Reset seeds are 31 random bits from a stream that recordings do not use, so one coincides with a recorded episode's
with a chance of about episodes / 2^31; when the dataset is given, the seeds it has used are left out outright.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas import Forkable, forkable, to_streams
from ..data import Dataset, Policy, make_policy
from ..data.episode import Episode
from ..data.policies import Random, StickyRandom
from ..errors import ArenaError, SpecError
from ..spec import WorldSpec

POLICY = "sticky-random"  # the recorder's default
BLIND = (Random, StickyRandom)  # act without looking
_SEED_TAG = 0x7E57  # keeps this stream apart from any other stream made from the same number


@dataclass
class Truth:
    """B futures under one shape; what lies past an episode's end is zero and never compared.

    observations: stream -> `(B, c+1+T, ...)`. actions: float32 `(B, c+T, W)`, whole even where the episode ended early.
    rewards: float32 `(B, T)`, terminated: bool `(B, T)`, for the transitions after the context. length: `(B,)` how many
    of these exist. seeds: `(B,)` reset seeds, also used as the world's noise seeds. groups: `(B,)` rows of one group
    are not independent. twin: stream -> `(B, len(marks), ...)`, the twin's frames at the `marks`, and twin_length
    `(B,)`; None where the environment cannot be forked. skipped: episodes that ended inside the context. seconds and
    stepped: what the environment took.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    length: np.ndarray
    seeds: list[int]
    groups: np.ndarray
    context: int
    twin: dict[str, np.ndarray] | None = None
    twin_length: np.ndarray | None = None
    skipped: int = 0
    seconds: float = 0.0
    stepped: int = 0

    def __len__(self) -> int:
        return len(self.seeds)

    def start(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The context: observations stream -> `(B, c+1, ...)` and actions `(B, c, W)`."""
        return {k: v[:, : self.context + 1] for k, v in self.observations.items()}, self.actions[:, : self.context]

    @property
    def future(self) -> np.ndarray:
        """The actions after the context, `(B, T, W)`."""
        return self.actions[:, self.context :]

    def frame(self, stream: str, horizon: int) -> np.ndarray:
        """The true frames `(B, ...)` after `horizon` actions; horizon 0 is the last context frame."""
        return self.observations[stream][:, self.context + horizon]

    def first(self, count: int) -> Truth:
        """The first `count` futures alone, without their twins."""
        rows = ("actions", "rewards", "terminated", "length", "seeds", "groups")
        return replace(
            self,
            observations={k: v[:count] for k, v in self.observations.items()},
            **{name: getattr(self, name)[:count] for name in rows},
            twin=None,
            twin_length=None,
        )

    def real_frames(self, stream: str, row: int) -> np.ndarray:
        """All true frames of one row, `(c+1+length, ...)`."""
        return self.observations[stream][row, : self.context + 1 + int(self.length[row])]


@dataclass
class _Played:
    """One stretch of an episode after a fork point."""

    frames: list[dict[str, np.ndarray]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    over: bool = False


def held_out_seeds(seed: int, taken: frozenset[int] = frozenset()) -> Iterator[int]:
    """Yield reset seeds below 2^31 without repeats, none of them in `taken`; `seed` decides them."""
    rng = np.random.default_rng([_SEED_TAG, seed])
    seen = set(taken)
    while True:
        candidate = int(rng.integers(2**31))
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def from_environment(
    env: gym.Env,
    spec: WorldSpec,
    *,
    sizes: Sequence[int],
    context: int,
    frames: int,
    marks: Sequence[int],
    seed: int,
    lead: int = 0,
    taken: frozenset[int] = frozenset(),
    policy: str | Policy = POLICY,
) -> Iterator[Truth]:
    """Yield one `Truth` of `n` futures for each n in `sizes`, with `frames` = T actions after a context of `context`.

    Contexts begin at a random one of the first `lead` steps that leaves the episode time for the context. Raises
    `SpecError` when nearly all episodes end inside the context. policy: who acts.
    """
    seeds = held_out_seeds(seed, taken)
    fork, actor = forkable(env), make_policy(policy)
    actor.prepare(spec, env)
    for n in sizes:
        truth = _empty(spec, n, context, frames, marks if fork else None)
        clock = time.perf_counter()
        for row in range(n):
            for attempt in range(200):
                if _fill(truth, row, env, spec, fork, next(seeds), marks, lead, actor):
                    break
                truth.skipped += 1
                if attempt == 199:
                    raise SpecError(
                        f"200 episodes in a row ended within the first {context + 1} steps, so there is nothing to "
                        "predict. Pass a smaller context."
                    )
        truth.seconds = time.perf_counter() - clock
        yield truth


def from_dataset(
    dataset: Dataset, spec: WorldSpec, *, sizes: Sequence[int], context: int, frames: int, seed: int
) -> Iterator[Truth]:
    """Yield one `Truth` of `n` futures for each n in `sizes`, cut from the dataset's held-out episodes.

    Episodes are used in turn, each from its start, then again from later starts when more futures than episodes are
    asked for; futures of one episode form one group. Past an episode's end its own actions are repeated. There is no
    twin. Raises `SpecError` when no held-out episode is longer than the context.
    """
    rng = np.random.default_rng([_SEED_TAG, seed])
    usable = [int(i) for i in dataset.split("held_out") if dataset.lengths[i] > context]
    if not usable:
        raise SpecError(
            f"no held-out episode of this dataset has more than {context} steps. Record more or longer episodes, or "
            "pass a smaller context."
        )
    noise = held_out_seeds(seed)
    done = 0
    for n in sizes:
        truth = _empty(spec, n, context, frames, None)
        for row in range(n):
            index = usable[done % len(usable)]
            episode = dataset.episode(index, states=False)
            first = 0 if done < len(usable) else int(rng.integers(0, len(episode) - context))
            _cut(truth, row, episode, first)
            truth.seeds[row], truth.groups[row] = next(noise), index
            done += 1
        yield truth


def _cut(truth: Truth, row: int, episode: Episode, first: int) -> None:
    """Copy one window of an episode, from frame `first` on, into row `row`."""
    total = min(len(episode) - first, truth.actions.shape[1])
    for name, frames in truth.observations.items():
        frames[row, : total + 1] = episode.observations[name][first : first + total + 1]
    steps = first + np.arange(truth.actions.shape[1])
    truth.actions[row] = episode.actions[steps % len(episode)]
    length = total - truth.context
    after = slice(first + truth.context, first + total)
    truth.rewards[row, :length] = episode.rewards[after]
    truth.terminated[row, :length] = episode.terminated[after]
    truth.length[row] = length


def _empty(spec: WorldSpec, n: int, context: int, frames: int, marks: Sequence[int] | None) -> Truth:
    dtypes = {"image": np.uint8, "vector": np.float32}

    def zeros(length: int) -> dict[str, np.ndarray]:
        return {k: np.zeros((n, length, *s.shape), dtypes[s.kind]) for k, s in spec.modelled.items()}

    return Truth(
        observations=zeros(context + 1 + frames),
        actions=np.zeros((n, context + frames, codec.width(spec.action)), np.float32),
        rewards=np.zeros((n, frames), np.float32),
        terminated=np.zeros((n, frames), bool),
        length=np.zeros(n, np.int64),
        seeds=[0] * n,
        groups=np.zeros(n, np.int64),
        context=context,
        twin=None if marks is None else zeros(len(marks)),
        twin_length=None if marks is None else np.zeros(n, np.int64),
    )


def _fill(
    truth: Truth,
    row: int,
    env: gym.Env,
    spec: WorldSpec,
    fork: Forkable | None,
    seed: int,
    marks: Sequence[int],
    lead: int,
    actor: Policy,
) -> bool:
    """Play one episode into row `row`; False when it ended inside the context."""
    rng = np.random.default_rng([seed, _SEED_TAG])
    rows = _act(env, spec, seed, rng, actor, lead + truth.actions.shape[1])
    native = [codec.decode(spec.action, a) for a in rows.astype(np.float64)]
    offset = 0
    if lead:
        env.reset(seed=seed)
        offset = int(rng.integers(max(1, len(_play(env, native[:lead]).frames) - truth.context)))
    truth.actions[row], native = rows[offset:][: truth.actions.shape[1]], native[: offset + truth.actions.shape[1]]
    begun = to_streams(env, env.reset(seed=seed)[0])
    before = _play(env, native[:offset])
    native = native[offset:]
    first = before.frames[-1] if offset else {name: np.array(frame) for name, frame in begun.items()}
    truth.stepped += offset
    context = _play(env, native[: truth.context])
    truth.stepped += len(context.frames)
    if context.over:
        return False
    state = fork.save() if fork else None
    if fork and state is not None:
        fork.restore(state)
    future = _play(env, native[truth.context :])
    truth.stepped += len(future.frames)
    for name, frames in truth.observations.items():
        for t, frame in enumerate([first, *context.frames, *future.frames]):
            frames[row, t] = frame[name]
    length = len(future.frames)
    truth.rewards[row, :length], truth.length[row] = future.rewards, length
    truth.terminated[row, length - 1] = future.terminated
    truth.seeds[row] = truth.groups[row] = seed
    if fork and state is not None and truth.twin is not None and truth.twin_length is not None:
        fork.restore(state)
        with contextlib.suppress(ArenaError):  # chance that cannot be drawn anew counts against no twin
            fork.reseed(seed ^ 0x5EED)
        twin = _play(env, native[truth.context :])
        truth.stepped += len(twin.frames)
        truth.twin_length[row] = len(twin.frames)
        for name, frames in truth.twin.items():
            for i, mark in enumerate(marks):
                if mark <= len(twin.frames):
                    frames[row, i] = twin.frames[mark - 1][name]
    return True


def _play(env: gym.Env, actions: Sequence[Any]) -> _Played:
    """Step through `actions` until they or the episode end."""
    played = _Played()
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        # Some simulators reuse one buffer for all observations.
        played.frames.append({name: np.array(frame) for name, frame in to_streams(env, observation).items()})
        played.rewards.append(float(reward))
        if terminated or truncated:
            played.terminated, played.over = bool(terminated), True
            break
    return played


def _act(env: gym.Env, spec: WorldSpec, seed: int, rng: np.random.Generator, actor: Policy, count: int) -> np.ndarray:
    """Choose `count` actions of an episode, float32 `(count, W)`: the world may be asked to go on after its end.

    A policy that looks plays the episode once; past its end, and for one that does not look, actions come blindly.
    """
    blind = actor if isinstance(actor, BLIND) else make_policy(POLICY)
    actions: list[Any] = []
    if actor is not blind:
        actor.begin(env.action_space, rng)
        observation, over = env.reset(seed=seed)[0], False
        while len(actions) < count and not over:
            actions.append(actor.act(observation))
            observation, _, terminated, truncated, _ = env.step(actions[-1])
            over = terminated or truncated
    blind.begin(env.action_space, rng)
    actions += [blind.act(None) for _ in range(count - len(actions))]
    return np.array([codec.encode(spec.action, a) for a in actions]).astype(np.float32)
