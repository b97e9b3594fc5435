"""Tree searches against all sequences there are, on exact worlds and on the real engine."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch

import terrella
from terrella import Engine
from terrella.engine import Frame
from terrella.errors import ConfigError
from terrella.laws import shaken
from terrella.planning import MCTS, Distance, Effort, Function, Future, Return, make_planner, plan
from terrella.planning.nodes import Store, action_sets, cheapest
from terrella.planning.search import Space
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World


@dataclass(frozen=True)
class Values:
    """A state of the exact worlds below: a number a session."""

    x: np.ndarray
    seeds: torch.Tensor
    time: torch.Tensor

    @property
    def batch(self):
        return len(self.x)

    def fork(self, n=1):
        return self.select(np.repeat(np.arange(self.batch), n))

    def select(self, indices):
        index = np.asarray(indices)
        return Values(self.x[index], self.seeds[index], self.time[index])

    @staticmethod
    def merge(states):
        return Values(
            np.concatenate([s.x for s in states]),
            torch.cat([s.seeds for s in states]),
            torch.cat([s.time for s in states]),
        )

    def digest(self, tolerance, whole=True):
        return torch.from_numpy(np.rint(self.x.reshape(self.batch, -1)[:, 0] / tolerance).astype(np.int64))


def values(x):
    x = np.asarray(x)
    return Values(x, torch.arange(len(x)) + 5, torch.zeros(len(x), dtype=torch.int64))


class Table:
    """Nine places and three actions, of which some lead to place 4, where the episode ends."""

    spec = WorldSpec({"vector": StreamSpec("vector", (1,))}, ActionSpec("discrete", n=3, start=-1))
    rng = np.random.default_rng(1)
    to, pays = rng.integers(0, 9, (9, 3)), rng.normal(size=(9, 3))
    steps = 1

    def __init__(self):
        self.rows, self.calls, self.largest, self.visited = 0, 0, 0, []

    def rollout(self, state, actions, *, observe=True):
        x, rewards, ends, seen = state.x, [], [], []
        self.rows += actions.shape[0] * actions.shape[1] * self.steps
        self.calls, self.largest = self.calls + 1, max(self.largest, len(x))
        for t in range(actions.shape[1]):
            self.visited += [(int(place), int(when) + t) for place, when in zip(x, state.time)]
            x, reward = self.to[x, actions[:, t, 0].astype(int) + 1], self.pays[x, actions[:, t, 0].astype(int) + 1]
            rewards.append(reward)
            ends.append((x == 4).astype(float))
            seen.append(x[:, None].astype(np.float32))
        frame = Frame({"vector": np.stack(seen, 1)} if observe else {}, np.stack(rewards, 1), np.stack(ends, 1))
        return Values(x, state.seeds, state.time + actions.shape[1]), frame


HORIZON = 5
STATE = values([0, 1, 2, 3, 5, 8])
NEAR = Distance({"vector": np.array([6.0])}, when="sum")
LOOKING = Return() + 0.0 * NEAR


def best(state, objective, horizon=HORIZON):
    """The least cost of all sequences."""
    every = np.array(list(product([-1.0, 0.0, 1.0], repeat=horizon)))[..., None]
    rows = np.tile(every, (state.batch, 1, 1))
    _, frame = Table().rollout(state.fork(len(every)), rows)
    problem = np.repeat(np.arange(state.batch), len(every))
    cost = objective.cost(Future(rows, frame.reward, frame.terminated, frame.observation, problem))
    return cost.reshape(state.batch, -1).min(1)


WHOLE = {
    "beam": {"width": 3**HORIZON},
    "best_first": {"expansions": 3**HORIZON},
    "mcts": {"simulations": 700},
}
MERGING = ["beam", "best_first"]
SMALL = {"beam": {"width": 4}, "best_first": {"expansions": 12}, "mcts": {"simulations": 36}}


def cost_of(model, state, rows, objective):
    _, frame = model.rollout(state.fork(1), rows)
    return objective.cost(Future(rows, frame.reward, frame.terminated, frame.observation, np.arange(state.batch)))


# known optima


@pytest.mark.parametrize("objective", [Return(), NEAR, Return(0.9) + 0.1 * Effort() + NEAR], ids=["r", "d", "sum"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_tree_that_keeps_all_finds_the_best_of_all_sequences(name, objective):
    found = plan(Table(), STATE, objective, name, horizon=HORIZON, **WHOLE[name])
    np.testing.assert_allclose(found.cost, best(STATE, objective))
    np.testing.assert_allclose(cost_of(Table(), STATE, found.actions, objective), found.cost)


def test_rising_costs_end_the_search_at_the_best_plan():
    model, every = Table(), Table()
    found = plan(model, STATE, NEAR, "best_first", horizon=HORIZON, expansions=3**HORIZON, rising=True)
    plan(every, STATE, NEAR, "best_first", horizon=HORIZON, expansions=3**HORIZON)
    np.testing.assert_allclose(found.cost, best(STATE, NEAR))
    assert model.rows < every.rows / 2


def rest_of_the_way():
    """What the best actions pay from each place with 0, 1, ... steps left."""
    rest = [dict.fromkeys(range(9), 0.0)]
    for _ in range(HORIZON):
        after = {p: [Table.pays[p, a] + (q != 4) * rest[-1][q] for a, q in enumerate(Table.to[p])] for p in rest[0]}
        rest.append({p: max(many) for p, many in after.items()})
    return rest


def test_a_perfect_guess_of_what_is_to_come_leads_straight_to_the_best_plan():
    """A* with the exact rest of the way expands only what lies on a best plan."""
    rest = rest_of_the_way()

    def value(future):
        left = HORIZON - future.rows.shape[1]
        return np.array([rest[left][int(p)] for p in future.observation["vector"][:, -1, 0]])

    model = Table()
    planner = type(make_planner("best_first"))(make_planner("best_first", horizon=HORIZON, rising=True).config, value)
    found = planner.plan(model, STATE, LOOKING)
    np.testing.assert_allclose(found.cost, best(STATE, Return()), atol=1e-12)
    assert model.rows <= STATE.batch * 3 * HORIZON
    beam = make_planner("beam", horizon=HORIZON, width=1)
    greedy = type(beam)(beam.config, value).plan(Table(), STATE, LOOKING)
    np.testing.assert_allclose(greedy.cost, best(STATE, Return()), atol=1e-12)


# equal nodes


@pytest.mark.parametrize("name", MERGING)
def test_equal_nodes_are_expanded_once(name):
    one, many = Table(), Table()
    state = values([0])
    settings = {"horizon": 6, **({"width": 500, "max_rows": 4096} if name == "beam" else {"expansions": 2000})}
    found = plan(one, state, Return(), name, merge="memory", **settings)
    plan(many, state, Return(), name, **settings)
    np.testing.assert_allclose(found.cost, best(state, Return(), 6))
    visits = {v: one.visited.count(v) for v in one.visited}
    assert set(visits.values()) == {3}  # each place at each time: once, under three actions
    assert one.rows < many.rows / 2


def test_a_tolerance_decides_what_is_equal():
    class Fine(Table):
        def rollout(self, state, actions, *, observe=True):
            after, frame = super().rollout(replace(state, x=np.rint(state.x).astype(int)), actions, observe=observe)
            return replace(after, x=after.x + np.linspace(0, 1e-4, after.batch)), frame

    rows = []
    for tolerance in (1e-9, 1e-2):
        model = Fine()
        plan(model, values([0.0]), Return(), "beam", horizon=5, width=300, merge="memory", tolerance=tolerance)
        rows.append(model.rows)
    assert rows[1] < rows[0] / 2


# Monte-Carlo tree search


def searched(model, state, objective, prior=None, value=None, **settings):
    planner = make_planner("mcts", horizon=HORIZON, **settings)
    return MCTS(planner.config, value, prior).plan(model, state, objective)


def test_visits_gather_on_the_best_first_action():
    state = values([0, 1, 2])
    every = np.array(list(product([-1.0, 0.0, 1.0], repeat=3)))[..., None]
    cost = cost_of(Table(), state.fork(27), np.tile(every, (3, 1, 1)), Return()).reshape(3, 27)
    planner = make_planner("mcts", horizon=3, simulations=600)
    found = planner.plan(Table(), state, Return())
    policy = found.search.probs[:, 0, 0]
    assert policy.shape == (3, 3)
    assert np.array_equal(policy.argmax(1), cost.argmin(1) // 9)
    np.testing.assert_allclose(policy.sum(1), 1)
    assert (policy.max(1) > 0.6).all()
    assert (found.trace.spread[-1] < 0.7).all()


def test_simulations_take_one_frame_for_each_problem():
    model = Table()
    found = searched(model, STATE, Return(), simulations=40)
    assert model.rows <= STATE.batch * (40 + HORIZON)
    assert len(found.trace.best) == 40
    many = Table()
    searched(many, STATE, Return(), simulations=40, leaves=3)
    assert many.calls < model.calls / 2
    assert many.rows <= STATE.batch * (42 + HORIZON)
    few = Table()
    searched(few, STATE, Return(), simulations=400, max_nodes=20)
    assert few.rows <= STATE.batch * (20 + HORIZON)


def test_three_simulations_are_those_of_the_formula():
    prior = np.array([0.2, 0.5, 0.3])
    brings = Function(lambda f: -f.rows[:, :, 0].sum(1), looks=False)  # -1, 0 or 1 a step
    found = searched(Table(), values([3]), brings, prior, simulations=3, c1=2.0)
    # By hand: (.4, 1, .6) tries action 0; (.4, .5, .6) then 1; (.57, .71, 1 + .42) goes there again, where (.4, 1, .6)
    # tries 0. No plan is whole, so the most visited goes on with its last action.
    np.testing.assert_allclose(found.search.probs[0, 0, 0], [0, 1 / 3, 2 / 3])
    assert found.actions[0, :, 0].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_allclose(found.cost, -1)


def test_priors_and_values_lead():
    rest = rest_of_the_way()
    sure = np.array([0.0, 0.0, 1.0])
    found = searched(Table(), STATE, Return(), sure, simulations=HORIZON)
    assert (found.actions == 1).all()

    def prior(future):
        left, where = HORIZON - future.rows.shape[1], future.observation["vector"][:, -1, 0].astype(int)
        after = np.array([[rest[max(left - 1, 0)][int(q)] for q in Table.to[p]] for p in where])
        brings = Table.pays[where] + (Table.to[where] != 4) * after
        return (brings >= brings.max(1, keepdims=True)).astype(float)

    found = searched(Table(), STATE, LOOKING, prior, simulations=8 * HORIZON)
    np.testing.assert_allclose(found.cost, best(STATE, Return()), atol=1e-12)
    with pytest.raises(ConfigError, match=r"expected \(3,\)"):
        searched(Table(), STATE, Return(), np.ones(2))
    with pytest.raises(ConfigError, match=r"expected \(5, 3\)"):
        searched(Table(), STATE, Return(), lambda f: np.ones(3))


# values


@pytest.mark.parametrize("name", SMALL)
def test_batches_and_parts_change_nothing(name):
    one = plan(Table(), STATE, Return(), name, horizon=HORIZON, **SMALL[name])
    again = plan(Table(), STATE, Return(), name, horizon=HORIZON, **SMALL[name])
    assert np.array_equal(one.actions, again.actions)
    assert np.array_equal(one.trace.mean, again.trace.mean)
    model = Table()
    parts = plan(model, STATE, Return(), name, horizon=HORIZON, branching=3, max_rows=13, **SMALL[name])
    assert np.array_equal(one.actions, parts.actions)
    assert model.largest <= 13
    for b in range(STATE.batch):
        alone = plan(Table(), STATE.select([b]), Return(), name, horizon=HORIZON, **SMALL[name])
        assert np.array_equal(one.actions[b], alone.actions[0])
        assert one.cost[b] == alone.cost[0]


@pytest.mark.parametrize("name", SMALL)
def test_a_start_is_never_made_worse(name):
    good = plan(Table(), STATE, Return(), name, horizon=HORIZON, **WHOLE[name])
    found = plan(Table(), STATE, Return(), name, start=good, horizon=HORIZON, **SMALL[name])
    np.testing.assert_allclose(found.cost, good.cost)
    free = plan(Table(), STATE, Return(), name, horizon=HORIZON, **SMALL[name])
    kept = plan(Table(), STATE, Return(), name, start=free, horizon=HORIZON, budget_steps=HORIZON)
    assert np.array_equal(kept.actions, free.actions)
    assert (found.trace.best[-1] == found.cost).all()
    assert (np.diff(found.trace.best, axis=0) <= 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_refused_beginnings_are_avoided(name):
    never = Function(lambda f: np.where((f.rows > 0).any((1, 2)), np.inf, -f.rows.sum((1, 2))), looks=False)
    found = plan(Table(), STATE, never, name, horizon=HORIZON, **SMALL[name])
    assert (found.actions <= 0).all()
    assert np.isfinite(found.cost).all()
    nothing = plan(Table(), STATE, lambda f: np.full(len(f.rows), np.inf), name, horizon=HORIZON, **SMALL[name])
    assert np.isfinite(nothing.actions).all()
    assert np.isinf(nothing.cost).all()
    with pytest.raises(ConfigError, match="NaN"):
        plan(Table(), STATE, lambda f: np.full(len(f.rows), np.nan), name, horizon=HORIZON)


# budgets


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("budget", [2 * 15, 2 * 31, 2 * 100, 2 * 400])
@pytest.mark.parametrize("warm", [False, True])
def test_budgets_of_steps_are_kept(name, budget, warm):
    model = Table()
    model.steps = 2
    state = values([0])
    start = np.zeros((1, HORIZON, 1)) if warm else None
    settings = {"width": 300} if name == "beam" else {}
    found = plan(model, state, Return(), name, start=start, horizon=HORIZON, budget_steps=budget, **settings)
    assert found.trace.steps[-1] == model.rows <= budget
    if name != "mcts":  # whose simulations may end where they were before
        assert model.rows >= min(budget, 200) * (0.3 if warm else 0.6)
    few = plan(Table(), STATE, Return(), name, start=None, horizon=HORIZON, budget_steps=40, **settings)
    assert few.trace.steps[-1] <= 40


def test_budgets_that_are_too_small_are_refused():
    for name, least in (("beam", 15), ("best_first", 5), ("mcts", 5)):
        plan(Table(), STATE, Return(), name, horizon=5, budget_steps=least)
        with pytest.raises(ConfigError, match=f"least plan takes {least}"):
            plan(Table(), STATE, Return(), name, horizon=5, budget_steps=least - 1)


def test_a_beam_is_narrowed_to_a_budget_of_time():
    now = [0.0]

    class Slow(Table):
        def rollout(self, state, actions, *, observe=True):
            now[0] += state.batch * 1e-3
            return super().rollout(state, actions, observe=observe)

    for budget in (30, 100, 1000):
        now[0], model = 0.0, Slow()
        planner = make_planner("beam", horizon=5, width=50)
        found = planner.plan(model, values([0]), Return(), budget_ms=budget, clock=lambda: now[0])
        assert model.rows <= budget
        assert np.isfinite(found.cost).all()
    now[0], model = 0.0, Slow()
    planner = make_planner("best_first", horizon=5)
    planner.plan(model, values([0]), Return(), budget_ms=30, clock=lambda: now[0])
    assert 20 <= model.rows <= 30 + 5


# what is tried


def test_actions_are_all_there_are_or_drawn():
    state = values([0, 1])
    both = ActionSpec("multi_discrete", shape=(2,), nvec=(3, 2))
    sets = action_sets(Space(both), state, 4, 16, 0, 1.0, 0)
    assert sets.shape == (2, 6, 4, 2)
    assert len(np.unique(sets[0, :, 0], axis=0)) == 6
    box = ActionSpec("box", shape=(2,), low=(-1.0, 0.0), high=(1.0, 4.0), dtype="float32")
    grid = action_sets(Space(box), state, 2, 9, 3, 1.0, 0)[1, :, 1]
    assert np.array_equal(grid, np.array(list(product([-1.0, 0.0, 1.0], [0.0, 2.0, 4.0]))))
    drawn = action_sets(Space(box), state, 2, 8, 3, 1.0, 0)
    assert drawn.shape == (2, 8, 2, 2)
    assert len(np.unique(drawn.reshape(-1, 2), axis=0)) > 16
    assert (drawn >= [-1, 0]).all()
    assert (drawn <= [1, 4]).all()
    assert np.array_equal(drawn[1], action_sets(Space(box), state.select([1]), 2, 8, 3, 1.0, 0)[0])
    assert not np.array_equal(drawn, action_sets(Space(box), state, 2, 8, 3, 1.0, 1))


def test_the_cheapest_of_each_problem():
    problem, cost = np.array([1, 0, 1, 0, 1, 2]), np.array([3.0, 2.0, 1.0, 2.0, 2.0, np.inf])
    assert cheapest(problem, cost, np.array([1, 2, 0])).tolist() == [1, 2, 4]


def test_a_store_finds_sessions_wherever_they_were_merged():
    store = Store(values([0, 1]))
    for begin in range(2, 30, 3):
        assert store.add(values(np.arange(begin, begin + 3))).tolist() == [begin, begin + 1, begin + 2]
    index = np.random.default_rng(0).integers(0, 29, 40)
    assert store.take(index).x.tolist() == index.tolist()
    assert len(store._parts) <= 5


def test_wrong_settings_are_refused():
    for name, settings in (
        ("beam", {"width": 0}),
        ("beam", {"over": 1.0}),
        ("beam", {"merge": "some"}),
        ("beam", {"tolerance": 0.0}),
        ("best_first", {"leaves": 0}),
        ("best_first", {"branching": 2000}),
    ):
        with pytest.raises(ConfigError):
            make_planner(name, **settings)
    with pytest.raises(ConfigError, match="max_rows is 20"):
        plan(Table(), STATE, Return(), "beam", max_rows=20, width=7)


# the engine


def tiny():
    torch.manual_seed(0)
    spec = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=3))
    return Engine(shaken(World(spec, world_config("debug", spec), "tiny")))


def begun(engine, batch=2):
    seen = np.random.default_rng(0).normal(size=(batch, 3, 2)).astype(np.float32)
    return engine.start({"vector": seen}, np.zeros((batch, 2, 1)), seeds=3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("beam", {"width": 9}),
        ("beam", {"width": 9, "merge": "memory"}),
        ("best_first", {"expansions": 13}),
        ("best_first", {"expansions": 13, "merge": "memory"}),
        ("best_first", {"leaves": 3, "expansions": 13}),
        ("mcts", {"simulations": 200, "leaves": 3}),
    ],
)
def test_the_engine_grows_trees_and_its_state_stays(name, settings):
    engine = tiny()
    state, untouched = begun(engine), begun(engine)
    goal = Return() + Distance({"vector": np.array([1.0, 0.0])})
    found = terrella.plan(engine, state, goal, name, horizon=3, **settings)
    every = np.array(list(product([0.0, 1.0, 2.0], repeat=3)))[..., None]
    rows = np.tile(every, (2, 1, 1))
    _, frame = engine.rollout(untouched.fork(27), rows)
    cost = goal.cost(Future(rows, frame.reward, frame.terminated, frame.observation, np.repeat([0, 1], 27)))
    np.testing.assert_allclose(found.cost, cost.reshape(2, 27).min(1), atol=1e-4)
    assert found.trace.steps[-1] == (3 + 9 + 27) * engine.steps
    assert (state.time == untouched.time).all()
    for key, value in untouched.slabs.recurrent.items():
        assert torch.equal(state.slabs.recurrent[key], value)


def test_equal_memories_have_equal_numbers():
    engine = tiny()
    state = begun(engine, 1)
    same, _ = engine.rollout(state.fork(3), np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]])[..., None])
    for whole in (True, False):
        number = same.digest(1e-3, whole)
        assert number[0] == number[1] != number[2]
        assert torch.equal(same.select([2, 0]).digest(1e-3, whole), number[[2, 0]])
        merged = type(same).merge([same.select([1]), same])
        assert torch.equal(merged.digest(1e-3, whole), number[[1, 0, 1, 2]])
    kept = same.fork(2).digest(1e-3)
    assert torch.equal(kept, same.digest(1e-3).repeat_interleave(2))
    assert (same.fork(1).reseed([4, 5, 6]).digest(1e-3) != same.digest(1e-3)).all()
    early, late = state.digest(1e-3), engine.step(state.fork(1), np.zeros((1, 1)))[0].digest(1e9)
    assert early != late
