"""A world: what it is of (spec), its parts (tokenizers, dynamics, decoder), and its files.

    world.json                format, spec, config, training record, card
    weights.safetensors       every tensor, float32 or float16
    starts.safetensors        a few recorded beginnings, so that it can be entered without its environment
    heads/<kind>.safetensors  small networks fitted on its latents, settings in the header (`terrella.heads`)
    card.md, preview.webp     for people

Loading reads JSON and tensors; it never runs code from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import decoders, dynamics, tokenizers, views  # noqa: F401  (registers the parts)
from .actions import describe
from .config import from_json, to_json
from .data.episode import Clips
from .errors import ConfigError, SpecError, WorldError, did_you_mean
from .files import atomic
from .nn import pretrained  # noqa: F401  (registers its encoders)
from .nn.actions import text_leaves
from .nn.latents import APART, TokenSpec
from .registry import lookup, names
from .spec import WorldSpec

FORMAT = 1
GALLERY = Path(__file__).parent / "gallery"
_DEFAULT = {"image": "conv", "vector": "vector", "codes": "codes"}  # the tokenizer of each form of stream


@dataclass(frozen=True)
class Part:
    """A registered part by name, and its settings as JSON (missing ones take their defaults)."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorldConfig:
    """Which parts make the world, and at which signal level finished frames enter its memory when stepping.

    tokenizers: stream -> part; streams not named take `conv` (images), `codes` (grids and letters) or `vector`.
    `context_level` is tau in (0, 1]; 1 keeps frames clean. `dream_level` is the same for frames that were dreamed, None
    meaning alike; 0 lets a recurrent backbone go on from its own prediction. `reencode` passes each dreamed frame (a
    number k: every k-th of a session) through pixels and back before it enters the memory, which keeps long rollouts
    among frames that a tokenizer can make; it costs one encoding a frame, whatever k. `text` reads actions that are
    sentences; None takes `words`. `views`: image stream -> part; these have no tokens, and are drawn from the same
    frame's other streams.
    """

    dynamics: Part
    decoder: Part
    tokenizers: dict[str, Part] = field(default_factory=dict)
    context_level: float = 1.0
    dream_level: float | None = None
    reencode: bool | int = False
    text: Part | None = None
    views: dict[str, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.context_level <= 1:
            raise ConfigError(f"context_level is {self.context_level}; it must lie in (0, 1].")
        if self.dream_level is not None and not 0 <= self.dream_level <= 1:
            raise ConfigError(f"dream_level is {self.dream_level}; it must lie in [0, 1].")
        if self.reencode < 0:
            raise ConfigError(f"reencode is {self.reencode}; it is 0, or every how many frames one is re-encoded.")


def build_part(kind: str, part: Part, *args: Any) -> Any:
    """Make a registered part from its name and settings; raises `UnknownName` or `ConfigError`."""
    cls = lookup(kind, part.name)
    return cls(from_json(cls.Config, part.config, f"{kind} {part.name}"), *args)


class World(nn.Module):
    """A learned simulator. Train one with `terrella.train`, open one with `World.load`, step one with
    `terrella.Engine`.

    name: how people call it. record: how it was trained. card: what was measured. starts: recorded beginnings,
    observations `(B, c+1, ...)` and actions `(B, c, W)`, or None. sentences: what its recordings say most, where
    actions are texts. alarm: thresholds by signal, where they were measured (`terrella.engine.calibrate`). heads: what
    `terrella.heads.fit` fitted, by kind.
    """

    reward_shift: Tensor
    reward_scale: Tensor

    def __init__(self, spec: WorldSpec, config: WorldConfig, name: str = "world"):
        super().__init__()
        self.spec, self.config, self.name = spec, config, name
        self.record: dict[str, Any] = {}
        self.card: dict[str, Any] = {}
        self.starts: Clips | None = None
        self.sentences: tuple[str, ...] = ()
        self.alarm: dict[str, float] = {}
        self.heads: dict[str, nn.Module] = {}
        for stream in (*config.tokenizers, *config.views):
            if stream not in spec.modelled:
                raise did_you_mean(stream, spec.modelled, "stream")
        if config.views.keys() & config.tokenizers.keys():
            raise ConfigError(f"{', '.join(config.views)}: views have no tokens; leave them out of `tokenizers`.")
        if not spec.modelled:
            raise SpecError(
                f"nothing to model: streams are {list(spec.streams)}, and a world models images and vectors."
            )
        self.tokenized = [stream for stream in spec.modelled if stream not in config.views]
        known = {stream: spec.modelled[stream] for stream in self.tokenized}
        if not known:
            raise ConfigError(f"all streams ({', '.join(config.views)}) are views; leave one out that says what is so.")
        self.tokenizers, self.views = nn.ModuleDict(), nn.ModuleDict()
        for stream, part in config.views.items():
            self.views[_key(stream)] = build_part("view", part, spec.modelled[stream], known)
        for stream, kind in known.items():
            part = config.tokenizers.get(stream) or Part(_DEFAULT[kind.forms[0]])
            takes = lookup("tokenizer", part.name).takes
            if not set(kind.forms) & set(takes):
                raise ConfigError(
                    f"stream {stream!r} is of kind {' or '.join(kind.forms)}, but tokenizer {part.name!r} takes "
                    f"{' and '.join(takes)} streams; choose another tokenizer for it."
                )
            self.tokenizers[_key(stream)] = build_part("tokenizer", part, kind)
        self.tokens = _join([self.tokenizer(s).spec for s in self.tokenized], self.tokenized)
        self.dynamics = build_part("dynamics", config.dynamics, self.tokens, spec.action)
        if config.text is not None:
            self._read_text(config.text)
        sized = (self.tokens,) if lookup("decoder", config.decoder.name).sized else ()
        self.decoder = build_part("decoder", config.decoder, *sized)
        self.register_buffer("reward_shift", torch.zeros(()))
        self.register_buffer("reward_scale", torch.ones(()))

    def _read_text(self, part: Part) -> None:
        """Give the backbone another encoder of text, wherever it reads some."""
        leaves = text_leaves(self.dynamics)
        if not leaves:
            raise ConfigError(
                f"text encoder {part.name!r} is asked for, but this backbone reads no text by one: actions are "
                f"{describe(self.spec.action)} (and a language model with `words` has an embedding of its own)."
            )
        for leaf in leaves:
            leaf.encoder = build_part("text", part, leaf.dim)

    # observations and latents

    def tokenizer(self, stream: str) -> tokenizers.Tokenizer:
        """Return the tokenizer of a stream."""
        return self.tokenizers[_key(stream)]  # pyright: ignore[reportReturnType]

    def view(self, stream: str) -> views.Field:
        """Return what draws a stream that has no tokens."""
        return self.views[_key(stream)]  # pyright: ignore[reportReturnType]

    @property
    def framewise(self) -> nn.Module:
        """What is fitted on single frames: tokenizers, and views where there are any."""
        if not self.views:
            return self.tokenizers
        return nn.ModuleDict({"tokenizers": self.tokenizers, "views": self.views})

    def encode(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Turn observations, stream -> `(..., *shape)`, into latents `(..., N, Z)`."""
        return torch.cat([self.tokenizer(s).encode(observations[s]) for s in self.tokenized], -2)

    def decode(self, z: Tensor) -> dict[str, Tensor]:
        """Turn latents `(..., N, Z)` into observations, stream -> `(..., *shape)`: uint8 images, float32 vectors."""
        found = {s: self.tokenizer(s).decode(part) for s, part in self.split(z).items()}
        found |= {s: self.view(s).decode(found) for s in self.config.views}
        return {s: found[s] for s in self.spec.modelled}

    def decode_raw(self, z: Tensor) -> dict[str, Tensor]:
        """As `decode`, with a gradient: images are floats in [0, 1]-ish, and not rounded."""
        pairs = ((s, self.tokenizer(s), part) for s, part in self.split(z).items())
        found = {s: tokenizer.decode_raw(part * tokenizer.scale + tokenizer.shift) for s, tokenizer, part in pairs}
        found |= {s: self.view(s).draw(found) for s in self.config.views}
        return {s: found[s] for s in self.spec.modelled}

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Divide latents `(..., N, Z)` by the streams whose tokens they are."""
        return dict(zip(self.tokenized, z.split([self.tokenizer(s).spec.n for s in self.tokenized], -2)))

    def tensors(self, observations: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Check observations at the door and turn them into tensors; raises `SpecError`."""
        out = {}
        for name, stream in self.spec.modelled.items():
            if name not in observations:
                raise SpecError(f"observations lack the stream {name!r}; got {sorted(observations)}.")
            value = np.asarray(observations[name])
            if value.shape[value.ndim - len(stream.shape) :] != stream.shape:
                raise SpecError(
                    f"stream {name!r} has shape {value.shape}; expected (..., {', '.join(map(str, stream.shape))})."
                )
            if stream.kind == "image" and value.dtype != np.uint8:
                raise SpecError(f"stream {name!r} is {value.dtype}; images are uint8, 0 to 255.")
            value = np.ascontiguousarray(value if stream.kind == "image" else value.astype(np.float32))
            out[name] = torch.from_numpy(value).to(device)
        return out

    def head(self, kind: str) -> Any:
        """Return the head of a kind, on the world's device.

        Raises `UnknownName` for a kind there is not, `WorldError` where none was fitted.
        """
        lookup("head", kind)
        if kind not in self.heads:
            there = f" It has: {', '.join(sorted(self.heads))}." if self.heads else ""
            raise WorldError(
                f"world {self.name!r} has no {kind} head.{there} Fit one first: "
                f"terrella.heads.fit(world, dataset, {kind!r})."
            )
        return self.heads[kind].to(next(self.parameters()).device)

    @property
    def guidable(self) -> bool:
        """Whether training withheld actions, so that the world knows what comes under none."""
        return bool(self.record.get("training", {}).get("action_dropout", 0))

    def require_guidable(self) -> None:
        """Raise `ConfigError` for a world that was never trained without actions, whose "none" would mean nothing."""
        if not self.guidable:
            raise ConfigError(
                f"world {self.name!r} cannot be guided: it was trained with every action shown, and does not know what "
                "comes under none. Train it with TrainingConfig(action_dropout=0.1)."
            )

    @property
    def encoding(self) -> str:
        """A hash of a sample of the tokenizers' weights: heads read latents, and belong to what made them."""
        whole = hashlib.blake2b(digest_size=12)
        for name, tensor in sorted(self.tokenizers.state_dict().items()):
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64].float().half().cpu().numpy()
            whole.update(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes())
        return whole.hexdigest()

    # files

    def save(self, path: str | Path, half: bool = False) -> Path:
        """Write the world into the folder `path`; `half` stores weights in float16.

        Files appear whole or not at all. Raises `WorldError` for an engine's copy with quantised weights.
        """
        if any(parametrize.is_parametrized(m) for m in self.modules()):
            raise WorldError(
                f"world {self.name!r} holds quantised weights, as the copy that an engine makes does; save the world "
                "that it was made from, and quantise what is loaded."
            )
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        weights = {
            k: (v.half() if half and v.is_floating_point() else v).contiguous() for k, v in self.state_dict().items()
        }
        with atomic(path / "weights.safetensors") as partial:
            save_file(weights, partial)
        if self.starts is not None:
            starts = {
                f"observations/{k}": torch.from_numpy(np.ascontiguousarray(v))
                for k, v in self.starts.observations.items()
                if k in self.spec.modelled
            }
            starts["actions"] = torch.from_numpy(np.ascontiguousarray(self.starts.actions))
            if self.starts.seeds is not None:
                starts["seeds"] = torch.from_numpy(self.starts.seeds)
            with atomic(path / "starts.safetensors") as partial:
                save_file(starts, partial)
        else:
            (path / "starts.safetensors").unlink(missing_ok=True)  # of a world that was here before
        for kind in set(names("head")) - set(self.heads):  # of a world that was here before
            (path / "heads" / f"{kind}.safetensors").unlink(missing_ok=True)
        for kind in self.heads:
            self.save_head(kind, path)
        tree = {
            "format": FORMAT,
            "name": self.name,
            "spec": to_json(self.spec),
            "config": to_json(self.config),
            "record": self.record,
            "card": self.card,
            "alarm": self.alarm,
            "sentences": list(self.sentences),
        }
        with atomic(path / "world.json") as partial:
            partial.write_text(json.dumps(tree, indent=1) + "\n")
        return path

    def save_head(self, kind: str, path: str | Path) -> Path:
        """Write one head beside the world in the folder `path`, whole or not at all; raises as `head` does."""
        head = self.head(kind)
        about = {"kind": kind, "config": to_json(head.config), "record": head.record, "encoding": self.encoding}
        file = Path(path) / "heads" / f"{kind}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as partial:
            tensors = {k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
            save_file(tensors, partial, {"terrella": json.dumps(about)})
        return file

    @classmethod
    def load(cls, source: str | Path, device: torch.device | str = "cpu") -> World:
        """Open a world from a folder or by its name in the gallery; raises `WorldError` or `UnknownName`."""
        path = Path(source)
        if not (path / "world.json").exists():
            path = GALLERY / str(source)
        if not (path / "world.json").exists() or (path.parent != GALLERY and not Path(source).exists()):
            raise did_you_mean(str(source), cls.list_gallery(), "world (a folder with world.json, or a gallery world)")
        try:
            tree = json.loads((path / "world.json").read_text())
            if tree["format"] != FORMAT:
                raise WorldError(f"{path} has format {tree['format']}; this version reads {FORMAT}. Train it again.")
            world = cls(from_json(WorldSpec, tree["spec"]), from_json(WorldConfig, tree["config"]), tree["name"])
            world.record, world.card = tree["record"], tree["card"]
            world.alarm = {name: float(level) for name, level in tree.get("alarm", {}).items()}
            world.sentences = tuple(str(sentence) for sentence in tree.get("sentences", []))
            weights = {
                k: v.float() if v.is_floating_point() else v for k, v in load_file(path / "weights.safetensors").items()
            }
            world.load_state_dict(weights)
            if (path / "starts.safetensors").exists():
                world.starts = _starts(load_file(path / "starts.safetensors"))
            for kind in names("head"):
                if (path / "heads" / f"{kind}.safetensors").exists():
                    world.heads[kind] = _head(world, path / "heads" / f"{kind}.safetensors")
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise WorldError(f"{path} cannot be read as a world: {error}") from error
        return world.to(device).eval().requires_grad_(False)

    @staticmethod
    def list_gallery() -> list[str]:
        """Name the worlds that ship with the package."""
        return sorted(p.parent.name for p in GALLERY.glob("*/world.json"))

    def parameters_by_part(self) -> dict[str, int]:
        """Count the parameters of each part."""
        parts = {"tokenizers": self.tokenizers, "dynamics": self.dynamics, "decoder": self.decoder}
        parts |= {"views": self.views} if self.views else {}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def __repr__(self) -> str:
        counts = ", ".join(f"{k} {v:,}" for k, v in self.parameters_by_part().items())
        return f"World({self.name!r}, {self.tokens.n} tokens x {self.tokens.channels}, parameters: {counts})"


def _head(world: World, path: Path) -> nn.Module:
    with safe_open(str(path), "pt") as file:
        about = json.loads((file.metadata() or {})["terrella"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a mapping)
    if about["encoding"] != world.encoding:
        raise WorldError(f"{path} was fitted on another world's latents. Delete it, and fit the head again.")
    head = build_part("head", Part(about["kind"], about["config"]), world.tokens, world.spec.action)
    head.load_state_dict(tensors)
    head.record = about["record"]
    return head.eval().requires_grad_(False)


def _starts(tensors: dict[str, Tensor]) -> Clips:
    arrays = {k: v.numpy() for k, v in tensors.items()}
    actions, seeds = arrays.pop("actions"), arrays.pop("seeds", None)
    blank = np.zeros(actions.shape[:2], np.float32)
    return Clips({k.removeprefix("observations/"): v for k, v in arrays.items()}, actions, blank, blank > 0, seeds)


def _join(specs: list[TokenSpec], streams: list[str]) -> TokenSpec:
    channels = {s.channels for s in specs}
    if len(channels) > 1:
        shown = ", ".join(f"{n}: {s.channels}" for n, s in zip(streams, specs))
        raise ConfigError(
            f"streams have different channels a token ({shown}); give their tokenizers the same `channels`."
        )
    places = tuple((r, c + APART * i) for i, s in enumerate(specs) for r, c in s.places)
    return TokenSpec(sum(s.n for s in specs), specs[0].channels, places)


def _key(stream: str) -> str:
    key = stream.replace(".", "/")  # module names may hold no dot, nor be those of methods, such as `values`
    return f"{key}/" if hasattr(nn.ModuleDict, key) or key == "training" else key
