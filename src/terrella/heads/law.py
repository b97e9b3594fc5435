"""A distribution over actions, whose parameters a network gives: independent Gaussians and choices.

W numbers in one action: C of a `Box`, and D choices among at most V
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..actions import columns, describe
from ..errors import ActionError
from ..spec import ActionSpec

NARROW, WIDE = -5.0, 2.0  # between which the logarithm of a deviation lies, in deviations of what was recorded


@dataclass(frozen=True)
class Laws:
    """Distributions `(...)` of actions. mean, std: of numbers, `(..., C)`. log_probs: of choices, `(..., D, V)`."""

    mean: Tensor
    std: Tensor
    log_probs: Tensor


class ActionLaw(nn.Module):
    """Reads `parameters` numbers as a law of the actions of a space.

    Raises `ActionError` for text, whose bytes mean something only together.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, spec: ActionSpec):
        super().__init__()
        found = columns(spec)
        if (found.choices < 0).any():
            raise ActionError(f"actions are {describe(spec)}; this head knows numbers and choices, and no text.")
        self.numbers, self.picks = (np.flatnonzero(found.choices == 0), np.flatnonzero(found.choices > 0))
        self.low = torch.from_numpy(found.low[self.picks].astype(np.float32))
        counts = torch.from_numpy(found.choices[self.picks])
        self.most = int(found.choices.max(initial=1))
        self.there = torch.arange(self.most) < counts[:, None]  # (D, V)
        self.parameters_needed = 2 * len(self.numbers) + len(self.picks) * self.most
        self.register_buffer("centre", torch.zeros(len(self.numbers)))
        self.register_buffer("spread", torch.ones(len(self.numbers)))

    @torch.no_grad()
    def measure(self, rows: Tensor) -> None:
        """Take the mean and deviation of the numbers of rows `(frames, W)` for the units of this law."""
        if not len(self.numbers):
            return
        numbers = rows[:, self.numbers].double()
        self.centre.copy_(numbers.mean(0))
        self.spread.copy_(numbers.std(0, correction=0).clamp(min=1e-4))

    def laws(self, given: Tensor) -> Laws:
        """Read what a network gave, `(..., parameters_needed)`."""
        count = len(self.numbers)
        mean, log_std, logits = given.float().split([count, count, given.shape[-1] - 2 * count], -1)
        logits = logits.unflatten(-1, (len(self.picks), self.most))
        log_probs = logits.masked_fill(~self.there.to(given.device), -torch.inf).log_softmax(-1)
        std = self.spread * log_std.clamp(NARROW, WIDE).exp()
        return Laws(self.centre + self.spread * mean, std, log_probs)

    def log_prob(self, laws: Laws, rows: Tensor) -> Tensor:
        """The logarithm of the density of rows `(..., W)`, `(...)`, numbers being measured in their deviations."""
        gap = (rows[..., self.numbers] - laws.mean) / laws.std
        numbers = -0.5 * (gap.square() + np.log(2 * np.pi)) - (laws.std / self.spread).log()
        return numbers.sum(-1) + self._chosen(laws, rows).sum(-1)

    def _chosen(self, laws: Laws, rows: Tensor) -> Tensor:
        index = (rows[..., self.picks] - self.low.to(rows.device)).long().clamp(0, self.most - 1)
        log_probs = laws.log_probs.expand(*index.shape, self.most)
        return log_probs.gather(-1, index[..., None])[..., 0]

    def mode(self, laws: Laws) -> Tensor:
        """The likeliest rows, `(..., W)`, not yet within bounds."""
        rows = torch.empty(*laws.mean.shape[:-1], len(self.numbers) + len(self.picks), device=laws.mean.device)
        rows[..., self.numbers] = laws.mean
        rows[..., self.picks] = self.low.to(rows.device) + laws.log_probs.argmax(-1)
        return rows
