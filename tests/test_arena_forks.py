"""Every registered arena: exact forks, chance that can be drawn anew, named quantities, interventions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from terrella import arenas
from terrella.actions import action_space
from terrella.arenas.pucks import PucksSimulator
from terrella.errors import ArenaError, MissingExtra, UnknownName

# Adapter -> (id, arguments of make, whether reseeding changes the next steps (None: it is refused), what to set whole
# quantities to)
Case = tuple[str, dict[str, Any], bool | None, dict[str, Any]]
CASES: dict[str, list[Case]] = {
    "procgen": [
        ("procgen/coinrun", {}, False, {}),
        ("procgen/bigfish", {}, True, {}),
    ],
    "ale": [("ALE/Pong-v5", {}, False, {})],
    "minigrid": [
        ("MiniGrid-Dynamic-Obstacles-8x8-v0", {"pixels": True, "tile_size": 8}, True, {"direction": 3}),
        ("MiniGrid-GoToDoor-8x8-v0", {"pixels": True}, False, {"direction": 2, "steps": 90}),
        ("terrella/SentencesGrid-v0", {}, False, {"direction": 2, "steps": 90}),
    ],
    "classic": [
        ("CartPole-v1", {}, False, {}),
        ("Pendulum-v1", {"pixels": True}, False, {}),
        ("MountainCar-v0", {}, False, {}),
        ("MountainCarContinuous-v0", {}, False, {}),
        ("Acrobot-v1", {}, False, {}),
        ("CliffWalking-v1", {"is_slippery": True}, True, {"state": 7}),
        ("Blackjack-v1", {}, True, {}),
    ],
    "sprites": [("terrella/SpritesPaper-v0", {"size": 64}, False, {"camera": [3, 20], "images": [1, 2, 3, 4, 5]})],
    "blocks": [("terrella/Blocks-v0", {}, False, {"heading": 2, "agent": [8, 8]})],
    "pucks": [
        ("terrella/Pucks-v0", {}, False, {}),
        ("terrella/PucksFalling-v0", {"gust": 0.5, "count": (5, 5), "frame_skip": 2}, True, {}),
        ("terrella/SentencesPucks-v0", {"gust": 0.5}, True, {}),
    ],
    "maze": [
        # so small, and the goal so near, that chance alone comes to other mazes
        ("terrella/Maze-v0", {"side": 5, "lengths": (1, 2)}, False, {"position": [4, 4], "goal": [4, 0]}),
    ],
    "chaos": [
        ("terrella/Lorenz-v0", {}, False, {}),
        ("terrella/Rossler-v0", {"noise": 0.01}, True, {}),
        ("terrella/DoublePendulum-v0", {}, False, {}),
    ],
    "crafter": [("terrella/Crafter-v0", {}, True, {"steps": 200, "wood": 5, "health": 3})],
    "highway": [
        ("highway-fast-v0", {"pixels": True}, False, {}),
        ("intersection-v2", {"pixels": True}, True, {}),
        ("racetrack-v1", {}, False, {}),
    ],
    "miniworld": [
        ("MiniWorld-Hallway-v0", {}, False, {}),
        ("MiniWorld-PickupObjects-v0", {}, False, {"steps": 3}),
        ("MiniWorld-CollectHealth-v0", {"domain_rand": True}, True, {"health": 50}),
    ],
    "vizdoom": [
        ("VizdoomDefendCenter-v1", {"frame_skip": 1, "size": 64}, None, {}),
        ("VizdoomTakeCover-v1", {}, None, {}),
    ],
    "mujoco": [("Reacher-v5", {}, False, {}), ("InvertedPendulum-v5", {"frame_skip": 2}, False, {})],
    "metaworld": [
        ("terrella/MetaWorld-v0", {"task": "push-v3", "pixels": True}, False, {"steps": 9}),
        ("terrella/MetaWorld-v0", {"task": "drawer-open-v3"}, False, {}),
    ],
}
ALL = [case for cases in CASES.values() for case in cases]


def steps(env: gym.Env) -> int:
    """How many are played: fewer where a step takes tens of milliseconds."""
    module = type(env.unwrapped).__module__
    return 6 if module.startswith(("highway_env", "metaworld")) else 25


def label(case: Case) -> str:
    return "-".join([case[0], *case[1]])


def opened(case: Case) -> gym.Env:
    try:
        return arenas.make(case[0], **case[1])
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture(params=ALL, ids=label)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def env(case: Case) -> Iterator[gym.Env]:
    made = opened(case)
    made.reset(seed=3)
    play(made, some_actions(made, steps(made) // 2, 1))
    yield made
    made.close()


def fork_of(env: gym.Env) -> arenas.Forkable:
    fork = arenas.forkable(env)
    assert fork is not None
    return fork


def some_actions(env: gym.Env, n: int, seed: int) -> list[Any]:
    space = action_space(arenas.describe(env).action)
    if isinstance(space, spaces.Text):  # letters drawn by chance ask for nothing
        space = env.action_space
    space.seed(seed)
    return [space.sample() for _ in range(n)]


def plain(value: Any) -> Any:
    """Arrays as bytes with their type, containers taken apart: what can be compared bit for bit."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, str) or value is None:
        return value
    array = np.asarray(value)
    return (array.dtype.str, array.shape, array.tobytes())


def play(env: gym.Env, actions: list[Any], past_ends: bool = True) -> list[Any]:
    """What the environment returns and what is true after each action."""
    fork, seen = fork_of(env), []
    for action in actions:
        step = env.step(action)
        seen.append(plain([*step, fork.quantities()]))
        if step[2] or step[3]:
            if not past_ends:
                break
            seen.append(plain([*env.reset(), fork.quantities()]))
    return seen


def frames(env: gym.Env) -> list[np.ndarray]:
    streams = arenas.to_streams(env, fork_of(env).last_observation()).values()
    return [v for v in streams if isinstance(v, np.ndarray) and v.ndim == 3]


def test_every_arena_is_tried() -> None:
    assert sorted(CASES) == arenas.list_arenas()


def test_restored_states_have_the_same_future(case: Case, env: gym.Env) -> None:
    fork = fork_of(env)
    assert fork.exact
    state, seen, truth = fork.save(), fork.last_observation(), fork.quantities()
    actions = some_actions(env, steps(env), 2)
    live = play(env, actions)
    for _ in range(2):
        assert plain(fork.restore(state)) == plain(seen)
        assert plain(fork.quantities()) == plain(truth)
        assert play(env, actions) == live
    fresh = opened(case)  # never reset
    assert plain(fork_of(fresh).restore(state)) == plain(seen)
    assert plain(fork_of(fresh).quantities()) == plain(truth)
    assert play(fresh, actions) == live
    fresh.close()


def test_saving_changes_nothing(env: gym.Env) -> None:
    fork = fork_of(env)
    state, actions = fork.save(), some_actions(env, steps(env), 2)
    fork.restore(state)
    alone = play(env, actions)
    fork.restore(state)
    saved = []
    for action in actions:
        saved += play(env, [action])
        fork.save()
    assert saved == alone


def test_reseeding_draws_chance_anew_and_nothing_else(case: Case, env: gym.Env) -> None:
    fork, actions = fork_of(env), some_actions(env, steps(env), 2)
    state = fork.save()
    futures = []
    if case[2] is None:
        with pytest.raises(ArenaError, match="cannot be reseeded"):
            fork.reseed(5)
        assert fork.save() == state
        return
    for seed in (None, 5, 5, 6):
        fork.restore(state)
        before = plain(fork.quantities())
        if seed is not None:
            fork.reseed(seed)
        assert plain(fork.quantities()) == before
        futures.append(play(env, actions, past_ends=False))  # the next episode is drawn by chance everywhere
    assert futures[1] == futures[2]
    assert (futures[0] != futures[1] != futures[3]) == case[2]


def test_pictures_show_something(case: Case, env: gym.Env) -> None:
    shown = []
    for action in some_actions(env, steps(env), 4):
        step = env.step(action)
        shown += frames(env)
        if step[2] or step[3]:
            env.reset()
    space = arenas.describe(env).streams
    if not any(stream.kind == "image" for stream in space.values()):
        assert not shown
        return
    size = case[1].get("size", 64)
    assert all(frame.shape[:2] == (size, size) for frame in shown)
    assert min(frame.std() for frame in shown) > 2
    # Most steps of chance end at a wall, and most sentences of chance ask for what is not there.
    walled = case[0].startswith(("terrella/Maze", "terrella/SentencesGrid"))
    assert len({frame.tobytes() for frame in shown}) > (1 if walled else steps(env) // 3)


def other_value(name: str, now: Any, changes: dict[str, Any]) -> Any:
    """Another value for a quantity, near the one it has, or None where only the case could know one."""
    if name in changes:
        return changes[name]
    array = np.array(now)
    if array.dtype.kind != "f":
        return None
    return np.round((array * 0.97 + 0.003) * 4096) / 4096  # in most ranges, and exact in single precision


def test_an_intervention_changes_one_quantity(case: Case, env: gym.Env) -> None:
    fork, actions = fork_of(env), some_actions(env, steps(env), 2)
    state, truth = fork.save(), fork.quantities()
    base = play(env, actions)
    changed = 0
    for name, now in truth.items():
        fork.restore(state)
        try:
            seen = fork.intervene(name, now)
        except ArenaError as error:
            assert "cannot be set" in str(error)  # noqa: PT017 - which ones is for the adapter to say
            continue
        assert plain(fork.quantities()) == plain(truth), f"setting {name} to itself changed something"
        assert play(env, actions) == base, f"setting {name} to itself changed the future"
        new = other_value(name, now, case[3])
        if new is None:
            continue
        fork.restore(state)
        seen = fork.intervene(name, new)
        expected = {**truth, name: np.array(new).astype(np.array(now).dtype)}
        assert plain(fork.quantities()) == plain({k: np.array(v)[()] for k, v in expected.items()}), name
        assert plain(seen) == plain(fork.last_observation())
        assert env.observation_space.contains(seen)
        elsewhere = fork.save()
        future = play(env, actions)
        fork.restore(elsewhere)
        assert play(env, actions) == future
        fork.restore(state)
        assert play(env, actions) == base
        changed += future != base
    assert changed or not case[3]


def test_interventions_that_cannot_be_are_explained(env: gym.Env) -> None:
    fork = fork_of(env)
    assert fork.units().keys() == fork.quantities().keys()
    assert all(isinstance(unit, str) and unit for unit in fork.units().values())
    before = plain(fork.save())
    with pytest.raises(UnknownName, match="quantity"):
        fork.intervene("no such thing", 0.0)
    for name, value in fork.quantities().items():
        with pytest.raises(UnknownName, match=repr(name)):
            fork.intervene(name + "x", value)
        for wrong in (np.full(np.shape(value), np.nan), np.zeros((*np.shape(value), 2)), "far away"):
            with pytest.raises(ArenaError, match=repr(name)):
                fork.intervene(name, wrong)
    assert plain(fork.save()) == before


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("pymunk", "terrella/Pucks-v0", "arenas-physics"),
        ("crafter", "terrella/Crafter-v0", "arenas-crafter"),
        ("miniworld", "MiniWorld-Hallway-v0", "arenas-3d"),
        ("vizdoom.gymnasium_wrapper", "VizdoomBasic-v1", "arenas-doom"),
        ("highway_env", "merge-v1", "arenas-driving"),
        ("metaworld", "terrella/MetaWorld-v0", "arenas-manipulation"),
    ],
)
def test_missing_packages_name_their_extra(
    package: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"terrella\[{extra}\]"):
        arenas.make(name)
    monkeypatch.undo()
    assert f"\n{extra} = " in (Path(__file__).parent.parent / "pyproject.toml").read_text()


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_arena_forks as t
for path, name, kwargs in json.loads(sys.argv[2]):
    env = t.arenas.make(name, **kwargs)
    t.fork_of(env).restore(open(path, "rb").read())
    print("digest", t.digest(env))  # some packages print, too
"""


def digest(env: gym.Env) -> str:
    return hashlib.sha256(repr(play(env, some_actions(env, steps(env), 7))).encode()).hexdigest()


@pytest.mark.timeout(900)  # where all simulators are installed
def test_states_are_restored_by_another_process(tmp_path: Any) -> None:
    tasks, expected = [], []
    for i, case in enumerate(ALL):
        try:
            env = arenas.make(case[0], **case[1])
        except MissingExtra:
            continue
        env.reset(seed=3)
        play(env, some_actions(env, steps(env) // 2, 1))
        path = tmp_path / str(i)
        path.write_bytes(fork_of(env).save())
        tasks.append([str(path), case[0], case[1]])
        expected.append(digest(env))
        env.close()
    args = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), json.dumps(tasks)]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("digest ")]
    assert [t[1] for t, a, b in zip(tasks, found, expected) if a != b] == []
    assert len(found) == len(expected) > 0


# --- pucks


def pucks(**kwargs: Any) -> Any:
    pytest.importorskip("pymunk")
    env = arenas.make("terrella/Pucks-v0", **kwargs)
    env.reset(seed=0)
    return env


def test_a_solver_that_lives_on_hides_state() -> None:
    """The wrong way: a space kept between ticks has another future than one built of the same positions."""
    core = pucks(count=(5, 5), gravity=(0.0, -9.81), restitution=(0.2, 0.4)).unwrapped
    for _ in range(20):
        core.step(np.zeros(2))
    living, bodies = core.space()
    apart = []
    for _ in range(30):
        core.position = np.array([body.position for body in bodies])
        core.velocity = np.array([body.velocity for body in bodies])
        core.angle = np.array([body.angle for body in bodies])
        core.spin = np.array([body.angular_velocity for body in bodies])
        rebuilt, copies = core.space()
        living.step(0.01)
        rebuilt.step(0.01)
        apart.append(max(abs(a.position - b.position) for a, b in zip(bodies, copies)))
    assert apart[0] == 0.0  # a young space has nothing to hide
    assert max(apart) > 1e-6


def test_pucks_obey_mechanics() -> None:
    env = pucks(count=(1, 1), drag=0.0, speed=0.0, restitution=(1.0, 1.0), friction=(0.0, 0.0))
    fork = fork_of(env)
    fork.intervene("mass", [1.0, 3.0])
    fork.intervene("position", [[0.2, 0.5], [0.6, 0.5]])
    fork.intervene("velocity", [[1.0, 0.0], [0.0, 0.0]])
    for _ in range(8):
        env.step(np.zeros(2, np.float32))
    velocity = fork.quantities()["velocity"]
    np.testing.assert_allclose(velocity, [[-0.5, 0.0], [0.5, 0.0]], atol=1e-6)  # v1 = (m1 - m2) / (m1 + m2)
    state, values = fork.save(), {"gravity": [0.0, -2.0], "position": [[0.2, 0.9], [0.7, 0.9]]}
    values["velocity"] = np.zeros((2, 2))
    together = fork.set(values)
    fork.restore(state)
    for name, value in values.items():
        alone = fork.intervene(name, value)
    np.testing.assert_array_equal(together, alone)
    for _ in range(8):
        env.step(np.zeros(2, np.float32))
    np.testing.assert_allclose(fork.quantities()["velocity"][:, 1], -2.0 * 0.4, rtol=1e-9)
    fork.intervene("gravity", [0.0, 0.0])
    fork.intervene("velocity", np.zeros((2, 2)))
    env.step(np.array([1.0, 0.0], np.float32))
    np.testing.assert_allclose(fork.quantities()["velocity"][:, 0], [5.0 / 1.0 / 20, 0.0], rtol=1e-9)


def test_colours_are_painted_and_nothing_else() -> None:
    plain, mixed = pucks(count=(8, 8)), pucks(count=(8, 8), mixed=True)
    before, after = fork_of(plain).quantities(), fork_of(mixed).quantities()
    assert before["colour"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1]
    assert sorted(after["colour"][1:8].tolist()) == list(range(1, 8))
    assert after["colour"][8] == after["colour"][1]
    np.testing.assert_array_equal(before["position"], after["position"])
    seen = fork_of(mixed).intervene("colour", before["colour"])
    np.testing.assert_array_equal(seen, fork_of(plain).last_observation())


def test_pucks_saved_without_what_they_have_now_are_refused_by_name() -> None:
    env = pucks()
    pusher = PucksSimulator(env.unwrapped)
    state = dict(pusher.capture())
    del state["colour"]
    before = env.unwrapped.position.copy()
    with pytest.raises(ArenaError, match="no colour: an older version"):
        pusher.apply({**state, "position": before + 1})
    np.testing.assert_array_equal(env.unwrapped.position, before)


def test_pucks_stay_in_their_box_and_mistakes_are_explained() -> None:
    env = pucks(count=(8, 8), radius=(0.06, 0.06))
    for action in some_actions(env, 200, 0):
        env.step(action)
    place = fork_of(env).quantities()["position"]
    assert ((place > 0.03) & (place < 0.97)).all()
    with pytest.raises(ArenaError, match="mass"):
        arenas.make("terrella/Pucks-v0", mass=(-1.0, 1.0))
    with pytest.raises(ArenaError, match="count"):
        arenas.make("terrella/Pucks-v0", count=(3, 99))
    with pytest.raises(ArenaError, match="two finite numbers"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(ArenaError, match="from 0 to 1"):
        fork_of(env).intervene("restitution", np.full(9, 1.5))


# --- chaos


@pytest.mark.parametrize(("name", "exponent", "within"), [("Lorenz", 0.906, 0.1), ("Rossler", 0.0714, 0.01)])
def test_neighbouring_futures_part_at_the_known_rate(name: str, exponent: float, within: float) -> None:
    """The largest Lyapunov exponent, by Benettin's method: let two futures part, pull them together, sum the logs."""
    from terrella.arenas.chaos import runge_kutta

    env = arenas.make(f"terrella/{name}-v0")
    env.reset(seed=0)
    core: Any = env.unwrapped
    parameters = {key: value for key, (value, _) in core.system.parameters.items()}
    step, apart, total, steps = core.system.step / core.system.substeps, 1e-8, 0.0, 16000
    pair = np.stack([core.x, core.x + np.array([apart, 0, 0])])
    for _ in range(steps):
        pair = runge_kutta(lambda x: core.system.flow(x, parameters), pair, step)
        gap = pair[1] - pair[0]
        size = float(np.linalg.norm(gap))
        total += np.log(size / apart)
        pair[1] = pair[0] + gap * (apart / size)
    assert total / (steps * step) == pytest.approx(exponent, abs=within)


def test_the_double_pendulum_keeps_its_energy() -> None:
    env = arenas.make("terrella/DoublePendulum-v0")
    env.reset(seed=1)

    def energy(x: np.ndarray) -> float:
        one, two, a, b = x
        kinetic = a * a + 0.5 * b * b + a * b * np.cos(one - two)
        return float(kinetic - 9.81 * (2 * np.cos(one) + np.cos(two)))

    first = energy(env.unwrapped.x)  # type: ignore[attr-defined]
    seen = [energy(env.step(np.zeros(1, np.float32))[0]) for _ in range(200)]
    assert max(abs(e - first) for e in seen) < 1e-3 * 9.81
    pushed = [energy(env.step(np.ones(1, np.float32))[0]) for _ in range(20)]
    assert abs(pushed[-1] - first) > 0.1


def test_chaotic_mistakes_are_explained() -> None:
    with pytest.raises(UnknownName, match="rho"):
        arenas.make("terrella/Lorenz-v0", parameters={"roh": 1.0})
    with pytest.raises(UnknownName, match="lorenz"):
        arenas.make("terrella/Lorenz-v0", system="lorentz")
    with pytest.raises(ArenaError, match="noise"):
        arenas.make("terrella/Lorenz-v0", noise=-1.0)
    env = arenas.make("terrella/Rossler-v0")
    env.reset(seed=0)
    fork_of(env).intervene("a", 5.0)
    with pytest.raises(ArenaError, match="flies apart"):
        play(env, [np.zeros(1, np.float32)] * 500)


def test_wrappers_that_remember_frames_refuse_interventions() -> None:
    env = arenas.make(lambda: gym.wrappers.FrameStackObservation(gym.make("terrella/Lorenz-v0"), 2))
    env.reset(seed=0)
    with pytest.raises(ArenaError, match="FrameStackObservation"):
        fork_of(env).intervene("x", 0.0)
    assert isinstance(env.observation_space, spaces.Box)


# --- crafter


def crafter_env() -> Any:
    pytest.importorskip("crafter")
    env = arenas.make("terrella/Crafter-v0")
    env.reset(seed=4)
    return env


def test_crafter_is_the_same_in_every_process_and_its_own_sets_are_not() -> None:
    """The wrong way: objects in sets come in the order of their addresses; here in that of their coming."""
    world = crafter_env().unwrapped.game._world
    chunk = max(world._chunks.values(), key=len)
    indices = [world._objects.index(thing) for thing in chunk]
    assert len(indices) > 2
    assert indices == sorted(indices)
    assert any(list(set(chunk)) != list(chunk) for chunk in world._chunks.values())


def test_looking_at_crafter_by_night_changes_nothing() -> None:
    env = crafter_env()
    fork, core = fork_of(env), env.unwrapped
    fork.intervene("steps", 210)  # before midnight
    actions = [0] * 12
    state = fork.save()
    base = play(env, actions)
    fork.restore(state)
    seen = []
    for action in actions:
        env.render()
        fork.intervene("wood", fork.quantities()["wood"])
        seen += play(env, [action])
    assert seen == base
    fork.restore(state)
    core.game.render()  # the wrong way: the package's own picture draws from the stream of the creatures
    assert play(env, actions) != base


def test_crafter_goes_on_out_of_view() -> None:
    env = crafter_env()
    fork = fork_of(env)
    state = fork.save()
    maps, shown = [], []
    for seed in range(6):
        fork.restore(state)
        fork.reseed(seed)
        step = [env.step(0) for _ in range(8)][-1]
        maps.append(step[4]["semantic"].tobytes())
        shown.append(step[0].tobytes())
    assert len(set(maps)) == 6
    assert len(set(shown)) < 6


def test_interventions_in_crafter_earn_nothing_and_need_room() -> None:
    env = crafter_env()
    fork = fork_of(env)
    fork.intervene("health", 4)
    assert env.step(0)[1] == 0.0
    cows = np.array(fork.quantities()["cows"])
    assert len(cows) > 1
    swapped = fork.intervene("cows", cows[::-1])  # may change places
    assert env.observation_space.contains(swapped)
    with pytest.raises(ArenaError, match="free cell"):
        fork.intervene("cows", np.repeat(cows[:1], len(cows), 0))
    with pytest.raises(ArenaError, match="free cell"):
        fork.intervene("position", cows[0])
    with pytest.raises(ArenaError, match="whole numbers"):
        fork.intervene("wood", 1.5)


# --- highway


def test_a_dummy_video_driver_does_not_blacken_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("highway_env")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    wrong = gym.make("highway-fast-v0", render_mode="rgb_array")
    wrong.reset(seed=0)
    assert np.std(wrong.render()) == 0  # type: ignore[arg-type]  # and black forks are all alike
    right = arenas.make("highway-fast-v0", pixels=True)
    assert right.reset(seed=0)[0].std() > 2


def test_drivers_draw_from_the_reseeded_stream() -> None:
    """The wrong way: to replace only the environment's stream, while the road keeps the old one."""
    pytest.importorskip("highway_env")
    env = arenas.make("intersection-v2")
    env.reset(seed=0)
    fork_of(env).reseed(7)
    core: Any = env.unwrapped
    assert core.road.np_random is core.np_random
    fork_of(env).restore(fork_of(env).save())
    assert core.road.np_random is core.np_random


# --- miniworld


def test_environments_of_one_process_show_their_own_rooms() -> None:
    """The wrong way: all of them draw one display list, so that the last reset's rooms are seen by everyone."""
    hall, rooms = (opened((f"MiniWorld-{name}-v0", {}, False, {})) for name in ("Hallway", "FourRooms"))
    hall.reset(seed=0)
    done, core = 7, hall.unwrapped
    alone = hall.step(done)[0]
    rooms.reset(seed=0)
    assert np.array_equal(hall.step(done)[0], alone)
    rooms.reset(seed=1)
    assert not np.array_equal(core.render_obs(), hall.step(done)[0])  # type: ignore[attr-defined]


# --- vizdoom


def test_saved_games_are_no_forks(tmp_path: Any) -> None:
    """The wrong way: the engine's own save lets time pass, so that saving changes the game."""
    env = opened(("VizdoomDefendCenter-v1", {}, None, {}))
    env.reset(seed=3)
    game = env.unwrapped.game  # type: ignore[attr-defined]
    play(env, some_actions(env, 20, 1))
    before = game.get_episode_time()
    fork_of(env).save()
    assert game.get_episode_time() == before
    game.save(str(tmp_path / "game.zds"))
    assert game.get_episode_time() > before


# --- metaworld


def test_a_forward_pass_changes_the_warm_start() -> None:
    """The wrong way: to set MuJoCo's state once; computing what follows from it moves where the solver begins."""
    env = opened(("terrella/MetaWorld-v0", {"task": "push-v3"}, False, {}))
    env.reset(seed=0)
    for action in some_actions(env, 6, 0):
        env.step(action)
    import mujoco

    core: Any = env.unwrapped
    simulator: Any = arenas.manipulation.MetaWorldSimulator(core)
    state, kind = simulator._physics(), mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(core.model, core.data, state, kind)
    mujoco.mj_forward(core.model, core.data)
    assert not np.array_equal(simulator._physics(), state)
    simulator._forward(state)
    assert np.array_equal(simulator._physics(), state)


def test_resets_of_a_task_follow_their_seed_and_its_numbers_its_physics() -> None:
    env = opened(("terrella/MetaWorld-v0", {"task": "push-v3"}, False, {}))
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    fork = fork_of(env)
    goal = np.array(fork.quantities()["goal"]) + np.array([0.05, 0.0, 0.0])
    assert np.array_equal(fork.intervene("goal", goal)[-3:], goal)
    with pytest.raises(UnknownName, match="push-v3"):
        opened(("terrella/MetaWorld-v0", {"task": "psh-v3"}, False, {}))
