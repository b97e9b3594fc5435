"""What really happens: futures of the true environment, or of held-out episodes, to hold a world against.

A future goes on from a moment (`moments.py`) for T actions of the same policy. Where the environment can be forked,
both the truth and its *twin* (same state, same actions, other chance) start from the moment's restored state, never
from the live simulator, so that restoring itself cannot be mistaken for chance.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..data import Dataset, Policy
from ..data.episode import Episode
from ..errors import ArenaError, SpecError
from ..spec import WorldSpec
from .moments import POLICY, SEED_TAG, Stage, held_out_seeds


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
    stage = Stage(env, spec, seed, taken, policy)
    for n in sizes:
        truth = _empty(spec, n, context, frames, marks if stage.fork else None)
        clock, skipped = time.perf_counter(), stage.skipped
        for row in range(n):
            _fill(truth, row, stage, marks, lead)
        truth.seconds, truth.skipped = time.perf_counter() - clock, stage.skipped - skipped
        yield truth


def from_dataset(
    dataset: Dataset, spec: WorldSpec, *, sizes: Sequence[int], context: int, frames: int, seed: int
) -> Iterator[Truth]:
    """Yield one `Truth` of `n` futures for each n in `sizes`, cut from the dataset's held-out episodes.

    Episodes are used in turn, each from its start, then again from later starts when more futures than episodes are
    asked for; futures of one episode form one group. Past an episode's end its own actions are repeated. There is no
    twin. Raises `SpecError` when no held-out episode is longer than the context.
    """
    rng = np.random.default_rng([SEED_TAG, seed])
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


def _fill(truth: Truth, row: int, stage: Stage, marks: Sequence[int], lead: int) -> None:
    """Play one future into row `row`, and its twin."""
    context = truth.context
    moment = stage.next(context, truth.actions.shape[1] - context, lead)
    if moment.state is not None:
        stage.restore(moment)
    future = stage.play(moment.actions[context:])
    truth.stepped += moment.steps + len(future.frames)
    truth.actions[row] = moment.actions
    for name, frames in truth.observations.items():
        for t, frame in enumerate([*moment.frames, *future.frames]):
            frames[row, t] = frame[name]
    length = len(future.frames)
    truth.rewards[row, :length], truth.length[row] = future.rewards, length
    truth.terminated[row, length - 1] = future.terminated
    truth.seeds[row] = truth.groups[row] = moment.seed
    if truth.twin is None or truth.twin_length is None:
        return
    stage.restore(moment)
    with contextlib.suppress(ArenaError):  # chance that cannot be drawn anew counts against no twin
        stage.redraw(moment.seed ^ 0x5EED)
    twin = stage.play(moment.actions[context:])
    truth.stepped += len(twin.frames)
    truth.twin_length[row] = len(twin.frames)
    for name, frames in truth.twin.items():
        for i, mark in enumerate(marks):
            if mark <= len(twin.frames):
                frames[row, i] = twin.frames[mark - 1][name]
