"""A future with a gradient by the actions that lead to it, for planners that go downhill.

The same steps as ever, under autograd: memory is then written in copies (`terrella.nn.slabs.writable`), and pictures
stay numbers instead of being rounded to bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..nn.slabs import Slabs
from ..world import World
from .state import State
from .stepper import Stepper


@dataclass(frozen=True)
class Dream:
    """What T actions in R sessions bring, as tensors with a gradient.

    observation: stream -> `(R, T, ...)`, images as numbers 0 to 1, empty where nobody looks. reward, terminated:
    `(R, T)`, as of `Frame`. latent: `(R, T, N, Z)`.
    """

    observation: dict[str, Tensor]
    reward: Tensor
    terminated: Tensor
    latent: Tensor


def dream(
    stepper: Stepper, state: State, actions_BTW: Tensor, observe: bool = True, guidance_B: Tensor | None = None
) -> Dream:
    """Roll out T actions from a state, which stays as it is. Raises `ConfigError` where the world has no gradient."""
    world = stepper.world
    require_gradient(world)
    slabs, seeds = _apart(state.slabs), state.seeds.clone()
    rows = actions_BTW.to(seeds.device, stepper.dtype)
    z, reward, end = [], [], []
    with torch.enable_grad():
        for t in range(rows.shape[1]):
            drawn = stepper.draw(slabs, seeds, rows[:, t], False, guidance_B)
            slabs, outcome = stepper.commit_dreamed(slabs, seeds, rows[:, t], drawn.z_BNZ)
            z.append(drawn.z_BNZ)
            reward.append(outcome.reward * world.reward_scale + world.reward_shift)
            end.append(outcome.end.sigmoid())
        latent = torch.stack(z, 1)
        shown = world.decode_raw(latent) if observe else {}
        return Dream(shown, torch.stack(reward, 1), torch.stack(end, 1), latent)


def require_gradient(world: World) -> None:
    """Raise `ConfigError` where futures of a world have no gradient by its actions."""
    dynamics, decoder = world.dynamics, world.decoder
    why = [
        (not dynamics.differentiable, f"backbone {dynamics.name!r} has none"),
        (dynamics.memory is not None, "a bounded memory chooses among frames"),
        (not decoder.differentiable, f"decoder {decoder.name!r} has none"),
        (world.config.reencode, "each frame is rounded to pixels (`reencode`)"),
    ]
    if found := [reason for holds, reason in why if holds]:
        raise ConfigError(
            f"world {world.name!r} has no gradient by its actions: {'; '.join(found)}. Plan with one that samples, "
            "such as icem."
        )


def _apart(slabs: Slabs) -> Slabs:
    # Copies made here are ordinary tensors; those of an engine may never be saved for a gradient.
    segments = [
        replace(s, tensors={n: t.clone() for n, t in s.tensors.items()}, frames=s.frames.clone(), start=s.start.clone())
        for s in slabs.segments
    ]
    return Slabs(slabs.spec, {n: t.clone() for n, t in slabs.recurrent.items()}, segments, slabs.time.clone())
