"""Atomic dimensions: all there, items balanced, one factor at a time; who knows is right, who is blind is at chance."""

from __future__ import annotations

import numpy as np
import pytest

from terrella.arenas import describe
from terrella.errors import ConfigError, UnknownName
from terrella.evaluation.dimension import build_items
from terrella.evaluation.dimensions import DIMENSIONS, PERCEPTION, PREDICTION, find_dimension
from terrella.evaluation.moments import Stage
from terrella.evaluation.perception import credit, entanglement, known, perceive, read, tally
from terrella.evaluation.prediction import dimension_forks, foresee
from terrella.evaluation.probes import pixel_reader
from terrella.evaluation.references import CopyLast, Oracle

SEEN = [d for d in PREDICTION if "MetaWorld" not in d.arena]


def test_all_dimensions_are_there():
    assert len(PERCEPTION) == 16
    assert len(PREDICTION) == 7
    assert len(DIMENSIONS) == 23
    with pytest.raises(UnknownName):
        find_dimension("M-Nov")


@pytest.mark.parametrize("dimension", PERCEPTION, ids=lambda d: d.id)
def test_items_are_balanced_and_differ_by_their_factors(dimension):
    env = dimension.make()
    items = build_items(dimension, env, layouts=1)
    answers = items.factors["answer"]
    assert sorted(set(answers)) == list(range(dimension.classes))
    assert len(set(np.bincount(answers))) == 1
    (frames,) = items.observations.values()
    assert frames.shape[1] == dimension.frames
    seen = {(frame.tobytes(), int(a)) for frame, a in zip(frames, answers)}
    assert len({f for f, _ in seen}) == len(seen), "equal pictures with different answers"
    assert (frames.astype(float).std((1, 2, 3, 4)) > 0).all()
    again = build_items(dimension, env, layouts=2)
    (both,) = again.observations.values()
    np.testing.assert_array_equal(both[: len(frames)], frames)
    assert (both[len(frames) :] != frames).any()
    env.close()


@pytest.mark.parametrize("dimension", PERCEPTION, ids=lambda d: d.id)
def test_who_knows_the_state_is_right_and_who_is_blind_is_at_chance(dimension):
    env = dimension.make()
    items = build_items(dimension, env, layouts=12)
    told = perceive(dimension, items, known(items), kinds=["mlp"])["mlp"]
    assert told["accuracy"] > (dimension.chance + 1) / 2
    assert told["interval"][0] > dimension.chance
    blind = perceive(dimension, items, np.ones((len(items), 3)))["linear"]
    assert blind["accuracy"] == pytest.approx(dimension.chance, abs=1e-9)
    assert set(told["entanglement"]) == set(dimension.factors) - {"answer"}
    env.close()


def test_pixels_tell_where_a_disc_lies():
    dimension = find_dimension("SR")
    env = dimension.make()
    items = build_items(dimension, env, layouts=24)
    (frames,) = read(items, pixel_reader).values()
    assert perceive(dimension, items, frames)["linear"]["interval"][0] > dimension.chance
    env.close()


def test_entanglement_sees_a_factor_that_matters():
    layouts, places = np.repeat(np.arange(20), 4), np.tile([0, 0, 1, 1], 20)
    right = np.where(places == 0, 1.0, 0.5)
    found = entanglement(right, places, layouts)
    assert found["s_re"] == pytest.approx(1 / 3)
    assert found["permuted"] < 0.15
    assert entanglement(np.full(80, 0.7), places, layouts)["s_re"] == pytest.approx(0)


def test_ties_share_credit():
    said = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(credit(said, np.array([0, 2, 1])), [0.5, 0.0, 1 / 3])


@pytest.mark.parametrize("dimension", SEEN, ids=lambda d: d.id)
def test_the_truth_foresees_and_copies_do_not(dimension):
    env = dimension.make()
    items, streams = build_items(dimension, env, layouts=2), describe(env).modelled
    forks = dimension_forks(dimension, env, items)
    oracle = Oracle(Stage(env, describe(env), 0), dict(zip(forks.seeds, forks.states)))
    (told,) = foresee(oracle, items, forks, streams)["readouts"].values()
    assert told["row"]["items"] == len(items)
    assert 1 / 4 <= told["row"]["chance"] <= 1 / 2  # a step into a wall is a rest
    assert told["row"]["chance"] == 1 / 4 or "Blocks" in dimension.arena
    assert [told[way]["accuracy"] for way in ("row", "assign")] == [1.0, 1.0]
    (copied,) = foresee(CopyLast(), items, forks, streams)["readouts"].values()
    for way in ("row", "assign"):
        assert copied[way]["accuracy"] == pytest.approx(told["row"]["chance"], abs=1e-5)
        assert copied[way]["kappa"] == pytest.approx(0, abs=1e-4)
        assert set(copied[way]["entanglement"]) == set(dimension.factors)
    env.close()


def test_answers_are_tallied_where_something_was_asked():
    right = np.array([1.0, np.nan, 0.5, 1.0])
    told = tally(right, np.array([0.5, 1.0, 0.5, 0.25]), np.array([0, 0, 1, 1]), {"way": np.array([0, 1, 0, 1])})
    assert (told["items"], told["accuracy"], told["chance"]) == (3, pytest.approx(5 / 6), pytest.approx(5 / 12))
    assert told["kappa"] == pytest.approx((5 / 6 - 5 / 12) / (1 - 5 / 12))
    assert told["raw"] == {"0": 1.0, "1": 0.75}
    assert told["entanglement"]["way"]["by_level"] == {"0": 0.75, "1": 1.0}
    nothing = tally(np.full(2, np.nan), np.ones(2), np.arange(2), {"way": np.arange(2)})
    assert (nothing["items"], nothing["accuracy"], nothing["entanglement"]) == (0, None, {})


def test_each_kind_is_scored_its_own_way():
    dimension = find_dimension("SR")
    env = dimension.make()
    with pytest.raises(ConfigError):
        dimension_forks(dimension, env, build_items(dimension, env, layouts=1))
    with pytest.raises(ConfigError):
        perceive(dimension, build_items(dimension, env, layouts=1), np.zeros((16, 1)))
    env.close()
