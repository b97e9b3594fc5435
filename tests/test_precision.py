"""Weights in few bits: what rounding may change, what it must not, and what it saves."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from terrella import check
from terrella.check import LAWS, example_world, examples
from terrella.engine import Engine, Precision
from terrella.errors import ConfigError, StateError, UnknownName, WorldError
from terrella.laws import random_observations, random_rows, shaken
from terrella.nn.quantised import Quantised, quantise
from terrella.registry import names
from terrella.world import Part, World

PARTS, BITS = ("encoder", "dynamics", "decoder"), {"int8": 8, "int4": 4}
SIZES = {  # wide enough to have something to quantise
    "transformer": {"dim": 64, "heads": 2, "layers": 2, "every": 2, "window": 2, "history": 3, "fetch": 1},
    "ssm": {"dim": 64, "heads": 2, "layers": 2, "scan_heads": 4, "state": 8},
    "hybrid": {"dim": 64, "heads": 2, "layers": 2, "every": 2, "window": 4, "scan_heads": 4, "state": 8},
    "language": {"dim": 64, "heads": 2, "layers": 2, "window": 2},
    "token_memory": {"dim": 64, "heads": 2, "layers": 1, "slots": 6, "reads": 4},
    "rssm": {"dim": 64, "blocks": 2, "groups": 4, "classes": 4, "hidden": 64, "width": 64, "layers": 1, "heads": 1},
    "reaction_diffusion": {"dim": 64},
    "flow_wedge": {"reach": 3, "dim": 64},
}


def world_of(dynamics: str = "transformer", pixels: str = "conv") -> World:
    channels = examples("tokenizer", pixels, {"width": 32})[0].spec.channels
    tokenizers = {"pixels": Part(pixels, {"width": 32}), "state": Part("vector", {"channels": channels, "hidden": 64})}
    return shaken(example_world(Part(dynamics, SIZES.get(dynamics, {})), Part("shortcut"), tokenizers, 0.9))


def begin(engine: Engine, batch: int = 2):
    seen = {k: random_observations(s, (batch, 3)).numpy() for k, s in engine.world.spec.modelled.items()}
    return engine.start(seen, random_rows(engine.world.spec.action, batch, 2), seeds=1)


def one_frame(engine: Engine) -> dict[str, np.ndarray]:
    return engine.step(begin(engine), random_rows(engine.world.spec.action, 2, 1)[:, 0])[1].observation


@pytest.fixture(scope="module")
def world() -> World:
    return world_of()


# codes


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 64), (7, 100), (3, 65), (6, 24, 3, 3), (4, 64, 1, 1)]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    made += [w.to(memory_format=torch.channels_last) for w in made if w.ndim == 4]
    spread = torch.logspace(-30, 30, 12)[:, None] * torch.randn(12, 96, generator=generator)
    spread[3] = 0
    return [*made, spread, torch.zeros(2, 64)]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("weight", weights(), ids=lambda w: "x".join(map(str, w.shape)))
def test_a_weight_comes_back_within_half_a_step(weight, bits):
    kept = Quantised(weight, bits, torch.float32)
    codes, scale = kept.right_inverse(weight)
    assert codes.dtype == torch.int8
    back = kept(codes, scale)
    steps = kept(torch.full_like(codes, 1 if bits == 8 else 0x11), scale)  # the weight whose codes are all 1
    assert back.shape == weight.shape
    assert bool(((back - weight).abs() <= steps * 0.500001).all())
    groups = {4: -(-weight[0].numel() // 32), 8: 1}[bits]
    assert scale.shape == (len(weight), groups)
    assert bool((steps <= weight.flatten(1).abs().amax(1).clamp(min=1e-37).reshape(-1, *[1] * (weight.ndim - 1))).all())
    assert bool((back[weight == 0] == 0).all())
    assert kept.right_inverse(back)[0].equal(codes)  # what lies on the grid stays there
    assert back.equal(kept(*kept.right_inverse(back)))
    if weight.ndim == 4:
        assert back.is_contiguous(memory_format=torch.channels_last) == (weight.stride(1) == 1)


def test_each_group_has_a_scale_of_its_own():
    weight = torch.ones(1, 64)
    weight[:, 32:] = 1e-3
    back = {bits: Quantised(weight, bits, torch.float32) for bits in (8, 4)}
    assert torch.allclose(back[4](*back[4].right_inverse(weight)), weight, rtol=2**-8)
    assert float(back[8](*back[8].right_inverse(weight))[0, -1]) == 0  # less than half of 1 / 127


@pytest.mark.parametrize(
    ("shape", "bits", "nbytes"),
    [((64, 192), 4, 64 * 192 * 4.5 / 8), ((64, 192), 8, 64 * 192 + 2 * 64), ((64, 100), 4, 64 * 4 * (26 / 2 + 2))],
)
def test_bytes_are_as_computed(shape, bits, nbytes):
    layer = nn.Linear(shape[1], shape[0], bias=False)
    quantise(layer, layer.weight, bits, torch.float32)
    assert sum(t.nbytes for t in layer.state_dict().values()) == nbytes
    assert sum(t.untyped_storage().nbytes() for t in layer.state_dict().values()) == nbytes


# engines


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("pixels", ["conv", "fsq"])
def test_a_part_alone_is_touched(part, kind, pixels):
    world = world_of(pixels=pixels)
    plain, other = Engine(world), Engine(world, precision={part: kind})
    before, after = plain.weight_bytes, other.weight_bytes
    assert before[part] > after[part] > 0
    assert {p: n for p, n in before.items() if p != part} == {p: n for p, n in after.items() if p != part}
    seen = world.tensors({k: random_observations(s, (2,)).numpy() for k, s in world.spec.modelled.items()})
    with torch.inference_mode():
        z = world.encode(seen)
        same = {"encoder": z.equal(other.world.encode(seen)), "decoder": True}
        for stream, shown in world.decode(z).items():
            same["decoder"] &= shown.equal(other.world.decode(z)[stream])
    assert same == {"encoder": part != "encoder", "decoder": part != "decoder"}
    ours, theirs = plain.world.dynamics.state_dict(), other.world.dynamics.state_dict()
    untouched = ours.keys() == theirs.keys() and all(v.equal(theirs[k]) for k, v in ours.items())
    assert untouched == (part != "dynamics")
    assert all(p.dtype == torch.float32 for p in world.parameters())
    assert not any(parametrize.is_parametrized(m) for m in world.modules())


def test_bytes_are_those_of_the_tensors(world):
    for precision in (None, "bfloat16", "int8", "int4"):
        made = Engine(world, precision=precision)
        counted, tensors = made.weight_bytes, made.world.state_dict()
        assert sum(counted.values()) == sum(t.nbytes for t in tensors.values())
        assert counted["dynamics"] == sum(t.nbytes for t in made.world.dynamics.state_dict().values())
        halves = [t.nbytes for n, t in tensors.items() if n.startswith("tokenizers.") and ".decoder." in n]
        leave = [t.nbytes for n, t in tensors.items() if n.startswith("tokenizers.state.leave.")]
        assert counted["decoder"] == sum(halves + leave)


def test_a_trained_world_in_few_bits():
    world = World.load("coinrun")
    starts = world.starts
    assert starts is not None

    def frame(engine: Engine) -> np.ndarray:
        state = engine.start({"pixels": starts.observations["pixels"][:4]}, starts.actions[:4])
        return engine.step(state, starts.actions[:4, -1])[1].observation["pixels"] / 255.0

    plain = Engine(world)
    true, whole = frame(plain), sum(plain.weight_bytes.values())
    errors, shares = {}, {}
    for kind in ("bfloat16", "int8", "int4"):
        made = Engine(world, precision=kind)
        errors[kind] = float(np.square(frame(made) - true).mean())
        shares[kind] = sum(made.weight_bytes.values()) / whole
    moved = float(np.square(starts.observations["pixels"][:4, -1] / 255.0 - true).mean())
    assert 0 < errors["int8"] < 2e-3 * moved
    assert errors["int8"] < errors["int4"] < 0.1 * moved
    assert 0 < errors["bfloat16"] < 2e-3 * moved
    assert shares["bfloat16"] < 0.51
    assert shares["int8"] < 0.28
    assert shares["int4"] < 0.17


@pytest.mark.parametrize("dynamics", names("dynamics"))
@pytest.mark.parametrize(("kind", "most"), [("bfloat16", 0.15), ("int8", 0.03), ("int4", 0.4)])
def test_every_backbone_steps_in_few_bits(dynamics, kind, most):
    world = world_of(dynamics)
    plain, made = Engine(world), Engine(world, precision=kind)
    assert made.weight_bytes["dynamics"] < plain.weight_bytes["dynamics"]
    assert made.dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)
    shown = one_frame(made)
    for stream, value in one_frame(plain).items():
        assert shown[stream].dtype == value.dtype
        apart = np.abs(shown[stream].astype(float) - value.astype(float)).mean() / value.astype(float).std()
        assert 0 < apart < most


@pytest.mark.parametrize("law", [law for law in LAWS["world"] if law.__name__ != "files_hold_the_world"])
def test_laws_of_worlds_hold_in_few_bits(law, world, monkeypatch):
    made = []

    def engine(*args, **settings):
        made.append(Engine(*args, **settings, precision={"encoder": "int4", "dynamics": "int8", "decoder": "int8"}))
        return made[-1]

    monkeypatch.setattr(check, "Engine", engine)
    law(world, torch.float32)
    assert made
    assert all(m.weight_bytes["dynamics"] < 0.5 * Engine(world).weight_bytes["dynamics"] for m in made)


def test_states_of_another_precision_are_refused(world, tmp_path):
    plain, made = Engine(world), Engine(world, precision={"dynamics": "int8"})
    state, row = begin(made), random_rows(world.spec.action, 2, 1)[:, 0]
    path = state.save(tmp_path / "state")
    for other in (plain, Engine(world, precision={"dynamics": "int4"}), Engine(world, precision="int8")):
        with pytest.raises(StateError, match="precision"):
            other.step(state, row)
        with pytest.raises(StateError, match="precision"):
            other.load_state(path)
    Engine(world, precision={"dynamics": "int8"}).step(made.load_state(path), row)
    Engine(world, precision="float32").step(begin(plain), row)


# settings


def test_ways_to_say_a_precision():
    assert Precision.of("int8") == Precision("int8", "int8", "int8")
    assert Precision.of({"dynamics": "int4"}) == Precision(dynamics="int4")
    assert Precision.of(Precision(decoder="int8")).decoder == "int8"
    for wrong, hint in (("int5", "'int4' or 'int8'|'int8' or 'int4'"), ({"dynamic": "int8"}, "'dynamics'")):
        with pytest.raises(UnknownName, match=f"Did you mean ({hint})"):
            Precision.of(wrong)
    with pytest.raises(UnknownName, match="bfloat16"):
        Precision(encoder=torch.bfloat16)  # pyright: ignore


def test_memory_has_the_type_of_the_dynamics(world):
    make = partial(Engine, world)
    assert make(precision={"dynamics": "bfloat16"}).dtype == torch.bfloat16
    half = make(dtype=torch.bfloat16, precision={"dynamics": "int8"})
    assert {t.dtype for s in begin(half).slabs.segments for t in s.tensors.values()} == {torch.bfloat16}
    assert make(precision="int8").dtype == torch.float32
    for kind, dtype in (("float32", torch.bfloat16), ("bfloat16", torch.float32)):
        with pytest.raises(ConfigError, match="memory"):
            make(dtype=dtype, precision={"dynamics": kind})


def test_an_engines_copy_is_not_passed_on(world, tmp_path):
    made = Engine(world, precision={"dynamics": "int8"})
    with pytest.raises(ConfigError, match="made from"):
        Engine(made.world)
    with pytest.raises(WorldError, match="quantised"):
        made.world.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_must_say_what_encodes(world, monkeypatch):
    monkeypatch.setattr(type(world.tokenizer("pixels")), "encoder_modules", ())
    with pytest.raises(ConfigError, match=r"Conv.encoder_modules"):
        Engine(world, precision={"encoder": "int8"})
    Engine(world, precision={"dynamics": "int8", "decoder": "int8"})


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_still_refused(number):
    world = world_of()
    with torch.no_grad():
        next(p for p in world.tokenizer("pixels").decoder.parameters() if p.ndim == 4)[0, 0, 0, 0] = number  # pyright: ignore
    with pytest.raises(WorldError, match="not finite"):
        Engine(world, precision="int8")
