"""Arrays as bytes: npz without pickle and without compression, refused before it is read if it would be too large."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from ..errors import EntrantError

LIMIT = 256 * 2**20  # bytes of one message
_KINDS = "biuf"  # booleans, integers, floats


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write named arrays of numbers; raises `EntrantError` for anything else, and past `LIMIT`."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in _KINDS:
            raise EntrantError(f"{name!r} has dtype {np.asarray(array).dtype}; only numbers are sent.")
    size = sum(np.asarray(array).nbytes for array in arrays.values())
    if size > LIMIT:
        raise EntrantError(f"a message of {size:,} bytes; at most {LIMIT:,} are sent. Ask for fewer sessions at once.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as whole:
        for name, array in arrays.items():
            with whole.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes, limit: int = LIMIT) -> dict[str, np.ndarray]:
    """Read named arrays; raises `EntrantError` for what is damaged, no array of numbers, or larger than `limit`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as whole:
            listed = whole.infolist()
            if sum(entry.file_size for entry in listed) > limit or len(listed) > 1024:
                raise EntrantError(f"a message that unpacks to more than {limit:,} bytes, or to too many arrays.")
            found = {}
            for entry in listed:
                with whole.open(entry) as file:  # reads no more than the size it was checked for
                    array = np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False)
                if array.dtype.kind not in _KINDS:
                    raise EntrantError(f"{entry.filename!r} has dtype {array.dtype}; only numbers are read.")
                found[entry.filename.removesuffix(".npy")] = array
            return found
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, KeyError) as error:
        raise EntrantError(f"a message that is no npz of numbers: {error}.") from error
