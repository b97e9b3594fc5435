"""Choices to tokens and back: grids of cells and letters of texts, each entry one of a few values.

A token covers a square of cells, or a run of letters. Each entry's value has a vector of its own, and a token is what a
small network makes of their sum; the way back gives every entry a probability for each of its values, and the likeliest
is what is shown. So what comes out is always a value that the entry can have, never a number between two.

    W entries   N tokens   G entries of a token   V values an entry may have, at most   Z channels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import columns
from ..errors import ConfigError
from ..nn.latents import TokenSpec
from ..nn.noise import drawn
from ..registry import register
from ..spec import ActionSpec, StreamSpec
from .base import Tokenizer


@dataclass(frozen=True)
class CodesConfig:
    """`channels` a token; a token covers `side x side` cells of a grid, or `letters` of a text; `hidden` units.

    Latent `noise` in training, in deviations.
    """

    channels: int = 16
    side: int = 4
    letters: int = 16
    hidden: int = 128
    noise: float = 0.2

    def __post_init__(self) -> None:
        if min(self.channels, self.side, self.letters, self.hidden) < 1 or not self.noise >= 0:
            raise ConfigError(
                f"channels {self.channels}, side {self.side}, letters {self.letters} and hidden {self.hidden} must be "
                f"at least 1, and noise ({self.noise}) at least 0."
            )


@register("tokenizer", "codes")
class Codes(Tokenizer):
    """The tokenizer for vectors that are the row of a grid or a text (`StreamSpec.native`).

    A text whose characters are all ASCII has one byte each, and only so many are coded; the rest of its row is padding.
    Raises `ConfigError` for other vectors.
    """

    Config = CodesConfig
    takes: ClassVar[tuple[str, ...]] = ("codes",)
    encoder_modules: ClassVar[tuple[str, ...]] = ("table", "encoder")
    decoder_modules: ClassVar[tuple[str, ...]] = ("decoder",)
    order: Tensor
    there: Tensor
    where: Tensor
    low: Tensor
    values: Tensor
    allowed: Tensor

    def __init__(self, config: CodesConfig, stream: StreamSpec):
        native = stream.native
        if native is None:
            raise ConfigError(
                "the tokenizer 'codes' reads grids of choices and letters; this stream is a vector of numbers. Take "
                "the tokenizer 'vector', or declare the observation as a MultiDiscrete of two axes."
            )
        low, counts, values = _entries(native)
        order, places = _tokens(native, len(low), config)
        super().__init__(stream, TokenSpec(len(order), config.channels, places))
        self.config, self.text = config, native.kind == "text"
        g, v = order.shape[1], int(counts.max())
        where = np.empty(len(low), np.int64)
        where[order[order >= 0]] = np.flatnonzero(order.ravel() >= 0)
        held = np.concatenate([counts, [0]])[order]  # what is beyond the edge has no values
        buffers = {"order": order.clip(0), "there": order >= 0, "where": where, "low": low.astype(np.int64)}
        buffers |= {"values": values, "allowed": np.arange(v) < np.maximum(held, 1)[..., None]}
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        self.table = nn.Embedding(g * v, config.hidden)
        self.encoder = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, config.channels))
        self.decoder = nn.Sequential(
            nn.Linear(config.channels, config.hidden), nn.SiLU(), nn.Linear(config.hidden, g * v)
        )
        nn.init.normal_(self.table.weight, std=g**-0.5)
        self.entries, self.most = g, v

    def encode_raw(self, obs: Tensor) -> Tensor:
        """Encode rows `(..., W)`; each token has a mean square of 1."""
        index = self._classes(obs)[..., self.order]  # (..., N, G)
        index = index + self.most * torch.arange(self.entries, device=index.device)
        mixed = (self.table(index) * self.there[..., None]).sum(-2)
        return F.rms_norm(self.encoder(mixed), (self.config.channels,))

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode to rows `(..., W)`, every entry the likeliest of its values."""
        chosen = self._logits(z).argmax(-1).flatten(-2)[..., self.where]
        if not self.text:
            return chosen + self.low
        letters = self.values[chosen]
        return F.pad(letters, (0, self.stream.shape[0] - letters.shape[-1]), value=-1)

    def loss(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy of the values, the mean over entries, with noise on the latents."""
        z = self.encode_raw(obs)
        noise = drawn(torch.randn, z.shape, generator, device=z.device)
        logits = self._logits(z + self.config.noise * noise).float().flatten(-3, -2)[..., self.where, :]
        return F.cross_entropy(logits.flatten(0, -2), self._classes(obs).flatten())

    def _logits(self, z: Tensor) -> Tensor:
        """Of each entry's values, `(..., N, G, V)`; those that it cannot have are out of the question."""
        logits = self.decoder(z.to(next(self.decoder.parameters()).dtype)).unflatten(-1, (self.entries, self.most))
        return logits.masked_fill(~self.allowed, torch.finfo(logits.dtype).min)

    def _classes(self, obs: Tensor) -> Tensor:
        """Which value each coded entry has, int64 `(..., W)`; a letter that is none of the text's is its nearest."""
        if self.text:
            letters = obs[..., : len(self.low)].round().long().contiguous()
            return torch.searchsorted(self.values, letters).clamp(max=self.most - 1)
        return (obs.round().long() - self.low).clamp(min=0, max=self.most - 1)


def _entries(native: ActionSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest value and number of values of each coded entry, `(W,)`, and the bytes of a text, `(V,)` in order."""
    if native.kind == "text":
        ascii_only = bool(native.charset) and native.charset.isascii()
        letters = sorted({ord(c) for c in native.charset}) if ascii_only else list(range(256))
        values, length = np.array([-1, *letters]), native.n // 4 if ascii_only else native.n
        return np.full(length, -1.0), np.full(length, len(values)), values
    found = columns(native)
    return found.low, (found.high - found.low + 1).astype(np.int64), np.zeros(1, np.int64)


def _tokens(native: ActionSpec, width: int, config: CodesConfig) -> tuple[np.ndarray, tuple[tuple[float, float], ...]]:
    """Which entries each token covers, int64 `(N, G)` with -1 beyond the edge, and where the tokens lie."""
    if native.kind == "text" or len(native.shape) < 2:
        n = -(-width // config.letters)
        order = np.full(n * config.letters, -1)
        order[:width] = np.arange(width)
        return order.reshape(n, -1), tuple((float(i), -1.0) for i in range(n))
    h, w = native.shape[:2]
    side, each = config.side, width // (h * w)
    rows, columns_ = -(-h // side), -(-w // side)
    grid = np.full((rows * side, columns_ * side, each), -1)
    grid[:h, :w] = np.arange(width).reshape(h, w, each)
    cut = grid.reshape(rows, side, columns_, side, each).swapaxes(1, 2)
    places = tuple((float(r), float(c)) for r in range(rows) for c in range(columns_))
    return cut.reshape(rows * columns_, -1), places
