"""A selective scan: a matrix that fades by a gate at each frame and takes in a key and a value.

    S_t = exp(a_t) S_{t-1} + k_t v_t^T,  a_t <= 0,  S_{-1} = 0            read(q)_t = S_{t-1}^T q_t

What is read at frame t is what was there before it, so that one memory serves frames that are known and frames that are
still to be predicted. One frame at a time that is `read` and `advance`; for a whole clip `Scan` computes

    read(q)_t = sum_{s<t} exp(a_{s+1} + ... + a_{t-1}) (q_t . k_s) v_s

as masked matrix products inside chunks, and carries the state from chunk to chunk. Sums of logarithms are formed by
adding only what belongs to them, never as differences of running sums nor as ratios of running products: nothing
overflows, and a gate that shut long ago costs no precision later.

Ref: Gu & Dao, Mamba, arXiv 2312.00752, section 3.2 (a recurrence whose gates follow the input); Dao & Gu, Mamba-2,
arXiv 2405.21060, sections 5 and 6 (scalar decay a head, the masked quadratic form, chunks). Differs: reads come before
writes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32  # frames; up to so many, a clip is one masked product


def advance(state_RP: Tensor, k_R: Tensor, v_P: Tensor, log_decay: Tensor) -> Tensor:
    """Write one frame: states `(..., R, P)`, keys `(..., R)`, values `(..., P)`, log decays `(...)` -> states."""
    written = k_R[..., :, None] * v_P[..., None, :]
    return torch.addcmul(written, state_RP.to(written.dtype), log_decay.exp()[..., None, None])


def read(state_RP: Tensor, q_R: Tensor) -> Tensor:
    """Read states `(..., R, P)` by queries `(..., R)`: `(..., P)`."""
    wide = torch.promote_types(q_R.dtype, torch.float32)
    return (q_R.to(wide)[..., None, :] @ state_RP.to(wide)).squeeze(-2)


class Scan:
    """The states of a whole clip, in a form that answers any number of reads.

    k: `(..., T, R)`. v: `(..., T, P)`. log_decay: `(..., T)`, at most 0. Leading axes broadcast, so that heads may
    share keys. Computes in float32 or wider, under autocast too.
    """

    def __init__(self, k_TR: Tensor, v_TP: Tensor, log_decay_T: Tensor, chunk: int = CHUNK):
        self.steps, self.chunk = k_TR.shape[-2], min(chunk, k_TR.shape[-2])
        with _exactly(k_TR):
            self.k, self.v = self._chunks(k_TR), self._chunks(v_TP)
            sums = _segment_sums(self._chunks(log_decay_T[..., None]).squeeze(-1))
            # Frame t reads what was there when the chunk began (column 0) and what frames before it wrote.
            weight = sums.exp()
            self.since, self.among = weight[..., :-1, :1], weight[..., :-1, 1:]
            self.states = self._states(weight[..., -1:, :]) if self.steps > self.chunk else None

    def read(self, q_TR: Tensor) -> Tensor:
        """Read at every frame what was there before it: queries `(..., T, R)` -> `(..., T, P)`."""
        with _exactly(q_TR):
            q = self._chunks(q_TR)
            y = (q @ self.k.transpose(-1, -2) * self.among) @ self.v
            if self.states is not None:
                y = y + self.since * (q @ self.states)
            return y.flatten(-3, -2)[..., : self.steps, :]

    def _states(self, last: Tensor) -> Tensor:
        """The state at the beginning of every chunk, `(..., chunks, R, P)`, from the weights at its end."""
        kept, weight = last[..., :1], last[..., 1:].transpose(-1, -2)
        written = self.k.transpose(-1, -2) @ (weight * self.v)
        states = [torch.zeros_like(written[..., 0, :, :])]
        for i in range(written.shape[-3] - 1):
            states.append(torch.addcmul(written[..., i, :, :], kept[..., i, :, :], states[-1]))
        return torch.stack(states, -3)

    def _chunks(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        missing = -self.steps % self.chunk
        return F.pad(wide, (0, 0, 0, missing)).unflatten(-2, (-1, self.chunk))


def _segment_sums(x_T: Tensor) -> Tensor:
    """Compute `sums[t, s] = x_s + ... + x_{t-1}` for s <= t, else -inf: `(..., T)` -> `(..., T + 1, T + 1)`."""
    steps = x_T.shape[-1]
    terms = x_T[..., :, None].expand(*x_T.shape, steps + 1).tril()
    sums = F.pad(terms.cumsum(-2), (0, 0, 1, 0))
    ahead = torch.ones(steps + 1, steps + 1, dtype=torch.bool, device=x_T.device).triu(1)
    return sums.masked_fill(ahead, -torch.inf)


def _exactly(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
