"""Small layers shared by backbones and tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last axis. Ref: Zhang & Sennrich, arXiv 1910.07467.

    Differs from `torch.nn.RMSNorm`: the weight follows the input's type, so the fused kernel serves mixed precision.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`."""
        return rms(x, self.weight.to(x.dtype))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """Divide the last axis by its root mean square and multiply by `weight`."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        if weight.ndim == 1:
            return F.rms_norm(x, weight.shape, weight, EPSILON)
        return F.rms_norm(x, x.shape[-1:], None, EPSILON) * weight
    if x.requires_grad:
        return _Learnt.apply(x, weight)
    # For the few tokens of one frame the fused kernel takes three times as long as these.
    return (x * _inverse(x)).mul_(weight)


def _inverse(x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_epsilon(x.dtype), norm, norm, value=1 / x.shape[-1]).rsqrt_()


class _Learnt(torch.autograd.Function):
    """The same with its derivative by hand: on a CPU, a third of the time of what is derived step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        scale = _inverse(x)
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        unit, scale, weight = ctx.saved_tensors
        inner = grad * weight
        along = (inner * unit).mean(-1, keepdim=True)
        return torch.addcmul(inner, unit, along, value=-1).mul_(scale), (grad * unit).sum_to_size(weight.shape)


@lru_cache
def _epsilon(dtype: torch.dtype) -> Tensor:
    return torch.full((), EPSILON, dtype=dtype)


class Narrow(nn.Linear):
    """A linear layer of a few outputs, of which each row is the same bits in any company.

    For up to three outputs matrix kernels of some processors sum the rows at a batch's end in another order.
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute `x @ weight.T + bias`."""
        if self.out_features > 3:
            return super().forward(x)
        kind = torch.promote_types(x.dtype, torch.float32)
        return (x[..., None, :].to(kind) * self.weight.to(kind)).sum(-1).to(x.dtype) + self.bias.to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward layer, `(..., D)` -> `(..., D)`. Ref: Shazeer, arXiv 2002.05202, eq. 6."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.enter = nn.Linear(dim, 2 * hidden, bias=False)
        self.leave = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute `leave(silu(a) * b)` where `a, b = enter(x)`."""
        a, b = self.enter(x).chunk(2, -1)
        return self.leave(F.silu(a) * b)


class LevelEmbedding(nn.Module):
    """Embeds a level in [0, 1] (signal level, step length) by sines and a linear layer: `(...)` -> `(..., D)`.

    The frequencies keep their precision whatever the weights are cast to: rounded to bfloat16, the fastest waves would
    be off by a radian.
    """

    frequency: Tensor

    def __init__(self, dim: int, waves: int = 16):
        super().__init__()
        self.linear = nn.Linear(2 * waves, dim)
        # Half a period to 64 periods over [0, 1]: fine enough to tell 1/128 apart.
        frequency = math.pi * torch.logspace(0, 7, waves, base=2.0)
        self.register_buffer("frequency", frequency, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LevelEmbedding:
        kept = self.frequency
        super()._apply(fn, recurse)
        self.frequency = kept.to(self.frequency.device)
        return self

    def forward(self, level: Tensor) -> Tensor:
        """Embed `level`."""
        angle = level[..., None] * self.frequency
        return self.linear(torch.cat([angle.sin(), angle.cos()], -1).to(self.linear.weight.dtype))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale normalised features, 1 leaving them as they are, and shift them.

    Ref: Peebles & Xie, arXiv 2212.09748, section 3.2 (adaLN).
    """
    return torch.addcmul(shift, x, scale)
