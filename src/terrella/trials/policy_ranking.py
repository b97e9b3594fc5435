"""Does a world rank policies as the true environment does? Then it can stand in for it when one is to be chosen.

Policies of graded quality (`policies.py`) act from the same starts in the true environment, and in the world on what it
dreams, frame by frame. A score is what a planner would maximise: the return, or where the catalogue's task in this
environment is planned by something seen, that. In the world it is made of predicted rewards, ends and frames. Then the
two rankings are compared (`terrella.evaluation.agreement`).

The true environment is asked twice, the second time with its chance drawn anew: what agreement a perfect world could
have, told everything but its luck; 1 where nothing happens by chance.

Ref: WorldArena, arXiv 2602.08971, which asks world models to evaluate policies; there by the success of trained ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from ..actions import decode, width
from ..arenas import describe, forkable, to_streams
from ..evaluation.agreement import SCORES, agreement
from ..evaluation.entrant import Entrant
from ..evaluation.measurements import SESSIONS, Measurement
from ..evaluation.moments import Stage
from ..evaluation.report import html_table
from ..evaluation.stats import number
from ..evaluation.subject import Subject
from ..evaluation.suite import Ground
from ..planning.catalogue import task_in
from ..planning.objective import Future, Objective
from ..planning.tasks import Moment, Task
from ..planning.trial import Start, begin
from ..registry import register
from ..spec import WorldSpec
from .imagination import require_finite
from .policies import BESIDE, Acting, Policies, graded, shown

SHOWN = 12  # episodes in which a planner shows how it is done
_ROLLOUTS = {True: 32, False: 16}  # with a task or without, where nobody has said that the simulator is fast
_TYPES = {"image": np.uint8, "vector": np.float32}


@dataclass
class Begun:
    """Where policies begin: E starts, and what an entrant is told: stream -> `(E, c+1, ...)`, float32 `(E, c, W)`."""

    starts: list[Start]
    frames: dict[str, np.ndarray]
    past: np.ndarray


@dataclass
class Played:
    """What P policies brought from E starts in T steps, float32 `(P, E, T)`.

    frames: stream -> `(P, E, T, ...)`, if looked at. cut: `(P, E)`, steps after which an episode was cut short from
    outside, else T.
    """

    reward: np.ndarray
    ended: np.ndarray
    frames: dict[str, np.ndarray]
    cut: np.ndarray


@dataclass
class _Contest:
    """What all entrants have in common: the task, who acts from where, and the true scores `(P, E)`, told twice.

    steps: `(E,)`, those that count: until somebody's episode was cut short.
    """

    task: Task
    begun: Begun
    policies: Policies
    steps: np.ndarray
    true: np.ndarray
    again: np.ndarray


@register("subject", "ranking")
class PolicyRanking(Subject):
    """Measurement: `groups` starts, `branches` policies from copying to random, besides two that do not look."""

    note = (
        "Policies of graded quality act in the true environment and, frame by frame, in the world. Spearman, Kendall: "
        "do both rank them alike? 1 is alike, 0 unrelated. Pearson: are the world's scores a straight line of the true "
        "ones? Violation: how much worse, over the range of true scores, a policy can be that the world prefers. "
        "Chance: where 95 % of rankings at random lie. The truth told again has its luck drawn anew; no world can be "
        "asked for more."
    )

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Nothing beyond the saved states that the suite asks for, if these are played in time."""
        task, found = _task(m, ground)
        plans = -(-task.limit // task.execute)
        taught = SHOWN * plans * _ROLLOUTS[found] * task.horizon
        return ground.too_slow(taught + 2 * (m.branches + BESIDE) * m.groups * task.limit)

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """Let the policies act in an entrant.

        Returns `agreement` and that of the truth told `again`, both None where all policies earn the same in truth;
        names of the policies and their mean scores; raw scores `(P, E)`.
        """
        contest: _Contest = ground.once(m, lambda: _prepared(m, ground))
        true, names = contest.true, contest.policies.names
        result: dict[str, Any] = {"task": contest.task.about, "policies": names, "starts": m.groups}
        result |= {"steps": int(contest.steps.max()), "true": _means(true), "agreement": None, "again": None}
        if (true.mean(1) == true.mean(1)[0]).all():  # nothing to rank, so that nobody need dream
            advance(m.frames)
            return {**result, "dreamed": [None] * len(names), "raw": {"true": true.tolist()}}
        played = _dreamed(entrant, contest, ground.spec, advance)
        dreamed = score(contest.task, contest.begun, contest.policies, played, contest.steps)
        judged = {"agreement": agreement(true, dreamed), "again": agreement(true, contest.again)}
        raw = {"true": true.tolist(), "again": contest.again.tolist(), "dreamed": dreamed.tolist()}
        return {**result, **judged, "dreamed": _means(dreamed), "raw": raw}

    def line(self, row: dict[str, Any]) -> str:
        """How well it ranks, or that there is nothing to rank."""
        if row["agreement"] is None:
            return f"all policies earn the same in {row['steps']} steps of the true environment: nothing to rank"
        told = (f"{name} {_told(row['agreement'][name])}" for name in SCORES)
        return f"{len(row['policies'])} policies ranked as in truth: {', '.join(told)}"

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """How well each ranks, and what each policy earned where."""
        first = next(iter(rows.values()))
        if first["agreement"] is None:
            return f"<p>{self.line(first)}.</p>"
        judged = [(who, row["agreement"]) for who, row in rows.items()] + [("the truth told again", first["again"])]
        heads = ["entrant", *(text for name in SCORES for text in (name, "95 %", "chance"))]
        lines = [
            [who, *(said[n][key] for n in SCORES for key in ("mean", "interval", "chance"))] for who, said in judged
        ]
        earned = [
            [name, first["true"][p], *(row["dreamed"][p] for row in rows.values())]
            for p, name in enumerate(first["policies"])
        ]
        what = f"{first['starts']} starts, at most {first['steps']} steps; mean scores, higher is better."
        return html_table(heads, lines) + f'<p class="note">{what}</p>' + html_table(["policy", "truth", *rows], earned)


def _task(m: Measurement, ground: Ground) -> tuple[Task, bool]:
    """The catalogue's task in this environment, else to earn what can be earned; and whether there was one."""
    found = task_in(describe(ground.env).env)
    if found is not None:
        return found, True
    own = describe(ground.env).env
    return Task(own, "earn as much as can be", _never, limit=max(m.marks), horizon=12, execute=4), False


def _prepared(m: Measurement, ground: Ground) -> _Contest:
    env, spec, steps = ground.env, ground.spec, max(m.marks)
    task, found = _task(m, ground)
    if not found:
        stage = Stage(env, spec, ground.seed, ground.taken, ground.policy)
        teach, begun = (_moments(stage, ground, count, steps) for count in (SHOWN, m.groups))
    else:
        seeds = [ground.seed * 100_003 + 50_000 + number for number in range(SHOWN + m.groups)]
        started = [begin(task, env, seed) for seed in seeds]
        teach, begun = (_resumed(env, spec, part) for part in (started[:SHOWN], started[SHOWN:]))
    copier = shown(task, spec, env, teach.starts, _ROLLOUTS[found], ground.seed)
    keys = [start.seed for start in begun.starts]
    policies = graded(spec, env.action_space, copier, m.branches, keys, task.limit)
    twice = [_true(env, spec, task, begun, policies, chance) for chance in (None, ground.seed)]
    counted = np.minimum(*(played.cut.min(0) for played in twice))
    true, again = (score(task, begun, policies, played, counted) for played in twice)
    return _Contest(task, begun, policies, counted, true, again)


def score(task: Task, begun: Begun, policies: Policies, played: Played, steps: np.ndarray) -> np.ndarray:
    """What the task's objective makes of episodes, `(P, E)`, higher is better; steps: `(E,)`, how many count."""
    p, e, t = played.reward.shape
    ended = np.where(np.arange(t) == steps[None, :, None] - 1, 1.0, played.ended)  # nothing counts after that
    future = Future(
        rows=np.zeros((p * e, t, policies.drawn.shape[-1])),
        reward=played.reward.reshape(p * e, t),
        terminated=ended.reshape(p * e, t),
        observation={name: v.reshape(p * e, t, *v.shape[3:]) for name, v in played.frames.items()},
        problem=np.tile(np.arange(e), p),
    )
    return -_objective(task, begun.starts).cost(future).reshape(p, e)


def _objective(task: Task, starts: Sequence[Start]) -> Objective:
    """The task's, of undiscounted steps, for the goals of these starts."""
    goals = [start.goal.frames for start in starts if start.goal is not None]
    return task.objective({name: np.stack([goal[name] for goal in goals]) for name in goals[0]} if goals else {}, 1.0)


def _true(env: gym.Env, spec: WorldSpec, task: Task, begun: Begun, policies: Policies, chance: int | None) -> Played:
    """All policies from all starts in the true environment, one episode after another; chance: to be drawn anew."""
    fork = forkable(env)
    assert fork is not None  # it has saved the starts
    played = _blank(spec, policies.copies.shape, _objective(task, begun.starts).observe)
    for p in range(len(policies.names)):
        for e, start in enumerate(begun.starts):
            seen = to_streams(env, fork.restore(start.saved))
            if chance is not None:
                fork.reseed((start.seed + 1 + chance) % (1 << 31))
            actor, over = Acting(policies, np.array([p]), np.array([e])), False
            for t in range(task.limit):
                if not over:
                    row = actor.act({name: np.asarray(seen[name])[None] for name in spec.modelled})[0]
                    observation, reward, terminated, truncated, _ = env.step(decode(spec.action, row))
                    seen, over = to_streams(env, observation), bool(terminated or truncated)
                    played.reward[p, e, t], played.ended[p, e, t] = reward, bool(terminated)
                    if truncated and not terminated:
                        played.cut[p, e] = t + 1
                for name, frames in played.frames.items():
                    frames[p, e, t] = seen[name]
    return played


def _dreamed(entrant: Entrant, contest: _Contest, spec: WorldSpec, advance: Callable[[int], None]) -> Played:
    """All policies from all starts in an entrant, as many sessions at once as elsewhere in the suite."""
    begun, policies = contest.begun, contest.policies
    count, starts, steps = policies.copies.shape
    played = _blank(spec, policies.copies.shape, _objective(contest.task, begun.starts).observe)
    size = max(1, SESSIONS // count)
    for first in range(0, starts, size):
        some = np.arange(first, min(first + size, starts))
        p, e = np.repeat(np.arange(count), len(some)), np.tile(some, count)
        told = {name: v[e] for name, v in begun.frames.items()}
        state = entrant.start(told, begun.past[e], [begun.starts[i].seed for i in e])
        seen, actor = {name: v[:, -1] for name, v in told.items()}, Acting(policies, p, e)
        for t in range(steps):
            rows = actor.act(seen).astype(np.float32)
            state, frame = entrant.rollout(state, rows[:, None])
            require_finite(frame)
            seen = {name: np.asarray(frame.observation[name])[:, 0] for name in spec.modelled}
            played.reward[p, e, t], played.ended[p, e, t] = frame.reward[:, 0], np.clip(frame.terminated[:, 0], 0, 1)
            for name, frames in played.frames.items():
                frames[p, e, t] = seen[name]
        advance(count * len(some) * steps)
    return played


def _blank(spec: WorldSpec, shape: tuple[int, ...], looks: bool) -> Played:
    streams = spec.modelled if looks else {}
    frames = {name: np.zeros((*shape, *s.shape), _TYPES[s.kind]) for name, s in streams.items()}
    return Played(np.zeros(shape, np.float32), np.zeros(shape, np.float32), frames, np.full(shape[:2], shape[2]))


def _never(moment: Moment) -> bool:
    del moment
    return False


def _resumed(env: gym.Env, spec: WorldSpec, starts: list[Start]) -> Begun:
    """Starts of a task: an entrant is told the first frame alone."""
    fork = forkable(env)
    assert fork is not None
    seen = [to_streams(env, fork.restore(start.saved)) for start in starts]
    frames = {name: np.stack([np.array(s[name]) for s in seen])[:, None] for name in spec.modelled}
    return Begun(starts, frames, np.zeros((len(starts), 0, width(spec.action)), np.float32))


def _moments(stage: Stage, ground: Ground, count: int, steps: int) -> Begun:
    """The next moments of play, where no task says how to begin: an entrant is told the context."""
    context = ground.context
    moments = [stage.next(context, steps, ground.lead) for _ in range(count)]
    starts = [Start(moment.state, None, moment.seed) for moment in moments if moment.state is not None]
    frames = {name: np.stack([[f[name] for f in m.frames] for m in moments]) for name in ground.spec.modelled}
    return Begun(starts, frames, np.stack([moment.actions[:context] for moment in moments]))


def _means(scores: np.ndarray) -> list[float | None]:
    return [number(value) for value in scores.mean(1)]


def _told(said: dict[str, Any]) -> str:
    if said["mean"] is None:
        return "–"
    low, high = said["interval"]
    return f"{said['mean']:.2f}" + ("" if low is None else f" ({low:.2f}…{high:.2f})")
