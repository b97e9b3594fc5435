"""Random numbers from a key alone: the same (seed, frame, purpose) gives the same noise in any slot of any batch.

A counter-based generator: each number is a hash of its key and index, so there is no stream to advance or to save.
Ref: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011 (the idea); the hash is SplitMix64's finaliser
(Steele et al., OOPSLA 2014), written in signed 64-bit tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

SAMPLE, CONTEXT, PLAN, REASON, ALARM = 1, 2, 3, 4, 5  # purposes: what the noise is for


def keyed_normal(seeds: Tensor, frames: Tensor, purpose: int, count: int) -> Tensor:
    """Draw `count` standard normal numbers for each key: int64 seeds `(B,)`, frames `(B,)` -> float32 `(B, count)`."""
    draw = _opaque if torch.compiler.is_compiling() else _draw
    return draw(seeds, frames, purpose, count)


class RowNoise:
    """Standard normal noise for rows with a key each, int64 `(B,)`: no row's noise depends on its neighbours.

    Each call is the next of the stream, so that rows which are drawn together must have begun together.
    """

    def __init__(self, seeds: Tensor, purpose: int):
        self.seeds, self.purpose, self.calls = seeds, purpose, 0

    def __call__(self, like: Tensor) -> Tensor:
        """Draw noise of the shape and type of `like` `(B, ...)`."""
        frames = torch.full_like(self.seeds, self.calls)
        self.calls += 1
        return keyed_normal(self.seeds, frames, self.purpose, like[0].numel()).view(like.shape).to(like.dtype)


class Rows(torch.Generator):
    """A random stream that several processes draw alike, each keeping the numbers of its own rows of a batch.

    share: those rows, as `(first, last, of)`, before each batch. What is drawn with it by `drawn` is what one process
    would have drawn for these rows; what is drawn with it otherwise is the same in all processes.
    """

    share: tuple[int, int, int] = (0, 1, 1)


def drawn(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, axis: int = 0, **how: Any
) -> Tensor:
    """Draw numbers for the rows of a batch, `draw(shape, generator=generator, **how)`.

    axis: of `shape`, the one of rows, or of equally many numbers a row, one row after another. With `Rows` these are a
    part of what is drawn for the whole batch.
    """
    if not isinstance(generator, Rows):
        return draw(shape, generator=generator, **how)
    first, last, count = generator.share
    each = shape[axis] // (last - first)
    whole = draw((*shape[:axis], each * count, *shape[axis + 1 :]), generator=generator, **how)
    return whole.narrow(axis, each * first, shape[axis])


def row_keys(rows: Tensor, seed: int | Tensor = 0) -> Tensor:
    """Hash integers `(..., n)` and a seed to int64 keys `(...)`; different rows almost surely have different keys."""
    place = _mix(torch.arange(rows.shape[-1], device=rows.device) + 1)
    return _mix(_mix(rows.long() + place).sum(-1) ^ (_mix(torch.as_tensor(seed, device=rows.device))))


def chance(generator: torch.Generator) -> float:
    """Draw one number in [0, 1) from a generator on any device."""
    return torch.rand((), generator=generator, device=generator.device).item()


def _wrap(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, not arithmetic


def _mix(x: Tensor) -> Tensor:
    x = x + _wrap(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _wrap(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _wrap(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _draw(seeds: Tensor, frames: Tensor, purpose: int, count: int) -> Tensor:
    key = _mix(_mix(_mix(seeds) ^ frames) ^ purpose)
    half = (count + 1) // 2
    index = torch.arange(2 * half, device=seeds.device)
    bits = _mix(key[:, None] + index * _wrap(0x9E3779B97F4A7C15))
    uniform = ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
    radius = (-2 * torch.log1p(-uniform[:, :half])).sqrt()
    angle = 2 * math.pi * uniform[:, half:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].float()


@torch.library.custom_op("terrella::keyed_normal", mutates_args=())
def _opaque(seeds: Tensor, frames: Tensor, purpose: int, count: int) -> Tensor:
    # A compiler folds index x constant into a number without end, where 64 bits would wrap around.
    return _draw(seeds, frames, purpose, count)


@_opaque.register_fake
def _(seeds: Tensor, frames: Tensor, purpose: int, count: int) -> Tensor:
    del frames, purpose
    return torch.empty(len(seeds), count, device=seeds.device)
