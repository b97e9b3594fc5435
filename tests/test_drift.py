"""Switches against drift, each doing what it says, and the alarm that tells when a session has drifted."""

import json
import math
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import terrella
from terrella.data import Dataset, Episode
from terrella.engine import SIGNALS, Alarm, Engine, calibrate
from terrella.engine.alarm import MEMORY
from terrella.engine.stepper import Stepper
from terrella.errors import ConfigError, StateError, UnknownName
from terrella.laws import shaken
from terrella.nn.noise import ALARM, keyed_normal
from terrella.nn.spectral import SpectralBound, spectral_norms
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.tokenizers.conv import Conv, ConvConfig
from terrella.training import TrainingConfig, train, world_config
from terrella.training.error_buffer import ErrorBuffer, recycled_past
from terrella.training.optim import Average, Optimizer
from terrella.training.self_fed import own_past, rolled_out, spoilt
from terrella.world import World

PIXELS = WorldSpec({"pixels": StreamSpec("image", (32, 32, 3))}, ActionSpec("discrete", n=3))
VECTOR = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=3))
RECIPE = TrainingConfig(batch=4, length=4, tokenizer_batch=8, checkpoint_seconds=0.0)


def made(spec: WorldSpec, seed: int = 0, backbone: str | None = None, **changes) -> World:
    torch.manual_seed(seed)
    config = replace(world_config("debug", spec, backbone=backbone), **changes)
    return shaken(World(spec, config, "shaken")).eval().requires_grad_(False)


def frames(spec: WorldSpec, batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    name, stream = next(iter(spec.streams.items()))
    shape = (batch, length, *stream.shape)
    return {name: rng.integers(0, 256, shape, np.uint8) if stream.kind == "image" else rng.normal(size=shape)}


@pytest.fixture(scope="module")
def walks(tmp_path_factory) -> Dataset:
    """A place that actions move, and its speed."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("walks") / "data"
    with Dataset.create(path, VECTOR) as writer:
        for _ in range(40):
            actions = rng.integers(0, 3, 20)
            speed = actions - 1.0
            place = np.concatenate([[0.0], np.cumsum(speed)])
            seen = np.stack([place, np.concatenate([[0.0], speed])], 1).astype(np.float32)
            none = np.zeros(20, bool)
            writer.add(Episode({"vector": seen}, actions[:, None].astype(float), speed.astype(np.float32), none, none))
    return Dataset(path)


def trained(data: Dataset, out: Path | None = None, **changes) -> World:
    recipe = replace(RECIPE, **changes.pop("recipe", {}))
    options = {"budget": "16steps", "preset": "debug", "seed": 3, "device": "cpu", "progress": False}
    return train(data, out, training=recipe, **(options | changes))


def same(a: World, b: World) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in mine.items())


# frames of its own


@pytest.mark.parametrize("backbone", ["transformer", "ssm", "rssm"])
@pytest.mark.parametrize("since", [1, 3])
def test_as_many_rounds_as_frames_are_the_rollout_itself(backbone, since):
    world = made(VECTOR, backbone=backbone)
    rng = torch.Generator().manual_seed(1)
    z, fog, noise = torch.randn(3, 2, 7, 1, 16, generator=rng)
    tau = 1 - 0.3 * torch.rand(2, 7, generator=rng)
    action = torch.randint(3, (2, 7, 1), generator=rng).float()
    action[:, 0] = torch.nan
    rolled = rolled_out(world, z, action, tau, fog, noise, since, 7 - since)
    slabs, stepped = world.dynamics.init(2), []
    for t in range(7):
        frame = z[:, t]
        if t >= since:
            frame = world.decoder.sample(partial(world.dynamics.predict, slabs, action[:, t]), noise[:, t], 1)
        stepped.append(frame)
        written = spoilt(frame[:, None], tau[:, t : t + 1], fog[:, t : t + 1])[:, 0]
        slabs, _ = world.dynamics.commit(slabs, action[:, t], written, tau[:, t])
    torch.testing.assert_close(rolled, torch.stack(stepped, 1), rtol=0, atol=1e-4)
    assert torch.equal(rolled[:, :since], z[:, :since])
    fewer = rolled_out(world, z, action, tau, fog, noise, since, 2)
    torch.testing.assert_close(fewer[:, : since + 2], rolled[:, : since + 2], rtol=0, atol=1e-4)
    assert not torch.allclose(fewer[:, since + 3 :], rolled[:, since + 3 :], rtol=0, atol=1e-2) or since == 3


def test_a_past_of_depth_one_keeps_most_frames_and_a_deep_one_none_after_its_beginning():
    world = made(VECTOR)
    z, action = torch.randn(16, 9, 1, 16), torch.zeros(16, 9, 1)
    kept = {}
    for depth in (1, 4):
        config = replace(RECIPE, self_fed_depth=depth)
        past = own_past(world, config, z, action, torch.Generator().manual_seed(2))
        kept[depth] = (past == z).flatten(2).all(2)
        assert kept[depth][:, 0].all()
    assert 0.5 < kept[1][:, 1:].float().mean() < 0.7
    first = kept[4][0].int().argmin()
    assert kept[4][:, :first].all()
    assert not kept[4][:, first:].any()


# errors kept


def test_the_ring_keeps_the_last_errors_and_gives_nothing_else():
    ring = ErrorBuffer(made(VECTOR).tokens, slots=6)
    generator = torch.Generator().manual_seed(0)
    assert not ring.draw(2, 3, generator).any()
    numbers = torch.arange(1.0, 10.0)[:, None, None].expand(9, 1, 16)
    ring.add(numbers[:4])
    assert set(ring.draw(20, 5, generator)[..., 0, 0].unique().tolist()) == {1, 2, 3, 4}
    ring.add(numbers[4:8])
    assert set(ring.draw(20, 5, generator)[..., 0, 0].unique().tolist()) == {3, 4, 5, 6, 7, 8}
    other = ErrorBuffer(made(VECTOR).tokens, slots=6)
    other.load(ring.tensors())
    for one in (ring, other):
        one.add(numbers[8:])
    assert torch.equal(ring.store, other.store)
    ring.add(torch.arange(20.0)[:, None, None].expand(20, 1, 16))
    assert sorted(ring.store[:, 0, 0].tolist()) == [14, 15, 16, 17, 18, 19]


def test_errors_are_added_to_the_past_and_new_ones_are_those_the_world_makes_of_it():
    world = made(VECTOR)
    ring, generator = ErrorBuffer(world.tokens), torch.Generator().manual_seed(0)
    z, action = torch.randn(4, 6, 1, 16), torch.zeros(4, 6, 1)
    first = recycled_past(world, RECIPE, z, action, ring, generator)
    assert torch.equal(first, z), "there were no errors yet"
    assert ring.count == 4 * 5
    assert ring.store[:20].abs().amax((1, 2)).min() > 0
    kept = ring.store.clone()
    past = recycled_past(world, RECIPE, z, action, ring, generator)
    changed = (past - z)[(past != z).flatten(2).any(2)]
    assert 0 < len(changed) < 20
    gaps = (changed[:, None] - kept[None, :20]).abs().amax((2, 3)).amin(1)
    assert gaps.max() < 1e-5, "each is one of those kept"
    assert torch.equal(past[:, 0], z[:, 0])


# stopped and gone on with

SWITCHES = {
    "self-forcing": {"self_fed": 0.7, "self_fed_depth": 3},
    "error buffer": {"self_fed": 0.0, "recycled": 0.7},
    "no average": {"average": 0.0},
    "spectral": {"spectral": 0.8},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_changes_training_and_resumes_exactly(walks, tmp_path, monkeypatch, switch):
    more = {"recipe": SWITCHES[switch], "backbone": "rssm" if switch == "spectral" else None}
    whole = trained(walks, **more)
    assert not same(whole, trained(walks, backbone=more["backbone"])), "the switch does nothing"
    take = Optimizer.step

    def interrupted(self, loss, step, progress):
        if step == 9 and any(isinstance(p, torch.optim.Muon) for p in self.parts):
            signal.raise_signal(signal.SIGINT)  # in the middle of a step, as Ctrl-C does
        take(self, loss, step, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(walks, tmp_path / "w", **more)
    resumed = trained(walks, tmp_path / "w", **more)
    assert same(whole, resumed)


def test_without_an_average_the_last_weights_are_kept():
    module = torch.nn.Linear(2, 2)
    average = Average(module, 0.0)
    before = module.weight.detach().clone()
    average.update(5)
    average.exchange()
    assert torch.equal(module.weight, before)
    assert average.shadow == {}


@pytest.mark.parametrize(
    "wrong", [{"self_fed_depth": 0}, {"recycled": 1.5}, {"spectral": 0.0}, {"average": 1.0}], ids=str
)
def test_impossible_switches_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


# spectral bounds


def test_spectral_norms_are_exact():
    many = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))
    for weight in (many, many.transpose(1, 2), many[0]):
        torch.testing.assert_close(spectral_norms(weight), torch.linalg.matrix_norm(weight, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["rssm", "reaction_diffusion"])
def test_the_bound_holds_after_every_step_and_in_the_averaged_weights(walks, backbone, monkeypatch):
    seen = []
    hold = SpectralBound.hold

    def watched(self):
        before = torch.stack([spectral_norms(w).max() for w in self.weights]).max()
        hold(self)
        seen.append((float(before), max(float(spectral_norms(w).max()) for w in self.weights)))

    monkeypatch.setattr(SpectralBound, "hold", watched)
    world = trained(walks, backbone=backbone, recipe={"spectral": 0.7})
    before, after = zip(*seen)
    assert max(before) > 0.7 + 1e-3
    assert max(after) < 0.7 + 1e-4
    bound = SpectralBound(world.dynamics, world.dynamics.recurrent, 0.7)
    assert len(bound.weights) >= 3
    assert max(float(spectral_norms(w).max()) for w in bound.weights) < 0.7 + 1e-4


def test_a_backbone_without_a_recurrence_has_nothing_to_bound(walks):
    with pytest.raises(ConfigError, match=r"'transformer' has no recurrent matrices"):
        trained(walks, recipe={"spectral": 1.0})


# re-encoding


def discs(count: int, seed: int) -> torch.Tensor:
    """Pictures `(count, 16, 16, 3)` of one disc somewhere, in one of four colours."""
    generator = torch.Generator().manual_seed(seed)
    hues = torch.tensor([[230, 70, 60], [70, 160, 230], [250, 200, 60], [90, 200, 110]])
    at = 4 + 8 * torch.rand(count, 2, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    disc = (3.5 - torch.hypot(x - at[:, 0], y - at[:, 1])).clamp(0, 1)[..., None]
    hue = hues[torch.randint(4, (count,), generator=generator)][:, None, None]
    return (24 + disc * (hue - 24)).round().to(torch.uint8)


def worn_by(trips: int, pictures: torch.Tensor) -> float:
    """How far forty trips through a tokenizer take pictures from what they were, as a share of their variance."""
    torch.manual_seed(0)
    tokenizer = Conv(ConvConfig(channels=8, stride=8, width=16, trips=trips), StreamSpec("image", (16, 16, 3)))
    pool, generator = discs(512, 1), torch.Generator().manual_seed(0)
    tokenizer.prepare(pool)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 4e-3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 300)
        optimizer.zero_grad()
        tokenizer.loss(pool[torch.randint(512, (32,), generator=generator)], generator).backward()
        optimizer.step()
    seen = pictures
    with torch.inference_mode():
        for _ in range(40):
            seen = (tokenizer.decode_raw(tokenizer.encode_raw(seen)).clamp(0, 1) * 255).round().to(torch.uint8)
    return float((seen.float() - pictures.float()).square().mean() / pictures.float().var())


def test_a_tokenizer_that_met_worn_frames_wears_them_less():
    pictures = discs(64, 2)
    assert worn_by(6, pictures) < 0.8 * worn_by(0, pictures)
    with pytest.raises(ConfigError, match="trips"):
        ConvConfig(trips=-1)


@pytest.mark.parametrize("every", [1, 3])
def test_reencoding_every_few_frames_equals_doing_it_by_hand(every):
    world = made(PIXELS)
    engine, plain = Engine(world, reencode=every), Stepper(world)
    seen, rows = frames(PIXELS, 3, 2), np.random.default_rng(1).integers(0, 3, (3, 7, 1))
    state = engine.start(seen, np.zeros((3, 1, 1)), seeds=5)
    slabs = Engine(world).start(seen, np.zeros((3, 1, 1)), seeds=5).take()
    seeds = torch.arange(5, 8)
    with torch.inference_mode():
        for t in range(7):
            row = torch.from_numpy(rows[:, t]).float()
            drawn = plain.draw(slabs, seeds, row)
            z = world.encode(drawn.shown) if (2 + t) % every == 0 else drawn.z_BNZ
            slabs, _ = plain.commit_dreamed(slabs, seeds, row, z)
            state, frame = engine.step(state, rows[:, t])
            assert np.array_equal(frame.observation["pixels"], drawn.shown["pixels"].numpy())
            torch.testing.assert_close(state.slabs.recurrent["previous"], slabs.recurrent["previous"])


def test_the_engine_decides_on_reencoding_without_touching_the_world():
    world = made(PIXELS, reencode=True)
    assert world.config.reencode is True
    seen, row = frames(PIXELS, 1, 1), np.ones((1, 4, 1))
    films = [Engine(world, reencode=k) for k in (None, 1, 0)]
    films = [e.rollout(e.start(seen, seeds=3), row)[1].observation["pixels"] for e in films]
    assert np.array_equal(films[0], films[1])
    assert not np.array_equal(films[0], films[2])
    assert world.config.reencode is True
    with pytest.raises(ConfigError, match="reencode is -1"):
        Engine(world, reencode=-1)


def test_reencoding_of_either_kind_is_kept_in_the_file(tmp_path):
    for value in (False, True, 4):
        world = made(VECTOR, reencode=value)
        assert World.load(world.save(tmp_path / "w")).config.reencode == value


# the alarm


@pytest.mark.parametrize("spec", [PIXELS, VECTOR], ids=["pixels", "vector"])
@pytest.mark.parametrize("name", SIGNALS)
def test_levels_are_means_of_the_signal_by_hand(spec, name):
    world = made(spec)
    engine = Engine(world, alarm=Alarm(name, 0.5))
    state = engine.start(frames(spec, 2, 1), seeds=5)
    plain, slabs, seeds = Stepper(world), Engine(world).start(frames(spec, 2, 1), seeds=5).take(), torch.arange(5, 7)
    rows, level = np.random.default_rng(1).integers(0, 3, (2, MEMORY + 3, 1)), np.zeros(2)
    with torch.inference_mode():
        for t in range(MEMORY + 3):
            row = torch.from_numpy(rows[:, t]).float()
            z = plain.draw(slabs, seeds, row).z_BNZ
            if name == "reencoding":
                value = (world.encode(world.decode(z)) - z).square()
            elif name == "distance":
                value = z.square()
            else:
                noise = keyed_normal(seeds, slabs.time, ALARM, z[0].numel()).view(z.shape)
                value = (world.decoder.sample(partial(world.dynamics.predict, slabs, row), noise, 1) - z).square()
            level += (value.mean((1, 2)).numpy() - level) / min(t + 1, MEMORY)
            slabs, _ = plain.commit_dreamed(slabs, seeds, row, z)
            state, frame = engine.step(state, rows[:, t])
            np.testing.assert_allclose(frame.info["alarm"], level / 0.5, rtol=1e-3)
            assert frame.info["alarm"].dtype == np.float32


def test_an_alarm_changes_no_frame_and_is_told_again_alike():
    world, rows = made(PIXELS), np.random.default_rng(1).integers(0, 3, (3, 6, 1))
    seen, told = frames(PIXELS, 3, 2), []
    _, plain = (e := Engine(world)).rollout(e.start(seen, np.zeros((3, 1, 1)), seeds=4), rows)
    engine = Engine(world, alarm=Alarm("reencoding", 1.0))
    for _ in range(2):
        _, frame = engine.rollout(engine.start(seen, np.zeros((3, 1, 1)), seeds=4), rows)
        assert np.array_equal(frame.observation["pixels"], plain.observation["pixels"])
        told.append(frame.info["alarm"])
    assert np.array_equal(told[0], told[1])
    assert told[0].shape == (3, 6)
    blind = engine.rollout(engine.start(seen, np.zeros((3, 1, 1)), seeds=4), rows, observe=False)[1]
    assert not blind.observation
    assert np.array_equal(blind.info["alarm"], told[0])


@pytest.mark.parametrize("name", SIGNALS)
def test_company_forks_and_saved_states_keep_the_alarm(name, tmp_path):
    world, rows = made(VECTOR), np.random.default_rng(1).integers(0, 3, (3, 8, 1))
    engine, seen = Engine(world, alarm=Alarm(name, 1.0), exact=6), frames(VECTOR, 3, 1)
    state, _ = engine.rollout(engine.start(seen, seeds=4), rows[:, :4])
    state.save(tmp_path / "state")
    branches = state.fork(2)
    _, whole = engine.rollout(state, rows[:, 4:])
    _, again = engine.rollout(engine.load_state(tmp_path / "state"), rows[:, 4:])
    _, forked = engine.rollout(branches, rows[:, 4:].repeat(2, 0))
    assert np.array_equal(whole.info["alarm"], again.info["alarm"])
    assert np.array_equal(whole.info["alarm"].repeat(2, 0), forked.info["alarm"])
    alone, _ = engine.rollout(engine.start({"vector": seen["vector"][1:2]}, seeds=[5]), rows[1:2, :4])
    _, single = engine.rollout(alone, rows[1:2, 4:])
    assert np.array_equal(single.info["alarm"][0], whole.info["alarm"][1])
    with pytest.raises(StateError, match="another world"):
        Engine(world).step(engine.start(seen), rows[:, 0])


def test_what_is_observed_begins_the_mean_anew():
    world = made(VECTOR)
    engine, seen = Engine(world, alarm=Alarm("distance", 1.0)), frames(VECTOR, 2, 2)
    rows = np.ones((2, 5, 1))
    state, _ = engine.rollout(engine.start({"vector": seen["vector"][:, :1]}, seeds=1), rows)
    state = engine.observe(state, rows[:, 0], {"vector": seen["vector"][:, 1].astype(np.float32)})
    assert not state.slabs.recurrent["alarm.level"].any()
    state, _ = engine.step(state, rows[:, 0])
    assert (state.slabs.recurrent["alarm.level"][:, 1] == 1).all()


def test_thresholds_are_measured_from_recordings_and_kept_with_the_world(walks, tmp_path):
    world = trained(walks, tmp_path / "w", budget="120steps")
    assert world.alarm == {}
    measured, again = calibrate(world, walks), calibrate(world, walks)
    assert measured == again
    assert set(measured) == set(SIGNALS)
    world.alarm = measured
    world.save(tmp_path / "w")
    loaded = World.load(tmp_path / "w")
    assert loaded.alarm == measured
    engine = Engine(loaded, alarm="distance")
    assert engine.alarm == Alarm("distance", measured["distance"])
    clips = walks.sample(64, 10, np.random.default_rng(7), "held_out")
    state = engine.start({"vector": clips.observations["vector"][:, :3]}, clips.actions[:, :2])
    _, near = engine.rollout(state, clips.actions[:, 2:8])
    assert (near.info["alarm"] > 1).mean() < 0.25, "on recordings there is little alarm"
    far = {"vector": clips.observations["vector"][:, :3] + np.float32(60)}
    _, frame = engine.rollout(engine.start(far, clips.actions[:, :2]), clips.actions[:, 2:8])
    assert (frame.info["alarm"] > 1).mean() > 0.9, "a place that no recording knows"


def test_a_world_without_thresholds_goes_by_its_beginnings_or_says_what_to_do(walks, tmp_path):
    world = trained(walks, tmp_path / "w")
    tree = json.loads((tmp_path / "w" / "world.json").read_text())
    del tree["alarm"]  # as in worlds of before
    (tmp_path / "w" / "world.json").write_text(json.dumps(tree))
    old = World.load(tmp_path / "w")
    first, second = (Engine(old, alarm="reencoding").alarm for _ in range(2))
    assert first == second
    assert first is not None
    assert first.threshold == calibrate(world)["reencoding"]
    old.starts = None
    with pytest.raises(ConfigError, match=r"no thresholds .*calibrate\(world, dataset\)"):
        Engine(old, alarm="reencoding")
    assert Engine(old, alarm=Alarm("reencoding", 2.0)).alarm == Alarm("reencoding", 2.0)


def test_alarms_that_cannot_be_are_refused(walks):
    with pytest.raises(UnknownName, match="reencoding"):
        Engine(made(VECTOR), alarm="reencodin")
    with pytest.raises(ConfigError, match="above 0"):
        Alarm("distance", 0.0)
    certain = trained(walks, decoder="regression")
    assert "disagreement" not in calibrate(certain, walks)
    with pytest.raises(ConfigError, match=r"'disagreement' is always 0 .* reencoding, distance"):
        Engine(certain, alarm="disagreement")


def test_environments_carry_the_alarm():
    env = terrella.WorldEnv("pendulum", engine={"alarm": "reencoding"})
    many = terrella.WorldVectorEnv("pendulum", 2, engine={"alarm": "reencoding"})
    env.reset(seed=0)
    many.reset(seed=0)
    info = env.step(env.action_space.sample())[4]
    infos = many.step(many.action_space.sample())[4]
    assert math.isfinite(info["alarm"])
    assert infos["alarm"].shape == (2,)


def test_an_alarm_goes_with_a_feature_cache_a_budget_and_fewer_steps():
    world, rows = made(PIXELS), np.ones((2, 3, 1))
    seen = frames(PIXELS, 2, 1)
    settings: list[dict[str, Any]] = [{"cache": "interval", "steps": 4}, {"budget_ms": 1e4}]
    for how in [*settings, {"cache": "across", "steps": 4}]:
        engine = Engine(world, alarm=Alarm("disagreement", 1.0), **how)
        _, frame = engine.rollout(engine.start(seen), rows)
        assert np.isfinite(frame.info["alarm"]).all()
    engine = Engine(world, alarm=Alarm("disagreement", 1.0))
    _, frame = engine.step(engine.start(seen), rows[:, 0], steps=1)
    assert np.isfinite(frame.info["alarm"]).all()
