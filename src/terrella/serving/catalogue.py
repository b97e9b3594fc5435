"""The worlds a server offers, by name. Clients never send a path: a name outside the list is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config import to_json
from ..dynamics import Dynamics, Flow, FlowWedge
from ..engine import Engine
from ..errors import ServingError, did_you_mean
from ..spec import WorldSpec
from ..world import GALLERY, World
from .curve import BatchCurve
from .slots import Slots
from .snapshots import Snapshots
from .truth import Truth

CARD_LENGTH = 20_000  # characters shown
CONTEXT = 4  # transitions before the first frame, for a world without recorded starts


@dataclass
class Served:
    """A loaded world and its engine.

    settings: of the engine, by name. repeats: whether equal pasts give equal bits, whoever shares a batch. store: where
    snapshots of its sessions rest. curves: what batches cost, by denoising steps. returns: seconds in which a session's
    state came back, by tier.
    """

    name: str
    world: World
    card: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    repeats: bool = True
    store: Snapshots | None = None
    curves: dict[int | None, BatchCurve] = field(default_factory=dict)
    returns: dict[str, float] = field(default_factory=dict)

    @property
    def spec(self) -> WorldSpec:
        """What its observations and actions look like."""
        return self.world.spec

    @property
    def plain_settings(self) -> dict[str, Any]:
        """Those settings of the engine that JSON can say."""
        return {k: v for k, v in self.settings.items() if v is None or isinstance(v, (bool, int, float, str))}

    @property
    def context(self) -> int:
        """Transitions that a start gives it."""
        return self.world.starts.actions.shape[1] if self.world.starts is not None else CONTEXT

    @cached_property
    def engine(self) -> Engine:
        """What runs all of its sessions."""
        return Engine(self.world, **self.settings)

    @cached_property
    def slots(self) -> Slots:
        """Where the states of its sessions lie."""
        return Slots(self.engine)

    def curve(self, steps: int | None) -> BatchCurve:
        """What batches of frames of so many denoising steps cost (None: of the engine's choice)."""
        return self.curves.setdefault(steps, BatchCurve())

    def note_return(self, tier: str, seconds: float) -> None:
        """Take how long a session's state took to come back from a tier."""
        self.returns[tier] = seconds + 0.8 * (self.returns.get(tier, seconds) - seconds)

    @cached_property
    def map(self) -> dict[str, Any] | None:
        """The form of the map that the world remembers by, as `Opened` tells it; None where memory is no map."""
        engine = self.engine
        dynamics = engine.world.dynamics
        drawn = dynamics.picture(dynamics.init(1, engine.device, engine.dtype))
        if drawn is None:
            return None
        height, width = drawn.shape[1:]
        return {"height": height, "width": width, "outline": _outline(dynamics, height, width)}

    def recorded(self, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """A recorded context chosen by `seed`: stream -> `(1, c+1, ...)`, actions `(1, c, W)`."""
        starts = self.world.starts
        if starts is None:
            env = self.spec.env.id or "unnamed"
            raise ServingError(
                f"world {self.name!r} has no recorded starts, and its environment ({env}) does not run here."
            )
        row = seed % len(starts.actions)
        return {k: v[row : row + 1] for k, v in starts.observations.items()}, starts.actions[row : row + 1]

    def truth(self) -> Truth:
        """The world's environment, made again."""
        return Truth(self.spec, self.context, self.world.starts)

    def about(self) -> dict[str, Any]:
        """Everything a page needs to show and drive this world, as JSON values."""
        spec = self.spec
        action = to_json(spec.action)
        streams = [{"name": n, **to_json(s)} for n, s in spec.modelled.items()]
        return {
            "name": self.name,
            "env": spec.env.id,
            "env_kwargs": to_json(spec.env.kwargs),
            "streams": streams,
            "action": action,
            "action_names": list(spec.action_names),
            "keys": to_json(spec.keys),
            "sentences": list(self.world.sentences),
            "noop": None if spec.noop is None else list(spec.noop),
            "fps": spec.fps,
            "steps": self.engine.steps,
            "step_choices": list(self.world.decoder.choices),
            "map": self.map,
            "parameters": sum(p.numel() for p in self.world.parameters()),
            "card": self.world.card,
            "card_text": self.card,
        }


class Catalogue:
    """Worlds by name, loaded when first asked for."""

    def __init__(
        self,
        worlds: Mapping[str, World | str | Path],
        *,
        device: str = "cpu",
        settings: Mapping[str, Any] | None = None,
        repeats: bool = True,
        store: Snapshots | None = None,
    ) -> None:
        if not worlds:
            raise ServingError("there is no world to serve; pass at least one.")
        self._sources = dict(worlds)
        self._device, self._settings = device, settings or {}
        self._kept = {"repeats": repeats, "store": store}
        self._served: dict[str, Served] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `get` knows, in the order given."""
        return tuple(self._sources)

    def get(self, name: str) -> Served:
        """Return the world called `name`; raises `UnknownName` for any other string."""
        if name not in self._sources:
            raise did_you_mean(name[:80], self._sources, "world")
        if name not in self._served:
            source = self._sources[name]
            if isinstance(source, World):
                self._served[name] = Served(name, source, "", self._settings, **self._kept)
            else:
                self._served[name] = Served(
                    name, World.load(source, self._device), _card(source), self._settings, **self._kept
                )
        return self._served[name]


def _outline(dynamics: Dynamics, height: int, width: int) -> list[tuple[float, float]]:
    """Corners `(x, y)` of what is in view on a map of these cells; none for a backbone that does not say."""
    if isinstance(dynamics, Flow):  # the view lies in the middle
        (h, w), top, left = dynamics.view, (height - dynamics.view[0]) // 2, (width - dynamics.view[1]) // 2
        return [(left, top), (left + w, top), (left + w, top + h), (left, top + h)]
    if isinstance(dynamics, FlowWedge):  # the viewer stands in the middle and looks up
        x, y = width / 2, height / 2
        aside = y * math.tan(math.radians(dynamics.config.angle / 2))
        return [(x, y), (x - aside, 0.0), (x + aside, 0.0)]
    return []


def _card(source: str | Path) -> str:
    """The text of a saved world's card, "" where it has none."""
    folder = Path(source) if (Path(source) / "world.json").exists() else GALLERY / str(source)
    try:
        with (folder / "card.md").open(encoding="utf-8", errors="replace") as file:
            return file.read(CARD_LENGTH)
    except OSError:
        return ""
