"""The pixel U-Net that Terrella is compared with: EDM's identities, its size, and that it is fed as it should be."""

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from terrella.data import Dataset, Episode
from terrella.errors import DatasetError, SpecError, TrainingError
from terrella.spec import ActionSpec, StreamSpec, WorldSpec

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"
SPEC = WorldSpec({"pixels": StreamSpec("image", (8, 8, 3))}, ActionSpec("discrete", n=5, start=2))
HORIZONS = (1, 2, 4, 8, 16, 32, 50, 100, 200)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def peer():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SPEED)
        names = ("unet", "peer_engine", "peer_training", "peer_unet")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Episodes of 30 transitions whose frames are numbered throughout; pixels are the number, actions depend on it."""
    with Dataset.create(tmp_path_factory.mktemp("peer") / "data", SPEC) as writer:
        for e in range(8):
            number = 31 * e + np.arange(31)
            frames = np.broadcast_to(number[:, None, None, None], (31, 8, 8, 3)).astype(np.uint8)
            ends = np.arange(30) == 29
            rows = 2.0 + number[:-1, None] % 5
            writer.add(Episode({"pixels": frames}, rows, np.zeros(30, np.float32), np.zeros(30, bool), ends))
    return Dataset(writer.path)


def small(unet, **changes):
    torch.manual_seed(0)
    size = {"actions": 5, "width": 32, "levels": 2, "blocks": 1, "cond": 32, **changes}
    return unet.Denoiser(unet.UNetConfig(**size))


def wake(module):
    """Let layers that begin silent say something."""
    for p in module.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return module.eval()


def test_its_size_is_the_published_one(peer):
    count = sum(p.numel() for p in peer.unet.Denoiser(peer.unet.UNetConfig(actions=18)).parameters())
    assert count == pytest.approx(4.4e6, rel=0.1)


def test_a_sample_is_a_frame_that_depends_on_all_it_is_given(peer):
    model = wake(small(peer.unet))
    past, actions, noise = torch.rand(2, 4, 3, 16, 8) * 2 - 1, torch.randint(0, 5, (2, 4)), torch.randn(2, 3, 16, 8)
    with torch.inference_mode():
        frame = model.sample(past, actions, noise)
        assert frame.shape == (2, 3, 16, 8)
        assert frame.abs().max() <= 1
        oldest, last, latest = past.clone(), actions.clone(), past.clone()
        oldest[0, 0] += 0.5
        last[0, -1] = (last[0, -1] + 1) % 5
        latest[0, -1] += 0.5
        for changed in (
            (oldest, actions, noise),
            (latest, actions, noise),
            (past, last, noise),
            (past, actions, -noise),
        ):
            other = model.sample(*changed)
            assert not torch.allclose(other[0], frame[0], atol=1e-4)
        torch.testing.assert_close(model.sample(oldest, actions, noise)[1], frame[1])  # the neighbour's is the same


def test_noise_levels_are_evenly_spaced_in_their_seventh_root(peer):
    levels = peer.unet.schedule()
    assert len(levels) == 4
    assert levels[0] == pytest.approx(5)
    assert levels[2] == pytest.approx(2e-3)
    assert levels[3] == 0
    roots = np.array(levels[:3]) ** (1 / 7)
    assert roots[0] - roots[1] == pytest.approx(roots[1] - roots[2])


def test_the_true_denoiser_leads_to_the_data(peer):
    data = torch.rand(4, 3, 8, 8) * 2 - 1
    drawn = peer.unet.euler(lambda x, sigma: data, 5 * torch.randn(data.shape), peer.unet.schedule())
    assert torch.equal(drawn, data)

    # Data N(mean, spread^2): the exact flow scales what is left of the noise by spread / sqrt(spread^2 + sigma^2).
    mean, spread, start = 0.3, 0.5, 5 * torch.randn(1000)

    def ideal(x, sigma):
        assert sigma.shape == x.shape
        return (spread**2 * x + sigma**2 * mean) / (spread**2 + sigma**2)

    exact = mean + (start - mean) * spread / math.sqrt(spread**2 + 25)
    coarse, fine = (peer.unet.euler(ideal, start, peer.unet.schedule(n)) - exact for n in (3, 300))
    assert fine.abs().max() < 0.02
    assert coarse.abs().max() > 5 * fine.abs().max()


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 5.0])
def test_preconditioning_gives_unit_variance_and_a_target_that_the_input_does_not_tell(peer, sigma):
    torch.manual_seed(0)
    clean = 0.5 * torch.randn(4000, 3, 4, 4)
    level = torch.full((4000,), sigma)
    noisy, s = peer.unet.add_noise(clean, level), peer.unet.scales(level)
    inward, target = s.c_in * noisy, (clean - s.c_skip * noisy) / s.c_out
    assert inward.var().item() == pytest.approx(1, abs=0.02)
    assert target.var().item() == pytest.approx(1, abs=0.04)
    assert (inward * target).mean().abs() < 0.03  # c_skip is what a line through the data says
    torch.testing.assert_close(s.c_skip * noisy + s.c_out * target, clean, atol=1e-4, rtol=1e-4)
    assert s.c_noise.flatten()[0].item() == pytest.approx(math.log(math.hypot(sigma, 0.3)) / 4)


def test_noise_grows_with_sigma_and_a_part_is_shared_by_a_channel(peer):
    torch.manual_seed(0)
    clean = torch.zeros(500, 3, 4, 4)
    spreads = [peer.unet.add_noise(clean, torch.full((500,), s)).std().item() for s in (0.0, 0.5, 1.0, 5.0)]
    assert spreads == pytest.approx([math.hypot(s, 0.3) for s in (0.0, 0.5, 1.0, 5.0)], rel=0.05)
    shared = peer.unet.add_noise(clean, torch.zeros(500))
    assert torch.equal(shared, shared[..., :1, :1].expand_as(shared))
    assert shared[:, 0].ne(shared[:, 1]).all()


def test_a_network_that_says_nothing_has_the_variance_of_the_target_as_its_loss(peer):
    model = small(peer.unet)
    frames = 0.5 * torch.randn(2000, 5, 3, 4, 4)
    with torch.inference_mode():
        loss = model.loss(frames, torch.randint(0, 5, (2000, 4)), torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(1, abs=0.05)


def test_pixels_survive_the_way_there_and_back(peer):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    signal = peer.unet.to_signal(pixels)
    assert signal.shape == (1, 3, 16, 16)
    assert (signal.min(), signal.max()) == (-1, 1)
    assert torch.equal(peer.unet.to_pixels(signal), pixels)


@pytest.mark.parametrize("way", [0, 3])
def test_it_learns(peer, way):
    """The next frame is the last one moved by an action; sixty steps explain half of it."""
    training, model = peer.peer_training, small(peer.unet, actions=2)
    image = (torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    choices = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(0))
    moves = torch.cumsum(2 * choices - 1, 0).tolist()
    pixels = torch.cat([image, *(image.roll(n, 2) for n in moves)])
    frames = training.Frames(pixels, torch.cat([choices, choices[:1]]), torch.arange(196), 4)
    recipe, chosen = training.Recipe(1.0, batch=8, lr=1e-2), training.WAYS[way]
    peer.peer_engine.lay_out(model, chosen.order)
    optimizer, generator = training.make_optimizer(model, recipe.lr), torch.Generator().manual_seed(0)
    losses = [
        float(training.train_step(model, optimizer, frames, recipe, chosen, step, generator)) for step in range(60)
    ]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_clips_are_consecutive_frames_of_training_episodes_with_the_actions_between(peer, data):
    frames = peer.peer_training.read_frames(data, "train", 4, CPU)
    clips, actions = frames.sample(500, torch.Generator().manual_seed(0))
    number = peer.unet.to_pixels(clips)[:, :, 0, 0, 0].long()
    assert clips.shape == (500, 5, 3, 8, 8)
    assert (number.diff(dim=1) == 1).all()
    assert set((number // 31).flatten().tolist()) == set(data.split("train").tolist())
    assert torch.equal(number // 31, (number[:, :1] // 31).expand_as(number))
    assert torch.equal(actions, number[:, :-1] % 5)
    assert {int(n) % 31 for n in number[:, 0]} == set(range(27))
    with pytest.raises(TrainingError, match="31 transitions"):
        peer.peer_training.read_frames(data, "train", 31, CPU)


def test_the_engine_remembers_what_it_showed_and_what_was_done(peer):
    model = wake(small(peer.unet))
    engine = peer.peer_engine.PeerEngine(model, SPEC)
    rng = np.random.default_rng(0)
    seen, rows = (
        rng.integers(0, 256, (2, 6, 8, 8, 3), dtype=np.uint8),
        rng.integers(2, 7, (2, 10, 1)).astype(np.float32),
    )
    state = engine.start({"pixels": seen}, rows[:, :5], seeds=[7, 8])
    assert torch.equal(state.past, peer.unet.to_signal(torch.from_numpy(seen[:, 2:])))
    assert torch.equal(state.actions, torch.from_numpy(rows[:, 2:5, 0]).long() - 2)
    _, whole = engine.rollout(state, rows[:, 5:])
    state = engine.start({"pixels": seen}, rows[:, :5], seeds=[7, 8])
    shown = []
    for t in range(5, 10):
        state, frame = engine.step(state, rows[:, t])
        shown.append(frame.observation["pixels"])
    stack = np.stack(shown, 1)
    assert stack.dtype == np.uint8
    assert np.array_equal(stack, whole.observation["pixels"])
    assert torch.equal(state.past, peer.unet.to_signal(torch.from_numpy(stack[:, 1:])))
    assert torch.equal(state.actions, torch.from_numpy(rows[:, 7:, 0]).long() - 2)
    half = peer.peer_engine.PeerEngine(model, SPEC, dtype=torch.bfloat16, order="channels first")
    _, near = half.rollout(half.start({"pixels": seen}, rows[:, :5], seeds=[7, 8]), rows[:, 5:6])
    assert np.abs(near.observation["pixels"].astype(int) - stack[:, :1]).mean() < 8
    with pytest.raises(SpecError, match="4 frames"):
        engine.start({"pixels": seen[:, :3]}, rows[:, :2])


def test_what_it_cannot_model_is_refused(peer):
    vector = WorldSpec({"vector": StreamSpec("vector", (4,))}, SPEC.action)
    with pytest.raises(SpecError, match=r"one image"):
        peer.peer_engine.image_stream(vector)
    with pytest.raises(SpecError, match=r"discrete"):
        peer.peer_engine.image_stream(WorldSpec(SPEC.streams, ActionSpec("box", shape=(1,), low=(0.0,), high=(1.0,))))


def test_a_trained_peer_is_kept_with_its_record(peer, data, tmp_path):
    training, path = peer.peer_training, tmp_path / "peer.safetensors"
    recipe = training.Recipe(0.2, batch=2)
    model, about = training.trained_peer(data, path, recipe, CPU)
    assert about["seconds_trained"] >= 0.2
    assert about["steps"] >= 1
    assert about["parameters"] == pytest.approx(4.4e6, rel=0.1)
    assert len(about["seconds_a_step"]) == 4
    assert about["held_out"][about["kept"]] == min(about["held_out"].values())
    written = path.read_bytes()
    again, record = training.trained_peer(data, path, recipe, CPU)
    assert (record, path.read_bytes()) == (about, written)
    for a, b in zip(model.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)
    with pytest.raises(TrainingError, match=r"--out"):
        training.trained_peer(data, path, training.Recipe(0.2, batch=2, seed=1), CPU)


def test_futures_are_held_out_and_the_truth_has_no_error(peer, data):
    bench = peer.peer_unet
    truth = bench.futures(data, 6, HORIZONS, 0)
    numbers = truth.observations["pixels"][..., 0, 0, 0].astype(int)
    assert set(truth.groups) <= set(data.split("held_out"))
    assert truth.future.shape == (6, 200, 1)
    assert truth.length.min() >= 10  # half of the 19 after the 11 transitions between seen frames
    assert truth.length.max() <= 19
    for row, length in enumerate(truth.length):
        assert (np.diff(numbers[row, : 12 + length]) == 1).all()
        assert (numbers[row, : 11 + length] % 5 == truth.actions[row, : 11 + length, 0] - 2).all()
        assert not numbers[row, 12 + length :].any()
    perfect = bench.score(lambda a, hs: np.stack([truth.frame("pixels", h) for h in hs], 1), truth, data, HORIZONS, 0)
    n = [int((truth.length >= h).sum()) for h in HORIZONS]
    assert n[:4] == [6] * 4
    assert n[5:] == [0] * 4
    assert perfect["mse"] == [0.0 if count else None for count in n]
    assert [sum(v is not None for v in column) for column in zip(*perfect["mse_raw"])] == n
    copied = bench.references(data, truth, HORIZONS)["copy_last"]["mse"]
    assert copied[:4] == pytest.approx([(h / 255) ** 2 for h in (1, 2, 4, 8)], abs=1e-6)
    short = SimpleNamespace(split=lambda which: np.array([0]), lengths=np.array([11]), spec=SPEC)
    with pytest.raises(DatasetError, match="12 transitions"):
        bench.futures(short, 1, HORIZONS, 0)


def test_episodes_that_are_long_enough_go_on_for_the_furthest_horizon(peer, data):
    truth = peer.peer_unet.futures(data, 40, (1, 15), 0)
    assert set(truth.length) == {15}
    assert len(set(truth.observations["pixels"][:, 0, 0, 0, 0].tolist())) > 4  # from 5 starts an episode


def test_a_player_that_ignores_actions_has_an_action_ratio_of_one(peer, data):
    truth = peer.peer_unet.futures(data, 6, HORIZONS, 0)

    def heeds(actions, horizons):
        wrong = np.uint8(20) * (actions != truth.future).any((1, 2))
        return np.stack([truth.frame("pixels", h) for h in horizons], 1) + 1 + wrong[:, None, None, None, None]

    still = peer.peer_unet.score(lambda actions, horizons: truth.frame("pixels", 0)[:, None], truth, data, HORIZONS, 0)
    assert still["action_ratio"] == 1.0
    assert peer.peer_unet.score(heeds, truth, data, HORIZONS, 0)["action_ratio"] > 10
