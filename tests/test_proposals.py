"""Mazes to walk in, read off their pictures, and the plans that come of it in a search."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.arenas import describe, forkable, make, to_streams
from terrella.data.moods import Seek
from terrella.errors import ActionError, ArenaError, ConfigError, PuzzleError, SpecError
from terrella.planning import (
    TASKS,
    Controller,
    Follower,
    MazeReader,
    Reasoned,
    Return,
    Simulator,
    begin,
    make_planner,
    play,
)
from terrella.planning.equilibrium import Reasoner, ReasonerConfig
from terrella.planning.maze_reader import read_tokens, walk
from terrella.planning.reasoned import last_seen
from terrella.puzzles import mazes
from terrella.puzzles.mazes import GOAL, START, WALL, distances, faults
from terrella.training import world_config
from terrella.world import World


def maze(seed: int = 0, **kwargs):
    env = make("terrella/Maze-v0", **kwargs)
    env.reset(seed=seed)
    return env


def core_of(env) -> Any:
    return env.unwrapped


def reasoner(**changes) -> Reasoner:
    torch.manual_seed(0)
    return Reasoner(ReasonerConfig(**{"symbols": 4, "classes": 2, "dim": 8, "hidden": 16, **changes})).eval()


def by_search(side: int = 7):
    """A proposer that knows: what is read off the pictures is searched breadth-first. Later plans are worse."""

    def proposer(frames, count, horizon, seed=0):
        del seed
        tokens = read_tokens(frames["pixels"], side)
        flat = tokens.reshape(len(tokens), -1)
        away, back = (distances(tokens != WALL, (flat == t).argmax(1)) for t in (START, GOAL))
        steps = np.take_along_axis(away.reshape(flat.shape), (flat == GOAL).argmax(1)[:, None], 1)
        rows = walk(tokens, ((away + back) == steps[..., None]) & (tokens != WALL), horizon)
        return np.stack([rows] + [np.zeros_like(rows)] * (count - 1), 1)

    return proposer


# --- the environment


def test_walls_stop_and_the_goal_pays_and_ends():
    env = maze(1)
    core, fork = core_of(env), forkable(env)
    assert fork is not None
    saved = fork.save()
    for action, move in enumerate([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]):
        before = core.position.copy()
        env.step(action)
        assert (core.position - before == np.multiply(move, core.is_open(before + move))).all()
        fork.restore(saved)
    grid, total, ended, steps = core.tokens(), 0.0, False, 0
    longest = distances((grid != WALL)[None], np.flatnonzero(grid == START))[0][tuple(core.goal)]
    while not ended and steps < 40:
        assert total == 0
        _, reward, ended, _, _ = env.step(core.way())
        total, steps = total + float(reward), steps + 1
    assert (ended, total, steps) == (True, 1.0, longest)
    assert core.way() == 0


def test_mazes_follow_from_seeds_and_splits_share_none():
    def grids(**kwargs):
        return [core_of(maze(seed, side=5, **kwargs)).tokens().tobytes() for seed in range(6)]

    assert grids() == grids()
    assert len(set(grids())) > 3
    assert not set(grids()) & set(grids(split="test"))
    spec = describe(maze())
    assert (spec.noop, spec.keys["ArrowDown"], spec.action_names[3]) == ((0.0,), (3.0,), "down")


def test_mistakes_in_a_maze_are_explained():
    with pytest.raises(ArenaError, match="at least 63"):
        make("terrella/Maze-v0", side=21, view=60)
    with pytest.raises(PuzzleError, match="odd side"):
        make("terrella/Maze-v0", side=6)
    env = maze()
    with pytest.raises(ArenaError, match="0 to 4"):
        core_of(env).step(5)
    fork, core = forkable(env), core_of(env)
    assert fork is not None
    wall, before = np.argwhere(~core.free)[0], fork.save()
    with pytest.raises(ArenaError, match="a wall"):
        fork.intervene("position", wall)
    with pytest.raises(ArenaError, match="cannot be set"):
        fork.intervene("open", core.free)
    assert fork.save() == before
    other = forkable(maze(side=9))
    assert other is not None
    with pytest.raises(ArenaError):
        other.restore(before)


def test_the_walker_that_knows_the_way_reaches_the_goal():
    env, policy = maze(2), Seek()
    policy.prepare(describe(env), env)
    policy.begin(env.action_space, np.random.default_rng(0))
    policy._distraction = 0.0
    assert any(env.step(policy.act(None))[2] for _ in range(31))


# --- reading


@pytest.mark.parametrize(("side", "view"), [(5, 64), (7, 64), (11, 64), (21, 64), (7, 21), (9, 100)])
def test_tokens_are_read_back_from_pictures(side, view):
    envs = [maze(seed, side=side, view=view, size=0) for seed in range(4)]
    for _ in range(3):
        pictures = np.stack([core_of(env).picture() for env in envs])
        noisy = np.random.default_rng(0).normal(pictures, 25).clip(0, 255).astype(np.uint8)
        for seen in (pictures, noisy):
            np.testing.assert_array_equal(read_tokens(seen, side), [core_of(env).tokens() for env in envs])
        for env in envs:
            env.step(core_of(env).way())


def test_a_blurred_picture_still_has_one_agent_and_one_goal():
    tokens = read_tokens(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8), 7)
    assert ((tokens == START).sum((1, 2)) == 1).all()
    assert ((tokens == GOAL).sum((1, 2)) == 1).all()
    with pytest.raises(SpecError, match="at least 66 pixels"):
        read_tokens(np.zeros((1, 64, 64, 3), np.uint8), 22)


def test_a_solved_path_as_actions_reaches_the_goal_in_the_true_environment():
    won = []
    for seed in range(5):
        env = maze(seed, side=9)
        core = core_of(env)
        tokens, marks = core.tokens()[None], np.zeros((1, 9, 9), np.uint8)
        away, back = (distances(tokens != WALL, np.flatnonzero(tokens[0] == t)) for t in (START, GOAL))
        marks[(away + back == away[0][tuple(core.goal)]) & (tokens != WALL)] = 1
        assert faults(torch.from_numpy(tokens), torch.from_numpy(marks)[:, None]).item() == 0
        rows = walk(tokens, marks, 60)[0, :, 0]
        ends = [env.step(int(a))[2] for a in rows[: int(away[0][tuple(core.goal)])]]
        won.append(ends[-1] and not any(ends[:-1]))
        assert not rows[len(ends) :].any()
    assert won == [True] * 5


def test_a_walk_along_wrong_marks_stays_where_they_end():
    tokens = mazes(6, 7, seed=3).tokens
    assert not walk(tokens, np.zeros_like(tokens), 5).any()
    rows = walk(tokens, np.ones_like(tokens), 12)  # everything marked: it wanders, and never through a wall
    assert rows.shape == (6, 12, 1)
    env = maze(0)
    core = core_of(env)
    for action in walk(core.tokens()[None], np.ones((1, 7, 7)), 12)[0, :, 0]:
        before = core.position.copy()
        env.step(int(action))
        assert (core.position != before).any() == (action > 0)


# --- proposers


def test_a_reader_proposes_different_ways_first_and_the_same_again():
    frames = {"pixels": np.stack([core_of(maze(seed)).picture() for seed in range(3)])}
    reader = MazeReader(reasoner(), iters=3, starts=6)
    rows = reader(frames, 4, 9)
    assert rows.shape == (3, 4, 9, 1)
    assert rows.min() >= 0
    assert rows.max() <= 4
    np.testing.assert_array_equal(rows, reader(frames, 4, 9))
    one = {"pixels": frames["pixels"][1:2]}
    np.testing.assert_array_equal(reader(one, 4, 9)[0], rows[1])
    assert MazeReader(reasoner(), iters=1, starts=2)(frames, 5, 4).shape == (3, 5, 4, 1)
    with pytest.raises(ConfigError, match="10 symbols"):
        MazeReader(reasoner(symbols=10))
    with pytest.raises(SpecError, match="'pixels'"):
        reader({"vector": np.zeros((1, 3))}, 1, 4)


def test_the_last_frame_is_the_true_one_in_a_simulator_and_decoded_in_a_world():
    env = maze(4)
    model = Simulator(env)
    state = model.start()
    picture = to_streams(env, forkable(env).last_observation())["pixels"]  # type: ignore[union-attr]
    later, frame = model.rollout(state.fork(2), np.array([[[core_of(env).way()]], [[0.0]]]))
    np.testing.assert_array_equal(last_seen(model, state)["pixels"][0], picture)
    np.testing.assert_array_equal(last_seen(model, later)["pixels"], frame.observation["pixels"][:, 0])
    np.testing.assert_array_equal(core_of(env).picture(), picture)
    spec = describe(env)
    torch.manual_seed(0)
    world = World(spec, world_config("debug", spec)).eval().requires_grad_(False)
    engine = Engine(world, steps=1, recall=1)
    begun = engine.start({"pixels": np.asarray(picture)[None, None].repeat(2, 0)})
    after, dreamed = engine.rollout(begun.fork(1), np.ones((2, 3, 1)))
    np.testing.assert_array_equal(last_seen(engine, after)["pixels"], dreamed.observation["pixels"][:, -1])
    again = MazeReader(reasoner(), iters=2)
    planner = Reasoned(Reasoned.Config(horizon=3, proposals=2, settings={"candidates": 4, "iterations": 1}), again)
    found = planner.plan(engine, begun, Return())
    assert found.actions.shape == (2, 3, 1)
    with pytest.raises(ConfigError, match="recall=1"):
        planner.plan(Engine(world, steps=1), begun, Return())


def test_a_search_is_never_worse_than_what_was_proposed_and_keeps_its_budget():
    env = maze(5, lengths=(6, 10), side=5)
    model, goal = Simulator(env), Return(0.9)
    state, small = model.start(), {"candidates": 4, "iterations": 1}
    config = Reasoned.Config(horizon=12, proposals=2, settings=small)
    found = Reasoned(config, by_search(5)).plan(model, state, goal)
    assert found.cost[0] == found.trace.best[0, 0] < 0
    alone = make_planner("icem", horizon=12, **small).plan(model, state, goal)
    assert found.cost[0] <= alone.cost[0]
    assert Reasoned(config, by_search(5)).plan(model, state, goal, start=found).cost[0] == found.cost[0]
    nothing = Reasoned(config, lambda frames, count, horizon, seed=0: np.zeros((1, count, horizon, 1)))
    kept = nothing.plan(model, state, goal, start=found, budget_steps=60)
    assert kept.cost[0] == found.cost[0]
    assert kept.trace.steps[-1] == 60
    with pytest.raises(ConfigError, match="take 24"):
        nothing.plan(model, state, goal, budget_steps=24)
    with pytest.raises(ActionError, match=r"\(1, 2, 12, 1\)"):
        Reasoned(config, lambda frames, count, horizon, seed=0: np.zeros((1, count, 3, 1))).plan(model, state, goal)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="nobody proposes"):
        make_planner("reasoned")
    with pytest.raises(ConfigError, match="another one"):
        Reasoned.Config(inner="reasoned")
    with pytest.raises(ConfigError, match="1 to 4"):
        Follower(by_search(), 4, 5)


def test_a_planner_by_name_reads_its_reasoner_from_a_file(tmp_path):
    reasoner().save(tmp_path / "reasoner.safetensors")
    planner = make_planner("reasoned", reasoner=str(tmp_path / "reasoner.safetensors"), iters=2, horizon=4)
    env = maze(0)
    assert planner.plan(Simulator(env), Simulator(env).start(), Return()).actions.shape == (1, 4, 1)


# --- the task


def test_following_and_planning_do_the_task():
    task = TASKS["maze"]
    envs = [task.make() for _ in range(2)]
    starts = [begin(task, env, b) for b, env in enumerate(envs)]
    spec = describe(envs[0])
    followed = play(task, spec, envs, starts, Follower(by_search(), task.horizon, task.execute))
    assert all(task.won(e.held) for e in followed)
    config = Reasoned.Config(horizon=task.horizon, settings={"candidates": 2, "iterations": 1})
    actor = Controller(Simulator(envs[0]), Return(task.discount), Reasoned(config, by_search()), execute=task.execute)
    (planned,) = play(task, spec, envs[:1], starts[:1], actor)
    assert task.won(planned.held)
    assert len(planned.rewards) == len(followed[0].rewards)


def test_the_benchmark_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    bench = importlib.import_module("proposal")
    monkeypatch.delitem(sys.modules, "proposal")
    reasoner().save(tmp_path / "thinks-0" / "reasoner.safetensors")
    few = {"sides": 5, "seeds": 0, "episodes": 2, "record": 120, "train": "1steps", "preset": "debug", "device": "cpu"}
    few |= {"rollouts": 3, "proposals": 1, "starts": 2, "iters": 2, "execute": 11}
    how = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    how += ["--reasoner", str(tmp_path / "thinks-{seed}"), "--out", str(tmp_path / "out")]
    bench.main([*how, "--minutes", "0"])
    assert json.loads(capsys.readouterr().out)["rows"] == []
    bench.main([*how, "--actors", "walker", "random", "reasoned"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["who"] for row in rows] == ["walker", "random", "reasoned"]
    assert rows[0]["success"] == 1.0
    assert [row.get("model_steps") for row in rows] == [None, 66, 66]
    assert 0 <= rows[2]["right"] <= 1
    monkeypatch.setattr(bench.Bench, "run", None)  # nothing is left to do
    bench.main([*how, "--actors", "walker", "reasoned"])
    assert json.loads(capsys.readouterr().out)["rows"] == [rows[0], rows[2]]
    plans = bench.Sticky(5, 0)({"pixels": np.zeros((3, 1))}, 4, 200)
    kept = (plans[:, :, 1:] == plans[:, :, :-1]).mean()
    assert plans.shape == (3, 4, 200, 1)
    assert 0.75 < kept < 0.85  # a share of .75 is kept, and a fifth of what is drawn anew is the same
