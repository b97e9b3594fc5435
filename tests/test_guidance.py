"""Frames drawn beyond what an action leads to, and the training without actions that it needs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.check import example_world
from terrella.citation import cite
from terrella.data import Dataset
from terrella.engine import State
from terrella.errors import ConfigError, SpecError, TrainingError
from terrella.laws import random_observations, random_rows, shaken
from terrella.nn.latents import Noise
from terrella.nn.noise import SAMPLE, keyed_normal
from terrella.nn.slabs import Slabs
from terrella.planning import Return, make_planner
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import TrainingConfig, distill_guidance, train, world_config
from terrella.training.distill import guided_loss
from terrella.training.loop import require_still
from terrella.training.objective import clip_loss
from terrella.world import Part, World

SPEC = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("box", shape=(1,), low=(-1.0,), high=(1.0,)))
SMALL = Part("transformer", {"dim": 16, "heads": 1, "layers": 2, "every": 1, "window": 3})


def world(decoder: str = "shortcut") -> World:
    torch.manual_seed(0)
    made = shaken(World(SPEC, world_config("debug", SPEC, decoder)), torch.float64)
    made.record = {"training": {"action_dropout": 0.1}}
    return made


def begun(made: Engine, batch: int = 3) -> State:
    seen = np.random.default_rng(0).normal(size=(batch, 4, 2)).astype(np.float32)
    return made.start({"vector": seen}, np.full((batch, 3, 1), 0.3), seeds=5)


def expected(made: Engine, slabs: Slabs, row: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What a regression draws, by two calls of the backbone."""
    told, untold = (made.world.dynamics.predict(slabs, r) for r in (row, torch.full_like(row, torch.nan)))
    return told + weight[:, None, None] * (told - untold)


def test_a_guided_frame_is_what_two_calls_say() -> None:
    made = Engine(world("regression"), dtype=torch.float64, recall=1)
    state, row = begun(made), torch.tensor([[0.5], [-0.5], [1.0]])
    weight = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)
    with torch.inference_mode():
        wanted = expected(made, state.slabs, row, weight)
    plain = made.step(state.fork(1), row)[1].latent
    _, frame = made.step(state, row, guidance=weight.numpy())
    assert frame.latent is not None
    np.testing.assert_allclose(frame.latent, wanted.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(frame.latent[0], plain[0], rtol=0, atol=1e-6)  # pyright: ignore[reportOptionalSubscript]
    assert np.abs(frame.latent - plain)[1:].max() > 1e-2


def test_denoising_follows_the_guided_prediction_at_every_step() -> None:
    """By hand: Euler steps of the shortcut sampler on the mixture, from the session's own noise."""
    made, calls = Engine(world(), dtype=torch.float64, steps=2, recall=1), []
    state, row = begun(made, 1), torch.tensor([[0.7]])
    dynamics = made.world.dynamics
    own, slabs = dynamics.predict, state.slabs
    with torch.inference_mode():
        z = keyed_normal(state.seeds, state.time, SAMPLE, made.tokens.n * made.tokens.channels).double()
        z = z.view(1, made.tokens.n, made.tokens.channels)
        for i in range(2):
            level = Noise(torch.tensor([i / 2]), torch.tensor([0.5]))
            told, untold = (own(slabs, r, z, level) for r in (row, torch.full_like(row, torch.nan)))
            z = z + (told + 1.5 * (told - untold) - z) / (2 - i)
    dynamics.predict = lambda *given: calls.append(len(given[1])) or own(*given)  # type: ignore[method-assign]
    _, frame = made.step(state, row, guidance=1.5)
    assert frame.latent is not None
    np.testing.assert_allclose(frame.latent, z.numpy(), rtol=0, atol=1e-6)
    assert calls == [2, 2]  # both in one call, twice the rows


@pytest.mark.parametrize("decoder", ["shortcut", "masked", "residual", "swin"])
def test_a_guided_session_is_the_same_alone_in_company_and_after_a_fork(decoder: str) -> None:
    torch.manual_seed(0)
    if decoder == "masked":
        spec = WorldSpec({"pixels": StreamSpec("image", (16, 16, 3))}, SPEC.action)
        made = World(spec, world_config("debug", spec, "masked"))
    else:
        network = {"steps": 2, "dim": 16, "layers": 1, "heads": 1}
        settings = {"swin": {**network, "unit": 2}, "residual": network}.get(decoder, {})
        made = example_world(SMALL, Part(decoder, settings))
        spec = made.spec
    made = shaken(made)
    made.record = {"training": {"action_dropout": 0.1}}
    engine = Engine(made, exact=6)
    seen = {name: random_observations(s, (3, 2)).numpy() for name, s in spec.modelled.items()}
    rows = random_rows(spec.action, 3, 5)
    weight = np.array([0.0, 6.0, 12.0])  # digits change only where logits change much
    state = engine.start(seen, rows[:, :1], seeds=7)
    together = engine.rollout(state.fork(2), rows[:, 1:].repeat(2, 0), guidance=weight.repeat(2))[1]
    plain = engine.rollout(state.fork(1), rows[:, 1:])[1]
    moved = []
    for b in range(3):
        alone = engine.rollout(state.select([b]), rows[b : b + 1, 1:], guidance=weight[b])[1]
        for name, value in alone.observation.items():
            assert np.array_equal(value[0], together.observation[name][2 * b]), (b, name)
            assert np.array_equal(value[0], together.observation[name][2 * b + 1]), (b, name)
            moved.append(b * (not np.array_equal(value[0], plain.observation[name][b])))
    assert any(moved)


def test_an_engine_guides_all_its_frames_and_plans() -> None:
    weak, strong = (Engine(world(), dtype=torch.float64, guidance=w) for w in (0.0, 2.0))
    rows = np.full((3, 4, 1), 0.9)
    said = [made.rollout(begun(made), rows, guidance=g)[1] for made, g in ((weak, 2.0), (strong, None), (weak, None))]
    by_step, by_engine, plain = (f.observation["vector"] for f in said)
    assert np.array_equal(by_step, by_engine)
    assert not np.allclose(by_engine, plain, atol=1e-3)
    dreamed = strong.dream(begun(strong), torch.from_numpy(rows))
    np.testing.assert_allclose(dreamed.observation["vector"].detach().numpy(), by_engine, rtol=0, atol=1e-5)
    plan = make_planner("random", horizon=2, candidates=4, iterations=1).plan(strong, begun(strong), Return())
    assert np.isfinite(plan.cost).all()


def test_branches_of_other_weights_are_not_taken_for_one() -> None:
    made = Engine(world(), dtype=torch.float64)
    state = begun(made, 1).fork(8)
    state, frame = made.step(state, np.full((8, 1), 0.4), guidance=np.array([0.0, 2.0] * 4))
    x = frame.observation["vector"]
    assert np.array_equal(x[0], x[2])
    assert not np.allclose(x[0], x[1], atol=1e-3)
    assert state.twins is not None
    assert len(state.twins.unique()) == 2


def test_who_cannot_be_guided_says_so() -> None:
    untrained = world()
    untrained.record = {}
    with pytest.raises(ConfigError, match="action_dropout"):
        Engine(untrained, guidance=1.0)
    made = Engine(world(), dtype=torch.float64, steps=2, cache="interval")
    state = begun(made)
    with pytest.raises(ConfigError, match="cache"):
        made.step(state, np.zeros((3, 1)), guidance=1.0)
    for wrong in (np.ones(2), np.nan):
        with pytest.raises(ConfigError, match="guidance"):
            made.step(state, np.zeros((3, 1)), guidance=wrong)
    assert not state.spent
    with pytest.raises(ConfigError, match="share"):
        TrainingConfig(action_dropout=1.0)
    with pytest.raises(ConfigError, match="'flow' moves its map by the actions"):
        require_still(example_world(Part("flow"), Part("regression")), TrainingConfig(action_dropout=0.1))


def test_actions_are_withheld_for_frames_by_themselves() -> None:
    made = world("regression").float()
    seen, own = [], made.dynamics.parallel
    made.dynamics.parallel = lambda z, action, tau, since=0: (  # type: ignore[method-assign]
        seen.append(action) or own(z, action, tau, since)
    )
    z, action = torch.randn(16, 9, made.tokens.n, made.tokens.channels), torch.zeros(16, 9, 1)
    action[:, 0] = torch.nan
    still = torch.zeros(16, 9)
    for share in (0.0, 0.4):
        config = TrainingConfig(action_dropout=share, self_fed=0.0)
        clip_loss(made, config, z, action, still, still, 1.0, torch.Generator().manual_seed(0))
    shown, dropped = (rows.isnan()[..., 0] for rows in seen)
    assert shown.sum() == 16
    assert dropped[:, 0].all()
    share = dropped[:, 1:].float()
    assert 0.25 < share.mean() < 0.55
    assert len({tuple(row) for row in share.tolist()}) > 8  # not clip by clip


def test_a_world_trained_without_some_actions_can_be_guided(cartpole_data: Dataset) -> None:
    recipe = TrainingConfig(batch=4, length=4, tokenizer_batch=8, action_dropout=0.2)
    how = {"budget": "4steps", "preset": "debug", "device": "cpu", "progress": False}
    trained = train(cartpole_data, training=recipe, **how)
    clips = cartpole_data.sample(2, 3, np.random.default_rng(0))
    frames = []
    for guidance in (0.0, 2.0):
        engine = Engine(trained, guidance=guidance)
        state = engine.start(clips.observations, clips.actions, seeds=1)
        frames.append(engine.step(state, np.ones((2, 1)))[1].observation["vector"])
    assert not np.array_equal(*frames)
    assert "Classifier-Free" in cite(trained)


@pytest.mark.parametrize("decoder", ["regression", "shortcut", "masked"])
def test_what_is_distilled_are_the_frames_of_a_guided_engine(decoder: str) -> None:
    """A world is its own student where the weight is 0, and as far from its guided self as two calls of it say."""
    if decoder == "masked":
        spec = WorldSpec({"pixels": StreamSpec("image", (16, 16, 3))}, SPEC.action)
        made = shaken(World(spec, world_config("debug", spec, "masked")), torch.float64)
    else:
        made = world(decoder)
    z = torch.randn(4, 5, made.tokens.n, made.tokens.channels, dtype=torch.float64)
    if decoder == "masked":
        z, _ = made.decoder.example((4, 5, made.tokens.n), torch.Generator().manual_seed(0))
        z = z[..., : made.tokens.channels]
    row, nobody = torch.full((4, 5, 1), 0.4, dtype=torch.float64), torch.zeros(4, dtype=torch.bool)
    row[:, 0] = torch.nan

    def loss(weight: float, untold: torch.Tensor) -> dict[str, torch.Tensor]:
        chance = torch.Generator().manual_seed(0)
        return guided_loss(made, made, weight, z, row, untold, 0.3, 0.1, chance)[1]

    assert float(loss(0.0, nobody)["frame"]) == 0.0
    assert float(loss(3.0, ~nobody)["frame"]) < 1e-12  # what comes under none stays as it is
    one, two = (float(loss(w, nobody)["frame"]) for w in (1.0, 2.0))
    assert one > 1e-6
    assert two == pytest.approx(4 * one)


def test_a_distilled_world_draws_guided_frames_by_itself(cartpole_data: Dataset, tmp_path: Path) -> None:
    recipe = TrainingConfig(batch=8, length=6, tokenizer_batch=8, action_dropout=0.2)
    how = {"device": "cpu", "progress": False}
    teacher = train(cartpole_data, training=recipe, budget="60steps", preset="debug", decoder="regression", **how)
    student = distill_guidance(
        teacher, cartpole_data, 3.0, tmp_path / "new", budget="150steps", lr=3e-3, progress=False
    )
    clips = cartpole_data.sample(32, 6, np.random.default_rng(1), "held_out")
    seen = {name: value[:, :6] for name, value in clips.observations.items()}

    def frames(made: World, guidance: float) -> np.ndarray:
        engine = Engine(made, guidance=guidance)
        state = engine.start(seen, clips.actions[:, :5], seeds=1)
        return engine.step(state, clips.actions[:, 5])[1].observation["vector"]

    wanted, plain, got = frames(teacher, 3.0), frames(teacher, 0.0), frames(student, 0.0)
    assert np.square(got - wanted).mean() < 0.3 * np.square(plain - wanted).mean()
    assert World.load(tmp_path / "new").record["distilled"]["guidance"] == 3.0
    assert "Distillation of Guided" in cite(student)
    assert student.guidable
    with pytest.raises(TrainingError, match="holds a finished world"):
        distill_guidance(teacher, cartpole_data, 3.0, tmp_path / "new", budget="2steps", progress=False)


def test_who_cannot_be_distilled_says_so(cartpole_data: Dataset) -> None:
    untrained = world()
    with pytest.raises(SpecError, match="another environment"):
        distill_guidance(untrained, cartpole_data, 1.0)
    with pytest.raises(ConfigError, match="weight is 0"):
        distill_guidance(untrained, cartpole_data, 0.0)
    with pytest.raises(ConfigError, match="untold"):
        distill_guidance(untrained, cartpole_data, 1.0, untold=1.0)
    untrained.record = {}
    with pytest.raises(ConfigError, match="action_dropout"):
        distill_guidance(untrained, cartpole_data, 1.0)
