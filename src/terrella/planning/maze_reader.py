"""From pictures of mazes to plans: read the tokens, let a reasoner mark the way, and walk along the marks.

B problems   P proposals   S starts   H steps   n tokens a side   W = 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..arenas.maze import COLOURS, MOVES
from ..errors import ConfigError, SpecError
from ..puzzles.mazes import GOAL, OPEN, START, WALL, faults
from .equilibrium import Reasoner
from .solve import solve
from .tasks import Seen

SYMBOLS, MARKS = 4, 2  # a reasoner of mazes reads so many tokens, and marks the way or not


def read_tokens(pictures: np.ndarray, side: int) -> np.ndarray:
    """Read mazes off pictures uint8 `(B, h, w, 3)`, true or imagined ones: tokens uint8 `(B, n, n)`, n = `side`.

    A token is what the mean of 3 x 3 pixels around its middle is nearest to in colour, open or wall; the agent and the
    goal are where the picture is nearest to their colours, so that there is one of each however blurred it is. Raises
    `SpecError` for pictures of less than 3 pixels a token, or without three colours.
    """
    if pictures.ndim != 4 or pictures.shape[3] != 3 or min(pictures.shape[1:3]) < 3 * side:
        raise SpecError(
            f"pictures have shape {pictures.shape}; expected (B, h, w, 3), with h and w of at least {3 * side} pixels "
            f"for {side} tokens a side."
        )
    rows, columns = (_middles(length, side) for length in pictures.shape[1:3])
    seen = pictures[:, rows[:, None, :, None], columns[None, :, None, :]].mean((3, 4))
    apart = np.square(seen[..., None, :] - COLOURS.astype(np.float64)).sum(-1).reshape(len(pictures), side * side, 4)
    tokens = np.where(apart[..., OPEN] < apart[..., WALL], OPEN, WALL).astype(np.uint8)
    each = np.arange(len(tokens))
    start = apart[..., START].argmin(1)
    apart[each, start, GOAL] = np.inf
    goal = apart[..., GOAL].argmin(1)
    tokens[each, start], tokens[each, goal] = START, GOAL
    return tokens.reshape(-1, side, side)


def walk(tokens: np.ndarray, marks: np.ndarray, horizon: int) -> np.ndarray:
    """Walk from the start of mazes `(R, n, n)` along marks `(R, n, n)`, 1 on the way: rows of actions `(R, H, 1)`.

    A way that ends early, at the goal or because the marks do, is filled up with staying; one that is too long is cut.
    """
    wide = tokens.shape[2] + 2
    left = np.pad((marks == 1) & (tokens != WALL), ((0, 0), (1, 1), (1, 1))).reshape(len(tokens), -1)
    maze = np.pad(tokens, ((0, 0), (1, 1), (1, 1)), constant_values=WALL).reshape(len(tokens), -1)
    each, offsets = np.arange(len(tokens)), MOVES[1:] @ np.array([wide, 1])
    place, actions = (maze == START).argmax(1), np.zeros((len(tokens), horizon, 1))
    for t in range(horizon):
        left[each, place] = False
        ways = left[each[:, None], place[:, None] + offsets]
        go = ways.any(1) & (maze[each, place] != GOAL)
        which = ways.argmax(1)
        actions[:, t, 0] = np.where(go, 1 + which, 0)
        place = np.where(go, place + offsets[which], place)
    return actions


@dataclass(frozen=True)
class MazeReader:
    """Proposes the ways that a reasoner finds through the maze that is seen; a `Proposer`.

    side: tokens a side. iters, starts: see `solve`; None draws one start for each proposal. Answers that are no way at
    all (`faults`, which looks at the maze alone) come last, then those with the greater residual; equal answers count
    once, unless there are too few. stream: the picture's name.

    Raises `ConfigError` for a reasoner that does not read mazes, and for counts below 1.
    """

    reasoner: Reasoner
    side: int = 7
    iters: int = 32
    starts: int | None = None
    stream: str = "pixels"

    def __post_init__(self) -> None:
        c = self.reasoner.config
        if (c.symbols, c.classes) != (SYMBOLS, MARKS):
            raise ConfigError(
                f"the reasoner reads {c.symbols} symbols and answers in {c.classes} classes; mazes have {SYMBOLS} and "
                f"{MARKS}. Train one with train_reasoner(mazes(...))."
            )
        if min(self.side, self.iters, 1 if self.starts is None else self.starts) < 1:
            raise ConfigError(f"side {self.side}, iters {self.iters} and starts {self.starts}: counts from 1 on.")

    def __call__(self, frames: Seen, count: int, horizon: int, seed: int = 0) -> np.ndarray:
        """Propose plans `(B, P, H, 1)` from frames, stream -> `(B, ...)`; the first is the best by what is read.

        Raises `SpecError` where the picture is not there, or no maze.
        """
        if self.stream not in frames:
            raise SpecError(f"there is no stream {self.stream!r} to read a maze from; got {sorted(frames)}.")
        tokens = read_tokens(frames[self.stream], self.side)
        problems = torch.from_numpy(tokens).long()
        starts = count if self.starts is None else self.starts
        found = solve(self.reasoner, problems, iters=self.iters, starts=starts, select="cost", seed=seed, cost=faults)
        marks, costs, residuals = (x.cpu().numpy() for x in (found.candidates, found.costs, found.residuals))
        order = np.lexsort((residuals, costs))
        flat = np.take_along_axis(marks.reshape(*marks.shape[:2], -1), order[..., None], 1)
        same = (flat[:, :, None] == flat[:, None]).all(-1)
        again = np.tril(same, -1).any(2)  # an answer that a better one has given already
        chosen = again.argsort(1, kind="stable")[:, np.arange(count) % starts]
        marks = np.take_along_axis(flat, chosen[..., None], 1).reshape(-1, self.side, self.side)
        rows = walk(tokens.repeat(count, 0), marks, horizon)
        return rows.reshape(len(tokens), count, horizon, 1)


def _middles(length: int, side: int) -> np.ndarray:
    """The three pixels around the middle of each token along one axis, `(n, 3)`."""
    ends = -(-np.arange(side + 1) * length // side)  # a token's first pixel, and the one after its last
    return ((ends[:-1] + ends[1:] - 1) // 2)[:, None] + np.arange(-1, 2)
