"""Discrete latents as numbers: each digit is a one-hot code, centred and scaled to zero mean and unit variance.

A digit that may take `levels` values has as many channels, `(levels * onehot - 1) / sqrt(levels - 1)`. All zeros is the
mean over the values: a digit about which nothing is known.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError


def to_code(index_NG: Tensor, levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute the code of int64 values `(..., N, G)` of G digits a token: `(..., N, G * levels)`."""
    code = (levels * F.one_hot(index_NG, levels).to(dtype) - 1) / (levels - 1) ** 0.5
    return code.flatten(-2)


def by_digit(z_NZ: Tensor, levels: int) -> Tensor:
    """Split the channels of tokens into digits: `(..., N, Z)` -> `(..., N, G, levels)`.

    Raises `ConfigError` where they cannot be split.
    """
    if z_NZ.shape[-1] % levels:
        raise ConfigError(
            f"tokens of {z_NZ.shape[-1]} channels cannot hold digits of {levels} levels; "
            "give the tokenizer and the decoder the same `levels`."
        )
    return z_NZ.unflatten(-1, (-1, levels))


def from_code(z_NZ: Tensor, levels: int) -> Tensor:
    """Read the values off codes, or off any latents the nearest ones: `(..., N, Z)` -> int64 `(..., N, G)`."""
    return by_digit(z_NZ, levels).argmax(-1)


def bounded(x: Tensor, levels: int) -> Tensor:
    """Bound numbers to [0, levels - 1], evenly about zero for odd and even numbers of levels alike.

    Ref: Mentzer et al., arXiv 2309.15505, section 3. Differs: values are counted from zero, without an offset.
    """
    return (levels - 1) * (x.tanh() + 1) / 2


def rounded(x: Tensor) -> Tensor:
    """Round numbers, with the gradient of leaving them as they are (straight through)."""
    return x + (x.round() - x).detach()
