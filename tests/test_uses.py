"""What a world is good for: the share of planning, the ranking of policies, the three questions of a page."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
import types
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from scipy import stats

from terrella import cli
from terrella.arenas import describe, make
from terrella.engine import Frame
from terrella.errors import ConfigError, EntrantError
from terrella.evaluation.agreement import SCORES, agreement, scores
from terrella.evaluation.measurements import Measurement
from terrella.evaluation.moments import Stage
from terrella.evaluation.next_world import next_world
from terrella.evaluation.references import Oracle
from terrella.evaluation.suite import SUITES, Ground, run_suite
from terrella.planning import TASKS, task_in
from terrella.spec import EnvSpec
from terrella.trials import PolicyRanking, policy_ranking
from terrella.trials.imagination import PAST, Imagination
from terrella.trials.planning_share import share
from terrella.trials.policies import Acting, Copier, graded

PENDULUM = EnvSpec("Pendulum-v1", frame_skip=4)
PLANNING = Measurement("planning", "planning", groups=3, branches=12)
RANKING = Measurement("ranking", "ranking", groups=3, branches=9, marks=(24,))
QUIET = {"progress": False, "references": False, "lead": 6, "context": 2}


class Pendulum:
    """The true pendulum, put into the state that the last frame shows: a perfect world that any entrant could be."""

    name = "the pendulum itself"

    def __init__(self, spec=None):
        self.env = make(PENDULUM).unwrapped

    def describe(self):
        return {"name": self.name}

    def start(self, observations, actions=None, seeds=()) -> Any:
        x, y, rate = np.moveaxis(observations["vector"][:, -1].astype(np.float64), -1, 0)
        return np.stack([np.arctan2(y, x), rate], -1)

    def rollout(self, state, actions):
        batch, steps = np.shape(actions)[:2]
        states, frames, reward = state.copy(), np.zeros((batch, steps, 3), np.float32), np.zeros((batch, steps), "f4")
        for b in range(batch):
            self.env.state = states[b]
            for t in range(steps):
                for _ in range(PENDULUM.frame_skip):
                    frames[b, t], paid, *_ = self.env.step(np.asarray(actions[b, t], np.float32))
                    reward[b, t] += paid
            states[b] = self.env.state
        return states, Frame({"vector": frames}, reward, np.zeros_like(reward))

    def close(self):
        self.env.close()


class Dice(Pendulum):
    """Frames and rewards that have nothing to do with anything."""

    def __init__(self, spec=None, seed=0):
        self.seed, self.name = seed, f"dice {seed}"

    def close(self):
        pass

    def start(self, observations, actions=None, seeds=()) -> Any:
        return np.random.default_rng([self.seed, *seeds])

    def rollout(self, state, actions):
        lead = np.shape(actions)[:2]
        frames = state.normal(size=(*lead, 3)).astype(np.float32)
        return state, Frame({"vector": frames}, state.normal(size=lead).astype("f4"), np.zeros(lead, np.float32))


class Poor(Dice):
    """A world in which nothing is ever paid."""

    def describe(self):
        return {"name": "poor"}

    def rollout(self, state, actions):
        state, frame = super().rollout(state, actions)
        return state, Frame(frame.observation, 0 * frame.reward, frame.terminated)


class Broken(Dice):
    """A world whose rewards are no numbers."""

    def describe(self):
        return {"name": "broken"}

    def rollout(self, state, actions):
        state, frame = super().rollout(state, actions)
        return state, Frame(frame.observation, np.nan * frame.reward, frame.terminated)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("uses")
    plan = (Measurement("plans", "forks", "plans", 3, 3, (1, 4)), RANKING, PLANNING)
    entrants = [Pendulum(), *(Dice(seed=seed) for seed in range(4)), Poor(), Broken()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_ranking, "SHOWN", 5)
        return run_suite(None, entrants, env=PENDULUM, suite=plan, out=out, **QUIET), out


def test_who_knows_the_truth_ranks_as_the_truth_does(measured):
    row = measured[0]["measurements"]["ranking"]["entrants"]["the pendulum itself"]
    assert len(row["policies"]) == len(row["true"]) == 11
    for name in ("spearman", "kendall", "pearson"):
        assert row["again"][name]["mean"] == pytest.approx(1.0)
        assert row["agreement"][name]["mean"] > 0.9  # a frame's last digit may decide which moment is nearest
    assert row["agreement"]["violation"]["mean"] < 0.05
    assert (row["again"]["violation"]["mean"], row["again"]["violation"]["interval"]) == (0.0, [0.0, 0.0])
    assert row["agreement"]["spearman"]["chance"] == pytest.approx([-0.6, 0.6], abs=0.05)  # of eleven policies
    copied, at_random = row["true"][0], row["true"][8]
    assert copied > at_random + 20  # the grades are grades


@pytest.mark.parametrize(
    ("name", "skip", "about"),
    [
        ("MountainCarContinuous-v0", 8, "distance from the top"),  # planned by what is seen
        ("terrella/SpritesStill-v0", 1, "the view that is shown"),  # by a goal that is shown
    ],
)
def test_the_truth_itself_agrees_to_the_last_digit(name, skip, about, monkeypatch):
    if name.startswith("terrella/Sprites"):
        pytest.importorskip("sklearn")
    monkeypatch.setattr(policy_ranking, "SHOWN", 2)
    env = make(name, frame_skip=skip)
    ground, m = Ground(env, describe(env), 2, 6, "sticky-random", 0), Measurement("r", "ranking", groups=2, branches=8)
    contest = ground.once(m, lambda: policy_ranking._prepared(m, ground))
    known = Oracle(ground.stage, {start.seed: start.saved for start in contest.begun.starts})
    row = PolicyRanking().measure(m, known, ground, lambda frames: None)  # type: ignore[arg-type]
    assert about in row["task"]
    assert row["raw"]["dreamed"] == row["raw"]["true"] == row["raw"]["again"]
    assert [row["agreement"][name]["mean"] for name in SCORES] == pytest.approx([1.0, 1.0, 1.0, 0.0])
    env.close()


def test_who_knows_nothing_does_not_rank(measured):
    rows = measured[0]["measurements"]["ranking"]["entrants"]
    for name in ("spearman", "kendall", "pearson"):
        assert abs(np.mean([rows[f"dice {seed}"]["agreement"][name]["mean"] for seed in range(4)])) < 0.4
    assert min(rows[f"dice {seed}"]["agreement"]["violation"]["mean"] for seed in range(4)) > 0.2
    for name in ("spearman", "kendall", "pearson"):
        assert rows["poor"]["agreement"][name]["mean"] == 0.0
    assert rows["poor"]["agreement"]["violation"]["mean"] > 0.3
    assert "not finite" in rows["broken"]["error"]


def test_plans_made_in_the_truth_have_the_whole_share(measured):
    rows = measured[0]["measurements"]["planning"]["entrants"]
    known = rows["the pendulum itself"]
    assert known["score"] == "returns"
    assert known["share"]["mean"] == pytest.approx(1.0, abs=0.02)
    assert abs(np.mean([rows[f"dice {seed}"]["share"]["mean"] for seed in range(4)])) < 0.4
    assert abs(rows["poor"]["share"]["mean"]) < 0.5
    assert known["rows"]["simulator"]["returns"] == rows["dice 0"]["rows"]["simulator"]["returns"]
    assert "not finite" in rows["broken"]["error"]


def test_the_page_asks_three_questions(measured):
    page = (measured[1] / "suite.html").read_text()
    for text in ("The next world", "Which actions, which future?", "Of use to a planner?", "the truth told again"):
        assert text in page
    assert "How far ahead?" not in page  # drift was not measured
    assert page.count("<table>") == page.count("</table>")
    assert next_world({}) == ""
    drift = {"horizons": [1, 64], "streams": {"vector": {"half_skill_horizon": None, "skill": [0.9, 0.7]}}}
    drift["streams"]["vector"]["copy_last_half_skill_horizon"] = 1
    said = next_world({"drift": {"measurement": {"what": "drift"}, "entrants": {"x": drift}}})
    assert "beyond 64" in said
    assert "0.7" in said


def test_where_nothing_can_be_earned_nothing_is_ranked(monkeypatch):
    monkeypatch.setattr(policy_ranking, "SHOWN", 2)
    plan = (Measurement("ranking", "ranking", groups=2, branches=8, marks=(4,)), PLANNING)
    stranger = Broken()  # is never asked
    found = run_suite(None, [stranger], env="MountainCar-v0", suite=plan, **QUIET)["measurements"]
    assert found["ranking"]["entrants"]["broken"]["agreement"] is None
    assert len(set(found["ranking"]["entrants"]["broken"]["true"])) == 1
    assert "no task in MountainCar-v0" in found["planning"]["missing"]


def test_a_simulator_that_is_too_slow_is_not_waited_for(monkeypatch):
    play, seconds = Stage.play, 0.01

    def slowly(stage, actions, *rest):
        time.sleep(seconds * len(actions))
        return play(stage, actions, *rest)

    monkeypatch.setattr(Stage, "play", slowly)
    monkeypatch.setattr("terrella.trials.policy_ranking._prepared", lambda *_: pytest.fail("played"))
    monkeypatch.setattr("terrella.trials.planning_share._prepared", lambda *_: pytest.fail("played"))
    began = time.perf_counter()
    plan = (RANKING, PLANNING)
    found = run_suite(None, [Broken()], env=PENDULUM, suite=plan, allowance=6, **QUIET)["measurements"]
    assert time.perf_counter() - began < 10
    for name in ("ranking", "planning"):
        pace, steps = re.search(r"takes (\d+) ms a step, so that the ([\d,]+) steps", found[name]["missing"]).groups()
        assert 10 <= int(pace) < 20
        assert int(steps.replace(",", "")) > 600


def test_steps_are_told_before_they_are_made(monkeypatch):
    made, asked = [], []
    step = PendulumEnv.step
    monkeypatch.setattr(PendulumEnv, "step", lambda env, action: made.append(1) or step(env, action))
    monkeypatch.setattr(Ground, "too_slow", lambda ground, steps: asked.append(steps))
    plan = (Measurement("planning", "planning", groups=1, branches=8),)
    run_suite(None, [Poor()], env=PENDULUM, suite=plan, **QUIET)
    assert 0.5 < len(made) / PENDULUM.frame_skip / asked[0] < 1.2


def test_the_command_says_what_was_found(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(policy_ranking, "SHOWN", 2)
    module = types.ModuleType("a_pendulum")
    module.__spec__ = importlib.util.spec_from_loader("a_pendulum", None)
    module.make = Poor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_pendulum", module)
    plan = (Measurement("ranking", "ranking", groups=2, branches=8, marks=(4,)),)
    monkeypatch.setitem(SUITES, "core", plan)
    args = ["evaluate", "--env", "MountainCar-v0", "--entrant", "a_pendulum:make", "--out", str(tmp_path)]
    assert cli.main(args) == 0
    said = capsys.readouterr()
    assert "nothing to rank" in " ".join((said.out + said.err).split())


def test_agreement_by_hand():
    found = agreement(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [3.0], [2.0]]))
    wanted = {
        "spearman": 0.5,
        "kendall": 1 / 3,
        "pearson": 0.5,
        "violation": 1 / 3,
    }  # (0 + 1 + 1) / 3 over 2
    for name, value in wanted.items():
        assert found[name]["mean"] == pytest.approx(value)
        assert found[name]["interval"] == [None, None]
        assert found[name]["chance"][0] < 0.4 < found[name]["chance"][1]
    upside = agreement(np.array([[0.0], [1.0], [4.0]]), np.array([[9.0], [8.0], [7.0]]))
    wanted = {"spearman": -1, "kendall": -1, "violation": (4 + 3 + 4) / 3 / 4}
    assert {name: upside[name]["mean"] for name in wanted} == pytest.approx(wanted)
    ties = agreement(np.array([[0.0], [0.0], [1.0]]), np.array([[0.0], [1.0], [1.0]]))
    assert ties["kendall"]["mean"] == pytest.approx(0.5)  # one pair alike, each judge tells two pairs apart


def test_agreement_is_that_of_scipy():
    rng = np.random.default_rng(0)
    true, judged = rng.integers(0, 5, (2, 40, 9)).astype(float)
    found = scores(true, judged)
    for name, judge in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau), ("pearson", stats.pearsonr)):
        wanted = np.array([next(iter(judge(a, b))) for a, b in zip(true, judged)], float)  # type: ignore[arg-type]
        np.testing.assert_allclose(found[name], wanted, atol=1e-12)


def test_agreement_of_what_is_unrelated_equal_or_broken():
    rng = np.random.default_rng(1)
    true, judged = rng.normal(size=(2, 4000, 10))
    found = scores(true, judged)
    assert all(abs(found[name].mean()) < 0.02 for name in ("spearman", "kendall", "pearson"))
    true, flat = rng.normal(size=(6, 5)), np.full((6, 5), 0.1)
    assert [agreement(true, flat)[name]["mean"] for name in SCORES[:3]] == [0.0] * 3
    none = {"mean": None, "interval": [None, None], "chance": [None, None]}
    assert agreement(flat, true) == dict.fromkeys(SCORES, none)
    same = agreement(true, true)
    assert [same[name]["mean"] for name in SCORES[:3]] == pytest.approx([1.0] * 3)
    assert agreement(true, np.full((6, 5), np.nan))["kendall"]["mean"] == pytest.approx(-1.0)
    with pytest.raises(ConfigError, match="two candidates"):
        agreement(true[:1], true[:1])


def test_a_share_by_hand():
    floor, ceiling = np.zeros(6), np.full(6, 2.0)
    found = share(np.array([1.0, 1, 1, 1, 1, 1]), floor, ceiling)
    assert found == {"share": {"mean": 0.5, "interval": [0.5, 0.5]}, "why": None}
    assert share(floor, floor, ceiling)["share"]["mean"] == 0.0
    for top in (floor, np.array([5.0, -5, 5, -5, 1, 0])):  # nothing to gain, or not surely
        none = share(np.ones(6), floor, top)
        assert none["share"]["mean"] is None
        assert "not surely" in none["why"]


def test_a_task_keeps_its_time_at_another_pace():
    paced = task_in(EnvSpec("Pendulum-v1"))
    assert paced is not None
    own = TASKS["pendulum"]
    assert (paced.limit, paced.hold, paced.horizon, paced.execute) == tuple(
        4 * n for n in (own.limit, own.hold, own.horizon, own.execute)
    )
    assert paced.env.frame_skip == 1
    coins = task_in(EnvSpec("procgen/coinrun", {"distribution_mode": "easy"}))
    assert coins is not None
    assert coins.discount == pytest.approx(0.95**0.25)
    assert task_in(EnvSpec("Pendulum-v1", frame_skip=3)) is None
    assert task_in(EnvSpec("Pendulum-v1", pixels=True)) is None
    assert task_in(EnvSpec("procgen/ninja")) is None
    with pytest.raises(ConfigError, match="divides"):
        own.paced(EnvSpec("Pendulum-v1", frame_skip=3))


def test_policies_copy_and_are_graded():
    env = make(PENDULUM)
    spec = describe(env)
    seen = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 4]], np.float32)
    copier = Copier(spec, {"vector": seen}, np.array([[[0.5], [0.6]], [[-1.0], [-0.9]], [[2.0], [1.9]]]))
    asked = {"vector": np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 3.0]], np.float32)}
    np.testing.assert_array_equal(copier.act(asked), [[[0.5], [0.6]], [[2.0], [1.9]]])
    made = graded(spec, env.action_space, copier, 9, [3, 4], 50)
    again = graded(spec, env.action_space, copier, 9, [3, 4], 50)
    assert len(made.names) == 11
    np.testing.assert_array_equal(made.drawn, again.drawn)
    shares = made.copies[:9].mean((1, 2))
    assert shares[0] == 1
    assert shares[8] == 0
    assert (np.diff(shares) < 0).all()
    assert not (made.copies[1:9] & ~made.copies[:8]).any()  # who is more random is random wherever the others are
    actor = Acting(made, np.array([0, 8, 9, 10]), np.zeros(4, int))
    for t, place, copied in ((0, 1, -1.0), (1, 0, -0.9), (2, 0, 0.5)):  # looks at every second frame alone
        rows = actor.act({"vector": np.tile(seen[place], (4, 1))})
        np.testing.assert_array_equal(rows, [[copied], made.drawn[8, 0, t], [0.0], made.drawn[10, 0, 0]])


def test_pictures_are_compared_coarsely():
    env = make("CartPole-v1", pixels=True, size=40)
    spec = describe(env)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3)).astype(np.uint8)
    copier = Copier(spec, {"pixels": pictures}, np.arange(5.0)[:, None, None])
    np.testing.assert_array_equal(copier.act({"pixels": pictures // 2 + 64})[:, 0, 0].shape, (5,))
    np.testing.assert_array_equal(copier.act({"pixels": pictures})[:, 0, 0], range(5))


def test_sessions_of_any_entrant_branch_and_look():
    world = Imagination(Pendulum(), describe(make(PENDULUM)))
    state = world.start({"vector": np.array([[[1.0, 0, 0]], [[-1, 0, 0]]], np.float32)}, None, [5, 6])
    rows = np.random.default_rng(0).uniform(-2, 2, (4, 20, 1))
    kept, frame = world.rollout(state.fork(2), rows)
    assert (kept.batch, kept.seeds.tolist(), frame.reward.shape) == (4, [5, 5, 6, 6], (4, 20))
    _, alone = world.rollout(state.select([1]), rows[3:])
    np.testing.assert_array_equal(alone.observation["vector"][0], frame.observation["vector"][3])
    assert world.rollout(state, rows[:2], observe=False)[1].observation == {}
    for t in range(PAST + 4):
        state = world.observe(state, rows[:2, 0] + t, {"vector": np.full((2, 3), t, np.float32)})
    assert state.frames["vector"].shape == (2, PAST + 1, 3)
    np.testing.assert_array_equal(state.rows[0, :, 0], (rows[0, 0, 0] + np.arange(4, PAST + 4)).astype(np.float32))
    assert state.time.tolist() == [1 + PAST + 4] * 2
    with pytest.raises(EntrantError, match="not finite"):
        Imagination(Broken(), world.spec).rollout(state, rows[:2])
