"""Flow memory in the first person: a map of the ground around, seen through a wedge, moving where nobody looks.

One map for each velocity that things may have lies in the frame of the world, as it stood when the session began; the
viewer is a pose in it. Turning and stepping change the pose alone, exactly. Each frame every map slides by its
velocity and a mixer lets what hits something change its velocity; then the cells in view are read for the prediction,
and written with what was seen.

Notable choices
- The map rests in the frame of the world and the view is read through the turned wedge. The published map is turned and
  shifted around a viewer who stands still; both are the same map, but this one costs nothing to turn, and its velocity
  channels need no permutation.
- An image becomes evidence about cells by cross-attention from the cells of the wedge, once a frame and alike for all
  velocities; a gated cell then compares it with memory. The published writer runs a transformer over image and map.
- The mixer is a small network, not one linear convolution: whether a thing turns round depends on what stands ahead.
- A frame that was not seen (level 0) is not written: the maps go on by themselves.
- Beside the decoder's loss, which is about what comes, some frames are held against what the map shows of them once
  they were written. Finding where the cells are in an image then needs no memory that works already.

Ref: FloWM, arXiv 2601.01075, block world (wedge of the view, gated write, reading the maximum over velocities).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.attention import attend
from ..nn.blocks import begin_uneventful
from ..nn.flow_map import SelfMotion
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, RMSNorm, SwiGLU
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..nn.wedge import bearings, quarter_turns, wedge
from ..registry import register
from ..spec import ActionSpec, Motion
from .base import Dynamics

LOOK = 2  # of so many frames, one is held against what was written of it
# Down and right: at rest, and one cell a frame each way.
VELOCITIES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True)
class FlowWedgeConfig:
    """reach: cells seen ahead, and half the map's side. angle: of the view, in degrees. features: numbers a cell. dim,
    layers, heads: of the networks between images and cells. mixer: width of what changes velocities, 0 for none.
    velocities: whether things may move. self_motion: whether the viewer's pose follows the actions.
    """

    reach: int = 8
    angle: float = 60.0
    features: int = 32
    dim: int = 64
    layers: int = 2
    heads: int = 4
    mixer: int = 32
    velocities: bool = True
    self_motion: bool = True

    def __post_init__(self) -> None:
        if min(self.reach, self.features, self.layers, self.heads) < 1 or self.mixer < 0 or self.dim % self.heads:
            raise ConfigError("reach, features, layers and heads must be at least 1, and dim a multiple of heads.")
        if not 0 < self.angle < 180:
            raise ConfigError(f"angle is {self.angle}; a view is more than 0 and less than 180 degrees wide.")


@register("dynamics", "flow_wedge")
class FlowWedge(Dynamics):
    """A backbone for views from inside a world of which actions turn by quarters and step by cells.

    Memory a session: `(2 reach + 1)^2 5 features` numbers and a pose.
    """

    Config = FlowWedgeConfig
    example: ClassVar = (
        TokenSpec(4, 6, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))),
        ActionSpec("discrete", n=4, motion=Motion((((0, 0, 1), (0, 0, -1), (-1, 0, 0), (0, 0, 0)),), "body")),
    )

    wedge: Tensor
    drift: Tensor

    def __init__(self, config: FlowWedgeConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        if action.motion and action.motion.frame != "body":
            raise ConfigError("this world's view slides without turning; take the backbone `flow` for it.")
        self.side, count = 2 * c.reach + 1, len(VELOCITIES) if c.velocities else 1
        self.spec = StateSpec({"map": SlabSpec((self.side, self.side, count, c.features)), "pose": SlabSpec((3,))})
        self.motion = SelfMotion(action)
        self.register_buffer("wedge", wedge(c.reach, c.angle), persistent=False)
        self.register_buffer("drift", _drift(self.side, count), persistent=False)
        self.mixer = _Mixer(c, count) if c.mixer else None
        self.writer = _Writer(c, tokens)
        self.cell = _Cell(c)
        self.reader = _Reader(c, tokens, action)
        self.outcome = nn.Sequential(nn.Linear(c.features, c.dim), nn.SiLU(), nn.Linear(c.dim, 2))
        begin_uneventful(self.outcome[2])

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        view = self._moved(slabs, action_BW)[3]
        return self.reader(view.amax(-2), action_BW, z_BNZ, noise)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        maps, pose, places, view = self._moved(slabs, action_BW)
        maps, view = self._write(maps, places, view, self.writer(z_BNZ, tau_B), tau_B)
        return slabs.append({}, {"map": maps, "pose": pose.to(maps.dtype)}), self._outcome(view.amax(-2))

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. Images and predictions are read all at once; maps follow one another in time."""
        slabs = self.init(len(z_BTNZ), z_BTNZ.device, self.reader.place.dtype)
        maps, pose = slabs.recurrent["map"], slabs.recurrent["pose"].long()
        seen = (tau_BT > 0).any(0).tolist()
        shown = len(seen) - seen[::-1].index(True) if True in seen else 0  # frames up to the last one seen
        evidence = self.writer(z_BTNZ[:, :shown], tau_BT[:, :shown])
        expected, after = [], []
        for t in range(z_BTNZ.shape[1]):
            maps, pose = self._flow(maps), self._step(pose, action_BTW[:, t])
            places = self._places(pose)
            view = self._read(maps, places)
            if t >= since:
                expected.append(view.amax(-2))
            if seen[t]:
                maps, view = self._write(maps, places, view, evidence[:, t], tau_BT[:, t])
            after.append(view.amax(-2))
        views, held = torch.stack(expected, 1), torch.stack(after, 1)

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            return self.reader(views, action_BTW[:, since:], z, noise)

        return replace(self._outcome(held), extra=self._unlike(held, z_BTNZ, action_BTW, tau_BT, shown)), predict

    def picture(self, slabs: Slabs) -> Tensor:
        """Draw how much each cell of the map holds beyond what all cells hold, as the viewer faces: ahead is up."""
        maps = self.egocentric(slabs.recurrent["map"], slabs.recurrent["pose"].long()).amax(-2)
        held = (maps - maps.flatten(1, 2).median(1).values[:, None, None]).abs().mean(-1)
        return (held / held.amax((1, 2), keepdim=True).clamp(min=1e-6)).float()

    def egocentric(self, maps_BSSVF: Tensor, pose_B3: Tensor) -> Tensor:
        """The maps as a viewer in the middle has them who faces up; channels keep the velocities of the world."""
        axis = torch.arange(-self.config.reach, self.config.reach + 1, device=maps_BSSVF.device)
        return self._read(maps_BSSVF, self._places(pose_B3, torch.cartesian_prod(axis, axis))).view(maps_BSSVF.shape)

    # shared by both

    def _moved(self, slabs: Slabs, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kept = slabs.scratch.get("moved")  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action:
            maps, pose = self._flow(slabs.recurrent["map"]), self._step(slabs.recurrent["pose"].long(), action)
            places = self._places(pose)
            kept = action, maps, pose, places, self._read(maps, places)
            slabs.scratch["moved"] = kept
        return kept[1:]  # pyright: ignore[reportReturnType]

    def _flow(self, maps: Tensor) -> Tensor:
        """Let a frame pass in all maps: slide each by its velocity, then mix."""
        flat = maps.flatten(1, 3).index_select(1, self.drift).view(maps.shape)
        return flat if self.mixer is None else self.mixer(flat)

    def _step(self, pose: Tensor, action: Tensor) -> Tensor:
        """Move a pose (down, right, left turns) `(B, 3)`: step the way it faces, then turn."""
        if not self.config.self_motion:
            return pose
        motion = self.motion(action)
        place = (pose[:, :2] + quarter_turns(motion[:, :2], pose[:, 2])) % self.side
        return torch.cat([place, (pose[:, 2:] + motion[:, 2:]) % 4], -1)

    def _places(self, pose: Tensor, cells: Tensor | None = None) -> Tensor:
        """Index into flattened maps of the cells of the wedge, as seen from a pose: int64 `(B, K)`."""
        ahead = self.wedge if cells is None else cells
        turned = quarter_turns(ahead[None].expand(len(pose), -1, -1), pose[:, None, 2].expand(-1, len(ahead)))
        at = (turned + pose[:, None, :2] + self.config.reach) % self.side
        return at[..., 0] * self.side + at[..., 1]

    def _read(self, maps: Tensor, places: Tensor) -> Tensor:
        """Cut out `(B, K, V, F)`."""
        flat = maps.flatten(3, 4).flatten(1, 2)
        return flat.gather(1, places[..., None].expand(-1, -1, flat.shape[-1])).unflatten(-1, maps.shape[-2:])

    def _write(
        self, maps: Tensor, places: Tensor, view: Tensor, evidence: Tensor, tau: Tensor
    ) -> tuple[Tensor, Tensor]:
        written = self.cell(view, evidence[:, :, None], (tau > 0)[:, None, None, None]).to(maps.dtype)
        flat = maps.flatten(3, 4).flatten(1, 2)
        index = places[..., None].expand(-1, -1, flat.shape[-1])
        return flat.scatter(1, index, written.flatten(2)).view(maps.shape), written

    def _unlike(self, held: Tensor, z: Tensor, action: Tensor, tau: Tensor, shown: int) -> Tensor:
        """How unlike a frame is what the map shows once it was written, `(B, T)`; only some frames are looked at."""
        some = slice(LOOK // 2, shown, LOOK)
        drawn = self.reader(held[:, some], action[:, some], None, None)
        error = (tau[:, some, None, None] * drawn.float() - z[:, some].float()).square().mean((-1, -2))
        unlike = torch.zeros(tau.shape, device=tau.device)
        unlike[:, some] = torch.where(tau[:, some] > 0, LOOK * error, 0.0)
        return unlike

    def _outcome(self, views: Tensor) -> Outcome:
        reward, end = self.outcome(views.mean(-2)).unbind(-1)
        return Outcome(reward, end)


def _drift(side: int, count: int) -> Tensor:
    """From where each cell of flattened maps `(S S V)` takes its contents when a frame passes."""
    whole = torch.arange(count * side * side).view(side, side, count)
    return torch.stack([whole[..., i].roll(v, (0, 1)) for i, v in enumerate(VELOCITIES[:count])], -1).flatten()


class _Mixer(nn.Module):
    """Lets what moves change its velocity, by what lies around it in all maps: `(B, S, S, V, F)`, kept bounded."""

    def __init__(self, c: FlowWedgeConfig, count: int):
        super().__init__()
        wide = count * c.features
        self.enter = nn.Linear(wide, c.mixer)
        self.around = nn.Conv2d(c.mixer, c.mixer, 3, padding=1, padding_mode="circular")
        self.leave = nn.Linear(c.mixer, 2 * wide)
        nn.init.zeros_(self.leave.weight)
        nn.init.constant_(self.leave.bias, 0.0)
        self.leave.bias.data[:wide] = -4.5  # gates begin closed: things go on as they are, for a hundred frames

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.flatten(3)
        near = self.around(self.enter(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        gate, value = self.leave(F.silu(near)).chunk(2, -1)
        return torch.lerp(x, value.tanh().to(x.dtype), gate.sigmoid().to(x.dtype)).view(maps.shape)


class _Cell(nn.Module):
    """Compares memory and evidence in each cell and velocity, and writes through a gate."""

    def __init__(self, c: FlowWedgeConfig):
        super().__init__()
        self.old = nn.Linear(c.features, 2 * c.features)
        self.new = nn.Linear(c.dim, 2 * c.features, bias=False)
        self.update = nn.Linear(2 * c.features, 2 * c.features)

    def forward(self, view: Tensor, evidence: Tensor, seen: Tensor) -> Tensor:
        gate, value = self.update(F.silu(self.old(view) + self.new(evidence))).chunk(2, -1)
        return view + gate.sigmoid() * seen * (value.tanh() - view)


class _Attend(nn.Module):
    """Attention of tokens to others, or to themselves, then a feed-forward layer; both from normalised inputs."""

    def __init__(self, c: FlowWedgeConfig):
        super().__init__()
        self.heads = c.heads
        self.norm_q, self.norm_kv, self.norm = RMSNorm(c.dim), RMSNorm(c.dim), RMSNorm(c.dim)
        self.q, self.kv = nn.Linear(c.dim, c.dim, bias=False), nn.Linear(c.dim, 2 * c.dim, bias=False)
        self.kv.weight.data[: c.dim] = self.q.weight.data  # begins by looking at what lies in the same direction
        self.out, self.mlp = nn.Linear(c.dim, c.dim, bias=False), SwiGLU(c.dim, 2 * c.dim)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        q = self.q(self.norm_q(x)).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        k, v = self.kv(self.norm_kv(others)).unflatten(-1, (2, self.heads, -1)).transpose(-4, -2).unbind(-3)
        x = x + self.out(attend(q, k, v).transpose(-3, -2).flatten(-2))
        return x + self.mlp(self.norm(x))


class _Writer(nn.Module):
    """What an image says about each cell of the wedge: `(..., N, Z)`, levels `(...)` -> `(..., K, D)`."""

    def __init__(self, c: FlowWedgeConfig, tokens: TokenSpec):
        super().__init__()
        self.enter = nn.Linear(tokens.channels, c.dim)
        self.place, self.cells = map(nn.Parameter, bearings(tokens, c.reach, c.angle, c.dim))
        self.level = LevelEmbedding(c.dim)
        self.blocks = nn.ModuleList(_Attend(c) for _ in range(c.layers))

    def forward(self, z: Tensor, tau: Tensor) -> Tensor:
        image = self.enter(z.to(self.place.dtype)) + self.place
        x = self.cells + self.level(tau)[..., None, :]
        for block in self.blocks:
            x = block(x, image)
        return x


class _Reader(nn.Module):
    """What an image will show of the cells in view, `(..., K, F)` -> `(..., N, Z)`."""

    def __init__(self, c: FlowWedgeConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__()
        self.enter = nn.Linear(c.features, c.dim)
        self.place, self.cells = map(nn.Parameter, bearings(tokens, c.reach, c.angle, c.dim))
        self.noisy = nn.Linear(tokens.channels, c.dim)
        self.act = ActionEmbedding(action, c.dim)
        self.tau, self.d = LevelEmbedding(c.dim), LevelEmbedding(c.dim)
        self.blocks = nn.ModuleList(_Attend(c) for _ in range(c.layers))
        self.leave = nn.Sequential(RMSNorm(c.dim), nn.Linear(c.dim, tokens.channels))

    def forward(self, view: Tensor, action: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        cells = self.enter(view) + self.cells
        condition = self.act(action)
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        x = self.place + condition[..., None, :]
        if z is not None:
            x = x + self.noisy(z.to(x.dtype))
        for block in self.blocks:
            x = block(x, torch.cat([cells, x], -2))  # cells, and the rest of the image
        return self.leave(x)
