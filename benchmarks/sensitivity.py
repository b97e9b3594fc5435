"""Which dimension falls under which damage, and which does not: worlds that are whole, beside the same ones spoiled.

    python benchmarks/sensitivity.py --json benchmarks/results/sensitivity.json

Rows have `world, damage, dimension, n, whole, damaged`, the mean `difference` over moments (damaged - whole, both at
the same moments under the same actions and noise) with its 95 % interval, and `p`, of a sign-flip test over moments,
two-sided. `stated` is what was said in advance (`terrella.evaluation.damage.STATED`), `falls` that it is below zero
after Holm's correction for all rows of a world of which a fall was stated, or for all others, `right` whether the two
agree. Raw scores are kept in `--out`, one file a world and damage, so that a run goes on where it was stopped and can
be made in parts: `--worlds`, `--damages`; `--gather` measures nothing that is not there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, keep_row, kept_row, write_json
from train_gallery import acting

from terrella.arenas import make
from terrella.errors import ArenaError
from terrella.evaluation.damage import DIMENSIONS, STATED, kinds, spoil
from terrella.evaluation.entrant import Entrant, WorldEntrant, digest
from terrella.evaluation.fork_matrix import Matrices, matrices, predict, scores
from terrella.evaluation.forks import Forks, fork_groups
from terrella.evaluation.measurements import parts, scale
from terrella.evaluation.moments import Stage
from terrella.evaluation.out_of_sight import Journeys, journeys, permanence
from terrella.evaluation.run import LEAD, default_context
from terrella.evaluation.stats import bootstrap, numbers
from terrella.spec import StreamSpec
from terrella.world import World

WORLDS = ("pendulum", "sprites", "coinrun")
GROUPS = {"pendulum": 64, "coinrun": 48}  # moments compared: more where they cost little or where few have a choice
FEWER = 24  # elsewhere
BRANCHES, MARKS, UNSEEN = 4, (1, 16, 40), 21
SOON, LATER, LONG = range(3)  # places in MARKS
LEAST = 1e-12  # error below which nothing is nearer
FLIPS = 10_000


class Course:
    """What all versions of one world are held against: futures of the same moments, and journeys if there are any."""

    def __init__(self, world: World, seed: int, groups: int) -> None:
        how = {"lead": LEAD, **acting(world.name)}
        self.env = make(world.spec.env)
        self.stage = Stage(self.env, world.spec, seed, **{k: v for k, v in how.items() if k == "policy"})
        context: int = default_context(world)
        plan: dict[str, Any] = {
            "context": context,
            "branches": BRANCHES,
            "marks": MARKS,
            "shift": 1,
            "seed": seed,
            **how,
        }
        self.forks: Forks = next(fork_groups(self.env, world.spec, sizes=[groups], **plan))
        (self.name, self.stream), *_ = world.spec.modelled.items()
        self.unit = scale(self.forks, self.name, self.stream)
        try:
            self.gone: Journeys | None = journeys(self.stage, groups, UNSEEN, context=context, lead=how["lead"])
        except ArenaError:
            self.gone = None

    def scores(self, entrant: Entrant) -> dict[str, list[float | None]]:
        """Of each dimension that there is here, a score a moment, higher is better; None where nothing was asked."""
        said = [predict(entrant, part) for part in parts(self.forks)]
        pairs = list(zip(said, parts(self.forks)))
        found = Matrices.join([matrices(s, part, self.name, self.stream, self.unit) for s, part in pairs])
        frames = np.concatenate([s[self.name][:, :, self.forks.horizons.index(MARKS[LATER])] for s in said])
        kept = found.kept
        nearest = np.where(kept[:, SOON, None], found.cost[:, SOON], np.inf).min(2)
        own = np.diagonal(found.cost, axis1=2, axis2=3)
        early = found.negatives["early"][:, LATER]
        asked = kept[:, LATER] & np.isfinite(early)
        before = (own[:, LATER] < early) + 0.5 * (own[:, LATER] == early)
        told = {
            "which action": scores(found.cost, kept)["column"][:, SOON],
            "next picture": closeness(mean(nearest, kept[:, SOON])),
            "in time": mean(before, asked),
            "drift": closeness(mean(own[:, LONG], kept[:, LONG])),
        }
        if self.stream.kind == "image":
            ratio = contrast(frames, self.stream) / contrast(self.forks.at(self.name, MARKS[LATER]), self.stream)
            told["sharpness"] = -np.abs(np.log2(mean(ratio, kept[:, LATER] & np.isfinite(ratio) & (ratio > 0))))
        if self.gone is not None:
            told["out of sight"] = np.array(permanence(entrant, self.gone, self.stage)["raw"]["right"], float)
        return {name: numbers(told[name].round(6)) for name in DIMENSIONS if name in told}


def mean(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Mean over those branches `(G, k)` that are there, NaN where none is."""
    count = there.sum(1)
    return np.where(count > 0, np.where(there, values, 0.0).sum(1) / np.maximum(count, 1), np.nan)


def closeness(error: np.ndarray) -> np.ndarray:
    """Minus the logarithm of an error to the base of 10: one more is a tenth of the error."""
    return -np.log10(np.clip(error, LEAST, 1 / LEAST))  # what failed is as far as can be


def contrast(frames: np.ndarray, stream: StreamSpec) -> np.ndarray:
    """Squared differences of neighbouring pixels over the variance of all, of frames `(G, k, h, w, C)`: `(G, k)`.

    What blurs lowers it, what shows more or fewer things of a kind does not. NaN for frames of one colour.
    """
    assert stream.kind == "image"
    values = frames.astype(np.float32)
    steps = sum(np.square(np.diff(values, axis=axis)).mean((2, 3, 4)) for axis in (2, 3))
    spread = values.var((2, 3, 4))
    return np.where(spread > 0, steps / np.where(spread > 0, spread, 1.0), np.nan)


def measured(
    world: World, chosen: list[str] | None, out: Path, gather: bool, seed: int, groups: int | None
) -> dict[str, Any]:
    """Scores of a world and of its damaged versions, from what is kept or anew: damage -> row of `keep_row`."""
    groups = groups or GROUPS.get(world.name, FEWER)
    some = [kind for kind in kinds(world) if chosen is None or kind in chosen]
    settings = {"digest": digest(world), "seed": seed, "groups": groups, "branches": BRANCHES, "marks": list(MARKS)}
    course, found = None, {}
    for damage in ("whole", *some):
        file = out / world.name / f"{damage.replace(' ', '-')}.json"
        row = kept_row(file, settings)
        if row is None and not gather:
            began = time.perf_counter()
            course = course or Course(world, seed, groups)
            entrant = WorldEntrant(world) if damage == "whole" else spoil(world, damage)
            row = {"world": world.name, "damage": damage, "scores": course.scores(entrant)}
            keep_row(file, {**row, "seconds": round(time.perf_counter() - began, 1)}, settings)
        if row is not None:
            found[damage] = row
    return found


def compared(world: World, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each dimension of each damaged version beside that of the whole one, and what was stated of it."""
    rows = []
    for damage in [name for name in found if name != "whole" and "whole" in found]:
        for dimension, values in found["whole"]["scores"].items():
            pair = (np.array(scored, float) for scored in (values, found[damage]["scores"][dimension]))
            stated = STATED[damage].of(dimension)
            case = {"world": world.name, "damage": damage, "dimension": dimension, "stated": stated}
            rows.append({**case, **paired(*pair)})
    # What is stated is named in advance, so it is corrected for its own number, and all else for all that is tested.
    said = [row for row in rows if row["stated"] == "falls"]
    for row in holm(said) + holm([row for row in rows if row["stated"] != "falls"]):
        row["right"] = None if row["stated"] is None else row["falls"] == (row["stated"] == "falls")
    return rows


def paired(whole: np.ndarray, damaged: np.ndarray) -> dict[str, Any]:
    """The difference of two scores at the same moments, `(n,)` each, NaN where there was nothing to choose."""
    known = ~np.isnan(whole) & ~np.isnan(damaged)
    gap = (damaged - whole)[known]
    if len(gap) < 2:
        return {"n": len(gap)}
    middle, low, high = (float(v[0]) for v in bootstrap(gap[:, None]))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, len(gap)))
    p = float((1 + (np.abs((signs * gap).mean(1)) >= abs(middle) - 1e-12).sum()) / (1 + FLIPS))
    kept = {"n": len(gap), "whole": float(whole[known].mean()), "damaged": float(damaged[known].mean())}
    return {**kept, "difference": middle, "interval": [low, high], "p": p}


def holm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of each row whether it falls, at 5 % for these together (Holm 1979, Scand. J. Stat. 6)."""
    tested = sorted((row for row in rows if "p" in row), key=lambda row: row["p"])
    going = True
    for row in rows:
        row["falls"] = False
    for i, row in enumerate(tested):
        going = going and row["p"] <= 0.05 / (len(tested) - i)
        row["falls"] = going and row["difference"] < 0
    return rows


def main(given: list[str] | None = None) -> None:
    """Measure what is asked for, and print all of it."""
    parser = arguments(__doc__)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), help="of the gallery, or folders")
    parser.add_argument("--damages", nargs="+", choices=list(STATED), help="default all that can be done to a world")
    parser.add_argument("--groups", type=int, help=f"moments compared (default {FEWER}, of some {GROUPS})")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"))
    parser.add_argument("--gather", action="store_true", help="measure nothing, print what there is")
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    how = (options.damages, options.out, options.gather, options.seed, options.groups)
    rows, seconds = [], 0.0
    for path in options.worlds:
        world = World.load(path)
        found = measured(world, *how)
        rows += compared(world, found)
        seconds += sum(row.get("seconds", 0.0) for row in found.values())
    about = {
        "groups": options.groups or GROUPS,
        "branches": BRANCHES,
        "marks": list(MARKS),
        "unseen": UNSEEN,
        "seconds": seconds,
    }
    write_json({"settings": about, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
