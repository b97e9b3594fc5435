"""Does a world do what it is told? Row accuracy by what of a sentence is new to it.

k sentences are said at one moment, each is carried out by the true environment, and the world's frames under each are
held against all k true futures (`fork_matrix`). Every sentence is one of four kinds:

                          a combination training asks for    one that it never asks for
    training's phrasings  known                              new deed
    other phrasings       reworded                           reworded new deed

Combinations old and new stand side by side in the same groups, so they meet equally hard alternatives. A model that
ignores sentences scores exactly chance over both together, but in each alone it may not: what it shows whatever it is
told may lie nearest to futures of one kind. `Deaf` and `Misheard` (`references`) tell how the same world scores if it
hears nothing, or another sentence. A sentence that the environment could not carry out has a true future, too, and
counts; `carried_out` says how many were, by the describer.

Only what differs between the futures decides: where all of them agree, a frame is as far from each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

Told = Literal["asked", "reworded"]
NAMES: dict[Told, tuple[str, str]] = {"asked": ("known", "new deed"), "reworded": ("reworded", "reworded new deed")}


@dataclass(frozen=True)
class Asked:
    """Sentences and their true futures, for any number of dreamers.

    new: which are combinations that training never asks for; done: which the environment carries out within a chunk;
    both bool `(G, k)`.
    """

    kind: Told
    forks: Forks
    new: np.ndarray
    done: np.ndarray


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

    Numbers are those of `score_asked`. Settings as in `fork_groups`; raises as it does, and `ArenaError` where actions
    are no sentences.
    """
    result: dict[str, Any] = {name: {} for name in spec.modelled}
    for kind in NAMES:
        how: dict[str, Any] = {"context": context, "branches": branches, "marks": marks, "lead": lead}
        asked = ask_sentences(env, spec, kind, groups=groups, seed=seed, taken=taken, policy=policy, **how)
        for stream, tables in score_asked(dreamer, asked, spec).items():
            result[stream] |= tables
    return {"streams": result, "horizons": list(marks), "groups": groups, "k": branches}


def ask_sentences(
    env: gym.Env,
    spec: WorldSpec,
    kind: Told,
    *,
    groups: int,
    policy: str | Policy = "speak",
    **how: Any,
) -> Asked:
    """Say sentences at so many moments, and let the true environment carry them out. how: as in `fork_groups`."""
    find_sentences(env)
    forks = next(fork_groups(env, spec, sizes=[groups], kind=kind, policy=policy, **how))
    return Asked(kind, forks, *_told(env, spec, forks, policy))


def score_asked(dreamer: Dreamer, asked: Asked, spec: WorldSpec) -> dict[str, dict[str, Any]]:
    """Score a dreamer's futures, as JSON values: stream -> kind of sentence -> numbers by horizon.

    `row`: share of sentences whose own true future is the nearest, with its interval over groups. `chance`: one over
    the futures to choose from. `times`: row over chance, with its interval. `n`: sentences, in so many
    `groups`. `carried_out`: share of those that the environment did. `raw`: sums of each group, by horizon, of
    sentences told right (`hits`), of `chance` and of sentences (`n`). A kind with no sentences has n 0.
    """
    result: dict[str, dict[str, Any]] = {}
    for stream, kept, hits in _rows(dreamer, asked.forks, spec):
        chance = np.where(np.isnan(hits), np.nan, 1.0 / np.maximum(kept.sum(-1, keepdims=True), 1))
        result[stream] = {}
        for name, chosen in zip(NAMES[asked.kind], (~asked.new, asked.new)):
            there = chosen[:, None] & ~np.isnan(hits)  # (G, H, k)
            right, by_luck = (np.where(there, values, 0.0).sum(2) for values in (hits, chance))
            count = np.where(there.any(2), there.sum(2), np.nan).astype(float)
            luck = np.where(there.any(2), by_luck, np.nan)
            table = {"row": interval(right, count), "n": there.sum((0, 2)).tolist()}
            table |= {"chance": interval(by_luck, count)["mean"], "times": interval(right, luck)}
            table["groups"] = there.any(2).sum(0).tolist()
            table["carried_out"] = float(asked.done[chosen].mean()) if chosen.any() else None
            sums = {"hits": right, "chance": by_luck, "n": there.sum(2)}
            table["raw"] = {key: value.round(6).tolist() for key, value in sums.items()}
            result[stream][name] = table
    return result


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
