"""Measure what heads know, and what planners gain by them.

    python benchmarks/heads.py --tasks pendulum cartpole --seeds 0 --json heads.json

A world is trained on random play, four heads are fitted on the same recordings, and what follows is measured on
held-out episodes, or in the true environment from seeds never recorded. Worlds and recordings are kept in `--out`,
which `benchmarks/planning.py` shares. Rows have `task`, `seed` and `what`:

| what | keys |
|---|---|
| `control` | `arm`, `horizon`, `model_steps` a decision, and figures as of `benchmarks/planning.py`: a short horizon |
| | alone (`short`), with the value of what comes after it (`value`), begun from proposals of the policy (`guided`), |
| | both (`guided+value`); the task's own horizon (`long`); all with as many model evaluations |
| `verify` | `arm`: the rule by which one of four plans is taken (`cost`, `mean`, `inverse`, `energy`, `disagreement`) |
| `energy` | `auroc` of true windows against false ones, by what is false about them |
| `choice` | error of futures of `--depth` frames under the true actions, in squared deviations: of one at random |
| | (`random`), the least energy (`energy`), the medoid (`consensus`), the best of all (`oracle`); `gain`: share |
| | of the way from random to oracle, with its bootstrap 95 % interval; `rank`: mean rank correlation |
| `inverse` | `real`, `dreamed`: how well actions are told from frames: share right for choices, 1 - squared error |
| | over variance for numbers |
| `value` | `explained`: 1 - squared error over variance of returns; `held_out`: losses of all heads |
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import holds_world, task_data, write_json

import terrella
from terrella.arenas import describe
from terrella.data import Dataset
from terrella.engine import Engine, Trail
from terrella.evaluation.stats import auroc, bootstrap
from terrella.heads.recordings import SEEN, Recordings, dreamed
from terrella.planning import TASKS, Controller, Energy, Future, Return, Task, Value, begin, make_planner, play
from terrella.trials import figures
from terrella.world import World

KINDS = ("value", "policy", "inverse", "energy")
RECALL = 4
RULES = ("cost", "mean", "inverse", "energy", "disagreement")


def prepared(name: str, task: Task, seed: int, options: argparse.Namespace) -> tuple[World, Dataset]:
    """The world of a task with its heads; what is missing is trained and fitted."""
    data = task_data(name, task, options.out, options.record)
    path = options.out / f"{name}-{seed}-{options.train}-{options.preset}-heads-{options.fit}"
    if holds_world(path):
        world = World.load(path)
    else:
        world = terrella.train(data, path, budget=options.train, preset=options.preset, seed=seed, device="cpu")
    for kind in KINDS:
        if kind not in world.heads:
            terrella.heads.fit(world, data, kind, budget=options.fit, seed=seed, out=path)
    return world, data


def control(name: str, task: Task, seed: int, world: World, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of control in the true environment."""
    engine = Engine(world, recall=RECALL)
    envs = [task.make() for _ in range(options.episodes)]
    spec, rows = describe(envs[0]), []
    starts = [begin(task, env, 100_003 * seed + b) for b, env in enumerate(envs)]
    budget, short = options.rollouts * options.horizon * engine.steps, options.horizon
    value = Return(task.discount) + Value(world.head("value"), task.discount)
    alone, sample = Return(task.discount), {"candidates": max(4, options.rollouts // 3), **task.settings}
    guided = {"inner": "icem", "settings": sample, "proposals": max(1, options.rollouts // 8)}
    arms: list[tuple[str, str, str, int, Any, dict[str, Any]]] = [
        ("control", "short", "icem", short, alone, sample),
        ("control", "value", "icem", short, value, sample),
        ("control", "guided", "guided", short, alone, guided),
        ("control", "guided+value", "guided", short, value, guided),
        ("control", "long", "icem", min(task.horizon, task.limit), alone, sample),
    ]
    inner = {"candidates": max(2, options.rollouts // 8), **task.settings}
    for rule in RULES:
        arms.append(("verify", rule, "verified", short, value, {"rule": rule, "keys": 1, "settings": inner}))
    for what, arm, planner, horizon, objective, settings in arms:
        if what not in options.what:
            continue
        made = make_planner(planner, horizon=horizon, **settings)
        actor = Controller(engine, objective, made, budget_steps=budget, execute=options.execute, seed=seed)
        episodes = play(task, spec, envs, starts, actor)
        about = {"task": name, "seed": seed, "what": what, "arm": arm, "horizon": horizon, "model_steps": budget}
        found = {k: v for k, v in figures(task, episodes, horizon).items() if k not in ("imagined", "realised")}
        rows.append({**about, **found})
        print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("returns", "lengths")}), file=sys.stderr)
    for env in envs:
        env.close()
    return rows


@torch.no_grad()
def knowledge(world: World, held: Recordings, seed: int) -> list[dict[str, Any]]:
    """Rows of what heads know of held-out recordings."""
    energy, inverse, value = (world.head(kind) for kind in ("energy", "inverse", "value"))
    at = held.draw(2000, torch.Generator().manual_seed(seed))
    true = held.windows(at + 1, energy.config.frames)
    wrong = energy.negatives(held, at + 1, true, torch.Generator().manual_seed(seed))
    right = energy(true).numpy()
    scores = {}
    for kind, window in wrong.items():
        differ = (window.z != true.z).flatten(1).any(1) | (window.rows[:, -1] != true.rows[:, -1]).any(1)
        given = np.concatenate([right, energy(window).numpy()[differ.numpy()]])  # another clip may take the same action
        scores[kind] = auroc(-given, np.arange(len(given)) < len(right))
    told = {"real": _told(inverse, held.windows(at + 1, inverse.config.frames))}
    if held.dreams is not None:
        told["dreamed"] = _told(inverse, held.dreams.windows(inverse.config.frames, held.dreams.frames - SEEN))
    paid, clips = _returns(held, value.config.discount), held.clips
    whole = at[clips.end[held.last[at]] > 0] if bool(clips.end.any()) else at[held.last[at] - at > 100]
    said = value(held.windows(whole, value.config.frames)).numpy()
    explained = 1 - np.square(said - paid[whole]).mean() / paid[whole].var() if len(whole) > 1 else None
    losses = {kind: world.head(kind).record[f"{kind}_held_out"] for kind in KINDS}
    return [
        {"what": "energy", "auroc": scores},
        {"what": "inverse", **told},
        {"what": "value", "explained": None if explained is None else float(explained), "held_out": losses},
    ]


def _told(inverse: Any, window: Trail) -> dict[str, float]:
    rows, found, law = window.rows[:, -1].numpy(), inverse.law.mode(inverse(window)).numpy(), inverse.law
    told = {}
    if len(law.picks):
        told["choices"] = float((rows[:, law.picks] == found[:, law.picks]).mean())
    if len(law.numbers):
        gap = rows[:, law.numbers] - found[:, law.numbers]
        told["numbers"] = float(1 - np.square(gap).mean() / rows[:, law.numbers].var())
    return told


def _returns(held: Recordings, discount: float) -> np.ndarray:
    paid, reward, last = np.zeros(len(held.last)), held.clips.reward.numpy(), held.last.numpy()
    for i in range(len(paid) - 1, -1, -1):
        paid[i] = 0.0 if i == last[i] else reward[i + 1] + discount * paid[i + 1]
    return paid


def choice(world: World, data: Dataset, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Does the least energy among futures under one plan point to the one that comes true?"""
    engine, rng = Engine(world, recall=RECALL), np.random.default_rng(seed)
    clips = data.sample(options.pasts, SEEN + options.depth - 1, rng, "held_out")
    seen = {name: clips.observations[name][:, :SEEN] for name in world.spec.modelled}
    state = engine.start(seen, clips.actions[:, : SEEN - 1], seeds=1000 * seed).fork(options.futures)
    state = state.reseed(range(len(clips.actions) * options.futures))
    rows = clips.actions[:, SEEN - 1 :].repeat(options.futures, 0).astype(np.float64)
    past = engine.recent(state)
    _, frame = engine.rollout(state, rows)
    ends = np.zeros_like(frame.terminated)
    future = Future(rows, frame.reward, ends, {}, np.arange(len(rows)), past.then(frame.latent, rows))
    energy = Energy(world.head("energy")).cost(future).reshape(-1, options.futures)
    error = np.zeros(len(rows))
    for name, stream in world.spec.modelled.items():
        true = clips.observations[name][:, SEEN:].repeat(options.futures, 0).astype(np.float64)
        unit = 255.0 if stream.kind == "image" else true.std((0, 1)) + 1e-6
        error += np.square((frame.observation[name] - true) / unit).reshape(len(rows), -1).mean(1)
    error = error.reshape(-1, options.futures)
    assert frame.latent is not None  # the engine recalls
    shown = frame.latent.reshape(len(error), options.futures, -1)
    middle = np.square(shown[:, :, None] - shown[:, None]).mean(-1).sum(2).argmin(1)
    b = np.arange(len(error))
    at_random, chosen, best = error.mean(1), error[b, energy.argmin(1)], error.min(1)
    gain, low, high = bootstrap((at_random - chosen)[:, None], (at_random - best)[:, None])
    return {
        "what": "choice",
        "futures": options.futures,
        "depth": options.depth,
        "random": float(at_random.mean()),
        "energy": float(chosen.mean()),
        "consensus": float(error[b, middle].mean()),
        "oracle": float(best.mean()),
        "gain": float(gain[0]),
        "gain_interval": [float(low[0]), float(high[0])],
        "rank": float(np.mean([np.corrcoef(rank(e), rank(x))[0, 1] for e, x in zip(energy, error)])),
    }


def rank(values: np.ndarray) -> np.ndarray:
    """The place of each value among all, `(n,)`."""
    return values.argsort().argsort()


def main() -> None:
    """Train and fit what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["pendulum", "cartpole"])
    parser.add_argument(
        "--what", nargs="+", default=["control", "verify", "know"], choices=["control", "verify", "know"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train", default="3m", help="training of each world (default 3m)")
    parser.add_argument("--fit", default="30s", help="fitting of each head (default 30s)")
    parser.add_argument("--preset", default="tiny", help="size of each world (default tiny)")
    parser.add_argument("--record", type=int, help="transitions to record (default: the task's)")
    parser.add_argument("--limit", type=int, help="longest episode (default: the task's)")
    parser.add_argument("--episodes", type=int, default=8, help="of each row of control (default 8)")
    parser.add_argument("--horizon", type=int, default=4, help="the short one (default 4)")
    parser.add_argument("--rollouts", type=int, default=32, help="budget of a decision, in short plans (default 32)")
    parser.add_argument("--execute", type=int, default=1, help="actions taken of each plan (default 1)")
    parser.add_argument("--pasts", type=int, default=64, help="of which futures are chosen (default 64)")
    parser.add_argument("--futures", type=int, default=8, help="to choose among (default 8)")
    parser.add_argument("--depth", type=int, default=8, help="frames of these futures (default 8)")
    parser.add_argument("--out", type=Path, default=Path("runs/planning"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.tasks:
        for seed in options.seeds:
            task = TASKS[name]
            task = replace(task, limit=options.limit or task.limit)
            world, data = prepared(name, task, seed, options)
            if "know" in options.what:
                held = Recordings.of(world, data, "held_out")
                held.dreams = dreamed(world, held, 256, world.head("energy").dreams, seed + 1)
                found = [*knowledge(world, held, seed), choice(world, data, seed, options)]
                rows += [{"task": name, "seed": seed, **row} for row in found]
                print(json.dumps(rows[-4:]), file=sys.stderr)
            rows += control(name, task, seed, world, options)
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "out", "seeds")}
    write_json({"benchmark": "heads", "settings": settings, "rows": rows}, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
