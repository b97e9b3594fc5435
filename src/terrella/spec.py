"""What one observation and one action look like, and the shape letters used everywhere.

    B batch   T frames   N tokens a frame   Z channels a token   D width   H heads
    W numbers in one flat action   C h w image   K denoising steps   L layers

Images are uint8 `h w C` at the door (as Gymnasium has them); channel order changes only inside a tokenizer.
Actions are flat rows of W numbers at rest and in batches: `terrella.actions` turns native actions into rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .errors import SpecError


@dataclass(frozen=True)
class StreamSpec:
    """One named part of an observation.

    `image`: uint8 `(h, w, C)`. `vector`: float32 `(F,)`, any other shape flattened. `text`: one string, recorded but
    not modelled. `low` and `high` bound vectors where the environment declares finite bounds. `native`: of vectors that
    are the row of something else, a grid of choices or the letters of a text, the space that it is of
    (`terrella.actions.decode` gives the value back).
    """

    kind: Literal["image", "vector", "text"]
    shape: tuple[int, ...] = ()
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    native: ActionSpec | None = None

    def __post_init__(self) -> None:
        if self.native is not None and (self.kind != "vector" or self.low is None):
            raise SpecError(f"a stream with a native space is a vector with bounds, not a {self.kind}.")
        if self.kind == "image" and len(self.shape) != 3:
            raise SpecError(f"an image stream has shape (h, w, C), not {self.shape}.")
        if self.kind == "vector" and len(self.shape) != 1:
            raise SpecError(f"a vector stream has shape (F,), not {self.shape}; flatten it first.")

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms in which a tokenizer may take it, the likeliest first: choices are numbers, too."""
        return (self.kind,) if self.native is None else ("codes", self.kind)


@dataclass(frozen=True)
class Motion:
    """How actions move the viewer, so that a memory of the world can move the other way.

    tables: one for each choice an action consists of (one for `discrete`, one a factor for `multi_discrete`); a table
    holds, for each value of the choice, `(down, right, left)`: steps down and right, in the unit of the environment
    (pixels or cells), and quarter turns to the left. What several choices say is added up.
    frame: `world` when the view slides without turning; `body` when steps are relative to where the viewer faces, which
    is up: a step forward is `(-1, 0, 0)`.
    extent: height and width after which the world repeats itself, or None where it does not.
    """

    tables: tuple[tuple[tuple[int, int, int], ...], ...]
    frame: Literal["world", "body"] = "world"
    extent: tuple[int, int] | None = None


@dataclass(frozen=True)
class ActionSpec:
    """A leaf or a tree of an action space, as JSON.

    `discrete`: `n` choices counted from `start`. `box`: `shape`, with `low` and `high` flattened, `dtype` its numpy
    name. `multi_discrete`: `nvec` flattened, with `shape`. `multi_binary`: `shape`. `text`: `n` bytes of UTF-8, at
    most. `tuple` and `dict`: `children`, with `keys` for a dict. `motion` says how the actions move the viewer, where
    the environment declares it.
    """

    kind: Literal["discrete", "box", "multi_discrete", "multi_binary", "text", "tuple", "dict"]
    n: int = 0
    start: int = 0
    shape: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    nvec: tuple[int, ...] = ()
    dtype: str = ""
    charset: str = ""
    keys: tuple[str, ...] = ()
    children: tuple[ActionSpec, ...] = ()
    motion: Motion | None = None

    def __post_init__(self) -> None:
        if self.motion is None:
            return
        counts = {"discrete": (self.n,), "multi_discrete": self.nvec}.get(self.kind)
        given = tuple(len(table) for table in self.motion.tables)
        if given != counts:
            raise SpecError(
                f"motion has tables of {given} values; {self.kind} actions here have {counts or 'no choices'}. A "
                "wrapper that turns actions into others needs an attribute `motion` of its own, or one that is None."
            )


@dataclass(frozen=True)
class EnvSpec:
    """How to make the environment again, exactly as it was recorded.

    `id` is a Gymnasium id ("" for a callable that has none). `pixels` replaces the observation by rendered frames;
    images are resized to `size` pixels square (0 keeps them); each action is repeated `frame_skip` times.
    """

    id: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    pixels: bool = False
    size: int = 64
    frame_skip: int = 1


@dataclass(frozen=True)
class WorldSpec:
    """Everything a dataset and a world agree on: streams, actions, where they came from, how a person acts.

    `action_names` names discrete choices. `keys` maps a keyboard chord such as `"ArrowLeft"` or `"ArrowLeft+ArrowUp"`
    (DOM `KeyboardEvent.code` names, sorted, joined by `+`) to a flat action row; `noop` is the row when nothing is
    held. `fps` is the speed at which a person would play it.
    """

    streams: dict[str, StreamSpec]
    action: ActionSpec
    env: EnvSpec = field(default_factory=EnvSpec)
    action_names: tuple[str, ...] = ()
    keys: dict[str, tuple[float, ...]] = field(default_factory=dict)
    noop: tuple[float, ...] | None = None
    fps: float = 15.0

    @property
    def modelled(self) -> dict[str, StreamSpec]:
        """The streams a world predicts: images and vectors."""
        return {name: s for name, s in self.streams.items() if s.kind != "text"}

    def without(self, streams: Collection[str]) -> WorldSpec:
        """The same with some streams left out."""
        return replace(self, streams={name: s for name, s in self.streams.items() if name not in streams})

    def same_interface(self, other: WorldSpec) -> bool:
        """Whether data of `other` fits a world of `self`: equal streams and equal actions."""
        return self.streams == other.streams and self.action == other.action
