"""What an engine does beyond the laws that every world keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.engine import FeatureCache
from terrella.engine.budget import Budget
from terrella.errors import ActionError, ConfigError, SpecError, StateError, StateSpent, WorldError
from terrella.laws import shaken
from terrella.nn.noise import keyed_normal
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

VECTOR = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=3))
SPEC = WorldSpec({"pixels": StreamSpec("image", (32, 32, 3))}, ActionSpec("discrete", n=3))


def engine(reencode: bool) -> Engine:
    torch.manual_seed(0)
    world = World(SPEC, replace(world_config("debug", SPEC), reencode=reencode))
    return Engine(shaken(world))


@pytest.mark.parametrize("reencode", [False, True])
def test_what_enters_the_memory(reencode):
    made = engine(reencode)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    state = made.start({"pixels": pixels}, np.zeros((2, 2, 1)))
    state, frame = made.step(state, np.ones((2, 1)))
    seen = made.world.encode({"pixels": torch.from_numpy(frame.observation["pixels"])})
    same = torch.allclose(state.slabs.recurrent["previous"], seen, atol=1e-5)
    assert same == reencode


def test_reencoding_changes_the_next_frame_only_through_the_memory():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 32, 3), np.uint8)
    films = []
    for reencode in (False, True):
        made = engine(reencode)
        state = made.start({"pixels": pixels}, seeds=3)
        films.append(made.rollout(state, np.ones((1, 4, 1)))[1].observation["pixels"])
    assert np.array_equal(films[0][:, 0], films[1][:, 0])
    assert not np.array_equal(films[0], films[1])


def poison(world: World, part: str) -> None:
    """Make a world predict what is not finite, in one of the places where it can begin."""
    with torch.no_grad():
        if part == "latents":
            weights = [p for n, p in world.dynamics.named_parameters() if not n.startswith("outcome")]
            assert len(weights) < len(list(world.dynamics.parameters()))
        elif part == "outcome":
            weights = list(world.dynamics.outcome.parameters())  # pyright: ignore
        else:
            weights = [world.reward_scale]
        for weight in weights:
            weight.fill_(torch.inf if part == "scale" else torch.nan)


@pytest.mark.parametrize("spec", [SPEC, VECTOR], ids=["pixels", "vector"])
@pytest.mark.parametrize("part", ["latents", "outcome", "scale"])
@pytest.mark.parametrize("reencode", [False, True])
def test_numbers_that_are_not_finite_are_refused(spec, part, reencode):
    torch.manual_seed(0)
    world = shaken(World(spec, replace(world_config("debug", spec), reencode=reencode), "ill"))
    poison(world, part)
    made = Engine(world)
    name, stream = next(iter(spec.streams.items()))
    state = made.start({name: np.zeros((2, 1, *stream.shape), np.uint8)}, seeds=3)
    kept = state.fork(1)
    with pytest.raises(WorldError, match=r"'ill' predicted .* not finite in sessions \[0, 1\] of 2\. Go on"):
        made.step(state, np.ones((2, 1)))
    with pytest.raises(StateSpent):
        made.step(state, np.ones((2, 1)))
    with pytest.raises(WorldError, match="not finite"):
        made.rollout(kept, np.ones((2, 3, 1)))


def test_only_the_session_that_is_ill_is_named():
    torch.manual_seed(0)
    made = Engine(shaken(World(VECTOR, world_config("debug", VECTOR), "ill")))
    seen = np.zeros((3, 1, 2), np.float32)
    seen[1] = np.nan
    state = made.start({"vector": seen})
    with pytest.raises(WorldError, match=r"sessions \[1\] of 3"):
        made.step(state, np.ones((3, 1)))


def test_tokenizers_that_are_not_finite_are_refused():
    world = World(SPEC, world_config("debug", SPEC), "ill")
    with torch.no_grad():
        next(iter(world.tokenizer("pixels").decoder.parameters())).fill_(torch.nan)  # pyright: ignore
    with pytest.raises(WorldError, match=r"'ill' has weights that are not finite \(tokenizers\.pixels\.decoder"):
        Engine(world)


@pytest.mark.parametrize("settings", [{}, {"layers": 4, "every": 2, "sinks": 2, "window": 3}, {"sinks": 0}], ids=str)
@pytest.mark.parametrize("decoder", ["shortcut", "regression"])
def test_writing_and_beginning_in_one_pass_changes_nothing(settings, decoder):
    torch.manual_seed(0)
    config = world_config("debug", VECTOR, decoder)
    config = replace(config, dynamics=replace(config.dynamics, config=config.dynamics.config | settings))
    world = shaken(World(VECTOR, replace(config, context_level=0.8)), torch.float64)
    rng = np.random.default_rng(0)
    vectors, rows = rng.normal(size=(3, 2, 2)).astype(np.float32), rng.integers(0, 3, (6, 9, 1))
    ends = []
    for fused in (False, True):
        made = Engine(world, dtype=torch.float64, fused=fused)
        state = made.start({"vector": vectors}, np.zeros((3, 1, 1)), seeds=5).fork(2)
        ends.append(made.rollout(state, rows))
    (apart, one), (together, other) = ends
    np.testing.assert_allclose(one.observation["vector"], other.observation["vector"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(one.reward, other.reward, rtol=0, atol=1e-7)
    for name, value in apart.slabs.recurrent.items():
        assert torch.allclose(value, together.slabs.recurrent[name], rtol=0, atol=1e-10), name
    last, same = (s.slabs.owned().segments[0].tensors["keys"] for s in (apart, together))
    assert torch.allclose(last, same, rtol=0, atol=1e-10)


def test_a_rollout_that_nobody_looks_at_earns_the_same():
    made = engine(False)
    pixels = np.zeros((2, 1, 32, 32, 3), np.uint8)
    state = made.start({"pixels": pixels}, seeds=3)
    rows = np.ones((2, 3, 1))
    _, seen = made.rollout(state.fork(1), rows)
    _, blind = made.rollout(state, rows, observe=False)
    assert not blind.observation
    np.testing.assert_array_equal(seen.reward, blind.reward)


def films(made: Engine, batch: int) -> list[np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 2, 32, 32, 3), np.uint8)
    state = made.start({"pixels": pixels}, np.zeros((batch, 1, 1)), seeds=3)
    shown = []
    for _ in range(3):
        state, frame = made.step(state, np.ones((batch, 1)))
        shown.append(frame.observation["pixels"].astype(int))
    return shown


def test_what_cannot_be_compiled_runs_as_before(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no compiler")

    plain = engine(False)
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: refuse)
    with pytest.warns(UserWarning, match=r"cannot be compiled here \(no compiler\)"):
        made = Engine(plain.world, compiled=2)
    for one, other in zip(films(plain, 2), films(made, 2)):
        assert np.array_equal(one, other)


def test_batch_sizes_to_compile_are_checked():
    with pytest.raises(ConfigError, match="at least 1"):
        Engine(engine(False).world, compiled=0)


@pytest.mark.slow
def test_noise_is_the_same_in_compiled_graphs():
    seeds, frames = torch.arange(3), torch.full((3,), 5)
    compiled = torch.compile(lambda a, b: keyed_normal(a, b + 1, 1, 768), fullgraph=True, dynamic=False)
    assert torch.equal(compiled(seeds, frames), keyed_normal(seeds, frames + 1, 1, 768))


@pytest.mark.slow
def test_compiled_frames_are_the_same_frames():
    plain = engine(False)
    made = Engine(plain.world, compiled=2)
    for batch in (2, 3):
        for one, other in zip(films(plain, batch), films(made, batch)):
            assert np.abs(one - other).max() <= 1
    state = made.start({"pixels": np.zeros((2, 1, 32, 32, 3), np.uint8)}, seeds=1)
    kept = state.fork(1)
    rows = np.ones((2, 3, 1))
    _, ahead = made.rollout(state, rows)
    _, apart = plain.rollout(kept, rows)
    assert np.abs(ahead.observation["pixels"].astype(int) - apart.observation["pixels"]).max() <= 1


def test_branches_that_act_alike_are_drawn_once(monkeypatch):
    torch.manual_seed(0)
    made = Engine(shaken(World(VECTOR, world_config("debug", VECTOR)), torch.float64), dtype=torch.float64)
    drawn = []
    stepper = made._stepper(made.steps)
    draw = stepper.draw
    monkeypatch.setattr(stepper, "draw", lambda slabs, *rest: drawn.append(slabs.batch) or draw(slabs, *rest))
    rng = np.random.default_rng(0)
    state, _ = made.step(made.start({"vector": np.ones((1, 1, 2), np.float32)}, seeds=3), np.ones((1, 1)))
    rows = rng.integers(0, 3, (27, 4, 1))
    rows[:, :2, 0] = np.stack([np.arange(27) // 9, np.arange(27) // 3 % 3], 1)
    branches, apart = state.fork(27), state.fork(27)
    apart.twins = None
    for t in range(4):
        branches, one = made.step(branches, rows[:, t])
        apart, other = made.step(apart, rows[:, t])
        np.testing.assert_allclose(one.observation["vector"], other.observation["vector"], rtol=0, atol=1e-6)
    assert drawn == [1, 3, 27, 9, 27, 27, 27, 27, 27]
    assert torch.allclose(branches.slabs.recurrent["previous"], apart.slabs.recurrent["previous"], rtol=0, atol=1e-10)
    # Other seeds are other sessions, whatever they do.
    _, frame = made.step(state.fork(4).reseed([1, 2, 3, 3]), np.ones((4, 1)))
    values = frame.observation["vector"]
    assert np.array_equal(values[2], values[3])
    assert not np.array_equal(values[0], values[1])


def run_budget(budget: Budget, costs, frames: int) -> list[tuple[int, float]]:
    """Steps and milliseconds of frames whose cost is a function of (frame, steps)."""
    taken = []
    for frame in range(frames):
        rung = budget.choose(1)
        taken.append((budget.steps[rung], costs(frame, budget.steps[rung])))
        budget.note(1, rung, taken[-1][1])
    return taken


def test_a_budget_takes_what_fits_and_gives_way_under_load():
    budget = Budget(20.0, (8, 4, 2, 1))
    rng = np.random.default_rng(0)

    def costs(frame: int, steps: int) -> float:
        load = 2.0 if 200 <= frame < 400 else 1.0
        return load * (3 + 2 * steps) * rng.uniform(0.95, 1.1)

    taken = run_budget(budget, costs, 600)
    assert {steps for steps, _ in taken[20:200]} == {4}  # 11 ms; 8 steps would take 19, too near to 20
    assert {steps for steps, _ in taken[250:400]} <= {1, 2}
    assert taken[-1][0] == 4
    late = sum(ms > 20 for _, ms in taken)
    assert late <= 0.05 * len(taken)


def test_a_budget_that_nothing_fits_takes_the_fewest_steps():
    taken = run_budget(Budget(1.0, (4, 1)), lambda frame, steps: 5.0 * steps, 100)
    assert {steps for steps, _ in taken} == {1}


def test_the_steps_of_one_frame_can_be_chosen():
    world = engine(False).world
    two, four = Engine(world, steps=2), Engine(world, steps=4)
    start = {"pixels": np.zeros((2, 1, 32, 32, 3), np.uint8)}
    _, wanted = four.step(four.start(start, seeds=3), np.ones((2, 1)))
    state, plain = two.step(two.start(start, seeds=3), np.ones((2, 1)))
    _, chosen = two.step(two.start(start, seeds=3), np.ones((2, 1)), steps=4)
    assert np.array_equal(chosen.observation["pixels"], wanted.observation["pixels"])
    assert not np.array_equal(chosen.observation["pixels"], plain.observation["pixels"])
    with pytest.raises(ConfigError, match="steps is 3"):
        two.step(state, np.ones((2, 1)), steps=3)
    two.step(state, np.ones((2, 1)))  # a refusal consumes nothing
    remembering = Engine(world, steps=4, cache="across")
    with pytest.raises(ConfigError, match="remembers is of 4"):
        remembering.step(remembering.start(start, seeds=3), np.ones((2, 1)), steps=2)


def test_an_engine_with_a_budget_says_how_many_steps_it_took():
    world = engine(False).world
    made = Engine(world, budget_ms=10_000.0)
    state = made.start({"pixels": np.zeros((2, 1, 32, 32, 3), np.uint8)}, seeds=3)
    state, first = made.step(state, np.ones((2, 1)))
    for _ in range(4):
        state, frame = made.step(state, np.ones((2, 1)))
    assert first.info["steps"].tolist() == [1, 1]
    assert frame.info["steps"].tolist() == [8, 8]
    _, frame = Engine(world, budget_ms=1e-6, steps=4).step(state.fork(1), np.ones((2, 1)))
    assert frame.info["steps"].tolist() == [1, 1]
    with pytest.raises(ConfigError, match="more than 0"):
        Engine(world, budget_ms=0)
    with pytest.raises(ConfigError, match="choose one"):
        Engine(world, budget_ms=10, cache="across")


def test_what_was_observed_replaces_what_was_dreamed():
    torch.manual_seed(0)
    made = Engine(shaken(World(VECTOR, world_config("debug", VECTOR))), steps=4, cache=FeatureCache("across"))
    seen = np.random.default_rng(0).normal(size=(1, 3, 2)).astype(np.float32)
    state = made.start({"vector": seen[:, :2]}, np.zeros((1, 1, 1)))
    branches, dreamed = made.step(state.fork(4), np.zeros((4, 1)))  # twins, which remember the steps of this dream
    assert len(np.unique(dreamed.observation["vector"], axis=0)) == 1
    assert made.step(branches.fork(1), np.zeros((4, 1)))[1].info["evaluations"].tolist() == [1, 1, 1, 1]
    frames = seen[:, 2] + np.arange(4, dtype=np.float32)[:, None]
    told = made.observe(branches, np.zeros((4, 1)), {"vector": frames})
    _, frame = made.step(told, np.zeros((4, 1)))
    assert frame.info["evaluations"].tolist() == [4, 4, 4, 4]
    assert len(np.unique(frame.observation["vector"], axis=0)) == 4


def test_frames_to_observe_are_checked_before_anything_is_consumed():
    made = Engine(shaken(World(VECTOR, world_config("debug", VECTOR))))
    state, rows = made.start({"vector": np.zeros((2, 1, 2), np.float32)}), np.zeros((2, 1))
    for seen in (np.zeros((2, 1, 2)), np.zeros((3, 2)), np.zeros((2, 3))):
        with pytest.raises(SpecError, match=r"shape|one frame each"):
            made.observe(state, rows, {"vector": seen})
    good = {"vector": np.zeros((2, 2))}
    with pytest.raises(SpecError, match="lack the stream"):
        made.observe(state, rows, {"vektor": np.zeros((2, 2))})
    with pytest.raises(ActionError, match=r"\(3, 1\)"):
        made.observe(state, np.zeros((3, 1)), good)
    with pytest.raises(StateError, match="another world"):
        Engine(World(VECTOR, world_config("debug", VECTOR))).observe(state, rows, good)
    assert not state.spent
    made.observe(state, rows, good)
    with pytest.raises(StateSpent):
        made.observe(state, rows, good)
