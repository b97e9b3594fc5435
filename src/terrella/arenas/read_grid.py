"""What a picture of a grid shows, read off its pixels alone: the facts that a describer needs, also of imagined frames.

Every cell is compared with the tiles that MiniGrid can draw there, and the nearest is what it holds. So a describer
(`GridSpeaker.did`) can tell in words what happens in a world's dream, without any true state: where the dream is wrong
or blurred, so is what is read.

    R pictures   n cells a side   M tiles   p pixels a side of a tile
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ..errors import SpecError, missing_extra
from .sentences import Facts
from .speak_grid import AHEAD, COLOURS, THINGS

Thing = tuple[str, str]  # kind and colour
DOORS = ("open", "closed", "locked")


class GridReader:
    """Reads pictures `(R, h, w, 3)` of a MiniGrid level with `cells` = (columns, rows), seen whole from above.

    Exact for true pictures whose tiles were drawn at their own size (`tile_size` times cells is the picture's size, as
    in `terrella/SentencesGrid-v0`); averaged ones are read less well.

    Raises `MissingExtra` without MiniGrid, `SpecError` for pictures that the cells do not divide.
    """

    def __init__(self, cells: tuple[int, int] = (8, 8)):
        self.cells = cells
        _tiles(8)  # tells now where MiniGrid is missing

    def read(self, pictures: np.ndarray, before: Sequence[Thing] = ()) -> list[Facts]:
        """Return the facts of each picture, as `GridSpeaker.facts` has them.

        before: things that were seen at an episode's beginning. A grid does not draw what the agent carries, so what
        is missing of these (the first, where it is more than one) is taken to be in its hands.
        """
        flat, (held, agents, names) = self._cut(pictures)
        things, people = _nearest(flat, held), _nearest(flat, agents)
        # Somebody is there: where the agent's tiles fit best, compared with everything else.
        place = (people[1] - things[1]).argmin(1)
        return [
            self._facts(things[0][r], int(place[r]), int(people[0][r, place[r]]), names, before)
            for r in range(len(flat))
        ]

    def agents(self, pictures: np.ndarray) -> np.ndarray:
        """Whether an agent can be made out at all, bool `(R,)`, which `read` takes for granted.

        It can where it fits some cell better than all else does, by a quarter of what that is in true pictures.
        """
        flat, (held, agents, _) = self._cut(pictures)
        own = _nearest(agents[None], held)[1] + np.square(agents).sum(1)
        return (_nearest(flat, held)[1] - _nearest(flat, agents)[1]).max(1) > own.min() / 4

    def things(self, picture: np.ndarray) -> list[Thing]:
        """Kind and colour of all things and doors in one picture `(h, w, 3)`, row by row."""
        return [thing[:2] for thing in self.read(picture[None])[0]["things"].values()]

    def _cut(self, pictures: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, list[Any]]]:
        """The cells of each picture, `(R, n * n, p * p * 3)`, and the tiles of their size."""
        columns, rows = self.cells
        count, height, width = pictures.shape[:3]
        p = width // columns
        if (
            pictures.dtype != np.uint8
            or pictures.shape[3:] != (3,)
            or (height, width) != (rows * p, columns * p)
            or not p
        ):
            raise SpecError(
                f"pictures are {pictures.dtype} {pictures.shape}; expected uint8 (R, h, w, 3) of {columns} x {rows} "
                "square cells."
            )
        cut = pictures.reshape(count, rows, p, columns, p, 3).transpose(0, 1, 3, 2, 4, 5)
        return cut.reshape(count, rows * columns, -1).astype(np.float32), _tiles(p)

    def _facts(self, tiles: np.ndarray, place: int, agent: int, names: list[Any], before: Sequence[Thing]) -> Facts:
        columns = self.cells[0]
        here = (place % columns, place // columns)
        found = {(i % columns, i // columns): names[tile] for i, tile in enumerate(tiles) if names[tile] is not None}
        found.pop(here, None)
        missing = list(before)
        for kind, colour, _ in found.values():
            if (kind, colour) in missing:
                missing.remove((kind, colour))
        carried = next((thing for thing in missing if thing[0] in THINGS), None)
        return {"pose": (*here, agent % len(AHEAD)), "carrying": carried, "things": found}


def _nearest(flat: np.ndarray, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest tile of each cell and its squared distance, both `(R, n * n)`, up to what all tiles share."""
    apart = np.square(tiles).sum(1) - 2 * flat @ tiles.T
    return apart.argmin(-1), apart.min(-1)


@cache
def _tiles(p: int) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str, str] | None]]:
    """Tiles of what may stand in a cell and of the agent in each direction, `(M, p * p * 3)`, lit and unlit; and what
    each of the former is, None for walls and floor.
    """
    try:
        from minigrid.core.grid import Grid
        from minigrid.core.world_object import Ball, Box, Door, Goal, Key, Wall
    except ModuleNotFoundError as error:
        raise missing_extra("minigrid", "arenas", "reading pictures of grids") from error
    kinds: dict[str, Any] = {"key": Key, "ball": Ball, "box": Box}
    there: list[tuple[Any, Any]] = [(None, None), (Wall(), None), (Goal(), None)]
    there += [(kinds[kind](colour), (kind, colour, "")) for kind in THINGS for colour in COLOURS]
    doors = {"open": {"is_open": True}, "closed": {}, "locked": {"is_locked": True}}
    there += [(Door(colour, **doors[state]), ("door", colour, state)) for state in DOORS for colour in COLOURS]

    def drawn(thing: Any, way: int | None, lit: bool) -> np.ndarray:
        return Grid.render_tile(thing, agent_dir=way, highlight=lit, tile_size=p).astype(np.float32).ravel()

    held = [(drawn(thing, None, lit), name) for lit in (False, True) for thing, name in there]
    agents = [drawn(None, way, lit) for lit in (False, True) for way in range(len(AHEAD))]
    return np.stack([tile for tile, _ in held]), np.stack(agents), [name for _, name in held]
