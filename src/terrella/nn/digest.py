"""A number for what sessions remember, so that equal memories are found without comparing pairs.

Each slab is rounded to multiples of a tolerance and multiplied with fixed random odd numbers; sums wrap around at 64
bits. Equal memories have equal numbers, wherever their frames lie; others share one about once in 2^64 pairs. Numbers
that lie close to one another, but on both sides of a rounding edge, count as different.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import _mix
from .slabs import Slabs


def digest(slabs: Slabs, tolerance: float, whole: bool = True) -> Tensor:
    """Number the memory of each session, int64 `(batch,)`: recurrent slabs and time, and if `whole` visible frames."""
    total = _mix(slabs.time)
    for i, name in enumerate(sorted(name for name in slabs.recurrent if not slabs.spec.slabs[name].beside)):
        total = total + _folded(slabs.recurrent[name].reshape(slabs.batch, -1), tolerance, 2 * i)
    for segment in slabs.segments if whole else []:
        visible = slabs.visible(segment)
        for i, name in enumerate(sorted(segment.tensors)):
            frames = segment.tensors[name].movedim((slabs.spec.slabs[name].frame_axis or 0) + 1, 1)
            frames = frames.reshape(*segment.frames.shape, -1)
            found = _mix(_folded(frames, tolerance, 2 * i + 1) ^ _mix(segment.frames))
            total = total + (found.repeat_interleave(segment.repeat, 0) * visible).sum(1)
    return _mix(total)


def _folded(x: Tensor, tolerance: float, salt: int) -> Tensor:
    whole = (x.double() / tolerance).round().long() if x.is_floating_point() else x.long()
    factors = _mix(torch.arange(x.shape[-1], device=x.device) + (salt << 40)) | 1
    return _mix((whole * factors).sum(-1) + salt)
