"""What tree searches share: actions to choose among, nodes and what they cost, and the states that nodes stand for.

A node is the end of an imagined beginning of a plan. It costs what the objective says of that beginning alone, so any
objective serves and need not know of trees; the price is that a beginning is looked at again with each step. All B
problems lie in one table, and each call to the engine steps nodes of all of them.

    B problems   A actions at a node   H steps   W numbers in one action   R nodes at hand
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..engine import Trail
from .base import Model, Sessions, costs
from .objective import Future, Objective
from .search import Search, Space, draw_noise

Value = Callable[[Future], np.ndarray]
Shown = dict[str, np.ndarray]


class Branches(Sessions, Protocol):
    """What tree searches need of a state beyond `Sessions`."""

    @staticmethod
    def merge(states: Sequence[Any]) -> Any:
        """Put the sessions of several states into one batch, in order."""
        ...

    def digest(self, tolerance: float, whole: bool = True) -> Tensor:
        """Number each session by what it remembers, int64 `(B,)`; as `terrella.State.digest`."""
        ...


def action_sets(
    space: Space, state: Sessions, horizon: int, branching: int, grid: int, spread: float, seed: int
) -> np.ndarray:
    """The actions that are tried at each step of each problem, `(B, A, H, W)`.

    All there are, where they are no more than `branching`: every choice, numbers with bounds at `grid` values from
    bound to bound (below 2: not at all). Otherwise `branching` are drawn for each step, as candidates are.
    """
    values: list[np.ndarray] = [np.empty(0)] * space.width
    for column, count in zip(space.picks, space.choices):
        values[column] = space.low[column] + np.arange(count)
    for column, bounded in zip(space.numbers, space.bounded):
        if bounded and grid >= 2:
            values[column] = np.unique(space.clip(np.linspace(space.low, space.high, grid))[:, column])
    count = int(np.prod([float(len(v)) for v in values]))
    if 1 <= count <= branching:
        every = np.array(list(product(*values))).reshape(count, space.width)
        return np.broadcast_to(every[:, None], (state.batch, count, horizon, space.width))
    search = Search.begin(space, state.batch, horizon, spread)
    return search.sample(draw_noise(state.seeds, state.time, seed, (branching, horizon, search.noise_width)))


def with_start(sets: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the actions of a plan `(B, H, W)`, where they are not among the sets, as one more choice.

    Returns the sets and which of their actions the plan takes, `(B, H)`.
    """
    same = (sets == start[:, None]).all(-1)
    if same.any(1).all():
        return sets, same.argmax(1)
    return np.concatenate([start[:, None], sets], 1), np.zeros((len(start), start.shape[1]), np.int64)


def cheapest(problem: np.ndarray, cost: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Where the `most[b]` cheapest of each problem b stand, the first of equals, ordered by problem and cost."""
    order = np.lexsort((cost, problem))
    grouped = problem[order]
    rank = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return order[rank < most[grouped]]


class Nodes:
    """Columns that grow: `nodes["cost"]` is that of all nodes so far, and may be written to.

    problem: which of the B trees. parent: a node, -1 of the B roots, which come first. depth: actions so far. choice:
    which of its parent's actions led here, first: which of the root's. alive: probability that the episode goes on.
    """

    def __init__(self, **roots: np.ndarray):
        self.count = len(roots["problem"])
        self._columns = dict(roots)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name][: self.count]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def add(self, **rows: np.ndarray) -> np.ndarray:
        """Add R nodes; columns that are not given are zeros. Returns their numbers, int64 `(R,)`."""
        size = len(rows["problem"])
        ids = np.arange(self.count, self.count + size)
        self.count += size
        for name, column in self._columns.items():
            if len(column) < self.count:
                more = np.zeros((max(self.count, 2 * len(column)) - len(column), *column.shape[1:]), column.dtype)
                self._columns[name] = np.concatenate([column, more])
            self._columns[name][ids] = rows.get(name, 0)
        return ids

    def column(self, name: str, shape: tuple[int, ...], dtype: Any, value: float = 0) -> None:
        """Begin a column `(nodes, *shape)`."""
        self._columns[name] = np.full((len(self._columns["problem"]), *shape), value, dtype)

    def path(self, ids: np.ndarray, depth: int) -> np.ndarray:
        """The nodes on the way to each of R nodes of one depth, `(R, depth)`, without the root."""
        parent, out = self["parent"], np.empty((len(ids), depth), np.int64)
        for t in range(depth)[::-1]:
            out[:, t], ids = ids, parent[ids]
        return out


class Growth:
    """The trees of one call to `plan`: takes actions in nodes, says what comes of them, keeps the best whole plan.

    sets: `(B, A, H, W)`. value: what is still to come after the last frame of futures, `(R,)`, in units of return,
    discounted by `discount` to the power of the depth. over: a beginning that goes on with no more than this
    probability has ended, and is a whole plan, as one of H actions is; so is one that is refused, at infinite cost.

    past: what the engine recalls of the roots, for heads.

    frames: taken for each problem, `(B,)`. best: what the best whole plan costs, `(B,)`, infinite before there is one.
    """

    def __init__(
        self,
        engine: Model,
        objective: Objective,
        sets: np.ndarray,
        value: Value | None,
        discount: float,
        over: float,
        past: Trail | None = None,
    ):
        self.engine, self.objective, self.sets = engine, objective, sets
        self.value, self.discount, self.over, self.past = value, discount, over, past
        self.batch, self.actions, self.horizon, width = sets.shape
        roots, zeros = np.arange(self.batch), np.zeros(self.batch, np.int64)
        self.nodes = Nodes(problem=roots, parent=zeros - 1, depth=zeros, choice=zeros, first=zeros)
        for name in ("cost", "alive", "reward", "terminated"):
            self.nodes.column(name, (), np.float64, float(name == "alive"))
        self.nodes.column("row", (width,), np.float64)
        self.nodes.column("whole", (), np.bool_)
        self.shown: list[str] = []
        self.frames = np.zeros(self.batch, np.int64)
        self.best, self._chosen = np.full(self.batch, np.inf), roots.copy()

    def take(self, state: Any, parent: np.ndarray, choice: np.ndarray) -> tuple[Any, np.ndarray]:
        """Take action `choice` in each of R nodes, whose sessions `state` holds and which is consumed.

        Returns the next state and the new nodes, `(R,)`.
        """
        nodes = self.nodes
        problem, depth = nodes["problem"][parent], nodes["depth"][parent] + 1
        rows = self.sets[problem, choice, depth - 1]
        after, frame = self.engine.rollout(state, rows[:, None], observe=self.objective.observe)
        if not self.shown:
            self.shown = sorted(frame.observation)
            for name in self.shown:
                seen = frame.observation[name]
                nodes.column(name, seen.shape[2:], seen.dtype)
        if frame.latent is not None and "latent" not in nodes:
            nodes.column("latent", frame.latent.shape[2:], frame.latent.dtype)
        ended = frame.terminated[:, 0]
        alive = nodes["alive"][parent] * (1 - ended.astype(np.float64))
        ids = nodes.add(
            problem=problem,
            parent=parent,
            depth=depth,
            choice=choice,
            first=np.where(depth == 1, choice, nodes["first"][parent]),
            alive=alive,
            row=rows,
            reward=frame.reward[:, 0],
            terminated=ended,
            **{name: frame.observation[name][:, 0] for name in self.shown},
            **({} if frame.latent is None else {"latent": frame.latent[:, 0]}),
        )
        cost = self._costs(ids)
        nodes["cost"][ids] = cost
        nodes["whole"][ids] = (depth == self.horizon) | (alive <= self.over) | np.isinf(cost)
        np.add.at(self.frames, problem, 1)
        self._compete(ids[nodes["whole"][ids]])
        return after, ids

    def follow(self, state: Any, choice_BH: np.ndarray) -> None:
        """Imagine one plan for each problem, from `state` of the roots, which is consumed."""
        ids = np.arange(self.batch)
        for t in range(self.horizon):
            state, ids = self.take(state, ids, choice_BH[:, t])

    def finish(self, state: Any, ids: np.ndarray) -> None:
        """Go on to the horizon from nodes whose sessions `state` holds, with the choice that led there."""
        while True:
            on = np.flatnonzero(~self.nodes["whole"][ids])
            if len(on) == 0:
                return
            state, ids = (state if len(on) == len(ids) else state.select(on.tolist())), ids[on]
            state, ids = self.take(state, ids, self.nodes["choice"][ids])

    def plans(self) -> np.ndarray:
        """The best whole plan of each problem, `(B, H, W)`; after an episode's end its last action is repeated."""
        out, depth = np.empty((self.batch, self.horizon, self.sets.shape[-1])), self.nodes["depth"][self._chosen]
        for d in np.unique(depth):
            some = np.flatnonzero(depth == d)
            path = self.nodes.path(self._chosen[some], d)[:, np.minimum(np.arange(self.horizon), d - 1)]
            out[some] = self.nodes["row"][path]
        return out

    def shares(self, ids: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """How nodes divide among first actions, `(B, A)` with sums of 1; where there are none, the best plan's."""
        problem, first = self.nodes["problem"][ids], self.nodes["first"][ids]
        share = np.zeros((self.batch, self.actions))
        np.add.at(share, (problem, first), 1.0 if weight is None else weight)
        none = np.flatnonzero(share.sum(1) == 0)
        share[none, self.nodes["first"][self._chosen[none]]] = 1.0
        return share / share.sum(1, keepdims=True)

    def firsts(self, share_IBA: np.ndarray) -> Search:
        """Shares of first actions as searches of one step, I times B of them."""
        times, sets = len(share_IBA), self.sets[:, :, :1]
        search = Search.begin(Space(self.engine.spec.action), times * self.batch, 1, 1.0)
        return search.refitted(np.tile(sets, (times, 1, 1, 1)), share_IBA.reshape(-1, self.actions))

    def futures(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, Future]]:
        """The beginnings that nodes stand for, as futures of one length at a time, and which of the nodes these are."""
        depth = self.nodes["depth"][ids]
        length = np.where(self.nodes["alive"][ids] <= self.over, self.horizon, depth)
        for d, h in np.unique(np.stack([depth, length], 1), axis=0):
            some = np.flatnonzero((depth == d) & (length == h))
            yield some, self._future(ids[some], d, h)

    def _costs(self, ids: np.ndarray) -> np.ndarray:
        nodes, cost = self.nodes, np.empty(len(ids))
        for some, future in self.futures(ids):
            cost[some] = costs(self.objective, future)
            if self.value is not None:
                late = self.discount ** nodes["depth"][ids[some]]
                cost[some] -= late * nodes["alive"][ids[some]] * self.value(future)
        return cost

    def _future(self, ids: np.ndarray, depth: int, length: int) -> Future:
        # An episode that has ended stays where it ended, and pays no more.
        nodes, path = self.nodes, self.nodes.path(ids, depth)[:, np.minimum(np.arange(length), depth - 1)]
        late = np.arange(length) >= depth
        rows, problem = nodes["row"][path], nodes["problem"][ids]
        trail = None if self.past is None else self.past.take(problem).then(nodes["latent"][path], rows)
        return Future(
            rows,
            np.where(late, 0.0, nodes["reward"][path]),
            np.where(late, 1.0, nodes["terminated"][path]),
            {name: nodes[name][path] for name in self.shown},
            problem,
            trail,
        )

    def _compete(self, ids: np.ndarray) -> None:
        first = ids[cheapest(self.nodes["problem"][ids], self.nodes["cost"][ids], np.ones(self.batch, np.int64))]
        problem, cost = self.nodes["problem"][first], self.nodes["cost"][first]
        # Even where every plan is refused, one of them is the plan.
        better = (cost < self.best[problem]) | (self._chosen[problem] < self.batch)
        self._chosen[problem[better]], self.best[problem[better]] = first[better], cost[better]

    @property
    def undone(self) -> np.ndarray:
        """The problems that have no whole plan yet."""
        return np.flatnonzero(self._chosen < self.batch)


class Store:
    """The states of nodes, kept in parts of which there are never more than a few.

    Parts are merged as the digits of a binary counter carry: with n sessions there are at most about log2(n), and each
    session has been copied as often.
    """

    def __init__(self, state: Any):
        self._parts, self._ends = [state], [state.batch]

    def add(self, state: Any) -> np.ndarray:
        """Keep the sessions of a state, and return their places, `(R,)`."""
        places = np.arange(self._ends[-1], self._ends[-1] + state.batch)
        self._parts.append(state)
        self._ends.append(self._ends[-1] + state.batch)
        while len(self._parts) > 1 and self._parts[-2].batch <= self._parts[-1].batch:
            last = self._parts.pop()
            self._parts[-1] = type(last).merge([self._parts[-1], last])
            del self._ends[-2]
        return places

    def take(self, places: np.ndarray) -> Any:
        """Copy the sessions at places, in their order."""
        part = np.searchsorted(self._ends, places, "right")
        begins = np.array([0, *self._ends[:-1]])
        picked, order = [], []
        for p in np.unique(part):
            here = np.flatnonzero(part == p)
            picked.append(self._parts[p].select((places[here] - begins[p]).tolist()))
            order.append(here)
        if len(picked) == 1:
            return picked[0]
        return type(picked[0]).merge(picked).select(torch.from_numpy(np.concatenate(order)).argsort().tolist())
