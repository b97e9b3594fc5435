"""Flow memory: a map of the world that keeps moving where nobody looks.

What was seen is written into one map for each velocity that things may have; between frames every map slides by its
velocity and against the viewer's own motion. Only the map of the right velocity stays in register with what is seen
again, and the cell that writes can tell; reading takes the maximum over velocities. What left the view thus goes on
moving, at constant memory and constant cost.

Notable choices
- Order: move, then read what is expected there, then write what is seen. A predicted frame is about the place that it
  is written to; the order of the published code (move, write, predict) writes it one motion late.
- A frame that was not seen (level 0) is not written: the maps go on by themselves, and nothing drifts.
- Cells: `gated` (here) writes through a gate that compares memory and frame, and leaves what is out of view untouched;
  `recurrent` is the published one, a circular convolution over whole maps with a ReLU.
- Views are encoded and read with the cells around them, so that nothing is joined across a window's edges.

Ref: FloWM, arXiv 2601.01075, torus world: h'(v) = shift(v - a) relu(W * h(v) + pad(U * f)), f' = g(max_v h'(v));
Keller, arXiv 2507.14793 (velocity channels); the gated cell is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import width
from ..errors import ConfigError
from ..nn.actions import ActionEmbedding
from ..nn.blocks import begin_uneventful
from ..nn.flow_map import Canvas, FlowMap, SelfMotion, look, sliding
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, Narrow
from ..nn.shift import InferredMotion
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics

HALO = 2  # cells around the view that its reading looks at


@dataclass(frozen=True)
class FlowConfig:
    """speed: largest velocity, in cells a frame and axis (0: things rest). features: numbers a cell. width: of the
    networks that encode and read a view. side: of the map in cells; 0 takes the declared extent of the world, or four
    views. cell: the environment's units that a token covers. infer: 0 for motion as the environment declares it, else
    the largest shift, in cells, to look for in the frames. self_motion: whether maps move against the viewer.
    """

    speed: int = 1
    features: int = 24
    width: int = 48
    side: int = 0
    cell: int = 1
    infer: int = 0
    kind: Literal["gated", "recurrent"] = "gated"
    self_motion: bool = True

    def __post_init__(self) -> None:
        if min(self.speed, self.infer) < 0 or self.features < 1 or self.width < 1 or self.side < 0 or self.cell < 1:
            raise ConfigError("speed, infer and side must be at least 0; features, width and cell at least 1.")


@register("dynamics", "flow")
class Flow(Dynamics):
    """A backbone for views that slide over a plane or torus without turning. Tokens must fill a grid.

    Memory a session: `V * side * side * features` numbers, `V = (2 speed + 1)^2`.
    """

    Config = FlowConfig
    differentiable: ClassVar[bool] = False  # places are whole cells
    example: ClassVar = (
        TokenSpec(9, 6, tuple((float(r), float(c)) for r in range(3) for c in range(3))),
        ActionSpec("multi_discrete", nvec=(3, 3), shape=(2,), motion=sliding(1, 5)),
    )

    def __init__(self, config: FlowConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        self.view = grid(tokens)
        self.map = FlowMap(_side(c, self.view, action), self.view, c.speed)
        count = len(self.map.velocity)
        slabs = {
            "map": SlabSpec((count, self.map.side, self.map.side, c.features)),
            "place": SlabSpec((count, 2)),
        }
        self.motion = InferredMotion(action, c.infer, self.view) if c.infer else SelfMotion(action, c.cell)
        if c.infer:  # the last frame and whether there was one
            slabs |= {"last": SlabSpec((*self.view, tokens.channels)), "there": SlabSpec(())}
        self.spec = StateSpec(slabs)
        self.cell = (_Gated if c.kind == "gated" else _Recurrent)(c, tokens.channels)
        self.head = _Head(c, tokens.channels, action)
        self.outcome = nn.Sequential(nn.Linear(c.features, c.width), nn.SiLU(), Narrow(c.width, 2))
        begin_uneventful(self.outcome[2])

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        kept = slabs.scratch.get("seen")  # the same for all denoising steps of a frame
        if not isinstance(kept, tuple) or kept[0] is not action_BW:
            at = self._move(slabs.recurrent["place"].long(), self._expected_motion(action_BW))
            kept = action_BW, self._expect(look(slabs.recurrent["map"], self.map.places(at, HALO)))
            slabs.scratch["seen"] = kept
        return self._unfold(self.head(kept[1], action_BW, self._fold(z_BNZ), noise))

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        frame, r = self._fold(z_BNZ), slabs.recurrent
        motion, there = self._expected_motion(action_BW), {}
        if isinstance(self.motion, InferredMotion):
            seen = (tau_B > 0).to(r["there"])
            found = self.motion.shifts[self.motion.find(r["last"], frame)]
            motion = torch.where((seen * r["there"] > 0)[:, None], found, motion)
            there = {"last": frame, "there": seen}
        at = self._move(r["place"].long(), motion)
        canvas = Canvas(r["map"])
        self.cell(self.map, canvas, at, frame, tau_B)
        outcome = self._outcome(self._expect(canvas.read(self.map.places(at))))
        return slabs.append({}, {"map": canvas.maps, "place": at.to(r["place"].dtype), **there}), outcome

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. Maps follow one another in time; views are read out all at once."""
        slabs = self.init(len(z_BTNZ), z_BTNZ.device, self.head.leave.weight.dtype)
        canvas, at = Canvas(slabs.recurrent["map"]), slabs.recurrent["place"].long()
        frames, seen = self._fold(z_BTNZ), (tau_BT > 0).any(0).tolist()
        guessed = motion = self._expected_motion(action_BTW)
        extra = None
        if isinstance(self.motion, InferredMotion):
            motion, extra = self._found_motion(frames, tau_BT, action_BTW, guessed)
        expected, after = [], []
        for t in range(z_BTNZ.shape[1]):
            if t >= since:
                expected.append(self._expect(canvas.read(self.map.places(self._move(at, guessed[:, t]), HALO))))
            at = self._move(at, motion[:, t])
            if seen[t]:
                self.cell(self.map, canvas, at, frames[:, t], tau_BT[:, t])
            after.append(self._expect(canvas.read(self.map.places(at))))
        views = torch.stack(expected, 1)

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            return self._unfold(self.head(views, action_BTW[:, since:], self._fold(z), noise))

        return replace(self._outcome(torch.stack(after, 1)), extra=extra), predict

    def picture(self, slabs: Slabs) -> Tensor:
        """Draw what would be seen at each place of the map, as far as it is uncommon; the view in the middle."""
        maps, at = slabs.recurrent["map"], slabs.recurrent["place"].long()
        side = self.map.side
        around = self._expect(look(maps, self.map.places(at, HALO, (side, side))))
        none = torch.full((len(at), width(self.action)), torch.nan, device=at.device)
        seen = self.head(around, none, None, None)
        unlike = (seen - seen.flatten(1, 2).median(1).values[:, None, None]).abs().mean(-1)
        middle = [(side - n) // 2 for n in self.view]
        return (unlike.roll(middle, (1, 2)) / unlike.amax((1, 2), keepdim=True).clamp(min=1e-6)).float()

    # shared by both

    def _move(self, at: Tensor, motion: Tensor) -> Tensor:
        return self.map.move(at, motion if self.config.self_motion else torch.zeros_like(motion))

    def _expected_motion(self, action: Tensor) -> Tensor:
        """How the view will move under an action, before its frame is there: int64 `(..., 2)`."""
        if isinstance(self.motion, InferredMotion):
            return self.motion.shifts[self.motion.expect(action).argmax(-1)]
        return self.motion(action)[..., :2]

    def _found_motion(self, frames: Tensor, tau: Tensor, action: Tensor, guessed: Tensor) -> tuple[Tensor, Tensor]:
        """How the view moved to each frame of a clip that was seen next to another, and the loss of expecting it."""
        assert isinstance(self.motion, InferredMotion)
        index = self.motion.find(F.pad(frames[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)), frames)
        both = F.pad((tau[:, 1:] > 0) & (tau[:, :-1] > 0), (1, 0))
        loss = F.cross_entropy(self.motion.expect(action).flatten(0, 1).float(), index.flatten(), reduction="none")
        return torch.where(both[..., None], self.motion.shifts[index], guessed), loss.view(tau.shape) * both

    @staticmethod
    def _expect(views_BVhwF: Tensor) -> Tensor:
        """What is expected of what each velocity's map holds, `(B, h, w, F)`: the strongest wins."""
        return views_BVhwF.amax(1)

    def _outcome(self, views: Tensor) -> Outcome:
        reward, end = self.outcome(views.mean((-2, -3))).unbind(-1)
        return Outcome(reward, end)

    def _fold(self, z: Tensor | None) -> Tensor:
        return z if z is None else z.unflatten(-2, self.view)  # pyright: ignore[reportReturnType]

    @staticmethod
    def _unfold(x: Tensor) -> Tensor:
        return x.flatten(-3, -2)


class _Gated(nn.Module):
    """Compares memory and frame in each cell of the view and writes through a gate; the rest is left alone."""

    def __init__(self, c: FlowConfig, channels: int):
        super().__init__()
        self.encoder = _Encoder(channels, c.width, c.width)
        self.old = nn.Conv2d(c.features, c.width, 3)
        self.new = nn.Conv2d(c.width, c.width, 3, bias=False)
        self.level = LevelEmbedding(c.width)
        self.update = nn.Conv2d(c.width, 2 * c.features, 1)

    def forward(self, flow: FlowMap, canvas: Canvas, at: Tensor, z: Tensor, tau: Tensor) -> None:
        places = flow.places(at, 1)
        around = canvas.read(places)  # (B, V, h + 2, w + 2, F)
        old = self.old(around.flatten(0, 1).movedim(-1, 1)).unflatten(0, places.shape[:2])
        new = self.new(self.encoder(z, flow.side, 1)) + self.level(tau)[..., None, None]
        x = self.update(F.silu(old + new[:, None]).flatten(0, 1)).unflatten(0, places.shape[:2]).movedim(2, -1)
        gate, value = x.chunk(2, -1)
        there = around[:, :, 1:-1, 1:-1]
        gate = gate.sigmoid() * (tau > 0)[:, None, None, None, None]
        canvas.write(places[:, :, 1:-1, 1:-1], there + gate * (value.tanh() - there))


class _Recurrent(nn.Module):
    """The published cell: one circular convolution over all of every map, with the frame added where it was seen."""

    def __init__(self, c: FlowConfig, channels: int):
        super().__init__()
        self.mixer = nn.Conv2d(c.features, c.features, 3, padding=1, padding_mode="circular", bias=False)
        self.encoder = nn.Conv2d(channels, c.features, 3, padding=2, bias=False)
        nn.init.dirac_(self.mixer.weight)

    def forward(self, flow: FlowMap, canvas: Canvas, at: Tensor, z: Tensor, tau: Tensor) -> None:
        maps = canvas.maps
        seen = (tau > 0)[:, None, None, None, None]
        mixed = self.mixer(maps.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).reshape(maps.shape)
        frame = self.encoder(z.movedim(-1, 1)).movedim(1, -1)  # the halo of a view spills into the map
        places = flow.places(at, 1)
        added = torch.zeros_like(mixed).reshape(-1, mixed.shape[-1])
        spread = frame[:, None].expand(*places.shape, -1).reshape(-1, mixed.shape[-1]).to(mixed.dtype)
        added = added.index_add(0, places.flatten(), spread).view(mixed.shape)
        new = F.relu(mixed + added).to(maps.dtype).reshape(canvas.cells.shape)
        canvas.cells = torch.where(seen.expand(*maps.shape[:-1], 1).reshape(-1, 1), new, canvas.cells)


class _Encoder(nn.Module):
    """Two convolutions over a view laid on an empty map, so that its edges end in nothing: `(B, h, w, Z)` -> features
    of the view and `halo` cells around it."""

    def __init__(self, channels: int, width: int, features: int):
        super().__init__()
        self.enter = nn.Conv2d(channels + 1, width, 3)
        self.leave = nn.Conv2d(width, features, 3)

    def forward(self, z: Tensor, side: int, halo: int) -> Tensor:
        marked = F.pad(z, (0, 1), value=1.0).movedim(-1, 1)  # one plane says where the view is
        height, width = z.shape[1:3]
        canvas = F.pad(marked.to(self.enter.weight.dtype), (0, side - width, 0, side - height))
        reach = halo + 2
        rows, columns = (torch.arange(-reach, n + reach, device=z.device) % side for n in (height, width))
        around = canvas[:, :, rows[:, None], columns]
        return self.leave(F.silu(self.enter(around)))


class _Head(nn.Module):
    """From what the maps hold around the view, an action and, when denoising, a noisy frame, to the frame."""

    def __init__(self, c: FlowConfig, channels: int, action: ActionSpec):
        super().__init__()
        self.enter = nn.Conv2d(c.features, c.width, 3)
        self.noisy = nn.Linear(channels, c.width)
        self.blank = nn.Parameter(torch.zeros(c.width))
        self.act = ActionEmbedding(action, c.width)
        self.tau, self.d = LevelEmbedding(c.width), LevelEmbedding(c.width)
        self.middle = nn.Conv2d(c.width, c.width, 3)
        self.leave = nn.Linear(c.width, channels)

    def forward(self, views: Tensor, action: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        lead = views.shape[:-3]
        x = self.enter(views.flatten(0, -4).movedim(-1, 1))
        condition = self.act(action)
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        x = x + condition.flatten(0, -2)[..., None, None]
        x = x.movedim(1, -1).unflatten(0, lead)  # (..., h + 2, w + 2, width)
        given = self.blank if z is None else F.pad(self.noisy(z.to(self.blank.dtype)), (0, 0, 1, 1, 1, 1))
        x = F.silu(x + given).flatten(0, -4).movedim(-1, 1)
        return self.leave(F.silu(self.middle(x)).movedim(1, -1)).unflatten(0, lead)


def grid(tokens: TokenSpec) -> tuple[int, int]:
    """Height and width of the grid that tokens fill, row by row; raises `ConfigError` when they do not."""
    height, width = (int(max(axis)) + 1 for axis in zip(*tokens.places))
    if tokens.places != tuple((float(r), float(c)) for r in range(height) for c in range(width)):
        raise ConfigError(
            "a flow memory needs tokens that fill one grid row by row, as the `patches` tokenizer gives them for a "
            f"single image; these are {tokens.n} tokens from {tokens.places[0]} to {tokens.places[-1]}."
        )
    return height, width


def _side(c: FlowConfig, view: tuple[int, int], action: ActionSpec) -> int:
    extent = action.motion.extent if action.motion else None
    if extent and (extent[0] != extent[1] or extent[0] % c.cell):
        raise ConfigError(f"a world of {extent} is no square of whole cells of {c.cell}; set `side` and `cell`.")
    side = c.side or (extent[0] // c.cell if extent else 4 * max(view))
    if side < max(view):
        raise ConfigError(f"the map's side is {side}; it must be at least the view's, {max(view)}.")
    return side
