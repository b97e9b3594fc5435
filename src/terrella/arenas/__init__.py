"""Environments, made in one way, described as data, and (where the simulator can) saved and restored exactly."""

from . import ale, classic, minigrid, procgen  # noqa: F401 - adapters register themselves; no simulator is imported
from .base import Forkable, Simulator, adapter, list_arenas
from .describe import describe
from .fork import forkable
from .make import make
from .streams import streams, to_streams

__all__ = [
    "Forkable",
    "Simulator",
    "adapter",
    "describe",
    "forkable",
    "list_arenas",
    "make",
    "streams",
    "to_streams",
]
