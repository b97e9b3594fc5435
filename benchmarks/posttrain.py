"""Measure what post-training on decoded rollouts does: to their error, and to everything else.

    python benchmarks/posttrain.py --tasks pendulum --decoders shortcut regression --seeds 0 --json posttrain.json

A world is trained as always, then in two ways for equal time: on with its own loss at the same rate (`control`, an
anchor alone), and on the decoded error of its rollouts (`posttrain`: by gradient, or for `masked` by policy gradient).
Rows have `task`, `decoder`, `seed`, `arm`, `method`, `steps`, and `before` and `after` as
`terrella.training.rollouts.measure` has them: one-step loss, error by horizon, outcomes, action ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import holds_world, task_data, write_json

import terrella
from terrella.planning import TASKS
from terrella.training import posttrain
from terrella.world import World

ARMS: dict[str, dict[str, Any]] = {"posttrain": {}, "control": {"frames": 0.0, "anchor": 1.0}}


def main() -> None:
    """Train what is missing, post-train, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["pendulum"])
    parser.add_argument("--decoders", nargs="+", default=["shortcut", "regression"], help="masked needs pictures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train", default="3m", help="training of each world (default 3m)")
    parser.add_argument("--budget", default="2m", help="of each arm (default 2m)")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--horizon", type=int, default=6, help="frames of a rollout in training (default 6)")
    parser.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    parser.add_argument("--out", type=Path, default=Path("runs/planning"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    for name in options.tasks:
        task = TASKS[name]
        data = task_data(name, task, options.out, options.record)
        for decoder in options.decoders:
            for seed in options.seeds:
                path = options.out / f"{name}-{seed}-{options.train}-{options.preset}-{decoder}"
                if holds_world(path):
                    world = World.load(path)
                else:
                    how = {"budget": options.train, "preset": options.preset, "seed": seed, "device": "cpu"}
                    world = terrella.train(data, path, decoder=decoder, **how)
                for arm, settings in ARMS.items():
                    new = posttrain(world, data, budget=options.budget, seed=seed, horizon=options.horizon, **settings)
                    about = new.record["posttraining"]
                    figures = {key: about[key] for key in ("method", "posttrain_steps", "before", "after")}
                    rows.append({"task": name, "decoder": decoder, "seed": seed, "arm": arm, **figures})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "out", "seeds")}
    write_json({"benchmark": "posttrain", "settings": settings, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
