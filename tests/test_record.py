"""Recording real environments: no frame shifted, no reset recorded, nothing whole lost."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terrella import arenas
from terrella.actions import decode
from terrella.data import Cover, Dataset, Episode, Policy, Random, StickyRandom, make_policy, record, verify
from terrella.data.policies import Scripted
from terrella.errors import ActionError, ArenaError, DatasetError, SpecError, UnknownName

N = 7


class Tally(gym.Env):
    """Its frame says which episode this is, which step, and which action led here; so does its text."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Dict(
        frame=spaces.Box(0, 255, (2, 2, 3), np.uint8),
        count=spaces.Box(-1, 1e6, (2,)),
        note=spaces.Text(20, charset="0123456789 "),
    )
    action_space = spaces.Discrete(N)

    def __init__(self, lengths: tuple[int, ...] = (5, 1, 9), fail_at: int | None = None, reuse: bool = True) -> None:
        self.reuse = reuse
        self.lengths, self.episode, self.fail_at, self.total = lengths, -1, fail_at, 0
        self.frame = np.zeros((2, 2, 3), np.uint8)  # reused: a recorder must copy it

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        self.tag = int(self.np_random.integers(256))
        return self._see(N), {}

    def step(self, action):
        assert self.t < self.length, "stepped after the end"
        self.t += 1
        self.total += 1
        if self.total == self.fail_at:
            raise RuntimeError("the simulator broke")
        over = self.t == self.length
        return (
            self._see(int(action)),
            float(action) * 10 + self.t,
            over and self.tag % 2 == 0,
            over and self.tag % 2 == 1,
            {},
        )

    @property
    def length(self) -> int:
        return self.lengths[self.episode % len(self.lengths)]

    def _see(self, action: int):
        self.frame[..., 0], self.frame[..., 1], self.frame[..., 2] = self.t % 256, action, self.tag
        note = f"{self.tag} {self.t} {action}"
        return {
            "frame": self.frame if self.reuse else self.frame.copy(),
            "count": np.array([self.t, action], np.float32),
            "note": note,
        }


def check_alignment(observations: dict, actions: np.ndarray, rewards: np.ndarray, start: int | None = 0) -> None:
    """`a_t` explains `o_{t+1}` in every stream, and nothing of another episode is in between."""
    times, came, tags = (observations["frame"][:, 0, 0, i].astype(int) for i in range(3))
    if start is not None:
        assert times[0] == start
    assert np.array_equal(np.diff(times), np.ones(len(actions)))
    assert np.array_equal(came[1:], actions[:, 0])
    assert (tags == tags[0]).all()
    assert np.array_equal(rewards, actions[:, 0] * 10 + times[1:])
    assert np.array_equal(observations["count"], np.stack([times, came], 1))
    assert observations["note"].tolist() == [f"{g} {t} {a}" for g, t, a in zip(tags, times, came)]


def check_dataset(dataset: Dataset, *, cut_anywhere: bool = False) -> None:
    for episode in dataset:
        start = int(episode.observations["frame"][0, 0, 0, 0])
        if not cut_anywhere:
            assert start == 0
            assert episode.observations["frame"][0, 0, 0, 1] == N  # the frame of a reset: no action led to it
        check_alignment(episode.observations, episode.actions, episode.rewards, start)
    rng = np.random.default_rng(0)
    for length in (1, int(dataset.lengths.max())):
        clips = dataset.sample(30, length, rng, "all")
        for b in range(30):
            check_alignment({k: v[b] for k, v in clips.observations.items()}, clips.actions[b], clips.rewards[b], None)
    assert verify(dataset.path) == []


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=5).map(tuple)


@settings(max_examples=20, deadline=None)
@given(lengths=LENGTHS, steps=st.integers(1, 60), limit=st.one_of(st.none(), st.integers(1, 12)))
def test_every_action_explains_the_next_frame(tmp_path_factory, lengths, steps, limit):
    out = tmp_path_factory.mktemp("r") / "d"
    dataset = record(lambda: Tally(lengths), out, steps=steps, max_episode_steps=limit)
    check_dataset(dataset)
    assert dataset.steps == steps
    cut = [min(n, limit or n) for n in lengths]
    expected = [cut[i % len(cut)] for i in range(len(dataset))]
    expected[-1] = steps - sum(expected[:-1])
    assert dataset.lengths.tolist() == expected
    for i, (episode, n) in enumerate(zip(dataset, expected)):
        assert episode.terminated[-1] != episode.truncated[-1]
        assert n == lengths[i % len(lengths)] or episode.truncated[-1]


def _vector(lengths, count: int, mode: AutoresetMode, kind: type, **options):
    reuse = mode is not AutoresetMode.SAME_STEP
    makers = [lambda i=i: Tally((*lengths[i % len(lengths) :], *lengths), reuse=reuse) for i in range(count)]
    return kind(makers, autoreset_mode=mode, **options)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@given(
    lengths=LENGTHS, count=st.integers(1, 4), steps=st.integers(1, 80), limit=st.one_of(st.none(), st.integers(1, 12))
)
def test_vector_environments_of_every_autoreset_mode(tmp_path_factory, mode, lengths, count, steps, limit):
    out = tmp_path_factory.mktemp("r") / "d"
    envs = _vector(lengths, count, mode, SyncVectorEnv)
    dataset = record(envs, out, steps=steps, max_episode_steps=limit)
    check_dataset(dataset, cut_anywhere=limit is not None)
    assert dataset.steps == steps
    assert dataset.lengths.max() <= min(limit or 99, max(lengths))
    if limit is None:
        ends = sum(bool(e.terminated[-1]) or len(e) in lengths for e in dataset)
        assert ends >= len(dataset) - count  # all but those in flight ended by themselves
    envs.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_in_other_processes(tmp_path, mode):
    if mode is AutoresetMode.NEXT_STEP:
        shared = _vector((4, 2), 2, mode, AsyncVectorEnv)
        with pytest.raises(ArenaError, match="shared_memory=False"):
            record(shared, tmp_path / "text", episodes=1)
        shared.close()
    envs = _vector((4, 2), 2, mode, AsyncVectorEnv, shared_memory=False)
    dataset = record(envs, tmp_path, episodes=7, policy="random")
    check_dataset(dataset)
    assert len(dataset) == 7
    seeds = dataset.seeds
    assert sum(s is not None for s in seeds) == (7 if mode is AutoresetMode.DISABLED else 2)
    assert dataset.spec.env.id == ""
    envs.close()


def test_a_registered_vector_environment_is_described_by_its_id(tmp_path):
    envs = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    dataset = record(envs, tmp_path, episodes=6, policy="random")
    envs.close()
    assert dataset.spec.env.id == "CartPole-v1"
    env = arenas.make(dataset.spec.env)
    assert arenas.describe(env).same_interface(dataset.spec)
    assert dataset.seeds == [None] * 6
    for episode in dataset:
        assert np.abs(episode.observations["vector"][0]).max() <= 0.05  # where CartPole begins
        assert episode.terminated[-1] or len(episode) == 500


def replay(env: gym.Env, episode: Episode) -> None:
    """The recorded seed and actions give the recorded frames, rewards and end."""
    observation, _ = env.reset(seed=episode.seed)
    streams = [arenas.to_streams(env, observation)]
    spec = arenas.describe(env)
    for t, row in enumerate(episode.actions):
        observation, reward, terminated, _, _ = env.step(decode(spec.action, row))
        streams.append(arenas.to_streams(env, observation))
        assert np.float32(reward) == episode.rewards[t]
        assert terminated == episode.terminated[t]
    for name, frames in episode.observations.items():
        for mine, recorded in zip(streams, frames, strict=True):
            assert np.array_equal(mine[name], recorded)


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"pixels": True, "size": 32, "frame_skip": 2}),
        ("MiniGrid-DoorKey-5x5-v0", {}),
        ("procgen/coinrun", {"num_levels": 3}),
    ],
)
def test_recordings_replay_from_their_seeds_and_from_their_states(tmp_path, env, options):
    dataset = record(env, tmp_path, episodes=3, max_episode_steps=40, state_every=7, seed=5, **options)
    assert verify(tmp_path) == []
    made = arenas.make(dataset.spec.env)
    for episode in dataset:
        replay(made, episode)
    episode = dataset.episode(2)
    fork = arenas.forkable(made)
    assert fork is not None
    assert sorted(episode.states) == list(range(0, len(episode) + 1, 7))
    for frame, state in episode.states.items():
        observation = fork.restore(state)
        for t in range(frame, len(episode) + 1):
            for name, value in arenas.to_streams(made, observation).items():
                assert np.array_equal(value, episode.observations[name][t])
            if t < len(episode):
                observation, *_ = made.step(decode(dataset.spec.action, episode.actions[t]))
    made.close()


def test_the_dataset_does_not_depend_on_how_it_was_cut_into_calls_or_processes(tmp_path):
    options = {"max_episode_steps": 30, "seed": 3}
    whole = record("CartPole-v1", tmp_path / "a", steps=150, **options)
    for steps in (int(whole.lengths[:2].sum()), int(whole.lengths[2:].sum())):
        pieces = record("CartPole-v1", tmp_path / "b", steps=steps, **options)
    workers = record("CartPole-v1", tmp_path / "c", steps=150, num_envs=2, **options)
    assert pieces.fingerprint == workers.fingerprint == whole.fingerprint
    assert pieces.seeds == workers.seeds == whole.seeds
    assert len(set(whole.seeds)) == len(whole)
    assert workers.steps == 150
    assert workers.episode(0).states == whole.episode(0).states
    assert record("CartPole-v1", tmp_path / "d", steps=150, **{**options, "seed": 4}).fingerprint != whole.fingerprint


def test_functions_and_policies_travel_to_other_processes(tmp_path):
    left = 1

    def always(observation, rng):
        return left if observation["note"] else 0

    dataset = record(lambda: Tally((6, 3)), tmp_path, episodes=5, num_envs=2, policy=always)
    check_dataset(dataset)
    assert len(dataset) == 5
    assert all((e.actions == 1).all() for e in dataset)


def test_what_fails_in_another_process_is_said_here(tmp_path):
    with pytest.raises(ArenaError, match="the simulator broke"):
        record(lambda: Tally(fail_at=3), tmp_path / "a", episodes=5, num_envs=2)
    with pytest.raises(UnknownName, match="CartPole-v1"):
        record("CartPole-v111", tmp_path / "b", episodes=5, num_envs=2)
    lock = threading.Lock()
    with pytest.raises(ArenaError, match="num_envs=1"):
        record(lambda: Tally((int(lock.locked()) + 3,)), tmp_path / "c", episodes=5, num_envs=2)


# Stopping ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_whole_episodes(tmp_path, caplog):
    calls = 0

    def stop(observation, rng):
        nonlocal calls
        calls += 1
        if calls == 13:
            raise KeyboardInterrupt
        return 2

    with caplog.at_level(logging.WARNING):
        dataset = record(lambda: Tally((5, 4, 9)), tmp_path, episodes=50, policy=stop)
    assert "keeps the 2 whole episodes" in caplog.text
    assert dataset.lengths.tolist() == [5, 4]
    check_dataset(dataset)
    calls = 12
    with pytest.raises(KeyboardInterrupt):  # nothing to keep
        record(lambda: Tally(), tmp_path / "none", episodes=50, policy=stop)


def test_a_failing_environment_keeps_whole_episodes(tmp_path):
    with pytest.raises(RuntimeError, match="broke"):
        record(lambda: Tally((5, 4, 9), fail_at=12), tmp_path, episodes=50)
    assert Dataset(tmp_path).lengths.tolist() == [5, 4]
    assert len(record(lambda: Tally(), tmp_path, episodes=2)) == 4


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_record import Tally
from terrella.data import record
import time

def slow(observation, rng):
    time.sleep(0.002)
    return 3

print("begin", flush=True)
record(lambda: Tally((30, 2, 11)), {out!r}, episodes=10_000, num_envs={num_envs}, policy=slow)
"""


@pytest.mark.parametrize(
    ("how", "num_envs"),
    [
        (signal.SIGKILL, 1),
        (signal.SIGKILL, 2),
        (signal.SIGINT, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_recorder_loses_at_most_the_episode_in_flight(tmp_path, how, num_envs):
    out = tmp_path / "d"
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out), num_envs=num_envs)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = 0
    deadline = time.monotonic() + 60
    while seen < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
        seen = len(Dataset(out)) if (out / "dataset.json").exists() else 0
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (0 if how == signal.SIGINT else -signal.SIGKILL), said.decode()
    if how == signal.SIGKILL:
        assert list(out.glob("*.journal"))  # it was really in the middle
    dataset = Dataset(out)
    assert len(dataset) >= seen
    check_dataset(dataset)
    before = dataset.uids
    appended = record(lambda: Tally((30, 2, 11)), out, episodes=3)  # the lock went with the process
    assert appended.uids[: len(before)] == before
    assert len(appended) == len(before) + 3
    check_dataset(appended)
    assert not list(out.glob("*.journal"))
    if num_envs > 1:  # its processes went with it
        time.sleep(1.0)
        assert str(out) not in _command_lines()


def _command_lines() -> str:
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return found


# Policies and refusals ---------------------------------------------------------------------------------------------


def test_made_environments_are_recorded_as_they_are_and_left_open(tmp_path):
    env = arenas.make("CartPole-v1", frame_skip=2)
    dataset = record(env, tmp_path / "a", episodes=2)
    assert dataset.spec.env == arenas.describe(env).env
    assert dataset.spec.env.frame_skip == 2
    env.reset()
    check_dataset(record(Tally(), tmp_path / "b", episodes=3))
    with pytest.raises(ArenaError, match="not a made one"):
        record(env, tmp_path / "c", episodes=2, num_envs=2)
    with pytest.raises(ArenaError, match="takes no size"):
        record(SyncVectorEnv([Tally]), tmp_path / "c", episodes=2, size=32)
    with pytest.raises(SpecError, match="streams"):
        record("CartPole-v1", tmp_path / "b", episodes=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "how much"),
        ({"episodes": 0}, "at least 1"),
        ({"steps": -5}, "at least 1"),
        ({"episodes": 1, "num_envs": 0}, "num_envs"),
        ({"episodes": 1, "max_episode_steps": 0}, "max_episode_steps"),
        ({"episodes": 1, "seed": -1}, "seed"),
    ],
)
def test_goals_that_make_no_sense(tmp_path, options, says):
    with pytest.raises(DatasetError, match=says):
        record(lambda: Tally(), tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_an_action_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ActionError, match=r"0\.\.6"):
        record(lambda: Tally(), tmp_path, episodes=1, policy=lambda observation, rng: 7)
    with pytest.raises(UnknownName, match="sticky-random"):
        record(lambda: Tally(), tmp_path, episodes=1, policy="sticky")
    with pytest.raises(ActionError, match="policy is a int"):
        make_policy(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["geometric", "uniform"])
def test_sticky_policies_keep_actions_for_the_mean_asked(kind):
    space = spaces.Box(-1, 1, (1,))
    policy = make_policy(StickyRandom(5.0, kind))
    policy.begin(space, np.random.default_rng(0))
    actions = np.array([policy.act(None)[0] for _ in range(20_000)])
    runs = np.diff(np.flatnonzero(np.diff(actions)))
    assert abs(runs.mean() - 5.0) < 0.3
    assert runs.max() > 9 if kind == "geometric" else runs.max() == 9
    policy.begin(space, np.random.default_rng(0))
    assert np.array_equal(actions[:50], [policy.act(None)[0] for _ in range(50)])
    with pytest.raises(ActionError, match="mean"):
        StickyRandom(0.5)


def test_sticky_policies_rest_as_often_as_asked():
    env, policy = arenas.make("MountainCar-v0"), make_policy(StickyRandom(1.0, rest=0.7))
    policy.prepare(arenas.describe(env))
    policy.begin(env.action_space, np.random.default_rng(0))
    rests = np.mean([policy.act(None) == 1 for _ in range(4000)])  # its second action does nothing
    assert abs(rests - (0.7 + 0.3 / 3)) < 0.03
    with pytest.raises(ActionError, match="do nothing"):
        StickyRandom(rest=0.5).prepare(arenas.describe(arenas.make("CartPole-v1")))
    with pytest.raises(ActionError, match="share"):
        StickyRandom(rest=2.0)


def test_policies_made_alike_read_alike():
    env, policy = arenas.make("terrella/SpritesMicro-v0"), Cover(30)
    assert repr(policy) == "Cover(frames=30)"
    policy.prepare(arenas.describe(env))
    policy.begin(env.action_space, np.random.default_rng(0))
    assert repr(policy) == repr(Cover(30)) != repr(Cover(31))
    assert repr(StickyRandom(rest=0.5)) == "StickyRandom(mean=4.0, kind='geometric', rest=0.5)"


def test_policies_leave_the_space_alone_and_repeat_with_the_seed():
    space = spaces.Discrete(1000)
    space.seed(1)
    expected = [space.sample() for _ in range(5)]
    space.seed(1)
    policy: Policy = Random()
    policy.begin(space, np.random.default_rng(7))
    drawn = [policy.act(None) for _ in range(20)]
    assert [space.sample() for _ in range(5)] == expected
    policy.begin(space, np.random.default_rng(7))
    assert drawn == [policy.act(None) for _ in range(20)]
    scripted = make_policy(lambda observation, rng: observation + rng.integers(2))
    assert isinstance(scripted, Scripted)
    scripted.begin(space, np.random.default_rng(0))
    assert scripted.act(10) in (10, 11)


def test_the_progress_bar_counts_and_quiet_is_quiet(tmp_path, capsys):
    record(lambda: Tally(), tmp_path / "a", episodes=3, progress=True)
    shown = capsys.readouterr()
    assert "3/3" in shown.err
    assert "frames/s" in shown.err
    record(lambda: Tally(), tmp_path / "b", steps=20, progress=True)
    assert "20/20" in capsys.readouterr().err
    record(lambda: Tally(), tmp_path / "c", steps=20)
    assert capsys.readouterr() == ("", "")
