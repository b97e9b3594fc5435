"""Monte-Carlo tree search: go down where it was good or little was tried, look one frame further, remember on the way.

    score(s, a) = Q(s, a) + P(s, a) sqrt(N(s)) / (1 + N(s, a)) (c1 + log((N(s) + c2 + 1) / c2))

N counts visits, P is a prior over actions, and Q is the mean of what the plans through (s, a) brought, which lies
between 0 and 1 once the least and the largest mean of the whole tree are taken for its ends.

Ref: Schrittwieser et al., MuZero, arXiv 1911.08265, appendix B (equations 2, 3 and 5), whose c1 and c2 are the defaults
here; Rosin, Annals of Mathematics and Artificial Intelligence 61 (2011), for the rule without its logarithm. Differs:
what is backed up is minus the cost of the whole beginning of a plan, not the return from a node on, so that any
objective serves (what actions of one node share shifts their scores alike); N(s) counts the visit that made s, so that
the prior decides at once; plans end at the horizon, and the plan returned is the best one that was ever imagined
whole, as with all planners here. Only without one does it follow the most visited actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..registry import register
from .base import Plan
from .learned import PolicyPrior, latent
from .nodes import Store, Value
from .objective import Future
from .tree import Task, TreePlanner, TreeSettings

Prior = Callable[[Future], np.ndarray] | PolicyPrior


@dataclass(frozen=True)
class MCTSSettings(TreeSettings):
    """simulations: ways down the tree, without a budget. leaves: actions tried at once at the node where a way ends,
    the best that were not yet; each counts as a simulation. c1, c2: how much is explored. max_nodes: in memory, for
    each problem.
    """

    simulations: int = 200
    leaves: int = 1
    c1: float = 1.25
    c2: float = 19652.0
    max_nodes: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.simulations, self.leaves, self.max_nodes) < 1 or not self.c1 >= 0 or not self.c2 > 0:
            raise ConfigError(
                f"simulations is {self.simulations}, leaves {self.leaves}, max_nodes {self.max_nodes}, c1 {self.c1}, "
                f"c2 {self.c2}; expected at least 1 each, c1 at least 0 and c2 more than 0."
            )


@register("planner", "mcts")
class MCTS(TreePlanner):
    """The search above, one engine call for the simulations of all problems.

    prior: probabilities of the A actions, `(A,)`, or a function of futures that gives them after the last frame,
    `(R, A)` (at the root, where nothing is imagined yet, they are uniform), or a `PolicyPrior`, which knows the root,
    too. None: uniform. `Plan.search` divides by visits among first actions: the policy that a network could learn.
    """

    Config = MCTSSettings
    config: MCTSSettings

    def __init__(self, config: Any, value: Value | None = None, prior: Prior | np.ndarray | None = None):
        super().__init__(config, value)
        self.prior = prior

    def least(self, actions: int) -> int:
        """One plan."""
        return self.config.horizon

    def search(self, task: Task) -> Plan:
        """See the class."""
        config, growth = self.config, task.growth
        walk = _Walk(task, config, self.prior)
        if task.start_BH is not None:
            ids = np.arange(growth.batch)
            for t in range(config.horizon):
                ids = walk.grow(ids, task.start_BH[:, t])
                walk.remember(ids)
        limit = config.simulations if task.budget_ms is None else np.inf
        limit = limit if task.most is None else task.most  # a simulation costs a frame, or none where a plan ends
        done = 0
        while done < limit and not (done and task.late):
            ends = walk.down()
            known = growth.nodes["whole"][ends]
            parent, choice = walk.untried(ends[~known])
            if len(parent) == 0 and not known.any():
                break
            walk.remember(ends[known])
            ids = walk.grow(parent, choice)
            walk.remember(ids)
            done += max(1, int(np.bincount(growth.nodes["problem"][ids], minlength=1).max()))
            task.note(ids, *walk.firsts())
        if len(growth.undone):
            last = walk.down(by_visits=True)[growth.undone]
            growth.finish(walk.store.take(growth.nodes["session"][last]), last)
        return task.plan(*walk.firsts())


class _Walk:
    """The trees of all problems: where to go down, what to remember.

    Columns of nodes: visits; total, the costs of what came through; child, the node after each action or -1; prior.
    """

    def __init__(self, task: Task, config: MCTSSettings, prior: Prior | np.ndarray | None):
        self.task, self.config, self.growth, self.store = task, config, task.growth, Store(task.state.fork(1))
        actions, nodes = self.growth.actions, self.growth.nodes
        asked = isinstance(prior, PolicyPrior) or callable(prior)
        flat = np.full(actions, 1 / actions) if prior is None or asked else np.asarray(prior, np.float64)
        if flat.shape != (actions,) or not (flat >= 0).all():
            raise ConfigError(f"a prior has shape {flat.shape}; expected ({actions},), a probability for each action.")
        self._prior = prior if asked else None
        nodes.column("visits", (), np.int64)
        nodes.column("total", (), np.float64)
        nodes.column("session", (), np.int64)
        nodes.column("child", (actions,), np.int64, -1)
        nodes.column("prior", (actions,), np.float64)
        roots = np.arange(self.growth.batch)
        nodes["session"][roots], nodes["prior"][roots] = roots, flat
        if isinstance(prior, PolicyPrior):
            nodes["prior"][roots] = prior.over(latent(self.growth.past), self.growth.sets[:, :, 0])
        self._flat = flat
        self._low, self._high = np.full(len(roots), np.inf), np.full(len(roots), -np.inf)

    def down(self, by_visits: bool = False) -> np.ndarray:
        """Where the way of each problem ends, `(B,)`: at an action that was not tried, or where a plan does."""
        nodes, now = self.growth.nodes, np.arange(self.growth.batch)
        on = now
        for _ in range(self.config.horizon):
            kids = nodes["child"][now[on]]
            score = np.where(kids >= 0, nodes["visits"][kids], -1) if by_visits else self._scores(now[on])
            child = np.take_along_axis(kids, score.argmax(1)[:, None], 1)[:, 0]
            on, child = on[child >= 0], child[child >= 0]
            now[on] = child
        return now

    def untried(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The actions to try at nodes where ways ended: nodes and choices, `(R,)`, as far as there is room for them."""
        growth, nodes, config = self.growth, self.growth.nodes, self.config
        undone = np.isin(np.arange(growth.batch), growth.undone)
        left = self.task.left_B - np.where(undone, config.horizon, 0)  # what is left undone must be finished
        room = config.max_nodes - growth.frames
        score = np.where(nodes["child"][ends] >= 0, -np.inf, self._scores(ends))
        best = np.argsort(-score, 1, kind="stable")[:, : config.leaves]
        most = np.minimum(left, room)[nodes["problem"][ends]]
        fit = np.isfinite(np.take_along_axis(score, best, 1)) & (np.arange(best.shape[1]) < most[:, None])
        return ends[np.nonzero(fit)[0]], best[fit]

    def grow(self, parent: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """Take actions in nodes; returns what comes of them, `(R,)`."""
        growth, nodes, added = self.growth, self.growth.nodes, [np.empty(0, np.int64)]
        for s in range(0, len(parent), self.config.max_rows):
            some, chosen = parent[s : s + self.config.max_rows], choice[s : s + self.config.max_rows]
            state, ids = growth.take(self.store.take(nodes["session"][some]), some, chosen)
            nodes["session"][ids] = self.store.add(state)
            nodes["child"][ids], nodes["prior"][ids] = -1, self._flat
            nodes["child"][some, chosen] = ids
            added.append(ids)
        ids = np.concatenate(added)
        if self._prior is not None:
            for some, future in growth.futures(ids):
                given = self._asked(future, ids[some])
                if given.shape != (len(some), growth.actions) or not (given >= 0).all():
                    raise ConfigError(
                        f"the prior gave shape {given.shape}; expected ({len(some)}, {growth.actions}), a probability "
                        "for each action of each future."
                    )
                nodes["prior"][ids[some]] = given
        return ids

    def _asked(self, future: Future, ids: np.ndarray) -> np.ndarray:
        if isinstance(self._prior, PolicyPrior):
            nodes, sets = self.growth.nodes, self.growth.sets
            after = np.minimum(nodes["depth"][ids], self.config.horizon - 1)
            return self._prior.over(latent(future.trail), sets[nodes["problem"][ids], :, after])
        assert callable(self._prior)
        return np.asarray(self._prior(future), np.float64)

    def remember(self, ids: np.ndarray) -> None:
        """Count a visit to nodes and to all above them, and what it cost."""
        nodes, problem = self.growth.nodes, self.growth.nodes["problem"][ids]
        worst = np.where(np.isfinite(self._high), self._high, 0.0)[problem]
        cost = np.where(np.isfinite(nodes["cost"][ids]), nodes["cost"][ids], worst)  # refused: as bad as any so far
        ways = [ids]
        while (ways[-1] >= 0).any():
            ways.append(np.where(ways[-1] >= 0, nodes["parent"][ways[-1]], -1))
        for now in ways:
            here = now >= 0
            np.add.at(nodes["visits"], now[here], 1)
            np.add.at(nodes["total"], now[here], cost[here])
        for now in ways:
            here = now >= 0
            mean = nodes["total"][now[here]] / nodes["visits"][now[here]]
            np.minimum.at(self._low, problem[here], mean)
            np.maximum.at(self._high, problem[here], mean)

    def firsts(self) -> tuple[np.ndarray, np.ndarray]:
        """The nodes after first actions, and their visits."""
        kids = self.growth.nodes["child"][: self.growth.batch]
        return kids[kids >= 0], self.growth.nodes["visits"][kids[kids >= 0]]

    def _scores(self, ids: np.ndarray) -> np.ndarray:
        nodes, config, problem = self.growth.nodes, self.config, self.growth.nodes["problem"][ids]
        kids = nodes["child"][ids]
        tried = kids >= 0
        count = np.where(tried, nodes["visits"][kids], 0)
        mean = np.where(tried, nodes["total"][kids] / np.maximum(count, 1), 0.0)
        span, high = (self._high - self._low)[problem, None], self._high[problem, None]
        apart = tried & (span > 0)
        quality = np.where(apart, (np.where(apart, high, 0.0) - mean) / np.where(apart, span, 1.0), 0.0)
        visits = np.maximum(nodes["visits"][ids], 1)[:, None]
        explore = config.c1 + np.log((visits + config.c2 + 1) / config.c2)
        return quality + nodes["prior"][ids] * np.sqrt(visits) / (1 + count) * explore
