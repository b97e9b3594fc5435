"""A backbone in shards: of every tensor that learns, each worker keeps some rows (torch's fully_shard, FSDP2).

Parameters, gradients and what the optimiser remembers are split between steps. They are whole from the beginning of a
step's forward pass to the end of its backward pass, all at once: a decoder may ask the backbone several times in
between, so nothing smaller could be given back. The optimiser's steps are elementwise and see shards alone, but for
Muon's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError


def sharded(module: nn.Module) -> None:
    """Shard the parameters of a module in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # seconds to import: only who shards pays them

    mesh = init_device_mesh(next(module.parameters()).device.type, (dist.get_world_size(),))
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def require_rows(module: nn.Module) -> None:
    """Raise `ConfigError` where a parameter of a module cannot be split."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(f"{name} is a single number, which has no rows to be sharded by; leave shard out.")


def released(module: nn.Module, held_out: bool) -> Any:
    """Call a sharded module; where no backward pass follows, give back what it made whole."""
    from torch.distributed.fsdp import FSDPModule

    out = module(held_out)
    if held_out:
        assert isinstance(module, FSDPModule)
        module.reshard()
    return out


def gathered(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Make tensors whole that are in shards, one after another; all workers have to ask. keep: whether to have them."""
    out = {}
    for name, value in tensors.items():
        whole = value.full_tensor() if in_shards(value) else value  # pyright: ignore[reportAttributeAccessIssue]
        if keep:
            out[name] = whole
    return out


def in_shards(value: Tensor) -> bool:
    """Whether a worker holds only some rows of a tensor."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def like_shards(value: Tensor, like: Tensor) -> Tensor:
    """Split a whole tensor as `like` is split, where it is."""
    if not in_shards(like):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # All workers have it, so nothing needs to be sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


class ShardedMuon(torch.optim.Optimizer):
    """torch's Muon for matrices in shards: momentum is kept in shards, and its direction found where it is whole.

    To orthogonalise needs the whole matrix. Each update is therefore gathered, given to torch's own Muon without
    momentum, as the gradient of a matrix of zeros, and every worker takes its rows of what that makes of the zeros.
    """

    MOMENTUM = 0.95  # torch's default

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step down the gradients."""
        del closure
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                momentum = state["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
                ahead = p.grad.lerp(momentum, self.MOMENTUM)  # Nesterov's
                move = like_shards(_orthogonal_step(gathered({"": ahead})[""], group["lr"]), p)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(move)


def _orthogonal_step(update: Tensor, lr: float) -> Tensor:
    matrix = nn.Parameter(torch.zeros_like(update))
    matrix.grad = update
    plain: dict[str, Any] = {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    torch.optim.Muon([matrix], lr=lr, adjust_lr_fn="match_rms_adamw", **plain).step()
    return matrix.detach()
