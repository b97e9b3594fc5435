"""What heads are fitted on: recorded frames as latents, laid end to end, in windows that never leave their episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Dataset
from ..data.index import Split
from ..engine import Trail
from ..engine.stepper import Stepper
from ..training.material import LatentClips, encode_episodes
from ..world import World

CUT = 0.1  # of the windows in training begin as a session does in the middle of an episode
SEEN = 4  # true frames before a dream


@dataclass
class Recordings:
    """Frames of many episodes.

    clips: as latents, `length` 1. device: where windows go. first, last: int64 `(frames,)`, where the episode of each
    frame begins and ends. dreams: frames that the world dreamed under recorded actions (`dreamed`), or None. All of it
    lies on the CPU.
    """

    clips: LatentClips
    device: torch.device
    dreams: Trail | None = None

    def __post_init__(self) -> None:
        begins = self.clips.action[:, 0].isnan()
        index = torch.arange(len(begins))
        self.first = torch.where(begins, index, 0).cummax(0).values
        ends = torch.cat([begins[1:], torch.ones(1, dtype=torch.bool)])
        self.last = torch.where(ends, index, len(index)).flip(0).cummin(0).values.flip(0)

    @classmethod
    def of(
        cls,
        world: World,
        dataset: Dataset,
        split: Split = "train",
        advance: Callable[[int], None] = lambda frames: None,
    ) -> Recordings:
        """Encode the episodes of a split, on the world's device; raises `TrainingError` where there are none."""
        device = next(world.parameters()).device
        return cls(encode_episodes(dataset, world, split, 1, device, advance), device)

    def draw(self, batch: int, order: torch.Generator) -> Tensor:
        """Draw frames that have one after them, `(B,)`."""
        return self.clips.starts[torch.randint(len(self.clips.starts), (batch,), generator=order)]

    def windows(self, at: Tensor, frames: int, cut: Tensor | None = None) -> Trail:
        """The windows that end at frames `at (...)`: z `(..., K, N, Z)`, rows `(..., K, W)`.

        cut: how many frames before `at` the session began, `(...)`, where that is later than the episode did.
        """
        begin = self.first[at]
        if cut is not None:
            begin = torch.maximum(begin, at - cut)
        index = at[..., None] - torch.arange(frames).flip(0)
        rows = self.clips.action[torch.maximum(index, begin[..., None])]
        rows = rows.masked_fill((index <= begin[..., None])[..., None], torch.nan)
        z = self.clips.z[torch.maximum(index, begin[..., None])].float()
        return Trail(z.to(self.device), rows.to(self.device))

    def cuts(self, at: Tensor, frames: int, generator: torch.Generator) -> Tensor:
        """How long ago sessions began, drawn for windows that end at `at`: mostly longer ago than a window."""
        draw = torch.rand(2, *at.shape, generator=generator, device=generator.device).to(at.device)
        return torch.where(draw[0] < CUT, (draw[1] * frames).long(), len(self.first))

    def ahead(self, at_B: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The frames 0 to `steps` later, `(B, steps + 1)`, and whether each is still in the episode; else its last."""
        index = at_B[:, None] + torch.arange(steps + 1)
        last = self.last[at_B][:, None]
        return torch.minimum(index, last), index <= last


@torch.no_grad()
def dreamed(world: World, recordings: Recordings, count: int, depth: int, seed: int) -> Trail | None:
    """Let the world dream `depth` frames after true ones, under the actions that were recorded.

    z `(count, SEEN + depth, N, Z)`, in batches of 64; None where no episode is long enough.
    """
    length = SEEN + depth
    room = torch.nonzero(recordings.last - torch.arange(len(recordings.last)) >= length - 1)[:, 0]
    if len(room) == 0:
        return None
    order = torch.Generator().manual_seed(seed)
    at = room[torch.randint(len(room), (count,), generator=order)]
    stepper, found, parameter = Stepper(world), [], next(world.parameters())
    for some in at.split(64):
        true = recordings.windows(some + length - 1, length, cut=torch.full_like(some, length - 1))
        z, rows = true.z.to(parameter), true.rows.to(parameter.device)
        keys = some.to(parameter.device) + seed * 1_000_003
        slabs, shown = world.dynamics.init(len(some), parameter.device, parameter.dtype), list(z[:, :SEEN].unbind(1))
        for t in range(SEEN):
            slabs, _ = stepper.commit(slabs, keys, rows[:, t], z[:, t], world.config.context_level)
        for t in range(SEEN, length):
            shown.append(stepper.draw(slabs, keys, rows[:, t], observe=False).z_BNZ)
            slabs, _ = stepper.commit_dreamed(slabs, keys, rows[:, t], shown[-1])
        found.append(Trail(torch.stack(shown, 1).float().cpu(), rows.cpu()))
    return Trail(torch.cat([f.z for f in found]), torch.cat([f.rows for f in found]))
