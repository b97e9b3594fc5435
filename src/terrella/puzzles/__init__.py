"""Puzzles on a grid with one solution each, made from a seed, to train and test reasoners on."""

from .base import Puzzles
from .mazes import mazes
from .sudoku import sudokus

__all__ = ["Puzzles", "mazes", "sudokus"]
