"""Truth and dream side by side: animations and filmstrips, as bytes that a page or a file can hold."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GREY = 128  # shown where there is no true frame any more
_GAP = 2


def panels(true: np.ndarray, dreamed: np.ndarray) -> np.ndarray:
    """Lay out truth | dream | difference: `(T, h, w, C)` twice -> RGB uint8 `(T, h, 3w + 4, 3)`.

    The truth may be shorter; its place and the difference's are then grey.
    """
    left, middle = rgb(true), rgb(dreamed)
    missing = len(middle) - len(left)
    difference = np.abs(left.astype(np.int16) - middle[: len(left)].astype(np.int16)).astype(np.uint8)
    grey = np.full((max(missing, 0), *middle.shape[1:]), _GREY, np.uint8)
    gap = np.full((len(middle), middle.shape[1], _GAP, 3), _GREY, np.uint8)
    columns = [
        np.concatenate([left, grey])[: len(middle)],
        gap,
        middle,
        gap,
        np.concatenate([difference, grey])[: len(middle)],
    ]
    return np.concatenate(columns, axis=2)


def rgb(frames: np.ndarray) -> np.ndarray:
    """Return images `(..., h, w, C)` with three channels; unless C is 3, the last channel in grey."""
    return frames if frames.shape[-1] == 3 else np.repeat(frames[..., -1:], 3, axis=-1)


def captioned(frames: np.ndarray, captions: Sequence[str], height: int = 14) -> np.ndarray:
    """Put a strip of captions, one above each equal part of the width, over RGB frames `(T, h, w, 3)`."""
    strip = Image.new("RGB", (frames.shape[2], height), (24, 24, 24))
    draw = ImageDraw.Draw(strip)
    for i, caption in enumerate(captions):
        at = ((i + 0.5) * frames.shape[2] / len(captions), height / 2)
        draw.text(at, caption, fill=(235, 235, 235), anchor="mm", font=ImageFont.load_default(11))
    above = np.broadcast_to(np.asarray(strip)[None], (len(frames), height, frames.shape[2], 3))
    return np.concatenate([above, frames], axis=1)


def enlarged(frames: np.ndarray, least: int) -> np.ndarray:
    """Repeat pixels a whole number of times until the height of `(T, h, w, 3)` is at least about `least`."""
    factor = max(1, round(least / frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def fitted(frames: np.ndarray, height: int) -> np.ndarray:
    """Bring `(T, h, w, 3)` to exactly this height by repeating, or leaving out, whole rows and columns."""
    h, w = frames.shape[1:3]
    rows, columns = (np.arange(n * height // h) * h // height for n in (h, w))
    return frames[:, rows][:, :, columns]


def animation(frames: np.ndarray, fps: float) -> bytes:
    """Encode RGB frames `(T, h, w, 3)` as a looping WebP.

    Lossy, since a noisy dream does not compress otherwise; enlarge small frames first, or their colours smear.
    """
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(1000 / fps)),
        loop=0,
        quality=75,
        method=4,
    )
    return buffer.getvalue()


def filmstrip(rows: Sequence[dict[int, np.ndarray]], columns: Sequence[int], least: int = 64) -> bytes:
    """Draw rows of images under numbered columns as a PNG.

    Each row maps a column's number to an image `(h, w, C)`; a column that a row lacks is left transparent.
    """
    h, w = next(iter(rows[0].values())).shape[:2]
    factor = max(1, round(least / h))
    h, w = h * factor, w * factor
    head = 14
    sheet = Image.new("RGBA", (len(columns) * (w + _GAP), head + len(rows) * (h + _GAP)))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for i, column in enumerate(columns):
        draw.text((i * (w + _GAP) + w / 2, head / 2), str(column), fill=(128, 128, 128, 255), anchor="mm", font=font)
        for j, row in enumerate(rows):
            if column in row:
                image = enlarged(rgb(row[column])[None], h)[0]
                sheet.paste(Image.fromarray(np.ascontiguousarray(image)), (i * (w + _GAP), head + j * (h + _GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
