"""What has a world understood? A list of measurements and dimensions, each of every entrant, kept as it is made.

All entrants meet the same moments, futures and noise seeds. A result is kept in `out/kept`, one file a line of the list
and entrant, with the settings it was made under; it is made anew only if these differ.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..arenas import describe, make
from ..data import Dataset, Policy
from ..errors import ConfigError, EntrantError, WorldError, did_you_mean
from ..registry import lookup
from ..spec import WorldSpec
from ..world import World
from .distractors import COUNT, Near, near_frames
from .entrant import Entrant, WorldEntrant, open_entrant
from .forks import Forks, fork_groups
from .jobs import Executor, Part, Processes, fill, portable
from .kept import FORMAT, Folder, Kept
from .measurements import CORE, FULL, LANGUAGE, Advance, Measurement, measure_forks, measure_loss, measure_nothing
from .moments import POLICY, Stage
from .progress import progress_bar
from .provenance import commit, hardware
from .questions import CONTROLS, QUESTIONS, Question, ask, effort
from .references import ActionBlind, CopyLast, Oracle, RandomFrames
from .rollout import Dreamer
from .run import LEAD, default_context, measure
from .source import EnvLike, make_env, used_seeds

Line = Measurement | Question
SUITES: dict[str, tuple[Line, ...]] = {
    "core": CORE,
    "full": (*FULL, *QUESTIONS),
    "dimensions": QUESTIONS,
    "language": LANGUAGE,
}
ALLOWED = {"core": 300.0}  # seconds of the simulator alone, for one measurement; elsewhere `_PATIENCE`
_PATIENCE = 7200.0
_PACED = 8  # steps by which the simulator's pace is taken
_BLIND = 2  # plans over which an entrant takes the mean that knows all but the actions
_DRAWN = {"random frames": {"drawn": "once a session"}}  # what else the answers of references depend on


@dataclass
class Ground:
    """Where entrants meet: one environment, and the true futures of each kind, made when first asked for.

    allowance: seconds that the simulator may take for one of those measurements that say how many steps it makes.
    opened: what is closed when all have been measured.
    """

    env: gym.Env
    spec: WorldSpec
    context: int
    lead: int
    policy: str | Policy
    seed: int
    taken: frozenset[int] = frozenset()
    allowance: float = math.inf
    opened: ExitStack = field(default_factory=ExitStack)
    _made: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def stage(self) -> Stage:
        """Plays the truth for references."""
        return Stage(self.env, self.spec, self.seed, policy=self.policy)

    def forbids(self, m: Measurement) -> str | None:
        """Why the environment does not allow a measurement, or None."""
        if m.what != "drift" and (self.stage.fork is None or not self.stage.fork.exact):
            return "this environment cannot be forked exactly, so its futures cannot be compared."
        if m.kind in ("asked", "reworded") and self.spec.action.kind != "text":
            return "actions here are no sentences."
        if m.what == "null" and self.spec.noop is None:
            return "this environment has no action that is known to do nothing."
        return lookup("subject", m.what)().missing(m, self) if m.apart else None

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made when first asked for under this key, for all entrants."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def forks(self, m: Measurement) -> Forks:
        """Futures of a measurement."""
        every = m.what in ("loss", "null")  # these look at every frame
        marks = tuple(range(1, max(m.marks) + 1)) if every else m.marks
        key = (m.kind, m.groups, m.branches, marks, m.shift)
        how: dict[str, Any] = {"context": self.context, "lead": self.lead, "policy": self.policy, "taken": self.taken}
        how |= {"branches": m.branches, "marks": marks, "shift": m.shift, "kind": m.kind, "seed": self.seed}
        return self.once(key, lambda: next(fork_groups(self.env, self.spec, sizes=[m.groups], **how)))

    def near(self, m: Measurement) -> Near:
        """Near distractors of the moments of a measurement."""
        return self.once(("near", m.kind, m.groups), lambda: near_frames(self.stage, self.forks(m), self.seed))

    def too_slow(self, steps: int) -> str | None:
        """Why so many steps of the true environment are more than the allowance has time for, or None."""
        each = self.once("pace", self._pace)
        if steps * each <= self.allowance:
            return None
        return (
            f"the simulator takes {1000 * each:.0f} ms a step, so that the {steps:,} steps of it would take "
            f"{steps * each / 60:.0f} minutes; {self.allowance / 60:.0f} are allowed."
        )

    def _pace(self) -> float:
        """Seconds that the true environment takes for a step, at best, going back to a saved state now and then."""
        stage = Stage(self.env, self.spec, self.seed, policy=self.policy)  # other moments stay as they are
        moment, best = stage.next(1, _PACED, 0), math.inf
        for _ in range(3):
            began = time.perf_counter()
            stage.restore(moment)
            steps = len(stage.play(moment.actions[1:]).frames)
            best = min(best, (time.perf_counter() - began) / max(1, steps))
        return best

    def reference(self, name: str, forks: Forks) -> Dreamer:
        """Who knows everything, nothing of actions, nothing of change, or nothing: one of `REFERENCES`."""
        if name == "last frame held":
            return CopyLast()
        if name == "random frames":
            bank = {stream: frames.reshape(-1, *frames.shape[2:]) for stream, frames in forks.observations.items()}
            return RandomFrames(bank, self.seed)
        known = Oracle(self.stage, dict(zip(forks.seeds, forks.states)))
        if name == "true simulator":
            return known
        steps = forks.branches.shape[2]
        plans = self.stage.draw(np.random.default_rng([self.seed, 3]), _BLIND * steps).reshape(_BLIND, steps, -1)
        return ActionBlind(known, plans)


REFERENCES = ("true simulator", "action-blind", "last frame held", "random frames")


def run_suite(
    world: World | str | Path | None,
    entrants: Sequence[Entrant | str] = (),
    *,
    env: EnvLike | None = None,
    suite: str | Sequence[Line] = "core",
    references: bool = True,
    dataset: Dataset | None = None,
    context: int | None = None,
    lead: int = LEAD,
    policy: str | Policy = POLICY,
    seed: int = 0,
    device: str | None = None,
    engine: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    allowance: float | None = None,
    progress: bool | Advance = True,
    jobs: int | Executor = 1,
    part: Part | None = None,
) -> dict[str, Any]:
    """Measure a world, other entrants and references, and return a table of each line of a suite, as JSON values.

    world: None to measure `entrants` alone, in `env`. entrants: objects, or where `open_entrant` finds them. suite:
    `core`, `dimensions`, `language`, `full`, or measurements and questions of one's own. dataset: recordings whose
    seeds are left out. engine: settings of the world's engine. allowance: seconds of the simulator alone beyond which
    ranking and planning are not measured; 5 minutes of `core`, else 2 hours. out: a folder for `suite.json`,
    `suite.html` and what is kept. progress: a bar, or who counts. jobs: processes that share the work and the threads,
    or who runs them elsewhere (`terrella.cluster.RayJobs`); with as many threads each, results are those of one. part:
    what one of them does, which then writes no page. Others as in `evaluate`.

    What the environment does not allow, or what does not fit the world, has `missing`, the reason. Raises `ConfigError`
    when nobody takes part, or something cannot be told to several processes; `UnknownName` for a suite there is not,
    `EntrantError` for an entrant that cannot be reached.
    """
    plan = _plan(suite) if part is None else part.turned(_plan(suite))
    how: dict[str, Any] = {"env": env, "suite": suite, "references": references, "dataset": dataset, "context": context}
    how |= {"lead": lead, "policy": policy, "seed": seed, "device": device, "engine": engine, "out": out}
    how |= {"allowance": allowance}
    workers = Processes(jobs) if isinstance(jobs, int) else jobs
    sent = None if jobs == 1 else portable(world, entrants, workers.jobs, **how)
    loaded = World.load(world) if isinstance(world, (str, Path)) else world
    if loaded is None and (env is None or not entrants):
        raise ConfigError("nobody to measure: give a world, or an environment and an entrant.")
    made = make_env(loaded.spec, env) if loaded is not None else make(env if env is not None else "")
    spec = loaded.spec if loaded is not None else describe(made)
    names = default_context(loaded) if loaded is not None else 4
    taken = used_seeds(dataset) if dataset is not None else frozenset()
    patience = ALLOWED.get(str(suite), _PATIENCE) if allowance is None else allowance
    ground = Ground(made, spec, names if context is None else context, lead, policy, seed, taken, patience)
    if device is not None:
        engine = {**(engine or {}), "device": device}
    takers: list[Entrant] = [] if loaded is None else [WorldEntrant(loaded, engine)]
    try:
        takers += [open_entrant(e, spec) if isinstance(e, str) else e for e in entrants]
        called = [entrant.describe()["name"] for entrant in takers]
        called += list(dict.fromkeys((*REFERENCES, *CONTROLS))) if references else []
        if len(set(called)) < len(called):
            raise ConfigError(f"entrants are called {called}; each needs a name of its own.")
        folder, fresh = None if out is None else Path(out) / "kept", 0
        kept = part.kept if part is not None else Kept(None if folder is None else Folder(folder))
        measurements = [line for line in plan if isinstance(line, Measurement)]
        questions = [line for line in plan if isinstance(line, Question)]
        total = sum(_effort(m, len(takers), references) for m in measurements)
        total += sum(effort(question, len(takers), references) for question in questions)
        with progress_bar("suite", total, progress) as advance:
            if sent is not None and folder is not None:
                fresh, advance = fill(sent, folder, workers, advance), _uncounted  # what follows only reads
            result = _run(measurements, ground, takers, kept, references, advance, env)
            asked = ask(questions, spec, takers, kept, references=references, seed=seed, advance=advance)
        result |= {**asked, "reused": result["reused"] + asked["reused"]}
    finally:
        for entrant in takers:
            entrant.close()
        ground.opened.close()
        made.close()
    if part is not None:
        return result
    result |= {
        "reused": result["reused"] - fresh,
        "format": FORMAT,
        "suite": suite if isinstance(suite, str) else "own",
        "world": loaded.name if loaded is not None else None,
        "env": asdict(spec.env),
        "settings": {"context": ground.context, "lead": lead, "policy": _named(policy), "seed": seed},
        "commit": commit(),
        "hardware": {**hardware(), **workers.describe()},
    }
    result = json.loads(json.dumps(result))  # equal to what is read from the file
    if out is not None:
        from .suite_page import write

        write(result, Path(out))
    return result


def _run(
    plan: Sequence[Measurement],
    ground: Ground,
    takers: list[Entrant],
    kept: Kept,
    references: bool,
    advance: Advance,
    env: EnvLike | None,
) -> dict[str, Any]:
    """Each measurement of each entrant, from what is kept or anew."""
    common = {"env": asdict(describe(ground.env).env), "context": ground.context, "lead": ground.lead}
    common |= {"policy": _named(ground.policy), "seed": ground.seed, "taken": len(ground.taken), "format": FORMAT}
    described = [entrant.describe() for entrant in takers]
    table: dict[str, Any] = {}
    reused = 0
    for m in plan:
        rows: dict[str, Any] = {}
        table[m.name] = {"measurement": asdict(m), "entrants": rows}
        if (missing := ground.forbids(m)) is not None:
            table[m.name]["missing"] = missing
            continue
        members: list[tuple[Entrant | None, dict[str, Any]]] = list(zip(takers, described))
        if references and m.forked:
            known = {"kind": "reference", "plans": _BLIND}
            members += [(None, {"name": name, **known, **_DRAWN.get(name, {})}) for name in REFERENCES]
        for entrant, said in members:
            if m.what == "loss" and not isinstance(entrant, WorldEntrant):
                continue
            name = said["name"]
            try:
                settings = {**common, "measurement": asdict(m), "entrant": said}
                if m.what == "forks" and isinstance(entrant, WorldEntrant):
                    settings["near"] = COUNT
                anew = partial(_measure, m, entrant, name, ground, advance, env)
                rows[name], old = kept.get(settings, anew)
            except (EntrantError, WorldError) as error:  # not kept: it may answer the next time
                rows[name], old = {"error": str(error)}, False
            if old:
                reused += 1
                advance(m.frames)
    return {"entrants": described, "measurements": table, "reused": reused}


def _uncounted(frames: int) -> None:
    """Count nothing."""


def _effort(m: Measurement, takers: int, references: bool) -> int:
    return m.frames * (takers + (len(REFERENCES) if references and m.forked else 0))


def _measure(
    m: Measurement, entrant: Entrant | None, name: str, ground: Ground, advance: Advance, env: EnvLike | None
) -> dict[str, Any]:
    """Measure one entrant, or where there is none the reference of that name."""
    streams = ground.spec.modelled
    if m.apart and entrant is not None:
        return lookup("subject", m.what)().measure(m, entrant, ground, advance)
    if m.what == "drift" and entrant is not None:
        how: dict[str, Any] = {"context": ground.context, "lead": ground.lead, "policy": ground.policy, "long": 0}
        how |= {"seed": ground.seed, "speed": False, "progress": False, "horizons": m.marks, "episodes": m.groups}
        report = measure(entrant, ground.spec, env, name=m.name, **how)
        advance(m.frames)
        keys = ("streams", "horizons", "n_groups", "summary", "action_differs")
        return {key: report[key] for key in keys}
    forks = ground.forks(m)
    if m.what == "loss" and isinstance(entrant, WorldEntrant):
        return measure_loss(entrant, forks, m.marks, m.draws, advance)
    dreamer = entrant or ground.reference(name, forks)
    if m.what == "null":
        return measure_nothing(dreamer, forks, ground.stage, streams, advance)
    near = ground.near(m) if isinstance(entrant, WorldEntrant) else None
    return measure_forks(dreamer, forks, streams, advance, near)


def _plan(suite: str | Sequence[Line]) -> tuple[Line, ...]:
    if not isinstance(suite, str):
        return tuple(suite)
    if suite not in SUITES:
        raise did_you_mean(suite, SUITES, "suite")
    return SUITES[suite]


def _named(policy: str | Policy) -> str:
    return policy if isinstance(policy, str) else repr(policy)
