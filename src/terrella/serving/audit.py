"""Live a session's journal again from its beginning, and compare every frame with what was shown.

A journal has a hash of each frame (`moment.Shot.mark`). Where frames are reproducible to the bit, in exact mode or
where sessions are stepped alone, whoever has the journal and the world can therefore check that these actions in this
world gave these frames, also of what was rewound later, and on whatever server each of them was made. The keys of
snapshots are hashes of all that was said before (`snapshots`), so actions that were changed show in them as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import engine_settings
from ..errors import ServingError
from ..world import World
from .catalogue import Served
from .journal import Past, read_journal, retell
from .limits import Limits
from .session import Session
from .snapshots import Snapshots
from .stores import Folder

LIMITS = Limits(keyframe_bytes=2**30)


@dataclass
class Audit:
    """What an audit has found.

    frames: that were compared. differing: those that came out otherwise, first ones first. unmarked: frames without a
    hash. keys: snapshots whose key was compared; foreign: frames whose key does not follow from the journal. starts:
    beginnings that were lived again from their seed; taken: those taken from their snapshot.
    """

    frames: int = 0
    unmarked: int = 0
    keys: int = 0
    starts: int = 0
    taken: int = 0
    differing: list[int] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that could be compared is equal, and every frame could be."""
        return not (self.differing or self.foreign or self.unmarked) and self.frames + self.starts + self.taken > 0


def audit(journal: str | Path, world: World, engine: Mapping[str, Any] | None = None) -> Audit:
    """Live a journal again in a world and compare.

    engine: settings of the engine, where they are not those that the journal names. Beginnings that no seed brings
    back (from a true environment) are taken from their snapshot, in the folder in which the server keeps them.
    Raises `ServingError` for a journal that is absent or damaged, or a beginning that cannot be had again.
    """
    path, past, found = Path(journal), Past(), Audit()
    if not path.is_file():
        raise ServingError(f"there is no journal {path}; those of a server lie in sessions/ of the folder it keeps.")
    folder = path.parent.parent / "snapshots"
    store = Snapshots(Folder(folder)) if folder.is_dir() else None
    about = read_journal(path).about  # a journal begins before it says how
    settings = engine_settings({**about.get("engine", {}), **(engine or {})})
    served = Served(str(about.get("world")), world, settings=settings, store=store)
    session: Session | None = None
    for kind, value in retell(path, past):
        if kind == "start":
            session = _began(served, past, found)
        elif session is None:
            continue
        elif kind == "act":
            row, steps = past.rows[-1]
            session.steps = steps
            shown = session.advance(np.asarray(row)).mark()
            found.frames += past.marks[-1] is not None
            found.unmarked += past.marks[-1] is None
            if past.marks[-1] not in (None, shown):
                found.differing.append(past.frame)
        elif kind == "back" and value != session.shot.frame:
            session.rewind(value)
        elif kind == "keep":
            found.keys += 1
            if value[1] != session.key:
                found.foreign.append(past.frame)
    return found


def _began(served: Served, past: Past, found: Audit) -> Session:
    """A session at the start that a journal has just told of."""
    frame, key = past.frame, past.kept[past.frame]
    if frame == 0 and served.world.starts is not None:
        session = Session(served, seed=past.seed, truth=None, limits=LIMITS)
        if session.key == key:
            found.starts += 1
            return session
        session.close()
    if served.store is None or key not in served.store:
        raise ServingError(
            f"what frame {frame} of this session began from is not kept any more, and its seed does not bring it back "
            "in this world; audit it with the snapshots of its server, and the engine's settings of then."
        )
    found.taken += 1
    copy = replace(past, rows=list(past.rows), marks=list(past.marks), kept=dict(past.kept), starts=set(past.starts))
    return Session(served, seed=past.seed, truth=None, limits=LIMITS, past=copy)
