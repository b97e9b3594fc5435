"""Measure how many people one machine serves: real WebSocket clients on loopback, stepped alone and together.

    python benchmarks/serving.py --world coinrun --fps 10 --json serving.json

For each population and arm a server runs in processes of its own, and people come, play, pause and leave as
`benchmarks/traffic.py` makes them up (or, with `--trace`, as they did elsewhere).

| arm | who serves |
|---|---|
| `alone`, `together` | one process, each session by itself; up to `--batch` at once |
| `exact` | the same, every batch padded, so that nobody's frames depend on company by a bit |
| `ray-alone`, `ray` | `--replicas` such processes of a Ray cluster of this machine, behind a gateway |

| key | meaning |
|---|---|
| `rows` | for each population and arm, in ms (p50, p95, p99): `late`, `latency`, `first`, `resumed`; `together`, the |
| | mean batch; `asked_share`, frames that came of those that the clock asked for |
| `held` | by arm, the largest population whose lateness at p50, p95, p99 stays within one frame (0: none of them); |
| | of several `--runs`, the median |

`late` is how long after its time a frame was made, as the server says; the rest is as a client sees it: `latency` from
sending an action to the frame that answers it, `first` from opening to the first frame, `resumed` from the end of a
pause to the next. Clients and servers share this machine's cores, so read the ratio of arms and not the numbers. Nobody
is refused, unless `--admit` is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, write_json
from traffic import Stretch, make_up, read, visits
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from terrella.serving.limits import default_batch

SERVE = """
import json, sys, torch
from terrella.serving.limits import Limits
torch.set_num_threads(1)
told = json.loads(sys.argv[1])
world, people, replicas = told.pop("world"), told.pop("people"), told.pop("replicas")
told |= {"port": 0, "truth": False, "limits": Limits(clients=people, sessions=people)}
told["engine"] = {"precision": told.pop("precision")}
ready = lambda url: print(url, flush=True)
if replicas:
    from terrella.cluster import serve_cluster
    name = world.rstrip("/").rsplit("/", 1)[-1]
    serve_cluster({name: world}, sys.argv[2], replicas=replicas, address="local", on_ready=ready, **told)
else:
    from terrella.serving import serve
    serve(world, gallery=False, on_ready=ready, **told)
"""
ARMS = ("alone", "together", "exact", "ray-alone", "ray")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
PRESS = 0.4  # mean seconds between two actions
WARM = 0.2  # of the time, before anything counts


@dataclass
class Seen:
    """What all clients of one population have seen; ms."""

    late: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    played: float = 0.0  # seconds for which a clock ran
    refused: int = 0
    people: int = 0

    def begin(self) -> None:
        """Forget what was before."""
        for values in (self.late, self.latency, self.first, self.resumed, self.together):
            values.clear()
        self.played = 0.0


@contextlib.contextmanager
def server(arm: str, replicas: int, **settings: Any) -> Iterator[str]:
    """A server in a process of its own; yields the address of its socket."""
    exact, most = arm == "exact", 1 if arm in ("alone", "ray-alone") else settings["batch"]
    told = {**settings, "batch": most or default_batch(exact), "exact": exact}
    told["replicas"] = replicas if arm.startswith("ray") else 0
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-c", SERVE, json.dumps(told), store]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start; its message is above.")
            yield url.replace("http", "ws") + "ws"
        finally:
            process.terminate()
            process.wait(60)


@contextlib.asynccontextmanager
async def entered(url: str) -> AsyncIterator[ClientConnection]:
    """A connection to a server, or to the replica that a gateway names."""
    async with contextlib.AsyncExitStack() as stack:
        while True:
            socket = await stack.enter_async_context(connect(url, max_size=None, compression=None, open_timeout=60))
            await socket.send(json.dumps({"type": "hello", "protocol": 1}))
            answer = json.loads(await socket.recv())
            if answer["type"] != "moved":
                yield socket
                return
            await socket.close()
            url = answer["url"]


class Person:
    """Somebody with a session."""

    def __init__(self, socket: ClientConnection, seen: Seen, rng: np.random.Generator):
        self.socket, self.seen, self.rng = socket, seen, rng
        self.session, self.seq, self.rows = 0, 0, list[list[float]]()

    async def send(self, kind: str, **body: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **body}))

    async def hear(self) -> dict[str, Any]:
        while isinstance(message := await self.socket.recv(), bytes):
            pass
        return json.loads(message)

    async def tick(self) -> dict[str, Any]:
        """The next frame, acknowledged."""
        while (body := await self.hear())["type"] != "tick":
            pass
        await self.send("ack", session=self.session, epoch=body["epoch"], frame=body["frame"])
        return body

    async def act(self) -> None:
        self.seq += 1
        await self.send("action", session=self.session, seq=self.seq, row=self.rows[self.rng.integers(len(self.rows))])

    async def open(self, world: str, fps: float) -> bool:
        """Begin a session, and see how it begins; False where there is no room."""
        asked = time.perf_counter()
        await self.send("open", world=world, seed=int(self.rng.integers(1000)), truth=False, fps=fps)
        while (body := await self.hear())["type"] != "opened":
            if body["type"] == "error":
                return False
        self.session, about = body["session"], body["about"]
        self.rows = list(about["keys"].values()) or [about["noop"]]
        await self.tick()
        self.seen.first.append((time.perf_counter() - asked) * 1e3)
        await self.send("set", session=self.session, stop_at_end=False)
        return True

    async def play(self, frames: int) -> None:
        """Let the clock run for so many frames, and press keys."""
        began = last = time.perf_counter()
        asked, press = dict[int, float](), began + self.rng.exponential(PRESS)
        await self.act()
        await self.send("resume", session=self.session)
        for number in range(frames):
            body, now = await self.tick(), time.perf_counter()
            if number == 0:
                self.seen.resumed.append((now - began) * 1e3)
            self.seen.late.append(body["late_ms"])
            self.seen.together.append(body["together"])
            self.seen.played, last = self.seen.played + now - last, now
            for said in [seq for seq in asked if seq <= body["seq"]]:
                self.seen.latency.append((now - asked.pop(said)) * 1e3)
            if now > press and not asked:
                press = now + self.rng.exponential(PRESS)
                await self.act()
                asked[self.seq] = time.perf_counter()
        await self.send("pause", session=self.session)


async def visit(
    url: str, world: str, fps: float, stretches: Sequence[Stretch], rng: np.random.Generator, seen: Seen
) -> None:
    """One person from arrival until they are gone for good, or refused; pauses are as long as they were meant to be."""
    await asyncio.sleep(stretches[0].at)
    seen.people += 1
    with contextlib.suppress(ConnectionClosed, OSError):
        async with entered(url) as socket:
            person = Person(socket, seen, rng)
            if not await person.open(world, fps):
                seen.refused += 1
                return
            for stretch, after in zip(stretches, [*stretches[1:], None]):
                await person.play(stretch.frames)
                if after is not None:
                    await asyncio.sleep(max(0.0, after.at - stretch.at - stretch.frames / fps))


async def population(url: str, world: str, fps: float, trace: Sequence[Stretch], seconds: float, seed: int) -> Seen:
    """Let everybody come; counts what is seen after the first fifth of the time."""
    seen = Seen()
    people = [
        asyncio.create_task(visit(url, world, fps, each, np.random.default_rng((seed, i)), seen))
        for i, each in enumerate(visits(trace))
    ]
    await asyncio.sleep(seconds * WARM)
    seen.begin()
    await asyncio.sleep(seconds * (1 - WARM))
    for task in people:
        task.cancel()
    await asyncio.gather(*people, return_exceptions=True)
    return seen


def row(seen: Seen, arm: str, size: int, fps: float) -> dict[str, Any]:
    """What one population saw, in numbers."""
    return {
        "arm": arm,
        "sessions": size,
        "frames": len(seen.late),
        **{name: quantiles(getattr(seen, name)) for name in ("late", "latency", "first", "resumed")},
        "late_share": float(np.mean([ms > 1e3 / fps for ms in seen.late])) if seen.late else None,
        "asked_share": round(len(seen.late) / max(1.0, seen.played * fps), 3),
        "together": float(np.mean(seen.together)) if seen.together else None,
        "people": seen.people,
        "refused": seen.refused,
    }


def quantiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99; None for no values."""
    return {name: round(float(np.quantile(values, q)), 2) if values else None for name, q in QUANTILES.items()}


def held(rows: list[dict[str, Any]], arm: str, fps: float) -> dict[str, int]:
    """The largest population in time, for each quantile of lateness: the median of its runs is within one frame."""

    def most(name: str) -> int:
        late = dict[int, list[float]]()
        for r in (r for r in rows if r["arm"] == arm):
            late.setdefault(r["sessions"], []).append(r["late"][name] or np.inf)
        return max((size for size, values in late.items() if np.median(values) <= 1e3 / fps), default=0)

    return {name: most(name) for name in QUANTILES}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--world", default="coinrun", help="folder of a world, or a gallery name (default coinrun)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["alone", "together", "exact"])
    parser.add_argument("--fps", type=float, default=15.0, help="frames a second that everybody asks for (default 15)")
    parser.add_argument("--batch", type=int, help="sessions stepped together at most (default 32, `exact` 16)")
    parser.add_argument("--replicas", type=int, default=2, help="processes of the arms over Ray (default 2)")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24, 32], help="populations")
    parser.add_argument("--trace", type=Path, help="CSV of who comes when, instead; see benchmarks/traffic.py")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each population (default 20)")
    parser.add_argument("--runs", type=int, default=1, help="of each population, all of them in turn (default 1)")
    parser.add_argument("--steps", type=int, help="denoising steps a frame")
    parser.add_argument("--precision", help="of the weights: float32 (default), bfloat16, int8 or int4")
    parser.add_argument("--device", default="cpu", help="where the world runs (default cpu)")
    parser.add_argument("--admit", action="store_true", help="let the server refuse whom it cannot serve in time")
    options = parser.parse_args()
    name, rows = options.world.rstrip("/").rsplit("/", 1)[-1], []
    told = read(options.trace) if options.trace else None
    sizes = options.sessions if told is None else [len({stretch.person for stretch in told})]
    settings = {key: getattr(options, key) for key in ("world", "batch", "steps", "precision", "device", "admit")}
    for run, size in itertools.product(range(options.runs), sizes):
        trace = told or make_up(size, options.seconds, options.fps, options.seed)
        for arm in options.arms:
            with server(arm, options.replicas, people=2 * size + 8, **settings) as url:
                seen = asyncio.run(population(url, name, options.fps, trace, options.seconds, options.seed))
            rows.append({"run": run, **row(seen, arm, size, options.fps)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    kept = ("arms", "fps", "replicas", "runs", "seconds")
    result = {
        "rows": rows,
        "held": {arm: held(rows, arm, options.fps) for arm in options.arms},
        "settings": {**settings, **{key: getattr(options, key) for key in kept}},
        "label": "trace" if told else "made up: gamma bursts, geometric play, log-normal pauses, 20 % gone for good",
    }
    write_json(result, options.json, seeds=[options.seed])


if __name__ == "__main__":
    main()
