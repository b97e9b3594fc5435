"""Data and a world's parts to weights."""

from .budget import Budget
from .loop import train
from .posttrain import PostTraining, posttrain
from .presets import SIZES, TrainingConfig, world_config

__all__ = ["SIZES", "Budget", "PostTraining", "TrainingConfig", "posttrain", "train", "world_config"]
