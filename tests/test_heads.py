"""Heads against what is known: a chain's values, a recorded mixture, transitions that were and that were not."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from terrella import Engine, heads
from terrella.data import Dataset, Episode
from terrella.engine import State, Trail
from terrella.errors import ActionError, ConfigError, SpecError, StateError, TrainingError, UnknownName, WorldError
from terrella.heads.recordings import Recordings, dreamed
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import TrainingConfig, train, world_config
from terrella.training.optim import Optimizer
from terrella.world import World

CHOICE = ActionSpec("discrete", n=2)
SMALL = {"width": 48, "layers": 1, "lr": 3e-3}
BOTH = ActionSpec("tuple", children=(CHOICE, ActionSpec("box", shape=(1,), low=(-2.0,), high=(2.0,), dtype="float32")))


def written(path: Path, spec: WorldSpec, episodes) -> Dataset:
    with Dataset.create(path, spec) as writer:
        for seen, actions, rewards, terminated in episodes:
            ends = np.zeros((2, len(actions)), bool)
            ends[0 if terminated else 1, -1] = True
            writer.add(Episode({"vector": np.float32(seen)}, np.float64(actions), np.float32(rewards), *ends))
    return Dataset(path)


def plain(spec: WorldSpec) -> World:
    """A world whose tokenizer passes vectors on, and which has learned nothing."""
    torch.manual_seed(0)
    return World(spec, world_config("debug", spec)).eval().requires_grad_(False)


def fitted(world, data, kind, number=300, **settings):
    return heads.fit(world, data, kind, budget=f"{number}steps", progress=False, **settings)


def after(frames, rows=None) -> Trail:
    """Windows `(R, K, ...)` of vectors `(R, K, F)`, as the tokenizer of `plain` makes them."""
    z = torch.zeros(*np.shape(frames)[:2], 1, 16)
    z[..., 0, : np.shape(frames)[2]] = torch.as_tensor(np.float32(frames))
    return Trail(z, torch.full((*z.shape[:2], 1), torch.nan) if rows is None else torch.as_tensor(np.float32(rows)))


# known values


@pytest.fixture(scope="module")
def walks(tmp_path_factory) -> tuple[Dataset, World]:
    """Five places in a row, from the middle: left or right at random, and a reward for leaving on the right."""
    spec = WorldSpec({"vector": StreamSpec("vector", (6,))}, CHOICE)
    rng, episodes = np.random.default_rng(0), []
    for number in range(500):  # in sight, so that no two episodes are equal and held out together
        place, seen, actions = 2, [2], []
        while 0 <= place < 5:
            actions.append([rng.integers(2)])
            place += 2 * actions[-1][0] - 1
            seen.append(place)
        rewards = np.zeros(len(actions))
        rewards[-1] = place == 5
        frames = np.eye(6)[np.clip(seen, 0, 4)] + 1e-5 * number * np.eye(6)[5]
        episodes.append((frames, actions, rewards, True))
    return written(tmp_path_factory.mktemp("walks") / "data", spec, episodes), plain(spec)


def test_values_of_a_random_walk_are_known(walks):
    data, world = walks
    head = fitted(world, data, "value", 500, discount=1.0, frames=1, trace=0.9, **SMALL)
    value = head(after(np.eye(6)[:5, None]))
    np.testing.assert_allclose(value, np.arange(1, 6) / 6, atol=0.12)
    seen = [(data.episode(int(i)).observations["vector"], data.returns[i]) for i in data.split("train")]
    place, paid = (np.concatenate(x) for x in zip(*((o[:-1].argmax(1), np.full(len(o) - 1, r)) for o, r in seen)))
    np.testing.assert_allclose(value, [paid[place == x].mean() for x in range(5)], atol=0.05)
    assert head.record["value_steps"] == 500
    assert head.record["value_held_out"] < 1


def test_what_is_cut_short_is_not_ended(tmp_path):
    spec = WorldSpec({"vector": StreamSpec("vector", (1,))}, CHOICE)
    rng = np.random.default_rng(0)

    def episode(terminated: bool):
        side = rng.integers(2) if not terminated else 1  # on the left nothing ever ends
        return np.full((9, 1), side), rng.integers(0, 2, (8, 1)), np.ones(8), terminated

    data = written(tmp_path / "data", spec, [episode(False) for _ in range(40)])
    head = fitted(plain(spec), data, "value", 400, discount=0.9, frames=1, members=2, **SMALL)
    np.testing.assert_allclose(head(after([[[0.0]], [[1.0]]])), 10, atol=0.7)
    ended = written(tmp_path / "ended", spec, [episode(True) for _ in range(40)])
    head = fitted(plain(spec), ended, "value", 200, discount=0.9, frames=1, **SMALL)
    assert head(after([[[1.0]]])).item() < 6


# known policies


@pytest.fixture(scope="module")
def habits(tmp_path_factory) -> tuple[Dataset, World]:
    """Who sees 1 mostly chooses 1, with a number about 1; who sees 0 does the reverse. The next frame tells both."""
    spec = WorldSpec({"vector": StreamSpec("vector", (3,))}, BOTH)
    rng, episodes = np.random.default_rng(0), []
    for _ in range(60):
        side = rng.integers(0, 2, 21)
        choice = np.where(rng.random(20) < 0.8, side[:-1], 1 - side[:-1])
        number = np.clip(rng.normal(2 * side[:-1] - 1, 0.3), -2, 2)
        told = np.concatenate([[[0, 0]], np.stack([choice, number], 1)])
        episodes.append((np.concatenate([side[:, None], told], 1), np.stack([choice, number], 1), np.zeros(20), False))
    return written(tmp_path_factory.mktemp("habits") / "data", spec, episodes), plain(spec)


def test_a_policy_recovers_what_was_recorded(habits):
    head = fitted(habits[1], habits[0], "policy", 400, frames=1, **SMALL)
    windows = after([[[0, 0, 0.0]], [[1, 0, 0.0]]], np.full((2, 1, 2), np.nan))
    laws = head(windows)
    np.testing.assert_allclose(laws.log_probs[:, 0].exp(), [[0.8, 0.2], [0.2, 0.8]], atol=0.08)
    np.testing.assert_allclose(laws.mean[:, 0], [-1, 1], atol=0.12)
    np.testing.assert_allclose(laws.std[:, 0], 0.3, atol=0.08)
    assert head.law.mode(laws).round().tolist() == [[0, -1], [1, 1]]


def test_an_inverse_head_reads_the_action_off_the_frames(habits):
    head = fitted(habits[1], habits[0], "inverse", 500, frames=2, **SMALL)
    rng = np.random.default_rng(1)
    choice = rng.integers(0, 2, 50)
    number = 2 * choice - 1 + rng.uniform(-0.5, 0.5, 50)
    frames = np.zeros((50, 2, 3))
    frames[:, 0, 0], frames[:, 1, 1], frames[:, 1, 2] = choice, choice, number
    rows = np.full((50, 2, 2), np.nan)
    rows[:, 1] = np.stack([choice, number], 1)
    true, found = after(frames, rows), head.law.mode(head(after(frames, rows)))
    np.testing.assert_allclose(found[:, 0], choice)
    np.testing.assert_allclose(found[:, 1], number, atol=0.3)
    wrong = after(frames, rows[::-1].copy())
    assert (head.log_prob(true) >= head.log_prob(wrong)).float().mean() > 0.9


def test_numbers_are_as_likely_as_a_normal_law_says(habits):
    law = heads.Policy(heads.Policy.Config(), habits[1].tokens, BOTH).law
    law.centre.fill_(0.5)
    law.spread.fill_(2.0)
    laws = law.laws(torch.tensor([0.25, 0.0, 1.0, 3.0]))
    want = torch.distributions.Normal(0.5 + 2 * 0.25, 2.0).log_prob(torch.tensor(1.7)) + np.log(2.0)
    want = want + torch.tensor([1.0, 3.0]).log_softmax(0)[1]
    torch.testing.assert_close(law.log_prob(laws, torch.tensor([1.0, 1.7])), want)


# energy


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> tuple[Dataset, World]:
    """A place on a line that each action moves, and a world that was trained on it."""
    spec = WorldSpec({"vector": StreamSpec("vector", (2,))}, CHOICE)
    rng, episodes = np.random.default_rng(0), []
    for _ in range(60):
        actions = rng.integers(0, 2, 24)
        place = np.cumsum(np.concatenate([[rng.normal()], 0.5 * (2 * actions - 1)]))
        episodes.append((np.stack([place, np.sin(place)], 1), actions[:, None], np.abs(place[1:]), False))
    data = written(tmp_path_factory.mktemp("line") / "data", spec, episodes)
    recipe = TrainingConfig(batch=16, length=8)
    return data, train(data, budget="150steps", preset="debug", training=recipe, device="cpu", progress=False)


@pytest.fixture(scope="module")
def all_heads(line) -> World:
    for kind, settings in {"value": {"steps": 4}, "policy": {}, "inverse": {}, "energy": {}}.items():
        fitted(line[1], line[0], kind, 300, **SMALL, **settings)
    return line[1]


def test_energy_ranks_what_happened_before_what_did_not(line, all_heads):
    data, world = line
    held = Recordings.of(world, data, "held_out")
    held.dreams = dreamed(world, held, 64, 8, 0)
    at = held.draw(400, torch.Generator().manual_seed(0)) + 1
    head = world.head("energy")
    true = held.windows(at, head.config.frames)
    wrong = head.negatives(held, at, true, torch.Generator().manual_seed(1))
    assert set(wrong) == {"other", "moment", "action", "dreamed"}
    apart = (wrong["action"].rows[:, -1] != true.rows[:, -1])[:, 0]
    assert 0.3 < apart.float().mean() < 0.7
    energy = {name: head(window) for name, window in {"true": true, **wrong}.items()}
    assert (energy["true"] < energy["action"])[apart].float().mean() > 0.85
    moved = (wrong["moment"].z[:, -1] - true.z[:, -1]).abs().amax((1, 2)) > 0.1
    assert (energy["true"] < energy["moment"])[moved].float().mean() > 0.85
    assert (energy["true"] < energy["other"]).float().mean() > 0.9


def test_windows_never_leave_their_episode(line):
    data, world = line
    whole = Recordings.of(world, data)
    begin = int(whole.first[60])
    assert begin == 50
    assert int(whole.last[60]) == 74
    window = whole.windows(torch.tensor([begin, begin + 1, begin + 3]), 3)
    assert window.rows.isnan()[..., 0].tolist() == [[True] * 3, [True, True, False], [False] * 3]
    assert torch.equal(window.z[0], whole.clips.z[[begin] * 3].float())
    assert torch.equal(window.z[1], whole.clips.z[[begin, begin, begin + 1]].float())
    cut = whole.windows(torch.tensor([begin + 5]), 3, cut=torch.tensor([1]))
    assert torch.equal(cut.z[0], whole.clips.z[[begin + 4, begin + 4, begin + 5]].float())
    assert cut.rows.isnan()[0, :, 0].tolist() == [True, True, False]
    index, inside = whole.ahead(torch.tensor([72]), 4)
    assert index.tolist() == [[72, 73, 74, 74, 74]]
    assert inside.tolist() == [[True] * 3 + [False] * 2]
    assert (whole.first[whole.draw(1000, torch.Generator().manual_seed(0)) + 1] <= 0).any()


# fitting


def test_equal_seeds_give_equal_heads_and_leave_chance_alone(walks):
    before = torch.get_rng_state()
    one, again = (fitted(walks[1], walks[0], "value", 20, seed=3, **SMALL).state_dict() for _ in range(2))
    other = fitted(walks[1], walks[0], "value", 20, seed=4, **SMALL).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in one.items())
    assert not all(torch.equal(v, other[k]) for k, v in one.items())
    assert torch.equal(before, torch.get_rng_state())


def test_an_interrupted_fit_goes_on_to_the_same_head(line, tmp_path, monkeypatch):
    data, world = line
    step, calls = Optimizer.step, []

    def interrupted(self, *args):
        step(self, *args)
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)

    whole = fitted(world, data, "energy", 15, **SMALL).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(world, data, "energy", 15, out=tmp_path, **SMALL)
    with pytest.raises(TrainingError, match="seed = 0, not 1"):
        fitted(world, data, "energy", 15, out=tmp_path, seed=1, **SMALL)
    resumed = fitted(world, data, "energy", 15, out=tmp_path, **SMALL)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.items())
    assert [p.name for p in tmp_path.rglob("*.safetensors")] == ["energy.safetensors"]


def test_heads_are_saved_and_loaded_with_their_world(all_heads, line, tmp_path):
    all_heads.save(tmp_path / "w")
    loaded = World.load(tmp_path / "w")
    assert sorted(loaded.heads) == ["energy", "inverse", "policy", "value"]
    for kind, head in loaded.heads.items():
        mine = all_heads.head(kind)
        assert head.config == mine.config
        assert head.record == json.loads(json.dumps(mine.record))
        assert all(torch.equal(v, mine.state_dict()[k]) for k, v in head.state_dict().items())
    del loaded.heads["value"], loaded.heads["energy"], loaded.heads["policy"]
    loaded.save(tmp_path / "w")  # and those that are no more are gone
    assert [p.name for p in (tmp_path / "w" / "heads").iterdir()] == ["inverse.safetensors"]
    for file in (tmp_path / "w" / "heads").iterdir():
        file.unlink()
    with pytest.raises(WorldError, match=r"no value head.*heads\.fit\(world, dataset, 'value'\)"):
        World.load(tmp_path / "w").head("value")
    half = World.load(all_heads.save(tmp_path / "half", half=True))
    assert sorted(half.heads) == sorted(all_heads.heads)
    other = plain(all_heads.spec)
    other.save(tmp_path / "other")
    (tmp_path / "other" / "heads").mkdir()
    (tmp_path / "half" / "heads" / "value.safetensors").rename(tmp_path / "other" / "heads" / "value.safetensors")
    with pytest.raises(WorldError, match="another world's latents"):
        World.load(tmp_path / "other")


def test_mistakes_are_told(walks, habits, tmp_path):
    data, world = walks
    with pytest.raises(UnknownName, match="Did you mean 'value'"):
        fitted(world, data, "valeu")
    with pytest.raises(UnknownName, match="Did you mean 'policy'"):
        world.head("polity")
    with pytest.raises(ConfigError, match="Did you mean 'discount'"):
        fitted(world, data, "value", discont=0.9)
    for kind, settings in {
        "value": {"discount": 0.0},
        "policy": {"frames": 0},
        "inverse": {"frames": 1},
        "energy": {"dreams": 1.0},
    }.items():
        with pytest.raises(ConfigError):
            fitted(world, data, kind, **settings)
    with pytest.raises(SpecError, match="Record the same environment"):
        fitted(world, habits[0], "value")
    text = WorldSpec({"vector": StreamSpec("vector", (1,))}, ActionSpec("text", n=4))
    said = written(tmp_path / "said", text, [(np.zeros((3, 1)), np.full((2, 4), 65.0), np.zeros(2), True)] * 4)
    with pytest.raises(ActionError, match="no text"):
        fitted(plain(text), said, "policy")


# what engines recall


@pytest.mark.parametrize("fused", [False, True])
def test_engines_recall_the_frames_that_were(line, fused):
    data, world = line
    clip = data.sample(3, 5, np.random.default_rng(0))
    engine = Engine(world, recall=3, fused=fused)
    state = engine.start(clip.observations, clip.actions, seeds=5)
    seen = engine.recent(state)
    z = world.encode(world.tensors(clip.observations))
    torch.testing.assert_close(seen.z, z[:, -3:])
    assert np.array_equal(seen.rows, clip.actions[:, -3:])
    rows = np.random.default_rng(1).integers(0, 2, (6, 4, 1)).astype(float)
    forked, frame = engine.rollout(state.fork(2), rows)
    _, bare = Engine(world, fused=fused).rollout(
        Engine(world).start(clip.observations, clip.actions, seeds=5).fork(2), rows
    )
    np.testing.assert_allclose(frame.observation["vector"], bare.observation["vector"], atol=1e-5)
    assert bare.latent is None
    torch.testing.assert_close(engine.recent(forked).z, torch.from_numpy(frame.latent[:, -3:]))
    assert np.array_equal(engine.recent(forked).rows, rows[:, -3:])
    shown = world.decode(torch.from_numpy(frame.latent))["vector"]
    np.testing.assert_allclose(shown, frame.observation["vector"], atol=1e-5)
    dreamed = engine.dream(state.fork(2), torch.from_numpy(rows))
    np.testing.assert_allclose(dreamed.latent.detach(), frame.latent, atol=1e-4)
    alone = engine.rollout(state.select([1]).fork(2), rows[2:4])[1]
    np.testing.assert_allclose(alone.latent, frame.latent[2:4], atol=1e-5)


def test_a_session_that_begins_recalls_its_first_frame(line, tmp_path):
    data, world = line
    clip = data.sample(2, 2, np.random.default_rng(0))
    engine = Engine(world, recall=3)
    first = {"vector": clip.observations["vector"][:, :1]}
    state = engine.start(first)
    z = world.encode(world.tensors(first))
    torch.testing.assert_close(engine.recent(state).z, z.expand(-1, 3, -1, -1))
    assert engine.recent(state).rows.isnan().all()
    state = engine.observe(state, clip.actions[:, 0], {"vector": clip.observations["vector"][:, 1]})
    both = world.encode(world.tensors({"vector": clip.observations["vector"][:, :2]}))
    torch.testing.assert_close(engine.recent(state).z, both[:, [0, 0, 1]])
    assert engine.recent(state).rows.isnan()[..., 0].tolist() == [[True, True, False]] * 2
    loaded = engine.load_state(state.save(tmp_path / "s"))
    assert torch.equal(engine.recent(loaded).z, engine.recent(state).z)
    merged = State.merge([state, loaded])
    assert torch.equal(engine.recent(merged).z[2:], engine.recent(state).z)
    assert torch.equal(state.digest(1e-3), loaded.digest(1e-3))
    with pytest.raises(StateError, match="another world"):
        Engine(world).rollout(state, np.zeros((2, 1, 1)))
    with pytest.raises(ConfigError, match="recall=4"):
        Engine(world).recent(Engine(world).start(first))
    with pytest.raises(ConfigError, match="recall is -1"):
        Engine(world, recall=-1)


def test_equal_memories_have_equal_numbers_whatever_is_recalled(line):
    data, world = line
    clip = data.sample(1, 1, np.random.default_rng(0))
    numbers = []
    for engine in (Engine(world), Engine(world, recall=2)):
        numbers.append(engine.start(clip.observations, clip.actions).digest(1e-3))
    assert torch.equal(*numbers)
