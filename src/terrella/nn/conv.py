"""A 3x3 convolution that is fast for a single small image, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv3x3(nn.Conv2d):
    """Convolution of 3x3 that keeps the size, `(B, C, h, w)` -> `(B, outputs, h, w)`.

    For one image of at most 20,480 numbers PyTorch takes its own loop instead of oneDNN, which on a processor is four
    times as slow at 16x16x64: a single session would pay for it at every frame.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        weight = self.weight  # read once: it may have to be computed
        plain = input.dtype == weight.dtype == torch.float32 and input.device.type == "cpu"
        if plain and len(input) == 1 and input[0].numel() > 8192 and torch.backends.mkldnn.is_available():
            return torch.mkldnn_convolution(input, weight, self.bias, (1, 1), (1, 1), (1, 1), 1)  # pyright: ignore
        return F.conv2d(input, weight, self.bias, padding=1)
