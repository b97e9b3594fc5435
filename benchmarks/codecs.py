"""Bytes and milliseconds of a frame as RGB, JPEG and WebP, at equal structural similarity.

    python benchmarks/codecs.py --json codecs.json

Frames are those that a server sends: what worlds of the gallery begin from, at their own size, and the rendered picture
of the true environment that goes beside those without images. JPEG has the server's quality and no subsampling, so that
colours keep their edges; WebP always halves the resolution of colour. The quality of WebP is the least whose mean SSIM
is that of JPEG or more; where even 100 has less, `equal` is null. Timings of all kinds are taken in turns, one thread.

| key | meaning |
|---|---|
| `bytes`, `ms` | of a frame, mean over frames and median over rounds |
| `ssim` | mean over frames; 1 for RGB and for lossless WebP, which are exact |
| `at_quality` | WebP of the server's quality; `equal`: of the least quality with JPEG's similarity |
| `lossless` | WebP that gives every pixel back |
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from common import arguments, in_turns, median, write_json
from PIL import Image

from terrella.errors import ArenaError
from terrella.evaluation.metrics import ssim
from terrella.serving.catalogue import Served
from terrella.serving.frames import METHOD, QUALITY, to_jpeg, to_webp
from terrella.world import World

FRAMES = 8  # of each world
QUALITIES = range(50, 101)


def main() -> None:
    options = arguments(__doc__, rounds=9).parse_args()
    sets = {name: frames for world in World.list_gallery() for name, frames in gallery_frames(world, options.seed)}
    rows = [measure(name, frames, options.rounds) for name, frames in sets.items()]
    write_json({"rows": rows, "jpeg_quality": QUALITY, "webp_method": METHOD}, options.json, seeds=[options.seed])


def gallery_frames(name: str, seed: int) -> list[tuple[str, np.ndarray]]:
    """What a world of the gallery shows, uint8 `(n, h, w, 3)`, and what its environment renders beside it."""
    served = Served(name, World.load(name))
    rng, found = np.random.default_rng(seed), list[tuple[str, np.ndarray]]()
    for stream, kind in served.spec.modelled.items():
        if kind.kind == "image" and served.world.starts is not None:
            frames = served.world.starts.observations[stream].reshape(-1, *kind.shape)
            chosen = frames[rng.choice(len(frames), min(FRAMES, len(frames)), replace=False)]
            found.append((name, np.broadcast_to(chosen, (*chosen.shape[:3], 3))))
    try:
        truth = served.truth()
    except ArenaError:
        return found
    pictures = []
    for start in range(FRAMES):
        truth.begin(seed + start)
        pictures.append(truth.frame.picture)
    truth.close()
    return found if pictures[0] is None else [*found, (f"{name}, rendered", np.stack(pictures))]


def measure(name: str, frames: np.ndarray, rounds: int) -> dict[str, Any]:
    """One row: sizes, similarity and time of every kind."""
    frames = np.ascontiguousarray(frames)
    jpeg = _similarity(frames, to_jpeg)
    found = bisect_left(QUALITIES, jpeg, key=lambda q: _similarity(frames, lambda rgb: to_webp(rgb, q)))
    equal = QUALITIES[found] if found < len(QUALITIES) else None
    kinds: dict[str, Callable[[np.ndarray], bytes]] = {
        "rgb": np.ndarray.tobytes,
        "jpeg": to_jpeg,
        "at_quality": lambda rgb: to_webp(rgb, QUALITY),
        "lossless": lambda rgb: to_webp(rgb, None),
    }
    if equal is not None:
        kinds["equal"] = lambda rgb: to_webp(rgb, equal)
    times = in_turns(rounds, *(lambda kind=kind: [kind(rgb) for rgb in frames] for kind in kinds.values()))
    row: dict[str, Any] = {"frames": name, "shape": list(frames.shape), "equal_quality": equal, "equal": None}
    for (kind, encode), taken in zip(kinds.items(), times):
        row[kind] = {
            "bytes": round(float(np.mean([len(encode(rgb)) for rgb in frames]))),
            "ms": round(median(taken) / len(frames), 4),
            "ssim": 1.0 if kind == "rgb" else round(_similarity(frames, encode), 5),
        }
    return row


def _similarity(frames: np.ndarray, encode: Callable[[np.ndarray], bytes]) -> float:
    seen = [np.asarray(Image.open(io.BytesIO(encode(rgb))).convert("RGB")) for rgb in frames]
    return float(ssim(np.stack(seen), frames).mean())


if __name__ == "__main__":
    main()
