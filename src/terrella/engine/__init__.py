"""From weights to futures: engine, state, and what makes frames cheaper: precision of each part, feature caches."""

from .caches import CACHES, FeatureCache
from .dream import Dream
from .engine import Engine
from .frame import Frame
from .precision import Precision
from .recall import Trail
from .settings import engine_settings
from .state import State

__all__ = ["CACHES", "Dream", "Engine", "FeatureCache", "Frame", "Precision", "State", "Trail", "engine_settings"]
