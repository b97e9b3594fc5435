"""The ground as a viewer in the first person has it: quarter turns, and the cells in view."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quarter_turns(cells: Tensor, left: Tensor) -> Tensor:
    """Turn steps `(..., 2)` (down, right) by `left` `(...)` quarters to the left, so that up becomes left."""
    r, c = cells.unbind(-1)
    turned = torch.stack(
        [torch.stack([r, c], -1), torch.stack([-c, r], -1), torch.stack([-r, -c], -1), torch.stack([c, -r], -1)], -2
    )
    index = (left % 4)[..., None, None].expand(*turned.shape[:-2], 1, 2)
    return turned.gather(-2, index).squeeze(-2)


def wedge(reach: int, angle: float, samples: int = 5) -> Tensor:
    """List the cells that a viewer at (0, 0) who faces up sees within `angle` degrees: int64 `(K, 2)`, down and right.

    A cell counts if any of `samples x samples` points inside it lies in the wedge; `reach` bounds rows and columns.
    """
    axis = torch.arange(-reach, reach + 1)
    cells = torch.cartesian_prod(axis, axis)
    inner = (torch.arange(samples) + 0.5) / samples - 0.5
    points = cells[:, None].double() + torch.cartesian_prod(inner, inner).double()
    ahead, side = -points[..., 0], points[..., 1].abs()
    inside = (ahead > 0) & (torch.atan2(side, ahead) <= math.radians(angle / 2))
    return cells[inside.any(1)]
