"""One shot of a session as binary messages: small images raw and exact, large ones as JPEG, vectors as float32."""

from __future__ import annotations

import numpy as np
import simplejpeg

from ..spec import WorldSpec
from .header import JPEG, LATE, MAP, PICTURE, RAW, REPLAYED, TRUE, VECTOR, Header
from .moment import Shot

EXACT_SIDE = 128  # images up to this many pixels a side travel unchanged
QUALITY = 90


def parts(
    shot: Shot,
    spec: WorldSpec,
    memory: np.ndarray | None = None,
    *,
    session: int,
    epoch: int,
    seq: int,
    gen_us: int,
    flags: int,
) -> list[bytes]:
    """Encode every stream of a shot and the map of its `memory`, then the true environment's, each under its header."""
    sides = [(flags, shot.observation, MAP, memory)]
    if shot.truth is not None:
        sides.append((flags | TRUE, shot.truth.observation, PICTURE, shot.truth.picture))
    messages: list[bytes] = []
    for side, observation, extra, picture in sides:
        items = [(index, observation[name]) for index, name in enumerate(spec.modelled)]
        if picture is not None:
            items.append((extra, picture))
        for index, array in items:
            kind, payload, width, height = encode(array)
            header = Header(
                kind, session, side | index << 8, epoch, shot.frame, seq, gen_us, width, height, len(payload)
            )
            messages.append(header.pack() + payload)
    return messages


def encode(array: np.ndarray) -> tuple[int, bytes, int, int]:
    """Turn one frame into (kind, payload, width, height).

    uint8 `(h, w, 1|3)` becomes raw RGB, or JPEG beyond `EXACT_SIDE`; anything else becomes float32, in one row.
    """
    if array.dtype != np.uint8 or array.ndim != 3:
        flat = np.ascontiguousarray(array, "<f4").ravel()
        return VECTOR, flat.tobytes(), flat.size, 1
    height, width, channels = array.shape
    rgb = np.ascontiguousarray(array[..., :3] if channels >= 3 else np.repeat(array[..., :1], 3, axis=-1))
    if max(height, width) <= EXACT_SIDE:
        return RAW, rgb.tobytes(), width, height
    return JPEG, simplejpeg.encode_jpeg(rgb, quality=QUALITY, colorspace="RGB"), width, height


def frame_flags(*, late: bool, replayed: bool) -> int:
    """The flag bits that do not depend on the stream."""
    return LATE * late | REPLAYED * replayed
