"""Measure how many frames a second the `tiny` world makes beside the pixel U-Net of `peer_unet.py`.

    python benchmarks/speed/peer_speed.py --json peer_speed.json

Random weights, which change no timing; 64x64 images, 15 actions, one session, from an action to its frame in uint8. All
ways are timed in turns: both models in float32 and bfloat16, plain and from compiled graphs, the peer with either order
of channels in memory. A turn is as many frames in a row as fill `--seconds`, as they are in play: a single frame right
after another model's finds none of its weights near the processor. Errors are in `peer_unet.py`.

| key | meaning |
|---|---|
| `fps` | frames a second of each way |
| `ratio_plain` | time of the peer's fastest way / of the world as it comes (float32, plain); quartiles of the pairs |
| `ratio_as_they_come` | time of the peer as it comes (float32, plain) / of the world as it comes |
| `ratio_fastest` | the same over the world's fastest way |
| `fastest` | which these are |
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import arguments, in_turns, median, ratio, write_json
from peer_engine import ORDERS, PeerEngine, config_for
from rollout import ACTIONS, SPEC, Stepper, begin, make_engine
from unet import STEPS, Denoiser

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PeerStepper:
    """One session of the peer that a call takes one frame further."""

    def __init__(self, engine: PeerEngine, rng: np.random.Generator):
        seen = rng.integers(0, 256, (1, engine.frames, 64, 64, 3), dtype=np.uint8)
        self.engine, self.rng = engine, rng
        self.state = engine.start({"pixels": seen}, np.zeros((1, engine.frames - 1, 1)), [0])

    def __call__(self) -> None:
        """Take a random action."""
        self.state, _ = self.engine.step(self.state, self.rng.integers(0, ACTIONS, (1, 1)))


class Burst:
    """As many frames in a row as take about so many seconds."""

    def __init__(self, step: Callable[[], None], seconds: float):
        self.step = step
        for _ in range(3):
            step()
        began = time.perf_counter()
        step()
        self.frames = max(1, round(seconds / (time.perf_counter() - began)))

    def __call__(self) -> None:
        """Take them."""
        for _ in range(self.frames):
            self.step()


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--denoise", type=int, default=2, help="denoising steps of the world (default 2)")
    parser.add_argument("--seconds", type=float, default=0.3, help="a turn lasts about so long (default 0.3)")
    parser.add_argument("--plain", action="store_true", help="leave compiled graphs out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    denoiser = Denoiser(config_for(SPEC))
    steppers: dict[str, Any] = {}
    for (name, dtype), compiled in product(TYPES.items(), (False,) if options.plain else (False, True)):
        way = f"{name}, compiled" if compiled else name
        engine = make_engine(options.denoise, dtype=dtype, compiled=1 if compiled else ())
        steppers[f"terrella, {way}"] = Stepper(engine, begin(engine, 1, rng), rng)
        for order in ORDERS:
            peer = PeerEngine(denoiser, SPEC, dtype=dtype, order=order)
            if compiled:
                peer.denoiser.net.compile(dynamic=False)
            steppers[f"peer, {way}, {order}"] = PeerStepper(peer, rng)
    bursts = {name: Burst(step, options.seconds) for name, step in steppers.items()}
    turns = zip(bursts.items(), in_turns(options.rounds, *bursts.values()))
    times = {name: [turn / burst.frames for turn in taken] for (name, burst), taken in turns}

    def fastest(who: str) -> str:
        return min((name for name in times if name.startswith(who)), key=lambda name: median(times[name]))

    own, peer = fastest("terrella"), fastest("peer")
    result = {
        "benchmark": "peer_speed",
        "threads": options.threads,
        "steps_a_frame": {"terrella": options.denoise, "peer": STEPS},
        "fps": {name: round(1e3 / median(taken), 2) for name, taken in times.items()},
        "ratio_plain": ratio(times[peer], times["terrella, float32"]),
        "ratio_as_they_come": ratio(times["peer, float32, channels first"], times["terrella, float32"]),
        "ratio_fastest": ratio(times[peer], times[own]),
        "fastest": [own, peer],
        "frames_a_turn": {name: burst.frames for name, burst in bursts.items()},
        "milliseconds": {name: [round(t, 4) for t in taken] for name, taken in times.items()},
    }
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
