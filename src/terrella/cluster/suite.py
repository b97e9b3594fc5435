"""A suite on a cluster: Ray runs the very orders that processes of one machine are given (`terrella.evaluation.jobs`).

Each task opens world, environment and entrants by name, as a process does, so these must be found on every node: worlds
of the gallery are, and so are folders that all nodes share. Results need no shared folder. A small actor, the *desk*,
gives out measurements to whoever asks first, knows what is kept already and takes in results; this process empties it
twice a second into the folder of what is kept. Orders, results and what is kept travel as JSON texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..evaluation.jobs import Claims, carry_out, died, order, raised, threads_each
from ..evaluation.kept import Folder, Kept
from ..evaluation.measurements import Advance
from .connect import connect

PERIOD = 0.5  # seconds between two looks at the desk


class Desk:
    """What tasks have in common. kept: name -> text of each result that there is already."""

    def __init__(self, kept: Mapping[str, str]) -> None:
        self._kept, self._claims = dict(kept), Claims()
        self._made: dict[str, str] = {}
        self._frames = 0

    def claim(self, measurement: str, entrant: str) -> bool:
        """Whether a measurement of an entrant is the asker's."""
        return self._claims(measurement, entrant)

    def read(self, name: str) -> str | None:
        """A result that was there before."""
        return self._kept.get(name)

    def write(self, name: str, text: str) -> None:
        """Take in a result."""
        self._made[name] = text

    def count(self, frames: int) -> None:
        """Take note of frames."""
        self._frames += frames

    def empty(self) -> tuple[int, dict[str, str]]:
        """Frames and results since this was asked last."""
        frames, made, self._frames, self._made = self._frames, self._made, 0, {}
        return frames, made


class _Remote:
    """The desk as a shelf, and as who grants claims and counts, seen from a task."""

    def __init__(self, desk: Any) -> None:
        import ray

        self._desk, self._get = desk, ray.get

    def read(self, name: str) -> str | None:
        return self._get(self._desk.read.remote(name))

    def write(self, name: str, text: str) -> None:
        self._get(self._desk.write.remote(name, text))

    def claim(self, measurement: str, entrant: str) -> bool:
        return self._get(self._desk.claim.remote(measurement, entrant))

    def count(self, frames: int) -> None:
        self._desk.count.remote(int(frames))


def work(told: str, threads: int, desk: Any) -> list[str] | None:
    """Carry out one order, JSON as text, in a task of Ray; returns what `carry_out` does."""
    parsed = json.loads(told)
    sys.path += [path for path in parsed["path"] if path not in sys.path]
    torch.set_num_threads(threads)
    remote = _Remote(desk)
    failure = carry_out(parsed, Kept(remote, remote.claim), remote.count)
    remote.read("")  # all that was sent before has arrived
    return failure


@dataclass(frozen=True)
class RayJobs:
    """Tasks of a Ray cluster as the executor of a suite (`run_suite(..., jobs=RayJobs("local", 2))`).

    address: of a cluster, as `connect` takes it; one that is started here lasts as long as it is needed. jobs: tasks at
    once; each has as many threads of torch as a process would have, and as many CPUs, and with a device "cuda" a GPU.
    """

    address: str = "local"
    jobs: int = 2

    def describe(self) -> dict[str, Any]:
        """Where, and how many tasks."""
        return {"jobs": self.jobs, "cluster": self.address}

    def run(self, sent: Mapping[str, Any], kept: Path, advance: Advance) -> None:
        """See `terrella.evaluation.jobs.Executor`.

        Raises `MissingExtra` without Ray, `ConfigError` for a cluster that is not there or whose nodes are too small.
        """
        threads, folder = threads_each(self.jobs), Folder(kept)
        texts = {path.name: path.read_text(encoding="utf-8") for path in kept.glob("*.json")}
        needs: dict[str, Any] = {"num_cpus": threads, "max_retries": 0}
        if str(sent.get("device") or "").startswith("cuda"):
            needs["num_gpus"] = 1
        with self.joined(threads) as ray:
            desk = ray.remote(num_cpus=0)(Desk).remote(texts)
            told = [json.dumps(order(sent, place, self.jobs)) for place in range(self.jobs)]
            waiting = [ray.remote(**needs)(work).remote(one, threads, desk) for one in told]
            try:
                while waiting:
                    done, waiting = ray.wait(waiting, num_returns=1, timeout=PERIOD)
                    _take(ray, desk, folder, advance)
                    for failure in _results(ray, done):
                        if failure is not None:
                            raise raised(failure)
            finally:
                for task in waiting:
                    ray.cancel(task, force=True)
                with suppress(ray.exceptions.RayError):
                    _take(ray, desk, folder, lambda frames: None)
                ray.kill(desk)

    @contextmanager
    def joined(self, threads: int) -> Iterator[Any]:
        """The module of Ray, connected to the cluster; what was started or joined here is left again.

        threads: of each task. Raises as `run` does.
        """
        ray, own = connect(self.address, "measuring on a cluster", cpus=self.jobs * threads)
        try:
            largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
            if largest < threads:
                raise ConfigError(
                    f"each task has {threads} threads, and no node of the cluster so many CPUs "
                    f"({largest:.0f} at most); ask for more jobs, or give torch fewer threads."
                )
            yield ray
        finally:
            if own:
                ray.shutdown()


def _take(ray: Any, desk: Any, folder: Folder, advance: Advance) -> None:
    frames, made = ray.get(desk.empty.remote())
    for name, text in made.items():
        folder.write(name, text)
    advance(frames)


def _results(ray: Any, done: list[Any]) -> list[list[str] | None]:
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        raise died(error) from error
