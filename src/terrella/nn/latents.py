"""Words that tokenizers, backbones and decoders share: what a latent is, how noisy it is, what predicts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

APART = 100.0  # columns between the places of two streams of one world


@dataclass(frozen=True)
class TokenSpec:
    """The latent of one frame: `n` tokens of `channels` numbers, each with a place `(row, column)` on a grid."""

    n: int
    channels: int
    places: tuple[tuple[float, float], ...]

    @property
    def grid(self) -> tuple[int, int] | None:
        """Height and width of the grid that the tokens fill row by row; None where they do not."""
        rows, columns = (sorted({place[axis] for place in self.places}) for axis in (0, 1))
        whole = self.places == tuple((r, c) for r in rows for c in columns)
        return (len(rows), len(columns)) if whole else None


@dataclass(frozen=True)
class Noise:
    """How noisy a frame is, and the step `d` the sampler will take; both `(B,)` or `(B, T)`.

    `tau` is the signal level in [0, 1]; 1 is clean.
    """

    tau: Tensor
    d: Tensor


@dataclass(frozen=True)
class Outcome:
    """What a finished frame brings: expected `reward` and the logit of `end` (termination), `(B,)` or `(B, T)`.

    extra: a loss of the backbone's own for each frame, in units of the latent loss (a mean over the frame's numbers),
    or None. Only training reads it.
    """

    reward: Tensor
    end: Tensor
    extra: Tensor | None = None


Predict = Callable[[Tensor | None, Noise | None], Tensor]
"""`(z_noisy, noise) -> x_hat`: the clean latent expected behind a noisy one; with `None, None` a plain prediction.

When stepping, `z_noisy` may have several rows a session, side by side, which then read one past."""

Begin = Callable[[Tensor | None, Noise | None], tuple[Tensor, Callable[[], Tensor]]]
"""`(z_noisy, noise) -> (added, go_on)`: what the first layer adds, and what goes on to the latent expected."""
