"""Recordings without actions: latent actions, aligned to controls by a few labels; actions read off frames."""

from .controls import Controls, align, controlled
from .latent import LatentActions, LatentConfig
from .learning import label, learn_actions
from .pseudo import pseudo_label

__all__ = [
    "Controls",
    "LatentActions",
    "LatentConfig",
    "align",
    "controlled",
    "label",
    "learn_actions",
    "pseudo_label",
]
