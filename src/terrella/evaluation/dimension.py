"""One atomic dimension of a world model: a question with few answers, and items in which one factor moves at a time.

An item is a *scene*: the simulator's named quantities are set, here and there again at later frames, and what is seen
is the context. In a *layout* (one reset, one stream of chance) every combination of the factors is built while all else
is held, and the answer is one of the factors, so that answers are equally frequent in each layout and a blind guess is
right in exactly 1 of `classes`.

A dimension of *perception* asks what is there: a readout is fitted on the features of some layouts and tested on
others (`perception.py`). One of *prediction* has `branches`, actions to tell apart by their futures: a fork matrix with
k of them (`prediction.py`).

Ref: Gao et al. 2025, arXiv 2506.21876 (WM-ABench: 16 dimensions of perception and 7 of prediction).
Differs: simulators, pictures and sentences are our own. Answers are read out of a world rather than chosen by it, and
no question is put into words, so that an item asks of fixed things ("the red one") what theirs name in a sentence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas import describe, forkable, make, to_streams
from ..arenas.base import Forkable
from ..arenas.quantity import Value
from ..errors import ArenaError, SpecError
from ..spec import WorldSpec
from .source import make_env

Aspect = Literal[
    "visual", "spatial", "temporal", "quantitative", "motion", "mechanistic", "transitive", "compositional"
]
Changes = dict[int, dict[str, Any]]
# Chance of a layout, levels of the factors, quantities after the reset -> frame -> quantities set before it is seen.
Build = Callable[[np.random.Generator, Mapping[str, Any], Mapping[str, Value]], Changes]


@dataclass(frozen=True)
class Dimension:
    """A question.

    id: WM-ABench's. asks: in words. arena, settings: the environment and what it is made with. classes: number of
    answers. factors: name -> levels; `answer` is 0 to classes-1, save in predictions, which have none. build: makes the
    scene. approximates: how it falls short of the published dimension, "" where it does not. frames: of a context.
    still: whether nothing moves between frames by itself (teleport and render), else the simulator steps under a rest.
    branches: `(spec, chance) -> (k, T, W)`, the actions of a prediction, k = classes.
    """

    id: str
    aspect: Aspect
    asks: str
    arena: str
    classes: int
    build: Build
    factors: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    approximates: str = ""
    frames: int = 4
    still: bool = False
    branches: Callable[[WorldSpec, np.random.Generator], np.ndarray] | None = None

    @property
    def chance(self) -> float:
        """What a blind guess earns."""
        return 1 / self.classes

    @property
    def combinations(self) -> int:
        """How many items a layout has."""
        return math.prod(len(levels) for levels in self.factors.values())

    def make(self) -> gym.Env:
        """Make its environment."""
        return make(self.arena, **self.settings)

    def make_for(self, spec: WorldSpec) -> gym.Env:
        """Make its environment as a world's was recorded, save for the dimension's own settings.

        Raises `SpecError` for a world of another environment, or where these settings change what is seen or done.
        """
        if spec.env.id != self.arena:
            raise SpecError(f"its scenes are of {self.arena}, not of {spec.env.id or 'an environment without a name'}.")
        return make_env(spec, replace(spec.env, kwargs={**spec.env.kwargs, **self.settings}))

    def levels(self) -> Iterator[dict[str, Any]]:
        """Every combination of the factors."""
        for values in itertools.product(*self.factors.values()):
            yield dict(zip(self.factors, values))


@dataclass
class Items:
    """n items. observations: stream -> `(n, c+1, ...)`. past: `(n, c, W)`, rests. states: saved after the context.

    layouts: `(n,)`. factors: name -> `(n,)`, places in `Dimension.factors`. traces: `(n, (c+1) * Q)`, all quantities at
    every frame, for an oracle.
    """

    observations: dict[str, np.ndarray]
    past: np.ndarray
    states: list[bytes]
    layouts: np.ndarray
    factors: dict[str, np.ndarray]
    traces: np.ndarray

    def __len__(self) -> int:
        return len(self.past)


def build_items(dimension: Dimension, env: gym.Env, layouts: int, seed: int = 0) -> Items:
    """Build all items of `layouts` layouts in `env`, made by `dimension.make()`.

    Raises `ArenaError` for an environment that cannot be forked, or whose quantities do not take a scene.
    """
    spec, fork = describe(env), forkable(env)
    if fork is None:
        raise ArenaError(f"{dimension.arena} cannot be forked, so dimension {dimension.id!r} has no items.")
    rest = resting(spec)
    frames: list[list[dict[str, np.ndarray]]] = []
    states, traces, labels, places = [], [], [], []
    numbered = {name: {level: i for i, level in enumerate(levels)} for name, levels in dimension.factors.items()}
    for layout in range(layouts):
        env.reset(seed=int(np.random.default_rng([seed, layout, 1]).integers(2**31)))
        begun, now = fork.save(), fork.quantities()
        for levels in dimension.levels():
            fork.restore(begun)
            changes = dimension.build(np.random.default_rng([seed, layout, 2]), levels, now)
            seen, trace = _show(dimension, env, spec, fork, changes)
            frames.append(seen)
            traces.append(trace)
            states.append(fork.save())
            labels.append(layout)
            places.append([numbered[name][level] for name, level in levels.items()])
    if len({len(trace) for trace in traces}) > 1:
        raise ArenaError(
            f"layouts of dimension {dimension.id!r} have different numbers of things; fix their count in its settings."
        )
    observations = {n: np.stack([np.stack([f[n] for f in item]) for item in frames]) for n in spec.modelled}
    past = np.broadcast_to(rest.astype(np.float32), (len(frames), dimension.frames - 1, rest.size)).copy()
    columns = np.array(places, np.int64).reshape(len(frames), len(dimension.factors))
    factors = {name: columns[:, i] for i, name in enumerate(dimension.factors)}
    return Items(observations, past, states, np.array(labels), factors, np.array(traces))


def resting(spec: WorldSpec) -> np.ndarray:
    """The row of an action that does nothing, float64 `(W,)`: the spec's own, else zeros."""
    return np.zeros(codec.width(spec.action)) if spec.noop is None else np.array(spec.noop, np.float64)


def _show(
    dimension: Dimension, env: gym.Env, spec: WorldSpec, fork: Forkable, changes: Changes
) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Play one scene: its frames, and all quantities at each, flat."""
    seen, trace, rest = [], [], codec.decode(spec.action, resting(spec))
    observation: Any = fork.last_observation()
    for t in range(dimension.frames):
        if t and not dimension.still:
            observation = env.step(rest)[0]
        if t in changes:
            observation = fork.set(changes[t])
        seen.append({name: np.array(frame) for name, frame in to_streams(env, observation).items()})
        trace.append(np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in fork.quantities().values()]))
    return seen, np.concatenate(trace)
