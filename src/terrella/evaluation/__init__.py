"""Is it a good world? Errors against the truth with reference curves, following of actions, long rollouts, a report."""

from .evaluate import HORIZONS, evaluate, measure
from .preview import write_preview
from .report import render

__all__ = ["HORIZONS", "evaluate", "measure", "render", "write_preview"]
