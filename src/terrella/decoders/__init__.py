"""From what a backbone expects to a frame: decoders, one a file."""

from .base import Decoder
from .masked import Masked, MaskedConfig
from .regression import Regression, RegressionConfig
from .residual import Residual, ResidualConfig
from .shortcut import Shortcut, ShortcutConfig
from .swin import Swin, SwinConfig

__all__ = [
    "Decoder",
    "Masked",
    "MaskedConfig",
    "Regression",
    "RegressionConfig",
    "Residual",
    "ResidualConfig",
    "Shortcut",
    "ShortcutConfig",
    "Swin",
    "SwinConfig",
]
