"""Can whoever acts still be made out in a picture? For the two arenas of benchmarks/sentences.py.

What moves and looks like a frame need not be a world to act in: light can go on wandering through a room that nobody is
in any more. Both read pictures alone, `(R, h, w, 3)` -> bool `(R,)`, and say yes to every true one.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np

from terrella.arenas.pucks import SIDE
from terrella.arenas.read_grid import GridReader

PALE = 150  # what the white disc has of every colour, and no other disc has
ENOUGH = 0.5  # of the disc's area


def walker(pictures: np.ndarray, env: gym.Env) -> np.ndarray:
    """Whether the triangle that walks is in the grid."""
    del env
    return GridReader().agents(pictures)


def white_disc(pictures: np.ndarray, env: gym.Env) -> np.ndarray:
    """Whether at least half of the white disc is on the table."""
    radius = float(env.unwrapped.radius[0]) / SIDE * pictures.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
    return (pictures.min(-1) >= PALE).sum((1, 2)) >= ENOUGH * math.pi * radius**2
