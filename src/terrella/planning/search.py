"""Where a planner looks: a distribution over action sequences, drawn from and refitted, for B problems at once.

Numbers of a `Box` are independent Gaussians, clipped to their bounds; choices have probabilities, drawn by adding
Gumbel noise to their logarithms (Gumbel-max) and taking the largest. One action may have both. Noise of spectrum
1/f^beta makes neighbouring steps alike: numbers change slowly, and choices, whose Gumbel noise comes from such
Gaussians, tend to stay what they are while each step keeps its probabilities.

    B problems   S candidates   H steps   W numbers in one action: C of a `Box` and D choices among at most V

Ref: Rubinstein, Methodology and Computing in Applied Probability 1 (1999); Timmer and Koenig, Astronomy and
Astrophysics 300 (1995), for coloured noise; Pinneri et al., arXiv 2008.06389, for its use in planning. Differs: noise
has variance 1 at each step whatever its colour, and choices are coloured, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..actions import columns, describe
from ..errors import ActionError
from ..nn.noise import PLAN, keyed_normal
from ..spec import ActionSpec


class Space:
    """The actions that can be searched: bounds and choices of each of the W numbers of a row.

    Raises `ActionError` for text, whose bytes mean something only together.
    """

    def __init__(self, spec: ActionSpec):
        found = columns(spec)
        if (found.choices < 0).any():
            raise ActionError(
                f"actions are {describe(spec)}; planners search numbers and choices. Wrap the environment so that it "
                "offers a Discrete choice among the texts that matter."
            )
        self.low, self.high, self.whole = found.low, found.high, found.whole
        self.numbers, self.picks = np.flatnonzero(found.choices == 0), np.flatnonzero(found.choices > 0)
        self.choices = found.choices[self.picks]
        low, high = self.low[self.numbers], self.high[self.numbers]
        self.bounded = np.isfinite(low) & np.isfinite(high)
        # Half of each range is the unit of a number's spread; where there is no range it is 1.
        self.half = np.where(self.bounded, high / 2 - low / 2, 1.0)
        with np.errstate(invalid="ignore"):
            self.middle = np.where(self.bounded, low / 2 + high / 2, np.clip(0.0, low, high))
        most = int(self.choices.max(initial=1))
        self.uniform = (np.arange(most) < self.choices[:, None]) / self.choices[:, None]

    @property
    def width(self) -> int:
        """W."""
        return len(self.low)

    def clip(self, rows: np.ndarray) -> np.ndarray:
        """Bring rows `(..., W)` within bounds, integers where the space has them."""
        rows = np.clip(rows, self.low, self.high)
        return np.where(self.whole, np.rint(rows), rows)

    def one_hot(self, rows: np.ndarray) -> np.ndarray:
        """Which choices rows `(..., W)` make, `(..., D, V)`."""
        index = rows[..., self.picks] - self.low[self.picks]
        return (index[..., None] == np.arange(self.uniform.shape[1])).astype(np.float64)


@dataclass(frozen=True)
class Search:
    """Gaussians of mean and std `(B, H, C)`, probabilities probs `(B, H, D, V)`; a value, refitted into another one.

    flat: numbers with bounds are drawn uniformly between them instead.
    """

    space: Space = field(repr=False)
    mean: np.ndarray
    std: np.ndarray
    probs: np.ndarray
    flat: bool = False

    @classmethod
    def begin(cls, space: Space, batch: int, horizon: int, spread: float, start: np.ndarray | None = None) -> Search:
        """Look everywhere, or around the rows `start`, `(B, H, W)`.

        spread: deviation of numbers in halves of their ranges; around a start also the share of choices drawn anew.
        """
        probs = np.broadcast_to(space.uniform, (batch, horizon, *space.uniform.shape))
        mean = np.broadcast_to(space.middle, (batch, horizon, len(space.numbers)))
        if start is not None:
            mean, anew = start[..., space.numbers], min(spread, 1.0)
            probs = (1 - anew) * space.one_hot(start) + anew * probs
        return cls(space, mean, np.broadcast_to(spread * space.half, mean.shape), probs)

    @property
    def noise_width(self) -> int:
        """Numbers of noise that one action takes."""
        return self.mean.shape[-1] + int(np.prod(self.probs.shape[2:]))

    def sample(self, noise: np.ndarray) -> np.ndarray:
        """Turn standard normal noise `(B, S, H, noise_width)` into rows `(B, S, H, W)`, all within bounds."""
        space, count = self.space, self.mean.shape[-1]
        rows = np.empty((*noise.shape[:3], space.width))
        rows[..., space.numbers] = self.mean[:, None] + self.std[:, None] * noise[..., :count]
        if self.flat:
            low, share = space.low[space.numbers], torch.special.ndtr(torch.from_numpy(noise[..., :count])).numpy()
            flat = np.where(space.bounded, low, 0.0) + 2 * space.half * share
            rows[..., space.numbers] = np.where(space.bounded, flat, rows[..., space.numbers])
        normal = torch.from_numpy(noise[..., count:]).reshape(*noise.shape[:3], *self.probs.shape[2:])
        gumbel = -(-torch.special.log_ndtr(normal)).log().numpy()
        with np.errstate(divide="ignore"):
            chosen = (np.log(self.probs)[:, None] + gumbel).argmax(-1)
        rows[..., space.picks] = space.low[space.picks] + chosen
        return space.clip(rows)

    def mode(self) -> np.ndarray:
        """The most likely rows, `(B, H, W)`."""
        rows = np.empty((*self.mean.shape[:2], self.space.width))
        rows[..., self.space.numbers] = self.mean
        rows[..., self.space.picks] = self.space.low[self.space.picks] + self.probs.argmax(-1)
        return self.space.clip(rows)

    def moved(self, rows: np.ndarray, weight: np.ndarray, keep: float = 0.0, floor: float = 0.0) -> Search:
        """Go where candidates are good: the weighted means of rows `(B, S, H, W)`, weight `(B, S)` with sums of 1.

        Deviations stay. keep: share of what was there before. floor: see `refitted`.
        """
        mean = np.einsum("bs,bshc->bhc", weight, rows[..., self.space.numbers])
        often = np.einsum("bs,bshdv->bhdv", weight, self.space.one_hot(rows))
        often = (1 - floor) * often + floor * self.space.uniform
        return replace(
            self, mean=keep * self.mean + (1 - keep) * mean, probs=keep * self.probs + (1 - keep) * often, flat=False
        )

    def refitted(self, rows: np.ndarray, weight: np.ndarray, keep: float = 0.0, floor: float = 0.0) -> Search:
        """Do as `moved`, and take over the candidates' deviations, too.

        floor: the least deviation in halves of the ranges, and the share of choices that stays uniform.
        """
        after = self.moved(rows, weight, keep, floor)
        numbers = rows[..., self.space.numbers]
        mean = np.einsum("bs,bshc->bhc", weight, numbers)
        std = np.sqrt(np.einsum("bs,bshc->bhc", weight, np.square(numbers - mean[:, None])))
        std = np.maximum(std, floor * self.space.half)
        return replace(after, std=keep * self.std + (1 - keep) * std)

    def spread(self) -> np.ndarray:
        """How undecided it is, `(B,)`: the mean of deviations (in halves of ranges) and entropies (of the largest)."""
        numbers = self.std / np.where(self.space.half > 0, self.space.half, 1.0)
        entropy = -(self.probs * np.log(np.where(self.probs > 0, self.probs, 1.0))).sum(-1)
        picks = entropy / np.log(np.maximum(self.space.choices, 2))
        return np.concatenate([numbers, picks], -1).mean((1, 2)) if self.space.width else np.zeros(len(self.mean))


def draw_noise(keys: Tensor, moments: Tensor, seed: int, shape: tuple[int, int, int], beta: float = 0.0) -> np.ndarray:
    """Standard normal noise `(B, S, H, K)` for keys and moments, int64 `(B,)`: the same in any company.

    shape: S, H, K. beta: of the spectrum 1/f^beta along H.
    """
    purpose = seed * 256 + PLAN
    white = keyed_normal(keys.cpu(), moments.cpu(), purpose, int(np.prod(shape))).double().numpy()
    return coloured(white.reshape(-1, *shape), beta, 2)


def coloured(white: np.ndarray, beta: float, axis: int) -> np.ndarray:
    """Give white noise the power spectrum 1/f^beta along an axis, variance 1 everywhere.

    What is constant over the whole length counts as the slowest frequency.
    """
    length = white.shape[axis]
    if beta == 0 or length < 2:
        return white
    frequency = np.fft.rfftfreq(length)
    frequency[0] = frequency[1]
    scale = frequency ** (-beta / 2)
    twice = np.full(len(scale), 2.0)  # all but the first and, for even lengths, the last stand for two
    twice[0] = 1.0
    if length % 2 == 0:
        twice[-1] = 1.0
    scale /= np.sqrt((twice * scale**2).sum() / length)
    shape = [1] * white.ndim
    shape[axis] = len(scale)
    return np.fft.irfft(np.fft.rfft(white, axis=axis) * scale.reshape(shape), length, axis=axis)
