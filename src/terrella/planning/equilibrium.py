"""A reasoner: one small network applied to two latents until they come to rest, where the answer is read.

    upd(z, u) = damping z + (1 - damping) f(z + u) + noise e
    iteration = T x { n x [ zl <- upd(zl, zh + x) ];  zh <- upd(zh, zl) }        gradient through the last cycle only
    logits = W zh

Because f is the same at every application, more iterations at test time than in training are allowed; random starts and
noise on the path teach it to come to the right rest from anywhere, so that more of them also help.

Ref: Equilibrium Reasoners, arXiv 2605.21488 (two latents, random starts, path noise, truncated gradient); Tiny
recursive models, arXiv 2510.04871. Differs: the halt logit reads the mean token instead of the first, which a
convolution leaves blind to far corners; a fixed start is drawn once and saved with the weights; mixers as in
`nn/mixers.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import from_json, to_json
from ..errors import ConfigError, PuzzleError, WorldError
from ..files import atomic
from ..nn.equilibrium import Random, apply, normal, residual, truncated
from ..nn.mixers import AttentionMixer, ConvMixer, Grid, Mixer, MixerBlock, TokenMixer

FORMAT = 1


@dataclass(frozen=True)
class ReasonerConfig:
    """What a reasoner is made of.

    symbols, classes: of a problem's and an answer's tokens. mixer: how tokens meet (see `nn/mixers.py`); `tokens` is
    their number, for the mixer of that name, `heads` and `reach` are for attention. cycles, inner: T and n above; with
    n = 0 there is one latent, zh <- upd(zh, x). damping, noise, random_start, spread: as trained; the first two can be
    given anew with every call. spread: standard deviation of random starts.
    """

    symbols: int
    classes: int
    dim: int = 64
    blocks: int = 1
    hidden: int = 192
    mixer: Literal["conv", "attention", "tokens"] = "conv"
    heads: int = 4
    reach: float = 32.0
    tokens: int = 0
    cycles: int = 2
    inner: int = 2
    damping: float = 0.05
    noise: float = 0.01
    random_start: bool = True
    spread: float = 1.0

    def __post_init__(self) -> None:
        if min(self.symbols, self.classes, self.dim, self.blocks, self.hidden, self.cycles) < 1 or self.inner < 0:
            raise ConfigError(f"sizes of a reasoner are counts from 1 on, `inner` from 0 on; got {self}.")
        if not 0 <= self.damping < 1 or self.noise < 0 or self.spread < 0:
            raise ConfigError(f"expected 0 <= damping < 1, noise and spread from 0 on; got {self}.")


class Problem(NamedTuple):
    """Problems as the network sees them: `x` `(B, N, D)`, and their grid."""

    x: Tensor
    grid: Grid


class Reasoner(nn.Module):
    """See the module. Problems are int64 `(B, h, w)`; latents are `(B, 2, N, D)`, first zh and then zl."""

    fixed: Tensor

    def __init__(self, config: ReasonerConfig):
        super().__init__()
        self.config, c = config, config
        self.record: dict[str, Any] = {}
        self.embed = nn.Embedding(c.symbols, c.dim)
        self.blocks = nn.ModuleList(MixerBlock(_mixer(c), c.dim, c.hidden) for _ in range(c.blocks))
        self.head = nn.Linear(c.dim, c.classes, bias=False)
        self.halt = nn.Linear(c.dim, 1)
        self.register_buffer("fixed", truncated(torch.randn(2, 1, c.dim)) * c.spread)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5, a=-2.0, b=2.0)
        nn.init.normal_(self.embed.weight, std=c.dim**-0.5)
        nn.init.zeros_(self.halt.weight)
        nn.init.constant_(self.halt.bias, -5.0)

    def enter(self, problems: Tensor) -> Problem:
        """Embed problems `(B, h, w)`; raises `PuzzleError` for another shape."""
        if problems.ndim != 3:
            raise PuzzleError(f"problems have shape {tuple(problems.shape)}; expected (batch, height, width).")
        height, width = problems.shape[1:]
        x = self.embed(problems.long()).flatten(1, 2) * self.config.dim**0.5
        first = self.blocks[0]
        assert isinstance(first, MixerBlock)
        return Problem(x, Grid(height, width, first.mixer.turn(height, width)))

    def begin(self, x: Tensor, generator: Random = None) -> Tensor:
        """Latents to begin with for `x` `(B, N, D)`: random ones, or the fixed one, which draws nothing."""
        if not self.config.random_start:
            return self.fixed.to(x.dtype).expand(len(x), 2, *x.shape[1:])
        like = x.new_empty(()).expand(len(x), 2, *x.shape[1:])
        return truncated(normal(like, generator)) * self.config.spread

    def think(
        self,
        z: Tensor,
        problem: Problem,
        damping: float | None = None,
        noise: float | None = None,
        generator: Random = None,
    ) -> tuple[Tensor, Tensor]:
        """Make one iteration: the next latents `(B, 2, N, D)`, and the residuals `(B,)` of their last updates.

        damping, noise: None is as trained. All cycles but the last run without gradient.
        """
        c = self.config
        how = (c.damping if damping is None else damping, c.noise if noise is None else noise, generator)
        with torch.no_grad():
            for _ in range(c.cycles - 1):
                z, _ = self._cycle(z, problem, *how)
        return self._cycle(z, problem, *how)

    def read(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Read logits `(B, N, classes)` and the halt logit `(B,)` off latents."""
        high = z[:, 0]
        return self.head(high), self.halt(high.mean(1))[:, 0]

    def _cycle(
        self, z: Tensor, problem: Problem, damping: float, noise: float, generator: Random
    ) -> tuple[Tensor, Tensor]:
        def f(h: Tensor) -> Tensor:
            for block in self.blocks:
                h = block(h, problem.grid)
            return h

        high, low = z.unbind(1)
        if not self.config.inner:
            moved, proposal = apply(f, high, problem.x, damping, noise, generator)
            return torch.stack([moved, low], 1), residual(proposal, high)
        before = proposal = low
        for _ in range(self.config.inner):
            before = low
            low, proposal = apply(f, low, high + problem.x, damping, noise, generator)
        moved, wanted = apply(f, high, low, damping, noise, generator)
        gap = (residual(wanted, high) ** 2 + residual(proposal, before) ** 2) / 2
        return torch.stack([moved, low], 1), gap.sqrt()

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and training record into one safetensors file."""
        about = {"format": FORMAT, "config": to_json(self.config), "record": self.record}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        with atomic(path) as partial:
            save_file(tensors, partial, {"terrella": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Reasoner:
        """Read what `save` wrote; raises `WorldError` when it is absent, damaged or of another format."""
        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {})["terrella"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a mapping)
            if about["format"] != FORMAT:
                raise WorldError(f"{path} has format {about['format']}, and this version reads {FORMAT}; train anew.")
            reasoner = cls(from_json(ReasonerConfig, about["config"]))
            reasoner.load_state_dict(tensors)
        except (KeyError, ValueError, OSError, RuntimeError, SafetensorError) as error:
            raise WorldError(f"{path} holds no reasoner that can be read ({error}).") from error
        reasoner.record = about["record"]
        return reasoner.to(device).eval().requires_grad_(False)


def _mixer(c: ReasonerConfig) -> Mixer:
    if c.mixer == "conv":
        return ConvMixer(c.dim)
    return AttentionMixer(c.dim, c.heads, c.reach) if c.mixer == "attention" else TokenMixer(c.tokens)
