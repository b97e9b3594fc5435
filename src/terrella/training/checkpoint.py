"""Where training stands, on disk: tensors in safetensors, the rest in JSON; whole or not at all."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrainingError
from ..files import atomic


def save_checkpoint(path: Path, groups: dict[str, dict[str, Tensor]], about: dict[str, Any]) -> None:
    """Write tensors by group and JSON values into one file, replaced in one move."""
    tensors = {f"{g}|{k}": v.detach().cpu().contiguous() for g, group in groups.items() for k, v in group.items()}
    with atomic(path) as partial:
        save_file(tensors, partial, {"terrella": json.dumps(about)})


@contextmanager
def unbroken() -> Iterator[None]:
    """Hold an interrupt (Ctrl-C) back until the block is done: half a step cannot be gone on from."""
    if threading.current_thread() is not threading.main_thread():
        yield  # interrupts reach the main thread alone
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held and callable(before):
        before(signal.SIGINT, None)


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `save_checkpoint` wrote; raises `TrainingError` when it is damaged."""
    try:
        groups: dict[str, dict[str, Tensor]] = {}
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {})["terrella"])
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                group, key = name.split("|", 1)
                groups.setdefault(group, {})[key] = file.get_tensor(name)
        return groups, about
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {path} is damaged ({error}); delete it to train from the start."
        ) from error


def require_unfinished(out: Path) -> None:
    """Raise `TrainingError` when training ended here: there is nothing to resume, and the world shall not be lost."""
    if (out / "world.json").exists() and not (out / "checkpoint.safetensors").exists():
        raise TrainingError(
            f"{out} holds a finished world. Train into another folder, or replace this one with resume=False "
            "(--no-resume on the command line)."
        )
