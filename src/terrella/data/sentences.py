"""What was said in a dataset whose actions are sentences."""

from __future__ import annotations

import numpy as np

from ..actions import decode, describe
from ..errors import ActionError
from .dataset import Dataset


def count_sentences(data: Dataset, most: int | None = None) -> dict[str, int]:
    """Count each sentence, the commonest first, in all transitions or in at most `most` of them, evenly spread.

    Raises `ActionError` where actions are no sentences.
    """
    spec = data.spec.action
    if spec.kind != "text":
        raise ActionError(f"actions here are {describe(spec)}; expected sentences.")
    if not data.steps:
        return {}
    every = 1 if most is None else -(-data.steps // most)
    rows, counts = np.unique(data.actions[::every], axis=0, return_counts=True)
    return {decode(spec, rows[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}
