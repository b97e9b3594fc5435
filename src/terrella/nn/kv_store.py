"""A bounded store of keys and values for attention over time, in which a policy decides which frames stay.

For each layer that attends over time and each token's place there are `heads * (sinks + frames)` slots. A slot belongs
to one head and holds an unrotated key, a value, an age and a multiplicity m; all heads draw on one budget, so that a
policy may give one head more than another and the memory is still all used. A slot that stands for m frames has log m
added to its score in attention, which is exact where the m keys are equal. Empty slots have m = 0, hence -inf.

- All is written at commit, in place: the slot that gives way is the one that the new frame takes. All passes of a
  frame see one history, and what is kept has no peak above what it rests at. (Reading takes a turned copy of the keys
  once a frame, as the ring does.)
- Everything is a recurrent slab of fixed shape: fork, select, merge, save and load are those of any state. Each branch
  of a fork gets a copy, unlike the plain ring, which branches share.
- A slot counts for at most as many frames as the network's window, for it never met more of one kind; what is averaged
  so becomes a running mean. Without that limit a few minutes of dropped frames outweigh all that is recent.
- Ages and multiplicities have slabs of their own type: bfloat16 cannot count beyond 256. An age stops at 2^30 frames,
  over a year; rotations stop at the trained window, sinks have one fixed age (see `terrella.nn.past`).
- Policies need attention probabilities. They are those of a pass at commit, averaged in slabs; what was predicted
  before, and how often, leaves no trace.

Ref: Samuel et al., TempCache, arXiv 2602.01801 (log m; newest key, mean value); Tang et al., RazorAttention, arXiv
2407.15891 (compensation token); `terrella.nn.kv_policies` for the policies. Differs: bounded by construction at every
frame, one frame in and one slot out a head; heads share one budget of real slots, none of them masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kv_episodes import enter
from .kv_policies import Memory
from .kv_view import View
from .rotary import rotate
from .slabs import Slabs, SlabSpec

OLDEST = 2**30  # frames that an age counts at most
EMPTY = 2.0**20  # urgency of an empty slot to be written


class SlotStore:
    """Slots for `layers` layers, N places and `heads` heads of `head` channels of a network with that window and sinks.

    Memory a session: `2 * layers * N * heads * head * (sinks + frames)` numbers of the engine's type (or 8 bits each
    and two scales a slot), 10 bytes a slot, 8 more where the policy looks at attention and 2 where it has episodes.
    Raises `ConfigError` for a memory that cannot be.
    """

    def __init__(self, memory: Memory, *, layers: int, places: int, heads: int, head: int, window: int, sinks: int):
        self.memory, self.rule = memory.sized(window, sinks), memory.rule
        self.frames, self.sinks = self.memory.frames or window, self.memory.sinks or 0
        self.recent = self.memory.recent or 1
        self.window, self.trained_sinks, self.heads = window, sinks, heads
        self.compensates = self.rule.reduce == "compensate"
        self.first = heads * (self.sinks + self.compensates)  # slots before it never give way
        self.size = heads * (self.sinks + self.frames)
        slots = (layers, places, self.size)
        byte = torch.int8 if self.memory.dtype == "int8" else None
        self.slabs = {
            "slot_keys": SlabSpec((*slots, head), dtype=byte),
            "slot_values": SlabSpec((*slots, head), dtype=byte),
            "slot_age": SlabSpec(slots, dtype=torch.int32),
            "slot_count": SlabSpec(slots, dtype=torch.float32),
            "slot_shift": SlabSpec(slots, dtype=torch.int16),  # owner of slot i: (i + shift) modulo heads
        }
        if byte:
            self.slabs |= {"slot_keys_scale": SlabSpec((*slots, 1)), "slot_values_scale": SlabSpec((*slots, 1))}
        if self.rule.looks != "never":
            self.slabs |= {n: SlabSpec(slots, dtype=torch.float32) for n in ("slot_mean", "slot_square")}
        if self.rule.episodes:
            self.slabs["slot_episode"] = SlabSpec(slots, dtype=torch.int16)
            self.slabs["episode_centroids"] = SlabSpec((self.rule.episodes, heads * head), dtype=torch.float32)
            self.slabs["episode_sizes"] = SlabSpec((self.rule.episodes,), dtype=torch.float32)

    @property
    def agrees(self) -> int | None:
        """Frames of a session for which reading equals the plain ring's: None for ever, 1 when never."""
        if self.memory.dtype is not None or self.sinks != self.trained_sinks:
            return 1
        if self.memory.policy == "window" and self.frames == self.window:
            return None
        return min(self.frames - self.compensates, self.window) + self.sinks + 1

    # reading

    def past(self, slabs: Slabs, layer: int, ages: Tensor) -> SlotPast:
        """What one layer reads in every pass of the next frame. ages: from `past.age_turns`."""
        past = slabs.scratch.get(("slots", layer))
        if not isinstance(past, SlotPast):
            past = slabs.scratch["slots", layer] = SlotPast(self, slabs.recurrent, layer, ages)
        return past

    def owners(self, slots: dict[str, Tensor]) -> Tensor:
        """The head that each slot belongs to, int64 `(B, L, N, slots)`."""
        shift = slots["slot_shift"].long()
        return (torch.arange(self.size, device=shift.device) + shift) % self.heads

    def load(self, slots: dict[str, Tensor], what: str, index: Tensor | None = None) -> Tensor:
        """Keys or values in the engine's type, of all slots or those at `index` `(B, L, N, k)`."""
        names = [f"slot_{what}"] + [f"slot_{what}_scale"] * (self.memory.dtype == "int8")
        parts = [slots[n] if index is None else slots[n].gather(3, _wide(index, slots[n])) for n in names]
        return parts[0] if len(parts) == 1 else parts[0].to(parts[1].dtype) * parts[1]

    # writing

    @torch.no_grad()
    def keep(self, slabs: Slabs, keys_BLNHd: Tensor, values_BLNHd: Tensor, pasts: list[SlotPast]) -> dict[str, Tensor]:
        """Take a frame in, in the place of what gives way, and return the slabs.

        pasts: of each layer; the last pass that read them is the one whose attention counts. Writes in place, like the
        ring of framed slabs: committing consumes its slabs.
        """
        slots = {n: slabs.recurrent[n] for n in self.slabs}
        told = {"slot_count": 1.0, "slot_age": 1}
        if self.rule.looks != "never":
            # A slot gets attention from its own head alone.
            self._observe(slots, torch.stack([past.weights.sum(-2) for past in pasts], 1).float())
            told |= {"slot_mean": 0.0, "slot_square": 0.0}
        episode = self._episode(slots, keys_BLNHd) if self.rule.episodes else None
        leaving = self._give_way(slots)
        slots["slot_age"].add_(1).clamp_(max=OLDEST)
        head = torch.arange(self.heads, device=leaving.device)
        time = slabs.time[:, None, None, None]
        place = torch.where(time < self.sinks, time * self.heads + head, leaving)
        self._store(slots, "keys", place, keys_BLNHd)
        self._store(slots, "values", place, values_BLNHd)
        for name, value in told.items():
            slots[name].scatter_(3, place, value)
        slots["slot_shift"].scatter_(3, place, ((head - place) % self.heads).to(torch.int16))
        if episode is not None:
            slots["slot_episode"].scatter_(3, place, episode.to(torch.int16)[:, None, None, None].expand_as(place))
        return slots

    def _store(self, slots: dict[str, Tensor], what: str, index: Tensor, x: Tensor) -> None:
        target = slots[f"slot_{what}"]
        if self.memory.dtype == "int8":
            scales = slots[f"slot_{what}_scale"]
            x, scale = pack(x.to(scales.dtype))
            scales.scatter_(3, _wide(index, scales), scale)
        target.scatter_(3, _wide(index, target), x.to(target.dtype))

    def _observe(self, slots: dict[str, Tensor], got: Tensor) -> None:
        """Average the attention that slots got: over all queries so far, and then with a memory of `queries` frames."""
        count = slots["slot_age"].clamp(1, self.memory.queries)
        for name, new in (("slot_mean", got), ("slot_square", got.square())):
            slots[name].add_((new - slots[name]) / count)

    def _episode(self, slots: dict[str, Tensor], keys: Tensor) -> Tensor:
        """Cluster the frame by the last layer's keys, averaged over places; return its episode `(B,)`."""
        frame = keys[:, -1].float().mean(1).flatten(1)
        now = enter(slots["episode_centroids"], slots["episode_sizes"], frame)
        slots["episode_centroids"].copy_(now.centroids)
        slots["episode_sizes"].copy_(now.sizes)
        old = slots["slot_episode"]
        old.copy_(now.renamed[:, None, None].expand(*old.shape[:3], -1).gather(-1, old.long()))
        return now.current

    def _give_way(self, slots: dict[str, Tensor]) -> Tensor:
        """Choose one slot for each head to write, by head, `(B, L, N, H)`, and fold what was in it where it belongs."""
        order, view = self._view(slots)
        kept = view.filled & (view.age < self.recent)
        priority = self.rule.score(view).float()
        priority = priority.masked_fill(kept, torch.inf).masked_fill(~view.filled, -torch.inf)
        even = torch.full_like(view.compensation, view.size / self.heads)
        quota = even if self.rule.allocate is None else self.rule.allocate(view)
        over = view.rank(priority) + 1 - quota.gather(-1, view.owner)
        over = over.masked_fill(kept, -torch.inf) + EMPTY * ~view.filled
        # Sorted, they are in the order of their heads: with even shares each head writes where it gave way.
        leaving = over.topk(self.heads).indices.sort().values
        slot, owner = order.gather(-1, leaving), view.owner.gather(-1, leaving)
        if self.rule.reduce == "merge":
            near = order.gather(-1, view.nearest.gather(-1, leaving))
            self._fold(slots, slot, owner, torch.zeros_like(slot).scatter(-1, owner, near))
        elif self.compensates:
            target = self.heads * self.sinks + torch.arange(self.heads, device=slot.device)
            self._fold(slots, slot, owner, target.expand_as(slot))
        return slot

    def _view(self, slots: dict[str, Tensor]) -> tuple[Tensor, View]:
        """Sort the slots that may give way by head and age; return their indices, `(B, L, N, S)`, and what is known."""
        owner, filled = self.owners(slots)[..., self.first :], slots["slot_count"][..., self.first :] > 0
        age = slots["slot_age"][..., self.first :].long()
        order = ((owner << 32) + torch.where(filled, age, 2 * OLDEST)).argsort(dim=-1, stable=True) + self.first
        blank = torch.zeros((), device=age.device).expand_as(slots["slot_age"])
        mean, square = slots.get("slot_mean", blank), slots.get("slot_square", blank)
        episode = slots.get("slot_episode", blank).long()
        compensation = torch.zeros(*order.shape[:3], self.heads, device=age.device)
        if self.compensates:
            compensation = mean[..., self.heads * self.sinks : self.first]
        pool = {"owner": owner, "age": age, "filled": filled}
        known = {n: x.gather(-1, order - self.first) for n, x in pool.items()}
        whole = {"mean": mean, "square": square, "episode": episode}
        known |= {n: x.gather(-1, order) for n, x in whole.items()}
        return order, View(
            **known, compensation=compensation, recent=self.recent, keys=lambda: self.load(slots, "keys", order)
        )

    def _fold(self, slots: dict[str, Tensor], leaving: Tensor, owner: Tensor, into: Tensor) -> None:
        """Add what leaves to one slot of its head, by multiplicity. into: that slot of each head.

        Merging keeps the slot's key and age, for it is the newer; compensation averages these, too. What is empty adds
        nothing and changes no bit.
        """
        count, age = slots["slot_count"], slots["slot_age"]
        theirs = owner[..., None, :] == torch.arange(self.heads, device=owner.device)[:, None]
        share = theirs * count.gather(-1, leaving)[..., None, :]  # (B, L, N, into whose, leaving)
        added, held = share.sum(-1), count.gather(-1, into)
        whole = (held + added).clamp(min=1)
        for what in ("values", "keys") if self.compensates else ("values",):
            old, gone = self.load(slots, what, into), self.load(slots, what, leaving)
            w = share.to(torch.promote_types(old.dtype, share.dtype)) / whole[..., None]
            old, gone = old.to(w.dtype), gone.to(w.dtype)
            self._store(slots, what, into, old * (1 - w.sum(-1, keepdim=True)) + w @ gone)
        if self.compensates:
            old, gone = age.gather(-1, into), age.gather(-1, leaving)
            older = (share * (gone[..., None, :] - old[..., None])).sum(-1) / whole
            age.scatter_(-1, into, old + older.round().to(age.dtype))
        count.scatter_(-1, into, (held + added).clamp(max=self.window))


class SlotPast:
    """Reads the slots of one layer: one query a token and head, one softmax over its head's slots and the null.

    weights: what attention the slots got in the last pass, `(B, N, H, slots)`.
    """

    def __init__(self, store: SlotStore, slots: dict[str, Tensor], layer: int, ages: Tensor):
        own = {n: v[:, layer : layer + 1] for n, v in slots.items() if n.startswith("slot_")}
        keys, age = store.load(own, "keys")[:, 0], own["slot_age"][:, 0].long()
        place = torch.arange(store.size, device=age.device)
        age = torch.where(place < store.heads * store.sinks, store.window + 1, age.clamp(0, store.window))
        self.keys = rotate(keys, ages.to(keys.dtype)[:, age]).transpose(-1, -2)
        self.values = store.load(own, "values")[:, 0]
        count = own["slot_count"][:, 0].to(torch.promote_types(keys.dtype, torch.float32))
        theirs = store.owners(own)[:, 0, :, None] == torch.arange(store.heads, device=age.device)[:, None]
        self.bias = count.log()[:, :, None].masked_fill(~theirs, -torch.inf).to(keys.dtype)  # (B, N, H, slots)
        self.weights = torch.zeros_like(self.bias)

    def read(self, q_BNHd: Tensor, null: Tensor) -> Tensor:
        """Attend, `(B, N, H, d)`. null: a key and a value `(2, H, d)` that are always there."""
        q = q_BNHd * q_BNHd.shape[-1] ** -0.5
        blank = (q * null[0]).sum(-1, keepdim=True)
        weights = torch.cat([blank, q.to(self.keys.dtype) @ self.keys + self.bias], -1).softmax(-1)
        self.weights = weights[..., 1:]
        return weights[..., :1] * null[1] + self.weights @ self.values


def pack(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round the last axis to 8 bits: numbers from -127 to 127 (int8) and the scale `(..., 1)` to multiply them by."""
    scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=torch.finfo(x.dtype).tiny)
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) / scale.to(wide)).round().clamp(-127, 127).to(torch.int8), scale


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(*index.shape, like.shape[-1])
