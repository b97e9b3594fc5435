"""The ground as a viewer in the first person has it: quarter turns, the cells in view, where a camera shows them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .latents import TokenSpec


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


def bearings(tokens: TokenSpec, reach: int, angle: float, dim: int) -> tuple[Tensor, Tensor]:
    """Embed where tokens and cells of the wedge lie, `(N, D)` and `(K, D)`: alike where one is seen in the other.

    For a level camera a cell's column in the image is `tan(bearing) / tan(angle / 2)`, and how far below the horizon
    its ground is goes as one over its distance. Random waves over these two make the embeddings.

    Ref: Tancik et al., arXiv 2006.10739 (random Fourier features).
    """
    down, right = wedge(reach, angle).double().unbind(-1)
    ahead = (-down).clamp(min=0.5)
    across = (right / ahead / math.tan(math.radians(angle / 2))).clamp(-1.5, 1.5)
    row, column = torch.tensor(tokens.places, dtype=torch.float64).unbind(-1)
    columns = 2 * (column + 0.5) / (column.max() + 1) - 1
    rows = (2 * (row + 0.5) / (row.max() + 1) - 1).clamp(min=0)
    waves, phase = 3 * torch.randn(2, dim, dtype=torch.float64), 2 * math.pi * torch.rand(dim, dtype=torch.float64)
    image, ground = torch.stack([columns, rows], -1), torch.stack([across, 1 / ahead], -1)
    return torch.cos(image @ waves + phase).float(), torch.cos(ground @ waves + phase).float()
