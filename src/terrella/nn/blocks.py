"""What backbones made of tokens share: a layer's work inside one frame, the modulation by its condition, the heads.

Ref: Hafner et al., Dreamer 4, arXiv 2509.24527, section 3 (QK-norm, RMSNorm, SwiGLU); Peebles & Xie, arXiv 2212.09748
(adaLN); Chen et al., PixArt-alpha, arXiv 2310.00426 (one modulation network for all layers, a small table each).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .attention import attend
from .latents import Outcome, TokenSpec
from .layers import Narrow, RMSNorm, SwiGLU, modulate, rms
from .rotary import rotate, rotation


class FrameBlock(nn.Module, ABC):
    """Attention over a frame's tokens and a feed-forward layer. How a block remembers, between them, is its own."""

    def __init__(self, dim: int, heads: int, mlp: float):
        super().__init__()
        self.heads = heads
        head = dim // heads
        hidden = int(mlp * dim * 2 / 3) // 16 * 16
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.qn, self.kn = RMSNorm(head), RMSNorm(head)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp = SwiGLU(dim, hidden)
        self.table = nn.Parameter(torch.zeros(6, dim))
        self.table.data[2::3] = 0.5  # open the gates a little: deep signal from the first step

    @abstractmethod
    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: Any) -> Tensor:
        """Pass a frame's tokens `(..., N, D)` through the layer, which reads `past` between attention and feed-forward.

        mods: from `Modulation`. turn: from `place_turns`.
        """

    def modulation(self, x: Tensor, mods: Tensor) -> tuple[Tensor, ...]:
        """Split this layer's modulation off the shared one `(..., 1, 6, D)`: shift, scale and gate, twice."""
        return (mods + self.table.to(x.dtype)).unbind(-2)

    def attend(self, x: Tensor, own: tuple[Tensor, ...], turn: Tensor) -> Tensor:
        """Let the tokens of a frame `(..., N, D)` see one another."""
        h = modulate(self.norm1(x), own[0], own[1])
        qkv = self.qkv(h).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2)  # (..., H, 3, N, d)
        # Queries and keys are normalised and turned together: a frame is few tokens, so operations cost, not numbers.
        scales = torch.stack([self.qn.weight, self.kn.weight])[:, None].to(x.dtype)
        both, v = qkv.split([2, 1], -3)
        q, k = rotate(rms(both, scales), turn).unbind(-3)
        return torch.addcmul(x, own[2], self.out(attend(q, k, v.squeeze(-3)).transpose(-3, -2).flatten(-2)))

    def feed(self, x: Tensor, own: tuple[Tensor, ...]) -> Tensor:
        """Apply the feed-forward layer to each token."""
        return torch.addcmul(x, own[5], self.mlp(modulate(self.norm2(x), own[3], own[4])))


class Modulation(nn.Sequential):
    """From a frame's condition `(..., D)` to the modulation that all its layers share, `(..., 1, 6, D)`."""

    ones: Tensor

    def __init__(self, dim: int):
        super().__init__(nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
        ones = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])[:, None]  # scales are relative to 1
        self.register_buffer("ones", ones, persistent=False)

    def forward(self, condition: Tensor, dtype: torch.dtype) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the modulation in `dtype`, that of the tokens."""
        mods = super().forward(condition).to(dtype).unflatten(-1, (6, -1)).unsqueeze(-3)
        return mods + self.ones.to(dtype)


class ChangeHead(nn.Sequential):
    """What changes of a token, `(..., D)` -> `(..., Z)`. Begins with weights of zero: nothing moves."""

    def __init__(self, dim: int, channels: int):
        super().__init__(RMSNorm(dim), nn.Linear(dim, channels))
        nn.init.zeros_(self[1].weight)  # pyright: ignore[reportArgumentType]


class OutcomeHead(nn.Sequential):
    """The outcome of a frame, from the mean of its tokens `(..., N, D)`. Begins with no reward and rare ends."""

    def __init__(self, dim: int):
        super().__init__(RMSNorm(dim), nn.Linear(dim, dim), nn.SiLU(), Narrow(dim, 2))
        begin_uneventful(self[3])

    def forward(self, x: Tensor) -> Outcome:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read the outcome."""
        reward, end = super().forward(x.mean(-2)).unbind(-1)
        return Outcome(reward, end)


def begin_uneventful(last: nn.Module) -> None:
    """Set a linear layer that gives reward and end to say: no reward, and the end is rare."""
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    last.bias.data.copy_(torch.tensor([0.0, -4.0]))


def place_turns(tokens: TokenSpec, head: int) -> Tensor:
    """Compute the rotations of tokens by their places on the grid, for heads of `head` channels (see `rotation`)."""
    places = torch.tensor(tokens.places, dtype=torch.float32)
    return rotation(places, head, float(places.max()) + 1.0)
