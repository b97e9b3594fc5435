"""Environments, made in one way, described as data, and (where the simulator can) saved and restored exactly."""

from . import (  # noqa: F401 - they register adapters and ids; no simulator is imported
    ale,
    blocks,
    chaos,
    classic,
    crafter,
    doom,
    highway,
    manipulation,
    maze,
    minigrid,
    physics,
    procgen,
    pucks,
    rooms,
    speak_grid,
    speak_pucks,
    spelled,
    sprites,
    told,
)
from .base import Forkable, Simulator, adapter, list_arenas
from .describe import describe
from .fork import forkable
from .make import make
from .quantity import Quantity
from .spelled import Spelled
from .sprites import black_mse
from .streams import streams, to_streams

__all__ = [
    "Forkable",
    "Quantity",
    "Simulator",
    "Spelled",
    "adapter",
    "black_mse",
    "describe",
    "forkable",
    "list_arenas",
    "make",
    "streams",
    "to_streams",
]
