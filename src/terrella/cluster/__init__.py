"""The same work on many machines (Ray, extra `ray`): replicas behind a gateway, recordings, training, suites."""

from .fleet import Fleet, serve_cluster
from .gateway import Berth, Gateway, create_gateway
from .placement import Load, Placement
from .recording import record
from .replica import Replica
from .suite import RayJobs
from .training import train

__all__ = [
    "Berth",
    "Fleet",
    "Gateway",
    "Load",
    "Placement",
    "RayJobs",
    "Replica",
    "create_gateway",
    "record",
    "serve_cluster",
    "train",
]
