"""Every exception Terrella raises on purpose. Each message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TerrellaError(Exception):
    """Base of all errors that a user can cause and mend; the command line prints them without a traceback."""


class ConfigError(TerrellaError):
    """A configuration has an unknown key, a wrong type or a value out of range."""


class UnknownName(TerrellaError):
    """A name is not registered; the message lists the nearest ones."""


class MissingExtra(TerrellaError):
    """An optional package is needed; the message names the extra that brings it."""


class SpecError(TerrellaError):
    """Observations or an environment do not match what a dataset or world was made for."""


class ActionError(TerrellaError):
    """An action does not fit the action space."""


class DatasetError(TerrellaError):
    """A dataset is absent, incomplete or of another format version."""


class DamagedData(DatasetError):
    """A stored file fails its checksum or cannot be decoded; the message names file and chunk."""


class WorldError(TerrellaError):
    """A saved world is absent, incomplete or of another format version, or a world predicts what is not finite."""


class StateError(TerrellaError):
    """A state does not belong to this engine, or its file does not match."""


class StateSpent(StateError):
    """A state was already consumed by a step; fork it before stepping to keep both."""


class ArenaError(TerrellaError):
    """An environment cannot do what was asked of it (save, restore, render)."""


class TrainingError(TerrellaError):
    """Training cannot start or continue as asked."""


class CheckFailed(TerrellaError):
    """A part breaks a law that every part keeps; the message names the law, what was expected and what came."""


class PuzzleError(TerrellaError):
    """A puzzle is ill-formed, has no or several solutions, or cannot be made as asked."""


class ServingError(TerrellaError):
    """A client or server broke the protocol or a limit."""


class ServerFull(ServingError):
    """A server has no room or no time for another session now; the message says what would fit."""


class EntrantError(TerrellaError):
    """A model brought along for evaluation did not answer, or answered what was not asked."""


class LanguageModelError(TerrellaError):
    """A language model cannot be opened, did not answer, or answered in another form than was agreed."""


def did_you_mean(name: str, known: Iterable[str], what: str) -> UnknownName:
    """Return an `UnknownName` for `name` that lists the nearest of the `known` names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return UnknownName(f"there is no {what} named {name!r}.{hint} Known: {shown or 'none'}.")


def missing_extra(package: str, extra: str, what: str) -> MissingExtra:
    """Return a `MissingExtra` that names the package, what needs it and the extra to install."""
    return MissingExtra(f"{what} needs the package {package!r}. Install it with: pip install 'terrella[{extra}]'")
