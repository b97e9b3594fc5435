"""A pixel diffusion world model of published size: a U-Net that denoises the next frame beside the four before it.

It is a peer to hold Terrella against and no part of the package: size and settings are those of DIAMOND's Atari model,
written anew from their description. 4 levels of 64 channels with 2 residual blocks each, attention in the two blocks
between its halves alone, past frames as channels, actions and noise level through adaptive group norm from a vector of
256 numbers, EDM's preconditioning with sigma_data 0.5, training noise logN(-0.4, 1.2) cut to [0.002, 20] plus offset
noise of 0.3 (one number an image and channel, shared by all of its pixels), 3 Euler steps from sigma 5 to 0.002.

Ref: Alonso et al. 2024, arXiv 2405.12399, and the settings published with it; Karras et al. 2022, arXiv 2206.00364
(EDM); Ho et al. 2020, arXiv 2006.11239 (the U-Net with one skip for each block).
Differs: estimates are clamped to the range of pixels while sampling.

Shape letters: P past frames, D numbers of the conditioning vector; images inside are float `C h w` in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIGMA_DATA, SIGMA_OFFSET = 0.5, 0.3
TRAIN_MEAN, TRAIN_SPREAD, TRAIN_RANGE = -0.4, 1.2, (2e-3, 20.0)  # of ln sigma; of sigma
STEPS, SIGMA_MIN, SIGMA_MAX, RHO = 3, 2e-3, 5.0, 7.0
HEAD, GROUP = 8, 32  # channels of an attention head, of a normalised group


@dataclass(frozen=True)
class UNetConfig:
    """The size. actions: choices there are. past: frames seen. cond: D. Image sides must divide by 2^(levels - 1)."""

    actions: int
    channels: int = 3
    past: int = 4
    width: int = 64
    levels: int = 4
    blocks: int = 2
    cond: int = 256


class AdaGroupNorm(nn.Module):
    """Group norm whose scale and shift come from the conditioning vector."""

    def __init__(self, width: int, cond: int):
        super().__init__()
        self.groups = max(1, width // GROUP)
        self.modulation = nn.Linear(cond, 2 * width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Normalise x `(B, width, h, w)` under cond `(B, D)`."""
        scale, shift = self.modulation(cond)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, F.group_norm(x, self.groups), 1 + scale)


class Attention(nn.Module):
    """Self-attention between all places of a small image, added to it; begins as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm = nn.GroupNorm(max(1, width // GROUP), width)
        self.inward = nn.Conv2d(width, 3 * width, 1)
        self.outward = _silent(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within x `(B, width, h, w)`."""
        batch, width, h, w = x.shape
        parts = self.inward(self.norm(x)).reshape(batch, 3, self.heads, width // self.heads, h * w)
        q, k, v = parts.transpose(-1, -2).unbind(1)
        # Two products: for 64 places the fused kernel is slower to train on a CPU.
        weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return x + self.outward((weight @ v).transpose(-1, -2).reshape(batch, width, h, w))


class ResBlock(nn.Module):
    """Two convolutions of 3x3 beside a skip; begins as the skip alone."""

    def __init__(self, wide: int, width: int, cond: int, attends: bool = False):
        super().__init__()
        self.norm1, self.norm2 = AdaGroupNorm(wide, cond), AdaGroupNorm(width, cond)
        self.conv1 = nn.Conv2d(wide, width, 3, padding=1)
        self.conv2 = _silent(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if wide == width else nn.Conv2d(wide, width, 1)
        self.attention = Attention(width) if attends else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Map x `(B, wide, h, w)` under cond `(B, D)` to `(B, width, h, w)`."""
        inner = self.conv1(F.silu(self.norm1(x, cond)))
        inner = self.conv2(F.silu(self.norm2(inner, cond)))
        return self.attention(self.skip(x) + inner)


class UNet(nn.Module):
    """The network inside the preconditioning; at first it says 0 everywhere."""

    frequencies: Tensor

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = c = config
        self.register_buffer("frequencies", torch.randn(c.cond // 2).bfloat16().float())  # the same in either precision
        self.action = nn.Embedding(c.actions, c.cond // c.past)
        self.embed = nn.Sequential(nn.Linear(c.cond, c.cond), nn.SiLU(), nn.Linear(c.cond, c.cond))
        self.inward = nn.Conv2d((c.past + 1) * c.channels, c.width, 3, padding=1)
        steps = range(c.levels - 1)
        smaller = [nn.Conv2d(c.width, c.width, 3, stride=2, padding=1) for _ in steps]
        larger = [nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(c.width, c.width, 3, padding=1)) for _ in steps]
        self.shrink = nn.ModuleList([nn.Identity(), *smaller])  # before each level on the way down
        self.grow = nn.ModuleList([*larger, nn.Identity()])  # after each level on the way up
        self.down = nn.ModuleList(ResBlock(c.width, c.width, c.cond) for _ in range(c.levels * c.blocks))
        self.middle = nn.ModuleList(ResBlock(c.width, c.width, c.cond, attends=True) for _ in range(2))
        self.up = nn.ModuleList(ResBlock(2 * c.width, c.width, c.cond) for _ in range(c.levels * (c.blocks + 1)))
        self.norm = nn.GroupNorm(max(1, c.width // GROUP), c.width)
        self.outward = _silent(nn.Conv2d(c.width, c.channels, 3, padding=1))

    def forward(self, noisy: Tensor, past: Tensor, actions: Tensor, c_noise: Tensor) -> Tensor:
        """Map noisy `(B, C, h, w)` to its like; past `(B, P, C, h, w)`, actions int64 `(B, P)`, c_noise `(B,)`."""
        blocks = self.config.blocks
        angle = 2 * math.pi * c_noise[:, None] * self.frequencies.float()
        waves = torch.cat([angle.cos(), angle.sin()], 1).to(noisy.dtype)
        cond = F.silu(self.embed(waves + self.action(actions).flatten(1)))  # both of D numbers
        x, skips = self.inward(torch.cat([past.flatten(1, 2), noisy], 1)), []
        for i, block in enumerate(self.down):
            if i % blocks == 0:
                x = self.shrink[i // blocks](x)
                skips.append(x)
            x = block(x, cond)
            skips.append(x)
        for block in self.middle:
            x = block(x, cond)
        for i, block in enumerate(self.up):
            x = block(torch.cat([x, skips.pop()], 1), cond)
            if (i + 1) % (blocks + 1) == 0:
                x = self.grow[i // (blocks + 1)](x)
        return self.outward(F.silu(self.norm(x)))


class Scales(NamedTuple):
    """EDM's preconditioning at some noise level, each `(B, 1, 1, 1)`: D(x) = c_skip x + c_out F(c_in x, c_noise)."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


def scales(sigma: Tensor) -> Scales:
    """Return the scales at sigma `(B,)` (Karras et al. 2022, table 1), offset noise counted as part of the noise."""
    whole = (sigma**2 + SIGMA_OFFSET**2).sqrt()[:, None, None, None]
    total = whole**2 + SIGMA_DATA**2
    return Scales(total.rsqrt(), SIGMA_DATA**2 / total, whole * SIGMA_DATA * total.rsqrt(), whole.log() / 4)


def add_noise(x: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Add noise of sigma `(B,)` to each number of x `(B, C, h, w)`, and offset noise to each of its channels."""
    own = torch.randn(x.shape, generator=generator, device=x.device)
    shared = torch.randn((*x.shape[:2], 1, 1), generator=generator, device=x.device)
    return x + sigma[:, None, None, None] * own + SIGMA_OFFSET * shared


def schedule(steps: int = STEPS, low: float = SIGMA_MIN, high: float = SIGMA_MAX, rho: float = RHO) -> list[float]:
    """Return `steps` noise levels from `high` down to `low`, and a last 0 (Karras et al. 2022, eq. 5)."""
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return [(top + i / max(1, steps - 1) * (bottom - top)) ** rho for i in range(steps)] + [0.0]


def euler(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, levels: list[float]) -> Tensor:
    """Follow dx/dsigma = (x - D(x, sigma)) / sigma from noisy x through `levels` (Karras et al. 2022, algorithm 1).

    denoise: x `(B, ...)` and sigma `(B,)` to an estimate of the clean x.
    """
    for now, after in pairwise(levels):
        clean = denoise(x, x.new_full(x.shape[:1], now))
        x = torch.lerp(clean, x, after / now)  # x + (after - now) (x - clean) / now
    return x


class Denoiser(nn.Module):
    """The world model: D of EDM around the network, its loss and its sampler."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.net = UNet(config)

    def forward(self, noisy: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """Estimate the clean frame behind noisy `(B, C, h, w)` at sigma `(B,)`; past and actions as for the network."""
        s = scales(sigma)
        return s.c_skip * noisy + s.c_out * self._network(s, noisy, past, actions)

    def loss(self, frames: Tensor, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error of the network's target, which is D's error weighed by 1 / c_out^2 (eq. 8): 1 at first.

        frames `(B, P + 1, C, h, w)`, the last of which is predicted; actions int64 `(B, P)`, each after its frame.
        """
        clean = frames[:, -1]
        normal = torch.randn(len(clean), generator=generator, device=clean.device)
        sigma = (TRAIN_MEAN + TRAIN_SPREAD * normal).exp().clamp(*TRAIN_RANGE)
        noisy, s = add_noise(clean, sigma, generator), scales(sigma)
        target = (clean - s.c_skip * noisy) / s.c_out
        return F.mse_loss(self._network(s, noisy, frames[:, :-1], actions), target)

    def sample(self, past: Tensor, actions: Tensor, noise: Tensor, steps: int = STEPS) -> Tensor:
        """Draw the next frame, `(B, C, h, w)` in [-1, 1], from standard normal noise `(B, C, h, w)`."""
        levels = schedule(steps)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self(x, sigma, past, actions).clamp(-1, 1)

        return euler(denoise, levels[0] * noise, levels)

    def _network(self, s: Scales, noisy: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        kind = self.net.inward.weight.dtype  # weights may be bfloat16; what surrounds them stays in float32
        return self.net((s.c_in * noisy).to(kind), past.to(kind), actions, s.c_noise.flatten()).float()


def to_signal(pixels: Tensor) -> Tensor:
    """Turn uint8 `(..., h, w, C)` into float32 `(..., C, h, w)` in [-1, 1]."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1


def to_pixels(signal: Tensor) -> Tensor:
    """Turn float `(..., C, h, w)` in [-1, 1] into uint8 `(..., h, w, C)`."""
    return ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Let a layer say 0 at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
