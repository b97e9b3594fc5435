"""Actions that nobody wrote down: a few numbers that say what the next frame has and the frames before it do not.

An encoder reads two frames through a narrow bottleneck; a world that remembers the frames so far has to predict the
later one from what comes through. What follows from the past alone need not pass, so what does pass is what somebody
did, and any other chance as large: bottleneck and labels (`terrella.labels.align`) tell them apart.

    B batch   T frames   K frames that the encoder reads   N tokens   Z channels   A numbers of a latent action

Ref: Bruce et al., Genie, arXiv 2402.15391, section 2.1 (a latent action model whose decoder sees all frames so far, a
quantised bottleneck); Gao et al., AdaWorld, arXiv 2503.18938 (continuous latents under a KL term); Bowman et al., arXiv
1511.06349, section 3.1 (a KL term that comes in slowly).
Differs: all of it happens in the latents of the world's own tokenizers, not in pixels; the decoder is an ordinary world
of the project, so any backbone serves; prediction errors are measured in units of how much frames change, so that one
`beta` fits vectors and images; quantisation is by finite scalars and needs no codebook.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import from_json, to_json
from ..errors import ConfigError, WorldError
from ..files import atomic
from ..heads.base import HeadConfig, Net, as_changes, unit_of_change
from ..nn.codes import bounded, rounded
from ..spec import ActionSpec, EnvSpec, WorldSpec
from ..training import TrainingConfig
from ..training.objective import clip_loss
from ..world import World
from .frames import encoded, windows

REACH = 3.0  # deviations of the prior: where continuous latent actions end
NARROW, WIDE = -6.0, 1.0  # between which the logarithm of a posterior's deviation lies
FIRST = -3.0  # where it begins: through noise as large as the prior's the decoder learns of no action
WARM = 0.5  # share of training in which `beta` rises: at first all there is to gain is from the past, and a price on
# what passes closes the bottleneck for good


@dataclass(frozen=True)
class LatentConfig:
    """size: numbers of a latent action, A. bottleneck: `kl`, Gaussians held near a standard one by `beta` times their
    divergence in nats; `fsq`, each number one of `levels` values. frames: that the encoder reads, K, the later one
    among them. width, layers: of the encoder.

    Raises `ConfigError` for values out of range.
    """

    size: int = 4
    bottleneck: Literal["kl", "fsq"] = "kl"
    beta: float = 0.001
    levels: int = 5
    frames: int = 2
    width: int = 128
    layers: int = 2

    def __post_init__(self) -> None:
        if self.size < 1 or self.frames < 2 or self.levels < 2 or not self.beta >= 0:
            raise ConfigError(
                f"size is {self.size}, frames {self.frames}, levels {self.levels}, beta {self.beta}; expected at least "
                "1 number, 2 frames (an action lies between two), 2 levels and a beta of at least 0."
            )

    @property
    def action(self) -> ActionSpec:
        """The action space of the latents: a `Box`."""
        high = (REACH if self.bottleneck == "kl" else 1.0,) * self.size
        return ActionSpec("box", shape=(self.size,), low=tuple(-x for x in high), high=high, dtype="float32")

    def spec(self, recorded: WorldSpec) -> WorldSpec:
        """What a world of these actions is of: the streams that were recorded, and no environment to act in."""
        return WorldSpec(recorded.streams, self.action, EnvSpec(), fps=recorded.fps)


class LatentActions(nn.Module):
    """Reads latent actions off frames. Learn one with `terrella.labels.learn_actions`, open one with `load`.

    world: the decoder, a world whose actions the latents are. record: how it was learned.
    """

    change: Tensor
    unit: Tensor

    def __init__(self, world: World, config: LatentConfig):
        super().__init__()
        self.world, self.config = world, config
        settings = HeadConfig(config.frames, config.width, config.layers)
        outputs = config.size * (2 if config.bottleneck == "kl" else 1)
        self.encoder = Net(world.tokens, config.action, settings, outputs)
        self.register_buffer("change", torch.ones(()))
        self.register_buffer("unit", torch.ones(world.tokens.n, world.tokens.channels))
        self.record: dict[str, Any] = {}

    @property
    def learning(self) -> nn.Module:
        """What learns once the tokenizers are fitted: encoder and decoder."""
        return nn.ModuleDict({"encoder": self.encoder, "dynamics": self.world.dynamics})

    def read(self, z_BTNZ: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The latent actions between T frames one after another, `(B, T - 1, A)`, and what each costs, `(B, T - 1)`.

        generator: draw them, as training does; without, they are the means. The first frame stands in for those before.
        """
        seen = windows(z_BTNZ, self.config.frames)
        unknown = torch.full((*seen.shape[:3], self.config.size), torch.nan, device=z_BTNZ.device)
        said = self.encoder(as_changes(seen, self.unit), unknown).float()
        if self.config.bottleneck == "fsq":
            values = bounded(said, self.config.levels)
            values = values.round() if generator is None else rounded(values)
            return values * (2 / (self.config.levels - 1)) - 1, torch.zeros_like(said[..., 0])
        mean, log_std = said.chunk(2, -1)
        mean, log_std = REACH * (mean / REACH).tanh(), (log_std + FIRST).clamp(NARROW, WIDE)
        price = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            mean = mean + log_std.exp() * noise
        return mean, price.sum(-1)

    @torch.no_grad()
    def measure(self, z_FNZ: Tensor, next_FNZ: Tensor) -> None:
        """Measure how much frames change from one to the next: the units of what is read, and of prediction errors."""
        self.unit.copy_(unit_of_change(z_FNZ, next_FNZ))
        self.change.fill_((next_FNZ.float() - z_FNZ.float()).square().mean().clamp(min=1e-6))

    def loss(
        self, recipe: TrainingConfig, z_BTNZ: Tensor, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of clips of T frames, a scalar, and its parts. progress: share of training done."""
        rows, price = self.read(z_BTNZ, generator)
        none = torch.full_like(rows[:, :1], torch.nan)
        nothing = torch.zeros(z_BTNZ.shape[:2], device=z_BTNZ.device)
        given = torch.cat([none, rows], 1)
        error, _ = clip_loss(self.world, recipe, z_BTNZ, given, nothing, nothing, progress, generator)
        error, nats = error / self.change, price.mean()
        beta = self.config.beta * min(1.0, progress / WARM)
        return error + beta * nats, {"error": error.detach(), "nats": nats.detach()}

    @torch.no_grad()
    def rows(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """The latent actions of an episode, stream -> `(T + 1, ...)`: float64 `(T, A)`. No recorded action is read.

        Raises `SpecError` for observations of something else.
        """
        return self.read(encoded(self.world, observations)[None])[0][0].double().cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """Write the decoder as a world into the folder `path`, and the encoder beside it."""
        path = self.world.save(path)
        about = {"config": to_json(self.config), "record": self.record}
        with atomic(path / "encoder.safetensors") as partial:
            own = {k: v for k, v in self.state_dict().items() if not k.startswith("world.")}
            tensors = {k: v.detach().cpu().contiguous() for k, v in own.items()}
            save_file(tensors, partial, {"terrella": json.dumps(about)})
        return path

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> LatentActions:
        """Open what `save` wrote; raises `WorldError` where it cannot be read, `UnknownName` where there is nothing."""
        world, file = World.load(path), Path(path) / "encoder.safetensors"
        if not file.exists():
            raise WorldError(f"{path} holds a world, and no latent actions. Learn them with `terrella label`.")
        try:
            with safe_open(str(file), "pt") as opened:
                about = json.loads((opened.metadata() or {})["terrella"])
                tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118  (not a mapping)
            model = cls(world, from_json(LatentConfig, about["config"]))
            model.load_state_dict({**tensors, **{f"world.{k}": v for k, v in world.state_dict().items()}})
            model.record = about["record"]
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise WorldError(f"{file} cannot be read: {error}") from error
        return model.to(device).eval().requires_grad_(False)


def without_noise(recipe: TrainingConfig) -> TrainingConfig:
    """The recipe by which the decoder learns: from true frames alone, as latents would tell what noise hides."""
    return replace(recipe, context_noise=0.0, self_fed=0.0, recycled=0.0, blind=0.0, reward_weight=0.0, end_weight=0.0)
