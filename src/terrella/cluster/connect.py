"""Ray, if it is installed, and a cluster of it."""

from __future__ import annotations

import os
from typing import Any

from ..errors import missing_extra


def connect(address: str | None, what: str) -> tuple[Any, bool]:
    """Return Ray, connected, and whether this call has connected it and the caller should shut it down.

    address: of a cluster; None: the one this process is connected to, or a new one on this machine alone. what: needs
    it, for the message. Raises `MissingExtra` where Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", what) from error
    if ray.is_initialized():
        return ray, False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told who uses this
    if address is None:
        ray.init(log_to_driver=False, include_dashboard=False)
    else:
        ray.init(address=address, log_to_driver=False)
    return ray, True
