"""Ray, if it is installed, and a cluster of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, missing_extra

LOCAL = "local"
_STORE = 100 << 20  # bytes of a local cluster's object store, which holds next to nothing


def connect(address: str | None, what: str, *, cpus: int | None = None) -> tuple[Any, bool]:
    """Return Ray, connected, and whether this call has connected it and the caller should shut it down.

    address: of a cluster, as `ray.init` takes it ("auto", "host:6379", "ray://host:10001"); "local" or None: a new one
    on this machine, heard on the loopback address alone if nobody has imported Ray before, which then takes no such
    settings. A cluster that this process has joined already is used as it is. what: needs it, for the message. cpus:
    that a new one may hand out. Raises `MissingExtra` where Ray is not installed, and `ConfigError` where no cluster
    answers.
    """
    local = address in (None, LOCAL)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told who uses this
    if local:  # before the import; Ray has this setting for systems on which it supports no clusters
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", what) from error
    if ray.is_initialized():
        return ray, False
    how: dict[str, Any] = {"address": LOCAL if local else address, "log_to_driver": False, "logging_level": "error"}
    if local:
        how |= {"num_cpus": cpus, "object_store_memory": _STORE, "include_dashboard": False}
    try:
        with _importable():
            ray.init(**how)
    except Exception as error:  # Ray raises anything, `Exception` itself where a node is late
        raise ConfigError(
            f"no Ray cluster answered at {how['address']!r} in time ({error}); expected local, auto, host:6379 or "
            "ray://host:10001, and a machine with some time to spare."
        ) from error
    return ray, True


@contextmanager
def _importable() -> Iterator[None]:
    """Workers that start meanwhile find this package, wherever it lies."""
    before = os.environ.get("PYTHONPATH")
    package = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
