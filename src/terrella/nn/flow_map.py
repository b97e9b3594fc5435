"""Maps that move by themselves: one latent map for each velocity that things may have, shifted instead of redrawn.

A *channel* is a map of the world for one hypothesised velocity. Nothing is ever moved in memory: each channel rests in
the frame that moves along with its velocity, and only the place where the view lies in it changes, by the viewer's own
motion minus the velocity. A shift is then exact to the last bit and costs nothing.

Ref: Keller, FERNN, arXiv 2507.14793 and FloWM, arXiv 2601.01075, eqs. of the torus world (velocity channels, inverse
self-motion). Differs: co-moving frames instead of moved maps, which is the same as long as velocities do not mix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..spec import ActionSpec, Motion


def velocity_set(speed: int) -> Tensor:
    """List all velocities of at most `speed` cells a frame in each axis: int64 `(V, 2)`, down and right."""
    axis = torch.arange(-speed, speed + 1)
    return torch.cartesian_prod(axis, axis).reshape(-1, 2)


def sliding(most: int, extent: int | None = None) -> Motion:
    """The motion of a camera that two choices of `2 most + 1` values slide, down and right, by -most to most."""
    steps = range(-most, most + 1)
    tables = tuple((d, 0, 0) for d in steps), tuple((0, d, 0) for d in steps)
    return Motion(tables, "world", None if extent is None else (extent, extent))


class SelfMotion(nn.Module):
    """Reads from action rows how the viewer moves: `(..., W)` -> int64 `(..., 3)`, cells down and right, left turns.

    cell: how many of the environment's units one cell of the map covers. A row of NaN (no action) moves nothing. Raises
    `ConfigError` where the environment declares no motion or one that is no whole number of cells.
    """

    table: Tensor

    def __init__(self, action: ActionSpec, cell: int = 1):
        super().__init__()
        motion = action.motion
        if motion is None:
            raise ConfigError(
                "a flow memory needs to know how actions move the viewer, and this environment does not declare it. "
                "Give it an attribute `motion = terrella.spec.Motion(...)`."
            )
        rows = [row for table in motion.tables for row in table]
        if any(row[0] % cell or row[1] % cell for row in rows):
            raise ConfigError(
                f"motion goes in steps that are no multiple of {cell}, the size of a token; use smaller ones."
            )
        steps = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
        steps[:, :2] //= cell
        counts = torch.tensor([len(table) for table in motion.tables])
        self.register_buffer("table", steps, persistent=False)
        self.register_buffer("first", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("start", torch.tensor(action.start), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Add up what each choice of the rows says."""
        absent = rows[..., :1].isnan()
        choice = rows.nan_to_num(0.0).long() - self.start * ~absent  # pyright: ignore[reportOperatorIssue]
        moved = self.table[choice + self.first].sum(-2)  # pyright: ignore[reportOperatorIssue]
        return torch.where(absent, torch.zeros_like(moved), moved)


class FlowMap(nn.Module):
    """The geometry of maps `(B, V, S, S, F)` and of where the view's first cell lies in each channel, `(B, V, 2)`.

    It keeps no map itself: `move` gives new places, `places` the cells of a view there, for a `Canvas`.
    """

    velocity: Tensor

    def __init__(self, side: int, view: tuple[int, int], speed: int):
        super().__init__()
        self.side, self.view = side, view
        self.register_buffer("velocity", velocity_set(speed), persistent=False)

    def move(self, at_BV2: Tensor, motion_B2: Tensor) -> Tensor:
        """Let a frame pass: the viewer moves by `motion`, the contents of each channel by its velocity."""
        return (at_BV2 + motion_B2[..., None, :] - self.velocity) % self.side

    def places(self, at_BV2: Tensor, halo: int = 0, view: tuple[int, int] | None = None) -> Tensor:
        """Index of each cell of the view and `halo` cells around it, for flattened maps: int64 `(B, V, h, w)`."""
        rows, columns = (torch.arange(-halo, n + halo, device=at_BV2.device) for n in view or self.view)
        r = (at_BV2[..., :1] + rows) % self.side
        c = (at_BV2[..., 1:] + columns) % self.side
        channel = torch.arange(at_BV2[..., 0].numel(), device=at_BV2.device).view(at_BV2.shape[:-1])
        return (channel[..., None, None] * self.side + r[..., :, None]) * self.side + c[..., None, :]

    def aligned(self, maps_BVSSF: Tensor, at_BV2: Tensor) -> Tensor:
        """All channels as the viewer sees them now, the view's first cell at `(0, 0)`."""
        return look(maps_BVSSF, self.places(at_BV2, view=(self.side, self.side)))


def look(maps: Tensor, places: Tensor) -> Tensor:
    """Copy cells out of maps `(..., F)` by their index: `(*places, F)`."""
    return maps.reshape(-1, maps.shape[-1]).index_select(0, places.flatten()).view(*places.shape, -1)


class Canvas:
    """A copy of maps `(..., F)` that is read and written in place, cell by cell.

    In training nothing is copied but the cells concerned, forwards and backwards: one buffer holds the maps of all
    frames of a clip in turn, and one their gradients. Autograd's own indexing copies whole maps several times a frame,
    which took a third of the time of training.
    """

    def __init__(self, maps: Tensor):
        self.shape, self.cells = maps.shape, maps.reshape(-1, maps.shape[-1]).clone()

    @property
    def maps(self) -> Tensor:
        """The maps as they are now."""
        return self.cells.view(self.shape)

    def read(self, places: Tensor) -> Tensor:
        """Copy cells out, `(*places, F)`."""
        if not self.cells.requires_grad:
            return look(self.cells, places)
        self.cells, values = _Read.apply(self.cells, places.flatten())  # pyright: ignore[reportGeneralTypeIssues]
        return values.view(*places.shape, -1)

    def write(self, places: Tensor, values: Tensor) -> None:
        """Put values `(*places, F)` in place of cells, none of which may be named twice."""
        flat = values.reshape(-1, values.shape[-1]).to(self.cells.dtype)
        self.cells = _Write.apply(self.cells, places.flatten(), flat)  # pyright: ignore[reportAttributeAccessIssue]


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        ctx.mark_dirty(cells)  # so that whatever comes later follows this in one chain
        return cells, cells.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, cells: Tensor, values: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        (index,) = ctx.saved_tensors
        return cells.index_add_(0, index, values.to(cells.dtype)), None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, index: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.mark_dirty(cells)
        return cells.index_copy_(0, index, values)

    @staticmethod
    def backward(ctx: Any, cells: Tensor) -> tuple[Tensor, None, Tensor]:  # pyright: ignore
        (index,) = ctx.saved_tensors
        values = cells.index_select(0, index)
        return cells.index_fill_(0, index, 0), None, values
