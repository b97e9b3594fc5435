"""What commands share: how they speak to people, and how they find what people name."""

from __future__ import annotations

import importlib
import os
import re
import sys

from rich.console import Console

from ..errors import ArenaError

Say = Console(stderr=True, highlight=False)


def import_module(env: str) -> None:
    """Import the module of `module:Id`, which registers the environment; it may lie in the working folder."""
    if ":" in env:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(env.split(":")[0])
        except ModuleNotFoundError as error:
            raise ArenaError(f"{env!r} names a module that cannot be imported: {error}.") from error


def slug(env: str) -> str:
    """Name a folder after an environment."""
    return re.sub(r"[^a-z0-9]+", "-", env.split(":")[-1].removeprefix("procgen/").lower()).strip("-")


def plain(text: object) -> str:
    """Escape what rich would take for markup."""
    return str(text).replace("[", "\\[")
