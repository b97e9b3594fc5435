"""The same work on many machines, by way of Ray: the only part of the package that imports it."""

from .suite import RayJobs

__all__ = ["RayJobs"]
