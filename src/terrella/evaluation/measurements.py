"""What a suite measures, each by name, and how: true futures made once, any entrant held against them.

    forks   which future follows from which actions (`fork_matrix`), and how far answers to different actions lie apart
    loss    the same matrix by the world's own loss (`denoising`); worlds only
    null    how much moves while nothing is done, beside the truth
    drift   error by horizon beside copy-last, floor and ceiling, as `evaluate` has it

And subjects with a class of their own (`terrella.evaluation.subject`):

    unseen, chance, change, chaos    situations that only some environments have (`situations`)
    planning    what plans made in it earn in the true environment
    ranking     whether it ranks policies as the true environment does

Response = sum over pairs of branches of |prediction_i - prediction_j| / the same sum for the truth (root mean squares):
0 ignores actions, 1 is right in size, though not necessarily in kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import EntrantError, WorldError
from ..spec import StreamSpec
from .denoising import denoising_matrices
from .distractors import Near
from .entrant import WorldEntrant
from .fork_matrix import Matrices, fork_table, interval, matrices, predict
from .forks import Forks, Kind
from .metrics import deviations, frame_mse, motion
from .moments import Moment, Stage
from .recognition import given_back, recognised, told_apart
from .references import ActionBlind, Oracle
from .rollout import CHUNK, Dreamer

SESSIONS = 96  # at once
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Measurement:
    """One line of a suite: what, over how many groups of how many branches of which kind, at which horizons.

    shift: how early and how late a frame may be to be taken for the truth. draws: of noise and levels, for a loss.
    Of `planning` groups are episodes and branches the futures that a plan may imagine; of `ranking` groups are starts,
    branches policies of graded randomness, and the last mark is how long they act where no task says so.
    """

    name: str
    what: str
    kind: Kind = "plans"
    groups: int = 16
    branches: int = 4
    marks: tuple[int, ...] = (1, 4, 16)
    shift: int = 0
    draws: int = 2

    @property
    def forked(self) -> bool:
        """Whether it is one for references, too: they have no loss, and drift shows them as curves."""
        return self.what in ("forks", "null")

    @property
    def apart(self) -> bool:
        """Whether it is a `Subject`, known by the name `what`."""
        return self.what not in ("forks", "loss", "null", "drift")

    @property
    def frames(self) -> int:
        """About how many frames an entrant makes for it."""
        steps = max(self.marks) + self.shift
        each = {"loss": self.branches**2 * self.draws, "null": 1, "drift": 2}.get(self.what, self.branches)
        return self.groups * each * steps


# 21 and the way there and back are no period of things that go to and fro, so that what went on has not come back.
CORE = (
    Measurement("plans", "forks", "plans", 24, 6, (1, 4, 16, 64), shift=1),
    Measurement("edits", "forks", "edits", 24, 4),
    Measurement("swaps", "forks", "swaps", 24, 4),
    Measurement("loss", "loss"),
    Measurement("nothing done", "null"),
    Measurement("drift", "drift", marks=(1, 2, 4, 8, 16, 32, 64)),
    Measurement("out of sight", "unseen", groups=24, marks=(21,)),
    Measurement("by chance", "chance", groups=6, marks=(8,)),
    Measurement("a new rule", "change", groups=8, marks=(16,)),
    Measurement("chaos", "chaos", groups=16, marks=(400,)),
    Measurement("ranking of policies", "ranking", groups=12, branches=9, marks=(64,)),
    Measurement("planning", "planning", groups=8, branches=12, marks=(64,)),
)
FULL = (
    Measurement("plans", "forks", "plans", 128, 8, (1, 4, 16, 64), shift=1),
    Measurement("edits", "forks", "edits", 128, 8, (1, 4, 16, 64), shift=1),
    Measurement("swaps", "forks", "swaps", 128, 8, (1, 4, 16, 64), shift=1),
    Measurement("loss", "loss", "plans", 64, 8, draws=4),
    Measurement("nothing done", "null", "plans", 64, 8),
    Measurement("drift", "drift", groups=64, marks=(1, 2, 4, 8, 16, 32, 64, 128, 256)),
    Measurement("out of sight", "unseen", groups=128, marks=(21,)),
    Measurement("by chance", "chance", groups=32, marks=(16,)),
    Measurement("a new rule", "change", groups=32, marks=(32,)),
    Measurement("chaos", "chaos", groups=64, marks=(2000,)),
    Measurement("ranking of policies", "ranking", groups=64, branches=9, marks=(64,)),
    Measurement("planning", "planning", groups=50, branches=64, marks=(64,)),
)
LANGUAGE = (  # up to the chunk of a grid, after which a sentence that is said still begins anew
    Measurement("asked", "forks", "asked", 32, 6, marks=(1, 4, 12)),
    Measurement("reworded", "forks", "reworded", 32, 6, marks=(1, 4, 12)),
)


def measure_forks(
    entrant: Dreamer, forks: Forks, streams: dict[str, StreamSpec], advance: Advance, near: Near | None = None
) -> dict[str, Any]:
    """Score fork matrices of every stream, and the response at each horizon. Groups that fail count as wrong.

    Of a world also `perceived`: the scores over those groups alone that it recognises (`recognition`), `kept` of them,
    also among their `near` distractors if these are given, of which it then has the score.
    """
    scales = {name: scale(forks, name, stream) for name, stream in streams.items()}
    found, apart, failures = cost_forks(entrant, forks, streams, scales, advance)
    result = {}
    seen, nearly = None, {}
    if isinstance(entrant, WorldEntrant):
        give = partial(given_back, entrant.engine)
        seen = recognised(give, forks, streams, scales)
        if near is not None:
            apart_from_near, nearly = told_apart(give, near, streams, scales)
            seen &= apart_from_near
    for name in streams:
        table = fork_table(found[name], forks.marks)
        if seen is not None:
            table["perceived"] = {"kept": int(seen.sum()), "near": nearly.get(name)}
            table["perceived"] |= fork_table(found[name].of(seen), forks.marks)["all"] if seen.any() else {}
        response = apart[name]
        table["response"] = interval(response[0], np.where(response[1] > 0, response[1], np.nan))
        result[name] = table
    return {"streams": result, "k": forks.k, "groups": len(forks), "failed": len(failures), "errors": failures[:3]}


def cost_forks(
    entrant: Dreamer,
    forks: Forks,
    streams: dict[str, StreamSpec],
    scales: dict[str, np.ndarray | None],
    advance: Advance,
) -> tuple[dict[str, Matrices], dict[str, np.ndarray], list[str]]:
    """Costs by stream, how far answers lie apart by stream (said and true, `(2, G, H)`), and what failed, in words.

    scales: stream -> unit of each dimension `(F,)`, as `scale` has it. Groups that fail cost infinitely much.
    """
    found: dict[str, list[Matrices]] = {name: [] for name in streams}
    apart: dict[str, list[np.ndarray]] = {name: [] for name in streams}
    failures: list[str] = []
    for part in parts(forks):
        try:
            said = predict(entrant, part, steps_at_once(entrant, part))
            bad = None
        except (EntrantError, WorldError) as error:
            failures += [str(error)] * len(part)
            said, bad = part.truths, np.inf
        for name, stream in streams.items():
            one = matrices(said, part, name, stream, scales[name])
            spread = _spread(said[name], part, one.kept, name, stream, scales[name])
            if bad is not None:
                wrong = {label: np.where(np.isfinite(cost), 0.0, np.inf) for label, cost in one.negatives.items()}
                one = Matrices(np.full_like(one.cost, bad), np.full_like(one.masked, bad), one.kept, wrong)
                spread[0] = 0.0
            found[name].append(one)
            apart[name].append(spread)
        advance(len(part) * part.k * max(part.horizons))
    joined = {name: Matrices.join(some) for name, some in found.items()}
    return joined, {name: np.concatenate(some, 1) for name, some in apart.items()}, failures


def measure_loss(entrant: WorldEntrant, forks: Forks, marks: tuple[int, ...], draws: int, advance: Advance) -> Any:
    """Score matrices of the world's own loss; of branches that coincide in every stream one is kept."""
    found = []
    for part in parts(forks):
        cost = denoising_matrices(entrant.world, part, _kept(part, entrant.world.spec.modelled), draws=draws)
        at = [mark - 1 for mark in marks]
        found.append(Matrices(cost.cost[:, at], cost.masked[:, at], cost.kept[:, at], {}))
        advance(len(part) * part.k**2 * draws * max(marks))
    table = fork_table(Matrices.join(found), marks)
    return {"streams": {"all streams": table}, "k": forks.k, "groups": len(forks), "failed": 0, "errors": []}


def measure_nothing(
    entrant: Dreamer, forks: Forks, stage: Stage, streams: dict[str, StreamSpec], advance: Advance
) -> dict[str, Any]:
    """Let nothing be done for as long as the futures are: mean motion a frame, of the entrant and of the truth.

    Only for environments that say which action does nothing (`spec.noop`).
    """
    steps = max(forks.marks)
    still = np.tile(np.asarray(stage.spec.noop, np.float32), (len(forks), 1, steps, 1))
    asked = replace(forks, branches=still, horizons=tuple(range(1, steps + 1)))
    true, alive = _play(stage, asked, steps)
    moved: dict[str, list[np.ndarray]] = {name: [] for name in streams}
    failed = 0
    for first, part in zip(range(0, len(forks), SESSIONS), parts(asked)):
        rows = slice(first, first + len(part))
        try:
            said = predict(entrant, part, steps_at_once(entrant, part))
        except (EntrantError, WorldError):
            said, failed = None, failed + len(part)
        for name, stream in streams.items():
            unit = scale(forks, name, stream)
            both = [_motion(part.last(name), true[name][rows], alive[rows], stream, unit)]
            if said is None:
                both.insert(0, np.full_like(both[0], np.nan))
            else:
                both.insert(0, _motion(part.last(name), said[name][:, 0], alive[rows], stream, unit))
            moved[name].append(np.stack(both))
        advance(len(part) * steps)
    result = {}
    for name in streams:
        ours, theirs = np.concatenate(moved[name], 1)[..., None]
        result[name] = {
            "motion": interval(ours),
            "true": interval(theirs),
            "ratio": interval(ours, theirs) if (theirs > 0).any() else None,
        }
    return {"streams": result, "groups": len(forks), "steps": steps, "failed": failed}


def parts(forks: Forks) -> list[Forks]:
    """Groups in batches of about `SESSIONS` sessions."""
    size = max(1, SESSIONS // forks.branches.shape[1])
    return [forks.part(slice(i, i + size)) for i in range(0, len(forks), size)]


def steps_at_once(dreamer: Dreamer, forks: Forks) -> int:
    """Models step in chunks, which bounds memory; a simulator plays each chunk from the beginning, so it gets one."""
    return max(forks.horizons) if isinstance(dreamer, (Oracle, ActionBlind)) else CHUNK


def scale(forks: Forks, name: str, stream: StreamSpec) -> np.ndarray | None:
    """Deviation of each dimension of a vector over contexts and true futures, 1 where it never varies; else None."""
    if stream.kind != "vector":
        return None
    there = np.stack([forks.exists(h) for h in forks.horizons], 2)
    seen = forks.observations[name].reshape(-1, *stream.shape)
    return deviations(np.concatenate([seen, forks.truths[name][there]]))


def _kept(forks: Forks, streams: dict[str, StreamSpec]) -> np.ndarray:
    every = [matrices(forks.truths, forks, name, stream, None).kept for name, stream in streams.items()]
    return np.logical_or.reduce(every)


def _spread(
    said: np.ndarray, forks: Forks, kept: np.ndarray, name: str, stream: StreamSpec, unit: np.ndarray | None
) -> np.ndarray:
    """Sum over pairs of kept branches of how far apart they are, as said and in truth: `(2, G, H)`."""
    between = partial(frame_mse, spec=stream, scale=unit)
    sums = np.zeros((2, *kept.shape[:2]))
    for h, mark in enumerate(forks.marks):
        pairs = kept[:, h, :, None] & kept[:, h, None]
        for row, frames in enumerate((said[:, :, forks.horizons.index(mark)], forks.at(name, mark))):
            apart = np.sqrt(between(frames[:, :, None], frames[:, None]))
            sums[row, :, h] = np.where(pairs & np.isfinite(apart), apart, 0.0).sum((1, 2))
    return sums


def _play(stage: Stage, forks: Forks, steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The truth under each group's only branch: stream -> `(G, T, ...)`, and which frames exist, bool `(G, T)`."""
    frames = {name: np.repeat(v[:, -1:], steps, 1) for name, v in forks.observations.items()}
    alive = np.zeros((len(forks), steps), bool)
    for g, (seed, state) in enumerate(zip(forks.seeds, forks.states)):
        stage.restore(Moment(seed, [], forks.branches[g, 0], state, 0))
        played = stage.play(forks.branches[g, 0])
        alive[g, : len(played.frames)] = True
        for t, frame in enumerate(played.frames):
            for name, kept in frames.items():
                kept[g, t] = frame[name]
    return frames, alive


def _motion(
    last: np.ndarray, frames: np.ndarray, alive: np.ndarray, stream: StreamSpec, unit: np.ndarray | None
) -> np.ndarray:
    """Mean change a frame while the episode lasts, `(G,)`."""
    each = motion(np.concatenate([last[:, None], frames], 1), stream, unit)
    return np.where(alive, each, 0.0).sum(1) / np.maximum(alive.sum(1), 1)
