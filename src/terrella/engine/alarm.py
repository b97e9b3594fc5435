"""Has a session left what its world knows? Signals that tell while it goes on, without the truth.

    reencoding     |encode(decode(z)) - z|^2      the frame is none that the tokenizer would make
    distance       |z|^2                          latents lie far out, in the units of the tokenizer's normalisation
    disagreement   |sample(other noise, 1) - z|^2 the world does not know what comes

each a mean over the numbers of a frame. One frame says little, so a session keeps a mean over its last `MEMORY` frames
(exponential once there are as many), divided by what the `QUANTILE` of frames shortly after recorded ones do not
exceed. Above 1 is an alarm. True frames that a session observes begin the mean anew.

What a signal cannot see: frames that look right and are not what would have happened.

Ref: Lakshminarayanan et al., arXiv 1612.01474 (disagreement as uncertainty; here of two noises, not of an ensemble);
Lee et al., arXiv 1807.03888 (distance from training features; here independent channels, which needs no fit).
Re-encoding is an autoencoder's reconstruction error as a test for novelty, taken in latents, where it costs one
encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from ..nn.latents import Predict
from ..nn.slabs import SlabSpec
from ..world import World

MEMORY = 8
QUANTILE = 0.95
LEVEL = "alarm.level"  # the mean, and over how many frames it is taken

Signal = Callable[[World, Tensor, dict[str, Tensor], Predict, Tensor], Tensor]
"""`(world, z (B, N, Z), shown, predict, noise (B, N, Z)) -> (B,)`: shown is what z looks like, predict what drew it."""


def reencoding(world: World, z: Tensor, shown: dict[str, Tensor], predict: Predict, noise: Tensor) -> Tensor:
    """How far a frame moves when it is decoded and encoded again."""
    del predict, noise
    return (world.encode(shown).float() - z.float()).square().flatten(1).mean(1)


def distance(world: World, z: Tensor, shown: dict[str, Tensor], predict: Predict, noise: Tensor) -> Tensor:
    """How far out a frame's latent lies; about 1 where the tokenizer was normalised."""
    del world, shown, predict, noise
    return z.float().square().flatten(1).mean(1)


def disagreement(world: World, z: Tensor, shown: dict[str, Tensor], predict: Predict, noise: Tensor) -> Tensor:
    """How far one denoising step from other noise ends from the frame; 0 where a world draws without noise.

    So it is where chunks of frames are drawn: inside one there is nothing to draw.
    """
    del shown
    if world.decoder.unit > 1:
        return torch.zeros(len(z), device=z.device)
    other = world.decoder.sample(predict, noise.to(z.dtype), 1)
    return (other.float() - z.float()).square().flatten(1).mean(1)


SIGNALS: dict[str, Signal] = {"reencoding": reencoding, "distance": distance, "disagreement": disagreement}


@dataclass(frozen=True)
class Alarm:
    """A signal by its name, and the level above which it is an alarm (None: the world's own, see `calibrate`).

    Raises `UnknownName`, and `ConfigError` for a threshold that is not above 0.
    """

    signal: str = "reencoding"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise did_you_mean(self.signal, SIGNALS, "signal of an alarm")
        if self.threshold is not None and not self.threshold > 0:
            raise ConfigError(f"the threshold of an alarm is {self.threshold}; it must be above 0.")

    @property
    def slabs(self) -> dict[str, SlabSpec]:
        """What a session keeps from frame to frame."""
        return {LEVEL: SlabSpec((2,), dtype=torch.float32)}

    def note(self, kept_B2: Tensor, signal_B: Tensor) -> tuple[Tensor, Tensor]:
        """Take a frame's signal into the mean; returns what is kept, and the level over the threshold `(B,)`."""
        count = (kept_B2[:, 1] + 1).clamp(max=MEMORY)
        level = kept_B2[:, 0] + (signal_B - kept_B2[:, 0]) / count
        return torch.stack([level, count], 1), level / (self.threshold or 1.0)
