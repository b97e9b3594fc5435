"""Choosing among plans, in a world whose chance can be exploited."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_planning_tree import Values, begun, tiny

from terrella.actions import action_spec
from terrella.engine import Frame
from terrella.errors import ConfigError, UnknownName
from terrella.planning import Controller, Return, Space, make_planner, plan
from terrella.planning.select import medoid, verified
from terrella.spec import ActionSpec, StreamSpec, WorldSpec


class Keyed(Values):
    def select(self, indices):
        return Keyed(**vars(super().select(indices)))

    def reseed(self, seeds):
        return replace(self, seeds=torch.tensor(list(seeds)))


class Luck:
    """A step pays minus the square of its number, and a wave of it whose phase is chance."""

    spec = WorldSpec(
        {"vector": StreamSpec("vector", (1,))}, ActionSpec("box", shape=(1,), low=(-2.0,), high=(2.0,), dtype="float32")
    )
    steps = 1

    def __init__(self):
        self.rows = 0

    def rollout(self, state, actions, *, observe=True):
        self.rows += actions.shape[0] * actions.shape[1] * self.steps
        phase = state.seeds.numpy()[:, None] * 2.399
        reward = 1.5 * np.sin(20 * actions[..., 0] + phase) - np.square(actions[..., 0])
        return state, Frame({}, reward, np.zeros(reward.shape))


def keyed(batch):
    return Keyed(np.zeros(batch), torch.arange(batch) + 3, torch.zeros(batch, dtype=torch.int64))


INNER = {"inner": "random", "settings": {"candidates": 6, "iterations": 1}, "plans": 5}


def candidates(state):
    found = [plan(Luck(), state, Return(), "random", horizon=2, candidates=6, iterations=1, seed=p) for p in range(5)]
    return np.stack([p.actions for p in found], 1), np.stack([p.cost for p in found], 1)


@pytest.mark.parametrize("rule", ["cost", "consensus", "mean", "worst"])
def test_each_rule_chooses_as_it_says(rule):
    state = keyed(12)
    rows, own = candidates(state)
    found = plan(Luck(), state, Return(), "verified", horizon=2, rule=rule, keys=7, **INNER)
    cost, b = own, np.arange(12)
    if rule in ("mean", "worst"):
        keys = [[int(seed) * 1_000_003 + 1 + k for seed in state.seeds] for k in range(7)]
        many = [-Luck().rollout(state.reseed(k), rows[:, p])[1].reward.sum(1) for k in keys for p in range(5)]
        cost = (np.mean if rule == "mean" else np.max)(np.reshape(many, (7, 5, 12)), 0).T
    index = cost.argmin(1)
    if rule == "consensus":
        index = np.abs(rows[:, :, None] - rows[:, None]).sum((2, 3, 4)).argmin(1)
    np.testing.assert_array_equal(found.actions, rows[b, index])
    np.testing.assert_allclose(found.cost, cost[b, index])
    np.testing.assert_allclose(found.trace.mean, own.T)
    assert (found.trace.best[-1] == found.cost).all()


def test_what_other_chance_confirms_holds_under_chance_never_seen():
    state, fresh = keyed(40), 1_000
    earned = {}
    for rule in ("cost", "mean"):
        rows = plan(Luck(), state, Return(), "verified", horizon=2, rule=rule, keys=16, **INNER).actions
        phases = np.random.default_rng(0).integers(0, 1 << 30, (fresh, 40))
        earned[rule] = np.mean([Luck().rollout(state.reseed(p), rows)[1].reward.sum(1).mean() for p in phases])
    assert earned["mean"] > earned["cost"] + 0.15


def test_the_medoid_counts_choices_and_ranges():
    space = Space(action_spec(spaces.Tuple([spaces.Discrete(3), spaces.Box(-10, 10, (1,))])))
    rows = np.array([[[[0, 0.0]], [[0, 9.0]], [[2, 1.0]], [[0, 4.0]]]])
    assert medoid(space, rows).tolist() == [3]
    assert medoid(space, np.repeat(rows[:, :1], 3, 1)).tolist() == [0]


def test_budgets_pay_for_verifying():
    for budget in (5 * 4 * 2 + 5 * 2, 137, 500):
        model = Luck()
        found = plan(model, keyed(1), Return(), "verified", horizon=2, budget_steps=budget, **INNER)
        assert found.trace.steps[-1] == model.rows <= budget
        assert model.rows > budget - 10
    with pytest.raises(ConfigError, match="verifying 5 plans takes 40"):
        plan(Luck(), keyed(1), Return(), "verified", horizon=2, budget_steps=40, **INNER)
    with pytest.raises(ConfigError, match="another one"):
        make_planner("verified", inner="verified")
    with pytest.raises(UnknownName):
        make_planner("verified", inner="icme")
    with pytest.raises(ConfigError, match="candidate"):
        make_planner("verified", settings={"candidate": 3})


def test_the_engine_verifies_and_controls():
    engine = tiny()
    state, untouched = begun(engine), begun(engine)
    rows = np.array([[0.0, 1.0], [2.0, 2.0], [1.0, 0.0]])[None, ..., None].repeat(2, 0)
    many = verified(engine, state, rows, Return(), 3)
    assert many.shape == (3, 2, 3)
    assert (np.abs(np.diff(many, axis=0)) > 0).any()
    for key, value in untouched.slabs.recurrent.items():
        assert torch.equal(state.slabs.recurrent[key], value)
    for name, settings in (
        ("verified", {"inner": "random", "settings": {"candidates": 4}, "plans": 2, "keys": 2}),
        ("beam", {"width": 3}),
        ("best_first", {"expansions": 5}),
        ("mcts", {"simulations": 6}),
    ):
        control = Controller(engine, Return(), make_planner(name, horizon=3, **settings))
        control.begin({"vector": np.zeros((2, 2), np.float32)})
        for _ in range(3):
            assert control.act().shape == (2, 1)
            control.see({"vector": np.zeros((2, 2), np.float32)})
