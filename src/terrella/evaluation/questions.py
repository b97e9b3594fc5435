"""Atomic dimensions as lines of a suite: which of them fit a world, who answers them, and beside which controls.

A dimension of perception is read out of features: a world's latents, which its tokenizers make of each frame of the
context, and its memory after the last one. Beside them stand the same of a world of the same parts with random weights
("untrained"), the frames themselves ("pixels"), and all quantities ("true state"). A dimension of prediction is
answered by whoever rolls out: every entrant, the untrained world, the true simulator, and the last frame held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ..arenas import describe
from ..config import to_json
from ..engine import Engine
from ..errors import ArenaError, EntrantError, TerrellaError, WorldError
from ..spec import WorldSpec
from ..world import World
from .dimension import Dimension, Items, build_items
from .dimensions import DIMENSIONS, find_dimension
from .entrant import Entrant, WorldEntrant
from .forks import Forks
from .kept import FORMAT, Kept
from .moments import Stage
from .perception import known, perceive, read
from .prediction import dimension_forks, foresee
from .probes import SessionReader, pixel_reader
from .readouts import Kind
from .references import CopyLast, Oracle
from .rollout import Dreamer

KINDS: tuple[Kind, ...] = ("linear", "mlp")
UNTRAINED = "untrained"
READ, PLAYED = ("pixels", "true state"), ("true simulator", "last frame held")  # controls without a world
CONTROLS = (UNTRAINED, *READ, *PLAYED)
ASKED, FEWEST = 768, 24  # items of perception, about, and layouts at least
FORESEEN, FEWEST_FORESEEN = 128, 16  # the same of prediction
_READING = ("device", "dtype", "precision", "memory")  # settings of an engine that decide what is read out
_STEPS = 8  # of a branch, about, for progress alone


@dataclass(frozen=True)
class Question:
    """One line of a suite: the dimension of an id, over so many layouts."""

    name: str
    layouts: int

    @property
    def dimension(self) -> Dimension:
        """What is asked; raises `UnknownName` for an id there is not."""
        return find_dimension(self.name)

    @property
    def frames(self) -> int:
        """About how many frames whoever answers is shown or makes."""
        each = self.dimension.frames if self.dimension.branches is None else self.dimension.classes * _STEPS
        return self.layouts * self.dimension.combinations * each


def whole(dimension: Dimension) -> Question:
    """The question of a dimension at the size that suites have."""
    items, fewest = (ASKED, FEWEST) if dimension.branches is None else (FORESEEN, FEWEST_FORESEEN)
    return Question(dimension.id, max(fewest, items // dimension.combinations))


QUESTIONS = tuple(whole(dimension) for dimension in DIMENSIONS.values())


class Scenes:
    """The scenes of a dimension in an environment as a world's: items and futures, made when first asked for.

    Raises as `Dimension.make_for` does.
    """

    def __init__(self, question: Question, spec: WorldSpec, seed: int) -> None:
        self.dimension, self.layouts, self.seed = question.dimension, question.layouts, seed
        self.env: gym.Env = self.dimension.make_for(spec)

    @cached_property
    def items(self) -> Items:
        """Scenes up to the question."""
        return build_items(self.dimension, self.env, self.layouts, self.seed)

    @cached_property
    def forks(self) -> Forks:
        """What follows, of a dimension of prediction."""
        return dimension_forks(self.dimension, self.env, self.items, self.seed)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def effort(question: Question, takers: int, references: bool) -> int:
    """About how many frames it takes until so many entrants, and the controls beside them, have answered."""
    return question.frames * (takers + (1 + len(READ)) * references)


def ask(
    plan: Sequence[Question],
    spec: WorldSpec,
    takers: Sequence[Entrant],
    kept: Kept,
    *,
    references: bool,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Ask each question of everybody, from what is kept or anew: `dimensions`, id -> result, and how many `reused`.

    A result has what the dimension is and, by whoever answered, `readouts`: what was read -> how -> `tally`; or
    `missing`, why it cannot be asked of worlds of `spec`.
    """
    if not plan:
        return {"dimensions": {}, "reused": 0}
    members: list[tuple[Entrant | str, dict[str, Any]]] = [(taker, taker.describe()) for taker in takers]
    world = next((taker for taker in takers if isinstance(taker, WorldEntrant)), None)
    if references and world is not None:
        blank = WorldEntrant(untrained(world.world, seed), world.settings, UNTRAINED)
        members.append((blank, blank.describe()))
    if references:
        members += [(name, {"name": name, "kind": "control"}) for name in (*READ, *PLAYED)]
    table: dict[str, Any] = {}
    reused = 0
    for question in plan:
        dimension, left = question.dimension, effort(question, len(takers), references)
        found = table[question.name] = {"dimension": told(dimension), "layouts": question.layouts, "entrants": {}}
        try:
            if dimension.branches is None and world is None:
                raise ArenaError("answers are read out of latents, and no world takes part.")
            with closing(Scenes(question, spec, seed)) as scenes:
                for member, said in members:
                    if _takes_part(member, dimension):
                        result, old = _answered(member, said, scenes, kept)
                        found["entrants"][said["name"]] = result
                        reused += old
                        left -= question.frames
                        advance(question.frames)
        except (TerrellaError, ImportError, gym.error.Error) as error:
            found["missing"] = str(error)
        advance(max(0, left))
    return {"dimensions": table, "reused": reused}


def _answered(member: Entrant | str, said: dict[str, Any], scenes: Scenes, kept: Kept) -> tuple[dict[str, Any], bool]:
    """What one of the members answers, and whether it was kept."""
    about = {"name": scenes.dimension.id, "layouts": scenes.layouts, **told(scenes.dimension)}
    settings = {"measurement": about, "entrant": said, "env": to_json(describe(scenes.env).env)}
    try:
        return kept.get({**settings, "seed": scenes.seed, "format": FORMAT}, partial(_answer, member, scenes))
    except (EntrantError, WorldError) as error:  # not kept: it may answer the next time
        return {"error": str(error)}, False


def untrained(world: World, seed: int = 0) -> World:
    """Return a world of the same parts with the weights that it has before training, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = World(world.spec, world.config, UNTRAINED)
    return made.to(next(world.parameters()).device).eval().requires_grad_(False)


def told(dimension: Dimension) -> dict[str, Any]:
    """What a dimension is, as JSON values."""
    names = ("id", "aspect", "asks", "arena", "classes", "frames", "still", "approximates", "settings")
    about = {name: getattr(dimension, name) for name in names}
    factors = {name: list(levels) for name, levels in dimension.factors.items()}
    return to_json({**about, "predicts": dimension.branches is not None, "factors": factors})


def _takes_part(member: Entrant | str, dimension: Dimension) -> bool:
    """Whether somebody takes part: latents are read out of worlds alone."""
    if isinstance(member, str):
        return member in (READ if dimension.branches is None else PLAYED)
    return dimension.branches is not None or isinstance(member, WorldEntrant)


def _answer(member: Entrant | str, scenes: Scenes) -> dict[str, Any]:
    dimension, items = scenes.dimension, scenes.items
    if dimension.branches is not None:
        return foresee(_dreamer(member, scenes), items, scenes.forks, describe(scenes.env).modelled, scenes.seed)
    found = _features(member, items, dimension.frames).items()
    return {"readouts": {name: perceive(dimension, items, x, kinds=KINDS, seed=scenes.seed) for name, x in found}}


def _features(member: Entrant | str, items: Items, frames: int) -> dict[str, np.ndarray]:
    """What is read of items, by name: features `(n, D)`."""
    if isinstance(member, WorldEntrant):
        how = {name: value for name, value in member.settings.items() if name in _READING}
        return read(items, SessionReader(Engine(member.world, recall=frames, **how)))
    return read(items, pixel_reader) if member == "pixels" else {"quantities": known(items)}


def _dreamer(member: Entrant | str, scenes: Scenes) -> Dreamer:
    if not isinstance(member, str):
        return member
    if member == "last frame held":
        return CopyLast()
    stage = Stage(scenes.env, describe(scenes.env), scenes.seed)
    return Oracle(stage, dict(zip(scenes.forks.seeds, scenes.forks.states)))
