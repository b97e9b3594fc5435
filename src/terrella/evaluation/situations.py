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

from abc import abstractmethod
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
from .metrics import deviations
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


class Situation(Subject):
    """A subject whose truth is made from the environment alone; `found` is what `make` returns."""

    @abstractmethod
    def make(self, stage: Stage, size: Size) -> Any:
        """Play the truth; raises `ArenaError` or `ConfigError` where there is no such situation."""

    @abstractmethod
    def knows(self, stage: Stage, found: Any) -> Dreamer:
        """Return who knows the truth."""

    @abstractmethod
    def score(self, dreamer: Dreamer, found: Any, stage: Stage) -> dict[str, Any]:
        """Hold an entrant against it: JSON values, scores as `mean` and `interval`."""

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
        found, stage = self._truth(m, ground), ground.stage
        rows = ground.once((m, "references"), lambda: self._references(found, stage))
        own = self.score(entrant, found, stage)
        advance(m.frames)
        return {"rows": {"entrant": own, **rows}}

    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """All scores of all."""
        whole = {who: row["rows"]["entrant"] for who, row in rows.items()}
        first = next(iter(rows.values()))["rows"]
        whole |= {who: found for who, found in first.items() if who != "entrant"}
        lines = [[who, *cells] for who, found in whole.items() for cells in _flat(found)]
        return html_table(["who", "score", "value", "95 %"], lines)

    def _truth(self, m: Measurement, ground: Ground) -> Any:
        size = Size(m.groups, max(m.marks), ground.context, ground.lead)
        return ground.once(m, lambda: self.make(ground.stage, size))

    def _references(self, found: Any, stage: Stage) -> dict[str, Any]:
        who = {"true simulator": self.knows(stage, found), "last frame held": CopyLast()}
        return {name: self.score(dreamer, found, stage) for name, dreamer in who.items()}


@register("subject", "unseen")
class Unseen(Situation):
    """What becomes of things that nobody sees."""

    note = (
        "The viewer looks away for some steps and back again. Which truth is the last frame nearest to: things went "
        "on, stood still, are gone, are others? Revisit: its error less that after as long on the spot."
    )

    def make(self, stage: Stage, size: Size) -> Journeys:
        """Leave and return."""
        return journeys(stage, size.groups, size.steps, context=size.context, lead=size.lead)

    def knows(self, stage: Stage, found: Journeys) -> Dreamer:
        """The simulator."""
        return Oracle(stage, _states(found.moments))

    def score(self, dreamer: Dreamer, found: Journeys, stage: Stage) -> dict[str, Any]:
        """As `permanence`."""
        return {key: value for key, value in permanence(dreamer, found, stage).items() if key != "raw"}

    def line(self, row: dict[str, Any]) -> str:
        """How often the truth that went on was the nearest."""
        found = row["rows"]["entrant"]
        return f"went on: {_short(found['right'])} of {found['asked']} returns, chance {_short(found['chance'])}"


@register("subject", "chance")
class Chance(Situation):
    """Is a world as unsure as the truth is?"""

    note = (
        "Futures of one moment with chance drawn anew, of the truth and of the entrant. Energy distance: 0 for equal "
        "distributions. Coverage: share of the outcomes that some sample comes close to. Impossible: share of samples "
        "that are close to none."
    )

    def make(self, stage: Stage, size: Size) -> Draws:
        """Draw true futures; refuses environments in which nothing happens by chance."""
        horizons = tuple(sorted({1, max(1, size.steps // 4), size.steps}))
        found = draws(stage, size.groups, context=size.context, horizons=horizons, reseeds=RESEEDS, lead=size.lead)
        if all((truth == truth[:, :1]).all() for truth in found.truths.values()):
            raise ArenaError(f"nothing happens by chance in {stage.spec.env.id} within {size.steps} steps.")
        return found

    def knows(self, stage: Stage, found: Draws) -> Dreamer:
        """The simulator, with chance of its own."""
        states = _states(found.moments)
        return TrueChance(stage, {g * SAMPLES + s: state for g, state in states.items() for s in range(SAMPLES)})

    def score(self, dreamer: Dreamer, found: Draws, stage: Stage) -> dict[str, Any]:
        """As `calibration`, by stream."""
        streams = {}
        for name, stream in stage.spec.modelled.items():
            unit = 255.0 if stream.kind == "image" else float(_scale(found.truths[name]).mean())
            streams[name] = calibration(dreamer, found, name, SAMPLES, unit)
        return {"streams": streams}

    def line(self, row: dict[str, Any]) -> str:
        """Energy distance at the last horizon."""
        pairs = [(name, next(iter(found["streams"].values()))) for name, found in row["rows"].items()]
        return "energy distance: " + ", ".join(f"{n} {s['energy_distance']['mean'][-1]:.3g}" for n, s in pairs)


@register("subject", "change")
class Change(Situation):
    """Does it notice that a rule has changed?"""

    note = (
        "One rule is switched half-way. AUROC: does the next true frame surprise more than under the old rule? Delay: "
        "steps until it does for certain. The true simulator here still believes in the old rule."
    )

    def make(self, stage: Stage, size: Size) -> Switches:
        """Switch the first of `RULES` that the environment has."""
        stage.next(size.context, 1, size.lead)
        names = {} if stage.fork is None else stage.fork.quantities()
        rule = next((name for name in RULES if name in names), None)
        if rule is None:
            raise ArenaError(f"{stage.spec.env.id} has none of the rules that can be switched: {', '.join(RULES)}.")
        how: dict[str, Any] = {"context": size.context, "when": size.steps // 2, "steps": size.steps, "lead": size.lead}
        return switches(stage, size.groups, rule, RULES[rule](names[rule]), **how)

    def knows(self, stage: Stage, found: Switches) -> Dreamer:
        """The simulator under the old rule."""
        return Oracle(stage, dict(enumerate(state for runs in found.states for run in runs for state in run)))

    def score(self, dreamer: Dreamer, found: Switches, stage: Stage) -> dict[str, Any]:
        """As `detection_of`."""
        scales = {name: _unit(stream, found.observations[name]) for name, stream in stage.spec.modelled.items()}
        told = detection_of(surprise(dreamer, found, stage, scales), found.when)
        return {key: value for key, value in told.items() if key != "raw"}

    def line(self, row: dict[str, Any]) -> str:
        """AUROC of surprise."""
        return "AUROC of surprise: " + ", ".join(f"{n} {_short(found['auroc'])}" for n, found in row["rows"].items())


@dataclass
class _Free:
    moments: list[Moment]
    truths: np.ndarray
    exponent: float
    step: float


@register("subject", "chaos")
class Chaos(Situation):
    """Is it right for long, and does it stay on the attractor?"""

    note = (
        "Valid time: how long a free rollout is right, in Lyapunov times. Exponent: how fast two of its rollouts part, "
        "beside the true one. Wasserstein distances: where long rollouts dwell, in deviations of the truth."
    )

    def make(self, stage: Stage, size: Size) -> _Free:
        """Let the truth run freely; refuses all but systems whose exponent is known."""
        system = getattr(stage.env.unwrapped, "system", None)
        if not isinstance(system, System) or system.exponent is None:
            raise ArenaError(f"{stage.spec.env.id or 'this environment'} is no chaotic system whose exponent is known.")
        moments, truths = free_rollouts(stage, size.groups, size.steps, context=size.context)
        return _Free(moments, truths, system.exponent, system.step)

    def knows(self, stage: Stage, found: _Free) -> Dreamer:
        """The equation."""
        return Oracle(stage, _states(found.moments))

    def score(self, dreamer: Dreamer, found: _Free, stage: Stage) -> dict[str, Any]:
        """As `chaos_scores`."""
        del stage
        told = chaos_scores(dreamer, found.moments, found.truths, exponent=found.exponent, step=found.step)
        return {key: value for key, value in told.items() if key != "raw"}

    def line(self, row: dict[str, Any]) -> str:
        """Valid times."""
        told = [f"{name} {_short(found['valid_time'])}" for name, found in row["rows"].items()]
        return "Lyapunov times that are right: " + ", ".join(told)


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


def _states(moments: list[Moment]) -> dict[int, bytes]:
    """Saved states by group; moments of forked environments have one."""
    return {g: moment.state for g, moment in enumerate(moments) if moment.state is not None}


def _scale(frames: np.ndarray) -> np.ndarray:
    return deviations(frames.reshape(-1, frames.shape[-1]))


def _unit(stream: StreamSpec, frames: np.ndarray) -> np.ndarray | None:
    return _scale(frames) if stream.kind == "vector" else None
