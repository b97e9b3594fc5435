"""Recording on many machines: the processes of `data.workers`, begun by Ray, over sockets instead of pipes."""

from __future__ import annotations

import os
import secrets
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

from ..data import Dataset
from ..data import record as record_here
from ..data.rollout import EnvMaker
from ..data.workers import work
from ..errors import ConfigError
from .connect import connect


def record(
    env: EnvMaker, out: str | Path, *, workers: int, address: str | None = None, cpus: float = 1.0, **how: Any
) -> Dataset:
    """Record episodes of an environment into a dataset folder, by `workers` on the machines of a Ray cluster.

    The dataset is the one that `terrella.record` makes in a single process. address: of the cluster, as for `Fleet`;
    cpus: what a worker takes. how: the other arguments of `terrella.record`. Workers connect to this process, with a
    key made for this recording; what they send is pickled, so the cluster's network must be one's own. They find
    modules of one's own at the paths of this process.
    Raises what `terrella.record` raises, `MissingExtra` without Ray, and `ConfigError` where the cluster is too small.
    """
    ray, own = connect(address, "recording on a cluster")
    try:
        there = ray.cluster_resources().get("CPU", 0.0)
        if workers < 1 or workers * cpus > there:
            raise ConfigError(f"workers is {workers}, {cpus:g} CPUs each; expected 1 or more within {there:g} CPUs.")
        alone = len(ray.nodes()) == 1
        host, key = "127.0.0.1" if alone else ray.util.get_node_ip_address(), secrets.token_bytes(32)
        with Listener((host, 0), authkey=key) as listener:

            def start() -> tuple[Any, _Task]:
                worker = ray.remote(_work).options(num_cpus=cpus, max_retries=0)
                task = _Task(ray, worker.remote(listener.address, key))
                return listener.accept(), task

            return record_here(env, out, num_envs=workers, start=start, **how)
    finally:
        if own:
            ray.shutdown()


class _Task:
    """A task of Ray that can be ended like a process."""

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

    def terminate(self) -> None:
        self._ray.cancel(self._task, force=True)

    def wait(self) -> int:
        """Return 0 once it has ended by itself, 1 where it was ended or has failed."""
        self._ray.wait([self._task], timeout=10.0)
        try:
            self._ray.get(self._task, timeout=0.0)
            return 0
        except self._ray.exceptions.RayError:
            return 1


def _work(address: tuple[str, int], key: bytes) -> None:
    with Client(address, authkey=key) as connection:
        work(os.dup(connection.fileno()))
