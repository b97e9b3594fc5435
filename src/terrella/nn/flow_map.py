"""Maps that move by themselves: one latent map for each velocity that things may have, shifted instead of redrawn.

A *channel* is a map of the world for one hypothesised velocity. Nothing is ever moved in memory: each channel rests in
the frame that moves along with its velocity, and only the place where the view lies in it changes, by the viewer's own
motion minus the velocity. A shift is then exact to the last bit and costs nothing.

Ref: Keller, FERNN, arXiv 2507.14793 and FloWM, arXiv 2601.01075, eqs. of the torus world (velocity channels, inverse
self-motion). Differs: co-moving frames instead of moved maps, which is the same as long as velocities do not mix.
"""

from __future__ import annotations

import math

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

    It keeps no map itself: `move` gives new places, `read` cuts a view out, `write` puts one in.
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

    def read(self, maps_BVSSF: Tensor, places_BVhw: Tensor) -> Tensor:
        """Cut out `(B, V, h, w, F)`."""
        flat = maps_BVSSF.reshape(-1, maps_BVSSF.shape[-1])
        return flat.index_select(0, places_BVhw.flatten()).view(*places_BVhw.shape, -1)

    def write(self, maps_BVSSF: Tensor, places_BVhw: Tensor, values_BVhwF: Tensor) -> Tensor:
        """Put values in; returns new maps."""
        features = maps_BVSSF.shape[-1]
        flat = maps_BVSSF.reshape(-1, features)
        values = values_BVhwF.reshape(-1, features).to(flat.dtype)
        return flat.index_copy(0, places_BVhw.flatten(), values).view(maps_BVSSF.shape)

    def aligned(self, maps_BVSSF: Tensor, at_BV2: Tensor) -> Tensor:
        """All channels as the viewer sees them now, the view's first cell at `(0, 0)`."""
        return self.read(maps_BVSSF, self.places(at_BV2, view=(self.side, self.side)))


def quarter_turns(cells: Tensor, left: Tensor) -> Tensor:
    """Turn steps `(..., 2)` (down, right) by `left` `(...)` quarters to the left, so that up becomes left."""
    r, c = cells.unbind(-1)
    turned = torch.stack(
        [torch.stack([r, c], -1), torch.stack([-c, r], -1), torch.stack([-r, -c], -1), torch.stack([c, -r], -1)], -2
    )
    index = (left % 4)[..., None, None].expand(*turned.shape[:-2], 1, 2)
    return turned.gather(-2, index).squeeze(-2)


def wedge(reach: int, angle: float, samples: int = 5) -> Tensor:
    """List the cells that a viewer at (0, 0) who faces up sees within `angle` degrees: int64 `(K, 2)`, down and right.

    A cell counts if any of `samples x samples` points inside it lies in the wedge; `reach` bounds rows and columns.
    """
    axis = torch.arange(-reach, reach + 1)
    cells = torch.cartesian_prod(axis, axis)
    inner = (torch.arange(samples) + 0.5) / samples - 0.5
    points = cells[:, None].double() + torch.cartesian_prod(inner, inner).double()
    ahead, side = -points[..., 0], points[..., 1].abs()
    inside = (ahead > 0) & (torch.atan2(side, ahead) <= math.radians(angle / 2))
    return cells[inside.any(1)]
