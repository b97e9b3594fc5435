"""A suite in several processes: each opens world, environment and entrants by name, and keeps what it has measured.

Nothing travels but JSON, a line a message, through pipes to fresh interpreters: paths and names go out, counts of
frames come back, and results lie in the folder of what is kept, one file each. Whoever asks first for a measurement of
an entrant gets it. The processes begin at different measurements, because the true futures of one are made in each
process that takes part in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import errors
from ..config import from_json, to_json
from ..data import Dataset, Policy
from ..errors import ConfigError, TerrellaError
from ..spec import EnvSpec
from ..world import World
from .entrant import Entrant
from .measurements import Advance, Measurement
from .questions import Question
from .source import EnvLike

M = TypeVar("M")
Claim = Callable[[str, str], bool]


@dataclass(frozen=True)
class Part:
    """What one of several processes does of a suite.

    place: its number among `count`. claim: measurement, entrant -> whether it is this one's to measure.
    """

    place: int
    count: int
    claim: Claim

    def turned(self, plan: Sequence[M]) -> tuple[M, ...]:
        """The measurements, from another one on in each process."""
        first = self.place * len(plan) // self.count
        return (*plan[first:], *plan[:first])


def portable(
    world: World | str | Path | None,
    entrants: Sequence[Entrant | str],
    jobs: int,
    *,
    env: EnvLike | None,
    suite: str | Sequence[Measurement | Question],
    dataset: Dataset | None,
    policy: str | Policy,
    engine: Mapping[str, Any] | None,
    out: str | Path | None,
    **plain: Any,
) -> dict[str, Any]:
    """The arguments of a suite as JSON values; raises `ConfigError` for what cannot be told to other processes."""
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; expected a number of processes, at least 1.")
    if out is None:
        raise ConfigError("several processes meet in the folder of what is kept: pass out, or measure with jobs=1.")
    wrong = {
        "world": None if world is None or isinstance(world, (str, Path)) else "save it, and pass its folder",
        "entrants": None if all(isinstance(e, str) for e in entrants) else "pass http://host:port or module:factory",
        "env": "pass an id" if callable(env) else None,
        "policy": None if isinstance(policy, str) else "pass the name of one",
    }
    for name, remedy in wrong.items():
        if remedy is not None:
            raise ConfigError(
                f"{name}: an object was given, but other processes are told paths and names alone; {remedy}, or "
                "measure with jobs=1."
            )
    try:
        settings = None if engine is None else to_json(dict(engine))
    except ConfigError as error:
        raise ConfigError(f"engine: other processes are told JSON values alone ({error}); use jobs=1.") from error
    return {
        "world": None if world is None else str(world),
        "entrants": list(entrants),
        "env": to_json(env),
        "suite": to_json(suite),
        "dataset": None if dataset is None else str(dataset.path),
        "policy": policy,
        "engine": settings,
        "out": str(out),
        **plain,
    }


def arguments(sent: Mapping[str, Any]) -> dict[str, Any]:
    """What `portable` made of the arguments of a suite, turned back."""
    env, suite, dataset = sent["env"], sent["suite"], sent["dataset"]
    return {
        **sent,
        "env": from_json(EnvSpec, env) if isinstance(env, dict) else env,
        "suite": suite if isinstance(suite, str) else [_line(line) for line in suite],
        "dataset": None if dataset is None else Dataset(dataset),
    }


def _line(sent: Mapping[str, Any]) -> Measurement | Question:
    return from_json(Question if "layouts" in sent else Measurement, sent)


def fill(sent: Mapping[str, Any], kept: Path, jobs: int, advance: Advance) -> int:
    """Measure what is not yet in the folder `kept`, in so many processes; returns how many results were made.

    sent: from `portable`. The threads of torch are divided among the processes. Raises what a process raises, and
    `TerrellaError` when one dies; what was finished until then is kept.
    """
    before = _ages(kept)
    claimed: set[tuple[str, str]] = set()
    lock = threading.Lock()

    def claim(measurement: str, entrant: str) -> bool:
        with lock:
            new = (measurement, entrant) not in claimed
            claimed.add((measurement, entrant))
            return new

    threads = max(1, torch.get_num_threads() // jobs)
    workers: list[_Worker] = []
    try:
        for place in range(jobs):
            workers.append(_Worker(threads))
            workers[-1].say({"path": sys.path, "place": place, "count": jobs, "asked": sent})
        with ThreadPoolExecutor(jobs) as pool:
            heard = [pool.submit(worker.hear, claim, advance) for worker in workers]
            try:
                for one in as_completed(heard):
                    one.result()
            finally:  # here already, or the pool would wait for processes that nobody wants any more
                for worker in workers:
                    worker.process.terminate()
    finally:
        for worker in workers:
            worker.close()
    return sum(before.get(name) != age for name, age in _ages(kept).items())


def _ages(kept: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}


class _Worker:
    """An interpreter that runs `work`, seen from the parent."""

    def __init__(self, threads: int) -> None:
        package = str(Path(__file__).parents[2])  # it knows the package, wherever that lies
        search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from terrella.evaluation.jobs import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **count, "PYTHONPATH": search},
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
        )

    def say(self, message: Any) -> None:
        """Write a line; a process that has died shows when it is heard next."""
        with suppress(OSError):
            print(json.dumps(message), file=self.process.stdin, flush=True)

    def hear(self, claim: Claim, advance: Advance) -> None:
        """Answer until it is done."""
        for line in self.process.stdout or ():
            kind, value = json.loads(line)
            if kind == "claim":
                self.say(claim(*value))
            elif kind == "advance":
                advance(value)
            elif kind == "done":
                return
            else:
                name, text = value
                error = getattr(errors, name, None)
                raise error(text) if error else TerrellaError(f"a measuring process failed:\n{text}")
        raise TerrellaError(
            f"a measuring process died (exit code {self.process.wait()}); see its output. What is finished is kept, "
            "and the same call goes on there; if memory ran out, with fewer jobs."
        )

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def work() -> None:
    """Measure what the parent, at the other end of the standard streams, lets it have, until nothing is left."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what environments print is not for the parent

    def tell(kind: str, value: Any) -> None:
        print(json.dumps([kind, value]), file=channel, flush=True)

    def heard() -> Any:
        line = sys.stdin.readline()
        if not line:
            raise BrokenPipeError
        return json.loads(line)

    def claim(measurement: str, entrant: str) -> bool:
        tell("claim", [measurement, entrant])
        return bool(heard())

    try:
        order = heard()
        sys.path[:] = order["path"]
        from .suite import run_suite  # it imports this file

        part = Part(order["place"], order["count"], claim)
        run_suite(**arguments(order["asked"]), part=part, progress=lambda n: tell("advance", int(n)))
        tell("done", None)
    except BrokenPipeError:
        pass  # the parent is gone
    except TerrellaError as error:
        tell("failed", [type(error).__name__, str(error)])
    except Exception:
        tell("failed", ["", traceback.format_exc()])
