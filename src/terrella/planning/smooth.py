"""Objectives of tensors, with a gradient: the same costs as `terrella.planning.objective`, of a `Dream`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine import Trail
from ..errors import ConfigError, did_you_mean
from .learned import Learned, latent
from .objective import Constraint, Distance, Effort, Function, Objective, Return, Sum


@dataclass(frozen=True)
class SmoothFuture:
    """A `Future` of tensors; images are numbers 0 to 1. Functions of one's own get it, and return tensors."""

    rows: Tensor
    reward: Tensor
    terminated: Tensor
    observation: dict[str, Tensor]
    problem: np.ndarray
    trail: Trail | None = None

    @property
    def alive(self) -> Tensor:
        """As of `Future`."""
        going = (1 - self.terminated[:, :-1]).cumprod(1)
        return torch.cat([torch.ones_like(self.terminated[:, :1]), going], 1)

    @property
    def last(self) -> Tensor:
        """As of `Future`."""
        return self.alive * torch.cat([self.terminated[:, :-1], torch.ones_like(self.terminated[:, -1:])], 1)


def smooth_cost(objective: Objective, future: SmoothFuture) -> Tensor:
    """What R futures cost, `(R,)`, with a gradient; raises `ConfigError` for an objective that has none."""
    if isinstance(objective, Sum):
        return torch.stack([weight * smooth_cost(part, future) for weight, part in objective.parts]).sum(0)
    if isinstance(objective, Return):
        weight = objective.discount ** torch.arange(future.reward.shape[1], device=future.reward.device)
        return -(weight * future.alive * future.reward).sum(1)
    if isinstance(objective, Effort):
        return (future.alive * future.rows.square().sum(-1)).sum(1)
    if isinstance(objective, Distance):
        apart = torch.stack([_apart(objective, name, future) for name in objective.goal]).sum(0)
        weight = future.last
        if objective.when == "sum":
            weight = future.alive + weight * torch.arange(weight.shape[1], device=weight.device).flip(0)
        return (weight * apart).sum(1)
    if isinstance(objective, Learned):
        alive = future.alive
        return objective.score(latent(future.trail), alive, alive[:, -1] * (1 - future.terminated[:, -1]))
    if isinstance(objective, Constraint):
        over = _called(objective.g, future, tuple(future.reward.shape))
        return objective.penalty * (future.alive * over.clamp(min=0).square()).sum(1)
    if isinstance(objective, Function):
        return _called(objective.function, future, (len(future.rows),))
    raise ConfigError(
        f"objective {type(objective).__name__} has no gradient; use those of terrella.planning, or a function that is "
        "written with torch."
    )


def _called(function, future: SmoothFuture, shape: tuple[int, ...]) -> Tensor:
    try:
        given = function(future)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"a function of an objective has no gradient ({error}); write it with torch.") from error
    if not isinstance(given, Tensor) or given.shape != shape:
        what = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ConfigError(f"a function of an objective gave {what}; a gradient needs a tensor of shape {shape}.")
    return given


def _apart(objective: Distance, name: str, future: SmoothFuture) -> Tensor:
    if name not in future.observation:
        raise did_you_mean(name, future.observation, "stream")
    seen, goal = future.observation[name], np.asarray(objective.goal[name])
    image = goal.dtype == np.uint8
    goal = goal[None] if goal.ndim == seen.ndim - 2 else goal[future.problem]
    scale = np.broadcast_to(255.0 if image else objective.scale.get(name, 1.0), goal.shape[1:])
    unit = torch.from_numpy(goal / 255 if image else goal.astype(np.float64)).to(seen)[:, None]
    gap = (seen - unit) / (1.0 if image else torch.from_numpy(np.array(scale, np.float64)).to(seen))
    return (gap.square() if objective.norm == "l2" else gap.abs()).flatten(2).mean(-1)
