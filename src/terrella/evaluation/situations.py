"""Situations that only some environments have, as lines of a suite: out of sight, by chance, a new rule, chaos.

Each is made once from the truth, then every entrant and reference is held against it. An environment that has no such
situation says why.

    unseen     what becomes of things that nobody sees (`out_of_sight`)
    chance     is a world as unsure as the truth is (`chance`)
    change     does it notice that a rule has changed (`change`)
    chaos      is it right for long, and does it stay on the attractor (`chaos`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arenas.chaos import SYSTEMS
from ..errors import ArenaError, ConfigError
from ..spec import StreamSpec
from .chance import Draws, TrueChance, calibration, draws
from .change import Switches, detection_of, surprise, switches
from .chaos import chaos_scores, free_rollouts
from .moments import Moment, Stage
from .out_of_sight import Journeys, journeys, permanence
from .references import Oracle
from .rollout import Dreamer

# Rules that can be switched, the first that an environment has is: name -> the new value from the old one.
RULES: Mapping[str, Callable[[Any], Any]] = {
    "gravity": lambda old: np.array([0.0, -9.81]) if np.ndim(old) else 2 * old,
    "rho": lambda old: 0.5 * old,
    "c": lambda old: 0.5 * old,
}
SAMPLES = 16  # of a world, for each moment
RESEEDS = 32  # true futures of a moment


@dataclass(frozen=True)
class Size:
    """How much is asked: groups, steps (out of sight, before and after a switch, free), context and lead."""

    groups: int
    steps: int
    context: int
    lead: int


@dataclass(frozen=True)
class Situation:
    """make: the truth, raises `ArenaError` or `ConfigError` where there is none. knows: who knows it, for reference.

    score: an entrant against it, JSON values.
    """

    make: Callable[[Stage, Size], Any]
    knows: Callable[[Stage, Any], Dreamer]
    score: Callable[[Dreamer, Any, Stage], dict[str, Any]]


def _journeys(stage: Stage, size: Size) -> Journeys:
    return journeys(stage, size.groups, size.steps, context=size.context, lead=size.lead)


def _by_group(stage: Stage, found: Journeys) -> Dreamer:
    return Oracle(stage, {g: _saved(m) for g, m in enumerate(found.moments)})


def _draws(stage: Stage, size: Size) -> Draws:
    horizons = tuple(sorted({1, max(1, size.steps // 4), size.steps}))
    found = draws(stage, size.groups, context=size.context, horizons=horizons, reseeds=RESEEDS, lead=size.lead)
    if all((truth == truth[:, :1]).all() for truth in found.truths.values()):
        raise ArenaError(f"nothing happens by chance in {stage.spec.env.id} within {size.steps} steps.")
    return found


def _true_chance(stage: Stage, found: Draws) -> Dreamer:
    states = {g * SAMPLES + s: _saved(m) for g, m in enumerate(found.moments) for s in range(SAMPLES)}
    return TrueChance(stage, states)


def _calibration(dreamer: Dreamer, found: Draws, stage: Stage) -> dict[str, Any]:
    streams = {}
    for name, stream in stage.spec.modelled.items():
        unit = 255.0 if stream.kind == "image" else float(_deviation(found.truths[name]).mean())
        streams[name] = calibration(dreamer, found, name, SAMPLES, unit)
    return {"streams": streams}


def _switches(stage: Stage, size: Size) -> Switches:
    stage.next(size.context, 1, size.lead)
    names = {} if stage.fork is None else stage.fork.quantities()
    rule = next((name for name in RULES if name in names), None)
    if rule is None:
        raise ArenaError(f"{stage.spec.env.id} has none of the rules that can be switched: {', '.join(RULES)}.")
    how: dict[str, Any] = {"context": size.context, "when": size.steps // 2, "steps": size.steps, "lead": size.lead}
    return switches(stage, size.groups, rule, RULES[rule](names[rule]), **how)


def _unaware(stage: Stage, found: Switches) -> Dreamer:
    return Oracle(stage, dict(enumerate(state for runs in found.states for run in runs for state in run)))


def _detection(dreamer: Dreamer, found: Switches, stage: Stage) -> dict[str, Any]:
    scales = {name: _unit(stream, found.observations[name]) for name, stream in stage.spec.modelled.items()}
    told = detection_of(surprise(dreamer, found, stage, scales), found.when)
    return {key: value for key, value in told.items() if key != "raw"}


@dataclass
class _Free:
    moments: list[Moment]
    truths: np.ndarray
    exponent: float
    step: float


def _free(stage: Stage, size: Size) -> _Free:
    core: Any = stage.env.unwrapped
    system = getattr(core, "system", None)
    if system not in SYSTEMS.values() or system.exponent is None:
        raise ArenaError(f"{stage.spec.env.id or 'this environment'} is no chaotic system whose exponent is known.")
    moments, truths = free_rollouts(stage, size.groups, size.steps, context=size.context)
    return _Free(moments, truths, system.exponent, system.step)


def _equation(stage: Stage, found: _Free) -> Dreamer:
    return Oracle(stage, {g: _saved(m) for g, m in enumerate(found.moments)})


def _chaos(dreamer: Dreamer, found: _Free, stage: Stage) -> dict[str, Any]:
    del stage
    told = chaos_scores(dreamer, found.moments, found.truths, exponent=found.exponent, step=found.step)
    return {key: value for key, value in told.items() if key != "raw"}


SITUATIONS: dict[str, Situation] = {
    "unseen": Situation(_journeys, _by_group, permanence),
    "chance": Situation(_draws, _true_chance, _calibration),
    "change": Situation(_switches, _unaware, _detection),
    "chaos": Situation(_free, _equation, _chaos),
}


def _saved(moment: Moment) -> bytes:
    if moment.state is None:
        raise ConfigError("a moment without a saved state has no truth to go on from.")
    return moment.state


def _deviation(frames: np.ndarray) -> np.ndarray:
    deviation = frames.reshape(-1, frames.shape[-1]).astype(np.float64).std(0)
    return np.where(deviation > 1e-8, deviation, 1.0)


def _unit(stream: StreamSpec, frames: np.ndarray) -> np.ndarray | None:
    return _deviation(frames) if stream.kind == "vector" else None
