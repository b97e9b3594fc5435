"""A track: frames pass through layers that remember the whole past, at constant size, by a selective scan over time.

Each layer lets the tokens of a frame see one another, reads the memory kept at each token's place, and feeds forward.
Two streams share all weights. The *commit* stream carries finished frames and writes what they leave to the memory; the
*read* stream carries what is asked for, a noisy frame or none under an action, and reads what was there before it.

Memory of one layer at one place, for each head, with f in (0, 1) its forget gate:

    S_t = f_t S_{t-1} + (1 - f_t) k_t v_t^T      m_t = f_t m_{t-1} + (1 - f_t)      y_t = S_{t-1}^T q_t / m_{t-1}

Notable choices
- What is read is a weighted average over the frames so far, with weights that add up to 1: it neither grows with the
  age of a session nor starts small for slow gates, so that clips teach what holds for hours.
- Writing and forgetting are tied, as when a step size is held over a frame: Theorem 1 of Mamba, for a matrix state.
- Gates begin with time constants from one frame to `SLOWEST`, one a head.
- No convolution over time: a token also sees the previous latent at its place.

Ref: Gu & Dao, Mamba, arXiv 2312.00752, section 3.5 (gates from step sizes); Dao & Gu, Mamba-2, arXiv 2405.21060,
section 7 (heads of scalar decay share queries and keys; an output gate). Differs as said above, and reads come before
writes: a frame's own part reaches the output through the residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import ActionSpec
from .actions import ActionEmbedding
from .blocks import FrameBlock, Modulation, place_turns
from .latents import Noise, Predict, TokenSpec
from .layers import LevelEmbedding, RMSNorm
from .scan import Scan, advance, read
from .slabs import SlabSpec

SLOWEST = 256.0  # frames: the longest time constant that gates begin with
LIGHTEST = 1e-6  # weight below which a memory counts as empty


class Track(nn.Module):
    """Layers with a selective scan over time at each token's place.

    slabs: what a session keeps, by name. `states` are `(layers, N, scan_heads, R, P)`, with keys of `R = state` numbers
    and values of `P = dim / scan_heads`; `mass` is their weight; `previous` and `level` are the last frame's.
    """

    turn: Tensor

    def __init__(
        self,
        tokens: TokenSpec,
        action: ActionSpec,
        *,
        dim: int,
        layers: int,
        heads: int,
        mlp: float,
        scan_heads: int,
        state: int,
    ):
        super().__init__()
        self.slabs = {
            "states": SlabSpec((layers, tokens.n, scan_heads, state, dim // scan_heads)),
            "mass": SlabSpec((layers, tokens.n, scan_heads)),
            "previous": SlabSpec((tokens.n, tokens.channels)),
            "level": SlabSpec(()),
        }
        self.enter = nn.Linear(2 * tokens.channels, dim)
        self.place = nn.Parameter(torch.randn(tokens.n, dim) * 0.02)
        self.blank = nn.Parameter(torch.randn(tokens.n, tokens.channels) * 0.02)  # stands for z when there is none
        self.act = ActionEmbedding(action, dim)
        self.tau, self.d, self.level = LevelEmbedding(dim), LevelEmbedding(dim), LevelEmbedding(dim)
        self.stream = nn.Parameter(torch.randn(2, dim) * 0.02)  # read, commit
        self.modulation = Modulation(dim)
        self.blocks = nn.ModuleList(_Block(dim, heads, mlp, scan_heads, state) for _ in range(layers))
        self.register_buffer("turn", place_turns(tokens, dim // heads), persistent=False)

    def read(
        self, kept: Mapping[str, Tensor], action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Ask the memory about the next frame under an action: `(B, N, D)`. kept: the slabs."""
        x, mods = self._enter(z_BNZ, kept["previous"], self._condition(action_BW, kept["level"]), noise, stream=0)
        for block, *past in zip(self._layers(), kept["states"].unbind(1), kept["mass"].unbind(1)):
            x = block(x, mods, self.turn, _Moment(*past))
        return x

    def commit(
        self, kept: Mapping[str, Tensor], action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor, through: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Pass one finished frame: its tokens `(B, N, D)`, and the next slabs.

        through: whether the tokens are wanted; if not, the last layer does no more than write.
        """
        condition = self._condition(action_BW, kept["level"])
        x, mods = self._enter(z_BNZ, kept["previous"], condition, Noise(tau_B, torch.zeros_like(tau_B)), stream=1)
        after: list[_Moment] = []
        for block, *past in zip(self._layers(), kept["states"].unbind(1), kept["mass"].unbind(1)):
            moment = _Moment(*past)
            x, own, written = block.write(x, mods, self.turn)
            after.append(moment.after(*written))
            if through or len(after) < len(self.blocks):
                x = block.finish(x, own, moment)
        states, mass = (torch.stack(v, 1) for v in zip(*after))
        return x, {"states": states, "mass": mass, "previous": z_BNZ, "level": tau_B}

    def clip(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, through: bool = True) -> tuple[Tensor, Predict]:
        """Pass whole clips: their tokens `(B, T, N, D)`, and a function that does as `read` for every frame.

        through: as in `commit`.
        """
        previous = F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0))
        condition = self._condition(action_BTW, F.pad(tau_BT[:, :-1], (1, 0)))
        x, mods = self._enter(z_BTNZ, previous, condition, Noise(tau_BT, torch.zeros_like(tau_BT)), stream=1)
        pasts: list[_Clip] = []
        for block in self._layers():
            x, own, written = block.write(x, mods, self.turn)
            pasts.append(_Clip(*written))
            if through or len(pasts) < len(self.blocks):
                x = block.finish(x, own, pasts[-1])

        def ask(z: Tensor | None, noise: Noise | None) -> Tensor:
            x, mods = self._enter(z, previous, condition, noise, stream=0)
            for block, past in zip(self._layers(), pasts):
                x = block(x, mods, self.turn, past)
            return x

        return x, ask

    def _layers(self) -> list[_Block]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]

    def _condition(self, action: Tensor, level: Tensor) -> Tensor:
        return self.act(action) + self.level(level)

    def _enter(
        self, z: Tensor | None, previous: Tensor, condition: Tensor, noise: Noise | None, stream: int
    ) -> tuple[Tensor, Tensor]:
        dtype = self.place.dtype
        z = self.blank.expand_as(previous) if z is None else z
        x = self.enter(torch.cat([z.to(dtype), previous.to(dtype)], -1))
        condition = condition + self.stream[stream]
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        return x + self.place.to(x.dtype), self.modulation(condition, x.dtype)


class _Block(FrameBlock):
    """Attention over the frame's tokens, then the memory at each token's place, then the feed-forward layer."""

    def __init__(self, dim: int, heads: int, mlp: float, scan_heads: int, state: int):
        super().__init__(dim, heads, mlp)
        self.memory = _Memory(dim, scan_heads, state)

    def forward(self, x: Tensor, mods: Tensor, turn: Tensor, past: _Moment | _Clip) -> Tensor:
        own = self.modulation(x, mods)
        return self.finish(self.attend(x, own, turn), own, past)

    def write(self, x: Tensor, mods: Tensor, turn: Tensor) -> tuple[Tensor, tuple[Tensor, ...], _Written]:
        """Begin as `forward` does, and compute what is written to the memory; `finish` goes on."""
        own = self.modulation(x, mods)
        x = self.attend(x, own, turn)
        return x, own, self.memory.write(x)

    def finish(self, x: Tensor, own: tuple[Tensor, ...], past: _Moment | _Clip) -> Tensor:
        """Read the memory and feed forward."""
        return self.feed(x + self.memory.read(x, past), own)


class _Written(NamedTuple):
    """Keys `(..., N, 1, R)`, values `(..., N, heads, P)` and log decays `(..., N, heads)`."""

    k: Tensor
    v: Tensor
    log_decay: Tensor


class _Memory(nn.Module):
    """What a layer reads from and writes to the memory at tokens `(..., N, D)`; heads share queries and keys."""

    def __init__(self, dim: int, heads: int, state: int):
        super().__init__()
        self.heads, self.split = heads, (state, dim)
        self.norm, self.qn, self.kn = RMSNorm(dim), RMSNorm(state), RMSNorm(state)
        self.ask = nn.Linear(dim, state + dim, bias=False)  # query, output gate
        self.tell = nn.Linear(dim, state + dim, bias=False)  # key, value
        self.step = nn.Linear(dim, heads, bias=False)
        self.leave = nn.Linear(dim, dim, bias=False)
        slow = torch.logspace(0, 1, heads, base=SLOWEST)  # frames
        self.pace = nn.Parameter(torch.log(torch.expm1(1 / slow)))  # softplus of it is 1 / slow

    def read(self, x: Tensor, past: _Moment | _Clip) -> Tensor:
        q, gate = self.ask(self.norm(x)).split(self.split, -1)
        y = past.read(self.qn(q)[..., None, :] * q.shape[-1] ** -0.5)
        return self.leave(y.to(gate.dtype).flatten(-2) * F.silu(gate))

    def write(self, x: Tensor) -> _Written:
        h = self.norm(x)
        k, v = self.tell(h).split(self.split, -1)
        step = self.step(h)
        # Slow gates are close to 1: what they are is decided in float32. (`softplus` says the same as `logsigmoid`, but
        # on a CPU its last bits depend on where in a batch a number stands.)
        log_decay = F.logsigmoid(-step.to(torch.promote_types(step.dtype, torch.float32)) - self.pace)
        v = v.unflatten(-1, (self.heads, -1)) * -torch.expm1(log_decay)[..., None]
        return _Written(self.kn(k)[..., None, :], v, log_decay)


class _Moment(NamedTuple):
    """One layer's memory between two frames: states `(B, N, heads, R, P)` and their weight `(B, N, heads)`."""

    states: Tensor
    mass: Tensor

    def read(self, q: Tensor) -> Tensor:
        y = read(self.states, q)
        return y / self.mass.to(y.dtype).clamp(min=LIGHTEST)[..., None]

    def after(self, k: Tensor, v: Tensor, log_decay: Tensor) -> _Moment:
        mass = self.mass * log_decay.exp() - torch.expm1(log_decay)
        return _Moment(advance(self.states, k, v, log_decay).to(self.states.dtype), mass.to(self.mass.dtype))


class _Clip:
    """One layer's memory before each frame of a clip."""

    def __init__(self, k: Tensor, v: Tensor, log_decay: Tensor):
        self.scan = Scan(k.movedim(1, -2), v.movedim(1, -2), log_decay.movedim(1, -1))
        faded = F.pad(log_decay.cumsum(1)[:, :-1], (0, 0, 0, 0, 1, 0))
        self.mass = -torch.expm1(faded)  # the weights of a geometric series, added up

    def read(self, q: Tensor) -> Tensor:
        return self.scan.read(q.movedim(1, -2)).movedim(-2, 1) / self.mass.clamp(min=LIGHTEST)[..., None]
