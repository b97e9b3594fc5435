"""Configurations as JSON, the registry of parts, and errors that teach."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrella import errors, registry
from terrella.config import from_json, to_json
from terrella.errors import ConfigError, SpecError, TerrellaError, UnknownName, did_you_mean, missing_extra
from terrella.registry import lookup, names, register
from terrella.spec import ActionSpec, EnvSpec, StreamSpec, WorldSpec
from terrella.training import SIZES, Budget, TrainingConfig, world_config
from terrella.world import Part, WorldConfig

PARTS = [(kind, name) for kind in ("tokenizer", "dynamics", "decoder") for name in names(kind)]
IMAGE, VECTOR = StreamSpec("image", (64, 64, 3)), StreamSpec("vector", (4,), (-1.0,) * 4, (math.inf,) * 4)
SPEC = WorldSpec(
    {"pixels": IMAGE, "state.position": VECTOR, "words": StreamSpec("text")},
    ActionSpec("dict", keys=("a", "b"), children=(ActionSpec("discrete", n=3), ActionSpec("text", n=16, charset="é"))),
    EnvSpec("CartPole-v1", {"render": {"scale": 2.5, "names": ["x", None, True]}}, True, 32, 4),
    ("left", "stay", "right"),
    {"ArrowLeft": (0.0, -1.0), "ArrowLeft+ArrowUp": (2.0, 1e-300)},
    (1.0, -1.0),
    29.97,
)


def there_and_back(value: Any) -> Any:
    return from_json(type(value), json.loads(json.dumps(to_json(value))))


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_parts_config_survives_json(kind, name):
    config = lookup(kind, name).Config()
    assert dataclasses.is_dataclass(config)
    assert there_and_back(config) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_refuses_unknown_settings_by_name(kind, name):
    cls = lookup(kind, name).Config
    fields = [f.name for f in dataclasses.fields(cls)]
    wrong = fields[0] + "x" if fields else "size"
    with pytest.raises(ConfigError, match=f"'{wrong}'") as caught:
        from_json(cls, {wrong: 1})
    assert not fields or f"Did you mean '{fields[0]}'" in str(caught.value)


@pytest.mark.parametrize("preset", SIZES)
def test_presets_survive_json_and_build_worlds_of_their_spec(preset):
    config = world_config(preset, SPEC)
    assert there_and_back(config) == config
    assert there_and_back(SIZES[preset].training) == SIZES[preset].training
    assert set(config.tokenizers) == set(SPEC.modelled)


def test_specs_survive_json_exactly():
    for value in (
        SPEC,
        TrainingConfig(lr=1e-7, context_noise=0.1 + 0.2),
        WorldConfig(Part("a"), Part("b", {"c": [1]})),
    ):
        assert there_and_back(value) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=12,
    ).filter(lambda v: isinstance(v, dict))
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_json_settings_survive(settings_):
    part = Part("x", settings_)
    assert there_and_back(part) == part


@dataclass(frozen=True)
class Inner:
    size: int
    name: str = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float = 0.5
    kind: Literal["red", "blue"] = "red"
    pair: tuple[int, str] = (1, "x")
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    table: dict[str, tuple[float, ...]] = field(default_factory=dict)
    flag: bool = False


def test_nested_values_are_built_as_declared():
    given_ = {
        "inner": {"size": 3},
        "rate": 2,
        "kind": "blue",
        "pair": [4, "y"],
        "many": [{"size": 1}, {"size": 2, "name": "b"}],
        "maybe": {"size": 9},
        "table": {"k": [1, 2.5]},
    }
    built = from_json(Outer, given_)
    assert built == Outer(Inner(3), 2.0, "blue", (4, "y"), (Inner(1), Inner(2, "b")), Inner(9), {"k": (1.0, 2.5)})
    assert isinstance(built.rate, float)
    assert there_and_back(built) == built


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "lacks 'inner'"),
        ({"inner": {}}, "inner lacks 'size'"),
        ({"inner": 3}, "Outer.inner is 3; expected an object"),
        ({"inner": {"size": "3"}}, "inner.size is '3'; expected int"),
        ({"inner": {"size": 1.0}}, "inner.size is 1.0; expected int"),
        ({"inner": {"size": True}}, "inner.size is True; expected int"),
        ({"inner": {"size": None}}, "inner.size is None"),
        ({"inner": {"size": 1, "nme": "b"}}, "Did you mean 'name'"),
        ({"inner": {"size": 1}, "rate": "fast"}, "rate is 'fast'; expected float"),
        ({"inner": {"size": 1}, "rate": True}, "rate is True"),
        ({"inner": {"size": 1}, "flag": 1}, "flag is 1; expected bool"),
        ({"inner": {"size": 1}, "kind": "green"}, "expected one of 'red', 'blue'"),
        ({"inner": {"size": 1}, "pair": [1]}, "pair has 1 items; expected 2"),
        ({"inner": {"size": 1}, "pair": 5}, "pair is 5; expected a list"),
        ({"inner": {"size": 1}, "many": [{"size": 1}, {"sise": 2}]}, r"many\[1\].*Did you mean 'size'"),
        ({"inner": {"size": 1}, "maybe": 7}, "maybe is 7"),
        ({"inner": {"size": 1}, "table": {"k": ["x"]}}, r"table.k\[0\] is 'x'"),
        ({"inner": {"size": 1}, "table": []}, "table is"),
        ([], "Outer is"),
        ({"inner": {"size": 1}, 5: 1}, "'5'"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, says):
    with pytest.raises(ConfigError, match=says):
        from_json(Outer, wrong)


def test_only_plain_values_become_json():
    for value in ({1, 2}, object(), b"bytes", {"a": lambda: 0}):
        with pytest.raises(ConfigError, match="cannot write"):
            to_json(value)


def test_checks_of_a_config_hold_for_json_too():
    with pytest.raises(ConfigError, match="power of two"):
        from_json(lookup("decoder", "shortcut").Config, {"finest": 6})
    with pytest.raises(ConfigError, match="multiple of"):
        from_json(lookup("dynamics", "transformer").Config, {"dim": 30})
    with pytest.raises(SpecError, match="h, w, C"):
        from_json(StreamSpec, {"kind": "image", "shape": [3]})
    for level in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ConfigError, match="context_level"):
            WorldConfig(Part("a"), Part("b"), context_level=level)


# the registry


@pytest.fixture
def scratch_registry(monkeypatch):
    monkeypatch.setattr(registry, "_PARTS", {kind: dict(parts) for kind, parts in registry._PARTS.items()})


@pytest.mark.usefixtures("scratch_registry")
def test_a_part_is_registered_once():
    class Mine:
        pass

    class Other:
        pass

    assert register("dynamics", "mine")(Mine) is Mine
    assert Mine.name == "mine"  # type: ignore[attr-defined]
    assert lookup("dynamics", "mine") is Mine
    assert "mine" in names("dynamics")
    register("dynamics", "mine")(Mine)  # a module that is loaded again is no duplicate
    with pytest.raises(ConfigError, match="choose another name"):
        register("dynamics", "mine")(Other)


def test_wrong_names_are_answered_with_near_ones():
    with pytest.raises(UnknownName, match="Did you mean 'transformer'"):
        lookup("dynamics", "tranformer")
    with pytest.raises(UnknownName, match="Did you mean 'dynamics'"):
        lookup("dynamic", "transformer")
    with pytest.raises(UnknownName, match="kind of part"):
        register("thing", "x")


# errors


def test_every_error_is_ours_and_documented():
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, TerrellaError)
        assert kind.__doc__


def test_suggestions_are_short():
    many = did_you_mean("zzz", [f"item{i}" for i in range(100)], "thing")
    assert str(many).count("item") == 12
    assert "Known: none." in str(did_you_mean("x", [], "thing"))
    assert "pip install 'terrella[text]'" in str(missing_extra("pkg", "text", "A text action"))


# budgets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", Budget(seconds=600)),
        ("90s", Budget(seconds=90)),
        ("1.5h", Budget(seconds=5400)),
        (" 2 min ", Budget(seconds=120)),
        ("5000steps", Budget(steps=5000)),
        ("1 step", Budget(steps=1)),
    ],
)
def test_budgets_are_read(text, expected):
    assert Budget.parse(text) == expected
    assert there_and_back(expected) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "0s", "ten minutes", "5 epochs", "1e3s", "nan s"])
def test_wrong_budgets_say_what_is_expected(text):
    with pytest.raises(ConfigError, match="10m"):
        Budget.parse(text)


def test_budgets_are_shared_and_used_up():
    whole = Budget(steps=100)
    assert (whole.share(0.25), whole.share(0.75)) == (Budget(steps=25), Budget(steps=75))
    assert [whole.progress(s, 1e9) for s in (0, 50, 100, 200)] == [0.0, 0.5, 1.0, 1.0]
    assert [Budget(seconds=10).progress(10**9, s) for s in (0.0, 5.0, 20.0)] == [0.0, 0.5, 1.0]
    assert Budget(steps=0).progress(0, 0.0) == 1.0
    assert Budget(seconds=0.0).progress(0, 0.0) <= 1.0
