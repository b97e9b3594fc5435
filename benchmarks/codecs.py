"""Bytes and milliseconds of a frame as RGB, JPEG and WebP, at equal structural similarity, and of streams as H.264.

    python benchmarks/codecs.py --json codecs.json

Frames are those that a server sends: what worlds of the gallery begin from, at their own size, and the rendered picture
of the true environment that goes beside those without images. JPEG has the server's quality and no subsampling, so that
colours keep their edges; WebP always halves the resolution of colour. The quality of WebP is the least whose mean SSIM
is that of JPEG or more; where even 100 has less, `equal` is null. Timings of all kinds are taken in turns, one thread.

H.264 tells what has changed, so it is measured on `streams`: consecutive pictures of more than 128 pixels a side that
environments render under random actions, with all that a server does for them, the encoder's beginning included.

| key | meaning |
|---|---|
| `bytes`, `ms` | of a frame, mean over frames and median over rounds |
| `ssim` | mean over frames; 1 for RGB and for lossless WebP, which are exact |
| `at_quality` | WebP of the server's quality; `equal`: of the least quality with JPEG's similarity |
| `lossless` | WebP that gives every pixel back |
| `streams` | `jpeg`, `at_quality` and `h264`; of that `key` and `delta` are the bytes of the two kinds of message |
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from common import arguments, in_turns, median, write_json
from PIL import Image

from terrella import arenas
from terrella.errors import ArenaError
from terrella.evaluation.metrics import ssim
from terrella.serving.catalogue import Served
from terrella.serving.frames import METHOD, QUALITY, to_jpeg, to_rgb, to_webp
from terrella.serving.header import H264_DELTA, H264_KEY, Header
from terrella.serving.video import CRF, KEY_EVERY, Decoder, Studio, Video
from terrella.world import World

FRAMES = 8  # of each world
QUALITIES = range(50, 101)
STREAMS = ("ALE/Pong-v5", "terrella/Sprites-v0", "LunarLander-v3", "Pendulum-v1", "MiniWorld-Hallway-v0")
LENGTH, LOOK = 2 * KEY_EVERY, 9  # frames of a stream, of which one in nine is compared


def main() -> None:
    options = arguments(__doc__, rounds=9).parse_args()
    sets = {name: frames for world in World.list_gallery() for name, frames in gallery_frames(world, options.seed)}
    rows = [measure(name, frames, options.rounds) for name, frames in sets.items()]
    streams = [measure_stream(name, played(name, options.seed), options.rounds) for name in STREAMS]
    settings = {"jpeg_quality": QUALITY, "webp_method": METHOD, "h264_crf": CRF, "h264_key_every": KEY_EVERY}
    write_json({"rows": rows, "streams": streams, **settings}, options.json, seeds=[options.seed])


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


def played(name: str, seed: int) -> np.ndarray:
    """What an environment renders while somebody acts at random, uint8 `(n, h, w, 3)`."""
    env = arenas.make(name)
    env.action_space.seed(seed)
    env.reset(seed=seed)
    pictures = list[np.ndarray]()
    while len(pictures) < LENGTH:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        pictures.append(to_rgb(np.asarray(env.render())))
    env.close()
    return np.stack(pictures)


def measure_stream(name: str, frames: np.ndarray, rounds: int) -> dict[str, Any]:
    """One row: bytes, similarity and time of every kind for consecutive frames."""
    kinds: dict[str, Callable[[], list[tuple[int, bytes]]]] = {
        "jpeg": lambda: [(0, to_jpeg(rgb)) for rgb in frames],
        "at_quality": lambda: [(0, to_webp(rgb, QUALITY)) for rgb in frames],
        "h264": lambda: _as_h264(frames),
    }
    times = in_turns(rounds, *kinds.values())
    sent = {kind: encode() for kind, encode in kinds.items()}
    row: dict[str, Any] = {"frames": name, "shape": list(frames.shape)}
    for (kind, messages), taken in zip(sent.items(), times):
        seen = _decoded(messages, frames) if kind == "h264" else _opened(data for _, data in messages)
        similar = ssim(seen[::LOOK], frames[::LOOK])
        row[kind] = {"bytes": _size(messages), "ms": round(median(taken) / len(frames), 4)}
        row[kind]["ssim"] = round(float(similar.mean()), 5)
    for name, kind in (("key", H264_KEY), ("delta", H264_DELTA)):
        row["h264"][name] = _size([message for message in sent["h264"] if message[0] == kind])
    return row


def _size(messages: Sequence[tuple[int, bytes]]) -> int:
    return round(float(np.mean([len(data) for _, data in messages])))


def _as_h264(frames: np.ndarray) -> list[tuple[int, bytes]]:
    video = Video(Studio(1))
    sent = [video.encode(0, rgb, (0, i)) for i, rgb in enumerate(frames)]
    video.close()
    return [message for message in sent if message is not None]


def _decoded(sent: list[tuple[int, bytes]], frames: np.ndarray) -> np.ndarray:
    decoder, (_, height, width, _) = Decoder(), frames.shape
    return np.stack([decoder.decode(Header(kind, 1, width=width, height=height), data) for kind, data in sent])


def _opened(images: Iterable[bytes]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in images])


def _similarity(frames: np.ndarray, encode: Callable[[np.ndarray], bytes]) -> float:
    return float(ssim(_opened(encode(rgb) for rgb in frames), frames).mean())


if __name__ == "__main__":
    main()
