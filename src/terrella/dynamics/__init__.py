"""What happens next, given an action: backbones, one a file."""

from .base import Dynamics
from .flow import Flow, FlowConfig
from .flow_wedge import FlowWedge, FlowWedgeConfig
from .hybrid import Hybrid, HybridConfig
from .language import Language, LanguageConfig
from .reaction_diffusion import ReactionDiffusion, ReactionDiffusionConfig
from .rssm import RSSM, RSSMConfig
from .ssm import SSM, SSMConfig
from .token_memory import TokenMemory, TokenMemoryConfig
from .transformer import Transformer, TransformerConfig

__all__ = [
    "RSSM",
    "SSM",
    "Dynamics",
    "Flow",
    "FlowConfig",
    "FlowWedge",
    "FlowWedgeConfig",
    "Hybrid",
    "HybridConfig",
    "Language",
    "LanguageConfig",
    "RSSMConfig",
    "ReactionDiffusion",
    "ReactionDiffusionConfig",
    "SSMConfig",
    "TokenMemory",
    "TokenMemoryConfig",
    "Transformer",
    "TransformerConfig",
]
