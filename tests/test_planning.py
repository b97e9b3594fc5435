"""Planners against what is known: Riccati, exhaustive search, limits in closed form; then the real engine."""

import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import terrella
from terrella import Engine
from terrella.actions import action_space, action_spec, decode, encode
from terrella.arenas import make
from terrella.data import record
from terrella.engine import Frame
from terrella.errors import ActionError, ArenaError, ConfigError, SpecError, StateError, UnknownName
from terrella.laws import shaken
from terrella.planning import (
    MPC,
    Constraint,
    Controller,
    Distance,
    Effort,
    Function,
    Future,
    Return,
    SamplingPlanner,
    Search,
    Simulator,
    Space,
    make_planner,
    plan,
)
from terrella.planning.search import coloured, draw_noise
from terrella.registry import lookup, names
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

PLANNERS = [name for name in names("planner") if issubclass(lookup("planner", name), SamplingPlanner)]


@dataclass(frozen=True)
class Values:
    """A state of the two exact worlds below: a value a session."""

    x: np.ndarray
    seeds: torch.Tensor
    time: torch.Tensor

    @property
    def batch(self) -> int:
        return len(self.x)

    def fork(self, n: int = 1) -> "Values":
        return self.select(np.repeat(np.arange(self.batch), n))

    def select(self, indices) -> "Values":
        index = np.asarray(indices)
        return Values(self.x[index], self.seeds[index], self.time[index])


def values(x) -> Values:
    x = np.asarray(x)
    return Values(x, torch.arange(len(x)) + 5, torch.zeros(len(x), dtype=torch.int64))


class Exact:
    """Steps, counts rows, and plays actions one after another."""

    steps = 1
    evaluations = 0
    largest = 0
    seen = True

    def rollout(self, state, actions, *, observe=True):
        assert actions.shape[0] == state.batch
        x, frames, rewards, ends = state.x, [], [], []
        self.evaluations += actions.shape[0] * actions.shape[1] * self.steps
        self.largest, self.seen = max(self.largest, actions.shape[0]), observe
        for t in range(actions.shape[1]):
            x, reward, end = self.move(x, actions[:, t])
            frames.append(x.reshape(len(x), -1))
            rewards.append(reward)
            ends.append(end)
        after = Values(x, state.seeds, state.time + actions.shape[1])
        return after, Frame({"vector": np.stack(frames, 1)} if observe else {}, np.stack(rewards, 1), np.stack(ends, 1))


class Linear(Exact):
    """x' = A x + B u, reward -(x'Q x' + u R u): its best actions are known."""

    A, B = np.array([[1.0, 0.2], [-0.1, 0.95]]), np.array([[0.02], [0.2]])
    Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])
    spec = WorldSpec(
        {"vector": StreamSpec("vector", (2,))}, ActionSpec("box", shape=(1,), low=(-4.0,), high=(4.0,), dtype="float32")
    )

    def move(self, x, u):
        x = x @ self.A.T + u @ self.B.T
        cost = np.einsum("bi,ij,bj->b", x, self.Q, x) + np.einsum("bi,ij,bj->b", u, self.R, u)
        return x, -cost, np.zeros(len(x))

    def best(self, x, horizon):
        """Cost and actions by the Riccati recursion."""
        P, gains = self.Q, []
        for _ in range(horizon):
            K = np.linalg.solve(self.R + self.B.T @ P @ self.B, self.B.T @ P @ self.A)
            P = self.Q + self.A.T @ P @ (self.A - self.B @ K)
            gains.append(K)
        actions, now = [], x
        for K in gains[::-1]:
            actions.append(-now @ K.T)
            now = now @ self.A.T + actions[-1] @ self.B.T
        return np.einsum("bi,ij,bj->b", x, P - self.Q, x), np.stack(actions, 1)


class Table(Exact):
    """Nine places, two choices at a time (one of three, one of two); some places end the episode."""

    spec = WorldSpec({"vector": StreamSpec("vector", (1,))}, ActionSpec("multi_discrete", shape=(2,), nvec=(3, 2)))
    rng = np.random.default_rng(0)
    to, pays, ends = rng.integers(0, 9, (9, 3, 2)), rng.normal(size=(9, 3, 2)), np.arange(9) == 4

    def move(self, x, u):
        at = x, u[:, 0].astype(int), u[:, 1].astype(int)
        return self.to[at], self.pays[at], self.ends[self.to[at]].astype(float)

    def best(self, state, horizon):
        every = np.array(list(product(product(range(3), range(2)), repeat=horizon)))
        _, frame = self.rollout(state.fork(len(every)), np.tile(every, (state.batch, 1, 1)), observe=False)
        return Return().cost(future(frame)).reshape(state.batch, -1).min(1)


def future(frame: Frame, **more) -> Future:
    rows = np.zeros((*frame.reward.shape, 1))
    return Future(**{"rows": rows, "reward": frame.reward, "terminated": frame.terminated, **more})


STARTS = values([[1.0, 0.0], [-0.7, 0.5], [0.2, -1.0]])
LINEAR = {
    "cem": {"candidates": 200, "floor": 0.0},
    "icem": {"candidates": 200, "floor": 0.0, "beta": 0.5},
    "mppi": {"candidates": 200, "floor": 0.0, "adapt": True, "temperature": 0.05, "alpha": 0.1},
}


# known optima


@pytest.mark.parametrize("name", LINEAR)
def test_linear_systems_reach_the_riccati_solution(name):
    model = Linear()
    cost, actions = model.best(STARTS.x, 6)
    found = make_planner(name, horizon=6, iterations=30, **LINEAR[name]).plan(model, STARTS, Return())
    assert (found.cost >= cost - 1e-12).all()
    np.testing.assert_allclose(found.cost, cost, rtol=5e-3)
    np.testing.assert_allclose(found.actions, actions, atol=0.15)


@pytest.mark.parametrize(("name", "candidates"), [("cem", 200), ("icem", 300), ("mppi", 200), ("random", 1500)])
def test_choices_reach_the_best_of_all_sequences(name, candidates):
    model, state = Table(), values(np.arange(6))
    settings = {"floor": 0.2, "alpha": 0.5} if name != "random" else {}
    planner = make_planner(name, horizon=4, candidates=candidates, iterations=12, max_rows=20_000, **settings)
    np.testing.assert_allclose(planner.plan(model, state, Return()).cost, model.best(state, 4))


@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_beats_doing_nothing(name):
    model = Linear()
    nothing = np.zeros((3, 6, 1))
    cost = -model.rollout(STARTS, nothing)[1].reward.sum(1)
    found = plan(model, STARTS, Return(), name, horizon=6, iterations=10)
    assert (found.cost <= cost).all()
    assert (found.cost[[0, 2]] < 0.8 * cost[[0, 2]]).all()


# values


@pytest.mark.parametrize("name", PLANNERS)
def test_a_plan_costs_what_it_says_and_never_worsens(name):
    model = Linear()
    found = plan(model, STARTS, Return(), name, horizon=6, iterations=6, candidates=20)
    np.testing.assert_allclose(found.cost, -model.rollout(STARTS, found.actions)[1].reward.sum(1), rtol=1e-12)
    assert found.actions.shape == (3, 6, 1)
    assert (np.diff(found.trace.best, axis=0) <= 0).all()
    assert (found.trace.best[-1] == found.cost).all()
    assert found.trace.best.shape == found.trace.mean.shape == found.trace.spread.shape == (6, 3)
    assert (found.trace.mean >= found.trace.best.min(0) - 1e-9).all()


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("model", [Linear(), Table()], ids=["numbers", "choices"])
def test_equal_seeds_give_equal_plans_in_any_company(name, model):
    state = STARTS if isinstance(model, Linear) else values([0, 1, 2])
    settings = {"horizon": 5, "iterations": 3, "candidates": 16}
    one = plan(model, state, Return(), name, **settings)
    again = plan(model, state, Return(), name, **settings)
    other = plan(model, state, Return(), name, seed=1, **settings)
    assert np.array_equal(one.actions, again.actions)
    assert not np.array_equal(one.trace.mean, other.trace.mean)
    later = replace(state, time=state.time + 1)
    assert not np.array_equal(one.trace.mean, plan(model, later, Return(), name, **settings).trace.mean)
    for b in range(3):
        alone = plan(model, state.select([b]), Return(), name, **settings)
        assert np.array_equal(one.actions[b], alone.actions[0])
    chunks = plan(model, state, Return(), name, max_rows=7, **settings)
    assert np.array_equal(one.actions, chunks.actions)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_start_is_never_made_worse(name):
    model = Linear()
    _, best = model.best(STARTS.x, 6)
    cost = -model.rollout(STARTS, best)[1].reward.sum(1)
    found = plan(model, STARTS, Return(), name, start=best, horizon=6, candidates=4, iterations=2)
    assert (found.cost <= cost + 1e-12).all()
    again = plan(model, STARTS, Return(), name, start=found, horizon=6, candidates=4, iterations=2)
    assert (again.cost <= found.cost + 1e-12).all()
    assert np.array_equal(found.shifted(2)[:, :4], found.actions[:, 2:])
    assert (found.shifted(2)[:, 4:] == found.actions[:, -1:]).all()


def test_the_best_ever_survives_a_mean_between_two_modes():
    both = Function(lambda f: -np.square(f.rows[:, :, 0]).sum(1), looks=False)  # the ends of the range, not the middle
    found = plan(Linear(), STARTS, both, "mppi", temperature=1e6, horizon=2, candidates=50)
    assert (found.search.mode() ** 2).sum() < 0.1 * (found.actions**2).sum()
    assert (found.cost < -16).all()


# budgets and bounds


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("budget", [6 * 2, 1000, 1001, 5000])
def test_budgets_of_steps_are_kept_exactly(name, budget):
    model = Linear()
    model.steps = 2
    found = plan(model, STARTS, Return(), name, horizon=6, candidates=30, budget_steps=budget, max_rows=64)
    assert found.trace.steps[-1] == budget // 12 * 12
    assert model.evaluations == 3 * found.trace.steps[-1]
    assert model.largest <= 64
    assert not model.seen


def test_a_budget_of_time_is_kept_on_a_clock():
    ticks = iter(range(100))
    planner = make_planner("cem", horizon=3, candidates=8)

    def clock():  # a call is a tick of 10 ms: 20 ms an iteration and its end
        return next(ticks) / 100

    found = planner.plan(Linear(), STARTS, Return(), budget_ms=75, clock=clock)
    assert len(found.trace.best) == 3  # ends at 20, 40, 60; the next would end at 80
    assert len(planner.plan(Linear(), STARTS, Return(), budget_ms=0.001).trace.best) == 1
    both = planner.plan(Linear(), STARTS, Return(), budget_ms=1e6, budget_steps=100)
    assert both.trace.steps[-1] == 99


SPACES = [
    spaces.Discrete(4, start=-2),
    spaces.Box(np.float32([-1, 0]), np.float32([2, 0.5])),
    spaces.Box(-np.inf, np.inf, (2,)),
    spaces.Box(np.float32([0.5]), np.float32([np.inf])),
    spaces.Box(0, 10, (2, 2), np.int64),
    spaces.MultiDiscrete([3, 2, 5]),
    spaces.MultiBinary((2, 2)),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Tuple([])]),
    spaces.Dict({"a": spaces.Box(-1, 1, (1,)), "b": spaces.MultiDiscrete([2, 4])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("flat", [False, True])
def test_candidates_are_actions_of_the_space(space, flat):
    spec = action_spec(space)
    searched = Space(spec)
    search = replace(Search.begin(searched, 2, 3, 3.0), flat=flat)
    noise = draw_noise(torch.arange(2), torch.zeros(2, dtype=torch.int64), 0, (50, 3, search.noise_width), 1.0)
    rows = search.sample(noise)
    assert rows.shape == (2, 50, 3, searched.width)
    weight = np.full((2, 50), 1 / 50)
    for row in [*rows.reshape(-1, searched.width), *search.refitted(rows, weight).mode().reshape(-1, searched.width)]:
        action = decode(spec, row)
        assert action_space(spec).contains(action)
        np.testing.assert_allclose(encode(spec, action), row, rtol=1e-6)
    assert len(np.unique(rows.reshape(-1, searched.width), axis=0)) > 1


def test_text_is_refused():
    with pytest.raises(ActionError, match="Discrete choice"):
        Space(action_spec(spaces.Dict({"a": spaces.Discrete(2), "say": spaces.Text(4)})))


def test_wrong_settings_are_refused():
    with pytest.raises(UnknownName, match="Did you mean 'icem'"):
        make_planner("icme")
    with pytest.raises(ConfigError, match="Did you mean 'horizon'"):
        make_planner("icem", horizont=3)
    for settings in ({"horizon": 0}, {"spread": 0.0}, {"elites": 2.0}, {"alpha": 1.0}, {"floor": -1.0}):
        with pytest.raises(ConfigError):
            make_planner("cem", **settings)
    with pytest.raises(ConfigError, match="temperature"):
        make_planner("mppi", temperature=0.0)
    with pytest.raises(ConfigError, match="one candidate takes 12"):
        plan(Linear(), STARTS, Return(), budget_steps=11)
    with pytest.raises(ActionError, match=r"shape \(3, 2, 1\)"):
        plan(Linear(), STARTS, Return(), start=np.zeros((3, 2, 1)))
    with pytest.raises(ConfigError, match="NaN"):
        plan(Linear(), STARTS, lambda f: np.full(len(f.rows), np.nan))
    with pytest.raises(ConfigError, match=r"shape \(\)"):
        plan(Linear(), STARTS, lambda f: 0.0)


def test_refused_futures_are_avoided():
    def wall(f):
        return np.where((f.rows > 0).any((1, 2)), np.inf, np.square(f.rows - 1).sum((1, 2)))

    for name in PLANNERS:
        found = plan(Linear(), STARTS, wall, name, horizon=2, candidates=40, iterations=5)
        assert (found.actions <= 0).all()
        assert np.isfinite(found.cost).all()
        never = plan(Linear(), STARTS, lambda f: np.full(len(f.rows), np.inf), name, horizon=2, candidates=4)
        assert np.isfinite(never.actions).all()


# search


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_noise_has_the_colour_asked_for(beta):
    white = np.random.default_rng(0).normal(size=(400, 256))
    noise = coloured(white, beta, 1)
    power = np.square(np.abs(np.fft.rfft(noise, axis=1))).mean(0)[1:-1]
    slope = np.polyfit(np.log(np.fft.rfftfreq(256)[1:-1]), np.log(power), 1)[0]
    assert abs(slope + beta) < 0.2
    np.testing.assert_allclose(noise.var(0), 1, atol=0.35)
    assert abs(noise.var() - 1) < 0.1


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_choices_come_as_often_as_their_probabilities(beta):
    space = Space(ActionSpec("discrete", n=3))
    probs = np.broadcast_to([0.6, 0.3, 0.1], (1, 8, 1, 3))
    search = replace(Search.begin(space, 1, 8, 1.0), probs=probs)
    rows = search.sample(draw_noise(torch.tensor([3]), torch.tensor([0]), 0, (4000, 8, 3), beta))[0, :, :, 0]
    for choice, p in enumerate((0.6, 0.3, 0.1)):
        np.testing.assert_allclose((rows == choice).mean(0), p, atol=0.05)
    same = (rows[:, 1:] == rows[:, :-1]).mean()
    assert same > 0.6 if beta else abs(same - 0.46) < 0.03


def test_a_refit_takes_weighted_moments_and_keeps_a_share():
    space = Space(action_spec(spaces.Tuple([spaces.Box(-1, 1, (1,)), spaces.Discrete(2)])))
    search = Search.begin(space, 1, 1, 0.5)
    rows = np.array([[[[1.0, 1.0]], [[0.0, 1.0]], [[-1.0, 0.0]]]])
    after = search.refitted(rows, np.array([[0.5, 0.5, 0.0]]))
    assert (after.mean.item(), after.std.item(), after.probs.ravel().tolist()) == (0.5, 0.5, [0.0, 1.0])
    half = search.refitted(rows, np.array([[1.0, 0.0, 0.0]]), keep=0.5, floor=0.2)
    assert half.mean.item() == 0.5
    np.testing.assert_allclose(half.std.item(), 0.5 * 0.5 + 0.5 * 0.2)
    np.testing.assert_allclose(half.probs.ravel(), [0.25 + 0.05, 0.25 + 0.45])
    np.testing.assert_allclose(search.spread(), (0.5 + 1) / 2)
    assert search.moved(rows, np.array([[1.0, 0.0, 0.0]])).std.item() == 0.5


def test_mppi_at_its_limits():
    cost = np.random.default_rng(0).normal(size=(3, 20)) * [[1], [10], [0.1]]
    best = np.arange(20) == cost.argmin(1)[:, None]
    np.testing.assert_allclose(make_planner("mppi", temperature=1e-9).weights(cost), best)
    np.testing.assert_allclose(make_planner("mppi", temperature=1e12).weights(cost), 1 / 20)
    plain = make_planner("mppi", temperature=0.3, normalise=False).weights(cost)
    scaled = make_planner("mppi", temperature=0.3 * 7, normalise=False).weights(7 * cost + 3)
    np.testing.assert_allclose(plain, scaled)
    assert not np.allclose(plain, make_planner("mppi", temperature=0.3, normalise=False).weights(7 * cost))
    normal = make_planner("mppi", temperature=0.3)
    np.testing.assert_allclose(normal.weights(cost), normal.weights(7 * cost + 3))
    expected = np.exp(-(cost - cost.min(1, keepdims=True)) / (0.3 * cost.std(1, keepdims=True)))
    np.testing.assert_allclose(normal.weights(cost), expected / expected.sum(1, keepdims=True))
    np.testing.assert_allclose(normal.weights(np.ones((1, 4))), 0.25)


def test_icem_has_fewer_candidates_later_and_keeps_elites():
    planner = make_planner("icem", candidates=100, shrink=2.0, elites=0.1, keep=0.3)
    assert [planner.population(i) for i in range(5)] == [100, 50, 25, 20, 20]
    assert planner.kept == 3


# objectives


def test_ended_episodes_stop_paying_and_costing():
    reward, end = np.ones((2, 4)), np.array([[0, 1, 0, 0], [0.5, 0, 0.5, 0]], float)
    one = Future(np.full((2, 4, 1), 3.0), reward, end)
    np.testing.assert_allclose(one.alive, [[1, 1, 0, 0], [1, 0.5, 0.5, 0.25]])
    np.testing.assert_allclose(one.last, [[0, 1, 0, 0], [0.5, 0, 0.25, 0.25]])
    np.testing.assert_allclose(Return().cost(one), [-2, -2.25])
    np.testing.assert_allclose(Return(0.5).cost(one), [-1.5, -(1 + 0.25 + 0.125 + 0.25 * 0.125)])
    np.testing.assert_allclose(Effort().cost(one), [18, 9 * 2.25])
    over = Constraint(lambda f: f.rows[..., 0] - 2, penalty=2.0, looks=False)
    np.testing.assert_allclose(over.cost(one), [4, 4.5])
    both = Return() + 0.5 * Effort()
    np.testing.assert_allclose(both.cost(one), [7, -2.25 + 4.5 * 2.25])
    assert not both.observe
    assert (both + over).observe is False
    assert (both + Distance({"vector": np.zeros(1)})).observe


def test_distances_are_of_the_last_frame_or_all():
    seen = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    one = Future(np.zeros((1, 4, 1)), np.zeros((1, 4)), np.array([[0, 0.5, 0, 0]]), {"vector": seen}, np.array([1]))
    goal = np.array([0.0, 1.0])
    apart = np.array([0, 4, 16, 36.0])  # of each frame, on average over its two numbers
    np.testing.assert_allclose(Distance({"vector": goal}).cost(one), [0.5 * apart[1] + 0.5 * apart[3]])
    total = apart[:2].sum() + 0.5 * (2 * apart[1]) + 0.5 * apart[2:].sum()
    np.testing.assert_allclose(Distance({"vector": goal}, when="sum").cost(one), [total])
    np.testing.assert_allclose(Distance({"vector": goal}, norm="l1").cost(one), [0.5 * 2 + 0.5 * 6])
    each = Distance({"vector": np.stack([goal + 9, goal])})
    np.testing.assert_allclose(each.cost(one), Distance({"vector": goal}).cost(one))
    half = Distance({"vector": goal}, scale={"vector": np.array([2.0, np.inf])})
    np.testing.assert_allclose(half.cost(one), Distance({"vector": goal}).cost(one) / 8)
    pixels = np.full((1, 1, 2, 2, 3), 255, np.uint8)
    image = replace(one, observation={"pixels": pixels}, terminated=np.zeros((1, 1)), reward=np.zeros((1, 1)))
    assert Distance({"pixels": np.zeros((2, 2, 3), np.uint8)}).cost(image) == 1
    with pytest.raises(UnknownName, match="Did you mean 'vector'"):
        Distance({"vektor": goal}).cost(one)
    with pytest.raises(SpecError, match=r"shape \(3,\)"):
        Distance({"vector": np.zeros(3)}).cost(one)
    with pytest.raises(SpecError, match="uint8"):
        Distance({"pixels": np.zeros((2, 2, 3))}).cost(image)


def test_a_constraint_holds_in_the_plan():
    fast = Return() + Constraint(lambda f: np.abs(f.rows[..., 0]) - 1.0, looks=False)
    found = plan(Linear(), STARTS, fast, "cem", horizon=6, iterations=20, candidates=200, floor=0.0)
    assert np.abs(found.actions).max() < 1.02
    free = plan(Linear(), STARTS, Return(), "cem", horizon=6, iterations=20, candidates=200, floor=0.0)
    assert np.abs(free.actions).max() > 1.5
    assert (found.cost > free.cost).all()


# the engine

NUMBERS = ActionSpec("box", shape=(2,), low=(-1.0, -2.0), high=(1.0, 2.0), dtype="float32")
CHOICES = ActionSpec("discrete", n=3)


def tiny(action: ActionSpec, **settings) -> Engine:
    torch.manual_seed(0)
    spec = WorldSpec({"vector": StreamSpec("vector", (2,))}, action)
    return Engine(shaken(World(spec, world_config("debug", spec), "tiny")), **settings)


def begun(engine: Engine, batch: int = 2):
    seen = np.random.default_rng(0).normal(size=(batch, 3, 2)).astype(np.float32)
    width = 2 if engine.spec.action.kind == "box" else 1
    return engine.start({"vector": seen}, np.zeros((batch, 2, width)), seeds=3)


@pytest.mark.parametrize("action", [NUMBERS, CHOICES], ids=["numbers", "choices"])
@pytest.mark.parametrize("name", PLANNERS)
def test_the_engine_imagines_and_its_state_stays(action, name):
    engine = tiny(action)
    state, untouched = begun(engine), begun(engine)
    settings = {"horizon": 4, "candidates": 8, "iterations": 2}
    found = terrella.plan(engine, state, Return(), name, **settings)
    assert np.array_equal(found.actions, plan(engine, state, Return(), name, **settings).actions)
    assert found.trace.steps[-1] == (16 if name != "icem" else 8 + 7) * 4 * engine.steps
    assert (state.time == untouched.time).all()
    for key, value in untouched.slabs.recurrent.items():
        assert torch.equal(state.slabs.recurrent[key], value)
    _, frame = engine.rollout(state, found.actions)
    _, other = engine.rollout(untouched, found.actions)
    np.testing.assert_allclose(frame.observation["vector"], other.observation["vector"], atol=1e-5)
    cost = Return().cost(future(frame, rows=found.actions))
    np.testing.assert_allclose(found.cost, cost, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_few_rows_at_a_time_cost_the_same(rows):
    engine = tiny(NUMBERS)
    state, goal = begun(engine), Distance({"vector": np.array([[0.5, 0.0], [-1.0, 1.0]])}, when="sum")
    wide = plan(engine, state, goal, "random", horizon=3, candidates=7, iterations=1)
    narrow = plan(engine, state, goal, "random", horizon=3, candidates=7, iterations=1, max_rows=rows)
    np.testing.assert_allclose(wide.cost, narrow.cost, atol=1e-4)
    assert np.array_equal(wide.actions, narrow.actions)


def test_candidates_share_their_chance():
    engine = tiny(CHOICES)
    state = begun(engine)
    rows = np.tile(np.array([0.0, 1.0, 2.0])[None, :, None], (4, 1, 1))
    _, frame = engine.rollout(state.fork(2), rows)
    seen = frame.observation["vector"]
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


# control


def test_a_controller_goes_on_from_what_it_saw():
    engine, rng = tiny(CHOICES), np.random.default_rng(0)
    control = Controller(engine, Return(), make_planner("cem", horizon=4, candidates=6, iterations=1), execute=2)
    seen = rng.normal(size=(2, 4, 2)).astype(np.float32)
    control.begin({"vector": seen[:, 0]}, seeds=[4, 5])
    rows, plans = [], []
    for t in range(3):
        rows.append(control.act())
        plans.append(control.plan)
        control.see({"vector": seen[:, t + 1]})
    assert plans[0] is plans[1] is not plans[2]
    assert np.array_equal(rows[1], plans[0].actions[:, 1])
    whole = engine.start({"vector": seen}, np.stack(rows, 1), seeds=[4, 5])
    for key, value in whole.slabs.recurrent.items():
        torch.testing.assert_close(control.state.slabs.recurrent[key], value)
    ahead = np.zeros((2, 3, 1))
    one, other = (engine.rollout(s.fork(1), ahead)[1].observation["vector"] for s in (whole, control.state))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_controllers_are_used_in_turns():
    control = Controller(tiny(CHOICES), Return(), make_planner("random", horizon=2, candidates=2))
    with pytest.raises(StateError, match="begins with"):
        control.act()
    control.begin({"vector": np.zeros((1, 2), np.float32)})
    with pytest.raises(StateError, match="nothing to see"):
        control.see({"vector": np.zeros((1, 2), np.float32)})
    control.act()
    with pytest.raises(StateError, match="in turns"):
        control.act()
    with pytest.raises(ConfigError, match="execute is 3"):
        Controller(tiny(CHOICES), Return(), make_planner("random", horizon=2), execute=3)
    with pytest.raises(UnknownName, match="icem"):
        Controller(tiny(CHOICES), Return(), "icme")


def test_a_linear_system_is_steered_to_rest():
    model = Linear()
    planner = make_planner("icem", horizon=8, candidates=60, iterations=4, spread=0.3, floor=0.0)
    state, start, total = STARTS, None, 0.0
    for _ in range(25):
        found = planner.plan(model, state, Return(), start=start)
        start = found.shifted()
        state, frame = model.rollout(state, found.actions[:, :1])
        total += frame.reward[:, 0]
    cost, _ = model.best(STARTS.x, 25)
    np.testing.assert_allclose(-total, cost, rtol=0.1)


def test_a_policy_plans_while_it_is_recorded(tmp_path):
    env = make("CartPole-v1")
    spec = terrella.arenas.describe(env)
    torch.manual_seed(0)
    engine = Engine(shaken(World(spec, world_config("debug", spec), "cart")))
    policy = MPC(engine, Return(), make_planner("random", horizon=3, candidates=4), execute=2)
    settings = {"episodes": 2, "max_episode_steps": 6, "save_states": False}
    one = record("CartPole-v1", tmp_path / "a", policy=policy, **settings)
    two = record("CartPole-v1", tmp_path / "b", policy=policy, **settings)
    for i in range(2):
        assert np.array_equal(one.episode(i).actions, two.episode(i).actions)
    with pytest.raises(SpecError, match="streams"):
        policy.prepare(replace(spec, action=NUMBERS), env)
    with pytest.raises(ActionError, match="beside it"):
        policy.prepare(spec, None)
    with pytest.raises(ConfigError, match="execute"):
        MPC(engine, Return(), make_planner("random", horizon=3), execute=9)


# the true environment


def test_planning_in_the_true_environment_leaves_it_where_it_is():
    env, twin = make("CartPole-v1"), make("CartPole-v1")
    first, _ = env.reset(seed=1)
    twin.reset(seed=1)
    model = Simulator(env)
    planner = make_planner("random", horizon=10, candidates=12, iterations=1)
    control = Controller(model, Return() + Function(lambda f: np.abs(f.observation["vector"][..., 2]).sum(1)), planner)
    control.begin({"vector": first[None]})
    for _ in range(12):
        row = control.act()
        seen, *rest = env.step(int(row[0, 0]))
        other, *same = twin.step(int(row[0, 0]))
        assert np.array_equal(seen, other)
        assert rest[:3] == same[:3]
        control.see({"vector": seen[None]})
    assert control.state.time.item() == 13
    assert not rest[1]


def test_a_true_future_ends_as_the_episode_does():
    env = make("CartPole-v1")
    env.reset(seed=1)
    model = Simulator(env)
    state = model.start(seeds=7)
    after, frame = model.rollout(state.fork(2), np.stack([np.zeros((20, 1)), np.arange(20)[:, None] % 2]))
    fell = int(frame.terminated[0].argmax())
    assert 5 < fell < 15
    assert frame.reward[0].sum() == fell + 1
    assert (frame.terminated[0, fell:] == 1).all()
    assert (frame.observation["vector"][0, fell:] == frame.observation["vector"][0, fell]).all()
    assert after.ended.tolist() == [True, False]
    whole, more = model.rollout(after.select([1]), np.zeros((1, 3, 1)))
    assert whole.time.item() == 24
    _, straight = model.rollout(state, np.concatenate([np.arange(20) % 2, np.zeros(3)])[None, :, None])
    assert np.array_equal(straight.observation["vector"][:, 20:], more.observation["vector"])
    with pytest.raises(StateError, match="select"):
        state.select([1])
    with pytest.raises(ConfigError, match="2 seeds"):
        model.start(seeds=[1, 2])
    with pytest.raises(ArenaError, match="cannot be saved"):
        Simulator(make(Unsaved))


class Unsaved(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parent.parent / "docs/planning.md").read_text()
    example = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S))
    shorter = {"steps=3000": "steps=450", '"20s"': '"4steps", preset="debug", device="cpu"', "steps=200": "steps=3"}
    shorter |= {'"30s"': '"3steps", progress=False, width=16'}
    for long, short in shorter.items():
        assert long in example
        example = example.replace(long, short)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert "(2, 12, 1)" in capsys.readouterr().out
