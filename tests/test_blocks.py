"""The block world: what moves where, what is seen of it, and that a saved room goes on and looks as before."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from terrella import arenas
from terrella.arenas import stage
from terrella.arenas.blocks import COLOURS, FORWARD, NOOP, TURN_LEFT, TURN_RIGHT, Blocks
from terrella.arenas.stage import BALL, BOX, CEILING, STEPS, Scene, Thing, draw
from terrella.data import WallWalk, record
from terrella.errors import ActionError, ArenaError, MissingExtra
from terrella.spec import Motion

try:
    draw(Scene(4, "white", "concrete", (), 2, 2, 0), 8)
except (ArenaError, MissingExtra) as error:
    pytest.skip(str(error), allow_module_level=True)

SMALL = "terrella/BlocksSmall-v0"


def core(env: gym.Env) -> Blocks:
    assert isinstance(env.unwrapped, Blocks)
    return env.unwrapped


def put(env: gym.Env, agent: tuple[int, ...], heading: int) -> Blocks:
    """Place the viewer by hand."""
    world = core(env)
    world._agent, world._heading = np.array(agent), heading
    return world


def alone(env: gym.Env, place: tuple[int, ...], velocity: tuple[int, int] = (0, 0)) -> Blocks:
    """Leave one red block in the room."""
    world = core(env)
    world._positions, world._velocities = np.array([place]), np.array([velocity])
    world._colours, world._balls, world._textures = np.array([1]), np.zeros(1, bool), np.zeros(1, np.int64)
    return world


@pytest.mark.parametrize(
    ("name", "room", "view", "count"), [("Blocks", 16, 64, (6, 10)), ("BlocksSmall", 8, 32, (3, 4))]
)
def test_registered_worlds(name, room, view, count):
    env = arenas.make(f"terrella/{name}-v0")
    spec = arenas.describe(env)
    assert spec.streams["pixels"].shape == (view, view, 3)
    assert spec.action.motion == Motion(tables=(((0, 0, 1), (0, 0, -1), (-1, 0, 0), (0, 0, 0)),), frame="body")
    assert spec.action_names == ("left", "right", "forward", "rest")
    assert spec.keys == {"ArrowLeft": (0.0,), "ArrowRight": (1.0,), "ArrowUp": (2.0,)}
    assert spec.noop == (3.0,)
    numbers = set()
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        truth = core(env).truth
        n = len(truth["positions"])
        numbers.add(n)
        assert observation.shape == (view, view, 3)
        assert truth["heading"] == 0
        places = np.concatenate([truth["positions"], truth["agent"][None]])
        assert places.min() >= 1
        assert places.max() <= room - 1
        assert (np.abs(truth["velocities"]).sum(1) == 1).all()
        assert len(set(truth["colours"])) >= min(n, 6)
        assert set(truth["kinds"]) == {"box"}
    assert numbers == set(range(count[0], count[1] + 1))


def test_an_explicit_size_resizes_and_none_keeps():
    assert arenas.make("terrella/Blocks-v0", view=128).observation_space.shape == (128, 128, 3)
    small = arenas.make("terrella/Blocks-v0", view=128, size=32)
    assert small.observation_space.shape == (32, 32, 3)
    assert arenas.describe(small).action.motion is not None  # steps are metres, whatever the pixels
    assert arenas.make(arenas.describe(small).env).observation_space.shape == (32, 32, 3)


def test_gymnasium_checks():
    check_env(gym.make(SMALL, render_mode="rgb_array").unwrapped, skip_render_check=False)


@pytest.mark.parametrize("kwargs", [{"room": 2}, {"view": 0}, {"count": (4, 3)}, {"room": 8.5}, {"count": 5}])
def test_impossible_worlds_are_refused(kwargs):
    with pytest.raises(ArenaError):
        arenas.make("terrella/Blocks-v0", **kwargs)


def test_wrong_actions_are_refused():
    env = arenas.make(SMALL)
    env.reset(seed=0)
    for action in (4, -1, 1.5):
        with pytest.raises(ArenaError):
            core(env).step(action)


def test_without_miniworld_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"terrella\[arenas\]"):
        arenas.make(SMALL)


def test_walls_turn_blocks_round_in_the_same_tick():
    env = arenas.make("terrella/Blocks-v0")
    env.reset(seed=0)
    world = alone(env, (5, 13), (0, 1))
    columns = []
    for _ in range(4):
        env.step(NOOP)
        columns.append(world.truth["positions"][0].tolist())
    assert columns == [[5, 14], [5, 15], [5, 14], [5, 13]]
    alone(env, (2, 7), (-1, 0))
    rows = [(env.step(NOOP), world.truth["positions"][0, 0])[1] for _ in range(3)]
    assert rows == [1, 2, 3]


@pytest.mark.parametrize("room", [16, 8, 5])
def test_all_repeats_after_the_period(room):
    env = arenas.make("terrella/Blocks-v0", room=room, view=32)
    period = 2 * (room - 2)
    frames, truths = [env.reset(seed=3)[0]], [core(env).truth]
    for _ in range(2 * period):
        frames.append(env.step(NOOP)[0])
        truths.append(core(env).truth)
    places = [truth["positions"] for truth in truths]
    assert np.min(places) == 1
    assert np.max(places) == room - 1
    for t in range(period):
        np.testing.assert_array_equal(places[t], places[t + period])
        np.testing.assert_array_equal(frames[t], frames[t + period])
        assert t == 0 or not (places[t] == places[0]).all()
        if t:  # a block may begin at a wall with its back to it, and arrives there facing it
            np.testing.assert_array_equal(truths[t]["velocities"], truths[t + period]["velocities"])


def test_a_frame_shows_the_blocks_after_their_move():
    """A block that crosses the line of sight is in the middle in the frame of the step that brings it there."""
    env = arenas.make("terrella/Blocks-v0")
    env.reset(seed=0)
    alone(env, (7, 12), (1, 0))
    world = put(env, (8, 8), 0)
    frame, *_ = env.step(NOOP)

    def red(picture: np.ndarray) -> bool:
        r, g, b = picture[40, 32].astype(int)
        return r > 100 and g < 60 and b < 60

    assert world.truth["positions"].tolist() == [[8, 12]]
    assert red(frame)
    assert not red(env.step(NOOP)[0])


def test_a_frame_shows_the_viewer_after_its_move():
    env = arenas.make("terrella/Blocks-v0", static=True)
    env.reset(seed=0)
    alone(env, (8, 14))
    put(env, (8, 4), 1)
    side, *_ = env.step(TURN_RIGHT)
    np.testing.assert_array_equal(side, draw_of(core(env)))
    sizes = []
    for _ in range(5):
        frame, *_ = env.step(FORWARD)
        sizes.append(int(((frame[..., 0] > 100) & (frame[..., 1] < 60)).sum()))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def draw_of(world: Blocks) -> np.ndarray:
    """The picture of a plain world's truth, drawn without the environment."""
    truth = world.truth
    things = tuple(
        Thing(kind, colour, *place)
        for kind, colour, place in zip(truth["kinds"], truth["colours"], truth["positions"].tolist())
    )
    return draw(Scene(world.room, "white", "concrete", things, *truth["agent"].tolist(), truth["heading"]), world.view)


def test_frames_are_pictures_of_the_truth():
    env = arenas.make(SMALL, render_mode="rgb_array")
    env.reset(seed=5)
    for action in np.random.default_rng(0).integers(4, size=40):
        frame, *_ = env.step(int(action))
        np.testing.assert_array_equal(frame, draw_of(core(env)))
    np.testing.assert_array_equal(env.render(), frame)


def test_motion_is_what_really_happened():
    """Following `info["motion"]` from the start leads to where the viewer is, walls or none."""
    env = arenas.make(SMALL)
    _, info = env.reset(seed=1)
    assert info["motion"] == (0, 0, 0)
    place, heading, stopped = core(env).truth["agent"], 0, 0
    for action in np.random.default_rng(1).choice(4, size=200, p=[0.15, 0.15, 0.6, 0.1]):
        _, _, _, _, info = env.step(int(action))
        down, right, left = info["motion"]
        ahead = np.array(STEPS[heading])
        place = place - down * ahead + right * np.array(STEPS[(heading - 1) % 4])
        heading = (heading + left) % 4
        stopped += action == FORWARD and info["motion"] == (0, 0, 0)
        assert core(env).truth["heading"] == heading
        np.testing.assert_array_equal(core(env).truth["agent"], place)
    assert stopped > 5


@pytest.mark.parametrize(("agent", "heading"), [((4, 7), 0), ((1, 4), 1), ((4, 1), 2), ((7, 4), 3)])
def test_a_wall_stops_the_viewer_exactly(agent, heading):
    env = arenas.make(SMALL, static=True)
    env.reset(seed=0)
    world = put(env, agent, heading)
    before = world._look()
    frame, _, _, _, info = env.step(FORWARD)
    assert world.truth["agent"].tolist() == list(agent)
    assert info["motion"] == (0, 0, 0)
    np.testing.assert_array_equal(frame, before)
    env.step(TURN_LEFT)
    env.step(TURN_LEFT)
    assert env.step(FORWARD)[4]["motion"] == (-1, 0, 0)
    assert np.abs(world.truth["agent"] - agent).sum() == 1


@pytest.mark.parametrize("turn", [TURN_LEFT, TURN_RIGHT])
def test_four_turns_in_a_static_world_give_the_same_frame(turn):
    env = arenas.make("terrella/Blocks-v0", static=True)
    first, _ = env.reset(seed=2)
    frames = [env.step(turn)[0] for _ in range(4)]
    np.testing.assert_array_equal(frames[3], first)
    assert not any((frame == first).all() for frame in frames[:3])
    assert (core(env).truth["velocities"] == 0).all()


def test_variants_keep_the_places_of_the_plain_world():
    truths = []
    for kwargs in ({}, {"static": True}, {"textured": True}):
        env = arenas.make("terrella/Blocks-v0", **kwargs)
        env.reset(seed=9)
        truths.append(core(env).truth)
    for other in truths[1:]:
        np.testing.assert_array_equal(other["positions"], truths[0]["positions"])
        np.testing.assert_array_equal(other["agent"], truths[0]["agent"])
        assert other["colours"] == truths[0]["colours"]


def test_textured_worlds_differ_in_surfaces_and_kinds():
    env = arenas.make("terrella/Blocks-v0", textured=True, view=16)
    kinds, surfaces = [], set()
    for seed in range(60):
        env.reset(seed=seed)
        kinds += core(env).truth["kinds"]
        surfaces.add(tuple(core(env)._surfaces))
    assert 0.25 < np.mean([k == "ball" for k in kinds]) < 0.42
    assert len(surfaces) == 9


def test_visible_is_the_wedge_and_agrees_with_the_picture():
    """A block in the wedge changes the picture; one that is outside with all its width does not."""
    env = arenas.make("terrella/Blocks-v0", static=True, view=32)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        place, agent = (tuple(int(x) for x in rng.integers(1, 16, size=2)) for _ in range(2))
        alone(env, place)
        world = put(env, agent, int(rng.integers(4)))
        with_block = world._look()
        visible = bool(world.visible()[0])
        world._positions = np.zeros((0, 2), np.int64)
        changed = bool((world._look() != with_block).any())
        way = np.subtract(place, agent)
        ahead = np.array(STEPS[world._heading])
        forward, across = int(way @ ahead), abs(int(way @ ahead[::-1]))
        angle = math.degrees(math.atan2(across, forward))
        assert visible == (forward > 0 and angle <= 30)
        if visible:
            assert changed
        if math.degrees(math.atan2(across - BOX[0] / 2, forward + BOX[0] / 2)) > 30:
            assert not changed
        seen += visible
    assert seen > 5


@pytest.mark.parametrize("kwargs", [{}, {"textured": True}, {"static": True}])
def test_a_restored_room_goes_on_bit_for_bit(kwargs):
    env = arenas.make(SMALL, **kwargs)
    fork = arenas.forkable(env)
    assert fork is not None
    assert fork.exact
    env.reset(seed=10)
    actions = np.random.default_rng(2).integers(4, size=25).tolist()
    for action in actions:
        env.step(action)
    state = fork.save()
    other = arenas.make(arenas.describe(env).env)  # never reset
    assert (core(other)._look() != core(env)._look()).any()
    twin = arenas.forkable(other)
    assert twin is not None
    np.testing.assert_array_equal(fork.restore(state), twin.restore(state))
    np.testing.assert_array_equal(core(other)._look(), fork.last_observation())
    for action in actions:
        mine, theirs = env.step(action), other.step(action)
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[1:] == theirs[1:]
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])  # the random stream goes on as well
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    fork.restore(state)
    fork.reseed(1)
    twin.restore(state)
    twin.reseed(2)
    np.testing.assert_array_equal(env.step(NOOP)[0], other.step(NOOP)[0])  # nothing is left to chance before the end
    assert (env.reset()[0] != other.reset()[0]).any()


def test_a_state_of_another_room_is_refused():
    def fork_of(**kwargs: Any) -> arenas.Forkable:
        env = arenas.make(lambda: Blocks(view=16, **kwargs))
        env.reset(seed=0)
        fork = arenas.forkable(env)
        assert fork is not None
        return fork

    state = fork_of(room=8).save()
    with pytest.raises(ArenaError, match="room"):
        fork_of(room=10).restore(state)


def fingerprint() -> str:
    """What two short episodes look like."""
    digest = hashlib.sha256()
    for kwargs in ({}, {"textured": True}):
        env = arenas.make(SMALL, **kwargs)
        digest.update(env.reset(seed=11)[0].tobytes())
        for action in np.random.default_rng(0).integers(4, size=20).tolist():
            digest.update(env.step(action)[0].tobytes())
    return digest.hexdigest()


def test_frames_are_equal_in_another_process_and_thread():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_blocks; print(test_blocks.fingerprint())"
    done = subprocess.run([sys.executable, "-c", program, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.stdout.strip() == fingerprint(), done.stderr
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(lambda _: fingerprint(), range(3))) == {fingerprint()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_says_why_it_cannot_draw():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            draw(Scene(4, "white", "concrete", (), 2, 2, 0), 8)
            os.write(writer, b"drew")
        except ArenaError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"spawn" in os.read(reader, 1000)


def test_the_room_looks_as_miniworld_draws_it():
    from miniworld.entity import Ball, Box
    from miniworld.miniworld import MiniWorldEnv

    class Reference(MiniWorldEnv):
        def __init__(self, scene: Scene, side: int) -> None:
            self.scene = scene
            super().__init__(obs_width=side, obs_height=side, window_width=8, window_height=8)

        def _gen_world(self) -> None:
            s = self.scene
            self.add_rect_room(0, s.room, 0, s.room, wall_tex=s.wall, floor_tex=s.floor, ceil_tex=CEILING)
            self.place_entity(self.agent, pos=np.array([s.column, 0.0, s.row]), dir=s.heading * math.pi / 2)
            for thing in s.things:
                box = Box(thing.colour, np.array([BOX[0], BOX[1], BOX[0]]))
                entity = Ball(thing.colour, BALL) if thing.kind == "ball" else box
                self.place_entity(entity, pos=np.array([thing.column, 0.0, thing.row]), dir=0.0)

    rng = np.random.default_rng(0)
    for heading in range(4):
        things = tuple(
            Thing(kind, c, *rng.integers(1, 12, size=2).tolist()) for kind in ("box", "ball") for c in COLOURS
        )
        scene = Scene(12, "brick_wall", "concrete", things, *rng.integers(1, 12, size=2).tolist(), heading)
        ours = draw(scene, 64)
        theirs = Reference(scene, 64).reset()[0]
        # They smooth edges with more samples where the driver has more.
        assert np.abs(ours.astype(int) - theirs).mean() < 1
        np.testing.assert_array_equal(draw(scene, 64), ours)  # their lists and textures do not disturb ours


def walked(env: gym.Env, policy: WallWalk, steps: int, seed: int = 0) -> tuple[list[int], list[np.ndarray]]:
    """Actions and places of a walk; fails at the first step into a wall."""
    env.reset(seed=seed)
    policy.prepare(arenas.describe(env), env)
    policy.begin(env.action_space, np.random.default_rng(seed))
    actions, places = [], []
    for _ in range(steps):
        action = policy.act(None)
        assert not (action == FORWARD and core(env).blocked())
        actions.append(action)
        moved = core(env).step(action)[4]["motion"]
        assert action != FORWARD or moved == (-1, 0, 0)
        places.append(core(env).truth["agent"])
    return actions, places


@pytest.mark.parametrize("room", [3, 5, 8, 16])
def test_the_walk_never_bumps_and_gets_everywhere(room):
    env = arenas.make("terrella/Blocks-v0", room=room, view=1, count=(0, 0))
    actions, places = walked(env, WallWalk(), 3000)
    lines = np.stack(places)
    for axis in (0, 1):
        assert {1, room - 1} <= set(lines[:, axis].tolist())
    assert len({tuple(p) for p in lines.tolist()}) > 0.5 * (room - 1) ** 2
    at_wall = ((lines == 1) | (lines == room - 1)).any(1).mean()
    assert at_wall > 0.3
    runs = "".join("LRF."[a] for a in actions)
    assert "." * 7 in runs  # the rest, facing the room
    assert "." * 10 not in runs
    assert set(actions) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_walk_that_never_fails_goes_round_along_the_walls(seed):
    env = arenas.make(SMALL, view=1, count=(0, 0))
    actions, places = walked(env, WallWalk(1 - 1e-9), 120, seed)
    letters = "".join("LRF."[a] for a in actions)
    start = re.search(r"\.{7}[LR]\.", letters)
    assert start is not None
    assert set(letters[start.end() :].replace("F", " ").split()) in ({"L"}, {"R"})  # one turn a corner, always the same
    crawl = np.stack(places[start.end() :])
    assert ((crawl == 1) | (crawl == 7)).any(1).all()
    assert {(1, 1), (1, 7), (7, 1), (7, 7)} <= {tuple(p) for p in crawl.tolist()}


def test_the_walk_rests_facing_the_room():
    env = arenas.make("terrella/Blocks-v0", view=1, count=(0, 0))
    actions, places = walked(env, WallWalk(), 1000, seed=4)
    env.reset(seed=4)
    headings = []
    for action in actions:
        core(env).step(action)
        headings.append(core(env).truth["heading"])
    rests = [m.end() - 1 for m in re.finditer(r"\.{7}", "".join("LRF."[a] for a in actions))]
    assert len(rests) > 5
    for t in rests:
        nearness = np.array(STEPS) @ (8 - places[t])
        assert nearness[headings[t]] == nearness.max()
        assert (np.abs(places[t] - 8) == 7).any()


@pytest.mark.parametrize(("kwargs", "forward"), [({}, 0.92), ({"static": True}, 0.9), ({"textured": True}, 0.9)])
def test_the_walk_has_the_published_probabilities(kwargs, forward):
    env = arenas.make("terrella/Blocks-v0", **kwargs)
    policy = WallWalk()
    policy.prepare(arenas.describe(env), env)
    assert policy._forward == forward


def test_the_walk_needs_a_block_world():
    with pytest.raises(ActionError, match="block world"):
        record("CartPole-v1", "unused", episodes=1, policy="wall-walk")
    with pytest.raises(ActionError, match="probability"):
        WallWalk(1.0)


def test_recorded_rooms(tmp_path):
    data = record(SMALL, tmp_path / "one", episodes=2, policy="wall-walk", max_episode_steps=30, state_every=10)
    twice = record(SMALL, tmp_path / "two", episodes=2, policy=WallWalk(), max_episode_steps=30, num_envs=2)
    assert data.spec.streams["pixels"].shape == (32, 32, 3)
    env = arenas.make(data.spec.env)
    for episode, other in zip(data, twice):
        np.testing.assert_array_equal(episode.observations["pixels"], other.observations["pixels"])
        np.testing.assert_array_equal(episode.actions, other.actions)
        frame, _ = env.reset(seed=episode.seed)
        np.testing.assert_array_equal(frame, episode.observations["pixels"][0])
        for t, row in enumerate(episode.actions):
            frame, _, _, _, info = env.step(int(row[0]))
            np.testing.assert_array_equal(frame, episode.observations["pixels"][t + 1])
            assert info["motion"] == data.spec.action.motion.tables[0][int(row[0])]  # the walk is never stopped


def test_recorded_rooms_side_by_side(tmp_path):
    envs = gym.vector.SyncVectorEnv([lambda: arenas.make(SMALL)] * 2)
    data = record(envs, tmp_path / "vector", episodes=2, policy="wall-walk", max_episode_steps=20)
    assert len(data) == 2
    assert data.spec.action.motion is not None


def test_a_view_of_what_is_not():
    """With the positions they have, `view_with` is what is seen; a block put behind the viewer is gone from it."""
    env = arenas.make(SMALL, static=True)
    env.reset(seed=0)
    world = put(env, (4, 4), 0)
    alone(env, (4, 6))
    seen = world.view_with(world.truth["positions"])
    np.testing.assert_array_equal(world._look(), seen)
    behind = world.view_with(np.array([[4, 2]]))
    assert (seen != behind).any()
    np.testing.assert_array_equal(behind, world.view_with(np.array([[2, 2]])))
