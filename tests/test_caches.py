"""Feature caches: what a forecast is exact on, what is counted, and that sessions remain sessions."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.engine import CACHES, FeatureCache, State
from terrella.engine.cache_rules import best_mask
from terrella.engine.forecast import Points, by_token, curvature, fine, polynomial
from terrella.errors import ConfigError, StateError, UnknownName
from terrella.laws import shaken
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import Part, World

SPEC = WorldSpec({"pixels": StreamSpec("image", (32, 32, 3))}, ActionSpec("discrete", n=3))
STEPS = 8


@pytest.fixture(scope="module")
def world() -> World:
    torch.manual_seed(0)
    return shaken(World(SPEC, world_config("debug", SPEC)), torch.float64)


def engine(world: World, cache: FeatureCache | str | None = None, **options) -> Engine:
    return Engine(world, steps=STEPS, cache=cache, dtype=torch.float64, **options)


def begin(made: Engine, batch: int, seeds: int = 5) -> State:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 2, 32, 32, 3), np.uint8)
    return made.start({"pixels": pixels}, np.zeros((batch, 1, 1)), seeds=seeds)


def latents(state: State) -> torch.Tensor:
    return state.slabs.recurrent["previous"]


# forecasts


def points_of(function, at) -> Points:
    every, points = torch.ones(2, dtype=torch.bool), Points()
    for step in at:
        points.add(step, function(step), every)
    return points


@pytest.mark.parametrize(
    ("order", "at"), [(1, (0, 1)), (1, (0, 3, 4)), (2, (0, 1, 2)), (2, (0, 2, 5)), (2, (1, 4, 5, 7))]
)
def test_a_polynomial_is_continued_exactly(order, at):
    generator = torch.Generator().manual_seed(order)
    terms = torch.randn(order + 2, 2, 4, 3, generator=generator, dtype=torch.float64)

    def path(step: int, degree: int) -> torch.Tensor:
        return sum((terms[i] * step**i for i in range(degree + 1)), torch.zeros_like(terms[0]))

    ahead = at[-1] + 2
    points = points_of(lambda s: path(s, order), at)
    assert torch.allclose(polynomial(points, ahead, order), path(ahead, order), rtol=0, atol=1e-9)
    # One degree more, and it is not.
    points = points_of(lambda s: path(s, order + 1), at)
    assert not torch.allclose(polynomial(points, ahead, order), path(ahead, order + 1), rtol=0, atol=1e-3)


def test_sessions_have_points_of_their_own():
    x = torch.arange(10.0, dtype=torch.float64)[:, None, None, None].expand(10, 2, 1, 1)
    points = Points()
    for step, computed in enumerate([(1, 1), (1, 0), (0, 1), (1, 1)]):
        points.add(step, x[step], torch.tensor(computed, dtype=torch.bool))
    assert [at.tolist() for at in points.at] == [[3, 3], [1, 2], [0, 0]]
    assert torch.allclose(polynomial(points, 6, 2), x[6])


def test_only_bending_tokens_are_curved():
    line = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bent = line.clone()
    bent[:, 4:] *= 3
    straight = points_of(lambda s: line * s, (0, 1, 2))
    assert curvature(straight).abs().max() < 1e-9
    points = points_of(lambda s: torch.cat([line[:, :4] * s, bent[:, 4:] * s * s], 1), (0, 1, 2))
    assert (curvature(points)[:, 4:] > 0.01).all()
    # Where nothing bends, tokens go straight on, but for the calmest, which are reused.
    forecast = by_token(points, 3, 2, low=0.0, high=0.7)
    assert torch.allclose(forecast[:, :4], 3 * line[:, :4])


def test_fine_and_coarse_add_up():
    x, y = torch.randn(2, 3, 16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(fine(2 * x + y, (4, 4)), 2 * fine(x, (4, 4)) + fine(y, (4, 4)))
    assert torch.allclose(fine(fine(x, (4, 4)), (4, 4)), fine(x, (4, 4)))
    assert fine(torch.ones(1, 16, 2), (4, 4)).abs().max() < 1e-6


@pytest.mark.parametrize("computed", [1, 2, 3, 5])
def test_the_best_mask_is_the_best_of_all(computed):
    values = torch.randn(8, 1, 3, 2, generator=torch.Generator().manual_seed(computed)).cumsum(0)

    def cost(mask) -> float:
        last, total = values[0], 0.0
        for value, kept in zip(values, mask):
            last = value if kept else last
            total += float((value - last).abs().sum())
        return total

    every = ([i in {0, *chosen} for i in range(8)] for chosen in combinations(range(1, 8), computed - 1))
    mask = best_mask(values, computed)
    assert sum(mask) == computed
    assert cost(mask) == pytest.approx(min(map(cost, every)))


# frames


def test_a_cache_that_computes_all_changes_nothing(world):
    plain, cached = engine(world), engine(world, FeatureCache(mask=(True,) * STEPS))
    one, other = begin(plain, 2), begin(cached, 2)
    for _ in range(2):
        one, _ = plain.step(one, np.ones((2, 1)))
        other, frame = cached.step(other, np.ones((2, 1)))
        assert torch.equal(latents(one), latents(other))
        assert frame.info["evaluations"].tolist() == [STEPS, STEPS]


def test_the_first_layer_alone_and_then_the_rest_is_the_whole_network(world):
    plain, cached = engine(world), engine(world, FeatureCache("layer", threshold=0.0), fused=True)
    whole, _ = plain.rollout(begin(plain, 2), np.ones((2, 3, 1)))
    parted, others = cached.rollout(begin(cached, 2), np.ones((2, 3, 1)))
    assert torch.equal(latents(whole), latents(parted))
    assert others.info["evaluations"].tolist() == [[STEPS] * 3] * 2
    # Nothing but the layer itself is passed for a step that is not computed.
    idle = engine(world, FeatureCache("layer", threshold=1e6, furthest=STEPS))
    called = []
    hooks = [block.register_forward_hook(lambda *_: called.append(1)) for block in idle.world.dynamics.blocks]
    state = begin(idle, 2)
    called.clear()
    idle.step(state, np.ones((2, 1)))
    for hook in hooks:
        hook.remove()
    layers, written = len(idle.world.dynamics.blocks), idle.world.dynamics.depth
    assert len(called) == layers + (STEPS - 1) + written


def test_the_first_layer_is_asked_only_where_there_is_one():
    config = world_config("debug", SPEC)
    other = World(SPEC, replace(config, dynamics=Part("rssm")))
    with pytest.raises(ConfigError, match="first layer"):
        Engine(other, cache="first_layer")


@pytest.mark.parametrize(
    ("cache", "count"),
    [
        (FeatureCache(every=2), 4),
        (FeatureCache(every=4), 2),
        (FeatureCache(every=100), 1),
        (FeatureCache(first=3, every=3, order=2), 4),
        (FeatureCache(mask=(True, False, True)), 7),
        ("taylor", 5),
        ("frequency", 4),
    ],
    ids=str,
)
def test_a_schedule_computes_as_many_steps_as_it_says(world, cache, count):
    made = engine(world, cache)
    called = []
    predict = made.world.dynamics.predict
    made.world.dynamics.predict = lambda *given: called.append(1) or predict(*given)
    try:
        _, frame = made.step(begin(made, 2), np.ones((2, 1)))
    finally:
        del made.world.dynamics.predict
    assert frame.info["evaluations"].tolist() == [count, count]
    assert len(called) == count


@pytest.mark.parametrize("name", CACHES)
def test_caches_forecast_something_and_stay_near(world, name):
    plain, cached = engine(world), engine(world, name)
    rows = np.ones((2, 3, 1))
    one, _ = plain.rollout(begin(plain, 2), rows)
    other, frames = cached.rollout(begin(cached, 2), rows)
    assert frames.info["evaluations"].shape == (2, 3)
    assert frames.info["evaluations"].min() < STEPS
    assert not torch.equal(latents(one), latents(other))
    apart = (latents(one) - latents(other)).square().mean() / latents(one).square().mean()
    assert apart < 0.5


@pytest.mark.parametrize("name", [*CACHES, "guarded"])
def test_sessions_of_a_batch_and_branches_are_alone(world, name):
    cache = FeatureCache(every=4, guard=2, bound=1e-4) if name == "guarded" else name
    made = engine(world, cache)
    rows = np.random.default_rng(1).integers(0, 2, (2, 5, 1))
    apart = begin(made, 2)
    late, _ = made.step(apart.select([0]), rows[:1, 0])
    early = apart.select([1])
    both, frames = made.rollout(State.merge([late, early]), rows[:, 1:])
    for i, state in enumerate((late, early)):
        lone, frame = made.rollout(state, rows[i : i + 1, 1:])
        assert np.array_equal(frame.info["evaluations"][0], frames.info["evaluations"][i])
        assert torch.allclose(latents(lone)[0], latents(both)[i], rtol=0, atol=1e-9)
    root, _ = made.step(begin(made, 1), rows[:1, 0])
    branches, _ = made.rollout(root.fork(2), rows[:, 1:])
    for i in range(2):
        lone, _ = made.rollout(root.fork(1), rows[i : i + 1, 1:])
        assert torch.allclose(latents(lone)[0], latents(branches)[i], rtol=0, atol=1e-9)


def test_across_frames_an_action_that_changes_is_computed(world, tmp_path):
    made = engine(world, FeatureCache("across", furthest=2))
    state = begin(made, 1)
    counts = []
    for action in (0, 0, 0, 0, 1, 1, 2):
        state, frame = made.step(state, np.full((1, 1), action))
        counts.append(int(frame.info["evaluations"][0]))
    assert counts == [STEPS, 1, 1, STEPS, STEPS, 1, STEPS]
    # What is remembered is saved with the session, and is no other engine's.
    loaded = made.load_state(state.save(tmp_path / "state.safetensors"))
    one, _ = made.rollout(state, np.full((1, 2, 1), 2))
    other, _ = made.rollout(loaded, np.full((1, 2, 1), 2))
    assert torch.equal(latents(one), latents(other))
    with pytest.raises(StateError, match="another world"):
        engine(world).load_state(tmp_path / "state.safetensors")


def test_the_guard_stops_what_errs_and_lets_be_what_does_not(world):
    counts = {}
    for bound in (0.0, 100.0):
        made = engine(world, FeatureCache(every=100, guard=3, bound=bound))
        _, frames = made.rollout(begin(made, 1), np.ones((1, 9, 1)))
        counts[bound] = frames.info["evaluations"][0].tolist()
    assert counts[100.0] == [1, STEPS, 1, 1, STEPS, 1, 1, STEPS, 1]  # frames 2 and 4 are not watched, 3 is
    assert counts[0.0][:2] == [1, STEPS]
    assert set(counts[0.0][1:]) == {STEPS}


@pytest.mark.parametrize(
    "wrong",
    [{"first": 0}, {"mask": (False, True)}, {"order": 2}, {"order": 3}, {"guard": 1000}, {"first": 2, "tokens": True}],
    ids=str,
)
def test_impossible_caches_are_refused(wrong):
    with pytest.raises(ConfigError):
        FeatureCache(**wrong)


def test_names_are_checked(world):
    with pytest.raises(UnknownName, match="interval"):
        engine(world, "intervall")
    with pytest.raises(UnknownName, match="schedule"):
        FeatureCache("scheduled")  # pyright: ignore
    vector = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=3))
    config = world_config("debug", vector)
    made = Engine(World(vector, replace(config)), cache="frequency")  # one token is a grid, too
    assert made.tokens.grid == (1, 1)
