"""Mazes with one path: a random spanning tree drawn on a grid, a start, a goal, and the tokens on the way between them.

A maze of side n = 2k - 1 has k x k rooms at even places and a wall or a door between any two of them; the outer wall is
left out. Rooms and doors are a tree, so there is one way without a step back from anywhere to anywhere. Trees grow
depth-first, all mazes of a batch in step: each has exactly k^2 - 1 steps forward and as many back.

Ref: Equilibrium Reasoners, arXiv 2605.21488 (Maze-Unique: depth-first mazes on 29 x 29, path lengths 100 to 140).
Differs: any odd side without padding; lengths are drawn evenly up to the longest that the maze has from its start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import PuzzleError
from .base import Puzzles, Split, draws, flat_rows, in_split

WALL, OPEN, START, GOAL = range(4)
BATCH = 1024
PATIENCE = 20  # batches in a row with next to nothing new before giving up


def mazes(
    count: int, side: int, *, seed: int = 0, lengths: tuple[int, int] | None = None, split: Split = "train"
) -> Puzzles:
    """Make `count` mazes of `side x side` tokens, no two of them the same under the 8 symmetries of the square.

    Tokens are wall, open, start and goal; an answer is 1 on the path (its ends included) and 0 elsewhere; a rating is
    the path's length in steps. lengths: least and most of it, by default from `side + 3` on. split: a maze belongs to
    one of the two, and so do its images under symmetry. Raises `PuzzleError` for what cannot be made.
    """
    least, most = lengths or (side + 3, side * side)
    if side < 5 or side % 2 == 0 or count < 1 or not 1 <= least <= most:
        raise PuzzleError(
            f"asked for {count} mazes of side {side} with paths of {least} to {most} steps; "
            "expected at least one, an odd side from 5 on, and a range of lengths from 1 on."
        )
    rng = np.random.default_rng([seed, side])
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    seen: set[bytes] = set()
    idle = 0
    while len(seen) < count:
        tokens, answers, steps = _batch(min(BATCH, draws(count - len(seen), split)), side, (least, most), rng)
        keys = canonical(tokens)
        fresh = []
        for i in np.flatnonzero(in_split(keys, split)):
            if keys[i] not in seen and len(seen) < count:
                seen.add(keys[i])
                fresh.append(i)
        found.append((tokens[fresh], answers[fresh], steps[fresh]))
        idle = 0 if 50 * len(fresh) > len(tokens) or len(seen) == count else idle + 1
        if idle == PATIENCE:
            raise PuzzleError(
                f"found {len(seen)} of {count} different mazes of side {side} with paths of {least} to {most} steps; "
                "ask for fewer, a larger side, or other lengths."
            )
    tokens, answers, steps = (np.concatenate(part) for part in zip(*found))
    return Puzzles("maze", tokens, answers, 4, 2, turn, steps.astype(np.float64))


def turn(tokens: np.ndarray, answers: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turn and mirror each maze of a batch `(B, n, n)` at random, its answer with it."""
    table = _symmetries(tokens.shape[-1])[rng.integers(8, size=len(tokens))]
    flat = [np.take_along_axis(flat_rows(grid), table, 1) for grid in (tokens, answers)]
    return flat[0].reshape(tokens.shape), flat[1].reshape(answers.shape)


def canonical(tokens: np.ndarray) -> list[bytes]:
    """Return a key for each maze `(B, n, n)`: the least of its 8 images, read row by row."""
    flat = flat_rows(tokens)
    images = np.ascontiguousarray(flat[:, _symmetries(tokens.shape[-1])] + 1)  # no zeros: they would end a string
    return [bytes(key) for key in np.sort(images.view(f"S{flat.shape[1]}")[..., 0], 1)[:, 0]]


def faults(tokens: Tensor, answers: Tensor) -> Tensor:
    """Count what is wrong with paths `(B, S, n, n)` drawn into mazes `(B, n, n)`: int64 `(B, S)`.

    A path stands on no wall, its ends have one neighbour on it and its other tokens two. In a maze that is a tree, 0
    means that it is the right one. This looks at the maze alone, never at the answer.
    """
    maze = tokens[:, None].expand(answers.shape)
    ends = (maze == START) | (maze == GOAL)
    path = (answers == 1).to(torch.int64)
    room = F.pad(path, (1, 1, 1, 1))
    near = room[..., :-2, 1:-1] + room[..., 2:, 1:-1] + room[..., 1:-1, :-2] + room[..., 1:-1, 2:]
    wrong = (path == 1) & ((maze == WALL) | (near != torch.where(ends, 1, 2))) | ((path == 0) & ends)
    return wrong.sum((-2, -1))


def _batch(
    count: int, side: int, lengths: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw mazes; those whose longest path from the start is too short are left out."""
    free = trees(count, (side + 1) // 2, rng)
    start = _any(free, rng)
    away = distances(free, start)
    longest = away.max((1, 2))
    kept = longest >= lengths[0]
    free, start, away, longest = free[kept], start[kept], away[kept], longest[kept]
    # Distances in a connected graph leave no length out.
    steps = rng.integers(lengths[0], np.minimum(longest, lengths[1]) + 1)
    goal = _any(away == steps[:, None, None], rng)
    back = distances(free, goal)
    answers = (free & (away + back == steps[:, None, None])).astype(np.uint8)
    tokens = np.where(free, OPEN, WALL).astype(np.uint8)
    flat, rows = flat_rows(tokens), np.arange(len(tokens))
    flat[rows, start], flat[rows, goal] = START, GOAL
    return tokens, answers, steps


def trees(count: int, rooms: int, rng: np.random.Generator) -> np.ndarray:
    """Draw spanning trees of `rooms x rooms` rooms, depth-first: which tokens are open, bool `(count, n, n)`."""
    wide = rooms + 2  # rooms with a margin of places already visited
    offsets = np.array([-wide, wide, -1, 1])
    visited = np.pad(np.zeros((count, rooms, rooms), bool), ((0, 0), (1, 1), (1, 1)), constant_values=True)
    visited = visited.reshape(count, -1)
    side = 2 * rooms - 1
    free = np.zeros((count, side * side), bool)
    rows, depth = np.arange(count), np.zeros(count, np.int64)
    stack = np.zeros((count, rooms * rooms), np.int64)
    row, column = rng.integers(rooms, size=(2, count))
    stack[:, 0] = (row + 1) * wide + column + 1
    visited[rows, stack[:, 0]] = True
    free[rows, 2 * row * side + 2 * column] = True
    for _ in range(2 * (rooms * rooms - 1)):
        here = stack[rows, depth]
        open_ways = ~visited[rows[:, None], here[:, None] + offsets]
        go = open_ways.any(1)
        there = here + offsets[(open_ways * rng.random((count, 4), np.float32)).argmax(1)]
        depth += np.where(go, 1, -1)
        who, a, b = rows[go], here[go], there[go]
        stack[who, depth[go]] = b
        visited[who, b] = True
        (r0, c0), (r1, c1) = np.divmod(a, wide), np.divmod(b, wide)
        free[who, (r0 + r1 - 2) * side + c0 + c1 - 2] = True  # the door, half-way between two rooms
        free[who, 2 * (r1 - 1) * side + 2 * (c1 - 1)] = True
    return free.reshape(count, side, side)


def distances(free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Steps in trees `(B, n, n)`, true where open, from flat places `(B,)` to each token: int16, -1 where closed."""
    wide = free.shape[2] + 2
    room = np.pad(free, ((0, 0), (1, 1), (1, 1)))
    away = np.full(room.shape, -1, np.int16)
    unseen, steps = room.reshape(-1), away.reshape(-1)  # views
    row, column = np.divmod(start, free.shape[2])
    front = np.arange(len(free)) * room.shape[1] * wide + (row + 1) * wide + column + 1
    step = 0
    while len(front):  # few tokens of each maze: a tree is as wide as it has ends
        steps[front], unseen[front] = step, False
        step += 1
        near = (front[:, None] + np.array([-wide, wide, -1, 1])).reshape(-1)
        front = near[unseen[near]]
    return away[:, 1:-1, 1:-1]


def _any(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose one true place of each row `(B, n, n)`, as a flat index `(B,)`."""
    flat = flat_rows(mask)
    return (flat * (rng.random(flat.shape) + 1e-9)).argmax(1)


def _symmetries(side: int) -> np.ndarray:
    """Where each token comes from in the 8 images of a square, flat: `(8, side * side)`."""
    grid = np.arange(side * side).reshape(side, side)
    return np.stack([np.rot90(g, k).reshape(-1) for g in (grid, grid.T) for k in range(4)])
