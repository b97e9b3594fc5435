"""Attention as the device likes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax attention, `(..., n, d)`. mask: added to the scores `(n, n)`, 0 or minus infinity.

    On a CPU in bfloat16 two plain matrix products are 3 to 9 times faster, forward and backward together, than the
    fused kernel for the few dozen tokens of a frame; when stepping in float32, and elsewhere, the fused kernel wins.
    """
    if q.device.type == "cpu" and (q.requires_grad or q.dtype == torch.bfloat16):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (scores if mask is None else scores + mask.to(scores.dtype)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)
