"""Post-training: rollouts come nearer to the truth, by gradient and by policy gradient; losses are what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.data import Dataset, Episode
from terrella.errors import ConfigError, SpecError, TrainingError
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import TrainingConfig, posttrain, train
from terrella.training.grpo import grpo_loss
from terrella.training.rollouts import Batch, errors, measure, roll, scales
from terrella.world import World

SPEC = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=2))
DOTS = WorldSpec({"pixels": StreamSpec("image", (16, 16, 3))}, ActionSpec("discrete", n=3))


def episode(rng: np.random.Generator, spec: WorldSpec) -> Episode:
    """A place that each action moves, as a vector or as a square in a picture."""
    count = spec.action.n
    actions = rng.integers(0, count, 20)
    if spec is SPEC:
        place = np.cumsum(np.concatenate([[rng.normal()], 0.5 * (2 * actions - 1)]))
        seen = {"vector": np.stack([place, np.sin(place)], 1).astype(np.float32)}
    else:
        place = np.clip(np.cumsum(np.concatenate([[2], actions - 1])), 0, 3)
        seen = {"pixels": np.zeros((21, 16, 16, 3), np.uint8)}
        for t, x in enumerate(place):
            seen["pixels"][t, 4:12, 4 * x : 4 * x + 4] = 230
    ended = np.zeros((2, 20), bool)
    ended[1, -1] = True
    return Episode(seen, actions[:, None].astype(float), place[1:].astype(np.float32), *ended)


def recorded(path: Path, spec: WorldSpec) -> Dataset:
    rng = np.random.default_rng(0)
    with Dataset.create(path, spec) as writer:
        for _ in range(30):
            writer.add(episode(rng, spec))
    return Dataset(path)


def trained(data: Dataset, decoder: str, steps: int) -> World:
    recipe = TrainingConfig(batch=8, length=8)
    options = {"budget": f"{steps}steps", "preset": "debug", "training": recipe, "device": "cpu", "progress": False}
    return train(data, decoder=decoder, **options)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Dataset, World]:
    data = recorded(tmp_path_factory.mktemp("places") / "data", SPEC)
    return data, trained(data, "regression", 60)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> tuple[Dataset, World]:
    data = recorded(tmp_path_factory.mktemp("tokens") / "data", DOTS)
    return data, trained(data, "masked", 120)


def test_rollouts_come_nearer_by_their_own_gradient(places, tmp_path):
    data, world = places
    kept = {k: v.clone() for k, v in world.state_dict().items()}
    new = posttrain(world, data, tmp_path / "new", budget="40steps", progress=False, lr=3e-3)
    about = new.record["posttraining"]
    assert about["method"] == "gradient"
    assert about["after"]["error"]["4"] < 0.8 * about["before"]["error"]["4"]
    assert set(about["before"]) == {"one_step", "error", "copy_last", "reward", "end", "action_ratio"}
    assert all(torch.equal(v, kept[k]) for k, v in world.state_dict().items())
    moved = {k.split(".")[0] for k, v in new.state_dict().items() if not torch.equal(v, kept[k])}
    assert moved == {"dynamics"}
    loaded = World.load(tmp_path / "new")
    assert loaded.record["posttraining"]["after"] == about["after"]
    assert not (tmp_path / "new" / "checkpoint.safetensors").exists()
    with pytest.raises(TrainingError, match="holds a finished world"):
        posttrain(world, data, tmp_path / "new", budget="2steps", progress=False)


def test_rollouts_are_those_of_the_engine(places):
    data, world = places
    clips = data.sample(3, 7, np.random.default_rng(0))
    batch = Batch.of(world, clips)
    z, reward, end = roll(world, batch, 3, torch.Generator().manual_seed(0))
    engine = Engine(world, recall=1)
    state = engine.start({"vector": clips.observations["vector"][:, :3]}, clips.actions[:, :2])
    _, frame = engine.rollout(state, clips.actions[:, 2:])
    torch.testing.assert_close(z, torch.from_numpy(frame.latent), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(reward, frame.reward, atol=1e-4)
    np.testing.assert_allclose(end.sigmoid(), frame.terminated, atol=1e-5)
    unit = {"vector": torch.ones(2)}
    gap = np.square(frame.observation["vector"] - clips.observations["vector"][:, 3:]).mean(-1)
    found = errors(world, z, {"vector": batch.seen["vector"][:, 3:]}, unit)
    np.testing.assert_allclose(found, gap, rtol=1e-3, atol=1e-5)
    assert batch.row[:, 0].isnan().all()
    assert torch.equal(batch.reward[:, 1:], torch.from_numpy(clips.rewards))


def test_measuring_changes_nothing_and_is_the_same_again(places):
    data, world = places
    before = torch.get_rng_state()
    one, again = (measure(world, data, TrainingConfig(length=8)) for _ in range(2))
    assert one == again
    assert torch.equal(before, torch.get_rng_state())


def test_equal_seeds_give_equal_worlds_also_when_interrupted(places, tmp_path, monkeypatch):
    from terrella.training.optim import Optimizer

    data, world = places
    whole = posttrain(world, data, budget="6steps", progress=False).state_dict()
    step, calls = Optimizer.step, []

    def interrupted(self, *args):
        step(self, *args)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupted)
        patch.setattr("terrella.training.steps.Steps.save", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            posttrain(world, data, tmp_path / "w", budget="6steps", progress=False)
    again = posttrain(world, data, tmp_path / "w", budget="6steps", progress=False).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in whole.items())


def test_what_came_out_better_becomes_likelier(tokens):
    data, world = tokens
    batch = Batch.of(world, data.sample(4, 7, np.random.default_rng(0)))
    scale, chance = scales(world, batch), lambda: torch.Generator().manual_seed(3)
    world.dynamics.requires_grad_(True)
    try:
        loss, parts = grpo_loss(world, world, batch, 4, 4, 0.5, scale, chance())
        assert abs(parts["kl"]) < 1e-6
        assert parts["spread"] > 0
        loss.backward()
        slope = {k: p.grad for k, p in world.dynamics.named_parameters() if p.grad is not None}
        assert any(bool(g.any()) for g in slope.values())
        # The same by hand: log-likelihoods of the better and the worse half move apart along this gradient.
        many = batch.repeated(4)
        with torch.no_grad():
            generator = chance()
            z, _, _ = roll(world, many, 4, generator)
            error = errors(world, z, {k: v[:, 4:] for k, v in many.seen.items()}, scale).mean(1).view(4, 4)
            good = ((error.mean(1, keepdim=True) - error) / (error.std(1, keepdim=True) + 1e-8)).flatten()
            value, hidden = world.decoder.hide(z, generator)

        def likely() -> torch.Tensor:
            whole, tau = torch.cat([many.z[:, :4], z], 1), torch.ones(16, many.z.shape[1])
            said = world.decoder.log_probs(world.dynamics.parallel(whole, many.row, tau, 4)[1], value, hidden)
            chosen = said.gather(-1, value[..., None])[..., 0] * hidden
            return (chosen.sum((-1, -2)) / hidden.sum((-1, -2))).mean(1)

        with torch.no_grad():
            before = likely()
            torch.testing.assert_close(loss.detach(), -(good * before).mean())
            size = torch.stack([g.square().sum() for g in slope.values()]).sum().sqrt()
            for k, p in world.dynamics.named_parameters():
                if k in slope:
                    p -= 1e-3 * slope[k] / size
            assert (good * (likely() - before)).mean() > 0
            for k, p in world.dynamics.named_parameters():
                if k in slope:
                    p += 1e-3 * slope[k] / size
    finally:
        world.dynamics.requires_grad_(False)
        world.dynamics.zero_grad()


def test_discrete_worlds_are_improved_by_policy_gradient(tokens):
    data, world = tokens
    new = posttrain(world, data, budget="25steps", progress=False, lr=1e-3, horizon=4, batch=4, group=6, anchor=0.0)
    about = new.record["posttraining"]
    assert about["method"] == "grpo"
    assert np.mean(list(about["after"]["error"].values())) < np.mean(list(about["before"]["error"].values()))


def test_mistakes_are_told(places, tokens):
    data, world = places
    with pytest.raises(ConfigError, match="no discrete tokens"):
        posttrain(world, data, method="grpo")
    with pytest.raises(ConfigError, match="has no gradient"):
        posttrain(tokens[1], tokens[0], method="gradient")
    with pytest.raises(SpecError, match="another environment"):
        posttrain(world, tokens[0])
    with pytest.raises(ConfigError, match="Did you mean 'horizon'"):
        posttrain(world, data, horizn=3)
    for settings in ({"group": 1}, {"horizon": 0}, {"anchor": -1.0}, {"lr": 0.0}):
        with pytest.raises(ConfigError):
            posttrain(world, data, **settings)
