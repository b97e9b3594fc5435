"""Is it a good world? Errors against the truth with reference curves, following of actions, long rollouts, a report."""

from ..engine import Frame
from . import situations, wire
from .preview import write_preview
from .report import render
from .run import HORIZONS, evaluate, measure
from .suite import run_suite

__all__ = ["HORIZONS", "Frame", "evaluate", "measure", "render", "run_suite", "situations", "wire", "write_preview"]
