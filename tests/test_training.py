"""Training: data to weights, stopped and gone on with, and what the loss is made of."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from terrella.config import from_json
from terrella.data import Dataset, Episode
from terrella.engine import Engine
from terrella.errors import ConfigError, DatasetError, TrainingError, UnknownName
from terrella.nn.flow_map import sliding
from terrella.nn.latents import Outcome
from terrella.registry import lookup, names
from terrella.spec import ActionSpec, Motion, StreamSpec, WorldSpec
from terrella.training import SIZES, Budget, TrainingConfig, train, world_config
from terrella.training.checkpoint import load_checkpoint, save_checkpoint, unbroken
from terrella.training.loop import _Run
from terrella.training.material import encode_episodes, frame_pool
from terrella.training.objective import clip_loss
from terrella.training.optim import Average, Optimizer
from terrella.training.presets import pick, training_config
from terrella.world import Part, World, WorldConfig

MOVES = np.array([-1, 0, 1])
STEP = 4  # pixels a move
SPEC = WorldSpec(
    {"pixels": StreamSpec("image", (32, 32, 3)), "place": StreamSpec("vector", (2,)), "words": StreamSpec("text")},
    ActionSpec("discrete", n=3),
)
PLACE = WorldSpec({"place": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=3))
# A checkpoint after every step, so that a killed run has one.
RECIPE = TrainingConfig(batch=4, length=4, tokenizer_batch=8, checkpoint_seconds=0.0, self_fed=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dot_episode(rng: np.random.Generator, length: int, spec: WorldSpec = SPEC) -> Episode:
    """A square that an action moves left or right on the very next frame, and pays the move."""
    actions = rng.integers(0, 3, length)
    place = np.clip(np.cumsum(np.concatenate([[3], MOVES[actions]])), 0, 6)
    pixels = np.zeros((length + 1, 32, 32, 3), np.uint8)
    for t, x in enumerate(place):
        pixels[t, 12:20, STEP * x : STEP * x + 8] = (250, 200, 40)
    seen = {
        "pixels": pixels,
        "place": np.stack([place, np.ones_like(place)], 1).astype(np.float32),
        "words": np.array([f"at {x}" for x in place], object),
    }
    ended = np.zeros(length, bool)
    ended[-1] = True
    return Episode(
        {k: seen[k] for k in spec.streams},
        actions[:, None].astype(float),
        np.diff(place).astype(np.float32),
        ended,
        np.zeros(length, bool),
    )


def make_dataset(path: Path, spec: WorldSpec = SPEC, episodes: int = 16, length: int = 12, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    with Dataset.create(path, spec) as writer:
        for _ in range(episodes):
            writer.add(dot_episode(rng, length, spec))
    return Dataset(path)


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("dots") / "data")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("places") / "data", PLACE, episodes=40, length=20)


def quick(dataset: Dataset, out: Path | None = None, **changes) -> World:
    options = {
        "budget": "16steps",
        "preset": "debug",
        "training": RECIPE,
        "seed": 3,
        "device": "cpu",
        "progress": False,
    }
    return train(dataset, out, **(options | changes))


def same_weights(a: World, b: World) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


# from data to a world


def test_a_world_comes_out_whole(dots, tmp_path):
    before = torch.get_rng_state()
    world = quick(dots, tmp_path / "dots")
    assert torch.equal(before, torch.get_rng_state()), "the caller's random stream is not training's"
    assert world.name == "dots"
    assert not world.training
    assert not any(p.requires_grad for p in world.parameters())
    record = world.record
    assert (record["preset"], record["seed"], record["budget"]) == ("debug", 3, {"seconds": None, "steps": 16})
    assert (record["tokenizer_steps"], record["dynamics_steps"]) == (4, 12)
    assert record["dataset"]["fingerprint"] == dots.fingerprint
    assert np.isfinite([record["tokenizer_held_out"], record["dynamics_held_out"]]).all()
    assert float(world.reward_scale) == pytest.approx(np.std(np.concatenate([e.rewards for e in dots])), rel=0.3)
    files = {p.name for p in (tmp_path / "dots").iterdir()}
    assert files == {"world.json", "weights.safetensors", "starts.safetensors", "logs"}
    loaded = World.load(tmp_path / "dots")
    assert same_weights(world, loaded)
    assert loaded.record == json.loads(json.dumps(record))
    assert loaded.spec == SPEC
    assert loaded.starts is not None
    assert loaded.starts.observations["pixels"].shape == (8, 5, 32, 32, 3)
    assert loaded.starts.actions.shape == (8, 4, 1)
    state = Engine(loaded).start(loaded.starts.observations, loaded.starts.actions)
    _, frame = Engine(loaded).rollout(state, np.ones((8, 3, 1)))
    assert frame.observation["pixels"].shape == (8, 3, 32, 32, 3)


def test_latents_are_normalised_after_training(dots):
    world = quick(dots)
    pool = frame_pool(dots, world, 0)
    for stream in world.spec.modelled:
        z = world.tokenizer(stream).encode(pool[stream])
        assert abs(float(z.mean())) < 0.5
        assert 0.2 < float(z.std()) < 2


def test_the_same_seed_gives_the_same_weights(places):
    first, again, other = (quick(places, seed=s) for s in (3, 3, 4))
    assert same_weights(first, again)
    assert not same_weights(first, other)


@pytest.mark.parametrize("pixels", ["patches", "conv"])
def test_tokenizers_with_and_without_weights_are_trained(tmp_path, pixels):
    spec = WorldSpec({"pixels": SPEC.streams["pixels"]}, SPEC.action)
    data = make_dataset(tmp_path / "data", spec, episodes=6, length=6)
    config = WorldConfig(
        Part("transformer", {"dim": 16, "layers": 1, "heads": 1}), Part("regression"), {"pixels": Part(pixels)}
    )
    world = quick(data, config=config, budget="6steps")
    assert world.record["preset"] == "custom"
    assert world.record.get("tokenizer_steps") == (0 if pixels == "patches" else 2)
    assert any(float(p.abs().max()) > 0 for p in [world.dynamics.leave[1].weight])


def test_a_budget_in_seconds_is_kept(places):
    world = quick(places, budget="2s")
    assert 1.5 < world.record["seconds"] < 8
    assert world.record["dynamics_steps"] > 1


def test_presets_follow_budget_and_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [pick("auto", Budget.parse(t), cpu) for t in ("10m", "8h")] == ["tiny", "small"]
    assert [pick("auto", Budget.parse(t), gpu) for t in ("1m", "30m", "4h")] == ["tiny", "small", "base"]
    assert pick("debug", Budget.parse("1s"), gpu) == "debug"
    with pytest.raises(UnknownName, match="tiny"):
        pick("tinny", Budget(steps=1), cpu)


@pytest.mark.parametrize("size", [(64, 64, 3), (96, 96, 1), (84, 84, 1), (210, 160, 3), (50, 50, 3), (128, 128, 3)])
@pytest.mark.parametrize("preset", ["debug", "tiny"])
def test_presets_fit_images_of_any_size(size, preset):
    spec = WorldSpec(
        {"pixels": StreamSpec("image", size), "more": StreamSpec("vector", (50,))}, ActionSpec("discrete", n=2)
    )
    world = World(spec, world_config(preset, spec))
    shown = world.decode(world.encode({"pixels": torch.zeros(1, *size, dtype=torch.uint8), "more": torch.zeros(1, 50)}))
    assert shown["pixels"].shape == (1, *size)


# what it learns


def test_it_learns_what_an_action_does_to_the_next_frame(places):
    """The first generated frame already moves, by the action just taken; other actions move it otherwise."""
    world = quick(places, budget="200steps", training=TrainingConfig(batch=8, length=4))
    engine = Engine(world)
    starts = np.array([[[2.0, 1.0]], [[3.0, 1.0]], [[4.0, 1.0]]], np.float32).repeat(3, 0)
    moves = np.tile(np.arange(3), 3)
    state = engine.start({"place": starts}, seeds=list(range(9)))
    _, frame = engine.step(state, moves[:, None])
    moved = frame.observation["place"][:, 0] - starts[:, 0, 0]
    assert np.abs(moved - MOVES[moves]).mean() < 0.3, moved
    assert np.abs(frame.reward - MOVES[moves]).mean() < 0.35, frame.reward
    assert world.record["dynamics_held_out"] < 1.0


# stopped and gone on with

CHILD = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from terrella.training import TrainingConfig, loop, optim, steps
phase, step, where = sys.argv[3], int(sys.argv[4]), sys.argv[5]
take, save, run = optim.Optimizer.step, steps.save_checkpoint, []
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
def stepping(self, loss, number, progress):
    take(self, loss, number, progress)
    if where == "step" and number == step and run[-1].phase == phase:
        die()  # weights have changed, nothing is saved
def saving(path, groups, about):
    if where == "save" and (about["phase"], about["step"]) == (phase, step):
        os.fsync = die  # the new file is written, the old one still in place
    save(path, groups, about)
def starting(self, *args, init=steps.Steps.__init__, **how):
    run.append(self)
    init(self, *args, **how)
optim.Optimizer.step, steps.save_checkpoint, steps.Steps.__init__ = stepping, saving, starting
recipe = TrainingConfig(batch=4, length=4, tokenizer_batch=8, checkpoint_seconds=0.0, self_fed=0.5)
options = dict(budget="16steps", preset="debug", training=recipe, seed=3, device="cpu", progress=False)
loop.train(sys.argv[1], sys.argv[2], **options)
"""


def run_until_killed(data: Path, out: Path, phase: str, step: int, where: str) -> None:
    argv = [sys.executable, "-c", CHILD, str(data), str(out), phase, str(step), where]
    done = subprocess.run(argv, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_and_resumed_training_gives_the_same_weights_bit_for_bit(dots, tmp_path):
    whole = quick(dots, tmp_path / "whole")
    out = tmp_path / "killed"
    for phase, step, where in (("tokenizer", 2, "step"), ("dynamics", 5, "save")):
        run_until_killed(dots.path, out, phase, step, where)
        _, about = load_checkpoint(out / "checkpoint.safetensors")
        assert (about["phase"], about["step"]) == (phase, step if where == "step" else step - 1)
    resumed = quick(dots, out)
    assert same_weights(whole, resumed)
    differ = {k for k in whole.record if whole.record[k] != resumed.record[k]}
    assert differ <= {"seconds", "tokenizer_seconds", "dynamics_seconds"}
    assert not list(out.glob("checkpoint*"))


def test_an_interrupt_waits_for_the_step_and_is_resumed_exactly(places, tmp_path, monkeypatch):
    whole = quick(places)
    take = Optimizer.step

    def interrupted(self, loss, step, progress):
        if step == 6 and len(self.parts) > 1:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does, in the middle of a step
        take(self, loss, step, progress)

    slow = TrainingConfig(**{**RECIPE.__dict__, "checkpoint_seconds": 1e9})
    whole = quick(places, training=slow)
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(places, tmp_path / "w", training=slow)
    _, about = load_checkpoint(tmp_path / "w" / "checkpoint.safetensors")
    assert (about["phase"], about["step"]) == ("dynamics", 7)
    assert same_weights(whole, quick(places, tmp_path / "w", training=slow))


def test_interrupts_are_held_back_only_inside():
    done = []

    def interrupted() -> None:
        with unbroken():
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(ValueError), unbroken():
        raise ValueError


@pytest.fixture
def half_way(places, tmp_path, monkeypatch) -> Path:
    """A folder with the checkpoint of a training run that stopped."""
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "train_backbone", lambda self, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quick(places, tmp_path / "half")
    return tmp_path / "half"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 4}, "seed"),
        ({"budget": "17steps"}, "budget"),
        ({"preset": "tiny"}, "preset"),
        ({"training": TrainingConfig()}, "training"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(places, half_way, changes, says):
    with pytest.raises(TrainingError, match=f"{says} = .*resume=False"):
        quick(places, half_way, **changes)


def test_a_checkpoint_of_another_config_or_dataset_is_refused(places, half_way, tmp_path):
    other = make_dataset(tmp_path / "other", PLACE, episodes=5, seed=9)
    with pytest.raises(TrainingError, match="dataset"):
        quick(other, half_way)
    (half_way / "checkpoint.safetensors").unlink()
    custom = {"config": WorldConfig(Part("transformer", {"dim": 16, "heads": 1}), Part("shortcut"))}
    run = lambda **more: quick(places, half_way, **(custom | more))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "train_backbone", lambda self, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(TrainingError, match="config"):
        run(config=WorldConfig(Part("transformer", {"dim": 16, "heads": 1, "sinks": 0}), Part("shortcut")))


def test_a_finished_world_is_not_lost(places, tmp_path):
    first = quick(places, tmp_path / "w")
    with pytest.raises(TrainingError, match=r"w holds a finished world.*another folder.*resume=False"):
        quick(places, tmp_path / "w", seed=4)
    assert same_weights(World.load(tmp_path / "w"), first)
    again = quick(places, tmp_path / "w", seed=4, resume=False)
    assert not same_weights(again, first)
    assert same_weights(World.load(tmp_path / "w"), again)


def test_replacing_a_finished_world_can_be_interrupted(places, half_way, monkeypatch):
    world = quick(places, half_way)
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "train_backbone", lambda self, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quick(places, half_way, seed=4, resume=False)
    assert same_weights(World.load(half_way), world)
    assert quick(places, half_way, seed=4).record["seed"] == 4


def test_the_decoder_can_be_chosen_by_name(places):
    world = quick(places, decoder="regression")
    assert world.config == world_config("debug", PLACE, "regression")
    assert world.config.decoder == Part("regression")
    assert world.record["preset"] == "debug"
    assert world_config("debug", PLACE).decoder == Part("shortcut")
    with pytest.raises(UnknownName, match="regression"):
        quick(places, decoder="regresion")
    with pytest.raises(ConfigError, match="config alone"):
        quick(places, decoder="regression", config=world.config)


def test_training_anew_and_damaged_checkpoints(places, half_way):
    assert quick(places, half_way, seed=4, resume=False).record["seed"] == 4
    path = half_way / "checkpoint.safetensors"
    for content in (b"", b"\x80\x04K\x01.", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="damaged"):
            quick(places, half_way)


def test_checkpoints_keep_every_bit(tmp_path):
    groups = {"a": {"x.y": torch.randn(3), "|": torch.tensor(2.5)}, "b": {"n": torch.arange(4), "e": torch.empty(0)}}
    save_checkpoint(tmp_path / "c", groups, {"step": 3, "note": "é"})
    kept, about = load_checkpoint(tmp_path / "c")
    assert about == {"step": 3, "note": "é"}
    assert all(torch.equal(kept[g][k], v) and kept[g][k].dtype == v.dtype for g in groups for k, v in groups[g].items())
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_loss_that_is_not_finite_stops_training(places, monkeypatch):
    monkeypatch.setattr(
        "terrella.training.loop.clip_loss", lambda *a: (torch.tensor(float("nan"), requires_grad=True), {})
    )
    with pytest.raises(TrainingError, match=r"step 0.*lr"):
        quick(places)


def test_datasets_that_are_too_small_are_refused(tmp_path):
    lone = make_dataset(tmp_path / "one", PLACE, episodes=1)
    with pytest.raises((TrainingError, DatasetError)):
        quick(lone)
    short = make_dataset(tmp_path / "short", PLACE, episodes=6, length=3)
    with pytest.raises(TrainingError, match="has 4 transitions"):
        quick(short)
    with pytest.raises(DatasetError):
        quick(tmp_path / "nowhere")  # type: ignore[arg-type]


# what training reads


def counting_dataset(path: Path) -> Dataset:
    """Frames that say (episode, frame); the action and reward of a transition say the frame that it leads to."""
    flags = np.zeros(9, bool)
    flags[-1] = True
    action = ActionSpec("box", shape=(1,), low=(0.0,), high=(99.0,), dtype="float32")
    with Dataset.create(path, WorldSpec(PLACE.streams, action)) as writer:
        for e in range(12):
            frames = np.stack([np.full(10, e), np.arange(10)], 1).astype(np.float32)
            to = np.arange(1, 10, dtype=np.float32)
            writer.add(Episode({"place": frames}, to[:, None].astype(float), 10 * to, flags, ~flags & False))
    return Dataset(path)


def test_clips_are_aligned_and_never_cross_an_episode(tmp_path):
    data = counting_dataset(tmp_path / "data")
    world = World(data.spec, WorldConfig(Part("transformer", {"dim": 16, "heads": 1}), Part("regression")))
    clips = encode_episodes(data, world, "train", 4, torch.device("cpu"))
    z, action, reward, end = clips.sample(300, torch.Generator().manual_seed(0), torch.device("cpu"))
    episode, frame = z[:, :, 0, 0], z[:, :, 0, 1]  # the vector tokenizer begins as the identity
    assert z.shape[:2] == (300, 5)
    assert bool((episode == episode[:, :1]).all())
    assert bool((frame.diff(dim=1) == 1).all())
    assert bool(action[:, 0].isnan().all())
    assert torch.equal(action[:, 1:, 0], frame[:, 1:])
    assert torch.equal(reward[:, 1:], 10 * frame[:, 1:])
    assert torch.equal(end[:, 1:] == 1, frame[:, 1:] == 9)
    assert set(frame[:, 0].tolist()) == set(range(6)), "every beginning is drawn"
    piece, action, *_ = clips.sample(300, torch.Generator().manual_seed(0), torch.device("cpu"), 3)
    assert piece.shape[:2] == (300, 3)
    assert bool(action[:, 0].isnan().all())
    assert set(piece[:, 0, 0, 1].tolist()) == set(range(8)), "and every piece of a clip"
    assert set(episode[:, 0].tolist()) <= {
        float(data.episode(int(i)).observations["place"][0, 0]) for i in data.split("train")
    }


class FixedDynamics(nn.Module):
    """Says what it is told to say, and keeps what it was shown."""

    def __init__(self, outcome: Outcome, guess: torch.Tensor):
        super().__init__()
        self.said, self.guess, self.shown = outcome, guess, []

    def parallel(self, z, action, tau, since=0):
        self.shown.append((z, action, tau))
        return self.said, lambda noisy, noise: self.guess[:, since:]


def objective(
    guess_error: float | torch.Tensor,
    reward_error: float,
    config: TrainingConfig,
    progress: float = 0.0,
    seed: int = 0,
):
    z = torch.randn(64, 5, 1, 16, generator=torch.Generator().manual_seed(1))
    reward, end = torch.randn(64, 5), torch.zeros(64, 5)
    world = World(PLACE, WorldConfig(Part("transformer", {"dim": 16, "heads": 1}), Part("regression")))
    world.reward_shift.fill_(2.0)
    world.reward_scale.fill_(4.0)
    late = torch.ones(64, 5)
    late[:, 0] = 1000.0  # the first frame is context: whatever is said about it costs nothing
    said = Outcome((reward - 2) / 4 + reward_error * late, torch.full((64, 5), -50.0) * late)
    world.dynamics = FixedDynamics(said, z + guess_error * late[..., None, None])
    generator = torch.Generator().manual_seed(seed)
    total, parts = clip_loss(world, config, z, torch.zeros(64, 5, 1), reward, end, progress, generator)
    return float(total), {k: float(v) for k, v in parts.items()}, world.dynamics.shown, z


def test_the_loss_is_the_sum_of_its_parts_without_the_first_frame():
    total, parts, _, _ = objective(0.5, 0.2, TrainingConfig(reward_weight=3.0))
    assert parts["latent"] == pytest.approx(0.25, rel=1e-4)
    assert parts["reward"] == pytest.approx(0.04, rel=1e-4)
    assert parts["end"] == pytest.approx(0.0, abs=1e-6)
    assert total == pytest.approx(0.25 + 3 * 0.04, rel=1e-4)


def test_the_past_carries_the_noise_that_it_is_said_to_carry():
    _, _, shown, z = objective(0.0, 0.0, TrainingConfig(context_noise=0.4, self_fed=0.0))
    ((past, _, tau),) = shown
    assert 0.6 <= float(tau.min()) < 0.65
    assert 0.95 < float(tau.max()) <= 1.0
    noise = (past - tau[..., None, None] * z) / (1 - tau[..., None, None]).clamp(min=1e-3)
    assert abs(float(noise.std()) - 1) < 0.1
    _, _, shown, z = objective(0.0, 0.0, TrainingConfig(context_noise=0.0, self_fed=0.0))
    torch.testing.assert_close(shown[0][0], z)


def test_some_clips_are_fed_their_own_predictions():
    config = TrainingConfig(context_noise=0.0, self_fed=1.0)
    assert len(objective(0.5, 0.0, config, progress=0.29)[2]) == 1
    _, _, shown, z = objective(0.5, 0.0, config, progress=0.3)
    real, fed = shown[0][0], shown[1][0]
    torch.testing.assert_close(real, z)
    own = ((fed - z).abs() > 0.1).all(-1).all(-1).float()
    assert float(own[:, 0].max()) == 0.0, "the first frame of a clip stays real"
    assert 0.3 < float(own[:, 1:].mean()) < 0.5
    fed_share = [len(objective(0.5, 0.0, TrainingConfig(self_fed=0.3), 0.5, s)[2]) == 2 for s in range(60)]
    assert 0.1 < np.mean(fed_share) < 0.5


@pytest.mark.parametrize(("score_seen", "loss"), [(False, 4.0), (True, 2.5)])
def test_blind_clips_hide_what_comes_after_the_seen_frames(score_seen, loss):
    config = TrainingConfig(length=4, blind=1.0, seen=3, score_seen=score_seen, context_noise=0.0)
    errors = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0])[:, None, None]
    _, parts, shown, z = objective(errors, 0.0, config)
    ((past, _, tau),) = shown
    assert tau[:, :3].eq(1).all()
    assert tau[:, 3:].eq(0).all()
    torch.testing.assert_close(past[:, :3], z[:, :3])
    assert parts["latent"] == pytest.approx(loss, rel=1e-4)
    only = objective(0.5, 0.0, TrainingConfig(length=9, blind=1.0, seen=6, score_seen=score_seen))[2][0][2]
    assert (only > 0).sum(1).eq(3).all()  # five of ten frames show three of six


def test_clips_grow():
    config = TrainingConfig(batch=4, length=39, growth=0.5)
    assert config.clips_at(0.0) == (11, 5)
    assert config.clips_at(0.25) == (5, 22)
    assert config.clips_at(0.5) == config.clips_at(1.0) == (4, 40)
    assert TrainingConfig(batch=4, length=39).clips_at(0.0) == (4, 40)


# optimiser and average


def test_rates_rise_stay_and_fall():
    module = nn.Linear(2, 2)
    optimizer = Optimizer(module, 0.5, 0.0, 1.0, muon=False)
    rates = []
    for step, progress in ((0, 0.0), (49, 0.1), (99, 0.2), (5000, 0.5), (8000, 0.75), (10000, 1.0)):
        optimizer.step(module(torch.ones(1, 2)).sum(), step, progress)
        rates.append(optimizer.parts[0].param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.005, 0.25, 0.5, 0.5, 0.255, 0.005], rtol=1e-6)


def test_muon_takes_the_matrices_of_the_blocks_alone():
    config = world_config("debug", PLACE)
    world = World(PLACE, config)
    optimizer = Optimizer(world.dynamics, 1e-3, 0.0, 1.0, muon=True)
    adam, muon = ({id(p) for g in part.param_groups for p in g["params"]} for part in optimizer.parts)
    names = {n for n, p in world.dynamics.named_parameters() if id(p) in muon}
    assert names
    assert all(n.startswith("blocks.") and n.endswith("weight") for n in names)
    assert {id(p) for p in world.dynamics.parameters()} == adam | muon
    assert not adam & muon


def test_the_optimiser_survives_a_checkpoint():
    def run(steps, optimizer, module, first=0):
        for step in range(first, steps):
            x = torch.full((3, 4), 0.1 * step + 0.3)
            optimizer.step(module(x).square().sum(), step, step / 20)

    torch.manual_seed(0)
    blocks = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)])})
    twin = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)])})
    twin.load_state_dict(blocks.state_dict())
    forward = [lambda x, m=m: m["blocks"][0](x) for m in (blocks, twin)]
    one = Optimizer(blocks, 0.01, 0.1, 1.0, muon=True)
    run(10, one, forward[0])
    first = Optimizer(twin, 0.01, 0.1, 1.0, muon=True)
    run(4, first, forward[1])
    second = Optimizer(twin, 0.01, 0.1, 1.0, muon=True)
    second.load({k: v.clone() for k, v in first.tensors().items()})
    run(10, second, forward[1], first=4)
    assert all(torch.equal(a, b) for a, b in zip(blocks.parameters(), twin.parameters(), strict=True))


def test_the_average_follows_and_swaps():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = Average(module)
    for step in range(1, 1001):
        module.weight.data.fill_(float(step))
        average.update(step)
    mean = float(average.shadow["weight"])
    assert 900 < mean < 1000, "about the last twentieth"
    average.exchange()
    assert module.weight.item() == mean
    average.exchange()
    assert module.weight.item() == 1000.0


SLIDING = WorldSpec(
    {"pixels": StreamSpec("image", (16, 16, 1))},
    ActionSpec("multi_discrete", nvec=(5, 5), shape=(2,), motion=sliding(2, 32)),
)
TURNING = WorldSpec(
    {"pixels": StreamSpec("image", (64, 64, 3))},
    ActionSpec("discrete", n=3, motion=Motion((((0, 0, 1), (0, 0, -1), (-1, 0, 0)),), "body")),
)


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("backbone", names("dynamics"))
def test_each_backbone_has_every_size(backbone, preset):
    spec = {"flow": SLIDING, "flow_wedge": TURNING}.get(backbone, SPEC)
    config, recipe = world_config(preset, spec, backbone=backbone), training_config(preset, backbone)
    from_json(lookup("dynamics", backbone).Config, config.dynamics.config)  # its settings fit one another
    if preset in ("debug", "tiny"):
        assert World(spec, config).dynamics.name == backbone
    assert (recipe.blind == 1) == (config.dream_level == 0) == (backbone in ("flow", "flow_wedge"))


def test_vectors_alone_have_no_noise_on_their_past(places, dots):
    grid = StreamSpec("vector", (2,), (0.0, 0.0), (3.0, 3.0), native=ActionSpec("multi_discrete", nvec=(4, 4)))
    for spec, noise in ((PLACE, 0.0), (SPEC, 0.3), (WorldSpec({"grid": grid}, SPEC.action), 0.3)):
        assert training_config("tiny", spec=spec).context_noise == noise
    for data, noise in ((places, 0.0), (dots, 0.3)):
        world = quick(data, training=None, budget="1steps")
        assert world.record["training"]["context_noise"] == noise


def test_a_map_needs_declared_motion():
    with pytest.raises(ConfigError, match="declare"):
        world_config("tiny", SPEC, backbone="flow")
    with pytest.raises(UnknownName, match="flow_wedge"):
        world_config("tiny", SPEC, backbone="flow_wegde")
    assert world_config("tiny", SLIDING, backbone="flow").decoder == Part("regression")


def test_every_preset_is_a_whole_recipe():
    for name, size in SIZES.items():
        world_config(name, SPEC)
        assert size.training.length <= 2 * size.window, name
        assert size.dim % (4 * max(1, size.dim // 64)) == 0, name
