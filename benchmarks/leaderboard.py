"""The suite over all worlds of the gallery, beside references, gathered into one file.

    python benchmarks/leaderboard.py --json benchmarks/results/leaderboard.json

Rows have `world, entrant, kind, measurement, stream, horizon, n` (moments with a choice), `left` (branches), `chance`,
and `row, column, assign`, plain and as kappa, each with its 95 % interval, `margin` and `response`. `nothing` has the
motion while nothing is done, `drift` the errors, `subjects` what has a class of its own: shares of planning, rankings
of policies, situations. Results are kept in `--out`, so a run goes on where it was stopped; `--gather` measures nothing
that is not there. Worlds and entrants of one's own: `--worlds`, `--entrant`. `--jobs` shares the work among so many
processes, or with `--cluster` among so many tasks of Ray.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from common import arguments, write_json
from train_gallery import acting

from terrella.cluster import RayJobs
from terrella.evaluation.suite import run_suite
from terrella.registry import names
from terrella.world import World


def gathered(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Flat rows of one result of `run_suite`."""
    kinds = {entrant["name"]: entrant["kind"] for entrant in result["entrants"]}
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "nothing": [], "drift": [], "subjects": []}
    for name, measured in result["measurements"].items():
        what = measured["measurement"]["what"]
        for who, row in measured["entrants"].items():
            case = {"world": result["world"], "env": result["env"]["id"], "measurement": name, "entrant": who}
            case["kind"] = kinds.get(who, "reference")
            if "error" in row:
                found["rows"].append({**case, "error": row["error"]})
                continue
            if what in names("subject"):
                found["subjects"].append({**case, **row})
                continue
            for stream, table in row["streams"].items():
                if what == "null":
                    found["nothing"].append({**case, "stream": stream, "groups": row["groups"], **table})
                elif what == "drift":
                    keys = ("mse", "copy_last", "floor", "ceiling", "skill", "n")
                    kept = {key: table[key] for key in keys}
                    found["drift"].append({**case, "stream": stream, "horizons": row["horizons"], **kept})
                else:
                    found["rows"] += [{**case, "stream": stream, **cell} for cell in cells(table)]
    return found


def cells(table: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a horizon of a fork table."""
    part = table["all"]
    rows = []
    for h, horizon in enumerate(table["horizons"]):
        cell: dict[str, Any] = {"horizon": horizon, "n": sum(left[h] > 1 for left in part["raw"]["left"])}
        cell |= {"left": part["left"][h], "chance": part["chance"][h]}
        for key in ("row", "column", "assign", "row_kappa", "column_kappa", "assign_kappa"):
            cell |= {key: part[key]["mean"][h], f"{key}_interval": part[key]["interval"][h]}
        cell |= {"margin": part["margin"]["mean"][h]}
        if "response" in table:
            cell |= {"response": table["response"]["mean"][h], "response_interval": table["response"]["interval"][h]}
        rows.append(cell)
    return rows


def main() -> None:
    """Measure what is asked for, and print all of it."""
    parser = arguments(__doc__)
    parser.add_argument("--worlds", nargs="+", default=World.list_gallery(), help="of the gallery, or folders")
    parser.add_argument("--entrant", nargs="*", default=[], help="http://host:port or module:factory, beside each")
    parser.add_argument("--suite", default="core", choices=("core", "full"))
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work and the threads")
    parser.add_argument("--cluster", help="Ray cluster whose tasks do so instead: an address, or local")
    parser.add_argument("--out", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--gather", action="store_true", help="measure nothing, print what there is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole: dict[str, list[dict[str, Any]]] = {"rows": [], "nothing": [], "drift": [], "subjects": []}
    measured = []
    for path in options.worlds:
        out = options.out / options.suite / Path(path).name
        if options.gather:
            if not (out / "suite.json").exists():
                continue
            result = json.loads((out / "suite.json").read_text())
        else:
            how: dict[str, Any] = {"suite": options.suite, "seed": options.seed, "device": options.device, "out": out}
            jobs = options.jobs if options.cluster is None else RayJobs(options.cluster, options.jobs)
            result = run_suite(path, options.entrant, jobs=jobs, **how, **acting(World.load(path).name))
        for key, rows in gathered(result).items():
            whole[key] += rows
        measured.append({key: result[key] for key in ("world", "settings", "commit", "hardware", "entrants")})
    write_json({"suite": options.suite, "measured": measured, **whole}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
