"""How the view moved, found in the frames themselves, for environments that do not declare it.

Two consecutive frames are laid over one another at every whole shift up to a limit, and the best fit wins. A small
network learns from these what each action is about to do, since a prediction is wanted before its frame is there.
Right where most of what is seen stands still in the world; a view of little but moving things misleads it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import ActionSpec
from .actions import ActionEmbedding

FEWEST = 0.25  # share of the view that must overlap for a shift to count


class InferredMotion(nn.Module):
    """Finds shifts of a grid of tokens of at most `most` cells each way."""

    shifts: Tensor
    handicap: Tensor

    def __init__(self, action: ActionSpec, most: int, view: tuple[int, int], dim: int = 32):
        super().__init__()
        self.most, self.view = most, view
        axis = torch.arange(-most, most + 1)
        shifts = torch.cartesian_prod(axis, axis).reshape(-1, 2)
        self.register_buffer("shifts", shifts, persistent=False)
        height, width = view
        overlap = (height - shifts[:, 0].abs()).clamp(min=0) * (width - shifts[:, 1].abs()).clamp(min=0)
        # Of equal fits the smallest shift is taken: a plain view says nothing about a motion.
        handicap = 1e-4 * shifts.abs().sum(1) + torch.where(overlap < FEWEST * height * width, torch.inf, 0.0)
        self.register_buffer("handicap", handicap, persistent=False)
        self.act = ActionEmbedding(action, dim)
        self.guess = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, len(shifts)))

    def find(self, before: Tensor, after: Tensor) -> Tensor:
        """Index of the shift s that fits frames `(..., h, w, Z)` best, so that after[p] = before[p + s]: `(...)`."""
        lead, (height, width) = before.shape[:-3], self.view
        old, new = (x.detach().float().flatten(0, -4).movedim(-1, 1) for x in (before, after))
        inside = torch.ones(1, 1, height, width, device=old.device)
        near, there = (
            F.unfold(F.pad(x, (self.most,) * 4), (height, width)).unflatten(1, (x.shape[1], -1)) for x in (old, inside)
        )  # (M, Z, h w, shifts)
        apart = (near - new.flatten(2)[..., None]).square().mean(1, keepdim=True)
        error = (apart * there).sum((1, 2)) / there.sum((1, 2)).clamp(min=1)
        return (error + self.handicap).argmin(-1).view(lead)

    def expect(self, rows: Tensor) -> Tensor:
        """Logits of the shifts that actions `(..., W)` bring, `(..., shifts)`."""
        return self.guess(self.act(rows))
