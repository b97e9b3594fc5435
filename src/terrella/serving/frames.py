"""One shot of a session as binary messages: small images exactly, large ones in a codec, vectors as float32.

JPEG goes with small images as they are, which takes no time; WebP with lossless ones, a tenth of the bytes; H.264 (see
`video`) with either. Time is the engine thread's and bytes are the network's, so which is better is for the client to
say (`benchmarks/codecs.py`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
import simplejpeg
from PIL import Image, features

from ..spec import WorldSpec
from .header import JPEG, LATE, MAP, PICTURE, RAW, REPLAYED, TRUE, VECTOR, WEBP, Header
from .moment import Shot
from .video import Video, has_h264

EXACT_SIDE = 128  # images up to this many pixels a side travel unchanged
QUALITY = 90
METHOD = 0  # of WebP: the fastest


@cache
def list_codecs() -> tuple[str, ...]:
    """Return the names of the codecs that there are here."""
    there = {"jpeg": True, "webp": features.check("webp"), "h264": has_h264()}
    return tuple(name for name in there if there[name])


def choose_codecs(wanted: Sequence[str]) -> tuple[str, str]:
    """Choose the codec of large images, and of all that cannot have it: H.264 is for large ones where there is room.

    Each is the first that a client wants of those that there are; JPEG where it wants none of them.
    """
    there = [name for name in wanted if name in list_codecs()]
    return next(iter(there), "jpeg"), next((name for name in there if name != "h264"), "jpeg")


def parts(
    shot: Shot,
    spec: WorldSpec,
    memory: np.ndarray | None = None,
    *,
    codec: str = "jpeg",
    video: Video | None = None,
    session: int,
    epoch: int,
    seq: int,
    gen_us: int,
    flags: int,
) -> list[bytes]:
    """Encode every stream of a shot and the map of its `memory`, then the true environment's, each under its header.

    codec: of images, `jpeg` or `webp`. video: takes the large ones instead, as long as it can.
    """
    moment = epoch, shot.frame
    sides = [(flags, shot.observation, MAP, memory)]
    if shot.truth is not None:
        sides.append((flags | TRUE, shot.truth.observation, PICTURE, shot.truth.picture))
    messages: list[bytes] = []
    for side, observation, extra, picture in sides:
        items = [(index, observation[name]) for index, name in enumerate(spec.modelled)]
        if picture is not None:
            items.append((extra, picture))
        for index, array in items:
            moved = None
            if video is not None and is_large(array):
                moved = video.encode(side & TRUE | index << 8, to_rgb(array), moment, replayed=bool(flags & REPLAYED))
            kind, payload, width, height = encode(array, codec) if moved is None else (*moved, *array.shape[1::-1])
            header = Header(
                kind, session, side | index << 8, epoch, shot.frame, seq, gen_us, width, height, len(payload)
            )
            messages.append(header.pack() + payload)
    return messages


def encode(array: np.ndarray, codec: str = "jpeg") -> tuple[int, bytes, int, int]:
    """Turn one frame into (kind, payload, width, height).

    uint8 `(h, w, 1|3)` is encoded as `codec` says, exactly up to `EXACT_SIDE`; anything else is float32, in one row.
    """
    if array.dtype != np.uint8 or array.ndim != 3:
        flat = np.ascontiguousarray(array, "<f4").ravel()
        return VECTOR, flat.tobytes(), flat.size, 1
    rgb, small = to_rgb(array), not is_large(array)
    height, width, _ = rgb.shape
    if codec == "webp":
        return WEBP, to_webp(rgb, None if small else QUALITY), width, height
    return (RAW, rgb.tobytes(), width, height) if small else (JPEG, to_jpeg(rgb), width, height)


def is_large(array: np.ndarray) -> bool:
    """Whether one frame is an image that does not travel unchanged."""
    return array.dtype == np.uint8 and array.ndim == 3 and max(array.shape[:2]) > EXACT_SIDE


def to_rgb(array: np.ndarray) -> np.ndarray:
    """Give a uint8 `(h, w, 1|3)` three channels that lie together."""
    return np.ascontiguousarray(array[..., :3] if array.shape[-1] >= 3 else np.repeat(array[..., :1], 3, axis=-1))


def to_jpeg(rgb: np.ndarray) -> bytes:
    """Encode uint8 `(h, w, 3)`, colours at full resolution."""
    return simplejpeg.encode_jpeg(rgb, quality=QUALITY, colorspace="RGB")


def to_webp(rgb: np.ndarray, quality: int | None) -> bytes:
    """Encode uint8 `(h, w, 3)`: colours at half the resolution, or with no `quality` (None) every pixel as it is."""
    buffer, how = io.BytesIO(), {"lossless": True, "quality": 0} if quality is None else {"quality": quality}
    Image.fromarray(rgb).save(buffer, "WEBP", method=METHOD, **how)
    return buffer.getvalue()


def frame_flags(*, late: bool, replayed: bool) -> int:
    """The flag bits that do not depend on the stream."""
    return LATE * late | REPLAYED * replayed
