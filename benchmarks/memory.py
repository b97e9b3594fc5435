"""Compare backbones by what they remember of what left the view: equal data, equal parameters, equal training time.

    python benchmarks/memory.py --arena sprites --minutes 10 --seeds 0 1 2 --json memory.json

Each world sees the first frames of an episode, then goes on alone. Rows have `arena, backbone, seed, params,
train_minutes, steps, mse_1x, mse_3x, mse_10x` (mean squared error on the scale 0..1 over as many frames as were trained
to predict, three and ten times as many), `hidden_mse` (over the pixels that tell where a thing is that was out of view
for at least 5 frames; `hidden` has it by frames out of view), `continued_rate` (share of these cases in which the thing
is nearer to where it should be now than to where it was left), `state_bytes` and `ms_per_frame`. The references are
the last frame, the mean frame, an empty frame with its expectation, and things left where they were last seen.

Worlds are kept in `--out` and not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import holds_world, median, recorded_by, write_json
from hidden import LeaveAndReturn, Story, judge, tell

import terrella
from terrella.arenas import black_mse, make
from terrella.data import Cover, Dataset, WallWalk
from terrella.engine import Engine
from terrella.registry import names
from terrella.spec import WorldSpec
from terrella.training import TrainingConfig
from terrella.training.presets import WITHIN, alone
from terrella.world import Part, World, WorldConfig

HIDDEN_FOR = (5, 20, 70)
MULTIPLES = (1, 3, 10)


@dataclass(frozen=True)
class Arena:
    """What is recorded, and how much of a clip is seen and predicted.

    patch: pixels a token. params: wanted. batch: clips a step. flow: which of the two flow memories fits.
    """

    env: str
    observed: int
    predicted: int
    patch: int
    params: int
    batch: int
    flow: str
    recorder: Callable[[], Any]
    tester: Callable[[], Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    unseen: dict[str, Any] = field(default_factory=dict)  # what makes test worlds of things never trained on
    training: dict[str, Any] = field(default_factory=dict)  # of the sequential backbones


ARENAS = {
    "sprites": Arena(
        "terrella/Sprites-v0", 30, 10, 4, 100_000, 8, "flow",
        lambda: Cover(30), lambda: LeaveAndReturn(30), {"world": 32}, {"held_out": True},
    ),
    "sprites-paper": Arena(
        "terrella/SpritesPaper-v0", 50, 20, 8, 100_000, 32, "flow",
        lambda: Cover(50), lambda: Cover(50), {}, {"held_out": True},
    ),
    "blocks": Arena(
        "terrella/Blocks-v0", 40, 20, 8, 150_000, 4, "flow_wedge", WallWalk, WallWalk, {"room": 8, "count": (3, 4)},
        training=WITHIN,
    ),
}  # fmt: skip

# Sequential backbones learn by going on alone, the others from their own predictions fed back (see `TrainingConfig`).
SEQUENTIAL = ("flow", "rssm", "reaction_diffusion", "token_memory")
SETTINGS: dict[str, dict[str, Any]] = {
    "transformer": {"layers": 4, "heads": 2, "window": 16},
    "ssm": {"layers": 3, "heads": 2, "scan_heads": 4},
    "hybrid": {"layers": 3, "heads": 2, "scan_heads": 4, "every": 3, "window": 16},
    "reaction_diffusion": {"groups": 8},
    "token_memory": {"heads": 2},
    "language": {"layers": 4, "heads": 2, "window": 16},
    "discrete": {"layers": 4, "heads": 2, "window": 16},
}


def backbones() -> list[str]:
    """List the competitors: each registered backbone (the two flow memories count as one), and discrete tokens."""
    return [name for name in names("dynamics") if name != "flow_wedge"] + ["discrete"]


def world_config(backbone: str, arena: Arena, width: int) -> WorldConfig:
    """The parts of one competitor; `width` is the dial that matches its parameters to the others'."""
    settings = dict(SETTINGS.get(backbone, {}))
    if backbone == "discrete":
        codes = {"digits": 4, "levels": 8, "stride": arena.patch, "fold": min(4, arena.patch), "width": width // 2}
        tokenizer, decoder, dynamics = Part("fsq", codes), Part("masked", {"levels": 8}), "transformer"
    else:
        cell = 1 if arena.flow == "flow" and backbone == "flow" else arena.patch
        tokenizer, decoder = Part("patches", {"size": cell}), Part("regression")
        dynamics = arena.flow if backbone == "flow" else backbone
    dial = {"flow": "width", "rssm": "hidden"}.get(dynamics, "dim")
    if dynamics == "rssm":
        settings |= {"dim": 2 * width, "width": width, "heads": 2, "groups": 16, "layers": 1, "blocks": 4}
    if dynamics == "flow_wedge":
        room = arena.kwargs["room"]
        settings |= {"reach": room, "side": room + 3}  # the room, its walls, and the widest row in view
    return WorldConfig(
        Part(dynamics, settings | {dial: width}),
        decoder,
        {"pixels": tokenizer},
        dream_level=0.0 if backbone in SEQUENTIAL else None,
    )


def matched(backbone: str, arena: Arena, spec: WorldSpec) -> WorldConfig:
    """The competitor whose parameters are nearest to the arena's."""

    def distance(config: WorldConfig) -> int:
        with torch.random.fork_rng(devices=[]):
            return abs(count(World(spec, config)) - arena.params)

    return min((world_config(backbone, arena, width) for width in range(16, 257, 8)), key=distance)


def count(world: World) -> int:
    """Parameters of all parts."""
    return sum(world.parameters_by_part().values())


def recorded(name: str, arena: Arena, out: Path, episodes: int) -> Dataset:
    """Record once: episodes of exactly the frames of a clip, each seen from its beginning."""
    path = out / f"{name}-data"
    how = {"max_episode_steps": arena.observed + arena.predicted - 1, "seed": 0, **arena.kwargs}
    return recorded_by(arena.env, path, [(arena.recorder(), episodes)], "episodes", **how)


def trained(
    name: str, backbone: str, arena: Arena, data: Dataset, seed: int, minutes: float, out: Path, device: str | None
) -> World:
    """Train one competitor, or open it where it was trained before."""
    path = out / f"{name}-{backbone}-{seed}-{minutes:g}m"
    if holds_world(path):
        return World.load(path, device or "cpu")
    length = arena.observed + arena.predicted - 1
    recipe = TrainingConfig(length=length, batch=arena.batch, seen=arena.observed, reward_weight=0.0, end_weight=0.0)
    if backbone in SEQUENTIAL:
        recipe = replace(alone(recipe, arena.observed, arena.predicted), **arena.training)
    budget = f"{minutes * 60:g}s"
    config = matched(backbone, arena, data.spec)
    return terrella.train(data, path, budget=budget, seed=seed, config=config, training=recipe, device=device)


def dreamed(world: World, stories: list[Story], observed: int, batch: int = 32) -> tuple[np.ndarray, int, float]:
    """Predict all frames after the observed ones: uint8 `(stories, P, h, w, C)`, bytes of a state, ms a frame."""
    engine, frames, times = Engine(world), [], []
    nbytes = 0
    for i in range(0, len(stories), batch):
        some = stories[i : i + batch]
        seen = np.stack([s.frames[:observed] for s in some])
        rows = np.stack([s.rows for s in some])
        state = engine.start({"pixels": seen}, rows[:, : observed - 1], seeds=list(range(i, i + len(some))))
        frames.append(engine.rollout(state, rows[:, observed - 1 :])[1].observation["pixels"])
    one = engine.start({"pixels": stories[0].frames[None, :observed]}, stories[0].rows[None, : observed - 1])
    nbytes = one.nbytes
    for row in stories[0].rows[observed - 1 :]:
        began = time.perf_counter()
        one, _ = engine.step(one, row[None])
        times.append(1e3 * (time.perf_counter() - began))
    return np.concatenate(frames), nbytes, median(times)


def scored(stories: list[Story], predicted: np.ndarray, arena: Arena) -> dict[str, Any]:
    """The errors of predictions."""
    truth = np.stack([s.frames[arena.observed :] for s in stories]).astype(np.float64)
    error = np.square((predicted - truth) / 255).mean((0, 2, 3, 4))
    cases = judge(stories, predicted, arena.observed)
    hidden = {
        str(n): {
            "cases": len(kept),
            "mse": float(np.mean([c["error"] for c in kept])) if kept else None,
            "continued_rate": float(np.mean([c["error"] < c["error_left"] for c in kept])) if kept else None,
        }
        for n in HIDDEN_FOR
        for kept in [[c for c in cases if c["hidden_for"] >= n]]
    }
    by_horizon = {
        str(h): float(np.mean(within))
        for h in (70, 210)
        if len(error) >= h and (within := [c["error"] for c in cases if c["frame"] < h])
    }
    return {
        **{f"mse_{k}x": float(error[: k * arena.predicted].mean()) for k in MULTIPLES},
        "hidden_mse": hidden[str(HIDDEN_FOR[0])]["mse"],
        "continued_rate": hidden[str(HIDDEN_FOR[0])]["continued_rate"],
        "hidden": hidden,
        "hidden_mse_within": by_horizon,
    }


def references(stories: list[Story], arena: Arena, data: Dataset) -> list[dict[str, Any]]:
    """Scores of predictions that need no learning."""
    truth = np.stack([s.frames[arena.observed :] for s in stories])
    frames = data.sample(256, 2, np.random.default_rng(0), "train").observations["pixels"][:, 0]
    last = np.stack([s.frames[arena.observed - 1] for s in stories])[:, None]
    lines = {
        "copy-last": np.broadcast_to(last, truth.shape),
        "mean frame": np.broadcast_to(frames.mean(0).round(), truth.shape),
        "left where last seen": np.stack([s.frozen for s in stories]),
        "perfect memory": truth,
    }
    rows = [{"backbone": name, **scored(stories, guess, arena)} for name, guess in lines.items()]
    if arena.flow == "flow":
        black = scored(stories, np.zeros_like(truth), arena)
        estimate = black_mse(make(arena.env, **arena.kwargs, **arena.unseen))
        rows.append({"backbone": "all background", **black, "closed_form": estimate})
    return rows


def main() -> None:
    """Record, train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arena", choices=ARENAS, default="sprites")
    parser.add_argument("--backbones", nargs="+", choices=backbones(), default=backbones())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each world (default 10)")
    parser.add_argument("--episodes", type=int, default=4000, help="recorded episodes (default 4000)")
    parser.add_argument("--stories", type=int, default=128, help="test episodes (default 128)")
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    parser.add_argument("--device", help="where to train and predict (default: a GPU if there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    arena = ARENAS[options.arena]
    data = recorded(options.arena, arena, options.out, options.episodes)
    worlds = {
        (backbone, seed): trained(
            options.arena, backbone, arena, data, seed, options.minutes, options.out, options.device
        )
        for seed in options.seeds
        for backbone in options.backbones
    }
    ahead = max(MULTIPLES[-1] * arena.predicted, 210 if options.arena == "blocks" else 0)
    stories = [
        tell(arena.env, arena.tester(), arena.observed, ahead, 10_000 + n, **arena.kwargs, **arena.unseen)
        for n in range(options.stories)
    ]
    rows = []
    for (backbone, seed), world in worlds.items():
        frames, nbytes, speed = dreamed(world, stories, arena.observed)
        row = {
            "arena": options.arena,
            "backbone": backbone,
            "seed": seed,
            "params": count(world),
            "train_minutes": options.minutes,
            "steps": world.record["steps"],
            **scored(stories, frames, arena),
            "state_bytes": nbytes,
            "ms_per_frame": round(speed, 3),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    result = {"rows": rows, "references": references(stories, arena, data)}
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
