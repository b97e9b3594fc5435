"""Sudoku of 4 x 4, 6 x 6 and 9 x 9 with one solution and no clue too many, as hard as asked.

A rating is the geometric mean of guesses over random isomorphs, and it belongs to the solver that made it: here to
`sudoku_search.search`, which knows singles and locked candidates. Others need more guesses or fewer for the same
puzzle.

Hard puzzles are found by climbing, each puzzle for itself: drop a clue, add clues of the solution until it is unique
again, drop all that are not needed, and keep the result unless its rating fell. The solution never changes, so it is
the lineage.

Ref: the rating follows the public Sudoku-Extreme set, rated by backtracks of tdoku; arXiv 2605.21488 trains on it.
Differs: puzzles are made here, and rated by a weaker solver.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ..errors import PuzzleError
from .base import Puzzles, Split, draws, flat_rows, in_split
from .sudoku_search import box_of, search
from .sudoku_symmetry import augment, fingerprints, isomorphs

BATCH = 256
ISOMORPHS, RERATED = 5, 20  # while climbing, and for the rating that is reported
PATIENCE = 10
RATED_WITH = 1_000_003  # apart from the seeds of puzzles, so that a rating's isomorphs are fresh


def sudokus(
    count: int, side: int = 6, *, seed: int = 0, guesses: float = 0.0, steps: int = 500, split: Split = "train"
) -> Puzzles:
    """Make `count` minimal puzzles with one solution each, no two of them images of one another.

    Tokens are 0 for an open cell and digits; answers are digits less one. guesses: climb until the rating while
    climbing is at least that; `ratings` are of fresh isomorphs, a little lower on the whole. steps: of the climb at
    most; of each batch the half that arrives first is taken. split: by the puzzle, at 9 x 9 by the solution, images
    included. Raises `PuzzleError` for what cannot be made.

    Climbing is slow in Python: 9 x 9 with more than a few guesses takes seconds to minutes a puzzle.
    """
    box_of(side)
    if count < 1 or guesses < 0 or steps < 0:
        raise PuzzleError(f"asked for {count} puzzles, {guesses} guesses, {steps} steps; expected one, 0, 0 or more.")
    rng = np.random.default_rng([seed, side])
    found: list[tuple[np.ndarray, np.ndarray]] = []
    seen: set[bytes] = set()
    idle = 0
    while len(seen) < count:
        wholes = solutions(min(BATCH, draws(count - len(seen), split)), side, rng)
        if side == 9:
            wholes = wholes[in_split(fingerprints(wholes), split)]
        tokens = minimal(wholes, rng)
        if guesses:
            tokens, arrived = climb(tokens, wholes, guesses, steps, rng, len(tokens) // 2)
            tokens, wholes = tokens[arrived], wholes[arrived]
        keys = fingerprints(wholes, tokens > 0)
        belongs = np.ones(len(keys), bool) if side == 9 else in_split(keys, split)
        fresh = []
        for i in np.flatnonzero(belongs):
            if keys[i] not in seen and len(seen) < count:
                seen.add(keys[i])
                fresh.append(i)
        found.append((tokens[fresh], wholes[fresh]))
        idle = 0 if fresh else idle + 1
        if idle == PATIENCE:
            raise PuzzleError(
                f"found {len(seen)} of {count} different puzzles of side {side} with {guesses} guesses; "
                "ask for fewer, an easier kind, or more steps of the climb."
            )
    tokens, wholes = (np.concatenate(part) for part in zip(*found))
    return Puzzles("sudoku", tokens, wholes - 1, side + 1, side, augment, rate(tokens))


def rate(tokens: np.ndarray, seed: int = RATED_WITH, count: int = RERATED) -> np.ndarray:
    """Rate puzzles `(B, n, n)`: the geometric mean of one more than the guesses on `count` isomorphs, less one, `(B,)`.

    The isomorphs follow from the seed and are the same for every puzzle, so a rating does not depend on its neighbours.
    """
    logs = np.zeros(len(tokens))
    for n in range(count):
        logs += np.log1p(search(isomorphs(tokens, np.random.default_rng([seed, n]), same=True)).guesses)
    return np.expm1(logs / count)


def solutions(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw solved grids, digits from 1 on, uint8 `(count, n, n)`, by guessing cells and digits at random."""
    return search(np.zeros((count, side, side), np.uint8), 1, rng).solutions[:, 0]


def minimal(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take away clues of puzzles `(B, n, n)` with one solution, in random order, until each that is left is needed."""
    flat = flat_rows(tokens).copy()
    order = (rng.random(flat.shape) + (flat == 0)).argsort(1)  # clues first
    for n in range(int((flat > 0).sum(1).max(initial=0))):
        (rows,) = np.nonzero(flat[np.arange(len(flat)), order[:, n]])
        trial = flat[rows]
        trial[np.arange(len(rows)), order[rows, n]] = 0
        unique = search(trial.reshape(len(trial), *tokens.shape[1:])).count == 1
        flat[rows[unique]] = trial[unique]
    return flat.reshape(tokens.shape)


def climb(
    tokens: np.ndarray,
    wholes: np.ndarray,
    guesses: float,
    steps: int,
    rng: np.random.Generator,
    enough: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Make minimal puzzles `(B, n, n)` with solutions `wholes` harder: the puzzles, and which reached `guesses`.

    enough: stop when so many have; the slowest of a batch take many times as long as most.
    """
    tokens, rating = tokens.copy(), _rate_afresh(tokens, rng)
    for _ in range(steps):
        (rows,) = np.nonzero(rating < guesses)
        if not len(rows) or len(tokens) - len(rows) >= (len(tokens) if enough is None else max(1, enough)):
            break
        trial = minimal(_unique(_drop(tokens[rows], rng), wholes[rows], rng), rng)
        theirs = _rate_afresh(trial, rng)
        better = theirs >= rating[rows]
        tokens[rows[better]], rating[rows[better]] = trial[better], theirs[better]
    return tokens, rating >= guesses


def violations(tokens: Tensor, answers: Tensor) -> Tensor:
    """Count what is wrong with answers `(B, S, n, n)` (digits less one) to puzzles `(B, n, n)`: int64 `(B, S)`.

    Clues that are not kept, and digits missing from rows, columns and boxes: 0 means solved. This never sees the truth.
    """
    side = tokens.shape[-1]
    high, wide = box_of(side)
    clue = tokens[:, None]
    wrong = ((clue > 0) & (clue - 1 != answers)).sum((-2, -1))
    there = F.one_hot(answers.long(), side)
    boxes = there.unflatten(-2, (side // wide, wide)).unflatten(-4, (side // high, high))
    for had in (there.amax(-2), there.amax(-3), boxes.amax((-2, -4))):
        wrong = wrong + (1 - had).flatten(2).sum(-1)
    return wrong


def _drop(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = flat_rows(tokens).copy()
    flat[np.arange(len(flat)), ((flat > 0) * (rng.random(flat.shape) + 1e-9)).argmax(1)] = 0
    return flat.reshape(tokens.shape)


def _unique(tokens: np.ndarray, wholes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add clues of the solution, each where two solutions differ, until there is but one."""
    flat, right = flat_rows(tokens).copy(), flat_rows(wholes)
    rows = np.arange(len(flat))
    while len(rows):
        found = search(flat[rows].reshape(len(rows), *tokens.shape[1:]))
        several = found.count > 1
        rows, pairs = rows[several], found.solutions[several].reshape(several.sum(), 2, flat.shape[1])
        cell = ((pairs[:, 0] != pairs[:, 1]) * (rng.random((len(rows), flat.shape[1])) + 1e-9)).argmax(1)
        flat[rows, cell] = right[rows, cell]
    return flat.reshape(tokens.shape)


def _rate_afresh(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    many = isomorphs(tokens.repeat(ISOMORPHS, 0), rng)
    logs = np.log1p(search(many).guesses).reshape(len(tokens), ISOMORPHS)
    return np.expm1(logs.mean(1))
