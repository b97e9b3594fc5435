"""H.264 for large pictures: what has changed since the frame before, at a fraction of the bytes of whole pictures.

Encoder and decoder both remember the pictures before, so a delta is worth nothing to whoever lacks one of them. There
is therefore an encoder for every stream of a session of a connection (`Video` has those of one session), and a key
frame, which needs nothing before it, begins it and comes again wherever the next message is not simply the next frame.

PyAV is imported where it is first used: that takes a while, and it may be there without libx264.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from ..errors import ServingError
from .header import H264_DELTA, H264_KEY, Header

log = logging.getLogger("terrella.serving")
KEY_EVERY = 32  # frames; whoever looks back has to decode so many at most
CRF = 18  # of x264: about as like the frame as JPEG of the server's quality, where not all of it moves
OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(CRF), "forced-idr": "1"}
BT709, SRGB, BT601 = 1, 13, 6  # primaries, curve and matrix, those of JPEG; else browsers guess by the size


@cache
def has_h264() -> bool:
    """Whether there is an encoder here."""
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


class Encoder:
    """Pictures of one size, uint8 `(h, w, 3)`, to H.264: a packet for each, at once and in order, in Annex B.

    Colours have half the resolution, so sides have to be even: an odd one gets its last row or column twice.
    """

    def __init__(self, height: int, width: int) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._pad = ((0, height % 2), (0, width % 2), (0, 0))
        self._count = 0
        self._reformatter = VideoReformatter()
        context = self._context = av.VideoCodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context.time_base, context.gop_size, context.thread_count = Fraction(1, 30), KEY_EVERY, 1
        context.color_primaries, context.color_trc, context.colorspace = BT709, SRGB, BT601
        context.options = dict(OPTIONS)

    def encode(self, rgb: np.ndarray, *, key: bool) -> tuple[int, bytes]:
        """Take the next picture; returns its kind and its bytes. key: whether it must need none before it."""
        import av
        from av.video.frame import PictureType

        even = np.pad(rgb, self._pad, "edge") if self._pad != ((0, 0),) * 3 else rgb
        frame = av.VideoFrame.from_ndarray(even, "rgb24")
        frame = self._reformatter.reformat(frame, format="yuv420p")
        frame.pts, frame.pict_type = self._count, PictureType.I if key else PictureType.NONE
        self._count += 1
        (packet,) = self._context.encode(frame)
        return H264_KEY if packet.is_keyframe else H264_DELTA, bytes(packet)


class Decoder:
    """The other end, for programs: the pictures of one stream of one session."""

    def __init__(self) -> None:
        import av

        self._context = av.VideoCodecContext.create("h264", "r")
        self._context.thread_count = 1
        self._begun = False

    def decode(self, header: Header, payload: bytes) -> np.ndarray:
        """Return the picture of one message, uint8 `(h, w, 3)`.

        Every message of the stream since the last key frame has to be given, in order; raises `ServingError` for a
        delta that nothing came before, and for what is not H.264.
        """
        import av
        from av.error import FFmpegError

        if header.kind not in (H264_KEY, H264_DELTA):
            raise ServingError(f"a message of kind {header.kind} is not H.264; expected {H264_KEY} or {H264_DELTA}.")
        if header.kind == H264_DELTA and not self._begun:
            raise ServingError("a stream begins with a key frame; this is a delta, which needs those before it.")
        try:
            (frame,) = self._context.decode(av.Packet(payload))
        except (FFmpegError, ValueError) as error:
            self._begun = False
            raise ServingError("this is no H.264 picture; decode every one since the last key frame.") from error
        self._begun = True
        return frame.to_ndarray(format="rgb24")[: header.height, : header.width]


class Studio:
    """How many encoders a server has `open`, and `most` at once; the engine thread's alone."""

    def __init__(self, most: int) -> None:
        self.most = most if has_h264() else 0
        self.open = 0


@dataclass
class _Take:
    """An encoder and the frame that it was given last."""

    encoder: Encoder
    shape: tuple[int, ...]
    moment: tuple[int, int]


class Video:
    """The large pictures of one session for one connection; once closed, it begins anew with the next of them."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._takes: dict[int, _Take] = {}
        self._failed = False

    def encode(
        self, stream: int, rgb: np.ndarray, moment: tuple[int, int], *, replayed: bool = False
    ) -> tuple[int, bytes] | None:
        """Return kind and payload of a stream's picture, which must be sent; None where it has to go as another codec.

        That is where the server has no room for another encoder, or one has failed here. moment: epoch and frame.
        """
        take, key = self._takes.get(stream), replayed
        if take is not None and take.shape != rgb.shape:
            take = self._drop(stream)
        if self._failed or (take is None and self._studio.open >= self._studio.most):
            return None
        try:
            if take is None:
                take, key = _Take(Encoder(*rgb.shape[:2]), rgb.shape, moment), True
                self._takes[stream] = take
                self._studio.open += 1
            key = key or moment != (take.moment[0], take.moment[1] + 1)
            take.moment = moment
            return take.encoder.encode(rgb, key=key)
        except Exception:  # the picture can be shown all the same, and the session goes on
            log.exception("encoding H.264 failed; this session goes on in another codec")
            self._failed = True
            self.close()
            return None

    def close(self) -> None:
        """Free the encoders."""
        for stream in list(self._takes):
            self._drop(stream)

    def _drop(self, stream: int) -> None:
        del self._takes[stream]  # with the last reference, libx264 frees what it holds
        self._studio.open -= 1
