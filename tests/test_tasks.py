"""Tasks with truth: predicates on real environments, starts, floors, the command line, the benchmark, the peer."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from terrella import Engine, cli
from terrella.actions import decode
from terrella.arenas import describe, forkable, make, to_streams
from terrella.data import record
from terrella.errors import ConfigError, UnknownName
from terrella.planning import TASKS, Blind, Moment, Return, Task, attempt, begin, controller, find_task, play
from terrella.planning.base import imagine
from terrella.planning.trial import Episode, gap
from terrella.spec import EnvSpec
from terrella.trials import figures

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PACKAGES = {"MiniGrid": "minigrid", "procgen": "procgen", "Reacher": "mujoco", "Inverted": "mujoco"}
PACKAGES |= {"terrella/Sprites": "sklearn", "terrella/Blocks": "miniworld"}


def made(name: str):
    task = TASKS[name]
    package = next((p for start, p in PACKAGES.items() if task.env.id.startswith(start)), None)
    if (
        package is not None and importlib.util.find_spec(package) is None
    ):  # importing miniworld would look for a display
        pytest.skip(f"{name} needs {package} (extra 'arenas')")
    return task, task.make()


@pytest.mark.parametrize("name", TASKS)
def test_starts_are_not_at_the_goal_and_are_the_same_again(name):
    task, env = made(name)
    start, other = begin(task, env, 3), begin(task, env, 4)
    assert (start.saved, start.seed) == (begin(task, env, 3).saved, begin(task, env, 3).seed)
    assert start.saved != other.saved or task.env.id.startswith("MiniGrid-Empty")
    fork = forkable(env)
    assert fork is not None
    seen = to_streams(env, fork.restore(start.saved))
    held = task.at_goal(Moment(env, seen, goal=start.goal))  # type: ignore[arg-type]
    assert held == (task.rule == "always")
    assert (start.goal is not None) == (task.place is not None)


@pytest.mark.parametrize("name", TASKS)
def test_doing_nothing_is_no_success(name):
    task, env = made(name)
    short = replace(task, limit=min(task.limit, 30))
    starts = [begin(task, env, 0)]
    (episode,) = play(short, describe(env), [env], starts, Blind(describe(env), env.action_space, 1, False))
    assert not task.won(episode.held)
    assert len(episode.rewards) == len(episode.held) == len(episode.promised) <= short.limit


def stepped(env, actions):
    for action in actions:
        observation, reward, ended, _, _ = env.step(action)
    return to_streams(env, observation), reward, ended


def test_upright_is_seen_in_the_pendulum():
    task, env = made("pendulum")
    env.reset(seed=0)
    for angle, held in ((0.0, True), (0.4, True), (0.7, False), (np.pi, False)):
        env.unwrapped.state = np.array([angle, 0.0])
        seen = {"vector": env.unwrapped._get_obs().astype(np.float32)}
        assert task.at_goal(Moment(env, seen)) == held


def test_a_goal_in_a_grid_is_reached_by_the_walker_that_knows_the_way():
    for name in ("empty", "rooms", "doorkey"):
        task, env = made(name)
        policy = importlib.import_module("terrella.data.moods").Seek()
        policy.prepare(describe(env), env)
        won = []
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            policy.begin(env.action_space, np.random.default_rng(seed))
            policy._distraction = 0.0
            held, ended = False, False
            for _ in range(40):
                observation, reward, ended, _, _ = env.step(policy.act(observation))
                held = task.at_goal(Moment(env, to_streams(env, observation), float(reward), ended))  # type: ignore[arg-type]
                if ended:
                    break
            won.append(held and ended)
        assert won == [True] * 3, name


def test_a_view_is_reached_by_the_actions_that_made_it():
    task, env = made("sprites")
    start = begin(task, env, 0)
    assert start.goal is not None
    fork = forkable(env)
    assert fork is not None
    fork.restore(start.saved)
    core = env.unwrapped
    held = False
    for _ in range(3):
        way = (start.goal.place - core.truth["camera"] + core.world // 2) % core.world - core.world // 2  # type: ignore[attr-defined]
        observation = env.step(np.clip(way, -4, 4) + 4)[0]
        held = held or task.at_goal(Moment(env, to_streams(env, observation), goal=start.goal))  # type: ignore[arg-type]
    assert held
    assert np.array_equal(to_streams(env, observation)["pixels"], start.goal.frames["pixels"])


def test_a_rehearsed_start_is_near_the_goal():
    task, env = made("coinrun")
    start = begin(task, env, 1)
    policy = importlib.import_module("terrella.data").make_policy(task.policy)
    policy.prepare(describe(env), env)
    env.reset(seed=start.seed)
    policy.begin(env.action_space, np.random.default_rng([start.seed, 1]))
    fork = forkable(env)
    assert fork is not None
    since = None
    for step in range(task.episode):
        since = step if fork.save() == start.saved else since
        _, reward, ended, truncated, _ = env.step(policy.act(None))
        if ended or truncated:
            break
    assert reward > 0
    assert since is not None
    assert step - since < task.lead


def test_rules_say_what_a_success_is():
    base = dict(env=EnvSpec("CartPole-v1"), about="", at_goal=lambda moment: True)
    once, last, always = Task(**base), Task(**base, rule="last", hold=2), Task(**base, rule="always")
    for held, expected in (
        ([False, True, False], (True, False, False)),
        ([False, True, True], (True, True, False)),
        ([True, True, True], (True, True, True)),
        ([True], (True, False, True)),
    ):
        assert (once.won(held), last.won(held), always.won(held)) == expected
    with pytest.raises(ConfigError, match="execute"):
        Task(**base, horizon=2, execute=3)
    with pytest.raises(UnknownName, match="cartpole"):
        find_task("cartpol")


def test_planning_in_the_true_environment_beats_what_needs_no_plan():
    task, env = made("cartpole")
    short = replace(task, limit=25)
    envs = [task.make() for _ in range(4)]
    starts = [begin(task, e, b) for b, e in enumerate(envs)]
    idle = play(short, describe(env), envs, starts, Blind(describe(env), env.action_space, 4, True))
    planned = attempt(short, envs, starts, "icem", 16)
    assert sum(short.won(e.held) for e in planned) == 4 > sum(short.won(e.held) for e in idle)
    again = attempt(short, envs, starts, "icem", 16)
    assert [e.rewards for e in again] == [e.rewards for e in planned]
    assert figures(short, planned)["success"] == 1.0


def test_a_plan_carried_out_brings_what_a_perfect_model_promised():
    task = replace(TASKS["cartpole"], limit=16, execute=8)
    env = task.make()
    (episode,) = attempt(task, [env], [begin(task, env, 0)], "icem", 16)
    assert np.isfinite(episode.promised).tolist() == [step % 8 == 0 for step in range(len(episode.rewards))]
    promised, realised = gap(task, [episode])
    assert promised == pytest.approx(realised)


def test_the_gap_counts_what_was_played():
    task = Task(EnvSpec("CartPole-v1"), "", lambda moment: True, horizon=2, discount=0.5)
    episode = Episode(rewards=[1.0, 2.0, 4.0], promised=[3.0, 5.0, 9.0], ended=False)
    assert gap(task, [episode]) == (4.0, pytest.approx((2.0 + 4.0) / 2))
    episode.ended = True
    assert gap(task, [episode]) == (pytest.approx(17 / 3), pytest.approx((2.0 + 4.0 + 4.0) / 3))


def test_controllers_keep_within_the_rollouts(cartpole_world):
    task = replace(TASKS["cartpole"], env=EnvSpec("CartPole-v1"))
    engine = Engine(cartpole_world, steps=1)
    env = task.make()
    for planner in ("random", "icem", "mppi", "beam", "mcts"):
        actor = controller(task, engine, planner, 8, [begin(task, env, 0)])
        actor.begin({"vector": np.zeros((1, 4), np.float32)}, [0])
        actor.act()
        assert actor.plan is not None
        assert 0 < actor.plan.trace.steps[-1] <= 8 * task.horizon
    actor = controller(task, engine, "beam", 1, [begin(task, env, 0)])
    actor.begin({"vector": np.zeros((1, 4), np.float32)}, [0])
    with pytest.raises(ConfigError, match="least plan"):
        actor.act()


@pytest.mark.parametrize("name", ["Reacher-v5", "InvertedPendulum-v5", "Pusher-v5", "HalfCheetah-v5", "Ant-v5"])
def test_mujoco_is_saved_and_restored_exactly(name):
    pytest.importorskip("mujoco")
    env, other = make(name), make(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(30)]
    for action in actions[:10]:
        env.step(action)
    fork, there = forkable(env), forkable(other)
    assert fork is not None
    assert there is not None
    state, futures = fork.save(), []
    for play_in, one in ((env, fork), (other, there), (env, fork)):
        seen = [one.restore(state)]
        rewards = []
        for action in actions[10:]:
            observation, reward, *_ = play_in.step(action)
            seen.append(observation)
            rewards.append(float(reward))
        futures.append((np.array(seen), rewards))
    for seen, rewards in futures[1:]:
        assert np.array_equal(seen, futures[0][0])
        assert rewards == futures[0][1]


def test_the_command_line_carries_out_a_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TASKS, "cartpole", replace(TASKS["cartpole"], limit=6, steps=200, preset="debug"))
    lines = [line.split()[1:] for line in TASKS["cartpole"].commands("5steps")]
    for line in lines:  # the commands that its help and its errors tell
        assert cli.main(line) == 0
    command = ["plan", "runs/cartpole-v1", "--task", "cartpole", "--budget", "4", "--episodes", "2"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    for row in ("do-nothing", "random-actions", "greedy", "world", "simulator", "regret"):
        assert row in said
    result = json.loads(Path("runs/cartpole-v1/plan-cartpole/plan.json").read_text())
    assert set(result["rows"]) == {"do-nothing", "random-actions", "greedy", "world", "simulator"}
    assert result["regret"]["return"] == result["rows"]["simulator"]["return"] - result["rows"]["world"]["return"]
    with Image.open("runs/cartpole-v1/plan-cartpole/plan.gif") as film:
        assert film.n_frames == result["rows"]["world"]["lengths"][0] + 1  # type: ignore[attr-defined]
        film.seek(1)
        shot = np.asarray(film.convert("RGB"))
    assert shot[20:].std() > 1


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("planning", "planning_peer")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        sys.modules.pop(name, None)


def test_the_benchmark_goes_on_where_it_was_stopped(benchmark, tmp_path, monkeypatch, capsys):
    planning = benchmark.planning
    args = ["--tasks", "cartpole", "--planners", "icem", "beam", "--budgets", "1", "2", "--episodes", "2"]
    args += ["--seeds", "0", "--limit", "4", "--train", "3steps", "--record", "120"]
    args += ["--preset", "debug", "--out", str(tmp_path)]

    def rows(*more: str):
        planning.main([*args, *more])
        return json.loads(capsys.readouterr().out)["rows"]

    whole, run = planning.Bench.run, []

    def some(self, row):
        run.append(row)
        if len(run) == 3:
            raise KeyboardInterrupt
        return whole(self, row)

    monkeypatch.setattr(planning.Bench, "run", some)
    with pytest.raises(KeyboardInterrupt):
        planning.main(args)
    assert len(rows("--gather")) == 2
    assert len(rows("--minutes", "0")) == 2
    done = rows()
    assert len(done) == 2 + 2 + 2 * 2 * 2
    assert len(run) == 3 + len(done) - 2  # nothing was computed twice
    assert rows("--plot", str(tmp_path / "plot.png")) == done
    assert len(run) == 3 + len(done) - 2
    with Image.open(tmp_path / "plot.png") as drawn:
        assert drawn.size[0] > 300
    assert rows("--gather", "--rollouts", "3") == []  # rows of other settings are no rows of these


def test_the_adapter_costs_what_the_engine_does(benchmark, pendulum_world):
    engine, objective = Engine(pendulum_world, steps=1), Return(0.9)
    seen = {name: frames[:3] for name, frames in pendulum_world.starts.observations.items()}
    state = engine.start(seen, pendulum_world.starts.actions[:3], seeds=4)
    costs = benchmark.planning_peer.Costs(engine, objective)
    costs.state = state
    candidates = torch.randn(2, 5, 4, 1, generator=torch.Generator().manual_seed(0))
    session = torch.tensor([[2], [0]])[:, None].expand(2, 5, 1)
    given = costs.get_cost({"session": session}, candidates)
    rows = costs.rows(candidates)
    assert np.abs(rows).max() <= 2.0
    expected = imagine(engine, state.select([2, 0]), rows, objective, 256)
    assert np.allclose(given.numpy(), expected, atol=1e-5)
    assert decode(engine.spec.action, rows[0, 0, 0]).shape == (1,)


def test_the_peers_solver_plans_in_our_world(benchmark, pendulum_world):
    if importlib.util.find_spec("stable_worldmodel") is None:
        pytest.skip("stable-worldmodel is not installed")
    engine = Engine(pendulum_world, steps=1)
    seen = {name: frames[:3] for name, frames in pendulum_world.starts.observations.items()}
    state = engine.start(seen, pendulum_world.starts.actions[:3], seeds=4)
    sizes = {"candidates": 8, "iterations": 2, "elites": 3, "spread": 0.5, "kept": 1}
    for way in benchmark.planning_peer.WAYS:
        costs = benchmark.planning_peer.Costs(engine, Return())
        peer = benchmark.planning_peer.Peer(way, costs, 4, sizes, 2, 0)
        peer.restart(state)
        assert peer.act().shape == (3, 1)
        peer.see({name: frames[:, -1] for name, frames in seen.items()})
        assert peer.act().shape == (3, 1)


def test_moods_differ_and_are_recorded_again_alike(tmp_path):
    one = record("CartPole-v1", tmp_path / "a", episodes=6, policy="moody", seed=1)
    two = record("CartPole-v1", tmp_path / "b", episodes=6, policy="moody", seed=1)
    assert one.fingerprint == two.fingerprint
