"""Heads as objectives: what a plan's future is worth beyond its horizon, and how far it can be believed.

They read latents (`Future.trail`), which engines hand out that recall frames: `Engine(world, recall=4)`. Nothing is
decoded for them, and they have gradients.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import heads
from ..engine import Trail
from ..errors import ConfigError
from .objective import Future, Objective


class Learned(Objective):
    """An objective of latents: `score` gives it for a trail, with or without a gradient."""

    @abstractmethod
    def score(self, trail: Trail, alive: Tensor, beyond: Tensor) -> Tensor:
        """The cost of R futures, `(R,)`.

        alive: probability that the episode is going on at each step, `(R, H)`; beyond: after the last one, `(R,)`.
        """

    @torch.no_grad()
    def cost(self, future: Future) -> np.ndarray:
        """See `Objective`; raises `ConfigError` for futures without latents."""
        alive = torch.from_numpy(future.alive)
        beyond = alive[:, -1] * (1 - torch.from_numpy(future.terminated[:, -1].astype(np.float64)))
        return self.score(latent(future.trail), alive, beyond).double().cpu().numpy()


def latent(trail: Trail | None) -> Trail:
    """The trail of a future; raises `ConfigError` where there is none."""
    if trail is None:
        raise ConfigError(
            "heads read latents, which these futures do not have. Plan with an engine that recalls frames: "
            "Engine(world, recall=4), and the state that it starts."
        )
    return trail


@dataclass(frozen=True)
class Value(Learned):
    """Minus what is still to come after the horizon: `- discount^H P(going on after H) V(last frame)`.

    To be added to a `Return` of the same discount: `Return(0.99) + Value(world.head("value"))`. head: a value head.
    discount: None is the one that the head was fitted with.
    """

    head: heads.Value
    discount: float | None = None

    def score(self, trail: Trail, alive: Tensor, beyond: Tensor) -> Tensor:
        """See the class."""
        discount = self.head.config.discount if self.discount is None else self.discount
        value = self.head(self.head.last(trail))
        return -(discount ** alive.shape[1]) * beyond.to(value) * value


@dataclass(frozen=True)
class Energy(Learned):
    """The mean energy of the steps of a future, each counting by the probability that the episode goes on.

    Low where frames follow from one another as in recordings. head: an energy head.
    """

    head: heads.Energy

    def score(self, trail: Trail, alive: Tensor, beyond: Tensor) -> Tensor:
        """See the class."""
        del beyond
        energy = self.head(self.head.every(trail, alive.shape[1])).view(alive.shape)
        return mean_alive(energy, alive)


@dataclass(frozen=True)
class Inconsistency(Learned):
    """How little the frames of a future look as if its actions had been taken: the mean of -log p(action | frames).

    head: an inverse-dynamics head.
    """

    head: heads.Inverse

    def score(self, trail: Trail, alive: Tensor, beyond: Tensor) -> Tensor:
        """See the class."""
        del beyond
        surprise = -self.head.log_prob(self.head.every(trail, alive.shape[1])).view(alive.shape)
        return mean_alive(surprise, alive)


@dataclass(frozen=True)
class Disagreement(Learned):
    """How far the members of a value head lie apart at the frames of a future, on average: little was recorded there.

    head: a value head of several members.
    """

    head: heads.Value

    def score(self, trail: Trail, alive: Tensor, beyond: Tensor) -> Tensor:
        """See the class."""
        del beyond
        apart = self.head.members(self.head.every(trail, alive.shape[1])).std(0, correction=0)
        return mean_alive(apart.view(alive.shape), alive)


def mean_alive(values: Tensor, alive: Tensor) -> Tensor:
    """The mean over steps `(R, H)`, `(R,)`, each counting by the probability that it is taken."""
    weight = alive.to(values)
    return (weight * values).sum(1) / weight.sum(1)


class StateValue:
    """A value head as the `value` of a tree search: what is still to come after the last frame of futures."""

    def __init__(self, head: heads.Value):
        self.head = head

    @torch.no_grad()
    def __call__(self, future: Future) -> np.ndarray:
        """V of the last frames, `(R,)`."""
        return self.head(self.head.last(latent(future.trail))).double().cpu().numpy()


class PolicyPrior:
    """A policy head as the `prior` of Monte-Carlo tree search: how likely each of the actions tried there is.

    temperature: 1 as recorded, more for a prior that is nearer to uniform.
    """

    def __init__(self, head: heads.Policy, temperature: float = 1.0):
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}; it must be more than 0.")
        self.head, self.temperature = head, temperature

    @torch.no_grad()
    def over(self, trail: Trail, rows: np.ndarray) -> np.ndarray:
        """Probabilities `(R, A)` of actions `(R, A, W)` after the last frames of a trail; sums of 1."""
        laws = self.head(self.head.last(trail))
        wide = type(laws)(laws.mean[:, None], laws.std[:, None], laws.log_probs[:, None])
        given = torch.tensor(rows).to(laws.mean)
        return (self.head.law.log_prob(wide, given) / self.temperature).softmax(1).double().cpu().numpy()
