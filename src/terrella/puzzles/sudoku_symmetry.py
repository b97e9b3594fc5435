"""What leaves a Sudoku the same puzzle: digits renamed, bands, rows in a band, stacks and columns exchanged, a mirror.

A least image is out of reach for 9 x 9 (3.4 million images before digits are renamed), and it is not needed to tell
splits apart: a number that all images share is enough, since puzzles with different numbers cannot be images of one
another.
"""

from __future__ import annotations

import numpy as np

from .base import flat_rows
from .sudoku_search import box_of

ROUNDS = 3  # of refinement


def isomorphs(tokens: np.ndarray, rng: np.random.Generator, same: bool = False) -> np.ndarray:
    """Turn each puzzle or solution `(B, n, n)` of a batch into a random image; same: all by one change."""
    return _apply(tokens, *_draw(1 if same else len(tokens), tokens.shape[-1], rng))


def augment(tokens: np.ndarray, answers: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turn puzzles (0 for an open cell) and answers (digits less one), `(B, n, n)`, into images of themselves."""
    drawn = _draw(len(tokens), tokens.shape[-1], rng)
    return _apply(tokens, *drawn), _apply(answers + 1, *drawn) - 1


def fingerprints(solutions: np.ndarray, clues: np.ndarray | None = None) -> list[bytes]:
    """Return a key for each solution `(B, n, n)`, digits from 1 on, that is the same for all of its images.

    clues: which cells are given, bool `(B, n, n)`; with it the key is of the puzzle. Rows are told apart by the cycles
    of the permutations between them, cells by their row, column and being given, then by those they share a unit or a
    digit with. Different keys prove different puzzles; equal keys almost surely mean equal ones.
    """
    side = solutions.shape[-1]
    high, wide = box_of(side)
    rows, columns = _lines(solutions, high), _lines(solutions.swapaxes(1, 2), wide)
    label = _mix(rows)[:, :, None] + _mix(columns)[:, None, :]  # sums: a mirror exchanges rows and columns
    if clues is not None:
        label = label + _mix(clues.astype(np.uint64) + np.uint64(1))
    box = label.shape[0], side // high, high, side // wide, wide
    for _ in range(ROUNDS):
        lines = _mix(label.sum(2, keepdims=True)) + _mix(label.sum(1, keepdims=True))
        boxes = _mix(label.reshape(box).sum((2, 4), keepdims=True)).repeat(high, 2).repeat(wide, 4)
        digits = np.zeros_like(label)
        for digit in range(1, side + 1):
            there = solutions == digit
            total = np.where(there, label, np.uint64(0)).sum((1, 2))
            digits += there * _mix(total)[:, None, None]
        label = _mix(label + lines + np.uint64(3) * boxes.reshape(label.shape) + np.uint64(5) * digits)
    return [key.tobytes() for key in _mix(label).sum((1, 2))]


def _draw(count: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw images: where each cell comes from `(B, n, n)`, and the new name of each digit `(B, n + 1)`, 0 kept."""
    high, wide = box_of(side)
    rows, columns = _order(count, side, high, rng), _order(count, side, wide, rng)
    source = rows[:, :, None] * side + columns[:, None, :]
    if high == wide:
        source = np.where(rng.random(count)[:, None, None] < 0.5, source.swapaxes(1, 2), source)
    names = np.pad(rng.random((count, side)).argsort(1) + 1, ((0, 0), (1, 0)))
    return source, names.astype(np.uint8)


def _apply(grids: np.ndarray, source: np.ndarray, names: np.ndarray) -> np.ndarray:
    moved = np.take_along_axis(flat_rows(grids), flat_rows(source), 1)
    return np.take_along_axis(names, moved.astype(np.int64), 1).reshape(grids.shape).astype(grids.dtype)


def _order(count: int, side: int, group: int, rng: np.random.Generator) -> np.ndarray:
    """Draw orders of lines that keep groups together, `(B, n)`."""
    groups = rng.random((count, side // group)).argsort(1)
    within = rng.random((count, side // group, group)).argsort(2)
    return (groups[:, :, None] * group + within).reshape(count, side)


def _lines(solutions: np.ndarray, group: int) -> np.ndarray:
    """Label each row by the cycles of the permutations of digits that lead from it to every other: `(B, n)`."""
    side = solutions.shape[-1]
    digits = solutions.astype(np.int64) - 1
    place = digits.argsort(2)  # (B, row, digit): the column
    leads = digits[np.arange(len(digits))[:, None, None, None], np.arange(side)[None, None, :, None], place[:, :, None]]
    power, cycles = leads, np.zeros(leads.shape[:3], np.uint64)
    for n in range(1, side + 1):  # fixed points of a permutation's powers say how long its cycles are
        fixed = (power == np.arange(side)).sum(-1).astype(np.uint64)
        cycles = cycles + _mix(fixed * np.uint64(side + 1) + np.uint64(n * 1000))
        power = np.take_along_axis(leads, power, 3)
    near = np.arange(side)[:, None] // group == np.arange(side)[None] // group
    return _mix(cycles + near.astype(np.uint64)).sum(2)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
