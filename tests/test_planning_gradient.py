"""Descent through the world against Riccati and finite differences; objectives of tensors against those of arrays."""

import numpy as np
import pytest
import torch
from test_planning import Linear, values

import terrella
from terrella import Engine
from terrella.engine import Dream
from terrella.errors import ActionError, ConfigError, UnknownName
from terrella.laws import shaken
from terrella.planning import (
    Constraint,
    Distance,
    Effort,
    Feasibility,
    Function,
    Future,
    Return,
    feasibility,
    make_planner,
    plan,
)
from terrella.planning.smooth import SmoothFuture, smooth_cost
from terrella.registry import lookup, names
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import Part, World, WorldConfig

STARTS = values([[1.0, 0.0], [-0.7, 0.5], [0.2, -1.0]])
NUMBERS = ActionSpec("box", shape=(2,), low=(-1.0, -2.0), high=(1.0, 2.0), dtype="float32")


class Smooth(Linear):
    """The linear system, in tensors, too."""

    def dream(self, state, actions, *, observe=True):
        self.evaluations += actions.shape[0] * actions.shape[1] * self.steps
        self.largest = max(self.largest, len(actions))
        x, (A, B, Q, R) = torch.from_numpy(state.x), map(torch.from_numpy, (self.A, self.B, self.Q, self.R))
        seen, reward = [], []
        for u in actions.unbind(1):
            x = x @ A.T + u @ B.T
            reward.append(-((x @ Q) * x).sum(1) - ((u @ R) * u).sum(1))
            seen.append(x)
        states, rewards = torch.stack(seen, 1), torch.stack(reward, 1)
        return Dream({"vector": states} if observe else {}, rewards, 0 * rewards, states[:, :, None])


# a known optimum


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_a_linear_system_reaches_the_riccati_solution(bounds):
    model = Smooth()
    cost, actions = model.best(STARTS.x, 6)
    found = make_planner("gradient", horizon=6, iterations=60, bounds=bounds).plan(model, STARTS, Return())
    np.testing.assert_allclose(found.cost, cost, rtol=1e-6)
    np.testing.assert_allclose(found.actions, actions, atol=1e-3)
    np.testing.assert_allclose(found.cost, -model.rollout(STARTS, found.actions)[1].reward.sum(1))
    assert (np.diff(found.trace.best, axis=0) <= 0).all()
    assert (np.diff(found.trace.mean, axis=0) <= 0).all()
    if bounds == "clip":  # a start near a bound, where a tanh is flat, stays there for long
        assert (found.trace.spread[-1] < 0.1 * found.trace.spread[0]).all()


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_bounds_are_kept_and_reached(bounds):
    far = Distance({"vector": np.array([0.0, 50.0])})
    found = plan(Smooth(), STARTS, far, "gradient", horizon=3, iterations=40, bounds=bounds)
    assert (np.abs(found.actions) <= 4).all()
    np.testing.assert_allclose(found.actions, 4.0, atol=0.01 if bounds == "clip" else 0.2)


# values


def test_equal_seeds_give_equal_plans_in_any_company():
    settings = {"horizon": 5, "iterations": 6, "restarts": 3}
    one = plan(Smooth(), STARTS, Return(), "gradient", **settings)
    assert np.array_equal(one.actions, plan(Smooth(), STARTS, Return(), "gradient", **settings).actions)
    assert not np.array_equal(
        one.trace.mean, plan(Smooth(), STARTS, Return(), "gradient", seed=1, **settings).trace.mean
    )
    model = Smooth()
    few = plan(model, STARTS, Return(), "gradient", max_rows=2, **settings)
    assert model.largest == 2
    np.testing.assert_allclose(one.actions, few.actions, atol=1e-9)
    for b in range(3):
        alone = plan(Smooth(), STARTS.select([b]), Return(), "gradient", **settings)
        np.testing.assert_allclose(one.actions[b], alone.actions[0], atol=1e-9)


def test_a_start_is_never_made_worse_and_budgets_are_kept():
    model = Smooth()
    cost, best = model.best(STARTS.x, 6)
    kept = plan(model, STARTS, Return(), "gradient", start=best, horizon=6, iterations=1)
    assert (kept.cost <= cost + 1e-12).all()
    for budget in (12, 100, 500):
        model = Smooth()
        model.steps = 2
        found = plan(model, STARTS, Return(), "gradient", horizon=6, budget_steps=budget)
        assert found.trace.steps[-1] * 3 == model.evaluations
        assert budget - 4 * 12 < found.trace.steps[-1] <= budget
    ticks = iter(range(1000))
    planner = make_planner("gradient", horizon=3)
    found = planner.plan(Smooth(), STARTS, Return(), budget_ms=95, clock=lambda: next(ticks) / 100)
    assert 1 < len(found.trace.best) < 6


def test_what_has_no_gradient_is_refused():
    with pytest.raises(ConfigError, match="one start takes 6"):
        plan(Smooth(), STARTS, Return(), "gradient", horizon=6, budget_steps=11 // 2)
    with pytest.raises(ConfigError, match="write it with torch"):
        plan(Smooth(), STARTS, lambda f: np.square(f.rows).sum((1, 2)), "gradient")
    with pytest.raises(ConfigError, match="gradient needs a tensor"):
        plan(Smooth(), STARTS, lambda f: f.rows.sum(), "gradient")
    with pytest.raises(ConfigError, match="rate"):
        make_planner("gradient", rate=0.0)
    engine, state = begun(tiny("transformer", ActionSpec("discrete", n=3)))
    with pytest.raises(ConfigError, match="choices"):
        plan(engine, state, Return(), "gradient")
    engine, state = begun(tiny("transformer"), memory="window")
    with pytest.raises(ConfigError, match="bounded memory"):
        plan(engine, state, Return(), "gradient")


# objectives


@pytest.mark.parametrize(
    "objective",
    [
        Return(0.9),
        Effort(),
        Distance({"vector": np.array([0.5, -1.0])}),
        Distance({"vector": np.ones((2, 2))}, when="sum", norm="l1", scale={"vector": np.array([2.0, np.inf])}),
        Distance({"pixels": np.full((2, 2, 3), 40, np.uint8)}, when="sum"),
        2.0 * Return() + Constraint(lambda f: f.rows[..., 0] - 0.1),
        Function(lambda f: f.reward.sum(1) ** 2),
    ],
)
def test_objectives_of_tensors_are_those_of_arrays(objective):
    rng = np.random.default_rng(0)
    rows, reward, ends = rng.normal(size=(4, 5, 2)), rng.normal(size=(4, 5)), rng.uniform(size=(4, 5))
    pixels, problem = rng.integers(0, 256, (4, 5, 2, 2, 3)).astype(np.uint8), np.array([0, 0, 1, 1])
    vector = rng.normal(size=(4, 5, 2))
    cost = objective.cost(Future(rows, reward, ends, {"vector": vector, "pixels": pixels}, problem))
    seen = {"vector": torch.from_numpy(vector), "pixels": torch.from_numpy(pixels / 255)}
    smooth = SmoothFuture(*map(torch.from_numpy, (rows, reward, ends)), seen, problem)
    np.testing.assert_allclose(smooth_cost(objective, smooth).numpy(), cost, rtol=1e-5)
    if isinstance(objective, Distance):
        with pytest.raises(UnknownName):
            smooth_cost(Distance({"vektor": np.zeros(2)}), smooth)


# the engine

SETTINGS = {"transformer": [{}, {"window": 2, "history": 4, "fetch": 2}]}
BACKBONES = [(n, s) for n in names("dynamics") if lookup("dynamics", n).differentiable for s in SETTINGS.get(n, [{}])]


def tiny(name, action=NUMBERS, **settings):
    torch.manual_seed(0)
    spec = WorldSpec({"vector": StreamSpec("vector", (2,))}, action)
    config = world_config("debug", spec)
    own = config.dynamics.config if config.dynamics.name == name else {}
    return shaken(World(spec, WorldConfig(Part(name, {**own, **settings}), config.decoder, config.tokenizers), "tiny"))


def begun(world, batch=2, **settings):
    engine = Engine(world, **settings)
    seen = np.random.default_rng(0).normal(size=(batch, 3, 2)).astype(np.float32)
    width = 2 if engine.spec.action.kind == "box" else 1
    return engine, engine.start({"vector": seen}, np.zeros((batch, 2, width)), seeds=3)


@pytest.mark.parametrize(("name", "settings"), BACKBONES, ids=str)
def test_gradients_are_those_of_finite_differences(name, settings):
    engine, state = begun(tiny(name, **settings).double())
    assert engine.dtype == torch.float64
    rows = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, 6, 2))).requires_grad_()

    def total(actions):
        dreamed = engine.dream(state, actions)
        ends = dreamed.observation["vector"][:, -1].square().sum()
        return dreamed.reward.square().sum() + dreamed.terminated.sum(), ends

    (one, other), eps = total(rows), 1e-5
    (slope,) = torch.autograd.grad(one, rows, retain_graph=True)
    (seen,) = torch.autograd.grad(other, rows)
    assert slope.abs().max() > 1e-6
    assert seen.abs().max() > 1e-6
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            up, down = total(rows + eps * way)[0], total(rows - eps * way)[0]
        torch.testing.assert_close((slope * way).sum(), (up - down) / (2 * eps), rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize(("name", "settings"), BACKBONES, ids=str)
def test_a_dream_is_a_rollout(name, settings):
    engine, state = begun(tiny(name, **settings))
    rows = np.random.default_rng(1).uniform(-1, 1, (4, 5, 2)).astype(np.float32)
    forked = state.fork(2)
    dreamed = engine.dream(forked, torch.from_numpy(rows))
    assert not forked.spent
    _, frame = engine.rollout(forked, rows)
    np.testing.assert_allclose(dreamed.reward.detach(), frame.reward, atol=1e-4)
    np.testing.assert_allclose(dreamed.terminated.detach(), frame.terminated, atol=1e-4)
    np.testing.assert_allclose(dreamed.observation["vector"].detach(), frame.observation["vector"], atol=1e-3)


def test_descent_improves_plans_in_a_world_and_leaves_its_state():
    engine, state = begun(tiny("transformer"))
    _, untouched = begun(tiny("transformer"))
    goal = Distance({"vector": np.array([0.5, -0.5])}) + 0.01 * Effort()
    found = terrella.plan(engine, state, goal, "gradient", horizon=4, iterations=12, restarts=2)
    assert (np.diff(found.trace.best, axis=0) <= 0).all()
    assert (found.trace.best[-1] < found.trace.best[0]).all()
    for key, value in untouched.slabs.recurrent.items():
        assert torch.equal(state.slabs.recurrent[key], value)
    _, frame = engine.rollout(state, found.actions)
    cost = goal.cost(Future(found.actions, frame.reward, frame.terminated, frame.observation, np.arange(2)))
    np.testing.assert_allclose(cost, found.cost, rtol=1e-3)
    with pytest.raises(ActionError):
        engine.dream(untouched, torch.zeros(2, 3, 5))


def test_a_rollout_is_led_to_a_constraint_and_says_whether_it_holds():
    """Towards a far goal, but slowly: what the penalty asks for holds, and without it does not."""
    far = Distance({"vector": np.array([0.0, 50.0])})
    slow = far + Constraint(lambda f: abs(f.rows[..., 0]) - 0.5)
    slow = slow + Constraint(lambda f: f.observation["vector"][..., 1] - 1)
    free, kept = (plan(Smooth(), STARTS, wanted, "gradient", horizon=3, iterations=60) for wanted in (far, slow))
    loose, tight = (feasibility(Smooth(), STARTS, p, slow, tolerance=0.05) for p in (free, kept))
    assert loose.g.shape == (3, 2, 3)
    assert not loose.holds.any()
    assert (loose.g > 0.1).any((0, 2)).all()  # neither would hold by itself
    assert tight.holds.all()
    assert (tight.excess < loose.excess).all()
    assert str(loose).startswith("0 of 3 plans are feasible; the largest excess is 3.5")
    assert str(tight).startswith("3 of 3")
    with pytest.raises(ConfigError, match="no Constraint"):
        feasibility(Smooth(), STARTS, free, far)


def test_what_comes_after_an_end_can_no_longer_be_violated():
    g = np.array([[[-1.0, 2.0, 3.0]], [[-1.0, 2.0, 3.0]]])
    found = Feasibility(g, np.array([[True, False, False], [True, True, False]]))
    assert found.holds.tolist() == [True, False]
    assert found.excess.tolist() == [-1.0, 2.0]
    assert str(found) == "1 of 2 plans are feasible; the largest excess is 2, of plan 1 at step 2 of 3"
