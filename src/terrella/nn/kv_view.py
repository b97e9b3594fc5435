"""What a policy sees of a store: its slots sorted by head and from new to old, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SIMILAR = 1 / 1024  # similarities that differ by less count as equal
ALIKE = 0.98  # least cosine of keys that are merged: queries and keys being normalised, a score then moves by some 0.2


@dataclass
class View:
    """The S slots of each layer and place that may give way, `(B, L, N, S)` each; empty ones last in their head.

    owner: the head whose slot it is. age: frames since. filled: whether it holds anything. mean, square: of the
    attention it got from the last queries, zero where the policy looks at none. episode: that of its frame.
    compensation: mean attention to each head's compensation slot, `(B, L, N, H)`. recent: newest frames that never
    give way. keys: makes the slots' keys, `(B, L, N, S, d)`.
    """

    owner: Tensor
    age: Tensor
    filled: Tensor
    mean: Tensor
    square: Tensor
    episode: Tensor
    compensation: Tensor
    recent: int
    keys: Callable[[], Tensor]
    compared: Tensor | None = None  # see `similar`

    @property
    def size(self) -> int:
        """Slots of a layer and place, S."""
        return self.owner.shape[-1]

    @property
    def heads(self) -> int:
        """Heads that share them, H."""
        return self.compensation.shape[-1]

    @property
    def variance(self) -> Tensor:
        """Variance of the attention over the last queries."""
        return (self.square - self.mean.square()).clamp(min=0)

    @property
    def start(self) -> Tensor:
        """Index of the first slot of each slot's head."""
        held = torch.zeros_like(self.compensation, dtype=torch.int64)
        held = held.scatter_add(-1, self.owner, torch.ones_like(self.owner))
        return (held.cumsum(-1) - held).gather(-1, self.owner)

    def similar(self) -> Tensor:
        """Cosine of each slot's key and each newer one's of its head, `(B, L, N, S, S)`, -inf for all others.

        Recent ones are left alone. In steps of 1/1024; S squared numbers for each place while committing, the price of
        knowing the nearest pair.
        """
        if self.compared is not None:
            return self.compared
        keys = self.keys()
        unit = F.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=-1)
        old = self.filled & (self.age >= self.recent)
        both = (self.owner[..., :, None] == self.owner[..., None, :]) & old[..., :, None] & old[..., None, :]
        steps = ((unit @ unit.transpose(-1, -2)) / SIMILAR).round() * SIMILAR
        self.compared = steps.masked_fill(~both.tril(-1), -torch.inf)
        return self.compared

    @property
    def nearest(self) -> Tensor:
        """Index of the most similar newer slot, among equals the next in time; a slot's own where none is alike."""
        own = torch.arange(self.size, device=self.age.device)
        nearest = self.size - 1 - self.similar().flip(-1).argmax(-1)
        return torch.where(self.similar().amax(-1) >= ALIKE, nearest, own)

    def beside(self, x: Tensor, step: int, other: Tensor) -> Tensor:
        """Take `x` from the slot `step` places older in the same head (newer if negative), `other` where none is."""
        index = torch.arange(self.size, device=x.device) + step
        there = index.clamp(0, self.size - 1)
        same = (index == there) & (self.owner[..., there] == self.owner) & self.filled & self.filled[..., there]
        return torch.where(same, x[..., there], other)

    def per_head(self, x: Tensor) -> Tensor:
        """Sum over each head's filled slots, `(B, L, N, H)`."""
        return torch.zeros_like(self.compensation).scatter_add(-1, self.owner, x.to(self.compensation) * self.filled)

    def rank(self, priority: Tensor) -> Tensor:
        """Count the slots of the same head that have more priority, or as much and are newer."""
        best = priority.argsort(dim=-1, descending=True, stable=True)
        order = best.gather(-1, self.owner.gather(-1, best).argsort(dim=-1, stable=True))  # by head, best first
        place = torch.arange(self.size, device=order.device) - self.start
        return torch.zeros_like(order).scatter(-1, order, place)
