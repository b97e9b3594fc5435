"""A state is a value: everything about a batch of sessions that matters for the future."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StateError, StateSpent
from ..files import atomic
from ..nn.digest import digest
from ..nn.slabs import Segment, Slabs, StateSpec

FORMAT = 1


class State:
    """Sessions of one engine: memory, random keys and time. `Engine.step` consumes it; fork first to keep it.

    batch: number of sessions B. time: int64 `(B,)`, frames each has seen or dreamed. seeds: int64 `(B,)`. nbytes: bytes
    held, a past that branches share counted once. twins: int64 `(B,)`, sessions of equal number have equal pasts (the
    engine then computes their next frame once); None where no two are known to.
    """

    def __init__(self, slabs: Slabs, seeds: Tensor, world: str, twins: Tensor | None = None):
        self._slabs: Slabs | None = slabs
        self.seeds, self.world, self.twins = seeds, world, twins

    @property
    def slabs(self) -> Slabs:
        """The memory; raises `StateSpent` after a step has consumed it."""
        if self._slabs is None:
            raise StateSpent(
                "this state was consumed by a step. Use the state that the step returned, or keep a branch beforehand: "
                "`kept = state.fork(1)`."
            )
        return self._slabs

    def take(self) -> Slabs:
        """Hand the memory over and mark this state as spent."""
        slabs = self.slabs
        self._slabs = None
        return slabs

    @property
    def spent(self) -> bool:
        """Whether a step has consumed this state."""
        return self._slabs is None

    @property
    def batch(self) -> int:
        """Number of sessions."""
        return len(self.seeds)

    @property
    def time(self) -> Tensor:
        """Frames that each session has seen or dreamed, int64 `(B,)`."""
        return self.slabs.time

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.slabs.nbytes + self.seeds.numel() * 8

    def fork(self, n: int = 1) -> State:
        """Branch each session n times: `B * n` sessions, the branches of one side by side. This state stays usable.

        The common past is kept once; each branch adds only frames of its own. Branches carry the same seed, so equal
        actions give equal frames; `reseed` makes them differ by chance.
        """
        if n < 1:
            raise StateError(f"fork({n}): at least one branch is needed.")
        twins = torch.arange(self.batch, device=self.seeds.device) if self.twins is None else self.twins
        twins = None if n == 1 and self.twins is None else twins.repeat_interleave(n)
        return State(self.slabs.fork(n), self.seeds.repeat_interleave(n), self.world, twins)

    def select(self, indices: Sequence[int] | Tensor) -> State:
        """Copy the sessions at `indices`, in that order (repeats allowed). This state stays usable."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.seeds.device).reshape(-1)
        if len(index) == 0 or int(index.min()) < 0 or int(index.max()) >= self.batch:
            raise StateError(f"select({index.tolist()}): indices must lie in 0..{self.batch - 1}, at least one.")
        twins = None if self.twins is None else self.twins[index]
        return State(self.slabs.select(index), self.seeds[index], self.world, twins)

    def to(self, device: torch.device | str) -> State:
        """Return this state on a device; the state itself where it is there already. This state stays usable."""
        if torch.device(device) == self.seeds.device:
            return self
        twins = None if self.twins is None else self.twins.to(device)
        return State(self.slabs.to(device), self.seeds.to(device), self.world, twins)

    def reseed(self, seeds: Sequence[int]) -> State:
        """Return this state with other random keys, one a session; this state is consumed."""
        if len(seeds) != self.batch:
            raise StateError(f"{len(seeds)} seeds for {self.batch} sessions; give one each.")
        new = torch.tensor(list(seeds), dtype=torch.int64, device=self.seeds.device)
        return State(self.take(), new, self.world, self.twins)

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Put the sessions of several states into one batch, in order. The states stay usable."""
        if not states:
            raise StateError("merge needs at least one state.")
        if len({s.world for s in states}) > 1:
            raise StateError("states of different worlds cannot be merged; start them from the same engine.")
        return State(Slabs.merge([s.slabs for s in states]), torch.cat([s.seeds for s in states]), states[0].world)

    def digest(self, tolerance: float, whole: bool = True) -> Tensor:
        """Number each session by what it remembers, rounded to multiples of `tolerance`, by time and by seed.

        int64 `(B,)`; sessions of equal numbers have, within the tolerance, equal futures. whole: whether frames in
        sight count; without, only what is overwritten at each frame does, such as the last latent.
        """
        return digest(self.slabs, tolerance, whole) + self.seeds * 0x9E3779B97F4A7C1

    def save(self, path: str | Path) -> Path:
        """Write the state into one safetensors file, whole or not at all. This state stays usable."""
        slabs, path = self.slabs, Path(path)
        tensors = {f"recurrent/{k}": v for k, v in slabs.recurrent.items()} | {"time": slabs.time, "seeds": self.seeds}
        tensors |= {} if self.twins is None else {"twins": self.twins}  # who is drawn with whom decides how sums round
        segments = []
        for i, segment in enumerate(slabs.segments):
            tensors |= {f"segment/{i}/{k}": v for k, v in segment.tensors.items()}
            tensors |= {f"frames/{i}": segment.frames, f"start/{i}": segment.start}
            segments.append({"repeat": segment.repeat, "filled": segment.filled, "shared": segment.shared})
        about = {"format": FORMAT, "world": self.world, "segments": segments}
        copies = {k: v.clone().contiguous() for k, v in tensors.items()}
        with atomic(path) as partial:
            save_file(copies, partial, {"terrella": json.dumps(about)})
        return path


def load_state(path: str | Path, spec: StateSpec, world: str, device: torch.device | str, dtype: torch.dtype) -> State:
    """Read a state for the world with fingerprint `world`, framed slabs of `dtype`.

    Raises `StateError` when the file is not one of this world's states, or its tensors do not fit together.
    """
    try:
        with safe_open(str(path), "pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})["terrella"])
            # Tensors lie in the file at any byte; matrix products round otherwise there than in memory of their own.
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118  (not a mapping)
        if about["format"] != FORMAT:
            raise StateError(f"{path} has format {about['format']}; this version reads {FORMAT}.")
        if about["world"] != world:
            raise StateError(
                f"{path} is a state of another world, precision or memory; load it with the engine that made it."
            )
        segments = [
            Segment(
                {name: tensors[f"segment/{i}/{name}"] for name, s in spec.slabs.items() if s.frame_axis is not None},
                tensors[f"frames/{i}"],
                tensors[f"start/{i}"],
                int(kept["repeat"]),
                kept["filled"],
                bool(kept["shared"]),
            )
            for i, kept in enumerate(about["segments"])
        ]
        recurrent = {name: tensors[f"recurrent/{name}"] for name, slab in spec.slabs.items() if slab.frame_axis is None}
        slabs = Slabs(spec, recurrent, segments, tensors["time"])
        state = State(slabs, tensors["seeds"], world, tensors.get("twins"))
        _require_whole(state, dtype, path)
        return state
    except StateError:
        raise
    except (KeyError, ValueError, TypeError, OSError, SafetensorError) as error:
        raise StateError(f"{path} cannot be read as a state: {error}") from error


def _require_whole(state: State, dtype: torch.dtype, path: str | Path) -> None:
    """Refuse tensors that do not fit the state's spec and one another, before a step reads them."""
    slabs = state.slabs
    kinds = {n: (slabs.spec.slabs[n], v) for n, v in slabs.recurrent.items()}
    wrong = [n for n, (s, v) in kinds.items() if v.shape != (slabs.batch, *s.shape) or s.dtype not in (None, v.dtype)]
    wrong += [] if slabs.time.shape == state.seeds.shape == (state.batch,) else ["time"]
    if state.twins is not None and (state.twins.shape != state.seeds.shape or state.twins.dtype != torch.int64):
        wrong.append("twins")
    if bool(slabs.segments) != bool(slabs.spec.capacity):
        wrong.append("segments")
    for i, segment in enumerate(slabs.segments):
        rows, room = segment.frames.shape
        if rows * segment.repeat != slabs.batch or segment.start.shape != (rows,):
            wrong.append(f"frames/{i}")
        for name, value in segment.tensors.items():
            shape = list(slabs.spec.slabs[name].shape)
            shape[slabs.spec.slabs[name].frame_axis or 0] = room
            if value.shape != (rows, *shape):
                wrong.append(f"segment/{i}/{name}")
            elif value.dtype != dtype:
                raise StateError(
                    f"{path} holds {value.dtype}, but this engine runs in {dtype}; load it with "
                    f"Engine(world, dtype={value.dtype})."
                )
    if wrong:
        raise StateError(f"{path} is damaged: {', '.join(wrong)} do not have the shape or type that its world keeps.")
