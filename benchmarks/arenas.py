"""Microseconds to save, to restore and to step, for one environment of every arena whose package is installed.

A save is the whole state as bytes, a restore all that `Forkable.restore` does; both are medians over rounds of turns,
after 20 steps of random actions. ViZDoom restores by playing those steps again.

    python benchmarks/arenas.py --json arenas.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from common import arguments, median, write_json

from terrella import arenas
from terrella.actions import action_space
from terrella.errors import MissingExtra

STEPS = 20
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ale": ("ALE/Pong-v5", {}),
    "blocks": ("terrella/Blocks-v0", {}),
    "chaos": ("terrella/Lorenz-v0", {}),
    "classic": ("CartPole-v1", {}),
    "crafter": ("terrella/Crafter-v0", {}),
    "highway": ("highway-fast-v0", {"pixels": True}),
    "metaworld": ("terrella/MetaWorld-v0", {"pixels": True}),
    "minigrid": ("MiniGrid-Dynamic-Obstacles-8x8-v0", {"pixels": True}),
    "miniworld": ("MiniWorld-Hallway-v0", {}),
    "procgen": ("procgen/coinrun", {}),
    "pucks": ("terrella/Pucks-v0", {}),
    "sprites": ("terrella/Sprites-v0", {}),
    "vizdoom": ("VizdoomDefendCenter-v1", {}),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    result = {}
    for name in arenas.list_arenas():
        try:
            result[name] = measure(*NAMES[name], options.rounds, options.seed)
        except MissingExtra as error:
            result[name] = {"missing": str(error)}
    write_json(result, options.json, seeds=[options.seed])


def measure(name: str, kwargs: dict[str, Any], rounds: int, seed: int) -> dict[str, Any]:
    env = arenas.make(name, **kwargs)
    env.reset(seed=seed)
    fork = arenas.forkable(env)
    if fork is None:
        raise SystemExit(f"{name} cannot be forked")
    space = action_space(arenas.describe(env).action)
    space.seed(seed)
    for _ in range(STEPS):
        step = env.step(space.sample())
        if step[2] or step[3]:
            env.reset()
    state, action = fork.save(), space.sample()
    raw: dict[str, list[float]] = {"save": [], "restore": [], "step": []}
    for _ in range(rounds):
        raw["save"].append(timed(fork.save))
        raw["restore"].append(timed(lambda: fork.restore(state)))
        raw["step"].append(timed(lambda: env.step(action)))
    fork.restore(state)
    same = fork.save() == state
    env.close()
    times = {f"{key}_us": round(median(values), 1) for key, values in raw.items()}
    return {"env": name, **times, "bytes": len(state), "exact": fork.exact and same, "raw": raw}


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
