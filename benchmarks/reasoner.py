"""Does thinking longer, wider, or choosing pay? Reasoners trained alike but for random starts and noise on the path.

    python benchmarks/reasoner.py --minutes 25 --json benchmarks/results/reasoner.json

Arms: `feed_forward` (layers of their own instead of one applied again, as many parameters), `plain` (recursion from one
fixed start, no noise), `ri` (random starts), `ni` (noise on the path), `both`. All see the same puzzles for the same
time. Mazes are trained at 49 tokens and tested at 49, 121 and 225; Sudoku of 6 x 6 is trained on minimal puzzles and
tested on more of them, and on some that were made harder.

Rows have `task, arm, seed, params, train_minutes, steps` and, by test: `depth` (share solved whole after so many
iterations, from one start), `auroc` (chance that a solved puzzle rests better than one that is not, by depth;
`auroc_quiet` with the noise switched off), `breadth` (share solved by one start on average, by the residual, the vote,
the cost, and by any start, by the number of starts) and `stopping` (a tolerance chosen on one half of the puzzles so
that no fewer are solved than at full depth: share of iterations and of solved puzzles on the other half).

Trained models, their results and the puzzles are kept in `--out` and not made again, so that it can be run in parts, by
`--tasks`, `--arms` and `--seeds`; `--gather` trains nothing and prints what there is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, write_json
from torch import Tensor

from terrella.evaluation.stats import auroc
from terrella.files import atomic
from terrella.planning.equilibrium import Reasoner, ReasonerConfig
from terrella.planning.segmented import ReasonerTraining, train_reasoner
from terrella.planning.solve import LAST, Cost, choose, count_votes, launch, solve
from terrella.puzzles import Puzzles, mazes, sudokus
from terrella.puzzles.mazes import faults
from terrella.puzzles.mazes import turn as turn_maze
from terrella.puzzles.sudoku import violations
from terrella.puzzles.sudoku_symmetry import augment as turn_sudoku

ARMS = {
    "feed_forward": {"random_start": False, "noise": 0.0, "damping": 0.0, "cycles": 1, "inner": 0},
    "plain": {"random_start": False, "noise": 0.0},
    "ri": {"random_start": True, "noise": 0.0},
    "ni": {"random_start": False},
    "both": {"random_start": True},
}
DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128)
BREADTHS = (1, 2, 4, 8, 16)
HARD, CLIMB = 1.0, 30  # guesses of hard Sudokus, and steps of the climb to them


@dataclass(frozen=True)
class Task:
    """What is trained and tested. layers: of the feed-forward arm."""

    config: ReasonerConfig
    layers: int
    train: Callable[[int], Puzzles]
    tests: dict[str, Callable[[int], Puzzles]]
    augment: Any
    cost: Cost


TASKS = {
    "mazes": Task(
        ReasonerConfig(4, 2),
        6,
        lambda n: mazes(n, 7),
        {
            "49 tokens": lambda n: mazes(n, 7, seed=1, split="test"),
            "121 tokens": lambda n: mazes(max(1, n // 2), 11, seed=1, split="test"),
            "225 tokens": lambda n: mazes(max(1, n // 4), 15, seed=1, split="test"),
        },
        turn_maze,
        faults,
    ),
    "sudoku": Task(
        ReasonerConfig(7, 6, mixer="tokens", tokens=36),
        3,
        lambda n: sudokus(n, 6),
        {
            "minimal": lambda n: sudokus(n, 6, seed=1, split="test"),
            "harder": lambda n: sudokus(max(1, n // 4), 6, seed=1, guesses=HARD, steps=CLIMB, split="test"),
        },
        turn_sudoku,
        violations,
    ),
}


def kept(path: Path, make: Callable[[], Puzzles], augment: Any) -> Puzzles:
    """Make puzzles once, and keep them in a file."""
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            tokens, answers, ratings = (file[k] for k in ("tokens", "answers", "ratings"))
            symbols, classes = (int(file[k]) for k in ("symbols", "classes"))
            return Puzzles(str(file["kind"]), tokens, answers, symbols, classes, augment, ratings)
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("tokens", "answers", "ratings", "symbols", "classes", "kind")
    with atomic(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(getattr(made, name)) for name in names})
    return made


def arm_config(task: Task, arm: str) -> ReasonerConfig:
    """The configuration of an arm; the width of layers of their own makes their parameters as many as the others'."""
    config = replace(task.config, **ARMS[arm])
    if arm != "feed_forward":
        return config

    def size(c: ReasonerConfig) -> int:
        with torch.random.fork_rng(devices=[]):
            return sum(p.numel() for p in Reasoner(c).parameters())

    widths = [replace(config, blocks=task.layers, dim=dim, hidden=3 * dim) for dim in range(8, 65, 2)]
    return min(widths, key=lambda c: abs(size(c) - size(task.config)))


def trained(task: Task, arm: str, seed: int, puzzles: Puzzles, budget: str, path: Path, device: str | None) -> Reasoner:
    """Train one arm, or open it where it was trained before."""
    if (path / "reasoner.safetensors").exists() and not (path / "checkpoint.safetensors").exists():
        return Reasoner.load(path / "reasoner.safetensors", device or "cpu")
    recipe = ReasonerTraining(segments=1) if arm == "feed_forward" else ReasonerTraining()
    config = arm_config(task, arm)
    return train_reasoner(puzzles, path, budget=budget, config=config, training=recipe, seed=seed, device=device)


@torch.no_grad()
def unroll(
    reasoner: Reasoner, problems: Tensor, answers: Tensor, depth: int, noise: float | None = None, rows: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Follow one start of each puzzle: whether it is solved, and its residual, after each iteration, `(D, B)`."""
    right, gaps = [], []
    for some, true in zip(problems.split(rows), answers.flatten(1).split(rows)):
        z, problem, source = launch(reasoner, some)
        solved, residuals = [], []
        for _ in range(depth):
            z, gap = reasoner.think(z, problem, noise=noise, generator=source)
            solved.append((reasoner.read(z)[0].argmax(-1) == true).all(1))
            residuals.append(gap)
        right.append(torch.stack(solved))
        gaps.append(torch.stack(residuals))
    return torch.cat(right, 1).cpu().numpy(), torch.cat(gaps, 1).cpu().numpy()


def resting(gaps: np.ndarray, depth: int) -> np.ndarray:
    """Mean of the last residuals up to a depth, as `solve` has it: `(B,)`."""
    return gaps[max(0, depth - LAST) : depth].mean(0)


def stopping(right: np.ndarray, gaps: np.ndarray) -> dict[str, float]:
    """Stop each puzzle at the first residual below a tolerance, chosen on the even puzzles, and judge the odd ones."""

    def stopped(tol: float, which: slice) -> tuple[float, float]:
        low = gaps[:, which] < tol
        step = np.where(low.any(0), low.argmax(0), len(gaps) - 1)
        return float(np.take_along_axis(right[:, which], step[None], 0).mean()), float((step + 1).mean() / len(gaps))

    even, odd = slice(0, None, 2), slice(1, None, 2)
    full = right[-1, even].mean()
    tols = np.quantile(gaps, np.linspace(0, 1, 65))
    tol = max(t for t in [0.0, *tols] if stopped(t, even)[0] >= full)
    solved, share = stopped(tol, odd)
    return {"tol": float(tol), "share": share, "solved": solved, "solved_full": float(right[-1, odd].mean())}


def wide(reasoner: Reasoner, problems: Tensor, answers: Tensor, cost: Cost, starts: int, iters: int) -> dict[str, Any]:
    """Share solved by several starts, by how one is chosen and how many there are."""
    found = solve(reasoner, problems, iters=iters, starts=starts, select="cost", cost=cost, rows=256)
    right = (found.candidates == answers[:, None]).flatten(2).all(2)
    out: dict[str, Any] = {"mean": float(right.float().mean())}
    for s in (s for s in BREADTHS if s <= starts):
        parts = found.residuals[:, :s], count_votes(found.candidates[:, :s]), found.costs[:, :s]
        by = {select: choose(select, *parts) for select in ("residual", "vote", "cost")}
        shares = {k: float(right.gather(1, v[:, None]).float().mean()) for k, v in by.items()}
        out[str(s)] = {**shares, "any": float(right[:, :s].any(1).float().mean())}
    return out


def judged(reasoner: Reasoner, puzzles: Puzzles, cost: Cost, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one reasoner on one test."""
    device = next(reasoner.parameters()).device
    problems, answers = (torch.from_numpy(a.astype(np.int64)).to(device) for a in (puzzles.tokens, puzzles.answers))
    c = reasoner.config
    deepest = 1 if c.inner == 0 else options.depth
    right, gaps = unroll(reasoner, problems, answers, deepest)
    depths = [d for d in DEPTHS if d <= deepest]
    out: dict[str, Any] = {
        "tokens": int(puzzles.tokens[0].size),
        "count": len(puzzles),
        "depth": {str(d): float(right[d - 1].mean()) for d in depths},
        "rating": {"all": float(puzzles.ratings.mean())},
    }
    if deepest > 1:
        out["auroc"] = {str(d): known(auroc(-resting(gaps, d), right[d - 1])) for d in depths}
        out["stopping"] = stopping(right, gaps)
        if c.noise:
            quiet, still = unroll(reasoner, problems, answers, deepest, noise=0.0)
            out["depth_quiet"] = {str(d): float(quiet[d - 1].mean()) for d in depths}
            out["auroc_quiet"] = {str(d): known(auroc(-resting(still, d), quiet[d - 1])) for d in depths}
        if c.noise or c.random_start:
            how = cost, options.starts
            out["breadth"] = {str(d): wide(reasoner, problems, answers, *how, d) for d in options.wide_at}
    return out


def known(value: float) -> float | None:
    """A number, or None where all puzzles or none are solved."""
    return None if np.isnan(value) else float(value)


def row(
    name: str, arm: str, seed: int, puzzles: Callable[[], Puzzles], tests: Any, options: Any
) -> dict[str, Any] | None:
    """Train and judge one arm, as far as that has not been done."""
    budget = f"{options.steps}steps" if options.steps else f"{options.minutes * 60:g}s"
    path = options.out / f"{name}-{arm}-{seed}-{options.puzzles}-{budget}"
    how = [options.tests, options.depth, options.starts, *options.wide_at]
    result = path / f"result-{'-'.join(map(str, how))}.json"
    if result.exists():
        return json.loads(result.read_text())
    if options.gather:
        return None
    task = TASKS[name]
    reasoner = trained(task, arm, seed, puzzles(), budget, path, options.device)
    found = {
        "task": name,
        "arm": arm,
        "seed": seed,
        "params": sum(p.numel() for p in reasoner.parameters()),
        "train_minutes": round(reasoner.record["seconds"] / 60, 2),
        "steps": reasoner.record["steps"],
        "tests": {test: judged(reasoner, make(), task.cost, options) for test, make in tests.items()},
    }
    with atomic(result) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    """Train and judge what is asked for, and print all of it."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=25.0, help="training of each reasoner")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps instead")
    parser.add_argument("--puzzles", type=int, default=2000, help="to train on, before they are turned and renamed")
    parser.add_argument("--tests", type=int, default=256, help="puzzles of a test; fewer of the larger and harder ones")
    parser.add_argument("--depth", type=int, default=128, help="iterations at most")
    parser.add_argument("--starts", type=int, default=16, help="starts at most")
    parser.add_argument("--wide-at", nargs="+", type=int, default=[16], help="iterations of several starts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/reasoner"))
    parser.add_argument("--gather", action="store_true", help="train nothing, print what there is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.tasks:
        task = TASKS[name]

        def puzzles(name: str = name, task: Task = task) -> Puzzles:
            path = options.out / f"{name}-train-{options.puzzles}.npz"
            return kept(path, lambda: task.train(options.puzzles), task.augment)

        tests = {}
        for test, make in task.tests.items():
            path = options.out / f"{name}-{test.replace(' ', '-')}-{options.tests}.npz"
            tests[test] = lambda path=path, make=make, task=task: kept(path, lambda: make(options.tests), task.augment)
        for seed in options.seeds:
            for arm in options.arms:
                found = row(name, arm, seed, puzzles, tests, options)
                rows += [found] if found else []
    write_json({"rows": rows, "depth": options.depth, "starts": options.starts}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
