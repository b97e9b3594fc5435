"""A denoiser of a window of frames: one frame before, then chunks; the later see the earlier, never the reverse.

Inside a frame tokens see one another; over time, each sees those at its place in its own chunk and in what lies before
it. Each chunk also hears a slow state through cross-attention whose output begins at zero: a fresh network denoises as
if there were none. What a token is on its way to is told as a change of the frame before the window.

Ref: PAN, arXiv 2511.09057 (chunk-causal mask over a window of two chunks, a conditioning frame with a little noise,
cross-attention with an output of zero at the start); Peebles & Xie, arXiv 2212.09748 (adaLN). Differs: attention is
factorised over space and time, levels are told for each frame, and the network predicts the clean latent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import attend
from .blocks import ChangeHead, FrameBlock, Modulation, place_turns
from .latents import TokenSpec
from .layers import LevelEmbedding, RMSNorm
from .rotary import rotate, rotation

CHUNKS = 2  # in a window at most


def chunk_causal(chunks: int, unit: int, device: torch.device | str = "cpu") -> Tensor:
    """Which frames of a window each frame sees, bool `(U, U)` with U = 1 + chunks * unit: its own chunk and before."""
    chunk = (torch.arange(1 + chunks * unit, device=device) + unit - 1) // unit
    return chunk[:, None] >= chunk


class Window(nn.Module):
    """The network of `terrella.decoders.swin`.

    unit: frames of a chunk. dim, layers, heads, mlp: as of a backbone.
    """

    turn: Tensor
    times: Tensor

    def __init__(self, tokens: TokenSpec, unit: int, dim: int, layers: int, heads: int, mlp: float):
        super().__init__()
        self.unit = unit
        self.enter = nn.Linear(2 * tokens.channels, dim)
        self.place = nn.Parameter(torch.randn(tokens.n, dim) * 0.02)
        self.frame = nn.Parameter(torch.randn(1 + CHUNKS * unit, dim) * 0.02)
        self.slow, self.slow_norm = nn.Linear(tokens.channels, dim), RMSNorm(dim)
        self.tau, self.condition = LevelEmbedding(dim), Modulation(dim)
        self.blocks = nn.ModuleList(WindowBlock(dim, heads, mlp) for _ in range(layers))
        self.leave = ChangeHead(dim, tokens.channels)
        self.register_buffer("turn", place_turns(tokens, dim // heads), persistent=False)
        position = torch.arange(1 + CHUNKS * unit, dtype=torch.float32)[:, None]
        self.register_buffer("times", rotation(position, dim // heads, 1.0 + CHUNKS * unit), persistent=False)

    def forward(self, z_BUNZ: Tensor, tau_BU: Tensor, slow_BCNZ: Tensor) -> Tensor:
        """Expect the clean latents of C chunks, `(B, C * unit, N, Z)`.

        z: the frame before the window and the chunks' noisy frames, U = 1 + C * unit. tau: their signal levels; a frame
        before at level 0 was not seen. slow: the slow state of each chunk.
        """
        dtype, chunks, frames = self.place.dtype, slow_BCNZ.shape[1], z_BUNZ.shape[1]
        z = z_BUNZ.to(dtype)
        before = z[:, :1] * (tau_BU[:, :1, None, None] > 0)
        x = self.enter(torch.cat([torch.cat([before, z[:, 1:]], 1), before.expand_as(z)], -1)) + self.place
        mods = self.condition(self.tau(tau_BU) + self.frame[:frames], x.dtype)
        heard = self.slow_norm(self.slow(slow_BCNZ.to(dtype)) + self.place)
        sees = chunk_causal(chunks, self.unit, x.device)
        mask = torch.zeros(sees.shape, dtype=x.dtype, device=x.device).masked_fill_(~sees, -torch.inf)
        past = Past(self.times[:, :frames], mask, heard)
        x, mods = x.flatten(0, 1), mods.flatten(0, 1)
        for block in self.blocks:
            x = block(x, mods, self.turn, past)
        return (before + self.leave(x.unflatten(0, (-1, frames))))[:, 1:]


class Past(NamedTuple):
    """What a layer reads: turns of the window's times, its mask `(U, U)`, slow states `(B, C, N, D)`."""

    times: Tensor
    mask: Tensor
    slow: Tensor


class WindowBlock(FrameBlock):
    """Attention inside the frame, over the window at each place, and to the slow state; then the feed-forward layer."""

    def __init__(self, dim: int, heads: int, mlp: float):
        super().__init__(dim, heads, mlp)
        head = dim // heads
        self.norm_t, self.qkv_t = RMSNorm(dim), nn.Linear(dim, 3 * dim, bias=False)
        self.qn_t, self.kn_t = RMSNorm(head), RMSNorm(head)
        self.out_t = nn.Linear(dim, dim, bias=False)
        self.norm_s, self.q_s = RMSNorm(dim), nn.Linear(dim, dim, bias=False)
        self.kv_s = nn.Linear(dim, 2 * dim, bias=False)
        self.qn_s, self.kn_s = RMSNorm(head), RMSNorm(head)
        self.out_s = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out_s.weight)

    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: Past) -> Tensor:
        """See `FrameBlock.forward`; x: `(B * U, N, D)`, mods: `(B * U, 1, 6, D)`."""
        own = self.modulation(x, mods)
        x = self.attend(x, own, turn)
        x = x + self._over_time(x.unflatten(0, (-1, len(past.mask))), past)
        frames = x.unflatten(0, (-1, len(past.mask)))
        heard = self._hear(frames[:, 1:], past.slow, turn)
        return self.feed(torch.cat([frames[:, :1], frames[:, 1:] + heard], 1).flatten(0, 1), own)

    # Batches for attention have one axis: with more, rounding depends on where in memory a session lies.

    def _over_time(self, x: Tensor, past: Past) -> Tensor:
        batch, frames, tokens = x.shape[:3]
        qkv = self.qkv_t(self.norm_t(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (B * N, H, U, d) each
        q, k = rotate(self.qn_t(q), past.times), rotate(self.kn_t(k), past.times)
        seen = attend(q, k.to(q.dtype), v.to(q.dtype), past.mask.to(q.dtype))
        seen = seen.unflatten(0, (batch, tokens)).permute(0, 3, 1, 2, 4)  # (B, U, N, H, d)
        return self.out_t(seen.reshape(batch * frames, tokens, -1))

    def _hear(self, x: Tensor, slow: Tensor, turn: Tensor) -> Tensor:
        chunks = slow.shape[1]
        q = self.q_s(self.norm_s(x)).unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (B, C * unit, H, N, d)
        kv = self.kv_s(slow.flatten(0, 1)).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B * C, H, N, d) each
        q, k = rotate(self.qn_s(q), turn), rotate(self.kn_s(k), turn)
        # The frames of a chunk ask one state: (B * C, H, unit * N, d).
        q = q.unflatten(1, (chunks, -1)).flatten(0, 1).transpose(1, 2).flatten(2, 3)
        heard = attend(q, k.to(q.dtype), v.to(q.dtype)).unflatten(2, (-1, x.shape[2])).permute(0, 2, 3, 1, 4)
        return self.out_s(heard.flatten(-2).reshape(x.shape))
