"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty file to write instead of `path`; it takes the place of `path` when the block is done.

    Whoever opens `path` finds the old content or the new, also after a crash or a power cut: the new content is on the
    disk before it takes the name, and the name before the block ends. The file has the permissions of any new file. A
    block that raises leaves `path` as it was and nothing beside it; a process killed inside leaves `<name>.tmp`, which
    the next write replaces. One writer a path at a time.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".tmp")
    partial.unlink(missing_ok=True)
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:  # safetensors makes files that their owner alone may read
            partial.chmod(mode)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
