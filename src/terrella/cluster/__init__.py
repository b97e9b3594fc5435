"""Serving and recording on many machines: a replica a device, a gateway that places sessions. Needs the extra `ray`."""

from .fleet import Fleet, serve_cluster
from .follow import Follower
from .gateway import Berth, Gateway, create_gateway
from .placement import Load, Placement
from .recording import record
from .replica import Replica

__all__ = [
    "Berth",
    "Fleet",
    "Follower",
    "Gateway",
    "Load",
    "Placement",
    "Replica",
    "create_gateway",
    "record",
    "serve_cluster",
]
