"""Between an image and the ground it shows: two networks that know how a level camera sees the cells of a wedge.

A column of an image is a fan of rays over the ground. `Render` marches along the rays and gathers what the cells on
the way hold; `Lift` gathers for each cell the columns in which it is seen. All columns share their weights, and so do
all cells but for an embedding: what was learned of a thing at one place holds at all others. How far above the ground
a point of a column lies, and what hides what, is learned.

Attention between all cells and all tokens has to find the rays. An image of 64x64 pixels drawn again from 16 numbers a
cell, after two minutes of training on one core, had an error of 0.0048 with attention and embeddings of bearings,
0.0012 with differences of bearings as biases of attention, and 0.0005 with rays (mean squared, one seed).

Ref: Roddick et al., arXiv 1811.08188 (image features gathered for cells of the ground by perspective); Mildenhall et
al., arXiv 2003.08934 (marching along rays). Differs: what lies along a ray is joined by a layer, not by a sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..spec import ActionSpec
from .actions import ActionEmbedding
from .latents import APART, Noise, TokenSpec
from .layers import LevelEmbedding, RMSNorm, SwiGLU
from .wedge import wedge

RAYS = 4  # in each column of tokens
MARCH = 2  # points a cell along a ray
ACROSS = 4  # points across a cell
WAVES = 3  # that tell where in a cell or column a point lies
TOKEN = 32  # numbers a token is summarised by before its column is
POINT = 16  # numbers a point of a ray is summarised by


class Lift(nn.Module):
    """What an image says about each cell of the wedge: `(..., N, Z)`, levels `(...)` -> `(..., K, D)`."""

    at: Tensor
    offset: Tensor

    def __init__(self, tokens: TokenSpec, reach: int, angle: float, dim: int):
        super().__init__()
        self.columns = _Columns(tokens)
        at, offset = crossings(reach, angle, self.columns.width)
        self.register_buffer("at", at, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.column = _Summary(self.columns, tokens.channels, dim)
        self.cells = nn.Parameter(0.5 * torch.randn(len(at), dim))
        self.level = LevelEmbedding(dim)
        where, scale, across = nn.Linear(offset.shape[-1], dim), nn.Linear(dim, dim), nn.Linear(ACROSS * dim, dim)
        self.blocks = nn.ModuleList([where, scale, across, _Feed(dim)])

    def forward(self, z: Tensor, tau: Tensor) -> Tensor:
        """Gather for each cell."""
        where, scale, across, feed = self.blocks
        points = F.silu(_pick(self.column(z), self.at) + where(self.offset) + scale(self.cells)[:, None])
        return feed(across(points.flatten(-2)) + self.cells + self.level(tau)[..., None, :])


class Render(nn.Module):
    """What an image will show of the cells in view: `(..., K, F)` -> `(..., N, Z)`."""

    at: Tensor
    offset: Tensor

    def __init__(self, tokens: TokenSpec, action: ActionSpec, reach: int, angle: float, features: int, dim: int):
        super().__init__()
        self.columns = _Columns(tokens)
        at, offset = rays(reach, angle, self.columns.width)
        self.register_buffer("at", at, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.enter = nn.Linear(features, POINT, bias=False)
        where, along = nn.Linear(offset.shape[-1], POINT), nn.Linear(MARCH * reach * POINT, dim // 2)
        self.blocks = nn.ModuleList([where, along, nn.Linear(RAYS * (dim // 2), dim), _Feed(dim)])
        self.act, self.tau, self.d = ActionEmbedding(action, dim), LevelEmbedding(dim), LevelEmbedding(dim)
        self.rows = nn.Parameter(0.5 * torch.randn(self.columns.kinds, dim))
        self.noisy, self.own = _Summary(self.columns, tokens.channels, dim), nn.Linear(tokens.channels, dim, bias=False)
        self.leave = nn.Linear(dim, tokens.channels)

    def forward(self, view: Tensor, action: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        """March, and draw."""
        where, along, across, feed = self.blocks
        cells = F.pad(self.enter(view), (0, 0, 0, 1))  # the last one is what lies outside
        points = F.silu(_pick(cells, self.at) + where(self.offset))
        fan = F.silu(along(points.flatten(-2))).unflatten(-2, (-1, RAYS))
        column = across(fan.flatten(-2)) + self.act(action)[..., None, :]
        if noise is not None:
            column = column + (self.tau(noise.tau) + self.d(noise.d))[..., None, :]
        if z is not None:
            column = column + self.noisy(z)
        x = _pick(column, self.columns.of) + self.rows[self.columns.kind]
        if z is not None:
            x = x + self.own(z.to(x.dtype))
        return self.leave(feed(x))


def rays(reach: int, angle: float, columns: int) -> tuple[Tensor, Tensor]:
    """March along `RAYS` rays a column.

    Returns which cell of the wedge each point lies in, int64 `(columns RAYS, points)`, the number of cells standing for
    none; and where in the cell, `(columns RAYS, points, waves)`.
    """
    cells = wedge(reach, angle)
    place = torch.full((2 * reach + 2, 2 * reach + 2), len(cells))
    place[-cells[:, 0], cells[:, 1] + reach] = torch.arange(len(cells))
    across = 2 * (torch.arange(columns * RAYS, dtype=torch.float64) + 0.5) / (columns * RAYS) - 1
    ahead = ((torch.arange(reach * MARCH, dtype=torch.float64) + 1) / MARCH).expand(len(across), -1)
    side = ahead * across[:, None] * math.tan(math.radians(angle / 2))
    row, column = (ahead - 1e-6).round().clamp(min=1), side.round()
    at = place[row.long(), column.long() + reach]
    return at, _waves(torch.stack([ahead - row, side - column], -1))


def crossings(reach: int, angle: float, columns: int) -> tuple[Tensor, Tensor]:
    """Find in which columns of an image `ACROSS` points across each cell of the wedge are seen.

    Returns the columns, int64 `(K, ACROSS)`, those nearest for points out of view; and where in the column, and how far
    aside, each point lies, `(K, ACROSS, waves)`.
    """
    down, right = wedge(reach, angle).double().unbind(-1)
    side = right[:, None] + torch.linspace(-0.4, 0.4, ACROSS, dtype=torch.float64)
    across = side / (-down).clamp(min=0.5)[:, None] / math.tan(math.radians(angle / 2))
    column = (across.clamp(-1, 1) + 1) / 2 * columns
    at = column.long().clamp(max=columns - 1)
    return at, _waves(torch.stack([column - at - 0.5, across.abs() / 2], -1))


class _Columns(nn.Module):
    """How tokens stand in columns. Those of further streams, which are no part of the picture, count to the first."""

    of: Tensor
    kind: Tensor
    members: Tensor

    def __init__(self, tokens: TokenSpec):
        super().__init__()
        row, column = torch.tensor(tokens.places).unbind(-1)
        further = column >= APART
        self.width = int(column[~further].max()) + 1
        of = torch.where(further, 0, column).long()
        kinds, kind = torch.stack([row, column * further], -1).unique(dim=0, return_inverse=True)
        members = [(of == n).nonzero()[:, 0] for n in range(self.width)]
        self.kinds = len(kinds)
        self.register_buffer("of", of, persistent=False)
        self.register_buffer("kind", kind, persistent=False)
        padded = pad_sequence(members, batch_first=True, padding_value=tokens.n)
        self.register_buffer("members", padded, persistent=False)


class _Feed(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.mlp = RMSNorm(dim), SwiGLU(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class _Summary(nn.Module):
    """Summarise the tokens of each column: `(..., N, Z)` -> `(..., columns, D)`."""

    def __init__(self, columns: _Columns, channels: int, dim: int):
        super().__init__()
        self.columns = columns
        self.enter, self.rows = nn.Linear(channels, TOKEN), nn.Parameter(0.5 * torch.randn(columns.kinds, TOKEN))
        self.blocks = nn.ModuleList([nn.Linear(columns.members.shape[1] * TOKEN, dim)])

    def forward(self, z: Tensor) -> Tensor:
        x = F.silu(self.enter(z.to(self.rows.dtype)) + self.rows[self.columns.kind])
        return self.blocks[0](_pick(F.pad(x, (0, 0, 0, 1)), self.columns.members).flatten(-2))


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """Take places of the last axis but one: `(..., N, D)` -> `(..., *index, D)`."""
    return x.index_select(-2, index.flatten()).unflatten(-2, index.shape)


def _waves(offset: Tensor) -> Tensor:
    angle = (offset[..., None] * math.pi * torch.arange(1, WAVES + 1)).flatten(-2)
    return torch.cat([offset, angle.sin(), angle.cos()], -1).float()
