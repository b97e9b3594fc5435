"""Terrella: learn a world from recordings; step it, play it, serve it, measure it."""

from . import heads, labels, trials
from .citation import cite
from .data import Dataset, record
from .engine import Engine, State
from .env import WorldEnv
from .evaluation import evaluate
from .nn.kv_policies import Memory
from .planning import plan
from .serving import serve
from .training import train
from .vector_env import WorldVectorEnv
from .world import World

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Engine",
    "Memory",
    "State",
    "World",
    "WorldEnv",
    "WorldVectorEnv",
    "cite",
    "evaluate",
    "heads",
    "labels",
    "plan",
    "record",
    "serve",
    "train",
    "trials",
]
