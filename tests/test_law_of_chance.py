"""The law of fork matrices, in every registered arena: the truth is always right, the blind are exactly at chance."""

from __future__ import annotations

import numpy as np
import pytest
from test_arena_forks import CASES, Case, label, opened

from terrella import arenas
from terrella.evaluation.fork_matrix import matrices, predict, scores
from terrella.evaluation.forks import Forks, fork_groups
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import ActionBlind, CopyLast, Oracle, RandomFrames
from terrella.evaluation.rollout import Dreamer
from terrella.spec import WorldSpec

SCORES = ("row", "column", "assign")
HEAVY = {"crafter", "highway", "metaworld", "miniworld", "vizdoom"}  # steps or saves of many milliseconds
LAW = [
    pytest.param(case, id=label(case), marks=[pytest.mark.slow] if family in HEAVY or case is not cases[0] else [])
    for family, cases in CASES.items()
    for case in cases
]
MARKS = (1, 5)


def scored(dreamer: Dreamer, spec: WorldSpec, forks: Forks) -> tuple[dict[str, np.ndarray], int]:
    """Scores `(C,)` of all matrices in which there was a choice, over streams, masks, groups and horizons."""
    said, found = predict(dreamer, forks, max(forks.horizons)), []
    for name, stream in spec.modelled.items():
        one = matrices(said, forks, name, stream, None)
        found += [scores(cost, one.kept) for cost in (one.cost, one.masked)]
    joined = {key: np.concatenate([values[key].ravel() for values in found]) for key in (*SCORES, "chance", "left")}
    asked = joined["left"] > 1
    return {key: values[asked] for key, values in joined.items()}, int(asked.sum())


@pytest.mark.parametrize("case", LAW)
def test_the_truth_is_right_and_the_blind_are_at_chance(case: Case) -> None:
    env = opened(case)
    spec = arenas.describe(env)
    kind = "asked" if spec.action.kind == "text" else "plans"
    lead = 60 if case[0].startswith("Vizdoom") else 4  # nobody can move in an episode's first steps
    how = {"context": 1, "branches": 4, "marks": MARKS, "lead": lead, "seed": 2, "kind": kind}
    forks = next(fork_groups(env, spec, sizes=[3], **how))
    stage = Stage(env, spec, 0)
    oracle = Oracle(stage, dict(zip(forks.seeds, forks.states)))
    known, asked = scored(oracle, spec, forks)
    assert asked > 0
    for score in SCORES:
        np.testing.assert_array_equal(known[score], 1.0)
    other = forks.branches[::-1, 0]  # plans that are nobody's own
    bank = {name: frames[:, :, 0].reshape(-1, *frames.shape[3:]) for name, frames in forks.truths.items()}
    for blind in (CopyLast(), ActionBlind(oracle, other[:2]), RandomFrames(bank, 1)):
        found, _ = scored(blind, spec, forks)
        for score in SCORES:
            np.testing.assert_allclose(found[score], found["chance"], atol=1e-12, err_msg=type(blind).__name__)
    env.close()
