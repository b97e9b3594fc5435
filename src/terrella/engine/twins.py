"""Branches that have taken equal actions are still one session: find them, so that their next frame is drawn once.

A fork of a thousand branches under fifteen actions has fifteen next frames. Each session carries the number of its past
(`State.twins`); numbers, seeds and actions that are all equal lead to equal frames. Exact, and free once all branches
have parted: they never meet again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .state import State


def distinct(state: State, row_BW: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Find the sessions that differ after an action.

    Returns one of each kind `(m,)`, the kind of every session `(B,)`, and the kinds once more as `State.twins` of the
    next state; None where too few are equal to be worth it, or where several pasts would have to be copied for it.
    """
    shared = [s for s in state.slabs.segments if s.shared]
    if state.twins is None or any(len(s.start) != 1 for s in shared):
        return None
    bits = row_BW.contiguous().view(torch.int32).long()
    keys = torch.cat([state.twins[:, None], state.seeds[:, None], bits], 1)
    kinds, kind = torch.unique(keys, dim=0, return_inverse=True)
    if 2 * len(kinds) > state.batch:
        return None
    every = torch.arange(state.batch, device=kind.device)
    return torch.zeros(len(kinds), dtype=torch.int64, device=kind.device).scatter_(0, kind, every), kind, kind
