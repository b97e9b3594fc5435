"""A denoiser of single frames that is told what to expect: small, and apart from the backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .blocks import ChangeHead, FrameBlock, Modulation, place_turns
from .latents import TokenSpec
from .layers import LevelEmbedding


class Denoiser(nn.Module):
    """The network of `terrella.decoders.residual`: what lies behind a noisy frame, given the expectation.

    dim, layers, heads, mlp: as of a backbone. A fresh one answers with the expectation.
    """

    turn: Tensor

    def __init__(self, tokens: TokenSpec, dim: int, layers: int, heads: int, mlp: float):
        super().__init__()
        self.enter = nn.Linear(2 * tokens.channels, dim)
        self.place = nn.Parameter(torch.randn(tokens.n, dim) * 0.02)
        self.tau, self.condition = LevelEmbedding(dim), Modulation(dim)
        self.blocks = nn.ModuleList(_Block(dim, heads, mlp) for _ in range(layers))
        self.leave = ChangeHead(dim, tokens.channels)
        nn.init.zeros_(self.leave[1].bias)  # pyright: ignore[reportArgumentType]
        self.register_buffer("turn", place_turns(tokens, dim // heads), persistent=False)

    def forward(self, z: Tensor, tau: Tensor, mean: Tensor) -> Tensor:
        """Expect the clean frames behind `z` at signal levels `tau`, given `mean`; `(..., N, Z)` and `(...)`."""
        x = self.enter(torch.cat([z.to(mean.dtype), mean], -1).to(self.place.dtype))
        x = x + self.place.to(x.dtype)
        mods = self.condition(self.tau(tau), x.dtype)
        for block in self.blocks:
            x = block(x, mods, self.turn)
        return mean + self.leave(x)


class _Block(FrameBlock):
    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: Any = None) -> Tensor:
        """See `FrameBlock.forward`; there is no past."""
        del past
        own = self.modulation(x, mods)
        return self.feed(self.attend(x, own, turn), own)
