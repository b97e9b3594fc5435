"""What attention over time reads: the frames in sight of one layer, from slabs or inside a clip, and what was fetched.

Keys rest without rotation and are turned by their age when read, so positions stay bounded; sinks have one fixed age.
Both classes compute the same numbers: `SlabPast` for one frame after a past that branches may share, `ClipPast` for all
frames of a clip at once.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from .history import Fetched
from .rotary import rotate, rotation
from .slabs import Slabs


def age_turns(window: int, head: int) -> Tensor:
    """Compute rotations by minus the age 0..window, and at the end the one fixed age of sinks."""
    ages = torch.arange(window + 2, dtype=torch.float64)
    return rotation(-ages[:, None], head, window + 1.0)


class SlabPast:
    """Reads the past of one layer from slabs: one query a token, all segments in one softmax.

    ages: from `age_turns`. ahead: how many frames after the next one the reader is.
    """

    def __init__(self, slabs: Slabs, layer: int, ages: Tensor, ahead: int = 0):
        self.parts = []
        window, sinks = slabs.spec.window, slabs.spec.sinks
        for segment in slabs.segments:
            visible = slabs.visible(segment, ahead)
            # Sessions that share a past were forked at one moment and have stepped together since.
            frames, time = segment.frames, slabs.time[:: segment.repeat] + ahead
            age = (time[:, None] - frames).clamp(0, window)
            age = torch.where(frames < sinks, window + 1, age)
            keys = segment.tensors["keys"][:, layer]
            turn = ages.to(keys.dtype)[:, age][:, :, None, None]  # (2, rows, 1, 1, cap, d/2)
            keys = rotate(keys, turn)
            mask = torch.zeros(visible.shape, dtype=keys.dtype, device=keys.device).masked_fill_(~visible, -torch.inf)
            self.parts.append((segment.repeat, keys, segment.tensors["values"][:, layer], mask))

    def beside(self, fetched: Fetched) -> SlabPast:
        """Return a past that holds what was fetched, too."""
        joined = copy.copy(self)
        joined.parts = [*self.parts, (1, fetched.keys, fetched.values, fetched.weights)]
        return joined

    def read(self, q_BNHd: Tensor, null: Tensor) -> Tensor:
        """Attend, `(B, N, H, d)`. null: a key and a value `(2, H, d)` that are always there."""
        scale = q_BNHd.shape[-1] ** -0.5
        q = q_BNHd * scale
        scores = [(q * null[0]).sum(-1, keepdim=True)]
        grouped = []
        for repeat, keys, values, mask in self.parts:
            # Branches become queries of the one past they share: (rows, N, H, repeat, d) @ (rows, N, H, d, cap).
            qs = q.unflatten(0, (-1, repeat)).movedim(1, 3).to(keys.dtype)
            s = (qs @ keys.transpose(-1, -2)).movedim(3, 1).flatten(0, 1)
            scores.append(s + mask[:, None, None])
            grouped.append((repeat, values))
        weights = torch.cat(scores, -1).softmax(-1)
        parts = weights.split([s.shape[-1] for s in scores], -1)
        total = parts[0] * null[1]
        for part, (repeat, values) in zip(parts[1:], grouped):
            w = part.unflatten(0, (-1, repeat)).movedim(1, 3).to(values.dtype)
            total = total + (w @ values).movedim(3, 1).flatten(0, 1)
        return total


def newer_past(slabs: Slabs, layer: int, ages: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> SlabPast:
    """What the frame after next reads: the slabs, and the next frame `k`, `v`, which is not in them yet."""
    age = torch.where(slabs.time < slabs.spec.sinks, slabs.spec.window + 1, 1)
    turn = ages.to(k_BNHd.dtype)[:, age][:, :, None, None]  # (2, B, 1, 1, d/2)
    keys = rotate(k_BNHd, turn)[..., None, :]
    return SlabPast(slabs, layer, ages, ahead=1).beside(
        Fetched(keys, v_BNHd[..., None, :], torch.zeros(len(age), 1, dtype=keys.dtype, device=keys.device))
    )


class PairPast:
    """Two readers side by side in one batch, each with a past of its own."""

    def __init__(self, *pasts: SlabPast):
        self.pasts = pasts

    def read(self, q_BNHd: Tensor, null: Tensor) -> Tensor:
        """Attend, `(B, N, H, d)`, the batch being as many equal parts as there are pasts."""
        return torch.cat([past.read(q, null) for past, q in zip(self.pasts, q_BNHd.chunk(len(self.pasts)))])


class ClipPast:
    """Reads the past of one layer inside clips: frame t sees frames before t, under the same window and sinks."""

    def __init__(self, k_BTNHd: Tensor, v_BTNHd: Tensor, window: int, sinks: int, fetched: Fetched | None = None):
        steps, head = k_BTNHd.shape[1], k_BTNHd.shape[-1]
        device = k_BTNHd.device
        frame = torch.arange(steps, device=device)
        position = frame.to(torch.float64 if k_BTNHd.dtype == torch.float64 else torch.float32)
        self.turn = rotation(position[:, None], head, window + 1.0)[:, :, None, None]
        fixed = rotation(-(position[:1, None] + window + 1), head, window + 1.0)[:, :, None, None]
        k, k_sink = k_BTNHd[:, sinks:], k_BTNHd[:, :sinks]
        self.keys = rotate(k, self.turn[:, sinks:]).movedim(1, 3)  # (B, N, H, T, d)
        self.sinks = rotate(k_sink, fixed).movedim(1, 3)
        self.values = torch.cat([v_BTNHd[:, :sinks], v_BTNHd[:, sinks:]], 1).movedim(1, 3)
        age = frame[:, None] - frame
        visible = (age > 0) & ((frame < sinks) | (age <= window))
        self.mask = torch.zeros(steps, steps, device=device).masked_fill_(~visible, -torch.inf)
        self.fetched = fetched
        if fetched is not None:
            self.values = torch.cat([self.values, fetched.values], 3)

    def since(self, first: int) -> ClipPast:
        """Return the same past for frames from `first` on."""
        tail = copy.copy(self)
        tail.turn, tail.mask = self.turn[:, first:], self.mask[first:]
        if self.fetched is not None:
            tail.fetched = replace(self.fetched, weights=self.fetched.weights[:, first:])
        return tail

    def read(self, q_BTNHd: Tensor, null: Tensor) -> Tensor:
        """Attend, `(B, T, N, H, d)`. null: as in `SlabPast.read`."""
        q = q_BTNHd * q_BTNHd.shape[-1] ** -0.5
        blank = (q * null[0]).sum(-1, keepdim=True).movedim(1, 3)  # (B, N, H, T, 1)
        sinks = q.movedim(1, 3) @ self.sinks.transpose(-1, -2)
        recent = rotate(q, self.turn).movedim(1, 3) @ self.keys.transpose(-1, -2)
        scores = torch.cat([sinks, recent], -1) + self.mask.to(q.dtype)
        if self.fetched is not None:
            old = q.movedim(1, 3) @ self.fetched.keys.transpose(-1, -2)
            scores = torch.cat([scores, old + self.fetched.weights[:, None, None].to(q.dtype)], -1)
        weights = torch.cat([blank, scores], -1).softmax(-1)
        total = weights[..., :1] * null[1][:, None] + weights[..., 1:] @ self.values
        return total.movedim(3, 1)
