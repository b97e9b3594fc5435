"""All atomic dimensions by id: 16 of perception, 7 of prediction, as WM-ABench names them (arXiv 2506.21876)."""

from __future__ import annotations

from ..errors import did_you_mean
from .dimension import Dimension
from .dims_motion import MOTION, TEMPORAL
from .dims_prediction import PREDICTION
from .dims_quantitative import QUANTITATIVE
from .dims_spatial import SPATIAL
from .dims_visual import VISUAL

PERCEPTION = (*SPATIAL, *TEMPORAL, *VISUAL, *MOTION, *QUANTITATIVE)
DIMENSIONS: dict[str, Dimension] = {d.id: d for d in (*PERCEPTION, *PREDICTION)}


def find_dimension(name: str) -> Dimension:
    """Return the dimension of an id; raises `UnknownName` with the nearest ones."""
    if name not in DIMENSIONS:
        raise did_you_mean(name, DIMENSIONS, "dimension")
    return DIMENSIONS[name]
