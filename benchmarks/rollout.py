"""Measure what a step costs: one session and sixteen, cached and recomputed, early and late, forked and copied.

    python benchmarks/rollout.py --json rollout.json

The world is the `tiny` preset on 64x64 images with a window of 32 frames; its weights are random, which changes no
timing. Everything that is divided by one another is timed in turns, one call each, so that whatever else the machine
does falls on both; a figure is the ratio of medians, with the quartiles of the pairwise ratios beside it.

| key | meaning |
|---|---|
| `fps_1`, `fps_16` | frames a second of one session; of sixteen in one batch, all together |
| `recompute_ratio` | a frame with nothing kept between calls of the network, each passing the window / by a step |
| `recompute_once_ratio` | a frame with the window's keys computed once, shared by its denoising steps / by a step |
| `recompute_keys_ratio` | the same, and only the new frame denoised, not the window / by a step |
| `late_over_early` | a step at frame 2,000 / at frame 200 |
| `state_bytes_early`, `state_bytes_late` | bytes of the state at these frames |
| `fork_bytes_ratio`, `fork_time_ratio` | 64 branches / 64 copies of a session; `..._stepped`: after one frame in each |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import arguments, in_turns, median, ratio, write_json

from terrella.engine import Engine, State
from terrella.laws import shaken
from terrella.nn.latents import Noise
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

WINDOW, BRANCHES, ACTIONS = 32, 64, 15
SPEC = WorldSpec({"pixels": StreamSpec("image", (64, 64, 3))}, ActionSpec("discrete", n=ACTIONS))


def make_engine(steps: int | None, window: int = WINDOW, **options: Any) -> Engine:
    """The `tiny` preset with random weights. options: of the engine."""
    config = world_config("tiny", SPEC)
    dynamics = replace(config.dynamics, config=config.dynamics.config | {"window": window})
    torch.manual_seed(0)
    return Engine(shaken(World(SPEC, replace(config, dynamics=dynamics), "tiny")), steps=steps, **options)


def begin(engine: Engine, batch: int, rng: np.random.Generator) -> State:
    """Sessions that have seen one random image each."""
    pixels = rng.integers(0, 256, (batch, 1, 64, 64, 3), dtype=np.uint8)
    return engine.start({"pixels": pixels}, seeds=list(range(batch)))


class Stepper:
    """A state that a call takes one frame further."""

    def __init__(self, engine: Engine, state: State, rng: np.random.Generator, actions: int = ACTIONS):
        self.engine, self.state, self.rng, self.actions = engine, state, rng, actions

    def __call__(self) -> None:
        """Take a random action."""
        row = self.rng.integers(0, self.actions, (self.state.batch, 1))
        self.state, _ = self.engine.step(self.state, row)

    def advance(self, frame: int) -> Stepper:
        """Step until the state is at `frame`."""
        while int(self.state.time[0]) < frame:
            self()
        return self


def recomputed(engine: Engine, kept: str) -> Callable[[], Any]:
    """The next frame without a memory of the past.

    `kept` is what its denoising steps share: "nothing" (each call passes the whole window, as a model without a cache
    does), "keys" (the window's keys, computed once), or "all" (keys, and the window itself is not denoised).
    """
    world, dynamics = engine.world, engine.world.dynamics
    tokens, frames = world.tokens, WINDOW + 1
    z = torch.randn(1, frames, tokens.n, tokens.channels, generator=torch.Generator().manual_seed(0))
    rows, level = torch.zeros(1, frames, 1), torch.ones(1, frames)
    slabs = begin(engine, 1, np.random.default_rng(0)).slabs

    @torch.inference_mode()
    def run() -> Any:
        if kept == "nothing":
            calls = world.decoder.sample(
                lambda noisy, n: dynamics.parallel(z, rows, level)[1](noisy, n), z, engine.steps
            )
            return world.decode(calls[:, -1])
        if kept == "keys":
            _, predict = dynamics.parallel(z, rows, level)
            return world.decode(world.decoder.sample(predict, z, engine.steps)[:, -1])
        dynamics.parallel(z[:, :-1], rows[:, :-1], level[:, :-1])

        def predict_one(noisy: torch.Tensor | None, noise: Noise | None) -> torch.Tensor:
            return dynamics.predict(slabs, rows[:, 0], noisy, noise)

        return world.decode(world.decoder.sample(predict_one, z[:, -1], engine.steps))

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps a frame (default 2)")
    parser.add_argument("--late", type=int, default=2000, help="the late frame (default 2000)")
    parser.add_argument("--rounds", type=int, default=100, help="timings of each kind (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: a step is small)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    engine, early_frame = make_engine(options.steps), 200
    early, other, late = (Stepper(engine, begin(engine, 1, rng), rng) for _ in range(3))
    crowd = Stepper(engine, begin(engine, 16, rng), rng).advance(2 * WINDOW)
    early.advance(early_frame)
    state_bytes_early = early.state.nbytes
    one, sixteen = in_turns(options.rounds, early, crowd)
    others = [recomputed(engine, kept) for kept in ("nothing", "keys", "all")]
    step, window, once, keys = in_turns(options.rounds, early, *others)
    late.advance(options.late)
    other.advance(early_frame)
    late_times, early_times = in_turns(options.rounds, late, other)
    root, apart = early.state, late.state  # a state that was forked shares its past ever after: copy from another
    fork_times, copy_times = in_turns(options.rounds, lambda: root.fork(BRANCHES), lambda: apart.select([0] * BRANCHES))
    copies, branches = apart.select([0] * BRANCHES), root.fork(BRANCHES)
    bytes_ratio = branches.nbytes / copies.nbytes
    stepped, _ = engine.step(branches, rng.integers(0, ACTIONS, (BRANCHES, 1)))
    raw = {
        "step_1": one,
        "step_16": sixteen,
        "step": step,
        "recompute_window": window,
        "recompute_once": once,
        "recompute_keys": keys,
        "late": late_times,
        "early": early_times,
        "fork": fork_times,
        "copy": copy_times,
    }
    result: dict[str, Any] = {
        "benchmark": "rollout",
        "preset": "tiny",
        "image": [64, 64, 3],
        "window": WINDOW,
        "steps": options.steps,
        "parameters": engine.world.parameters_by_part(),
        "fps_1": round(1e3 / median(one), 2),
        "fps_16": round(16e3 / median(sixteen), 2),
        "state_bytes_early": state_bytes_early,
        "state_bytes_late": late.state.nbytes,
        "fork_bytes_ratio": round(bytes_ratio, 4),
        "fork_bytes_ratio_stepped": round(stepped.nbytes / copies.nbytes, 4),
        "milliseconds": {name: [round(t, 4) for t in times] for name, times in raw.items()},
    }
    for name, above, below in (
        ("recompute_ratio", window, step),
        ("recompute_once_ratio", once, step),
        ("recompute_keys_ratio", keys, step),
        ("late_over_early", late_times, early_times),
        ("fork_time_ratio", fork_times, copy_times),
    ):
        result[name], result[f"{name}_quartiles"] = ratio(above, below)
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
