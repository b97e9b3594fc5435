"""Another sentence for what has already been seen: the last frames of a session told again, as if it had always held.

A memory was written under the sentences of its time, and what attends to it goes on hearing them after another one was
said. So the last frames are written anew under the new sentence, and what a session remembers afterwards is what one
remembers that began with the oldest of them:

    memory = prefill([z_{t-F}, ..., z_t], sentence),     F frames as latents, kept by `Engine(world, recall=F)`

number by number (`tests/test_reword.py`), for every backbone. For one that attends to a window, F should be the window
and one more frame; one whose memory reaches further forgets what lies before the F frames.

Only texts are replaced; what else an action consists of stays, and so do frames without an action before them.
Sessions all of whose recalled frames were told so already stay untouched. Time counts from the oldest frame again,
so the key of a session's chance is made anew of the old one and its old time: no noise comes twice.

Ref: Yang et al., LongLive, arXiv 2509.22622 (at a switch of prompts, keys and values of the window are computed again
under the new one, from frames already made). Differs: for any backbone's memory, as a value; sessions of one batch may
switch at different times; the oldest frame becomes the session's first, in the place of its sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..actions import columns, describe
from ..errors import ActionError, ConfigError
from ..nn.noise import row_keys
from ..nn.slabs import Slabs
from ..spec import ActionSpec
from ..world import World
from .recall import Trail

Prefill = Callable[[Tensor, Tensor, Tensor], Slabs]
"""`(z (R, F, N, Z), rows (R, F, W), seeds (R,)) -> slabs`: what sessions remember that have seen this alone."""


@dataclass(frozen=True)
class Retold:
    """Sessions of one length to begin anew: which they are `(R,)`, their frames, and their keys `(R,)`."""

    index: Tensor
    trail: Trail
    seeds: Tensor


def require_sentences(world: World, recall: int) -> None:
    """Raise `ActionError` where actions hold no text, `ConfigError` where fewer than two frames are recalled."""
    spec = world.spec.action
    if not (columns(spec).choices == -1).any():
        raise ActionError(
            f"actions are {describe(spec)}: there is no sentence in them to tell frames by again. Step under another "
            "action instead."
        )
    if recall < 2:
        raise ConfigError(
            f"recall is {recall}, but the frames to be told again are those recalled. Make the engine with as many as "
            f"the world attends to and one more: Engine(world, recall={(world.dynamics.spec.window or 12) + 1})."
        )


def retold(spec: ActionSpec, trail: Trail, time_B: Tensor, seeds_B: Tensor, row_BW: Tensor) -> list[Retold]:
    """Find the sessions that have heard anything but the sentences of `row`, those of equal length together.

    trail: what each recalls, F frames.
    """
    texts = torch.from_numpy(columns(spec).choices == -1).to(row_BW.device)
    heard = trail.rows.to(row_BW.dtype)
    rows = torch.where(texts & ~heard.isnan(), row_BW[:, None], heard)
    length = time_B.clamp(max=trail.frames)
    # The oldest frame will have no action before it, and a young session repeats its first frame before that one.
    since = torch.arange(trail.frames, device=length.device) > (trail.frames - length)[:, None]
    changed = ((rows != heard) & ~heard.isnan() & since[..., None]).flatten(1).any(1)
    found = []
    for frames in np.unique(length[changed].cpu().numpy()).tolist():
        index = (changed & (length == frames)).nonzero()[:, 0]
        told = rows[index, -frames:].clone()
        told[:, 0] = torch.nan
        keys = row_keys(torch.stack([seeds_B[index], time_B[index]], 1))
        found.append(Retold(index, Trail(trail.z[index, -frames:], told), keys))
    return found


def rewritten(slabs: Slabs, seeds_B: Tensor, again: Sequence[Retold], prefill: Prefill) -> tuple[Slabs, Tensor]:
    """Return the memory and the keys of all sessions, in their order, some of them written anew."""
    stays = torch.ones_like(seeds_B, dtype=torch.bool)
    for part in again:
        stays[part.index] = False
    index = torch.cat([stays.nonzero()[:, 0], *(part.index for part in again)])
    kept = [slabs.select(index[: int(stays.sum())])] if bool(stays.any()) else []
    anew = [prefill(part.trail.z, part.trail.rows, part.seeds) for part in again]
    seeds, order = torch.cat([seeds_B[stays], *(part.seeds for part in again)]), index.argsort()
    return Slabs.merge([*kept, *anew]).select(order), seeds[order]
