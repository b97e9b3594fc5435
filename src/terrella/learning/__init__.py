"""Learning to act: in a world, from recordings, or in both by turns; judged in the true environment."""

from .clone import clone
from .dyna import Round, dyna
from .imagine import beginnings, learn
from .policy import LearnedPolicy, NetworkConfig
from .support import Support
from .truth import returns, true_envs

__all__ = [
    "LearnedPolicy",
    "NetworkConfig",
    "Round",
    "Support",
    "beginnings",
    "clone",
    "dyna",
    "learn",
    "returns",
    "true_envs",
]
