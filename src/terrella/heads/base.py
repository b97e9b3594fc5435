"""What every head is: a network that reads the latents of the last few frames and the actions between them.

    R windows   K frames in one   N tokens   Z channels   W numbers in one action   M members

A window ends at the frame that is judged; where a session is younger than K frames, its first frame stands in for those
before it (`terrella.engine.recall`), and a share of the windows in training are cut off like that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine import Trail
from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.latents import TokenSpec
from ..nn.layers import RMSNorm
from ..spec import ActionSpec
from .recordings import Recordings


@dataclass(frozen=True)
class HeadConfig:
    """What all heads share. frames: that it reads, K. width, layers: of its network. batch, lr: of fitting.

    Raises `ConfigError` for values out of range.
    """

    frames: int = 2
    width: int = 128
    layers: int = 2
    batch: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.frames, self.width, self.batch) < 1 or self.layers < 0 or not self.lr > 0:
            raise ConfigError(
                f"frames {self.frames}, width {self.width} and batch {self.batch} must be at least 1, layers "
                f"{self.layers} at least 0 and lr {self.lr} more than 0."
            )


class Net(nn.Module):
    """A window of frames to numbers: `(..., K, N, Z)` and `(..., K, W)` to `(..., outputs)`."""

    ROW = 32  # numbers that stand for an action

    def __init__(self, tokens: TokenSpec, action: ActionSpec, config: HeadConfig, outputs: int):
        super().__init__()
        width = config.width
        self.act = ActionEmbedding(action, self.ROW)
        self.enter = nn.Linear(config.frames * (tokens.n * tokens.channels + self.ROW), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(RMSNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(config.layers)
        )
        self.leave = nn.Sequential(RMSNorm(width), nn.Linear(width, outputs))

    def forward(self, z: Tensor, rows: Tensor) -> Tensor:
        """See the class."""
        frame = z.flatten(-2)
        x = self.enter(torch.cat([frame, self.act(rows).to(frame.dtype)], -1).flatten(-2))
        x = F.silu(x)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


def unit_of_change(z_FNZ: Tensor, next_FNZ: Tensor) -> Tensor:
    """How far each number of a latent moves from a frame to the next, `(N, Z)`: root mean squares, none near zero."""
    unit = (next_FNZ.float() - z_FNZ.float()).square().mean(0).sqrt()
    return unit.clamp(min=max(1e-6, 0.01 * float(unit.max())))  # what never moves has but rounding errors to show


def as_changes(z_KNZ: Tensor, unit_NZ: Tensor) -> Tensor:
    """Windows `(..., K, N, Z)` with each frame but the first as its change since the one before, in units of that.

    What an action does in one step is small beside what frames differ by, and hard to find in them with few labels.
    """
    change = (z_KNZ[..., 1:, :, :] - z_KNZ[..., :-1, :, :]) / unit_NZ
    return torch.cat([z_KNZ[..., :1, :, :], change], -3)


class Head(nn.Module, ABC):
    """A network on a world's latents, fitted by `terrella.heads.fit` and kept in `World.heads`.

    Register a final class with `@register("head", kind)` and a frozen `Config` derived from `HeadConfig`. record: how
    it was fitted. dreams: whether fitting needs rollouts of the world (`Recordings.dreams`).
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type[HeadConfig]] = HeadConfig
    dreams: ClassVar[int] = 0

    def __init__(self, config: Any, tokens: TokenSpec, action: ActionSpec):
        super().__init__()
        self.config, self.tokens, self.action = config, tokens, action
        self.record: dict[str, Any] = {}

    def prepare(self, recordings: Recordings) -> None:
        """Measure what the recordings are like, before fitting."""

    @abstractmethod
    def loss(
        self, recordings: Recordings, at_B: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss at frames `at_B` (numbers in `Recordings`), each of which has one after it.

        Returns a scalar and its parts.
        """

    def last(self, trail: Trail) -> Trail:
        """The windows that end at the last frames of a trail, on the head's device; raises as `every` does."""
        return self.every(trail, 1)

    def every(self, trail: Trail, count: int) -> Trail:
        """The windows `(R * count, K, ...)` that end at each of the last `count` frames, on the head's device.

        Raises `ConfigError` where there are too few frames before them.
        """
        frames = self.config.frames
        if trail.frames < frames + count - 1:
            raise ConfigError(
                f"the {self.name} head reads {frames} frames, and there are {trail.frames - count} before those that "
                f"it shall judge; make the engine with Engine(world, recall={frames})."
            )
        device = next(self.parameters()).device
        found = trail.windows(frames, count)
        return Trail(found.z.to(device).float(), found.rows.to(device).float())
