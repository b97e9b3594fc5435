"""Measure how many people one machine serves: real WebSocket clients on loopback, stepped alone and together.

    python benchmarks/serving.py --world coinrun --fps 15 --json serving.json

A server runs in a process of its own, once without batches and once with batches of up to `--batch`, in turns for each
population. People come in bursts (gaps are gamma distributed with shape 1/2), play for a geometric number of frames,
pause for log-normal times, and one pause in five is for good, after which somebody new comes. Clients and server share
this machine's cores, so read the ratio of the two and not the number.

| key | meaning |
|---|---|
| `rows` | for each population and batch: lateness and action-to-frame latency in ms (p50, p95, p99), mean batch |
| `held` | the largest population whose lateness at p50, p95, p99 stays within one frame, by batch; 0: none of them |

Lateness is how long after its time a frame was made, as the server says; latency is from sending an action to the frame
that answers it, as a client sees it. Nobody is refused while populations are measured, unless `--admit` is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import arguments, write_json
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

SERVE = """
import json, sys, torch
from terrella.serving import serve
from terrella.serving.limits import Limits
torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
world, people = settings.pop("world"), settings.pop("people")
limits = Limits(clients=people, sessions=people)
serve(world, port=0, limits=limits, truth=False, gallery=False, on_ready=lambda url: print(url, flush=True), **settings)
"""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class Seen:
    """What all clients of one population have seen."""

    late_ms: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    refused: int = 0
    people: int = 0


@dataclass(frozen=True)
class Habits:
    """How people come, play and pause; seconds."""

    frames: float = 150.0  # mean of a stretch of play
    pause: float = 1.0  # median
    spread: float = 1.0  # of the logarithm
    gone: float = 0.2  # pauses that are for good
    press: float = 0.4  # mean time between two actions


@contextlib.contextmanager
def server(**settings: Any) -> Iterator[str]:
    """A server in a process of its own; yields the address of its socket."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the server did not start; its message is above.")
        yield url.replace("http", "ws") + "ws"
    finally:
        process.terminate()
        process.wait(20)


async def person(url: str, world: str, fps: float, habits: Habits, rng: np.random.Generator, seen: Seen) -> None:
    """One person from arrival until they are gone for good, or refused."""
    seen.people += 1
    try:
        async with connect(url, max_size=None, compression=None) as socket:

            async def send(kind: str, **body: Any) -> None:
                await socket.send(json.dumps({"type": kind, **body}))

            await send("hello", protocol=1)
            await send("open", world=world, seed=int(rng.integers(1000)), truth=False, fps=fps)
            rows: list[list[float]] = []
            number, seq, asked = 0, 0, dict[int, float]()
            left, press = int(rng.geometric(1 / habits.frames)), 0.0
            async for message in socket:
                if isinstance(message, bytes):
                    continue
                now, body = time.perf_counter(), json.loads(message)
                if body["type"] == "error" and body["code"] == "full":
                    seen.refused += 1
                    return
                if body["type"] == "opened":
                    number, about = body["session"], body["about"]
                    rows = list(about["keys"].values()) or [about["noop"]]
                    await send("set", session=number, stop_at_end=False)
                    await send("action", session=number, seq=0, row=rows[0])
                    await send("resume", session=number)
                if body["type"] != "tick":
                    continue
                await send("ack", session=number, epoch=body["epoch"], frame=body["frame"])
                if body["frame"] == 0:
                    continue
                seen.late_ms.append(body["late_ms"])
                seen.together.append(body["together"])
                for said in [s for s in asked if s <= body["seq"]]:
                    seen.latency_ms.append((now - asked.pop(said)) * 1e3)
                left -= 1
                if left == 0:
                    await send("pause", session=number)
                    if rng.random() < habits.gone:
                        return
                    await asyncio.sleep(min(5.0, habits.pause * rng.lognormal(0.0, habits.spread)))
                    left, asked = int(rng.geometric(1 / habits.frames)), {}
                    await send("resume", session=number)
                elif now > press and not asked:
                    press, seq = now + rng.exponential(habits.press), seq + 1
                    asked[seq] = time.perf_counter()
                    await send("action", session=number, seq=seq, row=rows[int(rng.integers(len(rows)))])
    except (ConnectionClosed, OSError):
        return


async def place(url: str, world: str, fps: float, habits: Habits, seed: tuple[int, ...], seen: Seen) -> None:
    """One place in the population: somebody comes, and when they are gone somebody else."""
    rng = np.random.default_rng(seed)
    while True:
        await asyncio.sleep(rng.gamma(0.5, 0.5))
        await person(url, world, fps, habits, rng, seen)


async def population(url: str, size: int, seconds: float, world: str, fps: float, seed: int) -> Seen:
    """Let a population play for a while; what it saw in the first fifth is not counted."""
    seen = Seen()
    places = [asyncio.create_task(place(url, world, fps, Habits(), (seed, size, i), seen)) for i in range(size)]
    await asyncio.sleep(seconds / 5)
    for values in (seen.late_ms, seen.latency_ms, seen.together):
        values.clear()
    await asyncio.sleep(seconds)
    for task in places:
        task.cancel()
    await asyncio.gather(*places, return_exceptions=True)
    return seen


def row(seen: Seen, batch: int, size: int, fps: float) -> dict[str, Any]:
    """What one population saw, in numbers."""
    return {
        "batch": batch,
        "sessions": size,
        "frames": len(seen.late_ms),
        "late_ms": quantiles(seen.late_ms),
        "latency_ms": quantiles(seen.latency_ms),
        "late_share": float(np.mean([ms > 1e3 / fps for ms in seen.late_ms])) if seen.late_ms else None,
        "together": float(np.mean(seen.together)) if seen.together else None,
        "people": seen.people,
        "refused": seen.refused,
    }


def quantiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99; None for no values."""
    return {name: round(float(np.quantile(values, q)), 2) if values else None for name, q in QUANTILES.items()}


def held(rows: list[dict[str, Any]], batch: int, fps: float) -> dict[str, int]:
    """The largest population in time, for each quantile of lateness."""

    def most(name: str) -> int:
        fit = [r["sessions"] for r in rows if r["batch"] == batch and (r["late_ms"][name] or np.inf) <= 1e3 / fps]
        return max(fit, default=0)

    return {name: most(name) for name in QUANTILES}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--world", default="coinrun", help="folder of a world, or a gallery name (default coinrun)")
    parser.add_argument("--fps", type=float, default=15.0, help="frames a second that everybody asks for (default 15)")
    parser.add_argument("--batch", type=int, default=16, help="sessions stepped together at most (default 16)")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24, 32], help="populations")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured for each population (default 20)")
    parser.add_argument("--steps", type=int, help="denoising steps a frame")
    parser.add_argument("--device", default="cpu", help="where the world runs (default cpu)")
    parser.add_argument("--exact", action="store_true", help="pad every batch, so that frames are bit-identical")
    parser.add_argument("--admit", action="store_true", help="let the server refuse whom it cannot serve in time")
    options = parser.parse_args()
    rows = []
    for size in options.sessions:
        for batch in (1, options.batch):
            settings = {"world": options.world, "batch": batch, "steps": options.steps, "device": options.device}
            with server(**settings, exact=options.exact and batch > 1, admit=options.admit, people=size + 4) as url:
                name = options.world.rstrip("/").rsplit("/", 1)[-1]
                seen = asyncio.run(population(url, size, options.seconds, name, options.fps, options.seed))
            rows.append(row(seen, batch, size, options.fps))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    kept = ("world", "fps", "batch", "seconds", "steps", "device", "exact", "admit")
    result = {
        "rows": rows,
        "held": {str(batch): held(rows, batch, options.fps) for batch in (1, options.batch)},
        "settings": {name: getattr(options, name) for name in kept},
        "label": "synthetic load: gamma bursts, geometric play, log-normal pauses, 20 % gone for good",
    }
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
