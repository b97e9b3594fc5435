"""Which moments a world recognises, and fork matrices over these alone; answers held out by combination of factors."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from terrella.arenas import describe, make
from terrella.engine import Engine
from terrella.errors import ConfigError
from terrella.evaluation.dimension import Dimension, build_items
from terrella.evaluation.dimensions import PERCEPTION, find_dimension
from terrella.evaluation.distractors import near_frames
from terrella.evaluation.entrant import WorldEntrant
from terrella.evaluation.forks import fork_groups
from terrella.evaluation.measurements import measure_forks, scale
from terrella.evaluation.moments import Stage
from terrella.evaluation.perception import diagonal, perceive
from terrella.evaluation.recognition import given_back, recognised, told_apart
from terrella.evaluation.references import CopyLast
from terrella.world import World

GROUPS = 16


@pytest.fixture(scope="module")
def forks():
    with make("Pendulum-v1") as env:
        return next(fork_groups(env, describe(env), sizes=[GROUPS], context=2, branches=3, marks=(1, 4), lead=6))


def faint(world: World, share: float) -> World:
    """A copy that gives so much of each number back, and the mean for the rest."""
    copied = copy.deepcopy(world)
    tokenizer = copied.tokenizer("vector")
    for weight in tokenizer.decoder.parameters():
        weight.data.zero_()
    tokenizer.leave.weight.data.mul_(share)
    return copied


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_scores_are_of_the_moments_recognised(forks, pendulum_world, share):
    entrant = WorldEntrant(faint(pendulum_world, share))
    streams = pendulum_world.spec.modelled
    table = measure_forks(entrant, forks, streams, lambda n: None)["streams"]["vector"]
    give, scales = partial(given_back, entrant.engine), {n: scale(forks, n, s) for n, s in streams.items()}
    seen = recognised(give, forks, streams, scales)
    kept, near = table["perceived"].pop("kept"), table["perceived"].pop("near")
    assert near is None
    assert kept == seen.sum()
    assert {1.0: kept == GROUPS, 0.5: 1 < kept < GROUPS, 0.0: kept == 1}[share]  # one frame is nearest to the mean
    for name in ("row", "column", "assign", "left"):
        whole, part = (np.array(t["raw"][name], float) for t in (table["all"], table["perceived"]))
        np.testing.assert_array_equal(part, whole[seen])
    if kept == GROUPS:
        assert table["perceived"] == table["all"]


@pytest.fixture(scope="module")
def near(forks):
    with make("Pendulum-v1") as env:
        return near_frames(Stage(env, describe(env), 0), forks)


def test_near_distractors_differ_in_one_attribute(forks, near):
    frames = near.frames["vector"].astype(np.float64)
    assert near.there.all()
    np.testing.assert_array_equal(frames[:, 0], forks.last("vector"))
    angle = np.arctan2(frames[..., 1], frames[..., 0])
    turned = np.abs(np.angle(np.exp(1j * (angle - angle[:, :1])))) > 1e-6
    faster = np.abs(frames[..., 2] - frames[:, :1, 2]) > 1e-6
    assert (turned ^ faster)[:, 1:].all()  # one of the two quantities that a pendulum has
    assert turned.any()
    assert faster.any()
    apart = np.abs(frames[:, 1:] - frames[:, :1]).max(2)
    assert apart.max() < 2.5
    assert (apart < 0.1).mean() > 0.2


def told(give, near, forks, spec):
    streams = spec.modelled
    return told_apart(give, near, streams, {n: scale(forks, n, s) for n, s in streams.items()})


@pytest.mark.parametrize("name", ["Pendulum-v1", "terrella/Sprites-v0", "procgen/coinrun", "terrella/Pucks-v0"])
def test_who_gives_back_what_is_shown_is_right_and_who_is_blind_at_chance(name):
    env = make(name)
    spec = describe(env)
    forks = next(fork_groups(env, spec, sizes=[6], context=2, branches=4, marks=(1, 3), lead=6))
    near = near_frames(Stage(env, spec, 0), forks)
    right, table = told(lambda frames: frames, near, forks, spec)
    blind, empty = told(lambda frames: {n: np.zeros_like(v) for n, v in frames.items()}, near, forks, spec)
    assert right.all()
    assert not blind.all()
    for stream, found in table.items():
        assert found["n"] > 3
        assert found["left"] > 2
        assert found["row"]["mean"] == [1.0]
        assert empty[stream]["row"]["mean"] == [pytest.approx(empty[stream]["chance"], abs=1e-12)]
    env.close()


def test_near_distractors_are_harder_than_other_moments(forks, near, pendulum_world):
    engine = WorldEntrant(faint(pendulum_world, 0.9)).engine  # a tenth of each number lost
    streams = pendulum_world.spec.modelled
    scales = {n: scale(forks, n, s) for n, s in streams.items()}
    among_all = recognised(partial(given_back, engine), forks, streams, scales)
    among_near, table = told_apart(partial(given_back, engine), near, streams, scales)
    assert among_near.sum() < among_all.sum()
    assert table["vector"]["chance"] < table["vector"]["row"]["mean"][0] < 1
    found = measure_forks(WorldEntrant(faint(pendulum_world, 0.9)), forks, streams, lambda n: None, near)
    assert found["streams"]["vector"]["perceived"]["kept"] == (among_all & among_near).sum()
    assert found["streams"]["vector"]["perceived"]["near"] == table["vector"]


def test_only_worlds_are_asked(forks, pendulum_world):
    found = measure_forks(CopyLast(), forks, pendulum_world.spec.modelled, lambda n: None)
    assert "perceived" not in found["streams"]["vector"]


def test_pictures_are_given_back():
    world = World.load("sprites")
    assert world.starts is not None
    true = {name: world.starts.observations[name][:, -1] for name in world.spec.modelled}
    shown = given_back(Engine(world), true)
    for name, frames in true.items():
        assert (shown[name].shape, shown[name].dtype) == (frames.shape, np.uint8)
        error = np.square(shown[name] / 255.0 - frames / 255.0).mean()
        assert error < 0.2 * np.square(np.roll(frames, 1, 0) / 255.0 - frames / 255.0).mean()


@pytest.mark.parametrize("dimension", PERCEPTION, ids=lambda d: d.id)
def test_combinations_held_out_leave_every_level_and_every_answer(dimension):
    grid = list(dimension.levels())
    numbered = {name: [levels.index(cell[name]) for cell in grid] for name, levels in dimension.factors.items()}
    items = SimpleNamespace(factors={name: np.array(places) for name, places in numbered.items()})
    for seed in range(4):
        out = diagonal(dimension, items, seed)
        assert len(set(np.bincount(items.factors["answer"][out], minlength=dimension.classes))) == 1
        assert 0 < out.mean() <= 0.5
        for name, levels in dimension.factors.items():
            assert set(items.factors[name][~out]) == set(range(len(levels)))


def test_who_knows_the_answer_knows_it_in_new_combinations():
    dimension = find_dimension("DQ")
    with dimension.make() as env:
        items = build_items(dimension, env, layouts=6)
    answer, others = (np.eye(4)[items.factors[name]] for name in ("answer", "others"))
    how = {"held_out": "combinations"}
    known = perceive(dimension, items, answer, **how)["linear"]
    assert known["accuracy"] == 1.0
    assert known["items"] + known["fitted"] < len(items)
    blind = perceive(dimension, items, np.ones((len(items), 3)), **how)["linear"]
    assert blind["accuracy"] == pytest.approx(dimension.chance, abs=1e-9)
    both = (items.factors["answer"] * 3 + items.factors["others"])[:, None] == np.arange(12)
    assert perceive(dimension, items, both.astype(float))["linear"]["accuracy"] == 1.0
    by_heart = perceive(dimension, items, both.astype(float), **how)["linear"]
    assert by_heart["accuracy"] <= dimension.chance + 1e-9
    assert perceive(dimension, items, others, **how)["linear"]["accuracy"] <= dimension.chance + 1e-9
    with pytest.raises(ConfigError, match="held_out"):
        perceive(dimension, items, answer, held_out="factors")


def test_an_answer_alone_has_no_combinations():
    alone = Dimension("x", "visual", "what", "terrella/Pucks-v0", 2, lambda *_: {}, factors={"answer": (0, 1)})
    with pytest.raises(ConfigError, match="no factor beside"):
        diagonal(alone, SimpleNamespace(factors={"answer": np.arange(2)}))
