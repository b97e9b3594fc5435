"""In how many bits each part of a world keeps its weights: the encoder, the dynamics, the decoder.

Which part bears few bits differs from world to world: an encoder's error enters the memory, a decoder's is only seen.
Hence each is set apart, and measured apart (`benchmarks/speed/quantisation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace

import torch
from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean
from ..nn.quantised import quantise
from ..world import Part, World

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Precision:
    """The weights of a world's parts: `float32`, `bfloat16`, `int8` or `int4`.

    encoder, decoder: the two halves of its tokenizers. dynamics: the backbone. A part of `float32` or `bfloat16` also
    computes in it. `int8` (a scale for each output) and `int4` (one for each 32 weights; see `terrella.nn.quantised`)
    are for the weights of linear and convolution layers; the dynamics then computes in the type of the memory, the
    other parts in float32.

    Raises `UnknownName` for any other name.
    """

    encoder: str = "float32"
    dynamics: str = "float32"
    decoder: str = "float32"

    def __post_init__(self) -> None:
        for name in astuple(self):
            if name not in (*FLOATS, *BITS):
                raise did_you_mean(str(name), (*FLOATS, *BITS), "precision")

    @classmethod
    def of(cls, value: Precision | Mapping[str, str] | str) -> Precision:
        """Read a precision: one name for all parts, or names by part, those left out being `float32`."""
        parts = [f.name for f in fields(cls)]
        if isinstance(value, Mapping):
            for part in value:
                if part not in parts:
                    raise did_you_mean(str(part), parts, "part of a world")
            return cls(**value)
        return value if isinstance(value, cls) else cls(*[str(value)] * len(parts))

    def memory(self, dtype: torch.dtype | None) -> torch.dtype:
        """The type of a memory that the dynamics can read, `dtype` if it may be; raises `ConfigError` if it may not."""
        own = FLOATS.get(self.dynamics)
        if dtype is not None and own not in (None, dtype):
            raise ConfigError(
                f"dtype is {dtype} and the dynamics' precision {self.dynamics!r}, but memory has the type in which the "
                "dynamics computes. Leave dtype out, or choose one of int8 and int4 for the dynamics."
            )
        return dtype or own or torch.float32


def lowered(world: World, precision: Precision, device: torch.device, dtype: torch.dtype) -> World:
    """Return a copy of `world` on `device` whose parts have the given precision; memory will be of `dtype`.

    dtype: from `Precision.memory`. It is a copy to step: `World.save` refuses it. Raises `ConfigError` for a tokenizer
    that does not say which of its modules encode or decode.
    """
    twin = copied(world).to(device)
    # Both halves of a tokenizer use its constants, such as the mean frame: in bfloat16 these would dull all pixels.
    wide = torch.promote_types(dtype, torch.float32)
    twin.framewise.to(wide)
    twin.dynamics.to(dtype)
    for part, names in _modules(twin).items():
        kind, outside = getattr(precision, part), dtype if part == "dynamics" else wide
        if FLOATS.get(kind) == outside:
            continue
        _require_told(twin, part, kind)
        for name in names:
            module = twin.get_submodule(name)
            if kind in FLOATS:
                _compute_in(module.to(FLOATS[kind]), FLOATS[kind], outside)
                continue
            for path, layer in list(module.named_modules()):
                weight = getattr(world.get_submodule(f"{name}.{path}".rstrip(".")), "weight", None)
                if isinstance(weight, Tensor):  # the source's: the copy's may have been rounded to `dtype`
                    quantise(layer, weight.to(device), BITS[kind], outside)
    return twin


def require_one_type(world: World) -> None:
    """Raise `ConfigError` for a world with weights of several types, such as `lowered` makes."""
    if len(kinds := {p.dtype for p in world.parameters()}) > 1:
        raise ConfigError(
            f"the weights of world {world.name!r} are of several types ({', '.join(sorted(map(str, kinds)))}), as in "
            "the copy that an engine makes for its precision. Use the world that it was made from."
        )


def weight_bytes(world: World) -> dict[str, int]:
    """Count the bytes of a world's tensors: of encoder, dynamics and decoder, and of `other`, which is all else.

    What is counted is the state dict: weights, codes and scales, and measured constants such as the mean frame.
    """
    parts = _modules(world)
    count = dict.fromkeys((*parts, "other"), 0)
    for name, tensor in world.state_dict().items():
        own = (part for part, modules in parts.items() if any(name.startswith(f"{m}.") for m in modules))
        count[next(own, "other")] += tensor.nbytes
    return count


def copied(world: World, dynamics: Part | None = None) -> World:
    """Return a copy of a world that needs no gradients. dynamics: another description of its backbone's settings."""
    config = world.config if dynamics is None else replace(world.config, dynamics=dynamics)
    first = next(world.parameters())
    twin = World(world.spec, config, world.name).to(device=first.device, dtype=first.dtype)
    twin.load_state_dict(world.state_dict())
    twin.record, twin.card, twin.starts, twin.alarm = world.record, world.card, world.starts, world.alarm
    twin.heads = world.heads
    return twin.requires_grad_(False)


def _modules(world: World) -> dict[str, list[str]]:
    """The paths of the modules of each part."""
    halves = [(f"tokenizers.{key}", world.tokenizers[key]) for key in world.tokenizers]
    return {
        "encoder": [f"{path}.{name}" for path, half in halves for name in half.encoder_modules],  # pyright: ignore
        "dynamics": ["dynamics"],
        "decoder": [f"{path}.{name}" for path, half in halves for name in half.decoder_modules],  # pyright: ignore
    }


def _require_told(world: World, part: str, kind: str) -> None:
    for tokenizer in world.tokenizers.values() if part != "dynamics" else ():
        if any(True for _ in tokenizer.parameters()) and not getattr(tokenizer, f"{part}_modules"):
            name = type(tokenizer).__name__
            raise ConfigError(
                f"tokenizer {name} does not say which of its modules are its {part}, so these cannot be {kind}. Name "
                f"them in `{name}.{part}_modules`, or leave {part!r} out of the precision."
            )


def _compute_in(module: nn.Module, inside: torch.dtype, outside: torch.dtype) -> None:
    """Let a module take and give tensors of type `outside` and compute in `inside`."""
    module.register_forward_pre_hook(lambda _, given: tuple(x.to(inside) for x in given))
    module.register_forward_hook(lambda _, given, result: result.to(outside))
