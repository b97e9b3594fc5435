"""One dial for size: `nano`, `tiny`, `small`, `base`, or `auto`, which follows the budget and the device.

`nano` is for a few numbers a frame: its networks are so small that many clips a step cost hardly more than one.
`debug` is for tests: it learns next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import gcd
from typing import Any, Literal

import torch

from ..errors import ConfigError, did_you_mean
from ..registry import lookup
from ..spec import WorldSpec
from ..world import Part, WorldConfig
from .budget import Budget


@dataclass(frozen=True)
class TrainingConfig:
    """How the weights are found. Lengths in transitions (a clip of 12 has 13 frames).

    batch: clips a step. lr: of the backbone (matrices by Muon, the rest by AdamW). tokenizer_share: part of the budget
    for tokenizers, which come first. context_noise: largest noise on past frames (`training_config` has none for
    vectors alone). self_fed: share of batches whose
    past is the model's own prediction: some frames, each predicted from the real past, or with a `self_fed_depth` above
    1 all frames from a random one on, up to so many of the model's own deep. recycled: share of the other batches whose
    past carries errors that the model made lately. spectral: None, or a bound on the spectral norm of the matrices of a
    recurrent backbone's transition. average: memory of the averaged weights that training ends with, as a share of the
    steps so far; 0 ends with the last weights. blind: share of batches in which only the first `seen` frames are shown
    and the loss is that of going on alone, through all the frames after them. score_seen: whether the shown frames
    count too, each as the next one after those before it. growth: share of training in which clips grow from an eighth
    to their full length, and become fewer; short ones teach what a frame is many times as fast. supervision: what
    teaches the backbone what comes next: the loss of the `decoder`, or its plain prediction's distance to the `latent`
    of the frame that came, where the decoder learns beside it from what is expected anyway. action_dropout: share
    of frames whose action is withheld, so that the world knows what comes under none and can be guided
    (`Engine(guidance=...)`). reward_weight, end_weight: of the two heads.
    """

    batch: int = 8
    length: int = 12
    lr: float = 3e-3
    tokenizer_lr: float = 2e-3
    tokenizer_batch: int = 32
    tokenizer_share: float = 0.25
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    context_noise: float = 0.3
    self_fed: float = 0.3
    self_fed_depth: int = 1
    recycled: float = 0.0
    spectral: float | None = None
    average: float = 0.05
    blind: float = 0.0
    seen: int = 1
    score_seen: bool = False
    growth: float = 0.0
    supervision: Literal["decoder", "latent"] = "decoder"
    action_dropout: float = 0.0
    reward_weight: float = 0.1
    end_weight: float = 0.1
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.self_fed_depth < 1:
            raise ConfigError(f"self_fed_depth is {self.self_fed_depth}; it counts frames, at least 1 (1: one step).")
        if not 0 <= self.recycled <= 1:
            raise ConfigError(f"recycled is {self.recycled}; it is a share of batches, from 0 to 1.")
        if not 0 <= self.action_dropout < 1:
            raise ConfigError(f"action_dropout is {self.action_dropout}; it is a share of frames, 0 to below 1.")
        if self.spectral is not None and not self.spectral > 0:
            raise ConfigError(f"spectral is {self.spectral}; a bound is above 0, and None is no bound.")
        if self.supervision not in ("decoder", "latent"):
            raise did_you_mean(str(self.supervision), ("decoder", "latent"), "supervision")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average}; it is a share of the steps so far, from 0 to below 1.")

    def clips_at(self, progress: float) -> tuple[int, int]:
        """Return how many clips a step has, and of how many frames each, when so much of the training is done."""
        share = 1.0 if progress >= self.growth else (1 + 7 * progress / self.growth) / 8
        return round(self.batch / share**0.5), max(2, round(share * (self.length + 1)))


@dataclass(frozen=True)
class Size:
    """A point on the dial."""

    dim: int
    layers: int
    window: int
    width: int  # of the convolutional tokenizer
    channels: int  # numbers a token
    pixels: int  # a token of a 64-pixel image covers pixels x pixels; larger images keep the number of tokens
    training: TrainingConfig = field(default_factory=TrainingConfig)


SIZES = {
    "debug": Size(32, 2, 4, 16, 8, 16, TrainingConfig(batch=4, length=4, tokenizer_batch=8)),
    "nano": Size(32, 2, 4, 16, 8, 16, TrainingConfig(batch=64, length=8, lr=2e-3)),
    "tiny": Size(192, 4, 12, 64, 48, 16),
    "small": Size(320, 8, 24, 96, 32, 8, TrainingConfig(batch=16, length=24)),
    "base": Size(640, 12, 32, 128, 32, 8, TrainingConfig(batch=32, length=32, lr=1e-3)),
}

LEVELS = 8  # values of a digit, where tokens are discrete
MAPS = ("flow", "flow_wedge")  # backbones that go on by a map alone, once they have seen enough
SEEN, UNSEEN = 30, 10  # frames of a clip that trains them
# A map seen from within needs each frame's word on where things are, and many steps to find out what an image shows.
WITHIN = {"score_seen": True, "growth": 0.75}


def pick(preset: str, budget: Budget, device: torch.device) -> str:
    """Resolve `auto`: the largest size that the budget can fill on the device; raises `UnknownName`."""
    if preset != "auto":
        if preset not in SIZES:
            raise did_you_mean(preset, [*SIZES, "auto"], "preset")
        return preset
    minutes = (budget.seconds or 3600.0) / 60
    if device.type == "cpu":
        return "tiny" if minutes < 240 else "small"
    return "tiny" if minutes < 3 else "small" if minutes < 60 else "base"


def training_config(
    preset: str, backbone: str | None = None, decoder: str | None = None, spec: WorldSpec | None = None
) -> TrainingConfig:
    """Choose the recipe of a size, backbone and decoder, for a dataset's observations if they are known.

    Backbones that remember by a map learn to go on without seeing; a decoder of chunks dreams no single frames, and
    needs whole clips. Where all that is observed are vectors, the past carries no noise: a few exact numbers tell what
    comes next, and noise hides it (`docs/drift.md`).
    """
    recipe = SIZES[preset].training
    if spec is not None and all(s.kind == "vector" and not s.native for s in spec.modelled.values()):
        recipe = replace(recipe, context_noise=0.0)
    if backbone in MAPS:
        recipe = alone(replace(recipe, batch=max(1, recipe.batch // 2)), SEEN, UNSEEN)
        recipe = replace(recipe, **WITHIN) if backbone == "flow_wedge" else recipe
    return replace(recipe, self_fed=0.0, growth=0.0) if decoder == "swin" else recipe


def alone(recipe: TrainingConfig, seen: int, unseen: int) -> TrainingConfig:
    """Turn a recipe into one that learns to go on without seeing, for `unseen` frames after `seen` true ones."""
    return replace(recipe, length=seen + unseen - 1, blind=1.0, seen=seen, self_fed=0.0, context_noise=0.0)


def world_config(
    preset: str,
    spec: WorldSpec,
    decoder: str | None = None,
    backbone: str | None = None,
    views: Mapping[str, Part] | None = None,
) -> WorldConfig:
    """Choose the parts of a world of one size for a dataset's observations.

    decoder: None is `shortcut`, or `regression` for a backbone that remembers by a map; `masked` brings discrete
    tokens, `swin` draws chunks of frames, `residual` what a regression blurs. backbone: None is `transformer`. views:
    image streams that are drawn from the others; the rest is chosen as if these were not there. Raises `ConfigError`
    for parts that the observations do not allow, and `UnknownName`.
    """
    if views:
        return replace(world_config(preset, spec.without(views), decoder, backbone), views=dict(views))
    if backbone in MAPS:
        return _map_config(preset, spec, decoder, backbone)
    size, discrete = SIZES[preset], decoder == "masked"
    images = any(s.kind == "image" for s in spec.modelled.values())
    channels = size.channels if images or any(s.native for s in spec.modelled.values()) else 16
    tokenizers: dict[str, Part] = {}
    for name, stream in spec.modelled.items():
        if discrete and stream.kind != "image":
            raise ConfigError(
                f"a masked decoder needs discrete tokens, and stream {name!r} is a {stream.kind}; "
                "take the shortcut or the regression decoder, or record images with --pixels."
            )
        if stream.kind == "vector":
            tokenizers[name] = Part(stream.forms[0], {"channels": channels})
        elif discrete:
            settings = {"digits": size.channels // 4, "levels": LEVELS, "width": size.width}
            tokenizers[name] = Part("fsq", settings | _stride(stream.shape, size.pixels))
        else:
            settings = {"channels": channels, "width": size.width}
            tokenizers[name] = Part("conv", settings | _stride(stream.shape, size.pixels))
    drawn = Part(decoder or "shortcut", {"levels": LEVELS} if discrete else _network(size, decoder))
    return WorldConfig(Part(backbone or "transformer", _sized(backbone or "transformer", size)), drawn, tokenizers)


def _sized(backbone: str, size: Size) -> dict[str, Any]:
    """Settings of a backbone of one size, as far as it has them."""
    heads, dim = max(1, size.dim // 64), size.dim
    if backbone == "rssm":
        return {"dim": 2 * dim, "hidden": dim, "width": dim, "heads": heads, "layers": max(1, size.layers // 2)}
    known = {"dim": dim, "layers": size.layers, "heads": heads, "window": size.window, "scan_heads": 2 * heads}
    return {k: v for k, v in known.items() if k in {f.name for f in fields(lookup("dynamics", backbone).Config)}}


def _network(size: Size, decoder: str | None) -> dict[str, Any]:
    """Settings of a decoder with a network of its own: half the backbone's depth; chunks whose windows fit clips."""
    if decoder not in ("swin", "residual"):
        return {}
    own = {"dim": size.dim, "layers": max(1, size.layers // 2), "heads": max(1, size.dim // 64)}
    return own | ({"unit": max(2, min(4, size.training.length // 4))} if decoder == "swin" else {})


def _map_config(preset: str, spec: WorldSpec, decoder: str | None, backbone: str) -> WorldConfig:
    """Parts of a world with a map: patches of one cell (or of the size's, in the first person) of its one image."""
    size, streams = SIZES[preset], spec.modelled
    if len(streams) != 1 or next(iter(streams.values())).kind != "image" or spec.action.motion is None:
        raise ConfigError(
            f"the backbone {backbone!r} needs one image and actions that declare how they move the view; this dataset "
            f"has {', '.join(f'{n} ({s.kind})' for n, s in streams.items())} and "
            f"{'a' if spec.action.motion else 'no'} declared motion. Give the environment an attribute `motion`."
        )
    if backbone == "flow":  # a cell is as large as all steps allow
        motion = spec.action.motion
        steps = [n for table in motion.tables for row in table for n in row[:2]]
        patch = max(1, gcd(*steps, *(motion.extent or ())))
        settings = {"features": size.dim // 8, "width": size.dim // 4, "cell": patch}
    else:
        patch, settings = size.pixels // 2, {"features": size.dim // 12, "dim": size.dim // 4}
    tokenizer = Part("patches", {"size": patch})
    drawn = Part(decoder or "regression", _network(size, decoder))
    return WorldConfig(Part(backbone, settings), drawn, {next(iter(streams)): tokenizer}, dream_level=0.0)


def _stride(shape: tuple[int, ...], pixels: int) -> dict[str, int]:
    """Keep about the tokens of a 64-pixel image; fall back to what divides an odd size."""
    wanted = pixels * max(1, round(min(shape[:2]) / 64))
    for stride in (s for s in (wanted, 32, 16, 8, 4, 2, 1) if s <= wanted):
        if shape[0] % stride == 0 and shape[1] % stride == 0:
            fold = 4 if stride % 4 == 0 else stride
            ratio = stride // fold
            if ratio & (ratio - 1) == 0:
                return {"stride": stride, "fold": fold}
    return {"stride": 1, "fold": 1}
