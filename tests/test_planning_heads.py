"""Heads in planners: what objectives of latents cost, gradients through them, trees, proposals, and choice by heads."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from terrella import Engine, heads, plan
from terrella.actions import action_spec
from terrella.arenas import make
from terrella.errors import ConfigError, WorldError
from terrella.planning import (
    MCTS,
    Beam,
    Disagreement,
    Effort,
    Energy,
    Future,
    Inconsistency,
    PolicyPrior,
    Return,
    Simulator,
    StateValue,
    Value,
    make_planner,
    propose,
)
from terrella.planning.base import imagine
from terrella.planning.smooth import SmoothFuture, smooth_cost
from terrella.registry import lookup
from terrella.spec import StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

KINDS = ("value", "policy", "inverse", "energy")


def untrained(space: spaces.Space, frames: int = 2) -> World:
    """A world that has learned nothing, with heads that have not either: all is as chance left it."""
    torch.manual_seed(0)
    spec = WorldSpec({"vector": StreamSpec("vector", (3,))}, action_spec(space))
    world = World(spec, world_config("debug", spec, "regression")).eval().requires_grad_(False)
    for kind in KINDS:
        cls = lookup("head", kind)
        world.heads[kind] = cls(cls.Config(frames=frames, width=16), world.tokens, spec.action).requires_grad_(False)
    for parameter in world.parameters():  # outcomes begin at zero
        if not parameter.any():
            parameter.normal_(std=0.3)
    return world


def begun(engine: Engine, batch: int = 2):
    frames = np.random.default_rng(0).normal(size=(batch, 2, 3)).astype(np.float32)
    return engine.start({"vector": frames}, np.zeros((batch, 1, 1)), seeds=5)


@pytest.fixture(scope="module")
def numbers():
    engine = Engine(untrained(spaces.Box(-2, 2, (1,))), recall=2)
    return engine, begun(engine)


@pytest.fixture(scope="module")
def choices():
    engine = Engine(untrained(spaces.Discrete(3)), recall=2)
    return engine, begun(engine)


def imagined(engine, state, rows) -> tuple[Future, SmoothFuture]:
    """The same futures, with and without gradients."""
    _, frame = engine.rollout(state.fork(1), rows)
    past, problem = engine.recent(state), np.arange(len(rows))
    smooth = engine.dream(state, torch.from_numpy(rows))
    trail = past.then(smooth.latent, torch.from_numpy(rows))
    return (
        Future(rows, frame.reward, frame.terminated, {}, problem, past.then(frame.latent, rows)),
        SmoothFuture(torch.from_numpy(rows), smooth.reward, smooth.terminated, {}, problem, trail),
    )


def test_a_value_counts_after_the_horizon_and_only_if_one_lives(numbers):
    engine, state = numbers
    head = engine.world.head("value")
    rows = np.random.default_rng(1).uniform(-2, 2, (2, 3, 1))
    future, _ = imagined(engine, state, rows)
    value = head(head.last(future.trail)).numpy()
    lives = np.prod(1 - future.terminated.astype(np.float64), 1)
    assert (lives < 0.97).all()
    np.testing.assert_allclose(Value(head).cost(future), -(0.99**3) * lives * value, rtol=1e-5)
    np.testing.assert_allclose(Value(head, 0.5).cost(future), -(0.5**3) * lives * value, rtol=1e-5)
    both = Return(0.99) + 2 * Value(head)
    np.testing.assert_allclose(both.cost(future), Return(0.99).cost(future) + 2 * Value(head).cost(future))
    dead = Future(rows, future.reward, np.ones_like(future.terminated), {}, future.problem, future.trail)
    assert (Value(head).cost(dead) == 0).all()
    assert not both.observe


def test_steps_are_judged_in_the_windows_that_end_there(numbers):
    engine, state = numbers
    rows = np.random.default_rng(1).uniform(-2, 2, (2, 3, 1))
    future, _ = imagined(engine, state, rows)
    energy, weight = engine.world.head("energy"), future.alive / future.alive.sum(1, keepdims=True)
    each = [
        energy(type(future.trail)(future.trail.z[:, t : t + 2], future.trail.rows[:, t : t + 2])) for t in (1, 2, 3)
    ]
    want = (weight * torch.stack(each, 1).numpy()).sum(1)
    np.testing.assert_allclose(Energy(energy).cost(future), want, rtol=1e-4)


@pytest.mark.parametrize("kind", [Value, Energy, Inconsistency, Disagreement])
def test_costs_have_gradients_and_batches_change_nothing(numbers, kind):
    engine, state = numbers
    head = engine.world.head(
        {"Value": "value", "Disagreement": "value", "Energy": "energy"}.get(kind.__name__, "inverse")
    )
    rows = np.random.default_rng(1).uniform(-2, 2, (2, 3, 1))
    future, smooth = imagined(engine, state, rows)
    objective = kind(head)
    np.testing.assert_allclose(smooth_cost(objective, smooth).detach(), objective.cost(future), rtol=1e-3, atol=1e-4)
    alone = Future(*(x[1:] for x in (rows, future.reward, future.terminated)), {}, None, future.trail.take([1]))
    np.testing.assert_allclose(objective.cost(alone), objective.cost(future)[1:], rtol=1e-5)
    x = torch.from_numpy(rows).requires_grad_()
    dreamed = engine.dream(state, x)
    seen = SmoothFuture(
        x, dreamed.reward, dreamed.terminated, {}, np.arange(2), engine.recent(state).then(dreamed.latent, x)
    )
    (slope,) = torch.autograd.grad(smooth_cost(objective, seen).sum(), x)
    assert (slope.abs() > 0).all()
    moved = rows.copy()
    moved[0, 1, 0] += 1e-2
    rise = objective.cost(imagined(engine, state, moved)[0])[0] - objective.cost(future)[0]
    np.testing.assert_allclose(rise / 1e-2, slope[0, 1, 0], rtol=0.1, atol=2e-3)


def test_every_planner_takes_objectives_of_latents(numbers, choices):
    for (engine, state), names in ((numbers, ("icem", "gradient", "mppi")), (choices, ("icem", "beam", "mcts"))):
        objective = Return(0.99) + Value(engine.world.head("value")) + 0.1 * Energy(engine.world.head("energy"))
        for name in names:
            found = plan(engine, state, objective, name, horizon=3, **({} if name != "icem" else {"candidates": 8}))
            cost = imagine(engine, state, found.actions[:, None], objective, 8)[:, 0]
            np.testing.assert_allclose(found.cost, cost, rtol=1e-3, atol=1e-4)
            alone = (
                plan(engine, state.select([1]), objective, name, horizon=3, candidates=8) if name == "icem" else None
            )
            assert alone is None or np.array_equal(alone.actions[0], found.actions[1])


def test_trees_take_values_and_priors_from_heads(choices):
    engine, state = choices
    value = engine.world.head("value")
    tail = Beam(Beam.Config(horizon=3, width=100, discount=0.99), StateValue(value)).plan(engine, state, Return(0.99))
    whole = Beam(Beam.Config(horizon=3, width=100)).plan(engine, state, Return(0.99) + Value(value))
    np.testing.assert_allclose(tail.cost, whole.cost, rtol=1e-4)
    assert np.array_equal(tail.actions, whole.actions)
    policy = engine.world.head("policy")
    prior = PolicyPrior(policy)
    rows = np.broadcast_to(np.arange(3.0)[:, None], (2, 3, 1))
    want = policy(policy.last(engine.recent(state))).log_probs[:, 0].exp()
    np.testing.assert_allclose(prior.over(engine.recent(state), rows), want, rtol=1e-5)
    policy.net.leave[1].bias[1] += 50.0  # sure of one action
    settings = MCTS.Config(horizon=4, simulations=6)
    found = MCTS(settings, prior=prior).plan(engine, state, lambda f: np.zeros(len(f.rows)))
    policy.net.leave[1].bias[1] -= 50.0
    assert (found.actions == 1).all()


def test_proposals_follow_the_policy(numbers, choices):
    for engine, state in (numbers, choices):
        policy = engine.world.head("policy")
        rows = propose(engine, state, policy, 4, 3, seed=2)
        assert rows.shape == (2, 3, 4, 1)
        np.testing.assert_allclose(propose(engine, state.select([1]), policy, 4, 3, seed=2)[0], rows[1], atol=1e-4)
        assert not np.array_equal(propose(engine, state, policy, 4, 3, seed=3), rows)
        np.testing.assert_allclose(propose(engine, state, policy, 4)[:, 0], rows[:, 0], atol=1e-4)
        laws, now = [], state.fork(1)
        for t in range(4):
            laws.append(policy.law.mode(policy(policy.last(engine.recent(now)))).numpy())
            now, _ = engine.rollout(now, rows[:, 0, t : t + 1])
        np.testing.assert_allclose(rows[:, 0], np.clip(np.stack(laws, 1), -2, 2), atol=1e-5)
        many = propose(engine, state, policy, 1, 400)[0, :, 0, 0]
        first = policy(policy.last(engine.recent(state)))
        if len(policy.law.numbers):
            assert abs(np.median(many) - first.mean[0, 0].item()) < 0.2
        else:
            share = np.array([(many[1:] == c).mean() for c in range(3)])
            np.testing.assert_allclose(share, first.log_probs[0, 0].exp(), atol=0.08)


def test_a_guided_search_is_never_worse_than_what_was_proposed(numbers):
    engine, state = numbers
    rows = propose(engine, state, engine.world.head("policy"), 5, 4)
    cost = imagine(engine, state, rows, Return(), 64).min(1)
    settings = {"horizon": 5, "proposals": 4, "settings": {"candidates": 4, "iterations": 2}}
    found = plan(engine, state, Return(), "guided", **settings)
    assert (found.cost <= cost).all()
    np.testing.assert_allclose(found.trace.best[0], cost, rtol=1e-6)
    price = 4 * (4 + 5)
    assert found.trace.steps[0] == price
    bounded = plan(engine, state, Return(), "guided", budget_steps=price + 22, **settings)
    assert bounded.trace.steps[-1] == price + 20
    again = plan(engine, state, Return(), "guided", start=found, **settings)
    assert (again.cost <= found.cost).all()
    with pytest.raises(ConfigError, match="proposals alone take 36"):
        plan(engine, state, Return(), "guided", budget_steps=36, **settings)


@pytest.mark.parametrize(
    ("rule", "kind"), [("inverse", Inconsistency), ("energy", Energy), ("disagreement", Disagreement)]
)
def test_heads_choose_among_plans(numbers, rule, kind):
    engine, state = numbers
    settings = {"horizon": 4, "plans": 5, "keys": 2, "settings": {"candidates": 2, "iterations": 1}}
    found = plan(engine, state, Effort(), "verified", rule=rule, **settings)
    inner = make_planner("icem", horizon=4, candidates=2, iterations=1)
    plans = [inner.plan(engine, state, Effort(), seed=p) for p in range(5)]
    head = engine.world.head("value" if rule == "disagreement" else rule)
    each = np.stack([imagine(engine, state, p.actions[:, None], kind(head), 8)[:, 0] for p in plans])  # without chance
    for b in range(2):
        assert np.array_equal(found.actions[b], plans[each[:, b].argmin()].actions[b])
        assert found.cost[b] == plans[each[:, b].argmin()].cost[b]


def test_mistakes_are_told(numbers):
    engine, state = numbers
    world = engine.world
    bare = Engine(world)
    with pytest.raises(ConfigError, match=r"Engine\(world, recall=4\)"):
        plan(bare, begun(bare), Return() + Value(world.head("value")), horizon=2)
    short = Engine(world, recall=1)
    assert plan(short, begun(short), Energy(world.head("energy")), horizon=2, candidates=2).cost.shape == (2,)
    with pytest.raises(ConfigError, match=r"reads 2 frames.*recall=2"):
        propose(short, begun(short), world.head("policy"), 2)
    with pytest.raises(ConfigError, match="horizon is 0"):
        propose(engine, state, world.head("policy"), 0)
    with pytest.raises(ConfigError, match="another one than this"):
        make_planner("guided", inner="guided")
    with pytest.raises(ConfigError, match="temperature"):
        PolicyPrior(world.head("policy"), 0.0)
    env = make("Pendulum-v1")
    env.reset(seed=0)
    model = Simulator(env)
    for name, more in (("guided", {}), ("verified", {"rule": "inverse"})):
        with pytest.raises(ConfigError, match="this is a Simulator"):
            plan(model, model.start(), Return(), name, horizon=2, **more)
    with pytest.raises(ConfigError, match="heads read latents"):
        plan(model, model.start(), Value(world.head("value")), horizon=2, candidates=2)
    torch.manual_seed(0)
    none = World(world.spec, world.config)
    engine = Engine(none.eval().requires_grad_(False), recall=2)
    with pytest.raises(WorldError, match="no inverse head"):
        plan(engine, begun(engine), Return(), "verified", rule="inverse", horizon=2)


def test_heads_have_a_place_in_the_package():
    assert {lookup("head", kind) for kind in KINDS} == {heads.Value, heads.Policy, heads.Inverse, heads.Energy}
