"""Exact counterfactuals: several true futures of one moment, each under other actions.

A *group* is one moment and k branches, each played by the true environment from the moment's restored state, the
factual one too. Branches are of a kind:

    plans    each drawn by the policy, apart from the first, which is what the policy would have done
    edits    the first, with one action changed at one step
    swaps    the first, with two of its actions exchanged
    asked    each a sentence of its own, of what can be done at that moment, said again for every frame
    reworded the same in phrasings that training never hears

Edits and swaps are hard: their futures differ little. Of a group's sentences up to half are combinations of verb and
object that training never asks for (`evaluation/language.py` tells them apart). Frames are kept at horizons (`marks`)
and, to ask whether a world is early or late, `shift` steps before and after each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas.sentences import find_sentences
from ..data import Policy
from ..data.speech import phrase
from ..errors import ArenaError, ConfigError
from ..spec import WorldSpec
from .moments import POLICY, SEED_TAG, Moment, Stage

Kind = Literal["plans", "edits", "swaps", "asked", "reworded"]
_TRIES = 32  # draws of an action that differs


@dataclass
class Forks:
    """G groups of k branches of T actions; what lies past an episode's end is zero and never compared.

    observations: stream -> `(G, c+1, ...)`, the contexts. past: float32 `(G, c, W)`. branches: float32 `(G, k, T, W)`.
    truths: stream -> `(G, k, H, ...)`, frames after `horizons[h]` actions. length: `(G, k)`, actions until each branch
    ended. seeds: reset seed of each group, also the noise seed of a world's sessions. states: the saved moments.
    """

    observations: dict[str, np.ndarray]
    past: np.ndarray
    branches: np.ndarray
    truths: dict[str, np.ndarray]
    length: np.ndarray
    seeds: list[int]
    states: list[bytes]
    marks: tuple[int, ...]
    horizons: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def k(self) -> int:
        """Branches of a group."""
        return self.branches.shape[1]

    def part(self, rows: slice) -> Forks:
        """Some of the groups."""
        return Forks(
            observations={name: v[rows] for name, v in self.observations.items()},
            past=self.past[rows],
            branches=self.branches[rows],
            truths={name: v[rows] for name, v in self.truths.items()},
            length=self.length[rows],
            seeds=self.seeds[rows],
            states=self.states[rows],
            marks=self.marks,
            horizons=self.horizons,
        )

    def at(self, stream: str, horizon: int) -> np.ndarray:
        """True frames `(G, k, ...)` after `horizon` actions, one of `horizons`."""
        return self.truths[stream][:, :, self.horizons.index(horizon)]

    def last(self, stream: str) -> np.ndarray:
        """The last frame before the branches part, `(G, ...)`."""
        return self.observations[stream][:, -1]

    def exists(self, horizon: int) -> np.ndarray:
        """Which branches go on for so many actions, bool `(G, k)`."""
        return self.length >= horizon


def fork_groups(
    env: gym.Env,
    spec: WorldSpec,
    *,
    sizes: Sequence[int],
    context: int,
    branches: int = 8,
    marks: Sequence[int] = (1, 4, 16, 64),
    shift: int = 0,
    kind: Kind = "plans",
    seed: int = 0,
    lead: int = 0,
    taken: frozenset[int] = frozenset(),
    policy: str | Policy = POLICY,
) -> Iterator[Forks]:
    """Yield one `Forks` of n groups for each n in `sizes`.

    env: made by `terrella.arenas.make`. context, seed, lead, taken, policy: where groups part, as `Stage` has it.
    Raises `ArenaError` for an environment that cannot be forked exactly, `ConfigError` for settings out of range.
    """
    if branches < 2 or not marks or min(marks) < 1 or shift < 0 or kind not in get_args(Kind):
        raise ConfigError(
            f"branches {branches}, marks {list(marks)}, shift {shift}, kind {kind!r}: expected at least two branches, "
            f"horizons from 1 on, a shift from 0 on and one of {', '.join(get_args(Kind))}."
        )
    stage = Stage(env, spec, seed, taken, policy)
    if stage.fork is None or not stage.fork.exact:
        raise ArenaError(
            f"{spec.env.id or 'this environment'} cannot be forked exactly, so its futures cannot be compared. "
            "`terrella.arenas.list_arenas()` has those that can; games of ALE need sticky actions switched off."
        )
    steps = max(marks) + shift
    horizons = sorted({h for m in marks for h in (m - shift, m, m + shift) if h > 0})
    for n in sizes:
        yield _gather(stage, n, context, branches, steps, tuple(marks), tuple(horizons), kind, lead)


def _gather(
    stage: Stage,
    n: int,
    context: int,
    k: int,
    steps: int,
    marks: tuple[int, ...],
    horizons: tuple[int, ...],
    kind: Kind,
    lead: int,
) -> Forks:
    spec, dtypes = stage.spec, {"image": np.uint8, "vector": np.float32}

    def zeros(*lead: int) -> dict[str, np.ndarray]:
        return {name: np.zeros((*lead, *s.shape), dtypes[s.kind]) for name, s in spec.modelled.items()}

    width = codec.width(spec.action)
    forks = Forks(
        observations=zeros(n, context + 1),
        past=np.zeros((n, context, width), np.float32),
        branches=np.zeros((n, k, steps, width), np.float32),
        truths=zeros(n, k, len(horizons)),
        length=np.zeros((n, k), np.int64),
        seeds=[],
        states=[],
        marks=marks,
        horizons=horizons,
    )
    for g in range(n):
        moment = stage.next(context, steps, lead)
        if moment.state is None:
            raise ArenaError("this environment did not save its state.")
        forks.seeds.append(moment.seed)
        forks.states.append(moment.state)
        forks.past[g] = moment.actions[:context]
        for name, frames in forks.observations.items():
            frames[g] = [frame[name] for frame in moment.frames]
        forks.branches[g] = _branches(stage, moment, context, k, kind)
        for b in range(k):
            stage.restore(moment)
            played = stage.play(forks.branches[g, b])
            forks.length[g, b] = len(played.frames)
            for h, horizon in enumerate(horizons):
                if horizon <= len(played.frames):
                    for name, frames in forks.truths.items():
                        frames[g, b, h] = played.frames[horizon - 1][name]
    return forks


def _branches(stage: Stage, moment: Moment, context: int, k: int, kind: Kind) -> np.ndarray:
    """The actions of one group's branches, float32 `(k, T, W)`; equal ones may be among them."""
    rng = np.random.default_rng([SEED_TAG, moment.seed, 2])
    first = moment.actions[context:]
    if kind in ("asked", "reworded"):
        return _sentences(stage, moment, k, len(first), rng, held=kind == "reworded")
    if kind == "plans":
        return np.stack([first, *(stage.draw(rng, len(first)) for _ in range(k - 1))])
    changed = [first]
    for i in range(k - 1):
        branch = first.copy()
        t = i * len(first) // (k - 1)  # spread over the whole branch
        if kind == "edits":
            others = stage.draw(rng, _TRIES)
            differs = (others != first[t]).any(1)
            branch[t] = others[differs.argmax()]
        else:
            differs = (first != first[t]).any(1)
            other = int(rng.choice(np.flatnonzero(differs))) if differs.any() else t
            branch[[t, other]] = first[[other, t]]
        changed.append(branch)
    return np.stack(changed)


def _sentences(stage: Stage, moment: Moment, k: int, steps: int, rng: np.random.Generator, held: bool) -> np.ndarray:
    """Ask for k things that can be done at the moment, held-out combinations first, up to half; fewer are repeated."""
    stage.restore(moment)
    env = find_sentences(stage.env)
    deeds = env.feasible()
    drawn = [deeds[i] for i in rng.permutation(len(deeds))]
    new = [deed for deed in drawn if env.grammar.is_held_deed(deed)][: k // 2]
    chosen = [*new, *(deed for deed in drawn if not env.grammar.is_held_deed(deed))]
    said = [phrase(env, chosen[i % len(chosen)], rng, held) for i in range(k)]
    rows = np.stack([codec.encode(stage.spec.action, sentence) for sentence in said]).astype(np.float32)
    return np.repeat(rows[:, None], steps, 1)
