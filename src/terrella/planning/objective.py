"""What makes an imagined future good: objectives are values that give every future a cost, and lower is better.

They add up and scale: `Return() * 1.0 + 0.01 * Effort()`. An episode that has ended neither pays nor costs any more. A
world only says how likely its end is, so each step counts by the probability that the episode is still going on:

    cost = sum_t  P(going on at t) c_t,     P(going on at t) = prod_{s<t} (1 - end_s)

The reward of the very step that ends it still counts. What depends on the last frame is an expectation over which frame
is the last one. `observe` says whether an objective looks at frames: where none does, none is decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..engine import Trail
from ..errors import ConfigError, SpecError, did_you_mean


@dataclass(frozen=True)
class Future:
    """R imagined futures of H steps, of which several may belong to one problem.

    rows: actions `(R, H, W)`. reward, terminated: as predicted, `(R, H)`, the latter the probability that the episode
    ends with that step. observation: stream -> `(R, H, ...)`, empty where no objective looks. problem: int64 `(R,)`,
    which of the B problems each belongs to. trail: the same frames as latents, after those that the engine recalls;
    None where it recalls none.
    """

    rows: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    observation: dict[str, np.ndarray] = field(default_factory=dict)
    problem: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    trail: Trail | None = None

    @property
    def alive(self) -> np.ndarray:
        """Probability that the episode is going on when a step is taken, `(R, H)`: 1 at the first."""
        going = np.cumprod(1 - self.terminated[:, :-1].astype(np.float64), 1)
        return np.concatenate([np.ones((len(going), 1)), going], 1)

    @property
    def last(self) -> np.ndarray:
        """Probability that a frame is the episode's last one, or the last of the horizon, `(R, H)`; sums to 1."""
        ends = self.terminated.astype(np.float64).copy()
        ends[:, -1] = 1.0
        return self.alive * ends


class Objective(ABC):
    """Gives each future a cost. Frozen, without memory: the same future always costs the same."""

    @property
    def observe(self) -> bool:
        """Whether it looks at frames."""
        return False

    @abstractmethod
    def cost(self, future: Future) -> np.ndarray:
        """The cost of each future, `(R,)`. Infinity refuses one; NaN is an error."""

    def __add__(self, other: Objective) -> Objective:
        return Sum(((1.0, self), (1.0, as_objective(other))))

    def __mul__(self, weight: float) -> Objective:
        return Sum(((float(weight), self),))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Sum(Objective):
    """Several objectives, each times its weight."""

    parts: tuple[tuple[float, Objective], ...]

    @property
    def observe(self) -> bool:
        """Whether any of them looks at frames."""
        return any(part.observe for _, part in self.parts)

    def cost(self, future: Future) -> np.ndarray:
        """Add them up."""
        return np.sum([weight * part.cost(future) for weight, part in self.parts], 0)


@dataclass(frozen=True)
class Return(Objective):
    """Minus the predicted return, `- sum_t discount^t P(going on at t) r_t`.

    Raises `ConfigError` for a discount outside (0, 1].
    """

    discount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ConfigError(f"discount is {self.discount}; it must lie in (0, 1].")

    def cost(self, future: Future) -> np.ndarray:
        """See the class."""
        weight = self.discount ** np.arange(future.reward.shape[1])
        return -(weight * future.alive * future.reward).sum(1)


@dataclass(frozen=True)
class Distance(Objective):
    """How far frames are from a goal: images as numbers 0 to 1, vectors as they are, the mean over their entries.

    goal: stream -> one frame for all problems, or one each, `(B, ...)`; streams left out do not matter. when: `last`
    looks at the last frame, `sum` at all; an episode that ends stays where it ended, so that ending is no way to be
    spared the distance. norm: `l2` squares differences, `l1` takes their size. scale: stream -> numbers by which the
    differences of a vector are divided (infinity: does not matter).

    `cost` raises `SpecError` for goals that do not fit, `UnknownName` for a stream there is not.
    """

    goal: Mapping[str, np.ndarray]
    when: Literal["last", "sum"] = "last"
    norm: Literal["l2", "l1"] = "l2"
    scale: Mapping[str, np.ndarray | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.when not in ("last", "sum"):
            raise did_you_mean(str(self.when), ("last", "sum"), "moment of a distance")
        if self.norm not in ("l2", "l1"):
            raise did_you_mean(str(self.norm), ("l2", "l1"), "norm of a distance")

    @property
    def observe(self) -> bool:
        """It looks at frames."""
        return True

    def cost(self, future: Future) -> np.ndarray:
        """See the class."""
        apart = np.sum([self._apart(future, name) for name in self.goal], 0)  # (R, H)
        weight = future.last
        if self.when == "sum":  # a frame that is the last one counts for the steps that do not come as well
            weight = future.alive + weight * np.arange(weight.shape[1])[::-1]
        return (weight * apart).sum(1)

    def _apart(self, future: Future, name: str) -> np.ndarray:
        if name not in future.observation:
            raise did_you_mean(name, future.observation, "stream")
        seen, goal = future.observation[name], np.asarray(self.goal[name])
        shape, image = seen.shape[2:], seen.dtype == np.uint8
        if image and goal.dtype != np.uint8:
            raise SpecError(f"the goal of stream {name!r} is {goal.dtype}; images are uint8, 0 to 255.")
        if goal.shape == shape:
            goal = goal[None]
        elif goal.shape[1:] == shape and len(goal) > future.problem.max(initial=0):
            goal = goal[future.problem]
        else:
            raise SpecError(
                f"the goal of stream {name!r} has shape {goal.shape}; expected {shape}, or (B, *{shape}) with one for "
                "each problem."
            )
        gap = seen.astype(np.float32 if image else np.float64) - goal[:, None]
        gap = gap / (255 if image else np.asarray(self.scale.get(name, 1.0), np.float64))
        gap = np.square(gap) if self.norm == "l2" else np.abs(gap)
        return gap.reshape(*gap.shape[:2], -1).mean(-1, dtype=np.float64)


@dataclass(frozen=True)
class Effort(Objective):
    """What actions cost by their size: `sum_t P(going on at t) |a_t|^2`, over all W numbers of a row."""

    def cost(self, future: Future) -> np.ndarray:
        """See the class."""
        return (future.alive * np.square(future.rows).sum(-1)).sum(1)


@dataclass(frozen=True)
class Constraint(Objective):
    """A penalty where `g <= 0` does not hold: `penalty * sum_t P(going on at t) max(0, g_t)^2`.

    g: a function of a `Future` that returns numbers `(R, H)`, one for each step. looks: whether it needs frames.
    """

    g: Callable[[Future], np.ndarray]
    penalty: float = 1e3
    looks: bool = True

    @property
    def observe(self) -> bool:
        """Whether `g` looks at frames."""
        return self.looks

    def values(self, future: Future) -> np.ndarray:
        """What `g` gives, float64 `(R, H)`; raises `ConfigError` where that is not a number a step."""
        over = np.asarray(self.g(future), np.float64)
        if over.shape != future.reward.shape:
            raise ConfigError(f"a constraint gave shape {over.shape}; expected {future.reward.shape}, one each step.")
        return over

    def cost(self, future: Future) -> np.ndarray:
        """See the class; raises `ConfigError` as `values` does."""
        over = self.values(future)
        return self.penalty * (future.alive * np.square(np.maximum(over, 0.0))).sum(1)


@dataclass(frozen=True)
class Function(Objective):
    """A function of your own, from a `Future` to costs `(R,)`. looks: whether it needs frames."""

    function: Callable[[Future], np.ndarray]
    looks: bool = True

    @property
    def observe(self) -> bool:
        """Whether the function looks at frames."""
        return self.looks

    def cost(self, future: Future) -> np.ndarray:
        """See the class."""
        return np.asarray(self.function(future), np.float64)


def as_objective(given: Objective | Callable[[Future], np.ndarray]) -> Objective:
    """Return an objective from itself or a function of a `Future`; raises `ConfigError` for anything else."""
    if isinstance(given, Objective):
        return given
    if callable(given):
        return Function(given)
    raise ConfigError(f"objective is a {type(given).__name__}; expected an Objective or a function of a Future.")
