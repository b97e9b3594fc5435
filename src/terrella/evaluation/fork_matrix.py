"""Which of the true futures follows from which action? Scores of a matrix of costs, by horizon.

    M[i, j] = cost of true future j under what the model says of the actions of branch i

    row      share of i with argmin_j M[i, j] = i         which future follows from these actions
    column   share of j with argmin_i M[i, j] = j         which actions led to this future
    assign   share of i that the cheapest one-to-one assignment maps to themselves
    margin   mean over i of (min_{j != i} M[i, j] - M[i, i]) / mean M      how clear rows are
    kappa    (accuracy - chance) / (1 - chance),  chance = mean over groups of 1 / branches left

Ties share the credit, and an assignment is averaged over all rotations of the rows, because solvers break ties along
the diagonal. So a model that ignores actions scores exactly chance in all three, however good its pictures are: its
rows are equal if its sessions share their noise. Of branches whose true futures coincide at a horizon one is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..spec import StreamSpec
from .forks import Forks
from .metrics import frame_mse
from .rollout import CHUNK, Dreamer
from .stats import bootstrap, numbers

WORST = 1e300  # cost of what is not finite
SAME = 1e-9  # scaled squared error below which two true frames are one


@dataclass
class Matrices:
    """Costs of G groups at H horizons: `cost` and `masked` `(G, H, k, k)`, `kept` bool `(G, H, k)`.

    masked: over those pixels (or numbers) alone in which the group's true futures differ. kept: branches that exist and
    are not equal to an earlier one. negatives: name -> `(G, H, k)`, costs of frames that are no future of any branch,
    under the actions of each branch; infinite where there are none.
    """

    cost: np.ndarray
    masked: np.ndarray
    kept: np.ndarray
    negatives: dict[str, np.ndarray]

    @staticmethod
    def join(parts: list[Matrices]) -> Matrices:
        """Put several batches of groups one after another."""
        return Matrices(
            cost=np.concatenate([p.cost for p in parts]),
            masked=np.concatenate([p.masked for p in parts]),
            kept=np.concatenate([p.kept for p in parts]),
            negatives={name: np.concatenate([p.negatives[name] for p in parts]) for name in parts[0].negatives},
        )

    def of(self, groups: np.ndarray) -> Matrices:
        """Those of some groups, bool `(G,)`."""
        negatives = {name: cost[groups] for name, cost in self.negatives.items()}
        return Matrices(self.cost[groups], self.masked[groups], self.kept[groups], negatives)


def predict(dreamer: Dreamer, forks: Forks, chunk: int = CHUNK) -> dict[str, np.ndarray]:
    """What the dreamer says of every branch: stream -> `(G, k, H, ...)`, frames at `forks.horizons`.

    Branches of a group begin from equal contexts with equal noise seeds, so they differ by their actions alone. chunk:
    frames asked for at a time.
    """
    k, wanted = forks.k, set(forks.horizons)
    seeds = np.repeat(forks.seeds, k).tolist()
    state = dreamer.start(
        {n: np.repeat(v, k, 0) for n, v in forks.observations.items()}, np.repeat(forks.past, k, 0), seeds
    )
    actions = forks.branches.reshape(-1, *forks.branches.shape[2:])[:, : max(wanted)]
    kept: dict[str, list[np.ndarray]] = {}
    for first in range(0, actions.shape[1], chunk):
        state, frame = dreamer.rollout(state, actions[:, first : first + chunk])
        marks = [t for t in range(frame.reward.shape[1]) if first + t + 1 in wanted]
        for name, frames in frame.observation.items():
            kept.setdefault(name, []).append(np.asarray(frames)[:, marks])
    joined = {name: np.concatenate(parts, 1) for name, parts in kept.items()}
    return {name: frames.reshape(len(forks), k, *frames.shape[1:]) for name, frames in joined.items()}


def matrices(
    predicted: dict[str, np.ndarray], forks: Forks, name: str, stream: StreamSpec, scale: np.ndarray | None
) -> Matrices:
    """Compare what was predicted (as `predict` has it) with all truths of the same group, for one stream."""
    cost, masked, kept = [], [], []
    negatives: dict[str, list[np.ndarray]] = {}
    still = forks.last(name)[:, None]
    for horizon in forks.marks:
        said = predicted[name][:, :, forks.horizons.index(horizon)]
        true = forks.at(name, horizon)
        there = forks.exists(horizon)
        between = frame_mse(true[:, :, None], true[:, None], stream, scale)
        kept.append(there & ~repeated(between, there))
        cost.append(frame_mse(said[:, :, None], true[:, None], stream, scale))
        masked.append(_masked(said, true, there, stream, scale))
        for label, frames, exists in _negatives(forks, name, stream, horizon, still, true):
            wrong = np.minimum(frame_mse(said, frames, stream, scale), WORST)  # a failed frame is asked, too
            same = frame_mse(frames, true, stream, scale) <= SAME  # no negative where it is the truth
            negatives.setdefault(label, []).append(np.where(exists & ~same, wrong, np.inf))
    wrong = {label: np.stack(part, 1) for label, part in negatives.items()}
    return Matrices(np.stack(cost, 1), np.stack(masked, 1), np.stack(kept, 1), wrong)


def _negatives(forks: Forks, name: str, stream: StreamSpec, horizon: int, still: np.ndarray, true: np.ndarray):
    """Frames that a world might take for the truth: `(label, frames (G, k, ...), where they exist (G, k))`."""
    everywhere = forks.exists(horizon)
    yield "frozen", np.broadcast_to(still, true.shape), everywhere
    shift = max(forks.horizons) - max(forks.marks)
    for label, other in (("early", horizon - shift), ("late", horizon + shift)):
        if shift:
            here = other > 0
            frames = forks.at(name, other) if here else true
            yield label, frames, forks.exists(other) & everywhere & here
    if stream.kind == "image":
        yield "mirrored", true[..., ::-1, :], everywhere


def repeated(between: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Which branches equal an earlier one that exists: `(G, k, k)` distances and `(G, k)` -> bool `(G, k)`."""
    earlier = np.tril(np.ones(between.shape[-2:], bool), -1)
    return ((between <= SAME) & earlier & there[:, None, :]).any(2)


def _masked(
    said: np.ndarray, true: np.ndarray, there: np.ndarray, stream: StreamSpec, scale: np.ndarray | None
) -> np.ndarray:
    """Costs `(G, k, k)` over what differs between the group's truths alone; 0 where nothing does."""
    axes = tuple(range(3, 3 + len(stream.shape)))
    existing = there.reshape(*there.shape, *[1] * len(stream.shape))
    low = np.where(existing, true, np.inf).min(1, keepdims=True)
    high = np.where(existing, true, -np.inf).max(1, keepdims=True)
    differs = (high > low)[:, :, None]
    unit = 255.0 if stream.kind == "image" else (1.0 if scale is None else scale)
    gap = (said[:, :, None].astype(np.float32) - true[:, None].astype(np.float32)) / np.asarray(unit, np.float32)
    count = np.maximum(differs.sum(axes), 1)
    return np.nan_to_num(np.where(differs, gap**2, 0).sum(axes, dtype=np.float64) / count, nan=np.inf)


def scores(matrix: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Score matrices `(..., k, k)` over the branches `kept` `(..., k)`: name -> `(...)`, NaN with fewer than two.

    `row`, `column`, `assign`, `margin` as above, `chance` = 1 / branches left, and `left`, how many that are. Costs
    that are not finite count as the worst, and a branch whose own cost is not finite as wrong.
    """
    from scipy.optimize import linear_sum_assignment

    shape, k = kept.shape[:-1], kept.shape[-1]
    names = ("row", "column", "assign", "margin", "chance", "left")
    out = {name: np.full(int(np.prod(shape)), np.nan) for name in names}
    for g, (full, rows) in enumerate(zip(matrix.reshape(-1, k, k), kept.reshape(-1, k))):
        m, n = _asked(full, rows), int(rows.sum())
        out["left"][g] = n
        if n < 2:
            continue
        out["row"][g], out["column"][g] = _hits(m).mean(), _hits(m.T).mean()
        turns = [np.roll(np.arange(n), s) for s in range(n)]
        out["assign"][g] = np.mean([(turn == linear_sum_assignment(m[turn])[1]).mean() for turn in turns])
        others = np.where(np.eye(n, dtype=bool), np.inf, m).min(1)
        size = m.mean()
        out["margin"][g] = (others - m.diagonal()).mean() / size if 0 < size < 1e200 else 0.0
        out["chance"][g] = 1 / n
    return {name: values.reshape(shape) for name, values in out.items()}


def row_hits(matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Tell rows apart: of matrices `(..., k, k)`, whether each branch `(..., k)` was told right, as in `scores`.

    NaN for branches that are not kept, and where fewer than two are.
    """
    k = kept.shape[-1]
    out = np.full((int(np.prod(kept.shape[:-1])), k), np.nan)
    for hits, full, rows in zip(out, matrix.reshape(-1, k, k), kept.reshape(-1, k)):
        if rows.sum() > 1:
            hits[rows] = _hits(_asked(full, rows))
    return out.reshape(kept.shape)


def _asked(full: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The part of a matrix that counts, finite: what failed is worst, and one's own failure worse than that."""
    m = full[np.ix_(rows, rows)]
    failed = np.eye(len(m), dtype=bool) & ~np.isfinite(m)
    return np.where(failed, 2 * WORST, np.nan_to_num(m, nan=WORST, posinf=WORST))


def _hits(m: np.ndarray) -> np.ndarray:
    """Which rows have their least entry on the diagonal; ties share the credit."""
    least = m == m.min(1, keepdims=True)
    return least.diagonal() / least.sum(1)


def fork_table(found: Matrices, marks: tuple[int, ...]) -> dict[str, Any]:
    """Summarise over groups, as JSON values: by horizon, each score with its bootstrap 95 % interval, kappa, and raw.

    `avoided` says of each kind of negative how often a world's frame was nearer to the truth of its own actions.
    """
    table: dict[str, Any] = {"horizons": list(marks), "groups": len(found.cost)}
    for label, matrix in (("all", found.cost), ("masked", found.masked)):
        values = scores(matrix, found.kept)
        chance = values["chance"]
        part: dict[str, Any] = {"left": numbers(np.nanmean(values["left"], 0)), "chance": numbers(_mean(chance))}
        for name in ("row", "column", "assign"):
            part[name] = interval(values[name])
            part[f"{name}_kappa"] = interval(values[name] - chance, 1 - chance)
        part["margin"] = interval(values["margin"])
        part["raw"] = {name: values[name].round(6).tolist() for name in ("row", "column", "assign", "left")}
        table[label] = part
    own = np.diagonal(found.cost, axis1=2, axis2=3)
    table["avoided"] = {}
    for name, cost in found.negatives.items():
        asked = np.isfinite(cost) & found.kept
        right = np.where(asked, (own < cost) + 0.5 * (own == cost), 0.0).sum(2)
        table["avoided"][name] = interval(right, np.where(asked.any(2), asked.sum(2), np.nan).astype(float))
    return table


def interval(numerator: np.ndarray, denominator: np.ndarray | None = None) -> dict[str, Any]:
    """Mean (or ratio of sums) over groups and its 95 % interval, as JSON values, by column; None where undefined."""
    mean, low, high = bootstrap(numerator, denominator)
    return {"mean": numbers(mean), "interval": [[a, b] for a, b in zip(numbers(low), numbers(high))]}


def _mean(values: np.ndarray) -> np.ndarray:
    return bootstrap(values)[0]
