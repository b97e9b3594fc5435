"""What happens next, given an action: backbones, one a file."""

from .base import Dynamics
from .transformer import Transformer, TransformerConfig

__all__ = ["Dynamics", "Transformer", "TransformerConfig"]
