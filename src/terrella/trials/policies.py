"""Policies of graded quality for any environment that pays: plans copied by what is seen, more and more at random.

A planner in the true simulator shows how it is done, in a few episodes. The best policy copies it: it takes the few
actions that were taken where things looked most alike, then looks again. The others hold a random action for as long
instead, with a chance that grows in equal steps, up to always; one does nothing, and one holds its first random action
throughout. They look at frames and at nothing else, so they act in a dream as they do in the truth, and what is random
about them is the same in both.

    P policies   E starts   n shown moments   T actions   K actions between two looks   W numbers an action

Ref: Pari et al. 2021, arXiv 2112.01511 (imitation by nearest neighbours). Differs: of pictures made coarse rather than
of learned features, and one neighbour, whose actions were taken, be they numbers or choices; several of them, since
different plans would take turns at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from ..planning.base import Plan
from ..planning.mpc import Controller
from ..planning.simulator import Simulator
from ..planning.tasks import Task
from ..planning.trial import Blind, Start, controller, play
from ..spec import WorldSpec

PLANNER = "icem"  # who shows how it is done
BESIDE = 2  # policies that do not look
_CELLS = 16  # a picture is compared as so many by so many means


class Copier:
    """Takes the actions that were taken where things looked most alike.

    shown: stream -> `(n, ...)`; rows: `(n, K, W)`, the actions taken from each moment on. Streams count alike, and so
    do the numbers of a vector, in units of their deviation.
    """

    def __init__(self, spec: WorldSpec, shown: Mapping[str, np.ndarray], rows: np.ndarray):
        from scipy.spatial import KDTree  # each query alone, so that an answer does not depend on its neighbours

        self.spec, self.rows = spec, rows
        deviations = {
            n: np.asarray(shown[n], np.float64).std(0) for n, s in spec.modelled.items() if s.kind == "vector"
        }
        self._units = {name: np.where(unit > 1e-8, unit, 1.0) for name, unit in deviations.items()}
        self._tree = KDTree(self._features(shown))

    def act(self, frames: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows `(B, K, W)` for frames, stream -> `(B, ...)`, all numbers finite."""
        return self.rows[self._tree.query(self._features(frames))[1]]

    def _features(self, frames: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = []
        for name, stream in self.spec.modelled.items():
            seen = np.asarray(frames[name])
            values = _coarse(seen) if stream.kind == "image" else seen.astype(np.float64) / self._units[name]
            flat = values.reshape(len(seen), -1)
            parts.append(flat / np.sqrt(flat.shape[1]))
        return np.concatenate(parts, 1)


@dataclass(frozen=True)
class Policies:
    """P policies at E starts, each a choice at every step: to copy, or what was drawn before.

    names: of the policies. copies: bool `(P, E, T)`. drawn: float64 `(P, E, T, W)`.
    """

    names: tuple[str, ...]
    copier: Copier
    copies: np.ndarray
    drawn: np.ndarray


class Acting:
    """B sessions under policies `p` `(B,)` from starts `e` `(B,)`, step by step from the first."""

    def __init__(self, policies: Policies, p: np.ndarray, e: np.ndarray):
        self.policies, self.who, self._time = policies, (p, e), 0
        self._ahead: np.ndarray = np.zeros((len(p), *policies.copier.rows.shape[1:]))

    def act(self, frames: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows `(B, W)` for sessions that see `frames`, stream -> `(B, ...)`."""
        t, at = self._time, self._time % self._ahead.shape[1]
        if at == 0:
            self._ahead = self.policies.copier.act(frames)
        self._time += 1
        copy = self.policies.copies[*self.who, t]
        return np.where(copy[:, None], self._ahead[:, at], self.policies.drawn[*self.who, t])


def graded(
    spec: WorldSpec, space: gym.Space, copier: Copier, levels: int, seeds: Sequence[int], steps: int
) -> Policies:
    """`levels` policies from always copying to always random, then one that does nothing and one that holds an action.

    seeds: of what is random at each of E starts. Where one policy acts at random, so does every more random one, alike,
    until the next look.
    """
    shares, starts, hold = np.linspace(0, 1, levels), len(seeds), copier.rows.shape[1]
    looks = -(-steps // hold)
    chance = np.stack([np.random.default_rng([seed, 3]).random(looks) for seed in seeds]).repeat(hold, 1)[:, :steps]
    blind = Blind(spec, space, starts, True)
    blind.begin({}, seeds)
    drawn = np.stack([blind.act() for _ in range(looks)], 1).repeat(hold, 1)[:, :steps]
    still, held = Blind(spec, space, 1, False).act(), drawn[:, :1]
    copies = np.zeros((levels + BESIDE, starts, steps), np.bool_)
    copies[:levels] = chance >= shares[:, None, None]
    rows = np.stack([*[drawn] * levels, *(np.broadcast_to(row, drawn.shape) for row in (still, held))])
    names = (*(f"{share:.0%} at random" for share in shares), "does nothing", "holds an action")
    return Policies(names, copier, copies, rows)


def shown(task: Task, spec: WorldSpec, env: gym.Env, starts: Sequence[Start], rollouts: int, seed: int = 0) -> Copier:
    """A copier of what a planner does from these starts in the true simulator, whose environment `env` is.

    rollouts: futures that it plays for each plan.
    """
    frames: dict[str, list[np.ndarray]] = {name: [] for name in spec.modelled}
    rows: list[np.ndarray] = []
    for start in starts:
        watched = _Watched(controller(task, Simulator(env), PLANNER, rollouts, [start], seed=seed))
        play(task, spec, [env], [start], watched)
        done = np.concatenate(watched.rows)  # (T, W)
        ahead = np.minimum(np.arange(len(done))[:, None] + np.arange(task.execute), len(done) - 1)
        rows.append(done[ahead])
        for name, kept in frames.items():
            kept += [seen[name] for seen in watched.frames[: len(watched.rows)]]
    return Copier(spec, {name: np.concatenate(kept) for name, kept in frames.items()}, np.concatenate(rows))


class _Watched:
    """An actor whose frames `(B, ...)` and rows `(B, W)` are kept."""

    def __init__(self, actor: Controller):
        self.actor = actor
        self.frames: list[dict[str, np.ndarray]] = []
        self.rows: list[np.ndarray] = []
        self.plan: Plan | None = None

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        self._keep(observations)
        self.actor.begin(observations, seeds)

    def act(self) -> np.ndarray:
        self.rows.append(np.array(self.actor.act()))
        self.plan = self.actor.plan
        return self.rows[-1]

    def see(self, observations: dict[str, np.ndarray]) -> None:
        self._keep(observations)
        self.actor.see(observations)

    def _keep(self, observations: Mapping[str, Any]) -> None:
        self.frames.append({name: np.array(frame) for name, frame in observations.items()})


def _coarse(images: np.ndarray) -> np.ndarray:
    """Means of blocks of pictures `(B, h, w, C)`, 0 to 1, at most `_CELLS` by `_CELLS` of them."""
    values = images.astype(np.float64) / 255
    for axis in (1, 2):
        size = values.shape[axis]
        edges = np.arange(0, size, -(-size // _CELLS))
        counts = np.diff(np.append(edges, size))
        values = np.add.reduceat(values, edges, axis) / counts.reshape(-1, *[1] * (3 - axis))
    return values
