"""Does a world do what it is told? Row accuracy by what of a sentence is new to it.

k sentences are said at one moment, each is carried out by the true environment, and the world's frames under each are
held against all k true futures (`fork_matrix`). Every sentence is one of four kinds:

                          a combination training asks for    one that it never asks for
    training's phrasings  known                              new deed
    other phrasings       reworded                           reworded new deed

Combinations old and new stand side by side in the same groups, so they meet equally hard alternatives. A model that
ignores sentences scores exactly chance over both together, in each alone only on average. A sentence that the
environment could not carry out has a true future, too, and counts; `carried_out` says how many were, by the describer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas.sentences import find_sentences
from ..data import Policy
from ..spec import WorldSpec
from .fork_matrix import Matrices, interval, matrices, predict, row_hits
from .forks import Forks, fork_groups
from .measurements import parts, scale, steps_at_once
from .moments import Moment, Stage
from .rollout import Dreamer

NAMES = {"asked": ("known", "new deed"), "reworded": ("reworded", "reworded new deed")}


def measure_language(
    dreamer: Dreamer,
    env: gym.Env,
    spec: WorldSpec,
    *,
    context: int,
    groups: int = 32,
    branches: int = 6,
    marks: Sequence[int] = (1, 4, 12),
    seed: int = 0,
    lead: int = 0,
    taken: frozenset[int] = frozenset(),
    policy: str | Policy = "speak",
) -> dict[str, Any]:
    """Score a dreamer's futures under sentences, as JSON values: stream -> kind of sentence -> numbers by horizon.

    `row`: share of sentences whose own true future is the nearest, with its interval over groups. `chance`: one over
    the futures to choose from. `n`: sentences. `carried_out`: share of those that the environment did. A kind with no
    sentences has n 0. Settings as in `fork_groups`; raises as it does, and `ArenaError` where actions are no sentences.
    """
    find_sentences(env)
    result: dict[str, Any] = {name: {} for name in spec.modelled}
    for kind, names in NAMES.items():
        how: dict[str, Any] = {"context": context, "branches": branches, "marks": marks, "lead": lead}
        how |= {"kind": kind, "seed": seed, "taken": taken, "policy": policy}
        forks = next(fork_groups(env, spec, sizes=[groups], **how))
        new, done = _told(env, spec, forks, policy)
        for stream, kept, hits in _rows(dreamer, forks, spec):
            chance = np.where(np.isnan(hits), np.nan, 1.0 / np.maximum(kept.sum(-1, keepdims=True), 1))
            for name, asked in zip(names, (~new, new)):
                there = asked[:, None] & ~np.isnan(hits)  # (G, H, k)
                count = np.where(there.any(2), there.sum(2), np.nan).astype(float)
                table = {"row": interval(np.where(there, hits, 0.0).sum(2), count), "n": there.sum((0, 2)).tolist()}
                table["chance"] = interval(np.where(there, chance, 0.0).sum(2), count)["mean"]
                table["carried_out"] = float(done[asked].mean()) if asked.any() else None
                result[stream][name] = table
    return {"streams": result, "horizons": list(marks), "groups": groups, "k": branches}


def _rows(dreamer: Dreamer, forks: Forks, spec: WorldSpec):
    """Stream by stream: its name, which branches are kept, and which were told right, `(G, H, k)`."""
    scales = {name: scale(forks, name, stream) for name, stream in spec.modelled.items()}
    found: dict[str, list[Matrices]] = {name: [] for name in spec.modelled}
    for part in parts(forks):
        said = predict(dreamer, part, steps_at_once(dreamer, part))
        for name, stream in spec.modelled.items():
            found[name].append(matrices(said, part, name, stream, scales[name]))
    for name, listed in found.items():
        whole = Matrices.join(listed)
        yield name, whole.kept, row_hits(whole.cost, whole.kept)


def _told(env: gym.Env, spec: WorldSpec, forks: Forks, policy: str | Policy) -> tuple[np.ndarray, np.ndarray]:
    """Which sentences are new combinations, and which the environment carries out within a chunk: bool `(G, k)`."""
    told, stage = find_sentences(env), Stage(env, spec, 0, policy=policy)
    new, done = np.zeros((2, len(forks), forks.k), bool)
    for g, (seed, state) in enumerate(zip(forks.seeds, forks.states)):
        for b in range(forks.k):
            row = forks.branches[g, b, 0].astype(np.float64)
            deed = told.grammar.understand(codec.decode(spec.action, row))
            new[g, b] = deed is not None and told.grammar.is_held_deed(deed)
            stage.restore(Moment(seed, [], forks.branches[g, b], state, 0))
            stage.play(np.repeat(forks.branches[g, b, :1], told.chunk, 0))
            done[g, b] = told.done
    return new, done
