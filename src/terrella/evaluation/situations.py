"""Situations that only some environments have, as subjects of a suite: out of sight, by chance, a new rule, chaos.

Each is made once from the truth, then every entrant is held against it, beside who knows the truth and who holds the
last frame. An environment that has no such situation says why.

    unseen     what becomes of things that nobody sees (`out_of_sight`)
    chance     is a world as unsure as the truth is (`chance`)
    change     does it notice that a rule has changed (`change`)
    chaos      is it right for long, and does it stay on the attractor (`chaos`)

Of a measurement groups are moments or episodes, and the last mark is how many steps: out of sight, until the last
outcome, with the rule switched half-way, or alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arenas.chaos import System
from ..errors import ArenaError, ConfigError
from ..registry import register
from ..spec import StreamSpec
from .chance import Draws, TrueChance, calibration, draws
from .change import Switches, detection_of, surprise, switches
from .chaos import chaos_scores, free_rollouts
from .entrant import Entrant
from .moments import Moment, Stage
from .out_of_sight import Journeys, journeys, permanence
from .references import CopyLast, Oracle
from .report import html_table
from .rollout import Dreamer
from .subject import Subject

if TYPE_CHECKING:
    from .measurements import Measurement
    from .suite import Ground

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
    """How much is asked: groups, steps (out of sight, before and after a switch, alone), context and lead."""

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

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Why there is no such situation, or None."""
        try:
            self._truth(m, ground)
        except (ArenaError, ConfigError) as error:
            return str(error)
        return None

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """Score an entrant, and beside it the references, which are the same for all."""
        found = self._truth(m, ground)
        rows = ground.once((m, "references"), lambda: self._references(found, ground.stage))
        own = self.score(entrant, found, ground.stage)
        advance(m.frames)
        return {"rows": {"entrant": own, **rows}}

    def _truth(self, m: Measurement, ground: Ground) -> Any:
        size = Size(m.groups, max(m.marks), ground.context, ground.lead)
        return ground.once(m, lambda: self.make(ground.stage, size))

    def _references(self, found: Any, stage: Stage) -> dict[str, Any]:
        who = {"true simulator": self.knows(stage, found), "last frame held": CopyLast()}
        return {name: self.score(dreamer, found, stage) for name, dreamer in who.items()}


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
    if not isinstance(system, System) or system.exponent is None:
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


@register("subject", "unseen")
class Unseen(Subject):
    """What becomes of things that nobody sees."""

    note = (
        "The viewer looks away for some steps and back again. Which truth is the last frame nearest to: things went "
        "on, stood still, are gone, are others? Revisit: its error less that after as long on the spot."
    )

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Needs an arena that goes on out of view."""
        return SITUATIONS["unseen"].missing(m, ground)

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """As `out_of_sight.permanence`."""
        return SITUATIONS["unseen"].measure(m, entrant, ground, advance)

    def line(self, row: dict[str, Any]) -> str:
        """How often the truth that went on was the nearest."""
        found = row["rows"]["entrant"]
        return f"went on: {_short(found['right'])} of {found['asked']} returns, chance {_short(found['chance'])}"

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """All scores."""
        return _page(rows)


@register("subject", "chance")
class Chance(Subject):
    """Is a world as unsure as the truth is?"""

    note = (
        "Futures of one moment with chance drawn anew, of the truth and of the entrant. Energy distance: 0 for equal "
        "distributions. Coverage: share of the outcomes that some sample comes close to. Impossible: share of samples "
        "that are close to none."
    )

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Needs chance that can be drawn anew."""
        return SITUATIONS["chance"].missing(m, ground)

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """As `chance.calibration`, by stream."""
        return SITUATIONS["chance"].measure(m, entrant, ground, advance)

    def line(self, row: dict[str, Any]) -> str:
        """Energy distance at the last horizon."""
        pairs = [(name, rows["streams"]) for name, rows in row["rows"].items()]
        told = [f"{name} {next(iter(s.values()))['energy_distance']['mean'][-1]:.3g}" for name, s in pairs]
        return "energy distance: " + ", ".join(told)

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """All scores."""
        return _page(rows)


@register("subject", "change")
class Change(Subject):
    """Does it notice that a rule has changed?"""

    note = (
        "One rule is switched half-way. AUROC: does the next true frame surprise more than under the old rule? Delay: "
        "steps until it does for certain. The true simulator here still believes in the old rule."
    )

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Needs a rule among `RULES`."""
        return SITUATIONS["change"].missing(m, ground)

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """As `change.detection_of`."""
        return SITUATIONS["change"].measure(m, entrant, ground, advance)

    def line(self, row: dict[str, Any]) -> str:
        """AUROC of surprise."""
        return "AUROC of surprise: " + ", ".join(f"{n} {_short(r['auroc'])}" for n, r in row["rows"].items())

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """All scores."""
        return _page(rows)


@register("subject", "chaos")
class Attractor(Subject):
    """Is it right for long, and does it stay on the attractor?"""

    note = (
        "Valid time: how long a free rollout is right, in Lyapunov times. Exponent: how fast two of its rollouts part, "
        "beside the true one. Wasserstein distances: where long rollouts dwell, in deviations of the truth."
    )

    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Needs a chaotic system with a known exponent."""
        return SITUATIONS["chaos"].missing(m, ground)

    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """As `chaos.chaos_scores`."""
        return SITUATIONS["chaos"].measure(m, entrant, ground, advance)

    def line(self, row: dict[str, Any]) -> str:
        """Valid times."""
        told = [f"{name} {_short(found['valid_time'])}" for name, found in row["rows"].items()]
        return "Lyapunov times that are right: " + ", ".join(told)

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """All scores."""
        return _page(rows)


def _page(rows: dict[str, dict[str, Any]]) -> str:
    first = next(iter(rows.values()))["rows"]
    whole = {**{who: row["rows"]["entrant"] for who, row in rows.items()}, **first}
    del whole["entrant"]
    lines = [[who, *cells] for who, found in whole.items() for cells in _flat(found)]
    return html_table(["who", "score", "value", "95 %"], lines)


def _flat(found: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every number of a result, with its name and interval."""
    for name, value in found.items():
        label = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict) and "mean" in value and isinstance(value["mean"], list):
            for h, (mean, interval) in enumerate(zip(value["mean"], value["interval"])):
                yield f"{label} after {found['horizons'][h]}", mean, interval
        elif isinstance(value, dict) and "mean" in value:
            yield label, value["mean"], value["interval"]
        elif isinstance(value, dict):
            yield from _flat(value, "" if name == "streams" else f"{label}: ")
        elif isinstance(value, list) and name != "horizons":
            yield from ((f"{label} {i}", each, None) for i, each in enumerate(value))
        elif isinstance(value, (int, float)):
            yield label, value, None


def _short(score: dict[str, Any]) -> str:
    return "-" if score["mean"] is None else f"{score['mean']:.2f}"


def _saved(moment: Moment) -> bytes:
    if moment.state is None:
        raise ConfigError("a moment without a saved state has no truth to go on from.")
    return moment.state


def _deviation(frames: np.ndarray) -> np.ndarray:
    deviation = frames.reshape(-1, frames.shape[-1]).astype(np.float64).std(0)
    return np.where(deviation > 1e-8, deviation, 1.0)


def _unit(stream: StreamSpec, frames: np.ndarray) -> np.ndarray | None:
    return _deviation(frames) if stream.kind == "vector" else None
