"""Text encoders: sentences, as rows of bytes, to vectors. Registered by name; `WorldConfig.text` chooses one.

A row holds UTF-8 bytes, padded with -1 (`terrella.actions`). An encoder sees each sentence alone, and is trained with
the backbone that asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..registry import register
from .layers import RMSNorm, SwiGLU

SPACE, PRIME = 32, 2**31 - 1
BASES = (257, 65_599)  # of the two hashes of a word
LETTERS = 64  # of a word whose order counts


class TextEncoder(nn.Module, ABC):
    """Encodes M sentences, int64 bytes `(M, W)`, into `(M, D)`. Built as `Encoder(config, D)`; D is `dim`."""

    name: ClassVar[str] = ""

    @abstractmethod
    def forward(self, codes_MW: Tensor) -> Tensor:
        """Encode each row; one without bytes is a sentence, too."""


@dataclass(frozen=True)
class WordsConfig:
    """width: channels of a word. layers, heads: of attention among the words; without layers a sentence is the mean of
    its words, whatever their order. words: how many are read, the first ones. buckets: rows of each of the two tables
    of words.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    words: int = 16
    buckets: int = 1024

    def __post_init__(self) -> None:
        if self.layers < 0 or min(self.words, self.buckets, self.heads) < 1 or self.width % self.heads:
            raise ConfigError(
                f"layers {self.layers}, words {self.words}, buckets {self.buckets}, width {self.width}, heads "
                f"{self.heads}: expected at least 1 of each, 0 or more layers, and a width that the heads divide."
            )


@register("text", "words")
class Words(TextEncoder):
    """Words, known by their letters, attend to one another and to a place of their own that becomes the sentence.

    Without layers the sentence is their mean, and so a sum of what each word says by itself.

    A word is a run of bytes above the space, in lower case; there is no vocabulary to fit. Its vector is the sum of a
    row of each of two tables, chosen by two hashes of its bytes: two words are one only where both hashes agree.

    Ref: hash embeddings, Svenstrup et al., arXiv 1709.03933, section 3. Differs: two hashes with equal weights instead
    of learned ones, and a table for each.
    """

    Config = WordsConfig
    powers: Tensor

    def __init__(self, config: WordsConfig, dim: int):
        super().__init__()
        c = self.config = config
        self.tables = nn.ModuleList(nn.Embedding(c.buckets, c.width) for _ in BASES)
        if c.layers:
            self.place = nn.Parameter(torch.randn(c.words, c.width) * 0.5)
            self.whole = nn.Parameter(torch.randn(c.width) * 0.02)
        self.blocks = nn.ModuleList(_Block(c.width, c.heads) for _ in range(c.layers))
        self.out = nn.Sequential(RMSNorm(c.width), nn.Linear(c.width, dim))
        powers = [[pow(base, i, PRIME) for i in range(LETTERS)] for base in BASES]
        self.register_buffer("powers", torch.tensor(powers), persistent=False)

    def forward(self, codes_MW: Tensor) -> Tensor:
        """Hash the words, embed them, let them attend, and read the sentence."""
        hashes, count = self._words(codes_MW)
        x = sum(table(row % self.config.buckets) for table, row in zip(self.tables, hashes))
        if not self.config.layers:
            there = torch.arange(self.config.words, device=codes_MW.device) < count
            return self.out((x * there[..., None]).sum(1) / count.clamp(1, self.config.words))
        x = x + self.place
        there = torch.arange(-1, self.config.words, device=codes_MW.device) < count  # (M, 1 + words), the whole first
        x = torch.cat([self.whole.expand(len(x), 1, -1), x], 1)
        for block in self.blocks:
            x = block(x, there)
        return self.out(x[:, 0])

    def _words(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Two hashes of each word, int64 `(2, M, words)`, and how many words there are, `(M, 1)`."""
        letter = codes > SPACE
        begins = letter & ~F.pad(letter[:, :-1], (1, 0))
        word = begins.long().cumsum(1) - 1
        at = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
        inside = at - torch.where(begins, at, 0).cummax(1).values
        lower = torch.where((codes >= 65) & (codes <= 90), codes + 32, codes)
        read = letter & (word < self.config.words)
        powers = self.powers[:, inside.clamp(max=self.powers.shape[1] - 1)]
        values = torch.where(read, lower * powers, 0)  # (2, M, W), below 2^39
        into = word.clamp(0, self.config.words - 1).expand_as(values)
        sums = torch.zeros((len(BASES), len(codes), self.config.words), dtype=torch.long, device=codes.device)
        return sums.scatter_add(2, into, values) % PRIME, begins.sum(1, keepdim=True)


class _Block(nn.Module):
    """Attention among the words of a sentence, and a feed-forward layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = SwiGLU(width, 2 * width)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Pass words `(M, n, width)`, of which those are read that are `there`, bool `(M, n)`."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*qkv.unbind(0), attn_mask=there[:, None, None])
        x = x + self.out(seen.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True)
class BytesConfig:
    """buckets: rows of the table of byte pairs."""

    buckets: int = 4096


@register("text", "bytes")
class Bytes(TextEncoder):
    """Mean of embedded bytes and byte pairs, hashed: which words there are, and little of their order."""

    Config = BytesConfig

    def __init__(self, config: BytesConfig, dim: int):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(256 + config.buckets, dim)

    def forward(self, codes_MW: Tensor) -> Tensor:
        """Embed and average."""
        there = (codes_MW >= 0)[..., None]
        code = codes_MW.clamp(min=0)
        pair = (code[:, :-1] * 257 + code[:, 1:] * 31) % self.config.buckets
        double = self.table(256 + pair) * there[:, 1:]
        return ((self.table(code) * there).sum(1) + double.sum(1)) / there.sum(1).clamp(min=1)
