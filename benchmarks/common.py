"""What every benchmark shares: its arguments, what it ran on, and how the result is written.

A benchmark prints one JSON object with hardware, commit, seeds and raw values; tables are made from it. Timings say
something as ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import terrella
from terrella.data import Dataset, Policy
from terrella.evaluation.provenance import commit, hardware
from terrella.files import atomic
from terrella.planning import Task
from terrella.world import Part, WorldConfig

__all__ = [
    "KeptRow",
    "arguments",
    "commit",
    "complete",
    "hardware",
    "in_turns",
    "keep_row",
    "kept_row",
    "median",
    "ratio",
    "recorded",
    "recorded_by",
    "resumable",
    "task_data",
    "time_is_up",
    "write_json",
]
ROOT = Path(__file__).resolve().parent.parent


def arguments(description: str | None, *, seed: int = 0, rounds: int = 0) -> argparse.ArgumentParser:
    """Return a parser that knows `--json FILE` and `--seed N`; add what else a benchmark needs.

    rounds: the default of `--rounds`, for what is timed in turns; with it comes `--threads`.
    """
    parser = argparse.ArgumentParser(description=(description or "").strip().split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well as printing it")
    parser.add_argument("--seed", type=int, default=seed, help=f"random seed (default {seed})")
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"timings of each kind (default {rounds})")
        parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: a step is small)")
    return parser


def resumable(description: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser for what is computed row by row and kept under `--out`; add what the rows are about."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument(
        "--minutes", type=float, help="stop before the next row after so long; the same command goes on"
    )
    parser.add_argument("--gather", action="store_true", help="compute nothing, print what there is")
    parser.add_argument("--device", help="where to train and imagine (default: train on a GPU if there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well as printing it")
    return parser


def time_is_up(options: argparse.Namespace, began: float) -> bool:
    """Whether `--minutes` have passed since a moment of `time.monotonic`."""
    return options.minutes is not None and time.monotonic() - began > 60 * options.minutes


def complete(options: argparse.Namespace, compute: Callable[[argparse.Namespace], bool]) -> None:
    """Make the rows that are missing, unless what there is shall only be gathered. compute: False if time was up."""
    if not options.gather and not compute(options):
        print("time is up; the same command goes on", file=sys.stderr)


def recorded(env: str, steps: int, out: Path, **how: Any) -> Dataset:
    """Record an environment once, into a folder of its name and size under `out`."""
    path = out / f"{env.replace('/', '-').lower()}-{steps}"
    return recorded_by(env, path, [(how.pop("policy", "sticky-random"), steps)], **how)


def recorded_by(
    env: Any,
    path: Path,
    shares: Sequence[tuple[str | Policy, int]],
    unit: Literal["steps", "episodes"] = "steps",
    **how: Any,
) -> Dataset:
    """Record so many transitions or episodes by each policy, one after another, into one dataset.

    What is there is not made again; a recording that was stopped goes on behind its last whole episode.
    """

    def size(data: Dataset) -> int:
        return data.steps if unit == "steps" else len(data)

    there, wanted = size(Dataset(path)) if (path / "dataset.json").exists() else 0, 0
    for policy, share in shares:
        wanted += share
        if there < wanted:
            there = size(terrella.record(env, path, policy=policy, **{unit: wanted - there}, **how))
        if there < wanted:
            raise KeyboardInterrupt  # which a recording takes for its end
    return Dataset(path)


def with_conv(config: WorldConfig, settings: dict[str, Any]) -> WorldConfig:
    """Return the parts of a world with other settings of its tokenizers `conv`."""
    made = {n: Part(p.name, p.config | settings) if p.name == "conv" else p for n, p in config.tokenizers.items()}
    return replace(config, tokenizers=made)


def holds_world(path: Path) -> bool:
    """Whether a folder holds a world whose training has ended, so that it need not be made again."""
    return (path / "world.json").exists() and not (path / "checkpoint.safetensors").exists()


def task_data(name: str, task: Task, out: Path, steps: int | None = None) -> Dataset:
    """Record for a task of `terrella.planning.TASKS` once, into a folder of its name and size under `out`."""
    steps = steps or task.steps
    path = out / "data" / f"{name}-{steps}"
    how: dict[str, Any] = {"max_episode_steps": task.episode, "seed": 0, "progress": False}
    return recorded_by(task.env, path, [(task.policy, steps)], **how)


@dataclass(frozen=True)
class KeptRow:
    """What one row of a benchmark is about: its fields name the file that keeps it."""

    def path(self, out: Path) -> Path:
        """The file that keeps it."""
        return out / "rows" / f"{'-'.join(map(str, vars(self).values())).replace(' ', '-')}.json"


def kept_row(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read a finished row, None where there is none of these settings."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found.pop("settings") == settings else None


def keep_row(path: Path, row: dict[str, Any], settings: dict[str, Any]) -> None:
    """Keep a finished row in a file of its own, and show it without its raw values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        partial.write_text(json.dumps({**row, "settings": settings}) + "\n")
    short = {k: v for k, v in row.items() if k not in ("returns", "lengths", "successes", "scores", "raw")}
    print(json.dumps(short), file=sys.stderr, flush=True)


def write_json(result: dict[str, Any], path: Path | None = None, *, seeds: Any = None) -> None:
    """Print a result with hardware, commit and seeds, and write it to `path` if there is one."""
    whole = {**result, "seeds": seeds, "hardware": hardware(), "commit": commit(), "command": _command()}
    text = _rows_in_lines(whole)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def _rows_in_lines(result: dict[str, Any]) -> str:
    """JSON with a line for each row of a table, so that large results stay few lines and changes can be read."""

    def lines(value: Any) -> str:
        if not (isinstance(value, list) and value and isinstance(value[0], (dict, list))):
            return json.dumps(value)
        return "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"

    return "{\n " + ",\n ".join(f"{json.dumps(key)}: {lines(value)}" for key, value in result.items()) + "\n}"


def median(values: list[float]) -> float:
    """Return the middle value, the mean of the two middle ones for an even number."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def in_turns(rounds: int, *calls: Callable[[], Any]) -> list[list[float]]:
    """Time calls in turns, forwards and backwards, `rounds` times, after three that do not count; milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 3):
        for call, kept in list(zip(calls, times))[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            call()
            if number >= 3:
                kept.append((time.perf_counter() - start) * 1e3)
    return times


def ratio(above: list[float], below: list[float]) -> tuple[float, list[float]]:
    """Ratio of medians, and the quartiles of the pairwise ratios."""
    quartiles = np.quantile(np.divide(above, below), [0.25, 0.75])
    return round(median(above) / median(below), 4), [round(float(q), 4) for q in quartiles]


def _command() -> str:
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return " ".join(["python", str(shown), *sys.argv[1:]])
