"""Is it a good world? Errors against the truth with reference curves, following of actions, long rollouts, a report."""

from .preview import write_preview
from .report import render
from .run import HORIZONS, evaluate, measure

__all__ = ["HORIZONS", "evaluate", "measure", "render", "write_preview"]
