"""Rotary positions, over time and over a token grid.

Ref: Su et al., RoFormer, arXiv 2104.09864, eq. 15. Differs: positions may have several axes, each given its share of
the channels (axial form), and the largest period follows the range of positions instead of 10,000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotation(positions: Tensor, channels: int, longest: float) -> Tensor:
    """Compute cosines and signed sines for positions `(..., axes)`: `(2, ..., channels)`.

    `longest` is the largest distance to tell apart, in positions; periods run from 2 to four times that.
    """
    axes = positions.shape[-1]
    share = [channels // 2 // axes + (1 if a < channels // 2 % axes else 0) for a in range(axes)]
    angles = []
    for axis, count in enumerate(share):
        periods = torch.logspace(0, 1, count, base=max(2.0 * longest, 2.0), dtype=torch.float64) * 2.0
        frequency = (2 * math.pi / periods).to(positions.device, positions.dtype)
        angles.append(positions[..., axis, None] * frequency)
    angle = torch.cat(angles, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the channel pairs of `x` `(..., channels)` by `turn` from `rotation`, which broadcasts against it."""
    a, b = x.chunk(2, -1)
    cos, sin = turn.to(x.dtype).unbind()
    return torch.addcmul(x * cos, torch.cat([b, a], -1), sin)
