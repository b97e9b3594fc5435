"""Measure a world against the truth: one call, one dictionary of numbers, one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset, Policy
from ..engine import Engine, engine_settings
from ..errors import ConfigError, SpecError
from ..spec import EnvSpec, WorldSpec
from ..world import World
from . import report
from .endurance import endurance, long_dream
from .gather import Gathered
from .moments import POLICY
from .progress import progress_bar
from .provenance import commit, hardware
from .rollout import Dreamer
from .source import EnvLike, open_truth
from .speed import measure_speed
from .summary import summarise
from .truth import Truth

HORIZONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
LEAD = 100  # futures begin at a random one of an episode's first steps, this many at most
_SCENES = 4  # futures shown, and sessions of the long rollout


def evaluate(
    world: World | str | Path,
    env: EnvLike | None = None,
    *,
    dataset: Dataset | str | Path | None = None,
    episodes: int = 32,
    horizons: Sequence[int] = HORIZONS,
    context: int | None = None,
    lead: int = LEAD,
    policy: str | Policy = POLICY,
    seed: int = 0,
    steps: int | None = None,
    device: str | None = None,
    engine: Mapping[str, Any] | None = None,
    long: int = 512,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Roll a world and the true environment from the same starts under the same actions and report how they part.

    env: default the one that the world was recorded in; where it cannot be made, held-out episodes of `dataset` are
    the truth. episodes: futures compared. horizons: steps after the context at which frames are compared. context:
    actions shown to the world before; default as many as its recorded starts have. lead: contexts begin at
    a random one of an episode's first `lead` steps (0: at its reset). policy: who acts, as in `record`. steps:
    denoising steps, default the world's own. device: where to run, default where the world is. engine: more settings of
    the `Engine`, by name. long: frames of the free rollout, 0 for none. out: a folder for `report.json` and
    `report.html`.

    Returns the report as JSON values: for each stream of `report["streams"]` the errors by horizon with 95 % intervals
    and raw values, `copy_last`, `floor`, `ceiling`, `other_episode`, `skill`, `action_ratio`; then `events`, `speed`,
    `long`, `summary` and where it was measured. Raises `SpecError` when there is no truth, or one of another interface
    than the world's.
    """
    loaded = world if isinstance(world, World) else World.load(world)
    return measure(
        Engine(loaded, **engine_settings(engine, steps=steps, device=device)),
        loaded.spec,
        env,
        name=loaded.name,
        dataset=Dataset(dataset) if isinstance(dataset, (str, Path)) else dataset,
        episodes=episodes,
        horizons=horizons,
        context=default_context(loaded) if context is None else context,
        lead=lead,
        policy=policy,
        seed=seed,
        steps=steps,
        engine=engine,
        long=long,
        out=out,
        progress=progress,
    )


def default_context(world: World) -> int:
    """The number of actions in the world's recorded starts; 4 when it has none."""
    return int(world.starts.actions.shape[1]) if world.starts is not None else 4


def measure(
    dreamer: Dreamer,
    spec: WorldSpec,
    env: EnvLike | None = None,
    *,
    name: str,
    dataset: Dataset | None = None,
    episodes: int = 32,
    horizons: Sequence[int] = HORIZONS,
    context: int = 4,
    lead: int = LEAD,
    policy: str | Policy = POLICY,
    seed: int = 0,
    steps: int | None = None,
    engine: Mapping[str, Any] | None = None,
    long: int = 512,
    speed: bool = True,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Do what `evaluate` does for anything that starts and rolls out as an `Engine` does, such as a reference.

    `spec` says what it models; the remaining arguments and the result are those of `evaluate`.
    """
    marks = sorted(set(int(h) for h in horizons))
    if not marks or marks[0] < 1 or episodes < 1 or min(context, lead, long) < 0:
        raise ConfigError(
            f"horizons {list(horizons)}, episodes {episodes}, context {context}, lead {lead}, long {long}: horizons "
            "and episodes count from 1, context, lead and long from 0."
        )
    began = time.perf_counter()
    frames = max(marks[-1], long)
    source, truths = open_truth(
        spec,
        env,
        dataset,
        episodes=episodes,
        context=context,
        frames=frames,
        marks=marks,
        seed=seed,
        lead=lead,
        policy=policy,
    )
    gathered = Gathered(spec, marks, seed)
    total = 2 * episodes * marks[-1] + min(_SCENES, episodes) * long
    with progress_bar(f"evaluating {name}", total, progress) as advance:
        shown: Truth | None = None
        for truth in truths:
            gathered.add(dreamer, truth, advance)
            shown = shown or truth
        if shown is None:
            raise SpecError("there is no future to compare with.")
        dreams = long_dream(dreamer, shown.first(_SCENES), long, advance) if long else {}
    result = {
        "format": 1,
        "world": name,
        "env": spec.env.id if source == "dataset" or env is None else _id(env),
        "source": source,
        "episodes": episodes,
        "n_groups": len(set(gathered.groups)),
        "horizons": marks,
        "context": context,
        "lead": lead,
        "seed": seed,
        "steps": steps,
        "engine": {name: str(value) for name, value in (engine or {}).items()},
        "streams": gathered.tables(),
        "action_differs": gathered.differing(),
        "events": gathered.events(),
        "speed": measure_speed(dreamer, shown) if speed else [],
        "environment_frames_per_second": gathered.environment_speed(),
        "long": endurance(dreams, shown, spec, gathered.scales, seed) if dreams else None,
        "skipped": gathered.skipped,
        "episode_seeds": gathered.seeds,
        "episode_lengths": gathered.lengths,
        "version": _version(),
        "commit": commit(),
        "hardware": hardware(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    result["summary"] = summarise(result)
    if out is not None:
        report.write(result, _show(shown, dreams, spec), Path(out))
    return result


def _show(truth: Truth, dreams: dict[str, np.ndarray], spec: WorldSpec) -> report.Show:
    scenes = []
    for row in range(min(_SCENES, len(truth)) if dreams else 0):
        true = {name: truth.real_frames(name, row)[truth.context + 1 :] for name in spec.modelled}
        title = f"seed {truth.seeds[row]}, true episode goes on for {int(truth.length[row])} steps"
        scenes.append(report.Scene(true, {name: frames[row] for name, frames in dreams.items()}, title))
    return report.Show(spec.modelled, scenes, spec.fps)


def _id(env: EnvLike) -> str:
    if isinstance(env, EnvSpec):
        return env.id
    return env if isinstance(env, str) else getattr(env, "__name__", "environment")


def _version() -> str | None:
    try:
        return version("terrella")
    except PackageNotFoundError:
        return None
