"""A post-norm block over the tokens of a grid, and three ways in which tokens learn of one another.

    h <- norm(h + Mixer(h));  h <- norm(h + SwiGLU(h))

The norms have no gain and nothing has a bias, so each token leaves with a root mean square of one: a block can be
applied to its own output without end.

Ref: Equilibrium Reasoners, arXiv 2605.21488 (the block; SwiGLU across tokens, attention). Differs: rotary positions
have two axes, and there is a convolution, which knows no grid size and costs least on a processor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .attention import attend
from .layers import SwiGLU
from .rotary import rotate, rotation

EPSILON = 1e-5


class Grid(NamedTuple):
    """What a mixer knows of the grid that its tokens fill row by row; `turn` is from `Mixer.turn`."""

    height: int
    width: int
    turn: Tensor | None = None


class Mixer(nn.Module, ABC):
    """Lets tokens learn of one another."""

    @abstractmethod
    def forward(self, h: Tensor, grid: Grid) -> Tensor:
        """Compute what tokens `(B, N, D)` tell one another, `(B, N, D)`; raises `ConfigError` if N does not fit."""

    def turn(self, height: int, width: int) -> Tensor | None:
        """Rotations of positions on a grid, for mixers that use them."""
        return None


class ConvMixer(Mixer):
    """A depth-wise 3x3 convolution and a linear layer: neighbours, on a grid of any size."""

    def __init__(self, dim: int):
        super().__init__()
        self.near = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, h: Tensor, grid: Grid) -> Tensor:
        """See `Mixer`."""
        seen = self.near(h.unflatten(1, (grid.height, grid.width)).movedim(-1, 1))
        return self.out(seen.movedim(1, -1).flatten(1, 2))


class AttentionMixer(Mixer):
    """Attention with rotary positions of two axes: everyone, on a grid of any size.

    reach: the largest distance that positions tell apart. It does not follow the grid, so that what was learned on a
    small one means the same on a large one.
    """

    def __init__(self, dim: int, heads: int, reach: float):
        super().__init__()
        if dim % heads or dim // heads % 4:
            raise ConfigError(f"{heads} heads do not fit a width of {dim}; a head needs a multiple of 4 channels.")
        self.heads, self.head, self.reach = heads, dim // heads, reach
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def turn(self, height: int, width: int) -> Tensor:
        """See `Mixer`."""
        weight = self.qkv.weight
        axes = [torch.arange(n, dtype=torch.float32, device=weight.device) for n in (height, width)]
        return rotation(torch.cartesian_prod(*axes), self.head, self.reach).to(weight.dtype)

    def forward(self, h: Tensor, grid: Grid) -> Tensor:
        """See `Mixer`."""
        turn = self.turn(grid.height, grid.width) if grid.turn is None else grid.turn
        qkv = self.qkv(h).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2)  # (B, H, 3, N, d)
        q, k = rotate(qkv[..., :2, :, :], turn).unbind(-3)
        return self.out(attend(q, k, qkv[..., 2, :, :]).transpose(-3, -2).flatten(-2))


class TokenMixer(Mixer):
    """SwiGLU across tokens: everyone, with a weight for each pair of places, on a grid of `tokens` cells alone."""

    def __init__(self, tokens: int):
        super().__init__()
        if tokens < 1:
            raise ConfigError("a mixer across tokens needs their number; set `tokens` to height x width of the grid.")
        self.tokens = tokens
        self.across = SwiGLU(tokens, round(8 * tokens / 3))

    def forward(self, h: Tensor, grid: Grid) -> Tensor:
        """See `Mixer`."""
        if h.shape[1] != self.tokens:
            raise ConfigError(
                f"the grid has {h.shape[1]} tokens, and the mixer was made for {self.tokens}; "
                "take the mixer 'conv' or 'attention' for grids of several sizes."
            )
        return self.across(h.transpose(1, 2)).transpose(1, 2)


class MixerBlock(nn.Module):
    """The block above, `(B, N, D)` -> `(B, N, D)`."""

    def __init__(self, mixer: Mixer, dim: int, hidden: int):
        super().__init__()
        self.mixer, self.mlp = mixer, SwiGLU(dim, hidden)

    def forward(self, h: Tensor, grid: Grid) -> Tensor:
        """Mix tokens, then channels."""
        h = _norm(h + self.mixer(h, grid))
        return _norm(h + self.mlp(h))


def _norm(h: Tensor) -> Tensor:
    return F.rms_norm(h, h.shape[-1:], None, EPSILON)
