"""Learning in worlds: the adapter against Stable-Baselines3's own, policies on disk, and returns in the true place."""

from __future__ import annotations

import json
import pickle
import random
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, VecNormalize

from terrella import arenas, train
from terrella.actions import width
from terrella.arenas import describe, make
from terrella.data import Dataset, record
from terrella.errors import ActionError, ConfigError, MissingExtra, SpecError, StateError, UnknownName, WorldError
from terrella.learning import (
    LearnedPolicy,
    NetworkConfig,
    Support,
    beginnings,
    clone,
    dyna,
    learn,
    returns,
    true_envs,
)
from terrella.learning.sb3 import VecEnvAdapter
from terrella.training.presets import TrainingConfig
from terrella.vector_env import WorldVectorEnv
from terrella.world import Part, World, WorldConfig

QUICK: dict[str, Any] = {"settings": {"n_steps": 8, "batch_size": 32, "n_epochs": 1}, "num_envs": 4}


def weights(policy: LearnedPolicy) -> dict[str, torch.Tensor]:
    return policy.network.state_dict()


def same(a: LearnedPolicy, b: LearnedPolicy) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


def balance(observation: Any, rng: np.random.Generator) -> int:
    """Push the cart to where its pole leans: balances for hundreds of steps."""
    del rng
    return int(observation[2] + 0.3 * observation[3] > 0)


# the adapter


def test_true_environments_step_as_those_of_stable_baselines():
    mine = VecEnvAdapter(true_envs("CartPole-v1", 3, max_episode_steps=18))
    theirs = DummyVecEnv([lambda: gym.wrappers.TimeLimit(make("CartPole-v1"), 18)] * 3)
    for envs in (mine, theirs):
        envs.seed(5)
    assert np.array_equal(mine.reset(), theirs.reset())
    rng, cut, fell = np.random.default_rng(0), 0, 0
    for _ in range(80):
        actions = rng.integers(0, 2, 3)
        a, b = mine.step(actions), theirs.step(actions)
        for x, y in zip(a[:3], b[:3]):
            assert np.array_equal(x, y)
            assert x.dtype == y.dtype
        for over, x, y in zip(a[2], a[3], b[3]):
            assert over == ("terminal_observation" in x) == ("terminal_observation" in y)
            if over:
                assert np.array_equal(x["terminal_observation"], y["terminal_observation"])
                assert x["TimeLimit.truncated"] == y["TimeLimit.truncated"]
                assert x["episode"]["r"] == x["episode"]["l"] <= 18
                cut, fell = cut + x["TimeLimit.truncated"], fell + (not x["TimeLimit.truncated"])
    assert min(cut, fell) > 2


def test_a_world_passes_their_wrappers(cartpole_world: World, cartpole_data: Dataset):
    envs = WorldVectorEnv(cartpole_world, 4, starts=cartpole_data, max_episode_steps=5, autoreset_mode="SameStep")
    adapted = VecEnvAdapter(envs)
    assert adapted.observation_space == envs.single_observation_space
    normal = VecNormalize(adapted)
    wrapped = VecCheckNan(VecMonitor(normal), raise_exception=True)
    wrapped.seed(0)
    wrapped.reset()
    first = np.asarray(normal.get_original_obs())
    assert adapted.reset_infos[2]["start"] == -1
    lengths = []
    for _ in range(12):
        _, _, over, infos = wrapped.step(np.zeros(4, int))
        lengths += [infos[i]["episode"]["l"] for i in np.flatnonzero(over)]
    assert max(lengths) <= 5
    wrapped.seed(0)
    wrapped.reset()
    assert np.array_equal(np.asarray(normal.get_original_obs()), first)
    assert adapted.get_attr("num_envs", [0, 2]) == [4, 4]
    assert adapted.env_is_wrapped(gym.Wrapper) == [False] * 4
    with pytest.raises(ConfigError, match="all sub-environments together"):
        adapted.set_attr("max_episode_steps", 3, 0)


def test_the_terminal_observation_is_the_last_of_the_episode(cartpole_world: World):
    alike = [WorldVectorEnv(cartpole_world, 2, max_episode_steps=n, autoreset_mode="SameStep") for n in (4, 99)]
    cut, whole = (VecEnvAdapter(envs) for envs in alike)
    for envs in (cut, whole):
        envs.seed(3)
        envs.reset()
    for step in range(4):
        seen, _, over, infos = cut.step(np.ones(2, int))
        longer, _, ended, _ = whole.step(np.ones(2, int))
        if ended.any():
            pytest.skip("this world ends episodes at once")
        assert over.tolist() == [step == 3] * 2
    for i in range(2):
        assert np.array_equal(infos[i]["terminal_observation"], longer[i])
        assert infos[i]["TimeLimit.truncated"]
        assert not np.array_equal(seen[i], longer[i])  # the next episode has begun


def test_other_autoreset_modes_are_refused(cartpole_world: World):
    with pytest.raises(ConfigError, match="SameStep"):
        VecEnvAdapter(WorldVectorEnv(cartpole_world, 2))
    with pytest.raises(ConfigError, match="SameStep"):
        VecEnvAdapter(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))


def test_options_are_one_for_all(cartpole_world: World):
    envs = VecEnvAdapter(WorldVectorEnv(cartpole_world, 2, autoreset_mode="SameStep"))
    envs.set_options({"start": 1})
    envs.reset()
    assert [told["start"] for told in envs.reset_infos] == [1, 1]
    envs.set_options([{"start": 1}, {"start": 0}])
    with pytest.raises(ConfigError, match="together"):
        envs.reset()


# learning


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_learning_is_a_function_of_its_arguments(name: str, request: pytest.FixtureRequest):
    world, data = request.getfixturevalue(f"{name}_world"), request.getfixturevalue(f"{name}_data")
    how = {**QUICK, "starts": beginnings(data, 32), "network": NetworkConfig((8,), state_noise=name == "pendulum")}
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()  # pyright: ignore
    first, again, other = (learn(world, steps=64, seed=seed, **how) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()  # pyright: ignore
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert first.record["steps"] == 64
    assert first.record == again.record
    json.dumps(first.record)


def test_learning_goes_on_from_a_policy(cartpole_world: World):
    first = learn(cartpole_world, steps=32, **QUICK)
    still = {**QUICK, "settings": {**QUICK["settings"], "learning_rate": 0.0}}
    kept = {name: tensor.clone() for name, tensor in weights(first).items()}
    assert same(learn(cartpole_world, steps=32, policy=first, **still), first)
    assert not same(learn(cartpole_world, steps=32, policy=first, **QUICK), first)
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights(first).items())


def test_a2c_learns_in_true_environments_too():
    policy = learn(true_envs("CartPole-v1", 4), algorithm="a2c", steps=200, settings={"n_steps": 4})
    assert policy.spec == describe(make("CartPole-v1"))
    assert policy.record["curve"][-1][1] > 5


def test_images_are_seen_through_convolutions(coinrun_world: World, tmp_path: Path):
    policy = learn(coinrun_world, steps=8, **{**QUICK, "settings": {"n_steps": 2, "batch_size": 8, "n_epochs": 1}})
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    loaded = LearnedPolicy.load(policy.save(tmp_path / "policy"))
    assert policy.predict(frames).shape == (3,)
    assert np.array_equal(loaded.predict(frames), policy.predict(frames))


def test_wrong_arguments_are_named(cartpole_world: World, pendulum_world: World):
    with pytest.raises(UnknownName, match="ppo"):
        learn(cartpole_world, algorithm="pppo")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownName, match="n_steps"):
        learn(cartpole_world, settings={"n_step": 3})
    with pytest.raises(UnknownName, match="setting of the learner"):
        learn(cartpole_world, settings={"seed": 3})
    with pytest.raises(ConfigError, match="at least 1"):
        learn(cartpole_world, steps=0)
    policy = LearnedPolicy(pendulum_world.spec)
    with pytest.raises(SpecError, match="other observations"):
        learn(cartpole_world, policy=policy)
    with pytest.raises(ConfigError, match="one of them"):
        learn(pendulum_world, policy=policy, network=NetworkConfig())
    with pytest.raises(ConfigError, match="brings its own"):
        learn(true_envs("CartPole-v1", 2), engine={"steps": 1})
    with pytest.raises(SpecError, match="true_envs"):
        learn(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    with pytest.raises(ConfigError, match="hidden"):
        NetworkConfig((0,))


def test_without_the_package_its_extra_is_named(cartpole_world: World, monkeypatch: pytest.MonkeyPatch):
    for name in [n for n in sys.modules if n.startswith("stable_baselines3")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "terrella.learning.sb3")
    with pytest.raises(MissingExtra, match=r"terrella\[rl\]"):
        learn(cartpole_world, steps=1)
    with pytest.raises(MissingExtra, match=r"terrella\[rl\]"):
        import terrella.learning.sb3  # noqa: F401


def test_an_episode_ends_where_recordings_do(cartpole_world: World, cartpole_data: Dataset):
    support = Support(cartpole_data, reach=1.0)
    seen = cartpole_data.episode(0).observations["vector"]
    far = np.array([[9.0, 0, 0, 0]], np.float32)
    assert support({"vector": np.concatenate([seen[:4], far])}).tolist() == [False] * 4 + [True]
    alone = np.abs((far - np.concatenate([e.observations["vector"] for e in cartpole_data])) / support.scale)
    assert support.distance(far) >= np.sqrt((alone**2).sum(1)).min() - 1e-4
    assert support.price(0.9) == 0.0  # balancing pays 1 a step, so to end is to lose that
    settings: Any = {"autoreset_mode": "SameStep", "max_episode_steps": 9}
    free = WorldVectorEnv(cartpole_world, 3, **settings)
    first = np.array([True, False, False])
    bound = WorldVectorEnv(cartpole_world, 3, halt=lambda _: first, halt_reward=-7, **settings)
    for envs in (free, bound):
        envs.reset(seed=0)
    (_, reward, over, _, _), (_, paid, halted, _, told) = free.step(np.zeros(3, int)), bound.step(np.zeros(3, int))
    assert halted.tolist() == [True, *over[1:]]
    assert np.allclose(paid - reward, [0.0 if over[0] else -7.0, 0, 0])
    final: Any = told["final_info"]
    assert bool(final["halted"][0]) != over[0]


def test_leaving_costs_the_worst_for_ever(pendulum_data: Dataset, coinrun_data: Dataset, pendulum_world: World):
    support = Support(pendulum_data)
    worst = min(e.rewards.min() for e in pendulum_data)
    assert worst <= support.worst < 0
    assert support.price(0.9) == pytest.approx(10 * support.worst)
    how = {**QUICK, "network": NetworkConfig((8,))}
    free, bound, again = (learn(pendulum_world, steps=64, within=w, **how) for w in (None, support, pendulum_data))
    assert same(bound, again)
    assert not same(free, bound)
    with pytest.raises(SpecError, match="images"):
        Support(coinrun_data)
    with pytest.raises(ConfigError, match="reach"):
        Support(pendulum_data, reach=0)


# policies


def test_a_saved_policy_is_the_same_and_runs_no_code(
    pendulum_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    network = NetworkConfig((16, 8), "relu", state_noise=True)
    policy = learn(pendulum_world, steps=32, network=network, **QUICK)
    policy.deterministic = False
    policy.save(tmp_path / "policy")
    assert sorted(p.name for p in (tmp_path / "policy").iterdir()) == ["policy.json", "weights.safetensors"]

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pickle was used")

    for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    loaded = LearnedPolicy.load(tmp_path / "policy")
    assert same(loaded, policy)
    assert (loaded.spec, loaded.config, loaded.deterministic) == (policy.spec, network, False)
    assert loaded.record == json.loads(json.dumps(policy.record))
    seen = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(loaded.predict(seen, deterministic=True), policy.predict(seen, deterministic=True))
    drawn = [p.predict(seen, rng=np.random.default_rng(1)) for p in (loaded, policy)]
    assert np.array_equal(*drawn)
    assert not np.array_equal(drawn[0], policy.predict(seen, deterministic=True))


def test_files_that_hold_no_policy_are_refused(cartpole_world: World, tmp_path: Path):
    with pytest.raises(WorldError, match="cannot be read as a policy"):
        LearnedPolicy.load(tmp_path)
    path = LearnedPolicy(cartpole_world.spec).save(tmp_path / "policy")
    tree = json.loads((path / "policy.json").read_text())
    for key, wrong, words in (("format", 99, "format 99"), ("network", {"hidden": [3]}, "not those of")):
        (path / "policy.json").write_text(json.dumps({**tree, key: wrong}))
        with pytest.raises(WorldError, match=words):
            LearnedPolicy.load(path)
    (path / "policy.json").write_text(json.dumps({**tree, "network": {"hiden": [3]}}))
    with pytest.raises(ConfigError, match="hidden"):
        LearnedPolicy.load(path)


def test_policies_refuse_what_they_cannot_see_or_do(tmp_path: Path):
    pytest.importorskip("minigrid")
    with pytest.raises(SpecError, match="pixels=True"):
        LearnedPolicy(describe(make("MiniGrid-Empty-5x5-v0")))

    class Odd(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(3, start=1)

    with pytest.raises(ActionError, match="counted from 0"):
        LearnedPolicy(describe(make(Odd)))


def test_a_policy_records_and_says_what_it_needs(tmp_path: Path):
    spec = describe(make("Pendulum-v1"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = LearnedPolicy(spec, deterministic=False)
    one, two = (record("Pendulum-v1", tmp_path / n, episodes=2, max_episode_steps=6, policy=policy) for n in "ab")
    assert one.uids == two.uids
    assert width(spec.action) == 1
    with pytest.raises(StateError, match="prepare"):
        LearnedPolicy(spec).act(np.zeros(3, np.float32))
    with pytest.raises(SpecError, match="made for"):
        record("CartPole-v1", tmp_path / "c", episodes=1, policy=policy)
    with pytest.raises(ActionError, match="beside it"):
        policy.prepare(spec, None)


# judging


def test_returns_are_those_of_single_episodes():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = LearnedPolicy(describe(make("CartPole-v1")))
    found = returns(policy, episodes=4, seed=3)
    seeds = np.random.SeedSequence([0x7E57, 3]).generate_state(4, np.uint32) >> 1
    env, alone = make("CartPole-v1"), []
    for seed in seeds:
        seen, _ = env.reset(seed=int(seed))
        total, over = 0.0, False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(policy.predict(seen[None])[0])
            total, over = total + float(reward), terminated or truncated
        alone.append(total)
    assert found.tolist() == alone
    chance = returns(None, "CartPole-v1", episodes=20)
    assert 15 < chance.mean() < 32
    assert np.array_equal(chance, returns(None, "CartPole-v1", episodes=20))
    assert (returns(policy, episodes=3, max_episode_steps=5) == 5).all()
    with pytest.raises(SpecError, match="other observations"):
        returns(policy, "Pendulum-v1", episodes=2)
    with pytest.raises(ConfigError, match="name an environment"):
        returns(None)


def test_true_environments_look_like_the_world(cartpole_world: World):
    envs = true_envs(cartpole_world.spec.env, 2)
    assert envs.single_observation_space == WorldVectorEnv(cartpole_world, 1).single_observation_space
    assert arenas.describe(make("CartPole-v1")).same_interface(envs.envs[0].get_wrapper_attr("world_spec"))
    with pytest.raises(ConfigError, match="at least 1"):
        true_envs("CartPole-v1", 0)


# cloning and Dyna


def test_cloning_does_what_was_done(tmp_path: Path):
    data = record("CartPole-v1", tmp_path / "good", steps=1500, policy=balance, max_episode_steps=150)
    policy = clone(data, steps=250)
    assert returns(policy, episodes=10, max_episode_steps=200).mean() > 150
    assert same(policy, clone(data, steps=250))
    record("CartPole-v1", tmp_path / "good", steps=1000, policy="random")
    mixed = Dataset(tmp_path / "good")
    everyone, best = clone(mixed, steps=250), clone(mixed, steps=250, best=10 / len(mixed))
    assert best.record["held_out"] < everyone.record["held_out"]  # chance cannot be foretold
    with pytest.raises(ConfigError, match="best"):
        clone(data, best=0)


def test_cloning_takes_numbers_too(pendulum_data: Dataset):
    policy = clone(pendulum_data, steps=3, batch=8)
    assert policy.predict(np.zeros((2, 3), np.float32)).shape == (2, 1)


def test_dyna_takes_turns(tmp_path: Path):
    def rounds(name: str) -> list[Any]:
        training = {"budget": "2steps", "preset": "debug", "decoder": "regression", "device": "cpu"}
        how = {"rounds": (120, 80), "imagined": 32, "training": training, "learning": QUICK, "seed": 4, "reach": 3.0}
        return list(dyna("CartPole-v1", tmp_path / name, **how))

    found = rounds("a")
    assert [r.data.steps for r in found] == [120, 200]
    assert [r.world.record["dataset"]["steps"] for r in found] == [120, 200]
    assert not same(found[0].policy, found[1].policy)
    again = rounds("b")
    assert again[1].data.uids == found[1].data.uids
    assert same(again[1].policy, found[1].policy)
    with pytest.raises(ConfigError, match="at least one round"):
        dyna("CartPole-v1", tmp_path / "c", rounds=())


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = (Path(__file__).parent.parent / "docs/learning.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    shorter = {
        "steps=10_000": "steps=800",
        '"3m"': '"4steps", preset="debug", device="cpu"',
        "steps=100_000": "steps=256, num_envs=8",
        "best=0.2": "best=0.2, steps=20",
        "steps=400": "steps=20",
    }
    for long, short in shorter.items():
        assert long in example
        example = example.replace(long, short)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    said = capsys.readouterr().out
    assert all(word in said for word in ("at random", "cloned", "imagined"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_policy_learned_in_a_dream_balances_a_true_pole(tmp_path: Path):
    data = record("CartPole-v1", tmp_path / "data", steps=10_000, policy="random")
    parts = WorldConfig(Part("transformer", {"dim": 64, "layers": 2, "heads": 1}), Part("regression"))
    recipe = TrainingConfig(batch=64, tokenizer_share=0.05)
    world = train(data, budget="500steps", config=parts, training=recipe, device="cpu", progress=False)
    policy = learn(world, starts=beginnings(data), within=data, steps=60_000)
    found, chance = returns(policy, episodes=30), returns(None, "CartPole-v1", episodes=30)
    assert chance.mean() < 35
    assert found.mean() > 300
