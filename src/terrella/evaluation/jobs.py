"""A suite in several processes: each opens world, environment and entrants by name, and keeps what it has measured.

Nothing travels but JSON: paths and names go out, counts of frames come back, and results end in the folder of what is
kept, one file each. Whoever asks first for a measurement of an entrant gets it. The processes begin at different
measurements, because the true futures of one are made in each process that takes part in it.

Where they run is for an `Executor` to say: `Processes` starts fresh interpreters here and talks to them through pipes,
a line a message; `terrella.cluster.RayJobs` sends the same orders to a cluster.
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
from typing import Any, Protocol, TypeVar

import torch

from .. import errors
from ..config import from_json, to_json
from ..data import Dataset, Policy
from ..data.policies import POLICIES
from ..errors import ConfigError, TerrellaError
from ..spec import EnvSpec
from ..world import World
from .entrant import Entrant
from .kept import Folder, Kept
from .measurements import Advance, Measurement
from .questions import Question
from .source import EnvLike

M = TypeVar("M")
Claim = Callable[[str, str], bool]


@dataclass(frozen=True)
class Part:
    """What one of several processes does of a suite.

    place: its number among `count`. kept: where it finds and leaves results, and which of them are its to make.
    """

    place: int
    count: int
    kept: Kept

    def turned(self, plan: Sequence[M]) -> tuple[M, ...]:
        """The measurements, from another one on in each process."""
        first = self.place * len(plan) // self.count
        return (*plan[first:], *plan[:first])


class Executor(Protocol):
    """Who carries out the parts of a suite."""

    @property
    def jobs(self) -> int:
        """How many at once."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return JSON values that say where results were made."""
        ...

    def run(self, sent: Mapping[str, Any], kept: Path, advance: Advance) -> None:
        """Measure what of a suite is not yet in the folder `kept`, and leave it there.

        sent: from `portable`; each of the processes does `carry_out` with it. advance: told of frames as they are made.
        Raises what a process raises, and `TerrellaError` when one dies; what was finished until then is kept.
        """
        ...


class Claims:
    """Gives each measurement of each entrant to whoever asks first."""

    def __init__(self) -> None:
        self._given: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def __call__(self, measurement: str, entrant: str) -> bool:
        """Whether it is the asker's."""
        with self._lock:
            new = (measurement, entrant) not in self._given
            self._given.add((measurement, entrant))
            return new


def threads_each(jobs: int) -> int:
    """How many threads of torch each of so many processes has: this one's, divided among them."""
    return max(1, torch.get_num_threads() // jobs)


def order(sent: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """What one of `count` processes is told, as JSON values."""
    return {"path": sys.path, "place": place, "count": count, "asked": dict(sent)}


def carry_out(told: Mapping[str, Any], kept: Kept, advance: Advance) -> list[str] | None:
    """Do one process's part of a suite, as `order` has told it; returns None, or what `raised` raises elsewhere."""
    from .suite import run_suite  # it imports this file

    try:
        run_suite(**arguments(told["asked"]), part=Part(told["place"], told["count"], kept), progress=advance)
    except BrokenPipeError:
        raise
    except TerrellaError as error:
        return [type(error).__name__, str(error)]
    except Exception:
        return ["", traceback.format_exc()]
    return None


def raised(failure: Sequence[str]) -> TerrellaError:
    """The error that `carry_out` met in another process."""
    name, text = failure
    error = getattr(errors, name, None)
    return error(text) if error else TerrellaError(f"a measuring process failed:\n{text}")


def died(why: object) -> TerrellaError:
    """The error of a process that died without a word."""
    return TerrellaError(
        f"a measuring process died ({why}); see its output. What is finished is kept, and the same call goes on there; "
        "if memory ran out, with fewer jobs."
    )


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
        "policy": None if _told(policy) is not None else "pass one of the package, or the name of one",
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
        "policy": _told(policy),
        "engine": settings,
        "out": str(out),
        **plain,
    }


def arguments(sent: Mapping[str, Any]) -> dict[str, Any]:
    """What `portable` made of the arguments of a suite, turned back."""
    env, suite, dataset, policy = sent["env"], sent["suite"], sent["dataset"], sent["policy"]
    return {
        **sent,
        "policy": policy if isinstance(policy, str) else POLICIES[policy["name"]](**policy["settings"]),
        "env": from_json(EnvSpec, env) if isinstance(env, dict) else env,
        "suite": suite if isinstance(suite, str) else [_line(line) for line in suite],
        "dataset": None if dataset is None else Dataset(dataset),
    }


def _told(policy: str | Policy) -> Any:
    """A policy of the package by its name, with the settings it was made with; None for somebody else's."""
    if isinstance(policy, str):
        return policy
    name = next((name for name, made in POLICIES.items() if made is type(policy)), None)
    settings = {key: value for key, value in vars(policy).items() if not key.startswith("_")}
    return None if name is None else {"name": name, "settings": to_json(settings)}


def _line(sent: Mapping[str, Any]) -> Measurement | Question:
    return from_json(Question if "layouts" in sent else Measurement, sent)


def fill(sent: Mapping[str, Any], kept: Path, executor: Executor, advance: Advance) -> int:
    """Let an executor measure what is not yet in the folder `kept`; returns how many results were made."""
    before = _ages(kept)
    executor.run(sent, kept, advance)
    return sum(before.get(name) != age for name, age in _ages(kept).items())


def _ages(kept: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}


@dataclass(frozen=True)
class Processes:
    """Fresh interpreters on this machine, among whom the threads of torch are divided."""

    jobs: int

    def describe(self) -> dict[str, Any]:
        """How many there are."""
        return {"jobs": self.jobs}

    def run(self, sent: Mapping[str, Any], kept: Path, advance: Advance) -> None:
        """See `Executor`."""
        del kept  # they are told in `sent`
        claim = Claims()
        workers: list[_Worker] = []
        try:
            for place in range(self.jobs):
                workers.append(_Worker(threads_each(self.jobs)))
                workers[-1].say(order(sent, place, self.jobs))
            with ThreadPoolExecutor(self.jobs) as pool:
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
                raise raised(value)
        raise died(f"exit code {self.process.wait()}")

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

    with suppress(BrokenPipeError):  # the parent is gone
        told = heard()
        sys.path[:] = told["path"]
        kept = Kept(Folder(Path(told["asked"]["out"]) / "kept"), claim)
        failure = carry_out(told, kept, lambda n: tell("advance", int(n)))
        tell(*(("done", None) if failure is None else ("failed", failure)))
