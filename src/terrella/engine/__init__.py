"""From weights to futures: engine, state, alarm, and what makes frames cheaper: precision of each part, caches."""

from .alarm import SIGNALS, Alarm
from .caches import CACHES, FeatureCache
from .calibration import calibrate
from .dream import Dream
from .engine import Engine
from .frame import Frame
from .precision import Precision
from .recall import Trail
from .settings import engine_settings
from .state import State

__all__ = [
    "CACHES",
    "SIGNALS",
    "Alarm",
    "Dream",
    "Engine",
    "FeatureCache",
    "Frame",
    "Precision",
    "State",
    "Trail",
    "calibrate",
    "engine_settings",
]
