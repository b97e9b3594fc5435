"""Which score falls under which damage, and which does not: worlds that are whole, beside the same ones spoiled.

    python benchmarks/sensitivity.py --json benchmarks/results/sensitivity.json

Rows have `world, damage, score, horizon, n, whole, damaged`, the mean `difference` over moments (damaged - whole, both
at the same moments under the same actions and noise) with its 95 % interval, and `p`, of a sign-flip test over
moments, two-sided. `falls` says that it is below zero after Holm's correction for all rows of a world. Results are kept
in `--out`, so a run goes on where it was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, write_json
from train_gallery import acting

from terrella.evaluation.damage import damages
from terrella.evaluation.measurements import CORE
from terrella.evaluation.run import default_context
from terrella.evaluation.stats import bootstrap
from terrella.evaluation.suite import run_suite
from terrella.world import World

WORLDS = ("pendulum", "coinrun", "pong")
SCORES = ("row", "column", "assign")
FLIPS = 10_000


def compared(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every score of every damaged entrant beside that of the whole one."""
    rows = []
    for measurement in ("plans", "edits"):
        entrants = result["measurements"][measurement]["entrants"]
        tables = {who: next(iter(row["streams"].values())) for who, row in entrants.items() if "error" not in row}
        whole = tables.pop(name)
        for who, table in tables.items():
            damage = who.removeprefix(f"{name}, ")
            for h, horizon in enumerate(table["horizons"]):
                case = {"world": name, "damage": damage, "measurement": measurement, "horizon": horizon}
                for score in SCORES:
                    for over in ("all", "masked"):
                        pair = (np.array(t[over]["raw"][score], float)[:, h] for t in (whole, table))
                        rows.append({**case, "score": score, "over": over, **paired(*pair)})
                told = {
                    kind: (whole["avoided"][kind]["mean"][h], part["mean"][h])
                    for kind, part in table["avoided"].items()
                }
                told["response"] = (whole["response"]["mean"][h], table["response"]["mean"][h])
                for kind, (before, after) in told.items():
                    rows.append({**case, "score": kind, "over": "all", "whole": before, "damaged": after})
    return holm(rows)


def paired(whole: np.ndarray, damaged: np.ndarray) -> dict[str, Any]:
    """The difference of two scores at the same moments, `(n,)` each, NaN where there was nothing to choose."""
    known = ~np.isnan(whole) & ~np.isnan(damaged)
    gap = (damaged - whole)[known]
    if len(gap) < 2:
        return {"n": len(gap)}
    mean, low, high = (float(v[0]) for v in bootstrap(gap[:, None]))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, len(gap)))
    p = float((1 + (np.abs((signs * gap).mean(1)) >= abs(mean) - 1e-12).sum()) / (1 + FLIPS))
    kept = {"n": len(gap), "whole": float(whole[known].mean()), "damaged": float(damaged[known].mean())}
    return {**kept, "difference": mean, "interval": [low, high], "p": p}


def holm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of each tested row whether it falls, at 5 % for all of them together (Holm 1979, Scand. J. Stat. 6)."""
    tested = sorted((row for row in rows if "p" in row), key=lambda row: row["p"])
    going = True
    for i, row in enumerate(tested):
        going = going and row["p"] <= 0.05 / (len(tested) - i)
        row["falls"] = going and row["difference"] < 0
    return rows


def main() -> None:
    """Measure what is asked for, and print all of it."""
    parser = arguments(__doc__)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), help="of the gallery, or folders")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = [m for m in CORE if m.name in ("plans", "edits")]
    rows = []
    for path in options.worlds:
        world = World.load(path)
        how: dict[str, Any] = {"env": world.spec.env, "context": default_context(world), "seed": options.seed}
        how |= {"suite": plan, "references": False, "out": options.out / world.name, **acting(world.name)}
        rows += compared(world.name, run_suite(None, list(damages(world)), **how))
    write_json({"rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
