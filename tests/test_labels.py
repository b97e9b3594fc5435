"""Actions without labels: latents that tell what was done, the handle that a few labels give them, actions read off."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from terrella import Engine, heads, labels
from terrella.arenas import forkable, make
from terrella.cli import main
from terrella.data import Dataset, Episode, import_npz
from terrella.errors import ActionError, ConfigError, DatasetError, SpecError, WorldError
from terrella.labels.controls import fitted
from terrella.laws import shaken
from terrella.planning import BestOf, Future, Inconsistency
from terrella.planning.base import recalled
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import TrainingConfig, train, world_config
from terrella.training.optim import Optimizer
from terrella.world import World

CHOICE = ActionSpec("discrete", n=3, start=-1)
TORQUE = ActionSpec("box", shape=(2,), low=(-2.0, -1.0), high=(2.0, float("inf")), dtype="float32")
LINE = WorldSpec({"vector": StreamSpec("vector", (3,))}, CHOICE)


def write(path, number=60, steps=12, seed=0, action=None) -> Dataset:
    """A place that each action moves, and a phase that goes round by itself. action: in place of what was done."""
    rng = np.random.default_rng(seed)
    with Dataset.create(path, LINE) as writer:
        for _ in range(number):
            done = rng.integers(-1, 2, steps)
            place = rng.normal() + np.concatenate([[0], done.cumsum()])
            phase = rng.uniform(0, 6) + 0.2 * np.arange(steps + 1)
            seen = np.stack([place, np.cos(phase), np.sin(phase)], 1).astype(np.float32)
            rows = done if action is None else action(rng, steps)
            ends = np.zeros((2, steps), bool)
            ends[1, -1] = True
            writer.add(Episode({"vector": seen}, rows[:, None].astype(float), np.zeros(steps, np.float32), *ends))
    return Dataset(path)


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Dataset:
    return write(tmp_path_factory.mktemp("line") / "data")


def learned(data, steps=110, **settings):
    how = {
        "preset": "debug",
        "device": "cpu",
        "training": TrainingConfig(batch=32, length=4, lr=6e-3),
        "progress": False,
    }
    return labels.learn_actions(data, budget=f"{steps}steps", **{"width": 32, "layers": 1, **how, **settings})


@pytest.fixture(scope="module")
def latent(line) -> labels.LatentActions:
    return learned(line, size=2)


def told_by_a_line(model, data) -> float:
    """How often a linear probe of the latents, fitted on half of the episodes, is right about the other half."""
    z = [np.concatenate([model.rows(e.observations), np.ones((len(e), 1))], 1) for e in data]
    half, done = len(z) // 2, [e.actions[:, 0] for e in data]
    probe = np.linalg.lstsq(np.concatenate(z[:half]), np.concatenate(done[:half]), rcond=None)[0]
    said = (np.concatenate(z[half:]) @ probe).round().clip(-1, 1)
    return float((said == np.concatenate(done[half:])).mean())


def test_latent_actions_tell_what_was_done(line, latent):
    assert told_by_a_line(latent, line) > 0.9
    rows = latent.rows(line.episode(0).observations)
    assert rows.shape == (12, 2)
    assert rows.dtype == np.float64
    assert np.abs(rows).max() <= 3
    assert latent.record["actions_held_out"] < 0.9  # of what frames change
    every = np.concatenate([latent.rows(e.observations) for e in line])
    np.testing.assert_allclose(latent.record["deviation"], every.std(0), rtol=0.1)


def test_what_passes_has_no_price_at_first(latent):
    """A price from the first step on closed the bottleneck for good, where the past had more to teach."""
    z, recipe = torch.randn(4, 5, latent.world.tokens.n, latent.world.tokens.channels), TrainingConfig()
    costs = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        loss, parts = latent.loss(recipe, z, progress, torch.Generator().manual_seed(0))
        costs.append(float((loss - parts["error"]) / parts["nats"]))
    shares = np.array(costs) / latent.config.beta
    assert np.allclose(shares, [0.0, 0.5, 1.0, 1.0], atol=0.02)  # differences of float32 sums


def test_quantised_ones_are_few(line):
    model = learned(line, 6, size=2, bottleneck="fsq", levels=3)
    rows = np.concatenate([model.rows(e.observations) for e in line])
    assert set(np.unique(rows)) <= {-1.0, 0.0, 1.0}
    assert rows.std() > 0


@pytest.mark.slow
def test_quantised_ones_tell_what_was_done(line):
    model = learned(line, size=1, bottleneck="fsq", levels=3)
    assert labels.align(model, line).record["explained"] > 0.9  # each choice has a value of its own, in any order


def test_recorded_actions_are_not_read(line, tmp_path):
    lies = lies_like(line, tmp_path / "lies")
    assert lies.split("held_out").tolist() != line.split("held_out").tolist()
    one, other, third = learned(line, 6), learned(lies, 6), learned(line, 6, seed=1)
    seen = line.episode(3).observations
    assert np.array_equal(one.rows(seen), other.rows(seen))
    assert not np.array_equal(one.rows(seen), third.rows(seen))


def lies_like(data, path) -> Dataset:
    """The same frames under other actions and rewards, so that other episodes are held out, too."""
    rng = np.random.default_rng(5)
    with Dataset.create(path, data.spec) as writer:
        for e in data:
            wrong = rng.integers(-1, 2, e.actions.shape).astype(float)
            paid = rng.normal(size=len(e)).astype(np.float32)
            writer.add(Episode(e.observations, wrong, paid, e.terminated, e.truncated))
    return Dataset(path)


def test_a_labelled_dataset_has_the_frames_and_the_latents(line, latent, tmp_path):
    data = labels.label(line, tmp_path / "latent", latent)
    assert data.spec == latent.config.spec(line.spec)
    assert data.spec.action.kind == "box"
    assert data.spec.env.id == ""
    assert data.lengths.tolist() == line.lengths.tolist()
    first, true = data.episode(4), line.episode(4)
    assert np.array_equal(first.observations["vector"], true.observations["vector"])
    assert np.array_equal(first.actions, np.float32(latent.rows(true.observations)))
    assert first.info["actions"] == "latent"
    world = train(data, budget="4steps", preset="debug", device="cpu", progress=False)
    assert labels.controlled(world, labels.align(latent, line), line).spec == line.spec
    with pytest.raises(DatasetError, match="is there already"):
        labels.label(line, tmp_path / "latent", latent)


def test_it_is_saved_and_goes_on_where_it_was_stopped(line, latent, tmp_path, monkeypatch):
    seen = line.episode(1).observations
    loaded = labels.LatentActions.load(latent.save(tmp_path / "a"))
    assert loaded.config == latent.config
    assert np.array_equal(loaded.rows(seen), latent.rows(seen))
    assert World.load(tmp_path / "a").spec.action == latent.config.action
    (tmp_path / "a" / "encoder.safetensors").unlink()
    with pytest.raises(WorldError, match="no latent actions"):
        labels.LatentActions.load(tmp_path / "a")
    whole, step, calls = learned(line, 8), Optimizer.step, []

    def interrupted(self, *args):
        step(self, *args)
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learned(line, 8, out=tmp_path / "b")
    resumed = learned(line, 8, out=tmp_path / "b")
    assert np.array_equal(whole.rows(seen), resumed.rows(seen))
    assert sorted(p.name for p in (tmp_path / "b").glob("*.safetensors")) == [
        "encoder.safetensors",
        "weights.safetensors",
    ]


# alignment


def test_a_table_holds_the_mean_latent_of_each_choice(line, latent):
    found = labels.align(latent, line, transitions=100, ridge=0.0)
    z = np.concatenate([latent.rows(line.episode(i).observations) for i in range(9)])[:100]
    done = np.concatenate([line.episode(i).actions for i in range(9)])[:100]
    means = np.stack([z[done[:, 0] == c].mean(0) for c in (-1, 0, 1)])
    np.testing.assert_allclose(found.rows(np.array([[-1.0], [0.0], [1.0]])), means, atol=1e-8)
    assert found.record["transitions"] == 100
    near = [np.abs(means - row).sum(1).argmin() - 1 for row in z]
    assert (np.array(near) == done[:, 0]).mean() > 0.9
    assert found.record["explained"] > 0.5


def test_a_choice_never_taken_gets_what_all_have_in_common(latent, tmp_path):
    data = write(tmp_path / "data", 4, action=lambda rng, steps: rng.integers(0, 2, steps))
    found = labels.align(latent, data, ridge=0.1)
    rows = found.rows(np.array([[-1.0], [0.0], [1.0]]))
    assert np.isfinite(rows).all()
    assert (rows[0] >= rows[1:].min(0) - 1e-9).all()
    assert (rows[0] <= rows[1:].max(0) + 1e-9).all()


def test_numbers_are_mapped_as_least_squares_has_it():
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(40, 2)) * [1.0, 20.0] + 3, rng.normal(size=(3, 2))
    weight, bias, explained = fitted(x, x @ true.T + [1.0, 2.0, 3.0], 0.0)
    np.testing.assert_allclose(weight, true, atol=1e-9)
    np.testing.assert_allclose(bias, [1, 2, 3], atol=1e-8)
    assert explained == pytest.approx(1)
    noise = fitted(x, rng.normal(size=(40, 3)), 1e-3)[2]
    assert noise < 0.05  # what is not there is not told of the transitions left out


def empty(path, spec) -> Dataset:
    Dataset.create(path, spec).close()
    return Dataset(path)


def unlearned(spec, backbone) -> World:
    torch.manual_seed(0)
    return shaken(World(spec, world_config("debug", spec, "regression", backbone)))


@pytest.mark.parametrize("action", [CHOICE, TORQUE], ids=["table", "ridge"])
@pytest.mark.parametrize("backbone", ["transformer", "ssm", "hybrid", "rssm", "token_memory"])
def test_a_controlled_world_has_the_frames_of_the_latents(backbone, action, tmp_path):
    rng = np.random.default_rng(1)
    real = WorldSpec(LINE.streams, action)
    world = unlearned(labels.LatentConfig(size=3).spec(real), backbone)
    free = 3 if action.kind == "discrete" else 2
    controls = labels.Controls(rng.normal(size=(3, free)), rng.normal(size=3), action)
    twin = labels.controlled(world, controls, empty(tmp_path / "d", real))
    rows = rng.integers(-1, 2, (2, 5, 1)) if action.kind == "discrete" else rng.uniform(-1, 1, (2, 5, 2))
    seen = {"vector": rng.normal(size=(2, 1, 3)).astype(np.float32)}
    frames = []
    for model, given in ((world, controls.rows(rows)), (twin, rows.astype(float)), (world, 0 * controls.rows(rows))):
        engine = Engine(model)
        frames.append(engine.rollout(engine.start(seen), given)[1].observation["vector"])
    np.testing.assert_allclose(frames[1], frames[0], atol=1e-4)
    assert np.abs(frames[2] - frames[0]).max() > 1e-2


def test_what_cannot_be_aligned_is_refused(line, latent, tmp_path):
    several = WorldSpec(LINE.streams, ActionSpec("multi_binary", shape=(3,)))
    with pytest.raises(ActionError, match="Turn the others into one"):
        labels.align(latent, written_as(line, several, tmp_path / "several"))
    other = WorldSpec({"vector": StreamSpec("vector", (4,))}, CHOICE)
    with pytest.raises(SpecError, match="Record the same environment"):
        labels.align(latent, empty(tmp_path / "other", other))
    with pytest.raises(DatasetError, match="no episodes in split"):
        labels.align(latent, empty(tmp_path / "empty", LINE))
    with pytest.raises(ConfigError, match="transitions 0"):
        labels.align(latent, line, transitions=0)
    world = unlearned(LINE, "transformer")
    with pytest.raises(ActionError, match="same encoder"):
        labels.controlled(world, labels.align(latent, line), line)
    for settings in ({"size": 0}, {"frames": 1}, {"levels": 1}, {"beta": -1.0}):
        with pytest.raises(ConfigError):
            labels.LatentConfig(**settings)


def written_as(data, spec, path) -> Dataset:
    with Dataset.create(path, spec) as writer:
        for e in list(data)[:2]:
            rows = np.zeros((len(e), 3))
            writer.add(Episode(e.observations, rows, e.rewards, e.terminated, e.truncated))
    return Dataset(path)


# actions read off frames


@pytest.fixture(scope="module")
def pseudo(line, tmp_path_factory) -> Dataset:
    out = tmp_path_factory.mktemp("pseudo")
    few, lies = write(out / "few", 8, 14, seed=3), lies_like(line, out / "lies")
    how = {"budget": "250steps", "preset": "debug", "device": "cpu", "progress": False, "width": 48, "layers": 1}
    return labels.pseudo_label(lies, few, out / "data", **how)


def test_actions_are_read_off_the_frames(line, pseudo):
    assert pseudo.spec == line.spec
    assert pseudo.steps == line.steps
    assert pseudo.episode(0).info["actions"] == "inverse"
    said, true = (np.concatenate([e.actions[:, 0] for e in data]) for data in (pseudo, line))
    assert set(np.unique(said)) <= {-1.0, 0.0, 1.0}
    assert (said == true).mean() > 0.85  # from 112 labels
    assert all(np.array_equal(a.observations["vector"], b.observations["vector"]) for a, b in zip(pseudo, line))


def test_pseudo_labels_stay_within_bounds(tmp_path):
    rng, narrow = np.random.default_rng(0), ActionSpec("box", shape=(1,), low=(-0.5,), high=(0.5,), dtype="float32")
    spec = WorldSpec({"vector": StreamSpec("vector", (1,))}, narrow)

    def made(path, reach):
        with Dataset.create(path, spec) as writer:
            for _ in range(6):
                rows = rng.uniform(-reach, reach, (10, 1))
                seen = np.concatenate([[[0.0]], rows.cumsum(0)]).astype(np.float32)
                ends = np.zeros((2, 10), bool)
                ends[1, -1] = True
                writer.add(Episode({"vector": seen}, rows.clip(-0.5, 0.5), np.zeros(10, np.float32), *ends))
        return Dataset(path)

    few, wild = made(tmp_path / "few", 0.5), made(tmp_path / "wild", 3.0)
    how = {"budget": "80steps", "preset": "debug", "device": "cpu", "progress": False}
    data = labels.pseudo_label(wild, few, tmp_path / "out", **how)
    said = np.concatenate([e.actions for e in data])
    assert said.min() == -0.5
    assert said.max() == 0.5
    with pytest.raises(SpecError, match="record the same environment"):
        labels.pseudo_label(empty(tmp_path / "e", LINE), few, tmp_path / "no", **how)


def test_recordings_may_have_no_actions_at_all(line, latent, tmp_path):
    (tmp_path / "npz").mkdir()
    for i in range(3):
        np.savez(tmp_path / "npz" / f"{i}.npz", observations=line.episode(i).observations["vector"])
    data = import_npz(tmp_path / "npz", tmp_path / "data")
    assert data.spec.action == ActionSpec("discrete", n=1)
    assert data.lengths.tolist() == [12] * 3
    said = labels.label(data, tmp_path / "latent", latent)
    assert np.array_equal(said.episode(2).actions, np.float32(latent.rows(line.episode(2).observations)))


# futures that are believed


@pytest.fixture(scope="module")
def believed(line) -> World:
    world = train(line, budget="12steps", preset="debug", device="cpu", progress=False)
    heads.fit(world, line, "inverse", budget="20steps", width=32, frames=2, progress=False)
    return world


def test_the_future_that_fits_its_actions_best_is_taken(line, believed):
    engine, head = Engine(believed, recall=2), believed.head("inverse")
    clip = line.sample(3, 3, np.random.default_rng(0))
    rows = np.random.default_rng(1).integers(-1, 2, (3, 4, 1)).astype(float)

    def begun(seeds):
        return engine.start(clip.observations, clip.actions, seeds=seeds)

    after, frame = BestOf(engine, 4, every=4).rollout(begun([5, 6, 7]), rows)
    costs, seen = [], []
    for k in range(4):
        state = begun([s if k == 0 else s * 1_000_003 + k for s in (5, 6, 7)])
        past = recalled(engine, state)
        _, one = engine.rollout(state, rows)
        trail = past.then(one.latent, rows)
        costs.append(Inconsistency(head).cost(Future(rows, one.reward, one.terminated, {}, np.arange(3), trail)))
        seen.append(one.observation["vector"])
    best = np.argmin(costs, 0)
    assert len(set(best.tolist()) | {0}) > 1  # else nothing was chosen
    np.testing.assert_allclose(frame.observation["vector"], np.stack(seen)[best, np.arange(3)], atol=1e-5)
    assert after.seeds.tolist() == [5, 6, 7]
    alone = BestOf(engine, 1).rollout(begun([5, 6, 7]), rows)[1]
    np.testing.assert_allclose(alone.observation["vector"], seen[0], atol=1e-6)
    with pytest.raises(ConfigError, match="recall=2"):
        BestOf(Engine(believed), 4)


def test_frames_are_chosen_one_by_one_unless_told_otherwise(line, believed):
    engine = Engine(believed, recall=2)
    clip, rows = line.sample(3, 3, np.random.default_rng(0)), np.tile([[[-1.0], [1.0], [1.0], [0.0]]], (3, 1, 1))
    start = engine.start(clip.observations, clip.actions, seeds=[5, 6, 7])
    once = BestOf(engine, 4, every=4).rollout(start.fork(1), rows)[1].observation["vector"]
    many = BestOf(engine, 4).rollout(start.fork(1), rows)[1].observation["vector"]
    state, steps = start.fork(1), []
    for t in range(4):
        state, frame = BestOf(engine, 4, every=4).rollout(state, rows[:, t : t + 1])
        steps.append(frame.observation["vector"])
    np.testing.assert_allclose(many, np.concatenate(steps, 1), atol=1e-5)
    assert np.abs(many - once).max() > 1e-3
    for wrong in ({"n": 0}, {"n": 2, "every": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            BestOf(engine, **wrong)
    with pytest.raises(ActionError, match="T at least 1"):
        BestOf(engine, 4).rollout(start, rows[:, :0])


# the command line


def test_the_commands_lead_from_frames_to_a_world_of_controls(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["--preset", "debug", "--budget", "4steps"]
    assert main(["label", str(line.path), "--out", "u", *short]) == 0
    assert main(["train", "u/data", "--out", "u/world", *short]) == 0
    assert main(["align", "u/world", str(line.path), "--actions=u/actions", "--transitions=50", "--out=w"]) == 0
    assert "50 labels" in capsys.readouterr().err
    world = World.load("w")
    assert world.spec == line.spec
    assert world.record["controls"]["transitions"] == 50
    assert main(["label", str(line.path), "--by", "inverse", "--labelled", str(line.path), "--out", "v", *short]) == 0
    assert Dataset("v/data").spec == line.spec
    assert main(["label", str(line.path), "--out", "u", *short]) == 1
    assert main(["label", str(line.path), "--by", "inverse", "--out", "x", *short]) == 1
    assert "--labelled" in capsys.readouterr().err


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs/labels.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    code = re.sub(r'budget="\d+steps"', 'budget="4steps"', code).replace("steps=4000", "steps=300")
    space = {}
    exec(code, space)
    assert space["frame"].observation["vector"].shape[1:] == (4, 3)


def test_a_moving_background_is_part_of_a_fork(monkeypatch):
    pytest.importorskip("procgen")
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    from distractor import MovingBackground

    env = make(lambda: MovingBackground(make("procgen/coinrun", size=0).env))
    fork = forkable(env)
    first = env.reset(seed=3)[0]
    for _ in range(5):
        env.step(0)
    state = fork.save()
    frames = []
    for _ in range(2):
        fork.restore(state)
        frames.append([env.step(a)[0] for a in (7, 7, 1, 4, 4, 4)])
    assert np.array_equal(*frames)
    still = make("procgen/coinrun")
    assert not np.array_equal(first, still.reset(seed=3)[0])
    changes = np.abs(np.diff(np.float32([frames[0][i] for i in range(6)]), axis=0)).mean((1, 2, 3))
    assert (changes > 1).all()  # the whole picture moves
