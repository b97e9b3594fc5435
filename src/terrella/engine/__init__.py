"""From weights to futures: engine, state, and the precision of each part."""

from .engine import Engine, Frame
from .precision import Precision
from .state import State

__all__ = ["Engine", "Frame", "Precision", "State"]
