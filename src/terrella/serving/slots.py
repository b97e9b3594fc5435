"""Sessions of one engine as rows of batched states, which stay where they are while the same sessions step together.

A state is a value, so a batch could be merged before each step and parted after it, at the price of copying every
session's memory twice a frame. Here whoever was stepped together stays together: the next step of the same sessions
copies nothing. When one leaves, joins or pauses, the rows that go apart are copied once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine import Engine, Frame, State
from ..errors import ServingError


@dataclass(eq=False)
class Slot:
    """Where one session's state lies: a row of a batch; no batch once the state is gone."""

    batch: Batch | None = None
    row: int = 0


@dataclass(eq=False)
class Batch:
    """A state of `B` sessions and the slot of each row, None where the session has left."""

    state: State
    slots: list[Slot | None]

    def __post_init__(self) -> None:
        for row, slot in enumerate(self.slots):
            if slot is not None:
                slot.batch, slot.row = self, row


class Slots:
    """The states of an engine's sessions. `put` one, `step` several, `read` a copy, `free` what is not needed."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def put(self, state: State) -> Slot:
        """Take a state of one session into a slot of its own; the state belongs to it from now on."""
        slot = Slot()
        Batch(state, [slot])
        return slot

    def free(self, slot: Slot) -> None:
        """Forget a session; its row is let go when its batch is stepped again."""
        if slot.batch is not None:
            slot.batch.slots[slot.row] = None
            slot.batch = None

    def read(self, slot: Slot) -> State:
        """Return a copy of one session's state, `B = 1`."""
        return _held(slot).state.select([slot.row])

    def look(self, slot: Slot) -> State:
        """Return one session's state for looking at only: the state itself where it is alone, else a copy."""
        batch = _held(slot)
        return batch.state if len(batch.slots) == 1 else self.read(slot)

    def nbytes(self, slot: Slot) -> int:
        """Bytes of one session, its share of its batch."""
        batch = _held(slot)
        return batch.state.nbytes // len(batch.slots)

    def step(self, slots: Sequence[Slot], rows: np.ndarray, steps: int | None = None) -> Frame:
        """Take one action in each of these sessions and no other; row `slot.row` of the frame is a session's own.

        rows: `(B, W)`, in the order of `slots`. Raises what `Engine.step` raises; if the engine has then spent the
        states, the slots are empty.
        """
        batch = self._together(slots)
        ordered = np.empty_like(rows)
        ordered[[slot.row for slot in slots]] = rows
        try:
            batch.state, frame = self._engine.step(batch.state, ordered, steps=steps)
        except Exception:
            if batch.state.spent:
                for slot in slots:
                    self.free(slot)
            raise
        return frame

    def _together(self, slots: Sequence[Slot]) -> Batch:
        """The batch of exactly these sessions; made, if they are not one already."""
        batches = list({id(batch): batch for batch in map(_held, slots)}.values())
        wanted = {id(slot) for slot in slots}
        if len(batches) == 1 and len(batches[0].slots) == len(wanted):
            return batches[0]
        parts: list[State] = []
        members: list[Slot | None] = []
        for batch in batches:
            go = [slot for slot in batch.slots if slot is not None and id(slot) in wanted]
            stay = [slot for slot in batch.slots if slot is not None and id(slot) not in wanted]
            whole = len(go) == len(batch.slots)
            parts.append(batch.state if whole else batch.state.select([slot.row for slot in go]))
            if stay:
                Batch(batch.state.select([slot.row for slot in stay]), [*stay])
            members += go
        return Batch(parts[0] if len(parts) == 1 else State.merge(parts), members)


def _held(slot: Slot) -> Batch:
    if slot.batch is None:
        raise ServingError("this session's state is gone; rewind it to an earlier frame or begin again.")
    return slot.batch
