"""Where an alarm begins: what a world's own frames bring of each signal while they are surely near to recorded ones.

Sessions begin from recordings and go on alone for a few frames, no further than worlds are trained to; the threshold is
the level that a quantile of these frames does not exceed. `World.alarm` keeps it, and `World.save` with it:

    world.alarm = calibrate(world, dataset)

A world without goes by its recorded beginnings, with their actions over and over, whenever an engine asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..actions import width
from ..data import Dataset
from ..data.episode import Clips
from ..errors import ConfigError
from ..nn.slabs import Slabs, StateSpec
from ..world import World
from .alarm import LEVEL, QUANTILE, SIGNALS, Alarm
from .recall import recall_slabs
from .stepper import Stepper

SESSIONS, FRAMES = 16, 8  # that go on alone, and for how long


def calibrate(
    world: World, dataset: Dataset | None = None, signals: Sequence[str] = tuple(SIGNALS), seed: int = 0
) -> dict[str, float]:
    """Measure the threshold of each of `signals` that says anything in this world.

    dataset: recordings to begin from (None: the world's recorded beginnings). Raises `ConfigError` where there is
    nothing to begin from, `DatasetError` where episodes are too short, and `UnknownName`.
    """
    clips, context = _material(world, dataset, seed)
    found = {name: _level(world, name, clips, context, seed) for name in signals}
    return {name: level for name, level in found.items() if level > 0}


def calibrated(world: World, alarm: Alarm, dtype: torch.dtype = torch.float32) -> Alarm:
    """Give an alarm the world's threshold, measured now if the world has none; raises `ConfigError` as above."""
    if alarm.threshold is not None:
        return alarm
    level = world.alarm.get(alarm.signal)
    if level is None:
        level = _level(world, alarm.signal, *_material(world, None, 0), 0, dtype)
    if not level > 0:
        raise ConfigError(
            f"the signal {alarm.signal!r} is always 0 in world {world.name!r}: its decoder {world.decoder.name!r} "
            "draws without chance or in chunks, or its tokenizer loses nothing. Choose another of "
            f"{', '.join(name for name in SIGNALS if name != alarm.signal)}."
        )
    return Alarm(alarm.signal, level)


def _material(world: World, dataset: Dataset | None, seed: int) -> tuple[Clips, int]:
    """Clips of recordings whose last `FRAMES` actions are to be dreamed, and the actions before these."""
    context = 4 if world.starts is None else world.starts.actions.shape[1]
    if dataset is not None:
        return dataset.sample(SESSIONS, context + FRAMES, np.random.default_rng(seed)), context
    if world.starts is None:
        raise ConfigError(
            f"world {world.name!r} has no thresholds for an alarm, and no recorded beginnings to measure them from. Do "
            "so from its recordings, world.alarm = terrella.engine.calibrate(world, dataset), or give a threshold."
        )
    starts, times = world.starts, -(-SESSIONS // len(world.starts.actions))
    rows = np.tile(starts.actions, (times, 1, 1))
    after = rows[:, np.arange(FRAMES) % context] if context else np.zeros((len(rows), FRAMES, rows.shape[2]))
    seen = {name: np.tile(frames, (times, *[1] * (frames.ndim - 1))) for name, frames in starts.observations.items()}
    blank = np.zeros((len(rows), context + FRAMES), np.float32)
    return Clips(seen, np.concatenate([rows, after], 1), blank, blank > 0), context


@torch.inference_mode()
def _level(
    world: World, signal: str, clips: Clips, context: int, seed: int, dtype: torch.dtype = torch.float32
) -> float:
    """Go on alone from the first frames of clips, and take the quantile of a signal's levels."""
    alarm = Alarm(signal)
    stepper = Stepper(world, dtype=dtype, alarm=alarm)
    device = next(world.parameters()).device
    first = {name: frames[:, : context + 1] for name, frames in clips.observations.items()}
    z = world.encode(world.tensors(first, device)).to(dtype)
    rows = torch.from_numpy(clips.actions.astype(np.float32)).to(device)
    none = torch.full((len(rows), 1, width(world.spec.action)), torch.nan, device=device)
    seeds = torch.arange(len(rows), device=device) + (seed << 20)
    slabs = world.dynamics.init(len(rows), device, dtype)
    last = recall_slabs(int(bool(world.decoder.slabs)), world.tokens, rows.shape[-1])
    beside = StateSpec({**alarm.slabs, **world.decoder.slabs, **last})
    slabs.recurrent.update(Slabs.empty(beside, len(rows), device, dtype).recurrent)
    for t, row in enumerate(torch.cat([none, rows[:, :context]], 1).unbind(1)):
        slabs, _ = stepper.commit(slabs, seeds, row, z[:, t], world.config.context_level)
    levels = []
    for row in rows[:, context:].unbind(1):
        drawn = stepper.draw(slabs, seeds, row, observe=False)
        slabs, _ = stepper.commit_dreamed(slabs, seeds, row, drawn.z_BNZ)
        slabs.recurrent.update(drawn.kept)
        levels.append(drawn.kept[LEVEL][:, 0])
    return float(torch.cat(levels).float().quantile(QUANTILE))
