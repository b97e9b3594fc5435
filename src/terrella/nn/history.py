"""History retrieval: frames kept beyond a transformer's window, of which the few that resemble what comes are read.

One frame in `stride` is kept, the last `size` of them: its keys and values in every layer that attends over time, and a
*descriptor*, one short vector for the whole frame. Before a frame is predicted, what was last seen and the action that
leads on make another such vector; the `fetch` kept frames most like it that have left the window join the softmax of
attention over time, all at one age just beyond the window.

Notable choices
- Choosing the best few has no gradient. The logarithm of a fetched frame's similarity is therefore added to its scores
  in attention: a frame that helped becomes more similar to what asked for it, one that did not becomes less so.
- That alone is slow: before attention can use what is fetched, nothing helps, and what is not fetched teaches nothing.
  A loss of its own (the *miss*, `Outcome.extra`) therefore asks, in clips, that what is similar looks like the frame
  to come. Four places seen once, then asked for again beyond the window (`tests/test_history.py`, three seeds): error
  0.02 to 0.05 after 100 steps with it; 0.29, 0.87 and 0.01 after 250 steps without, and 1 means forgotten.
- A descriptor knows the action that led to its frame, and what asks knows the action that leads to the next one; both
  begin with the same weights. A place can so be asked for by how it looks or by how one gets there, without a pose.
- Similarities are compared in steps of 1/1024, and among equals the newest frame wins: in a scene that stands still,
  rounding must not decide what is remembered.
- Clips are not gathered: scores of the kept frames are masked, which for clips of hundreds of frames takes less memory
  than a copy of what each frame fetched. Single frames do gather, so that a step costs `fetch` more frames, not `size`.

Ref: Xiao et al., WorldMem, arXiv 2504.12369 (attention to frames fetched from a bank by their states); Li et al.,
MagicWorld, arXiv 2511.18886 (a cache of past latents, fetched by similarity); Huang et al., Memory Forcing, arXiv
2510.03198 (window and retrieved frames together). Differs: no pose or geometry, the descriptor is learned; what
is kept are keys and values that were computed anyway, not frames to be encoded again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .latents import TokenSpec
from .layers import RMSNorm
from .rotary import rotate, rotation
from .slabs import SlabSpec, writable

DESCRIPTOR = 32  # numbers that describe a frame
STEP = 1 / 1024  # similarities that differ by less count as equal
SHARPNESS = 4.0  # at first: an unrelated frame weighs exp(-4) of an equal one


@dataclass(frozen=True)
class Fetched:
    """What one layer reads beside its window: keys, turned to their age, and values, both `(B, N, H, F, d)`.

    weights: added to the scores, -inf for what is not read; `(B, F)`, or `(B, T, F)` for a clip.
    """

    keys: Tensor
    values: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Chosen:
    """What each frame of a clip fetches: of `frames`, which may be fetched at all, the weights `(B, T, M)`.

    miss: how far frames as similar as these are from the frame that came, squared; `(B, T)`.
    """

    frames: slice
    weights: Tensor
    miss: Tensor


class History(nn.Module):
    """Keeps and fetches frames for `layers` layers that attend over time, whose keys rest without rotation.

    Memory a session: `(2 * layers * N * dim + 32) * size` numbers, and a clock. They are recurrent slabs: each branch
    of a fork gets a copy of them all, unlike the window, which branches share.
    """

    age: Tensor

    def __init__(
        self,
        tokens: TokenSpec,
        *,
        dim: int,
        heads: int,
        layers: int,
        window: int,
        sinks: int,
        size: int,
        fetch: int,
        stride: int,
    ):
        super().__init__()
        head = dim // heads
        self.window, self.sinks, self.size, self.fetched, self.stride = window, sinks, size, fetch, stride
        self.reach = size * stride  # the age of the oldest frame kept
        kept = SlabSpec((layers, tokens.n, heads, size, head))
        self.slabs = {
            "history_keys": kept,
            "history_values": kept,
            "history_told": SlabSpec((size, DESCRIPTOR)),
            "history_clock": SlabSpec(()),
        }
        self.see = nn.Linear(tokens.n * tokens.channels, dim)
        self.show = nn.Linear(tokens.n * tokens.channels, dim, bias=False)
        nn.init.zeros_(self.show.weight)
        self.norm = RMSNorm(dim)
        self.told = nn.Linear(dim, DESCRIPTOR, bias=False)
        self.asked = nn.Linear(dim, DESCRIPTOR, bias=False)
        self.asked.weight.data.copy_(self.told.weight.data)
        self.sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.mark = nn.Parameter(torch.randn(layers, heads, head) * 0.02)  # tells what was fetched from sinks
        age = rotation(-torch.tensor([window + 1.0], dtype=torch.float64), head, window + 1.0)
        self.register_buffer("age", age, persistent=False)

    def ask(self, previous: Tensor, condition: Tensor) -> Tensor:
        """Describe a moment, `(..., 32)` of length 1.

        previous: the frame before, `(..., N, Z)`. condition: what leads on, and what else is known, `(..., D)`.
        """
        return self._describe(self.asked, self._flat(self.see, previous) + condition)

    def tell(self, previous: Tensor, condition: Tensor, z: Tensor, tau: Tensor) -> Tensor:
        """Describe a frame `z` for those who will ask: the moment it came, and what it shows, if it was seen.

        tau: its signal level, `(...)`. All else as in `ask`.
        """
        shown = self._flat(self.show, z) * tau[..., None].to(self.norm.weight.dtype)
        return self._describe(self.told, self._flat(self.see, previous) + condition + shown)

    # one frame

    def fetch(self, slabs: dict[str, Tensor], asked_BR: Tensor) -> list[Fetched]:
        """Fetch, for each layer, the kept frames most like what is asked for."""
        clock = slabs["history_clock"].long()[:, None]
        written = self.stride * torch.arange(self.size, device=clock.device)  # clock when each place is written
        age = (clock - written - 1) % self.reach + 1
        age = torch.where((clock >= self.reach) | (written < clock), age, 0)  # 0 where nothing was written yet
        with _exact(asked_BR):
            similarity = (_wide(slabs["history_told"]) @ _wide(asked_BR)[..., None]).squeeze(-1)
        index = self._rank(similarity, age).topk(self.fetched).indices
        weights = self._weights(similarity, age > self.window).gather(1, index).to(slabs["history_keys"].dtype)
        row = torch.arange(len(index), device=index.device)[:, None]
        keys, values = (slabs[n].movedim(4, 1)[row, index].movedim(1, 4) for n in ("history_keys", "history_values"))
        return [Fetched(self._aged(k, i), v, weights) for i, (k, v) in enumerate(zip(keys.unbind(1), values.unbind(1)))]

    def keep(
        self, slabs: dict[str, Tensor], time_B: Tensor, keys_BLNHd: Tensor, values_BLNHd: Tensor, told_BR: Tensor
    ) -> dict[str, Tensor]:
        """Keep a frame in the place of the oldest, if its turn has come; return the history's slabs.

        Sinks are not kept: attention sees them anyway. Writes in place, like the ring of framed slabs: committing
        consumes its slabs, and branches have copies.
        """
        clock, counts = slabs["history_clock"].long(), time_B >= self.sinks
        due, place = counts & (clock % self.stride == 0), clock % self.reach // self.stride
        row = torch.arange(len(clock), device=clock.device)
        kept = {}
        for name, axis, value in (
            ("history_keys", 4, keys_BLNHd),
            ("history_values", 4, values_BLNHd),
            ("history_told", 1, told_BR),
        ):
            kept[name] = writable(slabs[name])
            places = kept[name].movedim(axis, 1)
            here = due.view(-1, *[1] * (value.ndim - 1))
            places[row, place] = torch.where(here, value.to(places.dtype), places[row, place])
        clock = clock + counts
        # After the first round the clock goes round the second, so that it stays small and still says that all is full.
        clock = torch.where(clock == 2 * self.reach, self.reach, clock)
        return {**kept, "history_clock": clock.float()}

    # whole clips

    def choose(self, asked_BTR: Tensor, told_BTR: Tensor, z_BTNZ: Tensor, tau_BT: Tensor) -> Chosen | None:
        """Choose what each frame of a clip fetches; None where no frame of the clip leaves the window."""
        steps = asked_BTR.shape[1]
        frames = slice(self.sinks, steps - self.window - 1, self.stride)
        if frames.stop <= frames.start:
            return None
        frame = torch.arange(steps, device=asked_BTR.device)
        age = frame[:, None] - frame[frames]
        age = torch.where(age <= self.reach, age, 0)  # overwritten
        with _exact(asked_BTR):
            similarity = _wide(asked_BTR) @ _wide(told_BTR[:, frames]).transpose(-1, -2)
        rank = self._rank(similarity, age)
        last = rank.topk(min(self.fetched, rank.shape[-1])).values[..., -1:]
        old = age > self.window
        weights = self._weights(similarity, old & (rank >= last))
        z = _wide(z_BTNZ.detach()).flatten(2)
        with _exact(z):
            apart = torch.cdist(z, z[:, frames]).square() / z.shape[-1]
        chance = self._weights(similarity, old).clamp(min=-1e4).softmax(-1) * old  # finite where nothing is old
        miss = (chance * apart).sum(-1) * (tau_BT > 0)  # a frame that was not seen is only noise
        return Chosen(frames, weights, miss)

    def read(self, layer: int, keys_BTNHd: Tensor, values_BTNHd: Tensor, chosen: Chosen | None) -> Fetched | None:
        """Give one layer what `choose` chose, from the keys and values of the clip's frames."""
        if chosen is None:
            return None
        keys, values = (v[:, chosen.frames].movedim(1, 3) for v in (keys_BTNHd, values_BTNHd))
        return Fetched(self._aged(keys, layer), values, chosen.weights)

    # shared by both

    def _flat(self, layer: nn.Linear, z: Tensor) -> Tensor:
        return layer(z.flatten(-2).to(self.norm.weight.dtype))

    def _describe(self, head: nn.Linear, x: Tensor) -> Tensor:
        return F.normalize(head(F.silu(self.norm(x))), dim=-1)

    def _rank(self, similarity: Tensor, age: Tensor) -> Tensor:
        """Order kept frames; all that may be fetched differ, so that every path chooses alike."""
        rank = (similarity.detach() / STEP).round().long() * (self.reach + 1) - age
        return rank.masked_fill(age <= self.window, torch.iinfo(torch.int64).min)

    def _weights(self, similarity: Tensor, fetched: Tensor) -> Tensor:
        """Compute the logarithm of `exp(sharpness * (cosine - 1))`: an equal frame weighs as much as any in sight."""
        return (self.sharpness.exp() * (similarity - 1)).masked_fill(~fetched, -torch.inf)

    def _aged(self, keys_BNHFd: Tensor, layer: int) -> Tensor:
        marked = keys_BNHFd + self.mark[layer][:, None].to(keys_BNHFd.dtype)
        return rotate(marked, self.age)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _exact(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)  # similarities decide: in bfloat16 hundreds of frames are equal
