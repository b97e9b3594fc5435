"""Commands that look at a world: measure it, describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..errors import ConfigError
from .say import Say, import_module, plain


def evaluate(
    world: Positional[str | None] = None,
    /,
    env: str | None = None,
    data: Path | None = None,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: beside the world)")] = None,
    episodes: int = 32,
    policy: str = "sticky-random",
    steps: int | None = None,
    precision: str | None = None,
    memory: str | None = None,
    cache: str | None = None,
    seed: int = 0,
    suite: str | None = None,
    entrant: str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> None:
    """Measure a world against the true environment, from the same states under the same actions.

    Args:
        world: Folder of a world, or the name of one that ships with the package.
        env: Environment to compare with; the one it was recorded in by default.
        data: Dataset whose held-out episodes are the truth where the environment is not installed.
        out: Folder for report.json and report.html.
        episodes: Futures to compare.
        policy: Who acts, as in `record`.
        steps: Denoising steps a frame.
        precision: Bits of the weights: float32, bfloat16, int8 or int4.
        memory: Policy by which a session keeps its past, such as window or tempcache.
        cache: Rule by which denoising steps are forecast, such as interval or across.
        seed: Decides everything that is random.
        suite: Ask instead what the world has understood: core (minutes), dimensions (atomic questions, where its
            environment has some), full (both, hours) or language (where actions are sentences); writes suite.html.
        entrant: Another model to ask beside the world, or without one in --env: http://host:port or module:factory.
        jobs: Processes that share the work of a suite.
        cluster: Ray cluster whose tasks do so instead: auto, host:6379, ray://host:10001, or local for one here.
    """
    if suite is not None or entrant is not None:
        how = {"steps": steps, "precision": precision, "memory": memory, "cache": cache}
        _suite(world, suite or "core", entrant, env, data, out, policy, seed, how, jobs, cluster)
        return
    if jobs != 1 or cluster is not None:
        raise ConfigError("jobs share the work of a suite; add --suite core, or leave --jobs and --cluster out.")
    if world is None:
        raise ConfigError("which world? Give its folder, or the name of one that ships: terrella info lists them.")
    from ..engine import engine_settings
    from ..evaluation import evaluate as measure
    from ..world import World

    import_module(env or "")
    loaded = World.load(world)
    folder = out or (Path(world) / "report" if Path(world).is_dir() else Path("runs") / f"{loaded.name}-report")
    how = {"steps": steps, "engine": engine_settings(None, precision=precision, memory=memory, cache=cache)}
    report = measure(loaded, env, dataset=data, episodes=episodes, policy=policy, seed=seed, out=folder, **how)
    for kind in ("warnings", "findings"):
        for line in report["summary"][kind]:
            Say.print(f"{'[bold yellow]![/]' if kind == 'warnings' else '-'} {plain(line)}")
    Say.print(f"report: {folder / 'report.html'}")


def _suite(
    world: str | None,
    suite: str,
    entrant: str | None,
    env: str | None,
    data: Path | None,
    out: Path | None,
    policy: str,
    seed: int,
    engine: dict[str, Any],
    jobs: int,
    cluster: str | None,
) -> None:
    from rich.table import Table

    from ..cluster import RayJobs
    from ..data import Dataset
    from ..engine import engine_settings
    from ..evaluation.suite import run_suite
    from ..registry import lookup, names

    import_module(env or "")
    if entrant is not None and not entrant.startswith(("http://", "https://")):
        import_module(entrant)
    name = Path(world).name if world else "entrant"
    folder = out or (Path(world) / "suite" if world and Path(world).is_dir() else Path("runs") / f"{name}-suite")
    result = run_suite(
        world,
        [entrant] if entrant else [],
        env=env,
        suite=suite,
        dataset=None if data is None else Dataset(data),
        policy=policy,
        seed=seed,
        engine=engine_settings(None, **engine),
        out=folder,
        jobs=jobs if cluster is None else RayJobs(cluster, jobs),
    )
    for title, found in result["measurements"].items():
        if "missing" in found:
            Say.print(f"[bold yellow]![/] {plain(title)}: {plain(found['missing'])}")
        rows = {who: row for who, row in found["entrants"].items() if "error" not in row}
        if (what := found["measurement"]["what"]) in names("subject"):
            for who, row in rows.items():
                Say.print(f"{plain(title)}: {plain(who)}: {plain(lookup('subject', what)().line(row))}")
            continue
        tables = [(who, row["streams"]) for who, row in rows.items()]
        tables = [(who, next(iter(streams.values()))) for who, streams in tables]
        if tables and "all" in tables[0][1]:
            shown = Table("kappa: row; assign", *(f"after {h}" for h in tables[0][1]["horizons"]), title=title)
            for who, table in tables:
                row, assign = (table["all"][f"{score}_kappa"] for score in ("row", "assign"))
                pairs = zip(row["mean"], row["interval"], assign["mean"], assign["interval"])
                shown.add_row(plain(who), *(f"{_cell(a, b)}; {_cell(c, d)}" for a, b, c, d in pairs))
            Say.print(shown)
    _dimensions(result["dimensions"])
    Say.print(f"report: {folder / 'suite.html'}")


def _dimensions(found: dict[str, Any]) -> None:
    """One line a dimension: the share of right answers; the page has their intervals."""
    from rich.table import Table

    from ..evaluation.dimension_page import overviews, reasons

    for why, names in reasons(found).items():
        Say.print(f"[bold yellow]![/] {', '.join(names)}: {plain(why)}")
    for heads, lines in overviews(found):
        if lines:
            shown = Table(*(plain(head) for head in heads), title="share of right answers")
            for name, asks, *shares in lines:
                shown.add_row(plain(name), plain(asks), *(_cell(share, [None, None]) for share in shares))
            Say.print(shown)


def _cell(mean: float | None, interval: list[float | None]) -> str:
    if mean is None:
        return "–"
    low, high = interval
    return f"{mean:.2f}" + ("" if low is None or high is None else f" ({low:.2f}…{high:.2f})")


def audit(journal: Positional[Path], world: Positional[str], /) -> None:
    """Live the journal of a served session again, and compare every frame with what was shown.

    That holds to the bit for sessions of `--exact` servers, and of those that step each session alone.

    Args:
        journal: A file of sessions/ in a server's folder of sessions (`--keep`).
        world: Folder of the world it was played in, or the name of one that ships with the package.
    """
    from ..errors import ServingError
    from ..serving.audit import audit as live_again
    from ..world import World

    found = live_again(journal, World.load(world))
    if not found.passed:
        first = min([*found.differing, *found.foreign], default=None)
        raise ServingError(
            f"{len(found.differing)} of {found.frames} frames differ, {len(found.foreign)} of {found.keys} keys do not "
            f"follow from what was said, {found.unmarked} frames have no hash; "
            + ("the first at frame " + str(first) if first is not None else "the journal cannot be audited whole")
            + ". Was it another world, were its settings others, or were sessions stepped together without --exact?"
        )
    print(f"{found.frames} frames are those that were shown; {found.keys} keys follow from what was said.")


def info(what: Positional[str | None] = None, /) -> None:
    """Describe a world or a dataset; without a name, list what there is.

    Args:
        what: Folder of a world or dataset, or the name of a world that ships with the package.
    """
    from ..data import Dataset
    from ..registry import names
    from ..world import World

    if what is None:
        print("worlds:", ", ".join(World.list_gallery()) or "none")
        for kind in ("tokenizer", "dynamics", "decoder", "planner", "text"):
            print(f"{kind}:", ", ".join(names(kind)))
        return
    if (Path(what) / "dataset.json").exists():
        dataset = Dataset(what)
        print(f"{len(dataset)} episodes, {dataset.steps:,} transitions, fingerprint {dataset.fingerprint}")
        _describe(dataset.spec)
        return
    world = World.load(what)
    print(world)
    _describe(world.spec)
    for key in ("preset", "steps", "seconds", "seed", "dataset"):
        if key in world.record:
            print(f"{key}: {world.record[key]}")
    for key, value in world.card.items():
        print(f"{key}: {value}")


def _describe(spec: object) -> None:
    from ..actions import describe
    from ..spec import WorldSpec

    if isinstance(spec, WorldSpec):
        print("environment:", spec.env.id or "not named", spec.env.kwargs or "")
        print("streams:", ", ".join(f"{n} {s.kind}{tuple(s.shape)}" for n, s in spec.streams.items()))
        print("actions:", describe(spec.action), " ".join(spec.action_names))
