"""One world trained by several processes: each takes its rows of every batch, and all of them take the same step.

    batch       what one process would have drawn, noise included; worker r of n has its r-th part (`nn.noise.Rows`)
    gradient    torch's DistributedDataParallel, the mean over workers, each weighted by its share of the rows
    sharded     torch's fully_shard (FSDP2) instead: parameters, gradients and the optimiser's memory are split

The batch is divided and not enlarged, so that a checkpoint of several workers is one of a single process, and the other
way round. All workers take the same branches: their streams go on alike, and what a clock or a person decides (the end
of a budget in seconds, a checkpoint that is due, a stop) is decided by worker 0. Models know nothing of it.

The loss is the forward pass of a small module around what learns, since torch's wrappers look for the forward pass of a
module, and a world's parts are called by other methods, several times a step. Parameters that a step leaves unused are
looked for in each step, as branches differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from ..nn.noise import Rows
from .presets import TrainingConfig

Loss = Callable[[bool], tuple[Tensor, dict[str, Tensor]]]
"""`held_out -> (loss, parts)`: of the next batch, or of data that is never trained on (always the same)."""


@dataclass(frozen=True)
class Team:
    """The processes that train one world; by default there is one.

    rank: the number of this one among `workers`, which have joined torch's default process group. shard: whether the
    backbone's phase is sharded. stop: asked after each step, of worker 0 alone: whether all shall stop there, as if
    interrupted. Raises `ConfigError` for numbers that make no team.
    """

    rank: int = 0
    workers: int = 1
    shard: bool = False
    stop: Callable[[], bool] = bool

    def __post_init__(self) -> None:
        require_team(self.workers, self.shard)
        if not 0 <= self.rank < self.workers:
            raise ConfigError(f"rank is {self.rank}; of {self.workers} workers it is from 0 to {self.workers - 1}.")

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.workers == 1

    @property
    def leads(self) -> bool:
        """Whether this one writes and decides."""
        return self.rank == 0

    def stream(self, device: torch.device, seed: int) -> torch.Generator:
        """Begin a random stream that goes on alike in all workers."""
        return (torch.Generator(device) if self.alone else Rows(device)).manual_seed(seed)

    def rows(self, count: int) -> tuple[int, int, int]:
        """Divide a batch of `count` rows as evenly as they go: `(first, last, count)` of this worker."""
        each, more = divmod(count, self.workers)
        first = self.rank * each + min(self.rank, more)
        return first, first + each + (self.rank < more), count

    def agree(self, *values: float) -> tuple[float, ...]:
        """Return the numbers that worker 0 has."""
        if self.alone:
            return values
        told = torch.tensor(values, dtype=torch.float64)  # on the CPU: no device waits
        dist.broadcast(told, 0)
        return tuple(told.tolist())

    def same(self, value: float) -> bool:
        """Whether all workers have the same number; waits for them."""
        mine = torch.tensor([value, -value], dtype=torch.float64)
        if not self.alone:
            dist.all_reduce(mine, dist.ReduceOp.MAX)
        return bool(mine[0] == -mine[1])

    def whole(self, value: Tensor, parts: dict[str, Tensor], rows: tuple[int, int, int]) -> Any:
        """Turn the loss of this worker's rows, and its parts, into those of the batch, with the gradient of its own."""
        if self.alone:
            return value, parts
        first, last, count = rows
        weight = (last - first) * self.workers / count  # gradients are averaged over workers, not over rows
        value = weight * value
        numbers = torch.stack([value.detach().float(), *(weight * part.float() for part in parts.values())])
        dist.all_reduce(numbers)
        total, *means = (numbers / self.workers).unbind()
        # A loss that is not finite anywhere is so everywhere, and all workers give up in the same step.
        return value + (total - value).detach(), dict(zip(parts, means))


class Spread(nn.Module):
    """What learns, with the loss as its forward pass, spread over a team. Make it before the optimiser."""

    def __init__(self, part: nn.Module, team: Team, shard: bool):
        super().__init__()
        self.part, self.loss = part, _unset
        self.shard = shard and team.shard
        if self.shard:
            from .sharding import sharded

            sharded(self)

    def forward(self, held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss."""
        return self.loss(held_out)

    def bound(self, loss: Loss) -> Loss:
        """Return the loss as all workers compute it; gradients of the next batch's come out averaged."""
        self.loss = loss
        if self.shard:
            from .sharding import released

            return lambda held_out: released(self, held_out)
        with warnings.catch_warnings():  # some versions of torch have another name for `broadcast_buffers`
            warnings.simplefilter("ignore", FutureWarning)
            averaged = DistributedDataParallel(self, broadcast_buffers=False, find_unused_parameters=True)
        return lambda held_out: self(True) if held_out else averaged(False)  # what is held out needs no gradients


def spread(part: nn.Module, team: Team, shard: bool = False) -> Spread | None:
    """Spread a part over a team; None for one process, or where nothing learns."""
    learns = any(p.requires_grad for p in part.parameters())
    return None if team.alone or not learns else Spread(part, team, shard)


def require_team(workers: int, shard: bool) -> None:
    """Raise `ConfigError` for a number of workers that there cannot be."""
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected a number of processes, at least 1.")
    if shard and workers == 1:
        raise ConfigError("shard splits a world among workers, and there is 1; ask for 2 or more, or leave shard out.")


def require_shares(recipe: TrainingConfig, workers: int, shard: bool = False) -> None:
    """Raise `ConfigError` for a recipe that so many workers cannot follow as one process would."""
    for name in ("batch", "tokenizer_batch"):
        size = getattr(recipe, name)
        if size % workers:
            near = max(1, round(size / workers)) * workers
            raise ConfigError(
                f"{name} is {size}, which {workers} workers cannot share evenly: all would wait for the largest share. "
                f"Take TrainingConfig({name}={near}), or a number of workers that divides {size}."
            )
    if recipe.recycled and workers > 1:
        raise ConfigError(
            f"recycled is {recipe.recycled}, and workers would each keep errors of their own rows alone; set it to 0, "
            "or train in one process."
        )
    if recipe.spectral is not None and shard:
        raise ConfigError(
            f"spectral is {recipe.spectral}: the norm of a matrix is known where it is whole; leave it None, or leave "
            "shard out."
        )


def _unset(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
    raise AssertionError("bound to no loss yet")
