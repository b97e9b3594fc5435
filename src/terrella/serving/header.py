"""What comes before every part of a frame, 32 bytes, little endian.

Magic `WMF1`, kind u8, session u8, flags u16, epoch u32, frame u32, action_seq u32 (the last action consumed), gen_us
u32, width u16, height u16, payload_len u32. Flags: bit 0 the frame was late, bit 1 it was replayed, bit 2 it is the
true environment's; bits 8-15 are the stream's index in the world's order, 255 for a rendered picture, 254 for the map
of what the world remembers, where its memory is one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import ServingError

MAGIC = b"WMF1"
HEADER = struct.Struct("<4sBBHIIIIHHI")
RAW, JPEG, WEBP, H264_KEY, H264_DELTA, VECTOR = range(6)
LATE, REPLAYED, TRUE = 1, 2, 4
PICTURE, MAP = 255, 254  # in place of a stream's index: a rendered picture, a map of the memory


@dataclass(frozen=True)
class Header:
    """The 32 bytes before a part of a frame; `pack` and `unpack` are inverse."""

    kind: int
    session: int
    flags: int = 0
    epoch: int = 0
    frame: int = 0
    seq: int = 0
    gen_us: int = 0
    width: int = 0
    height: int = 0
    length: int = 0

    def pack(self) -> bytes:
        """Write the header as 32 bytes."""
        return HEADER.pack(
            MAGIC,
            self.kind,
            self.session,
            self.flags,
            self.epoch,
            self.frame,
            self.seq,
            min(self.gen_us, 2**32 - 1),
            self.width,
            self.height,
            self.length,
        )

    @classmethod
    def unpack(cls, message: bytes) -> tuple[Header, bytes]:
        """Split a binary message into header and payload; raises `ServingError` when it is cut short or not ours."""
        if len(message) < HEADER.size or message[:4] != MAGIC:
            raise ServingError(f"a frame begins with {MAGIC!r} and a {HEADER.size}-byte header; got {message[:8]!r}.")
        header = cls(*HEADER.unpack_from(message)[1:])
        payload = message[HEADER.size :]
        if len(payload) != header.length:
            raise ServingError(f"a frame's payload has {len(payload)} bytes; its header says {header.length}.")
        return header, payload

    @property
    def stream(self) -> int:
        """Index of the stream; `PICTURE` or `MAP` for what is no stream."""
        return self.flags >> 8


def renumber(message: bytes, session: int) -> bytes:
    """The same binary message with another number of its session, which is its sixth byte."""
    return b"%b%c%b" % (message[:5], session, message[6:])
