"""Observations to tokens and back: tokenizers, one a file."""

from .base import Tokenizer
from .codes import Codes, CodesConfig
from .conv import Conv, ConvConfig
from .fsq import FSQ, FSQConfig
from .patches import Patches, PatchesConfig
from .vector import Vector, VectorConfig

__all__ = [
    "FSQ",
    "Codes",
    "CodesConfig",
    "Conv",
    "ConvConfig",
    "FSQConfig",
    "Patches",
    "PatchesConfig",
    "Tokenizer",
    "Vector",
    "VectorConfig",
]
