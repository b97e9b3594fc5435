"""Actions to rows and back, over random spaces; and that what does not fit is refused in words."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from terrella import config
from terrella.actions import action_space, action_spec, decode, describe, encode, width
from terrella.errors import ActionError
from terrella.spec import ActionSpec

SHAPES = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)
KEYS = st.text("abcdeß. ", min_size=1, max_size=4)


def _box(shape: tuple[int, ...], dtype: str, low: int, span: int) -> spaces.Box:
    if dtype == "uint8":
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(low, low + span, shape, np.dtype(dtype).type)


LEAVES = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 300), st.integers(-50, 50)),
    st.builds(
        _box,
        SHAPES,
        st.sampled_from(["float32", "float64", "int32", "int8", "uint8"]),
        st.integers(-9, 9),
        st.integers(1, 90),
    ),
    st.builds(lambda shape: spaces.Box(-np.inf, np.inf, shape), SHAPES),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(spaces.MultiDiscrete),
    st.builds(lambda n: spaces.MultiDiscrete(np.full((2, n), 3)), st.integers(1, 3)),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 3), st.integers(1, 3)))),
    st.builds(
        lambda n, c: spaces.Text(n, charset=c),
        st.integers(1, 12),
        # Gymnasium samples characters from a NumPy array, which drops a NUL: what it draws is not in its own space.
        st.sets(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map("".join),
    ),
)
SPACES = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        st.lists(children, max_size=3).map(spaces.Tuple), st.dictionaries(KEYS, children, max_size=3).map(spaces.Dict)
    ),
    max_leaves=6,
)


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, str):
        return a == b
    return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)


@settings(max_examples=150, deadline=None)
@given(space=SPACES, seed=st.integers(0, 2**31 - 1))
def test_every_action_survives_the_row_and_the_spec_survives_json(space: gym.Space, seed: int):
    spec = action_spec(space)
    assert config.from_json(ActionSpec, json.loads(json.dumps(config.to_json(spec)))) == spec
    rebuilt = action_space(spec)
    space.seed(seed)
    for _ in range(3):
        action = space.sample()
        row = encode(spec, action)
        assert row.shape == (width(spec),)
        assert row.dtype == np.float64
        back = decode(spec, row)
        assert same(action, back)
        assert space.contains(back)
        assert rebuilt.contains(back)
        assert np.array_equal(encode(spec, back), row)
    assert action_spec(rebuilt) == spec
    assert describe(spec)


@given(text=st.text(max_size=10))
def test_any_text_survives(text: str):
    spec = action_spec(spaces.Text(10, min_length=0))
    try:
        row = encode(spec, text)
    except ActionError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in text)  # half a surrogate pair is no character
        return
    assert decode(spec, row) == text
    assert decode(spec, row.astype(np.float32)) == text


@pytest.mark.parametrize(
    ("space", "action", "says"),
    [
        (spaces.Discrete(3), 3, "0..2"),
        (spaces.Discrete(3, start=5), 4, "5..7"),
        (spaces.Discrete(3), 1.5, "integers"),
        (spaces.Discrete(3), "left", "Discrete"),
        (spaces.Discrete(3), [0, 1], "1 numbers"),
        (spaces.Box(-1, 1, (2,)), [0.0], "2 numbers"),
        (spaces.Box(-1, 1, (2,)), [0.0, float("nan")], "finite"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], "Discrete"),
        (spaces.MultiBinary(2), [0, 2], "Binary"),
        (spaces.Text(3), "four", "at most 3"),
        (spaces.Text(3), 7, "string"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1,), "2 parts"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 1}, "'a'"),
        (spaces.Dict(a=spaces.Discrete(2)), 1, "dict"),
    ],
)
def test_what_does_not_fit_is_refused(space: gym.Space, action, says: str):
    with pytest.raises(ActionError, match=says):
        encode(action_spec(space), action)


def test_parts_of_wrong_sizes_with_the_right_sum_are_refused():
    spec = action_spec(spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))]))
    with pytest.raises(ActionError, match="needs 2"):
        encode(spec, ([0.1], [0.2, 0.3]))


def test_a_network_s_row_is_rounded_where_the_space_has_integers():
    spec = action_spec(spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2), spaces.Box(0, 1, (1,))]))
    choice, buttons, stick = decode(spec, np.array([1.9999, 0.01, 0.98, 0.5]))
    assert choice == 2
    assert buttons.tolist() == [0, 1]
    assert stick.tolist() == [0.5]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(2)),
        spaces.MultiDiscrete([2, 2], start=[1, 0]),
        spaces.Dict({1: spaces.Discrete(2)}),
    ],
)
def test_spaces_without_a_row_form_are_refused(space: gym.Space):
    with pytest.raises(ActionError):
        action_spec(space)


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ActionError, match=r"expected \(1,\)"):
        decode(action_spec(spaces.Discrete(2)), np.zeros(2))
