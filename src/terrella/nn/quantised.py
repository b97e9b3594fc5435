"""Weights kept as 8 or 4 bit whole numbers, which save bytes and not time: they are spread out whenever they are read.

A row is what one output reads. With 8 bits it has one scale; with 4 bits it is cut into even groups of at most 32, each
with a scale of its own, which makes about 4.5 bits a weight. Codes are symmetric, zero stays zero, and scales are
bfloat16, whose range is that of float32: no group is too small or too large for it.

    w' = scale * code,    scale = max|w| / q,    code = round(w / scale),    q = 127 or 7,    |w - w'| <= scale / 2
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

GROUP = 32  # weights that share a scale, at most, with 4 bits
SHORT = 64  # rows shorter than this are left alone: there is little to save
_TINY = torch.finfo(torch.float32).tiny


class Quantised(nn.Module):
    """A parametrization (`torch.nn.utils.parametrize`): from codes and scales to a weight, and back.

    Codes are int8 `(rows, groups, size)`, two to a byte with 4 bits; scales bfloat16 `(rows, groups)`. The weight comes
    in `dtype`, in the shape and the memory order of the one it was made for.
    """

    def __init__(self, weight: Tensor, bits: int, dtype: torch.dtype):
        super().__init__()
        self.bits, self.dtype = bits, dtype
        # Rows are cut in the order they lie in memory, so that a channels-last kernel comes back as one.
        self.order = sorted(range(weight.ndim), key=weight.stride, reverse=True)
        self.back = [self.order.index(axis) for axis in range(weight.ndim)]
        self.rest = [weight.shape[axis] for axis in self.order[1:]]
        self.length = weight[0].numel()
        self.groups = ceil(self.length / GROUP) if bits == 4 else 1
        self.size = 2 * ceil(self.length / (2 * self.groups)) if bits == 4 else self.length

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Round a weight to codes and scales."""
        rows = weight.permute(self.order).flatten(1).float()
        rows = F.pad(rows, (0, self.groups * self.size - self.length)).unflatten(1, (self.groups, self.size))
        most = 2 ** (self.bits - 1) - 1
        scale = (rows.abs().amax(-1) / most).clamp(min=_TINY).bfloat16()
        # Rounded with the scale as it is kept: its own rounding then costs range, a quarter of a step at most.
        codes = (rows / scale.float()[..., None]).round().clamp(-most, most).to(torch.int8)
        if self.bits == 4:
            low, high = codes.chunk(2, -1)
            codes = (low & 15) | (high << 4)
        return codes, scale

    def forward(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Compute the weight."""
        if self.bits == 4:
            codes = torch.cat([codes << 4 >> 4, codes >> 4], -1)  # shifting to the right repeats the sign
        rows = codes.to(self.dtype).mul_(scale.to(self.dtype)[..., None])
        rows = rows.flatten(1)[:, : self.length].contiguous()  # a copy only where groups were filled up
        return rows.unflatten(1, self.rest).permute(self.back)


def quantise(module: nn.Module, weight: Tensor, bits: int, dtype: torch.dtype) -> None:
    """Let a linear or convolution layer keep `weight` in 8 or 4 bits and compute in `dtype`.

    Other layers, and rows of fewer than 64 weights, are left as they are. The module's own `weight` is only read from
    now on; its name in the state dict is torch's (`parametrizations.weight.original0`: codes, `original1`: scales).
    """
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or weight[0].numel() < SHORT:
        return
    module.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    parametrize.register_parametrization(module, "weight", Quantised(module.weight, bits, dtype), unsafe=True)
