"""From weights to futures: engine and state."""

from .engine import Engine, Frame
from .state import State

__all__ = ["Engine", "Frame", "State"]
