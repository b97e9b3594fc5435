"""Data and a world's parts to weights."""

from .budget import Budget
from .distill import Distilling, distill_guidance
from .loop import train
from .posttrain import PostTraining, posttrain
from .presets import SIZES, TrainingConfig, world_config

__all__ = [
    "SIZES",
    "Budget",
    "Distilling",
    "PostTraining",
    "TrainingConfig",
    "distill_guidance",
    "posttrain",
    "train",
    "world_config",
]
