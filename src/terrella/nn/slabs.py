"""The memory behind a state: fixed-shape slabs of many sessions, with a common past that branches share.

A slab is either *recurrent* (one value a session, overwritten each frame) or *framed* (a ring of the last `window`
frames after `sinks` first ones that stay). Framed slabs live in segments: the last segment belongs to the sessions
themselves, earlier ones are the past they share since a fork, kept once and read by all branches. A branch's own
segment starts small and doubles; when it could hold the whole window, everything moves into one ring and the shared
past is let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..errors import StateError

FIRST_BLOCK = 1  # frames that a fresh branch has room for; doubles when full


@dataclass(frozen=True)
class SlabSpec:
    """Shape of one slab for one session. `frame_axis` is where frames lie (its length is the ring's), or None.

    dtype: of a recurrent slab that must not follow the engine's type, such as a count. beside: whether it is kept
    beside the memory, so that no future frame depends on it.
    """

    shape: tuple[int, ...]
    frame_axis: int | None = None
    dtype: torch.dtype | None = None
    beside: bool = False


@dataclass(frozen=True)
class StateSpec:
    """What a backbone keeps for each session: its slabs, and how many frames framed slabs hold.

    `window` frames roll, `sinks` first frames stay. Backbones without framed slabs leave both 0.
    """

    slabs: dict[str, SlabSpec]
    window: int = 0
    sinks: int = 0

    @property
    def capacity(self) -> int:
        """Frames in a full ring."""
        return self.window + self.sinks

    def nbytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Bytes that one session takes."""
        return sum(prod(s.shape) * (s.dtype or dtype).itemsize for s in self.slabs.values())


@dataclass(frozen=True)
class Segment:
    """Framed slabs of `rows` histories, each read by `repeat` sessions in a row.

    tensors: name -> `(rows, *shape)`. frames: int64 `(rows, cap)`, the frame index in each place, -1 where empty.
    start: int64 `(rows,)`, the first frame it may hold. A ring has `filled` None; any other segment is filled in order,
    `filled` frames so far. A `shared` segment is never written again.
    """

    tensors: dict[str, Tensor]
    frames: Tensor
    start: Tensor
    repeat: int = 1
    filled: int | None = None
    shared: bool = False


class Slabs:
    """The memory of a batch of sessions. Backbones read `segments` and `recurrent`, and write through `append`.

    time: int64 `(batch,)`, frames committed by each session.
    """

    def __init__(self, spec: StateSpec, recurrent: dict[str, Tensor], segments: Sequence[Segment], time: Tensor):
        self.spec, self.recurrent, self.segments, self.time = spec, recurrent, list(segments), time
        self.scratch: dict[object, object] = {}  # what a backbone derives from the memory; dropped at each append

    @classmethod
    def empty(cls, spec: StateSpec, batch: int, device: torch.device | str, dtype: torch.dtype) -> Slabs:
        """Allocate zeroed slabs for `batch` sessions, once."""
        recurrent = {
            n: torch.zeros(batch, *s.shape, device=device, dtype=s.dtype or dtype)
            for n, s in spec.slabs.items()
            if s.frame_axis is None
        }
        time = torch.zeros(batch, dtype=torch.int64, device=device)
        segments = [_segment(spec, batch, spec.capacity, time, dtype, None)] if spec.capacity else []
        return cls(spec, recurrent, segments, time)

    @property
    def batch(self) -> int:
        """Number of sessions."""
        return len(self.time)

    @property
    def nbytes(self) -> int:
        """Bytes held, a shared past counted once."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor held."""
        yield from self.recurrent.values()
        for segment in self.segments:
            yield from segment.tensors.values()
            yield segment.frames
            yield segment.start
        yield self.time

    def visible(self, segment: Segment, ahead: int = 0) -> Tensor:
        """Which places of a segment each session may read for its next frame, or `ahead` later: bool `(batch, cap)`.

        A frame is visible while it is a sink or at most `window` frames old.
        """
        frames = segment.frames.repeat_interleave(segment.repeat, 0)
        age = self.time[:, None] + ahead - frames
        return (frames >= 0) & ((frames < self.spec.sinks) | (age <= self.spec.window))

    # writing

    def append(self, values: dict[str, Tensor], recurrent: dict[str, Tensor]) -> Slabs:
        """Write one frame of every framed slab, `(batch, *shape without frames)`, and replace the recurrent ones.

        Consumes these slabs (the ring is written in place, unless autograd looks on) and returns the next ones.
        """
        slabs = self._with_room() if self.segments else self
        segments = slabs.segments
        if segments:
            own = replace(segments[-1], tensors={n: writable(t) for n, t in segments[-1].tensors.items()})
            segments = [*segments[:-1], own]
            rows = torch.arange(slabs.batch, device=slabs.time.device)
            place = slabs._place(own)
            for name, value in values.items():
                axis = slabs.spec.slabs[name].frame_axis or 0
                own.tensors[name].movedim(axis + 1, 1)[rows, place] = value.to(own.tensors[name].dtype)
            own.frames[rows, place] = slabs.time
            if own.filled is not None:
                segments = [*segments[:-1], replace(own, filled=own.filled + 1)]
        return Slabs(slabs.spec, {**slabs.recurrent, **recurrent}, segments, slabs.time + 1)

    def _place(self, own: Segment) -> Tensor:
        if own.filled is not None:
            return self.time - own.start
        return self._ring_place(self.time)

    def _ring_place(self, frame: Tensor) -> Tensor:
        sinks = self.spec.sinks
        return torch.where(frame < sinks, frame, sinks + (frame - sinks) % max(self.spec.window, 1))

    def _with_room(self) -> Slabs:
        """Return slabs whose last segment belongs to the sessions alone and has a free place."""
        own = self.segments[-1]
        held = 0 if own.shared else own.filled
        if held is None or (not own.shared and held < own.frames.shape[1]):
            return self
        capacity = max(FIRST_BLOCK, 2 * held)
        # Past the first ring, what is shared counts too: a state forked at every frame must not grow without end.
        behind = sum(s.frames.shape[1] for s in self.segments[1:] if s.shared)
        if behind + capacity >= self.spec.capacity:
            return self.owned()
        dtype = next(iter(own.tensors.values())).dtype
        start = self.time if own.shared else own.start
        grown = _segment(self.spec, self.batch, capacity, start, dtype, held)
        if own.shared:
            return Slabs(self.spec, self.recurrent, [*self.segments, grown], self.time)
        for name, tensor in own.tensors.items():
            grown.tensors[name].narrow((self.spec.slabs[name].frame_axis or 0) + 1, 0, held).copy_(tensor)
        grown.frames[:, :held] = own.frames
        return Slabs(self.spec, self.recurrent, [*self.segments[:-1], grown], self.time)

    # values: fork, select, merge

    def fork(self, n: int) -> Slabs:
        """Give each session `n` branches that share its past: `batch * n` sessions, branches of one side by side.

        Framed slabs are shared, not copied: these slabs, too, will write their next frames elsewhere. Recurrent ones
        are copied.
        """
        self.segments = [replace(s, shared=True) for s in self.segments]
        return self.widened(n)

    def widened(self, n: int) -> Slabs:
        """Return a view in which each session is read by n rows; it must not be written to."""
        segments = [replace(s, repeat=s.repeat * n) for s in self.segments]
        recurrent = {k: v.repeat_interleave(n, 0) for k, v in self.recurrent.items()}
        return Slabs(self.spec, recurrent, segments, self.time.repeat_interleave(n, 0))

    def owned(self) -> Slabs:
        """Return equal slabs in one ring that belongs to these sessions alone (a copy)."""
        recurrent = {k: v.clone() for k, v in self.recurrent.items()}
        if not self.segments:
            return Slabs(self.spec, recurrent, [], self.time)
        dtype = next(iter(self.segments[0].tensors.values())).dtype
        ring = _segment(self.spec, self.batch, self.spec.capacity, torch.zeros_like(self.time), dtype, None)
        for segment in self.segments:
            session, place = self.visible(segment).nonzero(as_tuple=True)
            row = session // segment.repeat
            frame = segment.frames[row, place]
            target = self._ring_place(frame)
            for name, tensor in segment.tensors.items():
                axis = (self.spec.slabs[name].frame_axis or 0) + 1
                ring.tensors[name].movedim(axis, 1)[session, target] = tensor.movedim(axis, 1)[row, place]
            ring.frames[session, target] = frame
        return Slabs(self.spec, recurrent, [ring], self.time)

    def select(self, index: Tensor) -> Slabs:
        """Return copies of the sessions at `index` `(m,)`, in that order; a past shared by all stays shared."""
        shared = [s for s in self.segments if s.shared]
        recurrent, time = {k: v[index] for k, v in self.recurrent.items()}, self.time[index]
        if any(len(s.start) != 1 for s in shared):  # rows first: what becomes a ring is only what was asked for
            segments = [replace(_rows(s, index // s.repeat), repeat=1) for s in self.segments]
            return Slabs(self.spec, recurrent, segments, time).owned()
        segments = [replace(s, repeat=len(index)) for s in shared]
        segments += [_rows(s, index) for s in self.segments if not s.shared]
        return Slabs(self.spec, recurrent, segments, time)

    def to(self, device: torch.device | str) -> Slabs:
        """Return a copy on another device."""
        segments = [
            replace(
                s,
                tensors={name: tensor.to(device) for name, tensor in s.tensors.items()},
                frames=s.frames.to(device),
                start=s.start.to(device),
            )
            for s in self.segments
        ]
        recurrent = {name: value.to(device) for name, value in self.recurrent.items()}
        return Slabs(self.spec, recurrent, segments, self.time.to(device))

    @staticmethod
    def merge(many: Sequence[Slabs]) -> Slabs:
        """Put the sessions of several slabs into one batch, in order; shared pasts are copied out."""
        if any(s.spec != many[0].spec for s in many):
            raise StateError("states of different worlds cannot be merged; start them from the same engine.")
        owned = [s.owned() if any(g.shared or g.filled is not None for g in s.segments) else s for s in many]
        recurrent = {k: torch.cat([s.recurrent[k] for s in owned]) for k in owned[0].recurrent}
        segments = []
        if owned[0].segments:
            rings = [s.segments[0] for s in owned]
            segments = [
                Segment(
                    {k: torch.cat([r.tensors[k] for r in rings]) for k in rings[0].tensors},
                    torch.cat([r.frames for r in rings]),
                    torch.cat([r.start for r in rings]),
                )
            ]
        return Slabs(many[0].spec, recurrent, segments, torch.cat([s.time for s in owned]))


def writable(x: Tensor) -> Tensor:
    """The tensor to write in place: `x`, or a copy under autograd, which may still need what `x` holds."""
    return x.clone() if torch.is_grad_enabled() else x


def _segment(
    spec: StateSpec, rows: int, capacity: int, start: Tensor, dtype: torch.dtype, filled: int | None
) -> Segment:
    tensors = {}
    for name, slab in spec.slabs.items():
        if slab.frame_axis is not None:
            shape = [*slab.shape[: slab.frame_axis], capacity, *slab.shape[slab.frame_axis + 1 :]]
            tensors[name] = torch.zeros(rows, *shape, device=start.device, dtype=dtype)
    frames = torch.full((rows, capacity), -1, dtype=torch.int64, device=start.device)
    return Segment(tensors, frames, start, 1, filled)


def _rows(segment: Segment, index: Tensor) -> Segment:
    tensors = {k: v[index] for k, v in segment.tensors.items()}
    return replace(segment, tensors=tensors, frames=segment.frames[index], start=segment.start[index])
