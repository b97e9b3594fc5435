"""Atomic dimensions of several worlds, beside controls, gathered into one file.

    python benchmarks/dimensions.py --worlds runs/gallery/pucks sprites blocks --json benchmarks/results/dimensions.json

Rows have `world, env, dimension, entrant, kind, read` (from what), `how`, `items, accuracy, interval, chance, kappa`
and `entanglement` by factor; `missing` says of each world which dimensions were not asked and why. Results are kept in
`--out`, so a run goes on where it was stopped; `--gather` measures nothing that is not there. `--only` and `--layouts`
ask fewer dimensions, or ask them of fewer scenes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from common import arguments, write_json

from terrella.evaluation.dimension_page import readings, reasons
from terrella.evaluation.dimensions import DIMENSIONS, find_dimension
from terrella.evaluation.questions import Question, whole
from terrella.evaluation.suite import run_suite
from terrella.world import World


def gathered(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Flat rows of one result of `run_suite`."""
    kinds = {entrant["name"]: entrant["kind"] for entrant in result["entrants"]}
    rows = []
    for name, part in result["dimensions"].items():
        for (who, read, how), found in readings(part).items():
            case = {"world": result["world"], "env": result["env"]["id"], "dimension": name, "entrant": who}
            case |= {"kind": kinds.get(who, "control"), "read": read, "how": how}
            rows.append({**case, **{key: value for key, value in found.items() if key != "raw"}})
    return rows


def main(args: list[str] | None = None) -> None:
    """Measure what is asked for, and print all of it."""
    parser = arguments(__doc__)
    parser.add_argument("--worlds", nargs="+", default=World.list_gallery(), help="of the gallery, or folders")
    parser.add_argument("--entrant", nargs="*", default=[], help="http://host:port or module:factory, beside each")
    parser.add_argument("--only", nargs="+", default=list(DIMENSIONS), help="ids of dimensions")
    parser.add_argument("--layouts", type=int, help="layouts of each dimension (default: as the suite has)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/dimensions"))
    parser.add_argument("--gather", action="store_true", help="measure nothing, print what there is")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    plan = [whole(find_dimension(name)) for name in options.only]
    if options.layouts is not None:
        plan = [Question(question.name, options.layouts) for question in plan]
    rows, missing, measured = [], {}, []
    for path in options.worlds:
        out = options.out / Path(path).name
        if options.gather:
            if not (out / "suite.json").exists():
                continue
            result = json.loads((out / "suite.json").read_text())
        else:
            how: dict[str, Any] = {"suite": plan, "seed": options.seed, "device": options.device, "out": out}
            result = run_suite(World.load(path), options.entrant, **how)
        rows += gathered(result)
        missing[result["world"]] = reasons(result["dimensions"])
        measured.append({key: result[key] for key in ("world", "settings", "commit", "hardware", "entrants")})
    write_json({"measured": measured, "missing": missing, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
