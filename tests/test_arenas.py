"""Arenas: made environments, their descriptions, and states that are saved and restored bit for bit."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import subprocess
import sys
import threading
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import zstandard
from gymnasium import spaces

from terrella import arenas, config
from terrella.actions import action_space, decode, encode
from terrella.arenas import graph, procgen
from terrella.errors import ArenaError, ConfigError, MissingExtra, SpecError, UnknownName
from terrella.spec import EnvSpec, WorldSpec

for package in ("minigrid", "procgen", "ale_py"):
    pytest.importorskip(package)
from minigrid.core.world_object import Ball, Box, Key  # noqa: E402
from minigrid.envs.empty import EmptyEnv  # noqa: E402

# (id, arguments of make, whether reseeding changes what happens in the steps below)
CLASSIC = [
    ("CartPole-v1", {}, True),
    ("Acrobot-v1", {}, False),
    ("MountainCar-v0", {"max_episode_steps": 50}, True),
    ("MountainCarContinuous-v0", {}, False),
    ("Pendulum-v1", {"pixels": True, "size": 32, "max_episode_steps": 60}, True),
    ("FrozenLake-v1", {}, True),
    ("CliffWalking-v1", {"is_slippery": True}, True),
    ("Taxi-v4", {"max_episode_steps": 50}, True),
    ("Blackjack-v1", {}, True),
]
PROCGEN = [(f"procgen/{game}", {}, None) for game in procgen.GAMES] + [
    ("procgen/starpilot", {"distribution_mode": "extreme", "frame_skip": 2}, True),
    ("procgen/maze", {"distribution_mode": "memory", "size": 32}, None),
    ("procgen/coinrun", {"distribution_mode": "exploration", "use_backgrounds": False}, None),
    ("procgen/bigfish", {"num_levels": 3, "start_level": 40}, True),
]
ALE = [
    ("ALE/Pong-v5", {}, False),
    ("ALE/Breakout-v5", {"obs_type": "grayscale"}, False),
    ("ALE/Qbert-v5", {"size": 0}, False),  # leaves lines of the screen undrawn
    ("ALE/Tetris-v5", {"frameskip": [2, 5]}, True),
    ("PongNoFrameskip-v4", {"frame_skip": 4}, False),
]
MINIGRID = [
    ("MiniGrid-DoorKey-5x5-v0", {"max_steps": 60}, True),
    ("MiniGrid-Dynamic-Obstacles-8x8-v0", {"pixels": True, "tile_size": 8}, True),
    ("MiniGrid-Fetch-8x8-N3-v0", {"max_steps": 60}, True),
    ("MiniGrid-ObstructedMaze-2Dlhb-v1", {}, None),
    ("MiniGrid-KeyCorridorS3R2-v0", {}, None),
    ("MiniGrid-LockedRoom-v0", {"max_steps": 70}, True),
    ("MiniGrid-PutNear-6x6-N2-v0", {}, None),
    ("BabyAI-GoToLocal-v0", {}, None),
    ("BabyAI-BossLevel-v0", {}, None),
]
ALL = CLASSIC + PROCGEN + ALE + MINIGRID


def label(case: Any) -> str:
    return "-".join([case[0], *(str(k) for k in case[1])]) if isinstance(case, tuple) else str(case)


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, types included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    if isinstance(a, str):
        return a == b
    return np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def some_actions(env: gym.Env, n: int, seed: int) -> list[Any]:
    space = action_space(arenas.describe(env).action)
    space.seed(seed)
    return [space.sample() for _ in range(n)]


def play(env: gym.Env, actions: list[Any]) -> list[tuple]:
    """Everything that the environment returns, beginning a new episode (without a seed) after each end."""
    seen: list[tuple] = []
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def same(a: list[tuple], b: list[tuple]) -> bool:
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))


def fork_of(env: gym.Env) -> arenas.Forkable:
    fork = arenas.forkable(env)
    assert fork is not None
    assert isinstance(fork, arenas.Forkable)
    return fork


@pytest.mark.parametrize("case", ALL, ids=label)
def test_restored_state_has_the_same_future(case: tuple[str, dict, bool | None]) -> None:
    name, options, chance = case
    env = arenas.make(name, **options)
    fork = fork_of(env)
    assert fork.exact
    env.reset(seed=3)
    before = play(env, some_actions(env, 30, 1))
    state, seen = fork.save(), fork.last_observation()
    assert isinstance(state, bytes)
    assert equal(seen, before[-1][0])
    actions = some_actions(env, 100, 2)
    live = play(env, actions)

    assert equal(fork.restore(state), seen)
    assert equal(fork.last_observation(), seen)
    assert same(play(env, actions), live)

    other = arenas.make(arenas.describe(env).env)  # never reset
    assert equal(fork_of(other).restore(state), seen)
    assert same(play(other, actions), live)

    if options.get("max_episode_steps") or options.get("max_steps"):
        assert any(len(step) == 5 and step[3] for step in live), "no time-out was crossed; the case tests too little"

    futures = []
    for seed in (5, 5, 6):
        fork.restore(state)
        fork.reseed(seed)
        futures.append(play(env, actions))
    assert same(futures[0], futures[1])
    if chance is not None:
        assert same(futures[0], live) != chance

    frames = [v for step in live for v in arenas.to_streams(env, step[0]).values() if getattr(v, "ndim", 0) == 3]
    if frames and frames[0].shape[0] >= 32:
        assert min(frame.std() for frame in frames) > 0
        assert len({frame.tobytes() for frame in frames}) > 5
    for one in (env, other):
        one.close()


def test_state_is_restored_by_another_process(tmp_path) -> None:
    script = """
import hashlib, sys
from terrella import arenas
loaded = [m for m in ("procgen", "pygame", "ale_py.env", "minigrid.minigrid_env") if m in sys.modules]
assert not loaded, f"importing terrella.arenas imported {loaded}"
for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
    env = arenas.make(name)
    arenas.forkable(env).restore(open(path, "rb").read())
    digest = hashlib.sha256()
    for t in range(60):
        observation, reward, terminated, truncated, _ = env.step(t * 7 % 3)
        if terminated or truncated:
            observation, _ = env.reset()
        for name, value in sorted(arenas.to_streams(env, observation).items()):
            digest.update(value.encode() if isinstance(value, str) else value.tobytes())
        digest.update(repr((float(reward), bool(terminated), bool(truncated))).encode())
    print(digest.hexdigest())
"""
    names = [
        "procgen/starpilot",
        "ALE/Breakout-v5",
        "MiniGrid-Dynamic-Obstacles-6x6-v0",
        "BabyAI-GoToSeq-v0",
        "Acrobot-v1",
    ]
    args, expected = [], []
    for i, name in enumerate(names):
        env = arenas.make(name)
        env.reset(seed=11)
        play(env, [t * 5 % 3 for t in range(20)])
        path = tmp_path / str(i)
        path.write_bytes(fork_of(env).save())
        args += [name, str(path)]
        digest = hashlib.sha256()
        for t in range(60):
            observation, reward, terminated, truncated, _ = env.step(t * 7 % 3)
            if terminated or truncated:
                observation, _ = env.reset()
            for _, value in sorted(arenas.to_streams(env, observation).items()):
                digest.update(value.encode() if isinstance(value, str) else value.tobytes())
            digest.update(repr((float(reward), bool(terminated), bool(truncated))).encode())
        expected.append(digest.hexdigest())
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected
    assert "Gym has been unmaintained" not in done.stderr


def test_states_survive_the_end_of_an_episode() -> None:
    for name in ("procgen/starpilot", "CartPole-v1", "MiniGrid-Dynamic-Obstacles-5x5-v0"):
        env = arenas.make(name)
        env.reset(seed=0)
        fork, ended = fork_of(env), False
        for action in some_actions(env, 1000, 0):
            observation, _, terminated, truncated, _ = env.step(action)
            if ended := terminated or truncated:
                break
        assert ended
        state = fork.save()
        following = env.reset()
        assert equal(fork.restore(state), observation)
        assert equal(env.reset(), following)


def test_time_limit_is_part_of_the_state() -> None:
    env = arenas.make("MountainCar-v0")
    env.reset(seed=0)
    for _ in range(150):
        env.step(1)
    state = fork_of(env).save()
    fresh = arenas.make("MountainCar-v0")
    fork_of(fresh).restore(state)
    flags = [fresh.step(1)[3] for _ in range(50)]
    assert flags == [False] * 49 + [True]


def test_sticky_actions_are_declared_inexact() -> None:
    env = arenas.make("ALE/Pong-v5")
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.0  # type: ignore[attr-defined]
    assert arenas.describe(env).env.kwargs == {"repeat_action_probability": 0.0}
    sticky = arenas.make("ALE/Pong-v5", repeat_action_probability=0.25)
    assert not fork_of(sticky).exact
    env.reset(seed=0)
    state = fork_of(env).save()
    with pytest.raises(ArenaError, match="another environment"):
        fork_of(sticky).restore(state)


class Meddling(gym.Wrapper):
    """A wrapper with a memory: every third observation is an old one."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.past: deque = deque(maxlen=4)
        self.count = {"steps": 0}

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.past.append(observation)
        return observation, info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        self.past.append(observation)
        self.count["steps"] += 1
        return self.past[0] if self.count["steps"] % 3 == 0 else observation, *rest


def test_wrappers_of_a_function_are_part_of_the_state() -> None:
    def build() -> gym.Env:
        return Meddling(gym.make("Acrobot-v1"))

    env, fresh = arenas.make(build), arenas.make(build)
    env.reset(seed=0)
    actions = some_actions(env, 40, 0)
    play(env, actions)
    state = fork_of(env).save()
    live = play(env, actions)
    fork_of(fresh).restore(state)
    assert same(play(fresh, actions), live)


def test_state_that_is_not_plain_is_refused() -> None:
    class Locked(gym.Wrapper):
        lock: Any = None

        def reset(self, **kwargs: Any) -> Any:
            self.lock = threading.Lock()
            return self.env.reset(**kwargs)

    env = arenas.make(lambda: Locked(gym.make("CartPole-v1")))
    with pytest.raises(ArenaError, match="never reset"):
        fork_of(env).save()
    env.reset(seed=0)
    with pytest.raises(ArenaError, match=r"lock.*adapter"):
        fork_of(env).save()

    grid = arenas.make("MiniGrid-Empty-5x5-v0")
    grid.reset(seed=0)
    grid.unwrapped.file = open(__file__)  # type: ignore[attr-defined]  # noqa: SIM115
    with pytest.raises(ArenaError, match="file"):
        fork_of(grid).save()
    grid.unwrapped.file.close()  # type: ignore[attr-defined]

    class Local(Ball):
        pass

    zoo = arenas.make(lambda: Zoo(size=6))
    zoo.reset(seed=0)
    zoo.unwrapped.pet = Local()  # type: ignore[attr-defined]
    with pytest.raises(ArenaError, match="top of a module"):
        fork_of(zoo).save()


class Pet(Ball):
    def __init__(self) -> None:
        super().__init__("purple")
        self.friend: Any = None
        self.mood = np.float32(0.1)


class Zoo(EmptyEnv):
    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        self.pet = Pet()
        self.box = Box("red", contains=Key("blue"))
        self.box.contains.friend = self.pet  # type: ignore[union-attr]
        self.pet.friend = self.box
        self.put_obj(self.pet, 3, 1)
        self.put_obj(self.box, 2, 1)


def test_minigrid_keeps_identities_contents_and_own_objects() -> None:
    env = arenas.make(lambda: Zoo(size=6))
    env.reset(seed=0)
    fork, zoo = fork_of(env), env.unwrapped
    state = fork.save()
    assert env.step(5)[0]["image"] is not None  # opens the box, leaves the key
    assert isinstance(zoo.grid.get(2, 1), Key)  # type: ignore[attr-defined]
    fork.restore(state)
    box: Any = zoo.grid.get(2, 1)  # type: ignore[attr-defined]
    pet: Any = zoo.grid.get(3, 1)  # type: ignore[attr-defined]
    assert type(box) is Box
    assert box is zoo.box  # type: ignore[attr-defined]
    assert pet is zoo.pet is box.contains.friend  # type: ignore[attr-defined]
    assert pet.friend is box
    assert type(pet.mood) is np.float32


def test_states_are_refused_where_they_do_not_belong() -> None:
    env = arenas.make("CartPole-v1")
    env.reset(seed=0)
    fork = fork_of(env)
    state = fork.save()
    env.step(1)
    after = fork.save()
    for bad in (b"", b"nonsense", pickle.dumps({"a": 1}), state[:-7], state[:40] + bytes(4) + state[44:]):
        with pytest.raises(ArenaError, match=r"no saved simulator state|damaged|unpacks"):
            fork.restore(bad)
    for other in (arenas.make("Acrobot-v1"), arenas.make("CartPole-v1", frame_skip=2)):
        other.reset(seed=0)
        with pytest.raises(ArenaError, match="another"):
            fork_of(other).restore(state)
    assert fork.save() == after  # nothing happened meanwhile

    game = arenas.make("procgen/coinrun")
    game.reset(seed=0)
    other_game = arenas.make("procgen/heist").unwrapped
    simulator = procgen.ProcgenSimulator(other_game)
    with pytest.raises(ArenaError, match="coinrun"):
        simulator.apply(procgen.ProcgenSimulator(game.unwrapped).capture())
    whole = simulator.capture()
    with pytest.raises(ArenaError, match="cut short"):
        simulator.apply({**whole, "native": whole["native"][:500]})


def test_only_made_environments_can_be_forked_or_described() -> None:
    for ask in (arenas.forkable, arenas.describe):
        with pytest.raises(ArenaError, match=r"terrella\.arenas\.make"):
            ask(gym.make("CartPole-v1"))
    assert arenas.forkable(arenas.make("LunarLander-v3")) is None
    assert {"ale", "blocks", "classic", "minigrid", "mujoco", "procgen", "sprites"} <= set(arenas.list_arenas())


def test_own_adapter() -> None:
    class Counter(gym.Env):
        observation_space = spaces.Discrete(100)
        action_space = spaces.Discrete(2)
        value = 0

        def reset(self, **kwargs: Any) -> Any:
            super().reset(seed=kwargs.get("seed"))
            self.value = int(self.np_random.integers(10))
            return self.value, {}

        def step(self, action: Any) -> Any:
            self.value += int(action) + int(self.np_random.integers(3))
            return self.value, 0.0, self.value > 80, False, {}

    class CounterSimulator(arenas.Simulator):
        @classmethod
        def matches(cls, env: gym.Env) -> bool:
            return isinstance(env, Counter)

        def capture(self) -> dict[str, Any]:
            return {"value": self.env.value}

        def apply(self, state: dict[str, Any]) -> None:
            self.env.value = state["value"]

    from terrella.arenas import base

    env = arenas.make(Counter)
    assert arenas.forkable(env) is None
    arenas.adapter("counter")(CounterSimulator)
    try:
        with pytest.raises(ArenaError, match="already"):
            arenas.adapter("counter")(procgen.ProcgenSimulator)
        env.reset(seed=0)
        fork, actions = fork_of(env), some_actions(env, 60, 0)
        state = fork.save()
        live = play(env, actions)
        fork.restore(state)
        assert same(play(env, actions), live)
    finally:
        base._ADAPTERS.pop("counter")


# --- data to bytes


class Thing:
    """Stands for a simulator's object; nothing but its attributes may be touched."""

    def __init__(self) -> None:
        raise AssertionError("a constructor ran")

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("__setstate__ ran")


def test_graph_keeps_values_types_and_references() -> None:
    rng = np.random.Generator(np.random.MT19937(3))
    rng.random(5)
    thing = object.__new__(Thing)
    ring: list[Any] = [1, 2.5, float("inf"), "é", b"\x00\xff", None, True, 2**90]
    ring.append(ring)
    vars(thing).update(ring=ring, me=thing, rng=rng)
    value = {
        (1, "a"): np.arange(6, dtype=">i2").reshape(2, 3)[:, ::2],
        "empty": np.zeros((0, 3), np.float32),
        "words": np.array(["x", "yy"]),
        "scalar": np.uint8(7),
        "sets": ({1, 2}, frozenset({"q"}), deque([1, 2, 3], maxlen=3)),
        "thing": thing,
        "again": [thing, rng, ring],
    }
    data = graph.pack({"h": 1}, value, modules={__name__})
    seen: list[Any] = []
    back = graph.unpack(data, seen.append, modules={__name__})
    assert seen == [{"h": 1}]
    assert list(back) == list(value)
    for key in ((1, "a"), "empty", "words", "scalar"):
        assert back[key].dtype == value[key].dtype
        assert np.array_equal(back[key], value[key])
    assert back["sets"] == value["sets"]
    assert back["sets"][2].maxlen == 3
    copy, same_rng, same_ring = back["again"]
    assert copy is back["thing"] is copy.me
    assert type(copy) is Thing
    assert same_rng is copy.rng
    assert same_rng.random() == rng.random()
    assert same_ring is copy.ring is same_ring[-1]
    assert same_ring[:-1] == ring[:-1]


def forged(root: Any, *nodes: Any) -> bytes:
    """A state written by hand."""
    text = json.dumps({"header": {}, "root": root, "nodes": nodes, "blobs": []}).encode()
    return graph.MAGIC + zstandard.ZstdCompressor().compress(struct.pack("<Q", len(text)) + text)


def test_graph_builds_nothing_that_was_not_allowed() -> None:
    thing = object.__new__(Thing)
    with pytest.raises(ArenaError, match="Thing"):
        graph.pack({}, {"x": [thing]})
    with pytest.raises(ArenaError, match="ndarray"):
        graph.pack({}, np.array([thing]))
    data = graph.pack({}, {"x": [thing]}, modules={__name__})
    assert type(graph.unpack(data, print, modules={__name__})["x"][0]) is Thing
    with pytest.raises(ArenaError, match="Thing"):
        graph.unpack(data, print)
    attacks: list[list[Any]] = [
        ["object", "subprocess", "Popen", []],  # another package
        ["object", __name__, "Meddling", []],  # an environment, not one of its objects
        ["object", __name__, "deque", []],  # only imported here
        ["object", __name__, "forged", []],  # no class
        ["object", __name__, "Thing.__init__", []],
        ["array", "|O", [1], 0],
        ["rng", "SystemRandom", {}],
        ["eval", "1"],
        [],
    ]
    for node in attacks:
        with pytest.raises(ArenaError):
            graph.unpack(forged({"node": 0}, node), print, modules={__name__})
    for root in ({"node": 3}, {"anchor": "x"}, {"exec": "1"}, {"scalar": ["|O", "00"]}):
        with pytest.raises(ArenaError, match="damaged"):
            graph.unpack(forged(root), print)
    bomb = graph.MAGIC + zstandard.ZstdCompressor().compress(bytes(graph.LARGEST + 1))
    with pytest.raises(ArenaError, match="at most"):
        graph.unpack(bomb, print)


# --- making and describing


@pytest.mark.parametrize("case", [*ALL, ("LunarLander-v3", {}, None), ("CarRacing-v3", {}, None)], ids=label)
def test_description_makes_the_same_environment(case: tuple[str, dict, bool | None]) -> None:
    name, options, _ = case
    env = arenas.make(name, **options)
    spec = arenas.describe(env)
    again = config.from_json(WorldSpec, json.loads(json.dumps(config.to_json(spec))))
    assert json.dumps(config.to_json(again)) == json.dumps(config.to_json(spec))
    twin = arenas.make(again.env)
    assert again.same_interface(arenas.describe(twin))
    first, _ = env.reset(seed=21)
    assert equal(first, twin.reset(seed=21)[0])
    if not name.startswith(("ALE", "Pong", "Cliff", "Frozen")):  # these begin alike under every seed
        others = [env.reset(seed=seed)[0] for seed in (22, 23, 24)]
        assert "exploration" in str(options) or not all(equal(first, other) for other in others)

    streams = arenas.to_streams(env, first)
    assert list(streams) == list(spec.streams)
    for stream, value in streams.items():
        about = spec.streams[stream]
        if about.kind == "text":
            assert isinstance(value, str)
            continue
        assert isinstance(value, np.ndarray)
        assert value.shape == about.shape
        assert value.dtype == (np.uint8 if about.kind == "image" else np.float32)

    assert spec.keys
    assert 1 <= spec.fps <= 60
    rows = [*spec.keys.values(), *([spec.noop] if spec.noop is not None else [])]
    for row in rows:
        action = decode(spec.action, np.array(row))
        assert env.action_space.contains(action)
        assert tuple(encode(spec.action, action)) == row
    assert all(keys == "+".join(sorted(keys.split("+"))) for keys in spec.keys)
    if spec.action.kind == "discrete" and spec.action_names:
        assert len(spec.action_names) == spec.action.n
    for one in (env, twin):
        one.close()


def test_key_maps_say_what_they_do() -> None:
    pong = arenas.describe(arenas.make("ALE/Pong-v5"))
    assert pong.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert pong.keys["ArrowRight+Space"] == pong.keys["KeyD+Space"] == (4.0,)
    assert pong.noop == (0.0,)
    assert pong.fps == 15.0
    stick = arenas.describe(arenas.make("ALE/Pong-v5", continuous=True))
    assert stick.keys["ArrowUp+Space"] == pytest.approx((1.0, np.pi / 2, 1.0))
    game = arenas.describe(arenas.make("procgen/coinrun", frame_skip=3))
    assert game.noop == (4.0,)
    assert game.keys["ArrowRight+ArrowUp"] == (8.0,)
    assert game.action_names[4] == "rest"
    assert game.fps == 5.0
    assert arenas.describe(arenas.make("MiniGrid-Dynamic-Obstacles-6x6-v0")).action_names == (
        "left",
        "right",
        "forward",
    )

    for name, key, left in (("MountainCar-v0", "ArrowLeft", True), ("MountainCar-v0", "ArrowRight", False)):
        env = arenas.make(name)
        row = arenas.describe(env).keys[key]
        (start, _), _ = env.reset(seed=0)
        for _ in range(3):
            (now, _), *_ = env.step(int(row[0]))
        assert (now < start) == left

    pendulum = arenas.make("Pendulum-v1")
    pendulum.reset(seed=0)
    pendulum.unwrapped.state = np.zeros(2)  # type: ignore[attr-defined]
    (_, sine, _), *_ = pendulum.step(np.array(arenas.describe(pendulum).keys["ArrowLeft"], np.float32))
    assert sine > 0  # counter-clockwise from upright: to the left

    for key, way in (("ArrowLeft", -1), ("ArrowRight", 1)):
        lander = arenas.make("LunarLander-v3")
        row = arenas.describe(lander).keys[key]
        tilt = lander.reset(seed=0)[0][4]
        for _ in range(20):
            observation, *_ = lander.step(int(row[0]))
        assert np.sign(tilt - observation[4]) == way  # positive angles lean left


def test_unknown_environments_get_digits_arrows_or_their_own_keys() -> None:
    class Plain(gym.Env):
        observation_space = spaces.Box(-1, 1, (3,))

        def __init__(self, space: gym.Space) -> None:
            self.action_space = space

    def keys(space: gym.Space) -> WorldSpec:
        return arenas.describe(arenas.make(lambda: Plain(space)))

    discrete = keys(spaces.Discrete(12, start=5))
    assert discrete.keys["Digit1"] == (5.0,)
    assert discrete.keys["Digit0"] == (14.0,)
    assert discrete.noop is None
    box = keys(spaces.Box(np.array([0.5, -2, 0]), np.array([3, 2, 1]), dtype=np.float32))
    assert box.noop == (0.5, 0.0, 0.0)
    assert box.keys["ArrowLeft"] == (0.5, 0.0, 0.0)
    assert box.keys["ArrowRight+ArrowUp"] == (3.0, 2.0, 0.0)
    assert keys(spaces.MultiDiscrete([2, 2])).keys == {}

    class Own(Plain):
        def get_keys_to_action(self) -> dict:
            return {(): 2, ("w", " "): 0, (ord("a"),): 1, "sd": 1, (1073741903,): 0, "é": 1}

    own = arenas.describe(arenas.make(lambda: Own(spaces.Discrete(3))))
    assert own.noop == (2.0,)
    expected = {"KeyW+Space": (0.0,), "KeyA": (1.0,), "KeyD+KeyS": (1.0,), "ArrowRight": (0.0,)}
    assert expected.items() <= own.keys.items()


def test_streams_of_nested_observations() -> None:
    space = spaces.Dict(
        {
            "eye": spaces.Box(0, 255, (40, 50), np.uint8),
            "map": spaces.Box(0, 255, (9, 9, 3), np.uint8),
            "body": spaces.Dict({"pose": spaces.Box(-1, 1, (2, 2)), "mode": spaces.Discrete(3, start=1)}),
            "say": spaces.Text(8),
            "pair": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)]),
        }
    )

    class Nested(gym.Env):
        observation_space = space
        action_space = spaces.Discrete(2)

        def reset(self, **kwargs: Any) -> Any:
            eye = np.arange(2000, dtype=np.uint8).reshape(40, 50)
            body = {"pose": np.eye(2, dtype=np.float32), "mode": 3}
            return {"eye": eye, "map": np.ones((9, 9, 3), np.uint8), "body": body, "say": "hi",
                    "pair": (np.array([1, 2]), np.ones(4, np.int8))}, {}  # fmt: skip

    env = arenas.make(Nested, size=20)
    spec = arenas.describe(env)
    first, _ = env.reset()
    assert first["eye"].shape == (20, 20)
    assert env.observation_space["eye"].shape == (20, 20)  # type: ignore[index]
    got = arenas.to_streams(env, first)
    assert list(got) == list(spec.streams)
    shapes = {k: s.shape for k, s in spec.streams.items()}
    assert shapes == {
        "eye": (20, 20, 1), "map": (9, 9, 3), "body.pose": (4,), "body.mode": (3,), "say": (), "pair.0": (5,),
        "pair.1": (4,),
    }  # fmt: skip
    np.testing.assert_array_equal(got["body.mode"], [0, 0, 1])
    np.testing.assert_array_equal(got["pair.0"], [0, 1, 0, 0, 1])
    assert got["say"] == "hi"
    assert spec.streams["body.pose"].low == (-1.0,) * 4
    assert arenas.streams(spaces.Box(-np.inf, np.inf, (2,)))["vector"].low is None
    assert list(arenas.streams(spaces.Text(4))) == ["text"]
    for bad in (spaces.Sequence(spaces.Discrete(2)), spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Dict({})):
        with pytest.raises(SpecError):
            arenas.streams(bad)


def test_minigrid_streams() -> None:
    env = arenas.make("MiniGrid-DoorKey-8x8-v0")
    first, _ = env.reset(seed=0)
    streams = arenas.to_streams(env, first)
    assert streams["mission"] == "use the key to open the door and then get to the goal"
    assert arenas.describe(env).streams["image"].shape == (7, 7, 3)  # cells are not light: never resized
    np.testing.assert_array_equal(streams["image"], first["image"])
    assert np.argmax(streams["direction"]) == first["direction"]


@pytest.mark.parametrize(
    "name", ["LunarLander-v3", "CarRacing-v3", "MiniGrid-Empty-8x8-v0", "ALE/Pong-v5", "CartPole-v1"]
)
def test_pixels_are_rendered_frames(name: str) -> None:
    env, full = arenas.make(name, pixels=True, size=48), arenas.make(name, pixels=True, size=0)
    assert env.observation_space.shape == (48, 48, 3)
    small, _ = env.reset(seed=0)
    large, _ = full.reset(seed=0)
    assert full.observation_space.contains(large)
    assert min(large.shape[:2]) > 48
    assert list(arenas.to_streams(env, small)) == ["pixels"]
    assert small.std() > 2
    assert abs(float(small.mean()) - float(large.mean())) < 1.0  # an area filter keeps the mean
    frames = [env.step(action)[0] for action in some_actions(env, 6, 0)]
    assert any((frame != small).any() for frame in frames)
    for one in (env, full):
        one.close()


def test_resizing_averages_areas() -> None:
    native, resized = arenas.make("procgen/coinrun"), arenas.make("procgen/coinrun", size=16)
    large, _ = native.reset(seed=0)
    small, _ = resized.reset(seed=0)
    mean = large.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(mean - small).max() <= 1.0
    grown, _ = arenas.make("procgen/coinrun", size=128).reset(seed=0)
    np.testing.assert_array_equal(grown, large.repeat(2, 0).repeat(2, 1))
    assert arenas.make("CartPole-v1", size=16).observation_space.shape == (4,)


def test_frame_skip_repeats_and_sums() -> None:
    fast, slow = arenas.make("procgen/chaser", frame_skip=4), arenas.make("procgen/chaser")
    fast.reset(seed=1)
    slow.reset(seed=1)
    ended = False
    for action in some_actions(fast, 200, 0):
        observation, reward, terminated, truncated, _ = fast.step(action)
        total = 0.0
        for _ in range(4):
            step = slow.step(action)
            total += float(step[1])
            if step[2] or step[3]:
                break
        assert equal((observation, terminated, truncated), (step[0], step[2], step[3]))
        assert reward == pytest.approx(total)
        if ended := terminated or truncated:
            break
    assert ended


def test_mistakes_are_explained() -> None:
    for typo, meant in (
        ("procgen/coinrum", "procgen/coinrun"), ("CartPole-v9", "CartPole-v1"), ("ALE/Pongg-v5", "ALE/Pong-v5"),
        ("MiniGrid-DorKey-5x5-v0", "MiniGrid-DoorKey-5x5-v0"),
    ):  # fmt: skip
        with pytest.raises(UnknownName, match=meant):
            arenas.make(typo)
    with pytest.raises(ArenaError, match="flavour"):
        arenas.make("CartPole-v1", flavour="vanilla")
    with pytest.raises(ArenaError, match="flavour"):
        arenas.make("procgen/coinrun", flavour="vanilla")
    with pytest.raises(ArenaError, match=r"maze.*It has: easy"):
        arenas.make("procgen/maze", distribution_mode="extreme")
    with pytest.raises(UnknownName, match="hard"):
        arenas.make("procgen/maze", distribution_mode="hart")
    with pytest.raises(ArenaError, match="out of range"):
        arenas.make("procgen/maze", num_levels=-1)
    with pytest.raises(ArenaError, match="function"):
        arenas.make(EnvSpec())
    with pytest.raises(ArenaError, match="frame_skip"):
        arenas.make("CartPole-v1", frame_skip=0)
    with pytest.raises(ArenaError, match="must not choose code"):
        arenas.make(EnvSpec(id="antigravity:World-v0"))
    assert "antigravity" not in sys.modules
    with pytest.raises(ConfigError, match="JSON"):
        arenas.make("CartPole-v1", thing=object())
    with pytest.raises(ArenaError, match=r"expected a gymnasium\.Env"):
        arenas.make(dict)  # type: ignore[arg-type]
    with pytest.raises(ArenaError, match="cannot render"):
        arenas.make("Pendulum-v1", pixels=True, render_mode=None)


@pytest.mark.parametrize(
    ("package", "name"),
    [("procgen.env", "procgen/maze"), ("minigrid", "BabyAI-GoToLocal-v0"), ("ale_py", "ALE/Pong-v5")],
)
def test_missing_packages_name_the_extra(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"terrella\[arenas\]"):
        arenas.make(name)


def test_making_changes_nothing_recorded() -> None:
    env = arenas.make("MiniGrid-Empty-8x8-v0", agent_start_pos=[2, 3], render_mode="rgb_array", size=32)
    spec = arenas.describe(env).env
    assert spec == EnvSpec("MiniGrid-Empty-8x8-v0", {"agent_start_pos": (2, 3)}, size=32)
    changed = arenas.describe(arenas.make(spec, pixels=True, frame_skip=2)).env
    assert changed == EnvSpec("MiniGrid-Empty-8x8-v0", {"agent_start_pos": (2, 3)}, True, 32, 2)


# --- procgen


def test_levels_do_not_depend_on_what_was_played_before() -> None:
    a, b = arenas.make("procgen/jumper"), arenas.make("procgen/jumper")
    first, info = a.reset(seed=7)
    b.reset(seed=1)
    play(b, [7, 8, 1])
    again, same_info = b.reset(seed=7)
    assert equal(first, again)
    assert info == same_info
    assert equal(a.reset(), b.reset())  # the next level of the same stream
    level = info["level"]
    chosen, _ = a.reset(options={"level": level})
    assert equal(chosen, first)
    levels = {a.reset()[1]["level"] for _ in range(50)}
    assert len(levels) == 50
    few = arenas.make("procgen/jumper", num_levels=3, start_level=40)
    assert {few.reset()[1]["level"] for _ in range(40)} == {40, 41, 42}
    only = arenas.make("procgen/jumper", distribution_mode="exploration")
    assert only.reset(seed=1)[1]["level"] == 1434825276


@pytest.mark.parametrize("game", ["leaper", "fruitbot", "chaser", "jumper"])
def test_procgen_plays_as_upstream(game: str) -> None:
    """Frames, rewards and ends are those of the package itself, including time-outs."""
    module = procgen._import()
    env, kinds = procgen.ProcgenEnv(game), set()
    for level, policy in ((0, 4), (7, 4), (0, None)):
        native = module.ProcgenGym3Env(
            num=1, env_name=game, distribution_mode="easy", num_levels=1, start_level=level, rand_seed=9, num_threads=0
        )
        frame, _ = env.reset(options={"level": level})
        rng = np.random.default_rng(level)
        while True:
            np.testing.assert_array_equal(native.observe()[1]["rgb"][0], frame)
            action = int(rng.integers(15)) if policy is None else policy
            native.act(np.array([action]))
            reward, _, first = native.observe()
            last = frame
            frame, mine, terminated, truncated, info = env.step(action)
            assert mine == float(reward[0])
            assert (terminated or truncated) == bool(first[0])
            if terminated:
                np.testing.assert_array_equal(frame, last)  # never the next level
                kinds.add("terminated")
                break
            if truncated:
                assert not info["level_complete"]
                kinds.add("truncated")
                break
        with pytest.raises(ArenaError, match="reset"):
            env.step(4)
        native.close()
    assert "terminated" in kinds
    assert ("truncated" in kinds) == (game in ("leaper", "jumper"))


def test_sequential_levels_go_on() -> None:
    rng = np.random.default_rng(0)
    actions = [int(rng.integers(15)) for _ in range(99)]
    single, chain = procgen.ProcgenEnv("maze"), procgen.ProcgenEnv("maze", use_sequential_levels=True)
    for env in (single, chain):
        env.reset(options={"level": 0})
        for action in actions:
            frame, reward, terminated, truncated, info = env.step(action)
        assert reward == 10.0
        assert info["level_complete"]
        assert not truncated
        assert terminated == (env is single)
    assert chain.step(4)[4]["level"] == 997
    assert not np.array_equal(frame, single.render())
