"""How a language model of Hugging Face reads frames: segments of a dialogue, of which a window is remembered.

A frame is a segment of S tokens. Inside it tokens have the places 0 .. S - 1, by which the model turns its keys; they
rest so in the memory, and are turned on by the age of their frame when read, S places a frame. Distances then are those
of one long dialogue, while places stay bounded: rotations add up.

    <R(i) q, R(-a S) R(j) k> = <R(i - j + a S) q, k>        query at place i, key at place j of the frame a before

Ref: Su et al., RoFormer, arXiv 2104.09864, eq. 16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rotary import rotate
from .slabs import Slabs

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, `(B, H, tokens, d)`."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # rotary places over whole heads, root-mean-square norms, all alike


class Turns(nn.Module):
    """The rotations of a model's own frequencies, computed exactly; stands where the model has its own module for it.

    Frequencies rest as bits, so that no cast of the module to fewer of them rounds what is multiplied by places.
    """

    bits: Tensor

    def __init__(self, rotary: Any):
        super().__init__()
        self.scale = float(rotary.attention_scaling)
        self.register_buffer("bits", rotary.inv_freq.detach().double().view(torch.int64), persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines `(..., d)` of places, as the model's layers take them, in the type of `x`."""
        angle = self._angle(position_ids)
        return (angle.cos() * self.scale).to(x.dtype), (angle.sin() * self.scale).to(x.dtype)

    def on(self, keys: Tensor, places: Tensor) -> Tensor:
        """Turn keys `(..., d)` on by `places`, of a shape that broadcasts against theirs without d."""
        angle = self._angle(places)
        a, b = angle.sin().chunk(2, -1)
        return rotate(keys, torch.stack([angle.cos(), torch.cat([-a, b], -1)]))

    def _angle(self, places: Tensor) -> Tensor:
        return (places[..., None] * self.bits.view(torch.float64)).repeat(*[1] * places.ndim, 2)


class Beside:
    """What a pass reads beside itself, and what it leaves: stands where the library has its cache.

    before: of each layer, or None. written: keys and values of the pass, layer by layer.
    """

    def __init__(self, before: Layers | None):
        self.before: Layers | None = before
        self.written: Layers = []

    def update(self, key: Tensor, value: Tensor, layer: int, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Note what a layer leaves, and return all it reads."""
        del rest, more
        self.written.append((key, value))
        if self.before is None:
            return key, value
        k, v = self.before[layer]
        return torch.cat([k.to(key.dtype), key], 2), torch.cat([v.to(value.dtype), value], 2)

    def get_seq_length(self, layer: int = 0) -> int:
        """Places are told with each pass; the library asks all the same."""
        del layer
        return 0


def remembered(slabs: Slabs, turns: Turns, span: int) -> tuple[Layers, Tensor]:
    """What the next frame of each session reads: layers, and which of their tokens are in sight, bool `(B, tokens)`.

    A past that branches share is kept once, and laid out for each of them only while it is read.
    """
    keys, values, sight = [], [], []
    for segment in slabs.segments:
        # Sessions that share a past were forked at one moment and have stepped together since.
        age = (slabs.time[:: segment.repeat, None] - segment.frames).clamp(0, slabs.spec.window)  # (rows, cap)
        turned = turns.on(segment.tensors["keys"], (-span * age)[:, None, None, :, None])  # (rows, L, H, cap, S, d)
        for kept, part in ((keys, turned), (values, segment.tensors["values"])):
            kept.append(part.flatten(3, 4).repeat_interleave(segment.repeat, 0))
        sight.append(slabs.visible(segment).repeat_interleave(span, 1))
    whole = (torch.cat(parts, 3).unbind(1) for parts in (keys, values))
    return list(zip(*whole)), torch.cat(sight, 1)


def exact_norms(model: nn.Module) -> nn.Module:
    """Let the norms of a model of `FAMILIES` compute in the type of what they are given, rather than in float32."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, _Norm(child.weight, child.variance_epsilon))  # pyright: ignore
    return model


class _Norm(nn.Module):
    """Root-mean-square normalisation whose weight follows the type of what it is given."""

    def __init__(self, weight: nn.Parameter, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)
