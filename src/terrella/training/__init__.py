"""Data and a world's parts to weights."""

from .budget import Budget
from .loop import train
from .presets import SIZES, TrainingConfig, world_config

__all__ = ["SIZES", "Budget", "TrainingConfig", "train", "world_config"]
