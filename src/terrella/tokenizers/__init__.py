"""Observations to tokens and back: tokenizers, one a file."""

from .base import Tokenizer
from .conv import Conv, ConvConfig
from .patches import Patches, PatchesConfig
from .vector import Vector, VectorConfig

__all__ = ["Conv", "ConvConfig", "Patches", "PatchesConfig", "Tokenizer", "Vector", "VectorConfig"]
