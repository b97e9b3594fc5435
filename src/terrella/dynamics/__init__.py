"""What happens next, given an action: backbones, one a file."""

from .base import Dynamics
from .flow import Flow, FlowConfig
from .token_memory import TokenMemory, TokenMemoryConfig
from .transformer import Transformer, TransformerConfig

__all__ = ["Dynamics", "Flow", "FlowConfig", "TokenMemory", "TokenMemoryConfig", "Transformer", "TransformerConfig"]
