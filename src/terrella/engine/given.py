"""What an engine is given, checked and brought to its device: a world, beginnings of sessions, actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..actions import describe, width
from ..errors import ActionError, ConfigError, SpecError, WorldError
from ..spec import ActionSpec
from ..world import World


def require_finite(world: World) -> None:
    """Raise `WorldError` for tokenizers and views that are not finite, of which pictures would make a colour."""
    parts = {"tokenizers": world.tokenizers, "views": world.views}
    for name, weight in ((f"{part}.{name}", w) for part in parts for name, w in parts[part].named_parameters()):
        if not bool(weight.isfinite().all()):
            raise WorldError(
                f"world {world.name!r} has weights that are not finite ({name}): every frame would be "
                "wrong. Restore its files from a copy, or train it again with a smaller tokenizer_lr."
            )


def compiled_sizes(world: World, compiled: int | Sequence[int], exact: int | None, cached: bool) -> tuple[int, ...]:
    """Check the batch sizes whose steps are compiled, beside what else an engine is to do; raises `ConfigError`."""
    sizes = (compiled,) if isinstance(compiled, int) else tuple(compiled)
    if any(size < 1 for size in sizes) or (exact is not None and {*sizes} - {exact}):
        raise ConfigError(f"compiled is {sizes}; batch sizes are at least 1, and an exact engine has only its own.")
    if world.decoder.unit > 1 and (cached or sizes):
        why = f"decoder {world.decoder.name!r} draws chunks of frames; caches and compiled graphs draw single ones."
        raise ConfigError(f"{why} Leave cache and compiled out.")
    return sizes


def beginning(
    world: World,
    observations: Mapping[str, np.ndarray],
    actions: np.ndarray | None,
    seeds: int | Sequence[int],
    device: torch.device,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Check what `Engine.start` was given.

    Returns the streams `(B, c+1, ...)`, the row that led to each frame `(B, c+1, W)`, NaN for the first, and the seeds
    `(B,)`. Raises `SpecError` or `ActionError`.
    """
    seen, wide = world.tensors(observations, device), width(world.spec.action)
    batch, frames = seen[next(iter(world.spec.modelled))].shape[:2]
    if any(v.shape[:2] != (batch, frames) for v in seen.values()) or frames < 1:
        shapes = {k: tuple(v.shape) for k, v in seen.items()}
        raise SpecError(f"streams must share batch and time, with at least one frame; got {shapes}.")
    rows = np.zeros((batch, 0, wide)) if actions is None else np.asarray(actions)
    if rows.shape != (batch, frames - 1, wide):
        raise ActionError(f"{frames} frames need actions of shape ({batch}, {frames - 1}, W); got {rows.shape}.")
    keys = range(int(seeds), int(seeds) + batch) if isinstance(seeds, (int, np.integer)) else seeds
    if len(keys) != batch:
        raise SpecError(f"{len(keys)} seeds for {batch} sessions; give one each, or a single number.")
    none = torch.full((batch, 1, wide), torch.nan, device=device)
    led = torch.cat([none, torch.from_numpy(rows.astype(np.float32)).to(device)], 1)
    return seen, led, torch.tensor([int(s) for s in keys], dtype=torch.int64, device=device)


def action_rows(spec: ActionSpec, actions: np.ndarray | Tensor, batch: int, device: torch.device) -> Tensor:
    """Check one action for each session; float32 `(B, W)`. Raises `ActionError`."""
    rows: Tensor = actions if isinstance(actions, Tensor) else torch.from_numpy(np.asarray(actions, np.float64))
    if rows.shape != (batch, width(spec)):
        raise ActionError(
            f"actions have shape {tuple(rows.shape)}; {batch} sessions of {describe(spec)} take rows of shape "
            f"({batch}, {width(spec)}). Turn native actions into rows with terrella.actions.encode."
        )
    rows = rows.to(device, torch.float32)
    if not bool(rows.isfinite().all()):
        raise ActionError("actions hold NaN or infinity; every number must be finite.")
    return rows
