"""A picture as a field over its patches, drawn from what the other streams of the same frame say.

Where a frame's numbers and choices say all there is to see, a picture is no memory but a view: nothing in it can drift
or fade, and a backbone has that much less to predict. Each thing that is said meets each patch by itself:

    h_ps = V silu(U sin(A c_p + B x_s + w_s) + u_s)     c_p: where patch p lies; x_s: what slot s says
    h_p  = h_p0 + sum_s h_ps + g_p                      slot 0 says nothing; g_p: what grids say of the cells under p
    h_p <- h_p + W silu(W' h_p)                         layer by layer
    patch p = mean + spread (L h_p)

A slot is a group of numbers, or a cell of choices. With a sine of differences of places, a shape that follows a place
is learned in hundreds of steps. Fitted on some patches of many frames.

Ref: Sitzmann et al., SIREN, arXiv 2006.09661, equation 3 (sines of places); Zaheer et al., Deep Sets, arXiv 1703.06114,
theorem 2 (a sum over things). Differs: patches instead of pixels, a sine in the first layer only, and what is said
inside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import columns
from ..errors import ConfigError
from ..nn.noise import chance
from ..registry import register
from ..spec import ActionSpec, StreamSpec

FRAMES = 64  # drawn at once: each meets every patch with every slot
REACH = 3.0  # radians of the first layer's sines in a deviation of a place


@dataclass(frozen=True)
class FieldConfig:
    """`patch` pixels a side; `dim` and `layers` of the network; numbers of a stream come in groups of `group` (0: all
    of a stream are one), as a place has two; `share` of the patches of a frame that a step of training draws.
    """

    patch: int = 4
    dim: int = 64
    layers: int = 2
    group: int = 0
    share: float = 0.25

    def __post_init__(self) -> None:
        if min(self.patch, self.dim) < 1 or min(self.layers, self.group) < 0 or not 0 < self.share <= 1:
            raise ConfigError(
                f"patch {self.patch} and dim {self.dim} are at least 1, layers {self.layers} and group {self.group} at "
                f"least 0, and share ({self.share}) lies in (0, 1]."
            )


@register("view", "field")
class Field(nn.Module):
    """The view of an image stream; `others` are the streams that it is drawn from.

    Raises `ConfigError` for a stream that is no image or no whole number of patches, and for texts among the others.
    """

    name: ClassVar[str] = ""
    Config = FieldConfig
    mean: Tensor
    spread: Tensor
    place: Tensor

    def __init__(self, config: FieldConfig, stream: StreamSpec, others: Mapping[str, StreamSpec]):
        super().__init__()
        if stream.kind != "image":
            raise ConfigError(f"a view draws images, and this stream is a {stream.kind}; give it a tokenizer.")
        h, w, channels = stream.shape
        if h % config.patch or w % config.patch:
            raise ConfigError(f"patch is {config.patch}, which does not divide {h} x {w} pixels; choose one that does.")
        choices = {name: other.native for name, other in others.items() if other.native is not None}
        texts = [name for name, native in choices.items() if native.kind == "text"]
        if texts:
            raise ConfigError(f"a view is drawn from numbers and choices, and {texts} are texts; leave them out.")
        self.config, self.stream, dim = config, stream, config.dim
        self.rows, self.columns = h // config.patch, w // config.patch
        grids = {name: native for name, native in choices.items() if min(_grid(native)) > 1}
        self.lone = [name for name in others if name not in grids]
        self.gridded = list(grids)
        self.slots = nn.ModuleList(_Slots(others[name], config) for name in self.lone)
        self.cells = nn.ModuleList(_Cells(native, dim, (self.rows, self.columns)) for native in grids.values())
        across = torch.meshgrid(*(torch.linspace(-1.7, 1.7, n) for n in (self.rows, self.columns)), indexing="ij")
        self.register_buffer("place", torch.stack(across, -1).flatten(0, 1), persistent=False)
        self.where = nn.Parameter(REACH * torch.randn(2, dim))
        self.meet, self.say = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim)) for _ in range(config.layers)
        )
        self.leave = nn.Linear(dim, config.patch**2 * channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("mean", torch.full(stream.shape, 0.5))
        self.register_buffer("spread", torch.full((), 0.5))

    def draw(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Draw from streams `(..., F)`: floats `(..., h, w, C)` in [0, 1]-ish, with a gradient."""
        rows = {name: observations[name] for name in (*self.lone, *self.gridded)}
        lead = next(iter(rows.values())).shape[:-1]
        parts = zip(*(row.reshape(-1, row.shape[-1]).split(FRAMES) for row in rows.values()))
        patches = torch.cat([self._patches(dict(zip(rows, part)), slice(None)) for part in parts])
        size = self.config.patch
        grid = patches.unflatten(2, (size, size, -1)).unflatten(1, (self.rows, self.columns)).transpose(2, 3)
        return (self.mean + self.spread * grid.reshape(-1, *self.stream.shape)).reshape(*lead, *self.stream.shape)

    def decode(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Draw uint8 images `(..., h, w, C)`."""
        return (self.draw(observations).float() * 255).round_().clamp_(0, 255).to(torch.uint8)

    def loss(self, observations: Mapping[str, Tensor], picture: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of some patches, in units of the spread."""
        size, count = self.config.patch, self.rows * self.columns
        true = (picture.to(self.mean.dtype) / 255 - self.mean) / self.spread
        true = true.unflatten(1, (self.rows, size)).unflatten(3, (self.columns, size)).transpose(2, 3)
        order = torch.Generator().manual_seed(int(chance(generator) * 2**31))
        at = torch.randperm(count, generator=order)[: max(1, round(count * self.config.share))].to(true.device)
        return (self._patches(observations, at).float() - true.flatten(1, 2).flatten(2)[:, at]).square().mean()

    @torch.no_grad()
    def prepare(self, observations: Mapping[str, Tensor], picture: Tensor) -> None:
        """Measure the mean frame, the spread about it, and the range of numbers."""
        x = picture.float() / 255
        self.mean.copy_(x.mean(0))
        self.spread.copy_((x - self.mean).std().clamp(min=1e-3))
        for part, name in zip(self.slots, self.lone):
            part.prepare(observations[name])  # pyright: ignore[reportCallIssue]

    def _patches(self, observations: Mapping[str, Tensor], at: Tensor | slice) -> Tensor:
        """Draw patches `(B, P, numbers)` from streams `(B, F)`, as deviations from the mean."""
        where = self.place[at].to(self.where.dtype) @ self.where
        h = self.say(F.silu(self.meet(where.sin())))  # what is always there
        for part, name in zip(self.slots, self.lone):
            met = F.silu(self.meet((where[:, None] + part(observations[name])[:, None]).sin()) + part.mark)
            h = h + self.say(met).sum(2)
        for part, name in zip(self.cells, self.gridded):
            h = h + part(observations[name])[:, at]
        for layer in self.layers:
            h = h + layer(h)
        return self.leave(h)


class _Slots(nn.Module):
    """What numbers or a list of choices say, `(B, F)` -> `(B, S, D)`; `mark` tells slots apart, `(S, D)`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, stream: StreamSpec, config: FieldConfig):
        super().__init__()
        (length,), dim, native = stream.shape, config.dim, stream.native
        # The choices of a cell are one slot: what they say, they say together.
        self.group = length // math.prod(_grid(native)) if native else config.group or length
        self.short, count = -length % self.group, -(-length // self.group)
        self.register_buffer("mean", torch.zeros(self.group))
        self.register_buffer("deviation", torch.ones(self.group))
        self.enter = nn.Parameter(REACH * torch.randn(self.group, dim))
        self.which, self.mark = nn.Parameter(torch.randn(count, dim)), nn.Parameter(torch.randn(count, dim))
        self.choices = None if native is None else _Choices(native, dim)

    def forward(self, row: Tensor) -> Tensor:
        x = (self._groups(row) - self.mean.float()) / self.deviation.float()
        said = x.to(self.enter.dtype) @ self.enter + self.which
        # Of choices, too: their order may mean a place.
        return said if self.choices is None else said + self.choices(row)

    def prepare(self, row: Tensor) -> None:
        """Measure numbers over all groups: places are then in one unit, whichever thing is there."""
        groups = self._groups(row).flatten(0, -2)
        self.mean.copy_(groups.mean(0))
        self.deviation.copy_(groups.std(0).clamp(min=1e-4))

    def _groups(self, row: Tensor) -> Tensor:
        return F.pad(row.float(), (0, self.short)).unflatten(-1, (-1, self.group))


class _Cells(nn.Module):
    """What a grid of choices says of the cells under each patch: `(B, F)` -> `(B, P, D)`."""

    def __init__(self, native: ActionSpec, dim: int, patches: tuple[int, int]):
        super().__init__()
        self.shape, self.patches = _grid(native), patches
        self.choices = _Choices(native, dim)

    def forward(self, row: Tensor) -> Tensor:
        cells = self.choices(row).transpose(1, 2).unflatten(2, self.shape)
        return F.adaptive_avg_pool2d(cells, self.patches).flatten(2).transpose(1, 2)


class _Choices(nn.Module):
    """The sum of a vector for each choice of a cell, `(B, F)` -> `(B, cells, D)`; all cells share them."""

    low: Tensor
    last: Tensor
    first: Tensor

    def __init__(self, native: ActionSpec, dim: int):
        super().__init__()
        found, self.cells = columns(native), math.prod(_grid(native))
        low, high = (torch.from_numpy(n).long().view(self.cells, -1) for n in (found.low, found.high))
        low, counts = low.amin(0), high.amax(0) - low.amin(0) + 1
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("last", counts - 1, persistent=False)
        self.register_buffer("first", counts.cumsum(0) - counts, persistent=False)
        self.table = nn.Embedding(int(counts.sum()), dim)
        nn.init.normal_(self.table.weight, std=len(counts) ** -0.5)

    def forward(self, row: Tensor) -> Tensor:
        value = row.round().long().unflatten(-1, (self.cells, -1)) - self.low
        return self.table(value.clamp(min=0).minimum(self.last) + self.first).sum(-2)


def _grid(native: ActionSpec) -> tuple[int, int]:
    """Rows and columns of a grid of choices; of anything else one cell."""
    return (native.shape[0], native.shape[1]) if len(native.shape) > 1 else (1, 1)
