"""Flow memory in the first person: a map of the ground around, seen through a wedge, moving where nobody looks.

One map for each velocity that things may have lies in the frame of the world, as it stood when the session began; the
viewer is a pose in it. Turning and stepping change the pose alone, exactly. Each frame every map slides by its
velocity, and what runs into something changes its velocity; then the cells in view are read for the prediction, and
weighed by what was seen.

Notable choices
- The map rests in the frame of the world and the view is read through the turned wedge. The published map is turned and
  shifted around a viewer who stands still; both are the same map, but this one costs nothing to turn, and its velocity
  channels need no permutation.
- An image becomes evidence about cells, and cells an image, along the rays of a level camera (`nn/perspective.py`). The
  published writer and reader are transformers over image and map, which have to find the rays.
- The maps are a histogram filter: how much of each feature is in a cell, by velocity. Seeing shares a feature out among
  the velocities that expected it (Bayes' rule), moving and turning pass it on (rows that add up to 1), and a cell shows
  the sum. The published gate, and the maximum over velocities, first have to learn that there is such a rule; five
  minutes on one core were not enough for that.
- A frame that was not seen (level 0) is not written: the maps go on by themselves.
- Nothing rewards drawing again what was just seen. It would teach the image's features fast, and to keep them anywhere
  along their ray: without a place on the ground, they do not move with it.

Ref: FloWM, arXiv 2601.01075, block world (wedge of the view, velocity channels, write what is seen); Thrun,
Burgard & Fox, Probabilistic Robotics, 2005, section 4.1 (histogram filter).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.blocks import begin_uneventful
from ..nn.flow_map import SelfMotion
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import Narrow
from ..nn.perspective import Lift, Render
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..nn.wedge import quarter_turns, wedge
from ..registry import register
from ..spec import ActionSpec, Motion
from .base import Dynamics

# Down and right: at rest, and one cell a frame each way.
VELOCITIES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
# Which velocity each of the four moving ones becomes by going on, turning round, left, right, and staying.
TURNED = ((1, 2, 3, 4, 0), (2, 1, 4, 3, 0), (3, 4, 2, 1, 0), (4, 3, 1, 2, 0))
ON = 4.0  # logit of going on, before anything is learned
# Yes and no are learned faster with steep logits: at ten times the rate all the rest would be shaken.
SHARP_EVIDENCE, SHARP_TURN = 8.0, 4.0


@dataclass(frozen=True)
class FlowWedgeConfig:
    """reach: cells seen ahead. side: of the map, which wraps: 0 for `2 reach + 1`; a room and its walls are enough
    where they hold the view. angle: of the view, in degrees. features: numbers a cell. dim: width of the networks
    between images and cells. turns: width of what changes velocities, 0 for none. crisp: how much more surely than in
    training that is decided when stepping. velocities: whether things may move. self_motion: whether the viewer's pose
    follows the actions.
    """

    reach: int = 8
    side: int = 0
    angle: float = 60.0
    features: int = 16
    dim: int = 64
    turns: int = 16
    crisp: float = 1.5
    velocities: bool = True
    self_motion: bool = True

    def __post_init__(self) -> None:
        if not self.crisp > 0:
            raise ConfigError(f"crisp is {self.crisp}; it must be more than 0, and 1 is as in training.")
        if min(self.reach, self.features, self.dim) < 1 or min(self.side, self.turns) < 0:
            raise ConfigError("reach, features and dim must be at least 1, side and turns at least 0.")
        if not 0 < self.angle < 180:
            raise ConfigError(f"angle is {self.angle}; a view is more than 0 and less than 180 degrees wide.")


@register("dynamics", "flow_wedge")
class FlowWedge(Dynamics):
    """A backbone for views from inside a world of which actions turn by quarters and step by cells.

    Memory a session: `side^2 5 features` numbers and a pose.
    """

    Config = FlowWedgeConfig
    differentiable: ClassVar[bool] = False  # places are whole cells
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
        self.side, count = c.side or 2 * c.reach + 1, len(VELOCITIES) if c.velocities else 1
        self.spec = StateSpec({"map": SlabSpec((self.side, self.side, count, c.features)), "pose": SlabSpec((3,))})
        self.motion = SelfMotion(action)
        self.register_buffer("wedge", wedge(c.reach, c.angle), persistent=False)
        if len((self.wedge % self.side).unique(dim=0)) < len(self.wedge):
            raise ConfigError(f"a map of side {self.side} holds no view of reach {c.reach}; give it a larger `side`.")
        self.register_buffer("drift", _drift(self.side, count), persistent=False)
        self.turns = _Turns(c, self.side) if c.turns and c.velocities else None
        self.writer = Lift(tokens, c.reach, c.angle, c.dim)
        self.filter = _Filter(c, count)
        self.reader = Render(tokens, action, c.reach, c.angle, c.features, c.dim)
        self.outcome = nn.Sequential(nn.Linear(c.features, c.dim), nn.SiLU(), Narrow(c.dim, 2))
        begin_uneventful(self.outcome[2])

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        view = self._moved(slabs, action_BW)[3]
        return self.reader(view.sum(-2), action_BW, z_BNZ, noise)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        maps, pose, places, view = self._moved(slabs, action_BW)
        maps, view = self._write(maps, places, view, self.writer(z_BNZ, tau_B), tau_B)
        return slabs.append({}, {"map": maps, "pose": pose.to(maps.dtype)}), self._outcome(view.sum(-2))

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. Images and predictions are read all at once; maps follow one another in time."""
        slabs = self.init(len(z_BTNZ), z_BTNZ.device, self.reader.rows.dtype)
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
                expected.append(view.sum(-2))
            if seen[t]:
                maps, view = self._write(maps, places, view, evidence[:, t], tau_BT[:, t])
            after.append(view.sum(-2))
        views, held = torch.stack(expected, 1), torch.stack(after, 1)

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            return self.reader(views, action_BTW[:, since:], z, noise)

        return self._outcome(held), predict

    def picture(self, slabs: Slabs) -> Tensor:
        """Draw how much each cell of the map holds beyond what all cells hold, as the viewer faces: ahead is up."""
        maps = self.egocentric(slabs.recurrent["map"], slabs.recurrent["pose"].long()).sum(-2)
        held = (maps - maps.flatten(1, 2).median(1).values[:, None, None]).abs().mean(-1)
        return (held / held.amax((1, 2), keepdim=True).clamp(min=1e-6)).float()

    def egocentric(self, maps_BSSVF: Tensor, pose_B3: Tensor) -> Tensor:
        """The maps as a viewer in the middle has them who faces up; channels keep the velocities of the world."""
        axis = torch.arange(self.side, device=maps_BSSVF.device) - self.side // 2
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
        """Let a frame pass in all maps: slide each by its velocity, then turn what stands before something."""
        flat = maps.flatten(1, 3).index_select(1, self.drift).view(maps.shape)
        return flat if self.turns is None else self.turns(flat)

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
        written = self.filter(view, evidence, (tau > 0)[:, None, None, None])
        flat = maps.flatten(3, 4).flatten(1, 2)
        index = places[..., None].expand(-1, -1, flat.shape[-1])
        return flat.scatter(1, index, written.flatten(2)).view(maps.shape), written

    def _outcome(self, views: Tensor) -> Outcome:
        reward, end = self.outcome(views.mean(-2)).unbind(-1)
        return Outcome(reward, end)


def _drift(side: int, count: int) -> Tensor:
    """From where each cell of flattened maps `(S S V)` takes its contents when a frame passes."""
    whole = torch.arange(count * side * side).view(side, side, count)
    return torch.stack([whole[..., i].roll(v, (0, 1)) for i, v in enumerate(VELOCITIES[:count])], -1).flatten()


class _Turns(nn.Module):
    """Lets what moves change its velocity by what stands ahead: each velocity's contents are dealt out to the five.

    Weights, alike for all four directions, are those of going on, turning round, left, right and staying; they add up
    to 1, so nothing is lost or made. What rests stays. Out of training their logits are `crisp` times as large: what
    turns a hundred times unseen with a doubt each time is everywhere in the end.
    """

    source: Tensor
    share: Tensor

    def __init__(self, c: FlowWedgeConfig, side: int):
        super().__init__()
        self.crisp = c.crisp
        leave = nn.Linear(c.turns, 5)
        nn.init.zeros_(leave.weight)
        leave.bias.data.copy_(torch.eye(5)[0] * ON / SHARP_TURN)
        self.blocks = nn.ModuleList([nn.Linear(c.features, c.turns), nn.Linear(2 * c.features, c.turns), leave])
        # The weight with which what has velocity v (of 4) gets velocity u (of 5).
        share = torch.empty(len(TURNED), 5, dtype=torch.int64)
        for v, turned in enumerate(TURNED):
            share[v, list(turned)] = 5 * v + torch.arange(5)
        self.register_buffer("share", share, persistent=False)
        cells = torch.arange(side * side).view(side, side)
        ahead = [cells.roll((-down, -right), (0, 1)) for down, right in VELOCITIES[1:]]
        self.register_buffer("source", torch.stack(ahead, -1).flatten(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        own, ahead, leave = self.blocks
        resting, moving = maps[..., :1, :], maps[..., 1:, :]
        around = ahead(torch.cat([resting.squeeze(-2), moving.sum(-2)], -1)).flatten(1, 2)
        stands = around.index_select(1, self.source).view(*moving.shape[:-1], -1)
        sharp = SHARP_TURN if self.training else SHARP_TURN * self.crisp
        weights = (sharp * leave(F.silu(own(moving) + stands)).to(maps.dtype)).softmax(-1)
        dealt = weights.flatten(-2)[..., self.share].transpose(-1, -2) @ moving  # (5, 4) @ (4, F)
        return torch.cat([resting + dealt[..., :1, :], dealt[..., 1:, :]], -2)


class _Filter(nn.Module):
    """Weighs the velocities of what is seen in a cell by where each said it would be: Bayes' rule, for each feature.

    The evidence says how much of a feature is there; what each velocity expected, and a little more for what nobody
    did, says how it is shared out. A cell that cannot be seen, hidden by another, keeps what it held.
    """

    kind: Tensor

    def __init__(self, c: FlowWedgeConfig, count: int):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(c.dim, c.features)])
        self.clear = Narrow(c.dim, 1)
        nn.init.zeros_(self.clear.weight)
        nn.init.constant_(self.clear.bias, 3.0)
        self.surprise = nn.Parameter(torch.full((2, c.features), -3.0))  # of what rests, of what moves
        self.register_buffer("kind", torch.arange(count).clamp(max=1), persistent=False)

    def forward(self, view: Tensor, evidence: Tensor, seen: Tensor) -> Tensor:
        there = (SHARP_EVIDENCE * self.blocks[0](evidence).to(view.dtype)).sigmoid()[..., None, :]
        expected = view + self.surprise.exp()[self.kind]
        weighed = there * expected / expected.sum(-2, keepdim=True)
        clear = seen * self.clear(evidence).sigmoid().to(view.dtype)[..., None]
        return torch.lerp(view, weighed, clear)
