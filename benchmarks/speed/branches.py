"""Measure what a fork of many branches and one step of each cost, against as many copies of the session.

    python benchmarks/speed/branches.py --json branches.json

The `tiny` preset on 64x64 images with a window of 32 frames and random weights. Branches share their past, and those
that take equal actions are computed once; copies share nothing. Two cases: every branch draws one of 15 actions (as a
planner's candidates do), and every branch acts differently (a continuous action; what is left is the sharing of the
past). Fork and copies are timed in turns. `rows` has one line a case and number of branches:

| key | meaning |
|---|---|
| `time_ratio`, `quartiles` | fork and one step of each / copies and one step of each |
| `bytes_ratio` | bytes of the state after that step, branches / copies |
| `ms_fork`, `ms_copies` | raw values, forking or copying and the step |
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, ratio, write_json
from rollout import ACTIONS, SPEC, WINDOW, begin, make_engine

from terrella.actions import width
from terrella.engine import Engine, State
from terrella.laws import shaken
from terrella.spec import ActionSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

COUNTS = (1, 4, 16, 64, 256, 1024)


class Futures:
    """One step of each of many futures of one session, forked or copied."""

    def __init__(self, engine: Engine, root: State, rows: np.ndarray, forked: bool):
        self.engine, self.root, self.rows, self.forked = engine, root, rows, forked
        self.nbytes = 0

    def begin(self) -> State:
        """Make the branches, or the copies."""
        return self.root.fork(len(self.rows)) if self.forked else self.root.select([0] * len(self.rows))

    def __call__(self) -> None:
        """Make them and take one step of each."""
        state, _ = self.engine.step(self.begin(), self.rows)
        self.nbytes = state.nbytes


def continuous(steps: int) -> Engine:
    """The same world with two continuous actions."""
    spec = WorldSpec(SPEC.streams, ActionSpec("box", shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0)))
    config = world_config("tiny", spec)
    config.dynamics.config["window"] = WINDOW
    torch.manual_seed(0)
    return Engine(shaken(World(spec, config, "tiny")), steps=steps)


def main() -> None:
    """Compare."""
    parser = arguments(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps a frame (default 2)")
    parser.add_argument("--rounds", type=int, default=10, help="timings of each kind (default 10)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    for case, engine in {"15 actions": make_engine(options.steps), "all different": continuous(options.steps)}.items():
        one = begin(engine, 1, rng)
        for _ in range(2 * WINDOW):
            one, _ = engine.step(one, np.zeros((1, width(engine.world.spec.action))))
        apart = State.merge([one])  # what was forked shares its past ever after: copies are made from another
        for count in options.counts:
            wide = rng.integers(0, ACTIONS, (count, 1)) if case == "15 actions" else rng.uniform(-1, 1, (count, 2))
            forked, copied = Futures(engine, one, wide, True), Futures(engine, apart, wide, False)
            fork_times, copy_times = in_turns(options.rounds, forked, copied)
            share, quartiles = ratio(fork_times, copy_times)
            rows.append(
                {
                    "case": case,
                    "branches": count,
                    "time_ratio": share,
                    "quartiles": quartiles,
                    "bytes_ratio": round(forked.nbytes / copied.nbytes, 4),
                    "ms_fork": [round(t, 3) for t in fork_times],
                    "ms_copies": [round(t, 3) for t in copy_times],
                }
            )
            print({k: v for k, v in rows[-1].items() if not k.startswith("ms")}, file=sys.stderr, flush=True)
    write_json({"benchmark": "branches", "steps": options.steps, "rows": rows}, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
