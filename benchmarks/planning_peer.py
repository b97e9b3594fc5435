"""Plan with stable-worldmodel's solvers and with ours, in the same world: plans a second, and success.

    python benchmarks/planning_peer.py --task pendulum --train 3m --json planning-peer.json

stable-worldmodel (Maes et al., 2026, arXiv 2605.21800; PyPI `stable-worldmodel`, MIT) plans with any model that offers
`get_cost(info, candidates)`. The adapter `Costs` offers it for a Terrella world as a user of that package would write
it, at its best: sessions are kept beside the solver, which is told their numbers in `info`; candidates are their forks,
so that nothing is encoded again, and frames that no objective looks at are not decoded. The solver decides what it asks
about at once: it goes through its problems `batch_size` at a time, one by default. Both are measured, the default and
all problems in one batch. Both sides get equal candidates, iterations, elites, horizons, spreads and warm starts.

Set-up, in an environment of its own (its dependencies include other versions of torch; only its solvers are used here):

    pip install -e . && pip install --no-deps stable-worldmodel && pip install loguru tqdm einops

`speed`: plans a second (B problems are B plans) by way, timed in turns in one run, and the ratio ours / theirs of pairs
with its quartiles. `rows`: success and return in the true environment, a seed and planner each, from the same starts.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from common import arguments, in_turns, ratio, write_json
from planning import Bench
from planning import parser as planning_parser

from terrella.engine import Engine
from terrella.planning import Controller, Future, Objective, Plan, Space, make_planner, play
from terrella.trials import figures

WAYS = ("cem", "icem")


def solvers() -> ModuleType:
    """Import the solvers of stable-worldmodel alone: its datasets and renderers need much that planning does not.

    Raises `ModuleNotFoundError` where the package is not installed.
    """
    name = "stable_worldmodel"
    if name not in sys.modules:
        found = importlib.util.find_spec(name)
        if found is None or found.submodule_search_locations is None:
            raise ModuleNotFoundError("pip install --no-deps stable-worldmodel; see the head of this file.")
        package = ModuleType(name)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[name] = package
    return importlib.import_module(f"{name}.solver")


class Costs:
    """A world as stable-worldmodel's solvers want one. Actions are in halves of their ranges, around their middles.

    state: the sessions to plan for.
    """

    def __init__(self, engine: Engine, objective: Objective):
        self.engine, self.objective, self.space = engine, objective, Space(engine.spec.action)
        self.state: Any = None

    def rows(self, candidates: torch.Tensor) -> np.ndarray:
        """Native rows `(..., W)` within bounds."""
        return self.space.clip(self.space.middle + self.space.half * candidates.double().numpy())

    @torch.inference_mode()
    def get_cost(self, info: dict[str, Any], candidates: torch.Tensor) -> torch.Tensor:
        """What candidates `(b, S, H, W)` cost, `(b, S)`; info: `session` `(b, S, 1)`, those asked about."""
        batch, count, horizon, width = candidates.shape
        asked = info["session"][:, 0, 0].tolist()
        part = self.state if asked == list(range(self.state.batch)) else self.state.select(asked)
        rows = self.rows(candidates).reshape(batch * count, horizon, width)
        _, frame = self.engine.rollout(part.fork(count), rows, observe=self.objective.observe)
        problem = np.repeat(np.arange(batch), count)
        future = Future(rows, frame.reward, frame.terminated, frame.observation, problem)
        return torch.from_numpy(self.objective.cost(future)).float().view(batch, count)


class Peer:
    """A controller as `terrella.planning.Controller`, whose plans are stable-worldmodel's; one action of each is taken.

    What is left of a plan starts the next one, as its own policy does it.
    """

    plan: Plan | None = None

    def __init__(self, way: str, costs: Costs, horizon: int, sizes: dict[str, Any], batch_size: int, seed: int):
        made = solvers()
        how = {"num_samples": sizes["candidates"], "n_steps": sizes["iterations"], "topk": sizes["elites"]}
        how |= {"var_scale": sizes["spread"], "batch_size": batch_size, "seed": seed}
        kept = {"n_elite_keep": sizes["kept"], "noise_beta": 2.0, "alpha": 0.1} if way == "icem" else {}
        self.solver = (made.ICEMSolver if way == "icem" else made.CEMSolver)(costs, **how, **kept)
        self.costs, self.horizon, self.batch_size = costs, horizon, batch_size
        self.state: Any = None

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        first = {name: frames[:, None] for name, frames in observations.items()}
        self.restart(self.costs.engine.start(first, None, list(seeds)))

    def restart(self, state: Any) -> None:
        """Plan for the sessions of a state from now on."""
        self.state, self.rest, batch, width = state, None, state.batch, self.costs.space.width
        bounds = np.ones((batch, width), np.float32)
        config = SimpleNamespace(horizon=self.horizon, receding_horizon=1, action_block=1)
        self.solver.configure(action_space=gym.spaces.Box(-bounds, bounds), n_envs=batch, config=config)

    def solve(self) -> torch.Tensor:
        """Plans in halves of ranges, `(B, H, W)`."""
        self.costs.state = self.state
        info = {"session": torch.arange(self.state.batch)[:, None]}
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the time of each call
            return self.solver.solve(info, init_action=self.rest)["actions"]

    def act(self) -> np.ndarray:
        actions = self.solve()
        self.rest, self.taken = actions[:, 1:], self.costs.rows(actions[:, 0])
        return self.taken

    def see(self, observations: dict[str, np.ndarray]) -> None:
        self.state = self.costs.engine.observe(self.state, self.taken, observations)


def ours(way: str, horizon: int, sizes: dict[str, Any]) -> Any:
    """The planner of the same sizes."""
    settings = {"candidates": sizes["candidates"], "iterations": sizes["iterations"], "spread": sizes["spread"]}
    settings |= {"elites": sizes["elites"] / sizes["candidates"], "max_rows": sizes["max_rows"]}
    if way == "icem":
        settings["keep"] = sizes["kept"] / sizes["elites"]
    return make_planner(way, horizon=horizon, **settings)


def speed(bench: Bench, sizes: dict[str, Any], problems: int, rounds: int) -> list[dict[str, Any]]:
    """Plans a second by way, ours beside theirs in turns."""
    task, engine = bench.task, bench.engine
    objective = task.objective({}, task.discount)
    frames = engine.world.starts
    assert frames is not None  # every trained world has some
    chosen = np.arange(problems) % len(next(iter(frames.observations.values())))
    past = {name: seen[chosen] for name, seen in frames.observations.items()}
    state = engine.start(past, frames.actions[chosen], seeds=0)
    rows = []
    for way in WAYS:
        planner, costs = ours(way, task.horizon, sizes), Costs(engine, objective)
        peers = [Peer(way, costs, task.horizon, sizes, size, 0) for size in dict.fromkeys((1, problems))]
        for peer in peers:
            peer.restart(state)
        times = in_turns(rounds, lambda p=planner: p.plan(engine, state, objective), *(p.solve for p in peers))
        for peer, theirs in zip(peers, times[1:]):
            gain, quartiles = ratio(theirs, times[0])
            row: dict[str, Any] = {"planner": way, "problems": problems, "batch_size": peer.batch_size}
            row |= {"ours_per_s": 1e3 * problems / float(np.median(times[0]))}
            row |= {"theirs_per_s": 1e3 * problems / float(np.median(theirs))}
            rows.append({**row, "gain": gain, "quartiles": quartiles, "ours_ms": times[0], "theirs_ms": theirs})
    return rows


def success(bench: Bench, sizes: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """What each planner earns in the true environment, planning anew after each action."""
    task, engine, rows = bench.task, bench.engine, []
    objective = task.objective({}, task.discount)
    for way in WAYS:
        peer = Peer(way, Costs(engine, objective), task.horizon, sizes, len(bench.envs), seed)
        own: Any = Controller(engine, objective, ours(way, task.horizon, sizes), seed=seed)
        for who, actor in (("ours", own), ("theirs", peer)):
            played = play(task, bench.spec, bench.envs, bench.starts, actor)
            rows.append({"seed": seed, "planner": way, "who": who, **figures(task, played)})
            print({k: rows[-1][k] for k in ("seed", "planner", "who", "success", "return")}, file=sys.stderr)
    return rows


def main(args: list[str] | None = None) -> None:
    """Compare."""
    parser = arguments(__doc__, rounds=12)
    parser.add_argument("--task", default="pendulum", help="a task of numbers whose goal is no view (default pendulum)")
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--elites", type=int, default=8)
    parser.add_argument("--spread", type=float, default=0.5, help="first deviation, in halves of ranges (default 0.5)")
    parser.add_argument("--problems", type=int, nargs="+", default=[1, 16], help="planned for at once when timed")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", default="3m")
    parser.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    parser.add_argument("--limit", type=int, help="longest episode (default: the task's)")
    parser.add_argument("--out", type=Path, default=Path("runs/planning"), help="worlds are shared with planning.py")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    solvers()
    shared = ["--tasks", options.task, "--train", options.train, "--episodes", str(options.episodes)]
    shared += ["--record", str(options.record)] if options.record else []
    shared += ["--limit", str(options.limit)] if options.limit else []
    made = planning_parser().parse_args([*shared, "--out", str(options.out)])
    sizes = {k: getattr(options, k) for k in ("candidates", "iterations", "elites", "spread")}
    sizes |= {"kept": max(1, round(0.3 * options.elites)), "max_rows": 4096}
    timed, rows = [], []
    for seed in options.seeds:
        bench = Bench(options.task, seed, made)
        if seed == options.seeds[0]:
            timed = [row for n in options.problems for row in speed(bench, sizes, n, options.rounds)]
            for row in timed:
                print({k: v for k, v in row.items() if not k.endswith("_ms")}, file=sys.stderr)
        rows += success(bench, sizes, seed)
        bench.close()
    result = {"benchmark": "planning_peer", "task": options.task, "sizes": sizes, "threads": options.threads}
    write_json({**result, "speed": timed, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
