"""Latents of the last few frames, kept beside a session's memory for what reads frames and not memory: heads.

They are slabs as any others: forked, saved and batched with the session. At its first frame a session has no past, and
that frame stands in for all before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..nn.latents import TokenSpec
from ..nn.slabs import Slabs, SlabSpec

LATENT, ROW = "recall.latent", "recall.row"


@dataclass(frozen=True)
class Trail:
    """F frames one after another as latents, for R sessions.

    z: `(R, F, N, Z)`. rows: `(R, F, W)`, the action that led to each; NaN where there was none.
    """

    z: Tensor
    rows: Tensor

    @property
    def frames(self) -> int:
        """F."""
        return self.z.shape[1]

    def then(self, z: Any, rows: Any) -> Trail:
        """Go on with frames `(R, T, N, Z)` that actions `(R, T, W)` led to; tensors or arrays."""
        z, rows = (torch.as_tensor(x).to(mine) for x, mine in ((z, self.z), (rows, self.rows)))
        return Trail(torch.cat([self.z, z], 1), torch.cat([self.rows, rows], 1))

    def take(self, index: Any) -> Trail:
        """The sessions at `index`, in that order."""
        at = torch.as_tensor(index, device=self.z.device)
        return Trail(self.z[at], self.rows[at])

    def windows(self, frames: int, count: int) -> Trail:
        """The windows of `frames` frames that end at each of the last `count` frames, `(R * count, frames, ...)`."""
        since = self.frames - count - frames + 1
        z, rows = (x[:, since:].unfold(1, frames, 1).movedim(-1, 2).flatten(0, 1) for x in (self.z, self.rows))
        return Trail(z, rows)


def recall_slabs(frames: int, tokens: TokenSpec, width: int, beside: bool = True) -> dict[str, SlabSpec]:
    """What a session keeps for it. beside: see `SlabSpec`; a decoder may go on from the last frame."""
    if frames == 0:
        return {}
    latent = SlabSpec((frames, tokens.n, tokens.channels), beside=beside)
    return {LATENT: latent, ROW: SlabSpec((frames, width), dtype=torch.float32, beside=True)}


def remember(slabs: Slabs, row_BW: Tensor, z_BNZ: Tensor) -> Slabs:
    """Put a frame that has just been committed at the end of what is recalled, if anything is."""
    if LATENT not in slabs.recurrent:
        return slabs
    first = (slabs.time == 1)[:, None, None]
    z, rows = slabs.recurrent[LATENT], slabs.recurrent[ROW]
    z = torch.where(first[..., None], z_BNZ[:, None].to(z.dtype), torch.cat([z[:, 1:], z_BNZ[:, None].to(z.dtype)], 1))
    row = row_BW[:, None].to(rows.dtype)
    slabs.recurrent.update({LATENT: z, ROW: torch.where(first, row, torch.cat([rows[:, 1:], row], 1))})
    return slabs


def recalled(slabs: Slabs, frames: int) -> Trail:
    """The last `frames` of what is recalled, oldest first."""
    return Trail(slabs.recurrent[LATENT][:, -frames:], slabs.recurrent[ROW][:, -frames:])
