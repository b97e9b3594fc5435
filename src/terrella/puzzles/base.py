"""What every set of puzzles is: grids of symbols, the one right answer to each, and changes that keep them right."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..errors import PuzzleError

Split = Literal["train", "test"]
Augment = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
TEST_SHARE = 8  # one in so many puzzles is a test puzzle


@dataclass(frozen=True)
class Puzzles:
    """Puzzles of one kind and size.

    tokens: uint8 `(N, h, w)`, below `symbols`. answers: uint8 `(N, h, w)`, below `classes`. augment: turns a batch of
    both into an equally valid one. ratings: how hard each is, by the measure that its maker names, float `(N,)`.
    """

    kind: str
    tokens: np.ndarray
    answers: np.ndarray
    symbols: int
    classes: int
    augment: Augment = field(repr=False)
    ratings: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice | np.ndarray) -> Puzzles:
        parts = (self.tokens[index], self.answers[index], self.ratings[index])
        return replace(self, tokens=parts[0], answers=parts[1], ratings=parts[2])

    @property
    def fingerprint(self) -> str:
        """A checksum of all puzzles, in their order."""
        return f"{self.kind}-{len(self)}-{zlib.crc32(np.ascontiguousarray(self.tokens).tobytes()):08x}"

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw puzzles with replacement and change them at random: tokens and answers `(count, h, w)`."""
        index = rng.integers(len(self), size=count)
        return self.augment(self.tokens[index], self.answers[index], rng)


def flat_rows(grids: np.ndarray) -> np.ndarray:
    """View grids `(B, h, w)`, none of them included, as rows `(B, h w)`."""
    return grids.reshape(len(grids), grids.shape[1] * grids.shape[2])


def draws(count: int, split: Split) -> int:
    """Say how many puzzles to draw at random for about `count` of a split."""
    return max(16, 2 * count * (TEST_SHARE if split == "test" else 1))


def in_split(keys: list[bytes], split: Split) -> np.ndarray:
    """Say which keys belong to a split, bool `(N,)`.

    A key is the same for all puzzles that are one but for symmetry, so splits are disjoint under it whatever the seeds.
    Raises `PuzzleError` for a split that there is not.
    """
    if split not in ("train", "test"):
        raise PuzzleError(f"split is {split!r}; expected 'train' or 'test'.")
    test = np.array([zlib.crc32(key) % TEST_SHARE == 0 for key in keys], bool)
    return test if split == "test" else ~test
