"""A Sudoku solver that counts its guesses, for many puzzles at once: singles, locked candidates, and then search.

Candidates are bits, one 16-bit number a cell; puzzles lie along the last axis, so that each rule is a few operations on
whole arrays. All puzzles take a round of rules together, and each has its own stack of open guesses; a puzzle that is
done leaves the batch.

The rules: a cell with one candidate takes it from its peers (naked single); a digit with one cell left in a unit goes
there (hidden single); a digit confined to where a box and a line meet leaves the rest of both (locked candidates).
Where none helps, the solver guesses in the first cell of fewest candidates, the least digit first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import PuzzleError
from .base import flat_rows

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # height and width of a box, by side


@dataclass(frozen=True)
class Found:
    """What a search found for B puzzles.

    count: solutions, up to the limit, `(B,)`. solutions: the first two of them at most, digits from 1 on, uint8
    `(B, 2, n, n)`, zeros where there is none. guesses: made until the limit was reached or all was tried, `(B,)`.
    """

    count: np.ndarray
    solutions: np.ndarray
    guesses: np.ndarray


def box_of(side: int) -> tuple[int, int]:
    """Height and width of a box; raises `PuzzleError` for a side that is not 4, 6 or 9."""
    if side not in BOXES:
        raise PuzzleError(f"a Sudoku of side {side} is not known; expected {', '.join(map(str, BOXES))}.")
    return BOXES[side]


def search(tokens: np.ndarray, limit: int = 2, rng: np.random.Generator | None = None) -> Found:
    """Look for solutions of puzzles `(B, n, n)`, 0 where a cell is open and digits from 1 on, until there are `limit`.

    With a limit of 2 this tells whether a solution is the only one, and the guesses include those of the proof. rng:
    guess cells and digits at random, as one does to draw a solution. Raises `PuzzleError` for what is no Sudoku.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 3 or tokens.shape[1] != tokens.shape[2] or tokens.min(initial=0) < 0:
        raise PuzzleError(f"puzzles have shape {tokens.shape}; expected (batch, n, n) with digits from 0 on.")
    side = tokens.shape[1]
    box_of(side)
    if tokens.max(initial=0) > side:
        raise PuzzleError(f"a digit is {tokens.max()}; expected 0, for an open cell, to {side}.")
    full = (1 << side) - 1
    count, guesses = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64)
    solutions = np.zeros((len(tokens), 2, side * side), np.uint8)
    flat = flat_rows(tokens).T.astype(np.int64)
    masks = np.where(flat > 0, 1 << np.maximum(flat - 1, 0), full).astype(np.uint16)
    rows = np.arange(len(tokens))  # which puzzle a column of `masks` is
    depth = np.zeros(len(tokens), np.int64)
    stack = np.zeros((len(tokens), 16, side * side), np.uint16)
    while len(rows):
        before = masks
        masks, bad = propagate(masks, side)
        still = ~bad & (masks == before).all(0)
        settled = still & _single(masks).all(0)
        (done,) = np.nonzero(settled)
        if len(done):
            who = rows[done]
            some = count[who] < 2
            solutions[who[some], count[who[some]]] = _digits(masks[:, done[some]]).T
            count[who] += 1
        (stuck,) = np.nonzero(still & ~settled)
        if len(stuck):
            who = rows[stuck]
            if depth[who].max() == stack.shape[1]:
                stack = np.concatenate([stack, np.zeros_like(stack)], 1)
            cell, bit = _guess(masks[:, stuck], rng)
            stack[who, depth[who]] = masks[:, stuck].T
            stack[who, depth[who], cell] &= ~bit
            masks[cell, stuck] = bit
            depth[who] += 1
            guesses[who] += 1
        back = bad | settled
        ended = back & ((depth[rows] == 0) | (count[rows] >= limit))
        (again,) = np.nonzero(back & ~ended)
        depth[rows[again]] -= 1
        masks[:, again] = stack[rows[again], depth[rows[again]]].T
        if ended.any():
            masks, rows = masks[:, ~ended], rows[~ended]
    return Found(count, solutions.reshape(len(tokens), 2, side, side), guesses)


def propagate(masks: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply each rule once to candidates uint16 `(cells, B)`: the candidates left, and who has none left `(B,)`.

    A contradiction may show a round later; once nothing changes and all cells are single, there is none.
    """
    units, of_cell = _units(side)
    full = (1 << side) - 1
    single = _single(masks)
    fixed = np.where(single, masks, 0)[units]  # (units, n, B)
    taken = np.bitwise_or.reduce(fixed, 1)
    bad = (fixed.sum(1, dtype=np.uint16) != taken).any(0)  # a digit fixed twice in a unit
    masks = np.where(single, masks, masks & ~(taken[of_cell[0]] | taken[of_cell[1]] | taken[of_cell[2]]))
    once, twice = _tally(masks[units].swapaxes(0, 1))
    bad |= (once != full).any(0)
    alone = once & ~twice
    hidden = masks & (alone[of_cell[0]] | alone[of_cell[1]] | alone[of_cell[2]])
    masks = np.where(hidden, hidden, masks)
    masks = masks & ~_locked(masks, side)
    return masks, bad | (masks == 0).any(0)


def _locked(masks: np.ndarray, side: int) -> np.ndarray:
    """Which candidates locked ones forbid, `(cells, B)`."""
    high, wide = BOXES[side]
    down, across, many = side // high, side // wide, masks.shape[1]
    cells = masks.reshape(down, high, across, wide, many)
    forbidden = np.zeros_like(cells)
    for inner, outer in ((1, 2), (3, 0)):  # rows meet boxes: lines within a box, boxes along a line; then columns
        parts = np.bitwise_or.reduce(cells, 4 - inner, keepdims=True)
        for axis, other in ((inner, outer), (outer, inner)):  # confined to one part along an axis: gone from the other
            once, twice = _tally(np.moveaxis(parts, axis, 0))
            sure = parts & np.expand_dims(once & ~twice, axis)
            once, twice = (np.expand_dims(t, other) for t in _tally(np.moveaxis(sure, other, 0)))
            forbidden |= twice | (once & ~sure)
    return forbidden.reshape(masks.shape)


def _tally(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits that at least one, and at least two, of the parts along the first axis have."""
    once, twice = np.zeros_like(parts[0]), np.zeros_like(parts[0])
    for part in parts:
        twice |= once & part
        once |= part
    return once, twice


def _guess(masks: np.ndarray, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """Choose for candidates `(cells, B)` a cell `(B,)` of fewest, at least two, and one of its digits, a bit `(B,)`."""
    number = _numbers()[masks].astype(np.float32)
    number[number < 2] = 99
    if rng is not None:
        number += rng.random(number.shape, np.float32) / 2
    cell = number.argmin(0)
    mask = masks[cell, np.arange(masks.shape[1])]
    if rng is not None:
        bits = mask[:, None] & (1 << np.arange(16, dtype=np.uint16))
        return cell, bits[np.arange(len(bits)), ((bits > 0) * (rng.random(bits.shape) + 1e-9)).argmax(1)]
    return cell, mask & -mask


def _single(masks: np.ndarray) -> np.ndarray:
    return (masks & (masks - 1)) == 0  # true of 0, too: such a row is bad already


def _digits(masks: np.ndarray) -> np.ndarray:
    return (np.frexp(masks.astype(np.float32))[1]).astype(np.uint8)  # the place of the one bit, from 1 on


@lru_cache
def _numbers() -> np.ndarray:
    return np.array([bin(n).count("1") for n in range(1 << 9)], np.uint8)


@lru_cache
def _units(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of each unit (rows, columns, boxes), `(3 n, n)`, and the three units of each cell, `(3, cells)`."""
    high, wide = BOXES[side]
    row, column = np.divmod(np.arange(side * side), side)
    box = row // high * (side // wide) + column // wide
    of_cell = np.stack([row, side + column, 2 * side + box])
    return np.stack([np.flatnonzero((of_cell == u).any(0)) for u in range(3 * side)]), of_cell
