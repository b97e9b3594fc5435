"""The sprite world: what its frames, actions, states and scores mean, exactly."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from terrella import arenas
from terrella.arenas.sprites import HOLD_OUT, PRESETS, SpriteWorld
from terrella.cli import main
from terrella.data import Cover, Dataset, make_policy, record
from terrella.errors import ActionError, ArenaError, MissingExtra, UnknownName
from terrella.spec import Motion

pytest.importorskip("sklearn")
NAMES = [f"terrella/{name}-v0" for name in PRESETS]
MICRO = "terrella/SpritesMicro-v0"


def world_of(env: gym.Env) -> SpriteWorld:
    assert isinstance(env.unwrapped, SpriteWorld)
    return env.unwrapped


def begun(name: str = "terrella/Sprites-v0", seed: int = 0, **kwargs: Any) -> tuple[gym.Env, SpriteWorld, np.ndarray]:
    env = arenas.make(name, **kwargs)
    frame, _ = env.reset(seed=seed)
    return env, world_of(env), frame


def drawn(core: SpriteWorld) -> np.ndarray:
    """The torus from the true state, pixel by pixel."""
    total = np.zeros((core.world, core.world), int)
    for (row, column), image in zip(core.truth["positions"], core.truth["images"]):
        for i in range(core.sprite):
            for j in range(core.sprite):
                total[(row + i) % core.world, (column + j) % core.world] += core.bank[image, i, j]
    return np.minimum(total, 255).astype(np.uint8)[..., None]


def crop(torus: np.ndarray, camera: np.ndarray, side: int) -> np.ndarray:
    return np.roll(torus, tuple(-camera), (0, 1))[:side, :side]


@pytest.mark.parametrize("name", NAMES)
def test_frames_show_the_true_state_and_actions_lead_from_one_to_the_next(name: str) -> None:
    env, core, frame = begun(name)
    env.action_space.seed(0)
    truth = core.truth
    assert env.observation_space.shape == frame.shape == (core.window, core.window, 1)
    assert not truth["camera"].any()
    wrapped = 0
    for _ in range(40):
        assert np.array_equal(core.panorama(), drawn(core))
        assert np.array_equal(frame, crop(drawn(core), truth["camera"], core.window))
        action = env.action_space.sample()
        frame, reward, terminated, truncated, _ = env.step(action)
        after = core.truth
        assert np.array_equal(after["camera"], (truth["camera"] + action - core.move) % core.world)
        assert np.array_equal(after["positions"], (truth["positions"] + truth["velocities"]) % core.world)
        assert np.array_equal(after["velocities"], truth["velocities"])
        assert np.array_equal(after["images"], truth["images"])
        assert (reward, terminated, truncated) == (0.0, False, False)
        wrapped += int((after["positions"] > core.world - core.sprite).any())
        truth = after
    assert wrapped > 5, "no sprite crossed the seam"


def test_a_world_comes_round() -> None:
    env, core, frame = begun(MICRO)
    first = core.panorama()
    for t in range(core.world):  # speeds of at most 1: after `world` ticks everything is where it was
        assert t == 0 or not np.array_equal(core.panorama(), first)
        again = env.step(np.array([core.move + 1, core.move]))[0]
    assert np.array_equal(core.panorama(), first)
    assert np.array_equal(again, frame)


def test_velocities_are_uniform_and_static_worlds_stand_still() -> None:
    core = world_of(arenas.make(MICRO, speed=2))
    still = world_of(arenas.make(MICRO, speed=2, static=True))
    counts = np.zeros((5, 5))
    for seed in range(500):
        core.reset(seed=seed)
        still.reset(seed=seed)
        assert np.array_equal(core.panorama(), still.panorama())
        assert not still.truth["velocities"].any()
        np.add.at(counts, tuple((core.truth["velocities"] + 2).T), 1)
    assert np.square(counts - counts.mean()).sum() / counts.mean() < 51.2  # chi-square, 24 degrees, p = 0.001


def test_the_declared_motion_is_what_the_frame_does() -> None:
    env, core, _ = begun(static=True, window=9)
    motion = arenas.describe(env).action.motion
    assert motion is not None
    assert (motion.frame, motion.extent) == ("world", (core.world, core.world))
    torus, moved = core.panorama(), np.zeros(2, int)
    for down in range(2 * core.move + 1):
        for right in range(2 * core.move + 1):
            frame = env.step(np.array([down, right]))[0]
            steps = np.array([motion.tables[0][down], motion.tables[1][right]]).sum(0)
            assert steps[2] == 0
            moved += steps[:2]
            assert np.array_equal(frame, crop(torus, moved, core.window))


def test_full_views_show_the_whole_torus() -> None:
    env, core, frame = begun(full=True)
    assert np.array_equal(frame, core.panorama())
    assert core.coverage().all()
    assert env.step(env.action_space.sample())[4] == {"covered": True}


@pytest.mark.parametrize("kwargs", [{}, {"static": True, "overview": True}, {"full": True, "held_out": True}])
def test_restored_states_replay_bit_for_bit(kwargs: dict[str, Any]) -> None:
    env, *_ = begun(max_episode_steps=25, **kwargs)
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(60)]

    def play(env: gym.Env) -> list[Any]:
        seen: list[Any] = []
        for action in actions:
            frame, *rest = env.step(action)
            again = env.reset()[0].tobytes() if rest[2] else b""  # without a seed: the stream goes on
            seen += [frame.tobytes(), rest, again, world_of(env).coverage().tobytes(), env.render().tobytes()]  # type: ignore
        return seen

    for action in actions[:10]:
        last = env.step(action)[0]
    fork = arenas.forkable(env)
    assert fork is not None
    assert fork.exact
    state = fork.save()
    live = play(env)
    assert np.array_equal(fork.restore(state), last)
    assert play(env) == live
    other = arenas.make(arenas.describe(env).env)
    elsewhere = arenas.forkable(other)
    assert elsewhere is not None
    assert np.array_equal(elsewhere.restore(state), last)
    assert play(other) == live
    futures = []
    for seed in (5, 5, 6):
        fork.restore(state)
        fork.reseed(seed)
        futures.append(play(env))
    assert futures[0] == futures[1] != futures[2]


def test_states_of_other_sizes_or_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.random((10, 8, 8)) for _ in range(2)]
    forks = []
    for images, count in ((pictures[0], 3), (pictures[1], 3), (pictures[0], 2)):
        env = arenas.make(lambda images=images, count=count: SpriteWorld(images=images, count=count))
        env.reset(seed=0)
        forks.append(arenas.forkable(env))
    state = forks[0].save()
    forks[0].restore(state)
    for other in forks[1:]:
        with pytest.raises(ArenaError, match="other sizes or images"):
            other.restore(state)


def test_held_out_images_are_disjoint_and_shown_on_demand() -> None:
    shown, unseen = (SpriteWorld(held_out=h).bank for h in (False, True))
    assert len(shown) + len(unseen) == 1797
    assert not {x.tobytes() for x in shown} & {x.tobytes() for x in unseen}
    assert len(unseen) == 1797 // HOLD_OUT
    large = SpriteWorld(world=50, sprite=28).bank  # bilinear: the same digits, larger
    small = SpriteWorld(sprite=4).bank  # area: each pixel the mean of four, rounded row by row
    assert (large.shape[1:], small.shape[1:]) == ((28, 28), (4, 4))
    assert abs(large.mean() - shown.mean()) < 3
    means = shown.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    assert np.abs(small - means).max() <= 1


def test_images_of_the_user(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    env, core, _ = begun(images=str(tmp_path))
    assert np.array_equal(core.bank, pictures[[0, 1, 2, 3, 5]])
    assert np.array_equal(world_of(arenas.make(arenas.describe(env).env)).bank, core.bank)
    assert np.array_equal(SpriteWorld(images=pictures, held_out=True).bank, pictures[[4]])
    assert np.array_equal(SpriteWorld(images=pictures / 255).bank, core.bank)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"window": 25}, "window and sprite between 1 and world"),
        ({"count": 0}, "count at least 1"),
        ({"images": np.zeros((4, 8, 8)), "held_out": True}, "too few"),
        ({"images": np.full((5, 8, 8), 2.0)}, "divide"),
        ({"images": np.zeros((5, 8, 8, 3), np.uint8)}, r"\(n, h, w\)"),
        ({"images": "nowhere"}, "no image files"),
    ],
)
def test_impossible_worlds_are_refused(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ArenaError, match=words):
        SpriteWorld(**kwargs)


def test_other_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env, *_ = begun()
    for wrong in (np.array([9, 0]), np.array([-1, 0]), np.array([0.5, 1]), 3):
        with pytest.raises(ArenaError, match="two integers between 0 and 8"):
            env.unwrapped.step(wrong)
    with pytest.raises(UnknownName, match="terrella/Sprites-v0"):
        arenas.make("terrella/Sprite-v0")
    with pytest.raises(ArenaError, match="no sprite world"):
        arenas.black_mse(arenas.make("CartPole-v1"))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"terrella\[arenas\]"):
        arenas.make("terrella/Sprites-v0", sprite=11)


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_accepts_it(name: str) -> None:
    env = gym.make(name, render_mode="rgb_array", overview=True)
    check_env(env.unwrapped)
    env.reset(seed=0)
    flags = [env.step(env.action_space.sample())[3] for _ in range(1000)]
    assert flags == [False] * 999 + [True]


def test_pictures_for_people() -> None:
    env, _, frame = begun(world=10, window=4, sprite=3, static=True, overview=True)
    picture: Any = env.render()
    side = picture.shape[0]
    assert np.array_equal(picture[:, :side][:: side // 4, :: side // 4], np.repeat(frame, 3, -1))
    torus = picture[:, -side:]
    coloured = (torus[..., 0] > torus[..., 2]).mean()
    assert coloured == pytest.approx(12 / 100, abs=0.02)  # the outline of 4 x 4 pixels among 10 x 10
    assert world_of(arenas.make(MICRO, render_mode=None)).render() is None


def test_frames_keep_their_size_unless_told() -> None:
    paper = arenas.make("terrella/SpritesPaper-v0")  # large enough to be resized
    spec = arenas.describe(paper)
    assert spec.streams["pixels"].shape == (32, 32, 1)
    assert spec.env.size == 0
    assert arenas.describe(arenas.make(spec.env)) == spec
    assert arenas.describe(arenas.make(lambda: SpriteWorld(world=50, window=32))).streams == spec.streams
    for changed in (arenas.make("terrella/SpritesPaper-v0", size=64), arenas.make(MICRO, pixels=True)):
        about = arenas.describe(changed)
        assert about.streams["pixels"].shape[:2] == (64, 64)
        assert about.action.motion is None  # a step is no longer a pixel
    assert arenas.describe(arenas.make(MICRO, frame_skip=2)).action.motion is None


class OneWay(gym.ActionWrapper):
    """The camera stays, or goes one pixel to the right."""

    def __init__(self, env: gym.Env, motion: Motion | None) -> None:
        super().__init__(env)
        self.action_space, self.motion = gym.spaces.Discrete(2), motion

    def action(self, action: int) -> np.ndarray:
        return self.env.unwrapped.move + np.array([0, action])  # pyright: ignore[reportAttributeAccessIssue]


def test_a_wrapper_that_turns_actions_into_others_says_how_they_move() -> None:
    to_the_right = Motion((((0, 0, 0), (0, 1, 0)),), extent=(16, 16))
    for motion in (None, to_the_right):
        env = arenas.make(partial(lambda declared: OneWay(gym.make(MICRO), declared), motion))
        assert arenas.describe(env).action.motion == motion


def test_arrows_move_the_camera() -> None:
    env, *_ = begun()
    spec = arenas.describe(env)
    assert spec.noop == (4.0, 4.0)
    assert len(spec.keys) == 16
    expected = {"ArrowUp": (3, 4), "ArrowLeft+Space": (4, 2), "ArrowDown+ArrowRight": (5, 5)}
    assert expected.items() <= spec.keys.items()
    assert set(arenas.describe(arenas.make(MICRO, move=0)).keys.values()) == {(0.0, 0.0)}


@pytest.mark.parametrize("name", NAMES)
def test_the_black_score_is_that_of_real_frames(name: str) -> None:
    env = world_of(arenas.make(name))
    scores = []
    for seed in range(600):
        env.reset(seed=seed)
        frame = env.step(np.array([0, 2 * env.move]))[0]
        scores.append(np.square(frame / 255).mean())
    error = np.std(scores) / np.sqrt(len(scores))
    assert abs(np.mean(scores) - arenas.black_mse(env)) < 3 * error
    assert error < 0.05 * np.mean(scores)


FRAMES = {"terrella/SpritesMicro-v0": 14, "terrella/Sprites-v0": 20, "terrella/SpritesMid-v0": 30, NAMES[-1]: 50}


@pytest.mark.parametrize("name", NAMES)
def test_cover_sees_everything_and_then_wanders(name: str) -> None:
    env, core, frame = begun(name)
    policy = make_policy(Cover(FRAMES[name]))
    policy.prepare(arenas.describe(env))
    later = []
    for episode in range(20):
        env.reset(seed=episode)
        policy.begin(env.action_space, np.random.default_rng(episode))
        covered = core.coverage().all()
        for t in range(FRAMES[name] + 30):
            action = policy.act(frame)
            was = covered
            covered = env.step(action)[4]["covered"]
            assert covered == core.coverage().all()
            assert covered >= was
            if t == FRAMES[name] - 2:  # the action that leads to the last of these frames
                assert covered
            if t >= FRAMES[name] - 1:
                later.append(action)
    m = core.move
    error = np.sqrt(((2 * m + 1) ** 2 - 1) / 12 / len(later))
    assert np.abs(np.mean(later, 0) - m).max() < 4 * error
    assert {0, 2 * m} <= set(np.ravel(later).tolist())


def test_cover_is_recorded_and_replayed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = record(MICRO, tmp_path / "a", episodes=4, policy=Cover(14), max_episode_steps=30)
    parallel = record(MICRO, tmp_path / "b", episodes=4, policy=Cover(14), max_episode_steps=30, num_envs=2)
    assert dataset.fingerprint == parallel.fingerprint
    env = arenas.make(dataset.spec.env)
    for i in range(len(dataset)):
        episode = dataset.episode(i)
        frame, _ = env.reset(seed=episode.seed)
        for t, row in enumerate(episode.actions):
            assert np.array_equal(frame, episode.observations["pixels"][t])
            frame, *_, info = env.step(row.astype(int))
            assert info["covered"] or t < 12
    assert (
        main(["record", MICRO, "--policy", "cover", "--episodes", "1", "--out", "c", "--max-episode-steps", "20"]) == 0
    )
    assert Dataset("c").spec == dataset.spec
    vector = gym.vector.SyncVectorEnv([lambda: arenas.make(MICRO)] * 2)
    assert record(vector, tmp_path / "d", episodes=2, policy="cover", max_episode_steps=20).spec == dataset.spec


def test_cover_says_where_it_cannot_work(tmp_path: Any) -> None:
    with pytest.raises(ActionError, match="declare how they slide"):
        record("CartPole-v1", tmp_path / "a", episodes=1, policy="cover")
    with pytest.raises(ActionError, match="within 5 frames"):
        record(MICRO, tmp_path / "b", episodes=1, policy=Cover(5))
    with pytest.raises(ActionError, match="at least 1"):
        Cover(0)


def test_a_view_of_what_is_not():
    """With the positions it has, `view_with` is what is seen; a sprite moved out of view is gone from it."""
    env = SpriteWorld(world=24, window=12, count=1, static=True)
    for seed in range(20):
        frame, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(env.view_with(env.truth["positions"]), frame)
        assert env.visible()[0] or not frame.any()
        assert not env.view_with(np.array([[14, 14]])).any()
