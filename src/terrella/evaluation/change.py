"""Does a world notice that a rule has changed? Its surprise at each step, before and after one is switched (C8).

An episode is played twice from one saved state under the same actions: once as it is, once with one named quantity
(gravity, friction, ...) set to another value at step t*. At each step the world is given the last true frames and asked
for the next one; its squared error is its surprise. Both runs are equal up to t*, so that difference is the rule's.

    auroc        the chance that a step after t* surprises more than the same episode's steps of the unchanged run
    delay        steps from t* until surprise exceeds a threshold, which steps of unchanged runs exceed with a
                 frequency of `false_alarms`; never within the episode counts as its end
    detected     share of episodes in which it does

Surprise is what a world makes of a *true* past: a world that infers the rule from the context gets used to it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArenaError, ConfigError
from .metrics import frame_mse
from .moments import Stage
from .rollout import Dreamer
from .stats import auroc, bootstrap


@dataclass
class Switches:
    """E episodes, each with and without the switch. observations: stream -> `(E, 2, c+1+T, ...)`, unchanged first.

    actions: `(E, c+T, W)`. when: t*, the number of steps after the context under the old rule. states: `[E][2][T]`, at
    each step, with the old rule: what somebody knows who has not noticed.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    context: int
    when: int
    states: list[list[list[bytes]]]


def switches(
    stage: Stage, episodes: int, quantity: str, value: Any, *, context: int, when: int, steps: int, lead: int = 0
) -> Switches:
    """Play episodes of `steps` = T steps after a context, twice each.

    Raises `ArenaError` where the quantity cannot be set so or an episode ends early, `ConfigError` unless
    0 < when < steps.
    """
    if not 0 < when < steps:
        raise ConfigError(f"when is {when}, steps {steps}; expected a switch after the first and before the last step.")
    fork = stage.fork
    if fork is None:
        raise ArenaError("rules are switched in saved states; this environment cannot be forked.")
    shown: list[list[list[dict[str, np.ndarray]]]] = []
    rows, states = [], []
    for _ in range(episodes):
        moment = stage.next(context, steps, lead)
        runs, kept = [], []
        for changed in (False, True):
            stage.restore(moment)
            old, frames, known = fork.quantities().get(quantity), list(moment.frames), []
            for t, row in enumerate(moment.actions[context:]):
                if changed and t == when:
                    fork.intervene(quantity, value)
                known.append(_believed(fork, quantity, old))
                played = stage.play(row[None])
                frames += played.frames
                if played.over and t + 1 < steps:
                    raise ArenaError(f"an episode ended after {t + 1} of {steps} steps; ask for fewer.")
            runs.append(frames)
            kept.append(known)
        shown.append(runs)
        states.append(kept)
        rows.append(moment.actions)
    observations = {
        name: np.stack([np.stack([np.stack([f[name] for f in run]) for run in runs]) for runs in shown])
        for name in stage.spec.modelled
    }
    return Switches(observations, np.stack(rows), context, when, states)


def _believed(fork: Any, quantity: str, old: Any) -> bytes:
    """The present state with the old rule; the environment stays as it is."""
    now = fork.save()
    fork.intervene(quantity, old)
    believed = fork.save()
    fork.restore(now)
    return believed


def surprise(dreamer: Dreamer, found: Switches, stage: Stage, scales: Mapping[str, Any] | None = None) -> np.ndarray:
    """Squared error of the next frame at each step, `(E, 2, T)`, summed over streams.

    Sessions begin anew at each step from the last c+1 true frames; step t of run r of episode e has the noise seed
    `(e * 2 + r) * T + t`.
    """
    context, steps = found.context, found.actions.shape[1] - found.context
    total = np.zeros((len(found.actions), 2, steps))
    for e, rows in enumerate(found.actions):
        for run in range(2):
            frames = {name: v[e, run] for name, v in found.observations.items()}
            seen = {n: np.stack([v[t : t + context + 1] for t in range(steps)]) for n, v in frames.items()}
            past = np.stack([rows[t : t + context] for t in range(steps)])
            seeds = [(e * 2 + run) * steps + t for t in range(steps)]
            _, frame = dreamer.rollout(dreamer.start(seen, past, seeds), rows[context:, None])
            for name, stream in stage.spec.modelled.items():
                scale = (scales or {}).get(name)
                said = np.asarray(frame.observation[name])[:, 0]
                total[e, run] += frame_mse(said, frames[name][context + 1 :], stream, scale)
    return total


def detection_of(surprises: np.ndarray, when: int, false_alarms: float = 0.05) -> dict[str, Any]:
    """Score surprises `(E, 2, T)` of runs without and with a switch after `when` steps, as JSON values.

    AUROC, delay and the share detected, each with its bootstrap 95 % interval by episode; `alarms`: how often steps
    of unchanged runs exceed the threshold. The threshold of an episode comes from the other episodes alone. Raises
    `ConfigError` for fewer than two episodes.
    """
    episodes, _, steps = surprises.shape
    if episodes < 2:
        raise ConfigError(f"{episodes} episode; a threshold is set on the others, so at least two are needed.")
    surprises = np.nan_to_num(surprises, nan=np.inf)
    areas, delays, alarms = np.zeros((3, episodes))
    for e in range(episodes):
        still, changed = surprises[e, 0], surprises[e, 1, when:]
        areas[e] = auroc(
            np.concatenate([still[when:], changed]), np.repeat([False, True], [steps - when, steps - when])
        )
        limit = np.quantile(np.delete(surprises[:, 0], e, 0), 1 - false_alarms, method="higher")
        over = np.flatnonzero(changed > limit)
        delays[e] = over[0] if len(over) else steps - when
        alarms[e] = (still > limit).mean()
    result: dict[str, Any] = {"episodes": episodes, "steps_after": steps - when, "false_alarms": false_alarms}
    found = {"auroc": areas, "delay": delays, "detected": (delays < steps - when).astype(float), "alarms": alarms}
    for name, values in found.items():
        mean, low, high = bootstrap(values[:, None])
        result[name] = {"mean": float(mean[0]), "interval": [float(low[0]), float(high[0])]}
    result["raw"] = {name: values.round(6).tolist() for name, values in found.items()}
    return result
