"""Worlds as Gymnasium environments: the checkers of Gymnasium and Stable-Baselines3, and one episode told twice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from terrella import actions, arenas
from terrella.data import Dataset, record
from terrella.data.episode import Clips
from terrella.env import WorldEnv, register
from terrella.errors import ActionError, ConfigError, DatasetError, SpecError, StateError, UnknownName, WorldError
from terrella.spec import StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.vector_env import WorldVectorEnv
from terrella.world import World

TOLERANCE = 1e-4  # between batches of different sizes; images may be one step of 255 off


def adapter(world: World, num_envs: int, **settings: Any) -> Any:
    """A world as Stable-Baselines3 takes environments."""
    pytest.importorskip("stable_baselines3")
    from terrella.learning.sb3 import VecEnvAdapter

    return VecEnvAdapter(WorldVectorEnv(world, num_envs, autoreset_mode="SameStep", **settings))


def with_end(world: World, scale: float, bias: float) -> World:
    """A copy whose predicted end is made as wanted: no scale, and the bias decides alone."""
    world = copy.deepcopy(world)
    last: Any = world.dynamics.outcome[-1]
    last.weight[1] *= scale
    last.bias[1] = bias
    return world


@pytest.fixture(scope="module")
def endless(cartpole_world: World) -> World:
    return with_end(cartpole_world, 0, -9)


@pytest.fixture(scope="module")
def restless(cartpole_world: World) -> World:
    """Episodes of all lengths: the end is drawn out of the last weights, enlarged until it depends on the frame."""
    world = with_end(cartpole_world, 0, 0)
    torch.manual_seed(1)
    world.dynamics.outcome[-1].weight[1] = torch.randn(world.dynamics.outcome[-1].in_features) * 50  # pyright: ignore
    env = WorldEnv(with_end(world, 1, -99))  # no end while the middle is measured
    logits = []
    for seed in range(8):
        env.reset(seed=seed)
        for step in range(6):
            p = env.step(step % 2)[4]["end_probability"]
            logits.append(np.log(max(p, 1e-30) / (1 - p)) + 99)
    return with_end(world, 1, -float(np.quantile(logits, 0.75)))


@pytest.fixture(scope="module")
def grid_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record("MiniGrid-Empty-5x5-v0", tmp_path_factory.mktemp("data") / "grid", episodes=3, max_episode_steps=20)


@pytest.fixture(scope="module")
def mixed() -> World:
    """A world of two streams, whose actions are a dict with text in it, and which has recorded nothing."""
    space = spaces.Dict({"push": spaces.Box(-1, 1, (2,)), "jump": spaces.Discrete(3, start=1), "say": spaces.Text(4)})
    streams = {"eye.left": StreamSpec("image", (16, 16, 1)), "joints": StreamSpec("vector", (3,))}
    torch.manual_seed(0)
    spec = WorldSpec(streams, actions.action_spec(space))
    return World(spec, world_config("debug", spec), "mixed").eval().requires_grad_(False)


def noise(world: World, batch: int = 2, context: int = 2) -> Clips:
    """Beginnings that never happened."""
    rng = np.random.default_rng(0)
    frames = {
        name: rng.integers(0, 256, (batch, context + 1, *s.shape), np.uint8)
        if s.kind == "image"
        else rng.normal(size=(batch, context + 1, *s.shape)).astype(np.float32)
        for name, s in world.spec.modelled.items()
    }
    native = actions.action_space(world.spec.action)
    native.seed(0)
    rows = [[actions.encode(world.spec.action, native.sample()) for _ in range(context)] for _ in range(batch)]
    blank = np.zeros((batch, context), np.float32)
    width = actions.width(world.spec.action)
    return Clips(frames, np.array(rows, np.float32).reshape(batch, context, width), blank, blank > 0)


def play(env: WorldEnv, seed: int, steps: int = 5) -> list[Any]:
    """An episode under actions that the seed decides, everything that came back."""
    env.action_space.seed(seed)
    told: list[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        told.append(env.step(env.action_space.sample()))
        if told[-1][2] or told[-1][3]:
            break
    return told


def same(a: Any, b: Any) -> bool:
    return data_equivalence(a, b, exact=True)


# --- one environment


def test_spaces_are_those_that_were_recorded(
    pendulum_world: World, coinrun_world: World, grid_data: Dataset, mixed: World
) -> None:
    pendulum = WorldEnv(pendulum_world)
    real = arenas.make("Pendulum-v1")
    assert pendulum.observation_space == real.observation_space
    assert pendulum.action_space == real.action_space
    coinrun = WorldEnv(coinrun_world)
    assert coinrun.observation_space == spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert coinrun.action_space == spaces.Discrete(15)
    world = World(grid_data.spec, world_config("debug", grid_data.spec))
    grid = WorldEnv(world, starts=grid_data)
    assert isinstance(grid.observation_space, spaces.Dict)
    assert set(grid.observation_space) == {"image", "direction"}  # the mission is text
    assert WorldEnv(mixed, starts=noise(mixed)).observation_space["joints"] == spaces.Box(-np.inf, np.inf, (3,))  # pyright: ignore


@pytest.mark.filterwarnings("ignore::UserWarning")  # advice about spaces, which are the recorded ones
@pytest.mark.parametrize("name", ["pendulum", "cartpole", "coinrun", "grid", "mixed"])
def test_checkers_pass(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check

    starts: Any = None
    if name == "grid":
        starts = request.getfixturevalue("grid_data")
        world = World(starts.spec, world_config("debug", starts.spec)).eval()
    elif name == "mixed":
        world = request.getfixturevalue("mixed")
        starts = noise(world)
    else:
        world = with_end(request.getfixturevalue(f"{name}_world"), 0, -9)  # the checkers do not expect an end at once
    register()
    made = gym.make("terrella/World-v0", world=world, starts=starts, render_mode="rgb_array")
    check_env(made.unwrapped)
    check_env(WorldEnv(world, starts=starts, render_mode="rgb_array"))
    if name != "mixed":  # dictionaries of actions are not for Stable-Baselines3
        sb3_check(WorldEnv(world, starts=starts))


def test_an_episode_is_a_function_of_its_seed(endless: World, coinrun_world: World, cartpole_data: Dataset) -> None:
    for world, starts in ((endless, None), (with_end(coinrun_world, 0, -9), None), (endless, cartpole_data)):
        env, other = WorldEnv(world, starts=starts), WorldEnv(world, starts=starts)
        before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # pyright: ignore
        first = play(env, 7)
        assert same(first, play(other, 7))
        assert not same(first, play(other, 8))
        assert (before[0] == np.random.get_state()[1]).all()  # pyright: ignore
        assert torch.equal(before[1], torch.random.get_rng_state())
        env.reset(seed=7)
        following = [env.reset()[1]["seed"] for _ in range(3)]
        assert len(set(following)) == 3
        other.reset(seed=7)
        assert following == [other.reset()[1]["seed"] for _ in range(3)]


def test_a_saved_world_gives_the_same_episode(endless: World, tmp_path: Path) -> None:
    folder = endless.save(tmp_path / "world")
    assert same(play(WorldEnv(endless), 3), play(WorldEnv(str(folder)), 3))
    with pytest.raises(UnknownName):
        WorldEnv("no-such-world")


def test_starts(endless: World, cartpole_data: Dataset, pendulum_data: Dataset, mixed: World) -> None:
    env = WorldEnv(endless)
    assert endless.starts is not None
    for i in (0, 3):
        observation, info = env.reset(options={"start": i})
        assert (observation == endless.starts.observations["vector"][i, -1]).all()
        assert info["start"] == i
    whole = WorldEnv(endless, starts=cartpole_data)
    observation, info = whole.reset(options={"start": 2})
    assert (observation == cartpole_data.episode(2).observations["vector"][4]).all()
    assert whole.reset(seed=0)[1]["start"] == -1
    by_path = WorldEnv(endless, starts=cartpole_data.path)
    assert same(whole.reset(seed=5), by_path.reset(seed=5))
    for bad in (8, -1, "first", 1.0):
        with pytest.raises(ConfigError, match="start"):
            env.reset(options={"start": bad})
    with pytest.raises(DatasetError):
        whole.reset(options={"start": 99})
    with pytest.raises(UnknownName, match="start"):
        env.reset(options={"strat": 1})
    with pytest.raises(SpecError, match="same environment"):
        WorldEnv(endless, starts=pendulum_data)
    with pytest.raises(WorldError, match="starts="):
        WorldEnv(mixed)
    with pytest.raises(SpecError):
        WorldEnv(endless, starts=noise(mixed))
    short = endless.starts
    with pytest.raises(SpecError, match=r"\(8, 3, 1\)"):
        WorldEnv(endless, starts=Clips(short.observations, short.actions[:, 1:], short.rewards, short.terminated))


def test_no_episode_begins_where_one_ended(cartpole_data: Dataset, cartpole_world: World) -> None:
    lengths = cartpole_data.lengths
    assert (lengths < 20).any()
    length = int(lengths.min())
    ends = cartpole_data.clips([int(lengths.argmin())] * 2, [0, 0], length)
    assert ends.terminated[:, -1].all()
    ends.terminated[1] = False
    env = WorldEnv(cartpole_world, starts=ends)
    assert {env.reset(seed=s)[1]["start"] for s in range(20)} == {1}
    assert cartpole_world.starts is not None
    last = [e.observations["vector"][-1] for e in cartpole_data if e.terminated[-1]]
    for begun in cartpole_world.starts.observations["vector"][:, -1]:
        assert not any(np.array_equal(begun, frame) for frame in last)
    anywhere = WorldEnv(cartpole_world, starts=cartpole_data)
    begun = [anywhere.reset(seed=s)[0] for s in range(40)]
    assert not any(np.array_equal(a, b) for a in begun for b in last)


def test_single_frames_can_be_starts(endless: World) -> None:
    env = WorldEnv(endless, starts=noise(endless, context=0))
    assert len(play(env, 0)) == 6


def test_the_end(cartpole_world: World, endless: World) -> None:
    env = WorldEnv(with_end(cartpole_world, 0, 9))
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(0)
    assert (terminated, truncated) == (True, False)
    assert info["end_probability"] > 0.99
    with pytest.raises(StateError, match="reset"):
        env.step(0)
    env.reset()
    env.step(0)

    limited = WorldEnv(endless, max_episode_steps=3)
    told = play(limited, 0, steps=9)[1:]
    assert [t[2:4] for t in told] == [(False, False), (False, False), (False, True)]
    with pytest.raises(StateError, match="reset"):
        limited.step(0)
    limited.close()
    with pytest.raises(StateError, match="reset"):
        limited.step(0)
    with pytest.raises(StateError, match="reset"):
        WorldEnv(endless).state
    with pytest.raises(ConfigError, match="max_episode_steps"):
        WorldEnv(endless, max_episode_steps=0)


@pytest.mark.parametrize("bad", [2, -1, 0.5, [0, 1], "left", None, np.nan])
def test_wrong_choices_are_refused(endless: World, bad: Any) -> None:
    env = WorldEnv(endless)
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(bad)
    env.step(1)  # nothing was lost


def test_numbers_are_clipped_to_their_bounds(pendulum_world: World) -> None:
    world = with_end(pendulum_world, 0, -9)
    env, other = WorldEnv(world), WorldEnv(world)
    env.reset(seed=0)
    other.reset(seed=0)
    assert same(env.step([7.0]), other.step(np.array([2.0], np.float32)))
    for bad in ([np.nan], [1.0, 1.0], "hard"):
        with pytest.raises(ActionError):
            env.step(bad)


def test_observations_stay_within_their_bounds(pendulum_world: World) -> None:
    world = with_end(pendulum_world, 0, -9)
    wild = noise(world)
    wild.observations["vector"] *= 100
    env = WorldEnv(world, starts=wild)
    for told in play(env, 0, steps=10):
        assert env.observation_space.contains(told[0])
    assert np.abs(wild.observations["vector"]).max() > 8  # what was given is left as it is


def test_broken_numbers_are_told(endless: World) -> None:
    world = copy.deepcopy(endless)
    world.dynamics.outcome[-1].bias.fill_(torch.nan)  # pyright: ignore
    env = WorldEnv(world)
    env.reset(seed=0)
    with pytest.raises(WorldError, match="not finite"):
        env.step(0)


def test_moments(endless: World, pendulum_world: World) -> None:
    env = WorldEnv(endless, max_episode_steps=6)
    env.reset(seed=0)
    env.step(0)
    moment = env.save_state()
    first = [env.step(a) for a in (1, 0, 1, 1, 0)]
    assert first[-1][3]
    restored = env.restore_state(moment)
    assert same([env.step(a) for a in (1, 0, 1, 1, 0)], first)
    elsewhere = WorldEnv(endless, max_episode_steps=6)
    assert same(elsewhere.restore_state(moment), restored)
    assert same(elsewhere.step(1), first[0])
    elsewhere.restore_state(moment, seed=99)
    assert not same(elsewhere.step(1)[0], first[0][0])
    with pytest.raises(StateError, match="another world"):
        WorldEnv(pendulum_world).restore_state(moment)


def test_settings_reach_the_engine(endless: World) -> None:
    env = WorldEnv(endless, engine={"precision": "bfloat16"})
    assert env.engine.dtype == torch.bfloat16
    many = WorldVectorEnv(endless, 2, engine={"budget_ms": 1e4})
    many.reset(seed=0)
    with pytest.raises(UnknownName, match="budget_ms"):
        WorldEnv(endless, engine={"budget": 3})


def test_the_state_is_the_planners(endless: World) -> None:
    env = WorldEnv(endless)
    env.reset(seed=0)
    _, frames = env.engine.step(env.state.fork(2), np.array([[0.0], [1.0]]))
    observation = env.step(1)[0]
    assert np.allclose(frames.observation["vector"][1], observation, atol=TOLERANCE)
    assert not np.allclose(frames.observation["vector"][0], observation, atol=1e-7)


def test_pictures(endless: World, coinrun_world: World, mixed: World) -> None:
    image = WorldEnv(with_end(coinrun_world, 0, -9), render_mode="rgb_array")
    last = play(image, 0, 2)[-1]
    assert np.array_equal(image.render(), last[0])  # pyright: ignore
    grey = WorldEnv(mixed, starts=noise(mixed), render_mode="rgb_array")
    assert np.array_equal(grey.reset(seed=0)[0]["eye.left"].repeat(3, -1), grey.render())  # pyright: ignore
    lines = WorldEnv(endless, render_mode="rgb_array")
    lines.reset(seed=0)
    before = lines.render()
    assert before is not None
    assert before.shape == (192, 192, 3)
    for _ in range(3):
        lines.step(0)
    after = lines.render()
    assert (after != before).any()
    with pytest.raises(ConfigError, match="rgb_array"):
        WorldEnv(endless, render_mode="human")
    silent = WorldEnv(endless)
    silent.reset()
    with pytest.warns(UserWarning, match="rgb_array"):
        assert silent.render() is None


def test_a_person_can_play(coinrun_world: World, pendulum_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import pygame
    from gymnasium.utils.play import play as play_by_hand

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for world in (coinrun_world, pendulum_world):
        env = WorldEnv(with_end(world, 0, -9), render_mode="rgb_array")
        keys = env.get_keys_to_action()
        assert keys[(pygame.K_LEFT,)] in env.action_space
        taken: list[Any] = []

        def press(before: Any, after: Any, action: Any, *rest: Any, taken: list[Any] = taken) -> None:
            taken.append(action)
            pygame.event.post(
                pygame.event.Event(pygame.KEYDOWN, key=pygame.K_LEFT)
                if len(taken) == 1
                else pygame.event.Event(pygame.QUIT)
            )

        play_by_hand(env, callback=press, noop=env.noop, seed=0)
        assert taken[0] == env.noop
        assert taken[1] == keys[(pygame.K_LEFT,)]


# --- many


def vectors(world: World, mode: AutoresetMode, count: int, **kwargs: Any) -> tuple[WorldVectorEnv, SyncVectorEnv]:
    one: Callable[[], gym.Env] = lambda: WorldEnv(world, **kwargs)  # noqa: E731
    batched = WorldVectorEnv(world, count, autoreset_mode=mode, **kwargs)
    return batched, SyncVectorEnv([one] * count, autoreset_mode=mode)


def near(a: Any, b: Any) -> None:
    """Equal, but for rounding between batches."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            near(a[key], b[key])
    elif isinstance(a, tuple) or (isinstance(a, np.ndarray) and a.dtype == object):
        for x, y in zip(a, b, strict=True):
            near(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype == np.uint8:
            assert np.abs(a.astype(int) - b).max() <= 1
        elif a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE)
        else:
            np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_many_live_as_each_alone(mode: AutoresetMode, restless: World) -> None:
    batched, alone = vectors(restless, mode, 5, max_episode_steps=4)
    near(batched.reset(seed=3)[0], alone.reset(seed=3)[0])
    batched.action_space.seed(0)
    ends = np.zeros(5, int)
    for _ in range(16):
        chosen = batched.action_space.sample()
        told = batched.step(chosen)
        near(told, alone.step(chosen))
        ends += told[2]
    assert ends.any()  # some ended by themselves,
    assert (ends < ends.max()).any()  # and not all at once
    near(batched.reset(), alone.reset())  # random streams go on alike


def test_many_images_and_numbers(coinrun_world: World, pendulum_world: World) -> None:
    for world in (with_end(coinrun_world, 0, -9), with_end(pendulum_world, 0, -9)):
        batched, alone = vectors(world, AutoresetMode.NEXT_STEP, 3, max_episode_steps=3)
        assert batched.observation_space == alone.observation_space
        assert batched.action_space == alone.action_space
        assert batched.single_observation_space == alone.single_observation_space
        near(batched.reset(seed=1), alone.reset(seed=1))
        batched.action_space.seed(0)
        for _ in range(5):
            chosen = batched.action_space.sample()
            near(batched.step(chosen), alone.step(chosen))


def test_many_with_dicts_and_text(mixed: World) -> None:
    batched, alone = vectors(mixed, AutoresetMode.SAME_STEP, 2, starts=noise(mixed), max_episode_steps=2)
    near(batched.reset(seed=0), alone.reset(seed=0))
    batched.action_space.seed(0)
    for _ in range(3):
        chosen = batched.action_space.sample()
        told = batched.step(chosen)
        assert batched.observation_space.contains(told[0])
        near(told, alone.step(chosen))


def test_next_step_ignores_one_action(endless: World) -> None:
    envs = WorldVectorEnv(endless, 2, max_episode_steps=2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    envs.step([0, 1])
    last, _, _, truncated, infos = envs.step([0, 1])
    assert truncated.all()
    assert "final_obs" not in infos
    begun, reward, terminated, truncated, infos = envs.step([0, 1])
    assert (reward == 0).all()
    assert not (terminated | truncated).any()
    assert "end_probability" not in infos
    assert endless.starts is not None
    assert (begun == endless.starts.observations["vector"][infos["start"], -1]).all()
    assert (begun != last).any()
    assert not envs.step([0, 1])[3].any()
    assert envs.step([0, 1])[3].all()  # two steps again


def test_same_step_brings_the_last_frame(endless: World) -> None:
    envs = WorldVectorEnv(endless, 2, max_episode_steps=2, autoreset_mode="SameStep")
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    free = WorldVectorEnv(endless, 2)
    envs.reset(seed=0)
    free.reset(seed=0)
    for _ in range(2):
        begun, _, _, truncated, infos = envs.step([0, 1])
        last = free.step([0, 1])[0]
    assert truncated.all()
    assert np.array_equal(np.stack(list(infos["final_obs"])), last)
    assert infos["_final_obs"].all()
    assert infos["final_info"]["_end_probability"].all()
    assert endless.starts is not None
    assert (begun == endless.starts.observations["vector"][infos["start"], -1]).all()


def test_seeds_and_starts_of_many(endless: World) -> None:
    envs, one = WorldVectorEnv(endless, 3), WorldEnv(endless)
    _, infos = envs.reset(seed=[5, 5, 9])
    assert infos["seed"][0] == infos["seed"][1] == one.reset(seed=5)[1]["seed"]
    assert infos["seed"][2] == one.reset(seed=9)[1]["seed"]
    _, again = envs.reset(seed=[None, 5, None])
    assert again["seed"][1] == infos["seed"][1]
    assert again["seed"][0] != infos["seed"][0]
    assert list(envs.reset(options={"start": [2, 0, 1]})[1]["start"]) == [2, 0, 1]
    assert list(envs.reset(options={"start": 4})[1]["start"]) == [4, 4, 4]
    assert envs.state.batch == 3
    fresh = {int(s) for _ in range(3) for s in WorldVectorEnv(endless, 1).reset()[1]["seed"]}
    assert len(fresh) == 3  # unseeded, by chance


def test_errors_of_many(endless: World) -> None:
    with pytest.raises(ConfigError, match="num_envs"):
        WorldVectorEnv(endless, 0)
    for mode in (AutoresetMode.DISABLED, "sometimes"):
        with pytest.raises(ConfigError, match="NextStep"):
            WorldVectorEnv(endless, 2, autoreset_mode=mode)
    envs = WorldVectorEnv(endless, 2)
    with pytest.raises(StateError, match="reset"):
        envs.step([0, 0])
    with pytest.raises(ConfigError, match="seeds"):
        envs.reset(seed=[1])
    with pytest.raises(ConfigError, match="start"):
        envs.reset(options={"start": [1]})
    envs.reset(seed=0)
    for bad in (0, None, [0], [0, 1, 0], [0, 5], [[0, 1], [0, 1]]):
        with pytest.raises(ActionError):
            envs.step(bad)
    envs.step([0, 1])
    envs.close()
    with pytest.raises(StateError, match="reset"):
        envs.step([0, 0])


def test_gymnasium_makes_and_wraps_many(endless: World) -> None:
    register()
    register()
    made = gym.make_vec(
        "terrella/World-v0", 3, vectorization_mode="vector_entry_point", world=endless, max_episode_steps=4
    )
    assert isinstance(made.unwrapped, WorldVectorEnv)
    counted = gym.wrappers.vector.RecordEpisodeStatistics(made)
    counted.reset(seed=0)
    for _ in range(4):
        infos = counted.step(made.action_space.sample())[4]
    assert (infos["episode"]["l"] == 4).all()
    drawn = WorldVectorEnv(endless, 2, render_mode="rgb_array")
    drawn.reset(seed=0)
    pictures = drawn.render()
    assert pictures is not None
    assert [p.shape for p in pictures] == [(192, 192, 3)] * 2


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "policy", "steps"), [("pendulum", "MlpPolicy", 256), ("coinrun", "CnnPolicy", 64)])
def test_stable_baselines_learns_in_a_world(name: str, policy: str, steps: int, request: pytest.FixtureRequest) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    world = with_end(request.getfixturevalue(f"{name}_world"), 0, -9)
    envs = adapter(world, 4, max_episode_steps=8)
    model = stable_baselines3.PPO(policy, envs, n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(steps)
    assert model.num_timesteps >= steps
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters()))


def test_the_adapter_tells_what_was_cut_short(restless: World) -> None:
    envs = adapter(restless, 4, max_episode_steps=3)
    envs.seed(0)
    envs.reset()
    kinds = set()
    for _ in range(12):
        _, _, done, infos = envs.step(np.zeros(4, int))
        for over, info in zip(done, infos):
            assert over == ("terminal_observation" in info)
            if over:
                assert info["terminal_observation"].shape == (4,)
                kinds.add(info["TimeLimit.truncated"])
    assert kinds == {True, False}
