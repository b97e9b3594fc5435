"""What can be said of MiniGrid and BabyAI: where to go, what to pick up, put down and open, how to turn and walk.

A controller walks the shortest way that is free, and turns on the way; it knows the whole grid. Which deeds a level
allows follows from what is in it: GoToObject has things to go to and pick up, GoToDoor doors, UnlockPickup a key and a
locked door. Some levels end an episode with a deed (Fetch when something is picked up): then it was done, and ended.
Where two things are alike, the nearest is meant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .base import comes_from
from .grammar import Deed, Verb
from .sentences import Facts, Speaker, speaker

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
THINGS = ("key", "ball", "box")
STRIDES = ("one step", "two steps", "three steps", "four steps")
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)
TURNS = {"left": (LEFT,), "right": (RIGHT,), "around": (RIGHT, RIGHT)}
KINDS, SHADES, AGENT = 11, 6, 10  # MiniGrid's codes of a cell: how many objects and colours, and who acts
MOST = 8  # things that are sensed, where the level does not say how many there are
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, as MiniGrid counts directions
WANDERING = {LEFT: 0.15, RIGHT: 0.15, FORWARD: 0.5, PICK_UP: 0.12, DROP: 0.04, TOGGLE: 0.04}
Place = tuple[int, int]
Pose = tuple[int, int, int]  # column, row, direction


@speaker
class GridSpeaker(Speaker):
    """Deeds of an agent in a grid. Facts: its pose, what it carries, and every thing with place and state."""

    chunk = 12
    rest = ("wait",)
    verbs = (
        Verb(
            "go",
            (COLOURS, (*THINGS, "door")),
            ("[go|walk|head|move] [to|over to|up to] the {0} {1}",),
            objects=2,
        ),
        Verb(
            "turn and go",
            (("left", "right"), COLOURS, (*THINGS, "door")),
            ("turn {0} and [go|walk|head] [to|over to] the {1} {2}", "turn {0} then [go|walk] to the {1} {2}"),
            objects=2,
        ),
        Verb(
            "pick up",
            (COLOURS, THINGS),
            ("[pick up|take|grab|get] [the|that] {0} {1}", "go and [take|grab] the {0} {1}"),
            objects=2,
            number=1,
        ),
        Verb(
            "put next to",
            (COLOURS, (*THINGS, "door")),
            ("[put|lay|drop] [it|the thing] [next to|beside|near] the {0} {1}",),
            objects=2,
            number=3,
        ),
        Verb("open", (COLOURS,), ("[open|open up|push open] [the|that] {0} door",), objects=1, number=2),
        Verb("close", (COLOURS,), ("[close|shut|push shut] [the|that] {0} door",), objects=1, number=4),
        Verb("put down", (), ("[put down|drop|lay down] [it|the thing|what you carry]",)),
        Verb("turn", (tuple(TURNS),), ("[turn|swing|spin] [|yourself] {0}",)),
        Verb("walk", (STRIDES,), ("[walk|go|move] [ahead|straight ahead|forward] {0}",)),
        Verb("wait", (), ("[wait|stay|stand still|do nothing] [|here|a while]",)),
    )

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is built on `MiniGridEnv`."""
        return comes_from(env, "minigrid")

    @property
    def sensors(self) -> spaces.Dict:
        """A row for whoever acts, then one for each thing, as many as the level says that there are (else `MOST`)."""
        row = [KINDS, SHADES, self.env.width, self.env.height, len(AHEAD)]
        return spaces.Dict({"sensors": spaces.MultiDiscrete(np.tile(row, (self._rows, 1, 1)))})

    def sensed(self) -> dict[str, np.ndarray]:
        """Return kind, colour, column, row and direction or state of each, `(rows, 1, 5)`, in MiniGrid's own codes.

        Things come in the order of these numbers; what is carried is in the corner at 0, 0. Rows without a thing are
        zeros, and walls and things beyond the last row are left out.
        """
        found = [(*thing.encode(), *place) for place, thing in self._things()]
        found += [] if self.env.carrying is None else [(*self.env.carrying.encode(), 0, 0)]
        seen = np.zeros((self._rows, 1, 5), np.int64)
        x, y, direction = self._pose()
        seen[0, 0] = AGENT, 0, x, y, direction
        for row, (kind, colour, state, *place) in zip(seen[1:, 0], sorted(found)):
            row[:] = kind, colour, *place, state
        return {"sensors": seen}

    @property
    def _rows(self) -> int:
        return 1 + getattr(self.env, "numObjs", MOST)

    def facts(self) -> Facts:
        """Return pose, what is carried as (kind, colour) or None, and things as place -> (kind, colour, state)."""
        held = self.env.carrying
        return {
            "pose": self._pose(),
            "carrying": None if held is None else (held.type, held.color),
            "things": {place: (thing.type, thing.color, _state(thing)) for place, thing in self._things()},
        }

    def feasible(self, steps: int) -> list[Deed]:
        """Return what is within reach."""
        facts, found = self.facts(), []
        carrying, ways = facts["carrying"], self._ways()
        for place, (kind, colour, state) in facts["things"].items():
            way = _shortest(ways, lambda pose, place=place: _front(pose) == place)
            if way is None or kind not in (*THINGS, "door") or colour not in COLOURS or way[0] >= steps:
                continue
            if way[0]:  # it does not stand before it already
                found.append(("go", colour, kind))
                found += [("turn and go", side, colour, kind) for side in ("left", "right") if way[0] + 2 < steps]
            if kind in THINGS and carrying is None:
                found.append(("pick up", colour, kind))
            if kind == "door" and (state == "closed" or (state == "locked" and carrying == ("key", colour))):
                found.append(("open", colour))
            if kind == "door" and state == "open" and way[0]:
                found.append(("close", colour))
            if carrying is not None and self._towards_room({place}, ways, steps):
                found.append(("put next to", colour, kind))
        if carrying is not None:
            found.append(("put down",))
        found += [("turn", side) for side in TURNS]
        free = self._free_ahead()
        found += [("walk", stride) for n, stride in enumerate(STRIDES, 1) if n <= free]
        return [*dict.fromkeys(found), ("wait",)]

    def act(self, deed: Deed, begun: Facts, passed: int) -> int:
        """Return the next step of the shortest way to do it."""
        verb, facts = deed[0], self.facts()
        if verb == "turn" or (verb == "turn and go" and passed == 0):
            turns = TURNS[deed[1]]
            return turns[passed] if passed < len(turns) else self.idle()
        if verb == "walk":
            return FORWARD if passed <= STRIDES.index(deed[1]) else self.idle()
        if verb == "put down":
            free = self._towards(lambda pose: self.env.grid.get(*_front(pose)) is None)
            return self.idle() if facts["carrying"] is None or free is None else DROP if free[0] == 0 else free[1]
        if verb == "wait":
            return self.idle()
        colour, kind = (deed[1], "door") if verb in ("open", "close") else deed[-2:]
        places = {place for place, thing in facts["things"].items() if thing[:2] == (kind, colour)}
        if verb == "put next to":
            room = self._towards_room(places, self._ways(), self.env.max_steps)
            return self.idle() if facts["carrying"] is None or room is None else DROP if room[0] == 0 else room[1]
        way = self._towards(lambda pose: _front(pose) in places)
        if way is None or (verb == "pick up" and facts["carrying"] is not None):
            return self.idle()
        if way[0]:
            return way[1]
        state = facts["things"][_front(facts["pose"])][2]
        if verb == "pick up":
            return PICK_UP
        toggles = (verb == "open" and state != "open") or (verb == "close" and state == "open")
        return TOGGLE if toggles else self.idle()

    def idle(self) -> int:
        """Drop nothing, or pick up with hands full: MiniGrid has no action that does nothing in every level."""
        return DROP if self.env.carrying is None else PICK_UP

    def wander(self, rng: Any, previous: Any) -> int:
        """Walk on more often than not."""
        del previous
        return int(rng.choice(list(WANDERING), p=list(WANDERING.values())))

    def did(self, trace: Sequence[Facts], played: Sequence[Any]) -> list[Deed]:
        """Compare the first facts with the last; of the way only turns and straight walks are told.

        One went to what one faces now and did not face before.
        """
        first, last, found = trace[0], trace[-1], []
        if last["carrying"] is not None and first["carrying"] is None:
            kind, colour = last["carrying"]
            found.append(("pick up", colour, kind))
        if last["carrying"] is None and first["carrying"] is not None:
            found.append(("put down",))
            laid = last["things"].keys() - first["things"].keys()
            near = [thing for place, thing in last["things"].items() if any(_touch(place, other) for other in laid)]
            found += [("put next to", colour, kind) for kind, colour, _ in near if kind in (*THINGS, "door")]
        for place, (kind, colour, state) in last["things"].items():
            before = first["things"].get(place, (kind, colour, state))[2]
            if kind == "door" and (state == "open") != (before == "open"):
                found.append(("open" if state == "open" else "close", colour))
        poses = [facts["pose"] for facts in trace]
        ahead = last["things"].get(_front(poses[-1]))
        if ahead is not None and ahead[0] in (*THINGS, "door") and _front(poses[0]) != _front(poses[-1]):
            found.append(("go", ahead[1], ahead[0]))
            turned = (poses[1][2] - poses[0][2]) % 4
            if turned:
                found.append(("turn and go", "right" if turned == 1 else "left", ahead[1], ahead[0]))
        if last["carrying"] == first["carrying"] and last["things"] == first["things"]:
            found += _moved(poses)
        return found

    def _things(self) -> list[tuple[Place, Any]]:
        """What lies in the room but walls, row by row: place and MiniGrid's object."""
        grid = self.env.grid
        cells = (((x, y), grid.get(x, y)) for y in range(grid.height) for x in range(grid.width))
        return [(place, cell) for place, cell in cells if cell is not None and cell.type != "wall"]

    def _pose(self) -> Pose:
        env = self.env
        return int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir)

    def _ways(self) -> dict[Pose, tuple[int, int]]:
        """Every pose that can be reached -> how many steps away it is, and the first of them."""
        start = self._pose()
        ways: dict[Pose, tuple[int, int]] = {start: (0, -1)}
        queue = deque([start])
        while queue:
            x, y, way = pose = queue.popleft()
            steps, first = ways[pose]
            following = [(LEFT, (x, y, (way - 1) % 4)), (RIGHT, (x, y, (way + 1) % 4))]
            if self._is_free(_front(pose)):
                following.append((FORWARD, (*_front(pose), way)))
            for action, after in following:
                if after not in ways:
                    ways[after] = (steps + 1, action if steps == 0 else first)
                    queue.append(after)
        return ways

    def _towards(self, arrived: Callable[[Pose], bool]) -> tuple[int, int] | None:
        return _shortest(self._ways(), arrived)

    def _towards_room(
        self, places: set[Place], ways: dict[Pose, tuple[int, int]], steps: int
    ) -> tuple[int, int] | None:
        """The way to where one faces an empty cell that touches one of `places`, if it takes fewer than `steps`."""
        touching = {(x + dx, y + dy) for x, y in places for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
        way = _shortest(ways, lambda pose: _front(pose) in touching and self.env.grid.get(*_front(pose)) is None)
        return None if way is None or way[0] >= steps else way

    def _free_ahead(self) -> int:
        """How many cells one could walk straight ahead."""
        x, y, way = self._pose()
        count = 0
        while self._is_free(_front((x, y, way))):
            (x, y), count = _front((x, y, way)), count + 1
        return count

    def _is_free(self, place: Place) -> bool:
        """Whether one can stand there and live: not on a goal, which ends the episode, nor in lava."""
        grid = self.env.grid
        if not (0 <= place[0] < grid.width and 0 <= place[1] < grid.height):
            return False
        there = grid.get(*place)
        return there is None or (there.can_overlap() and there.type not in ("goal", "lava"))


def _front(pose: Pose) -> Place:
    x, y, way = pose
    return x + AHEAD[way][0], y + AHEAD[way][1]


def _touch(place: Place, other: Place) -> bool:
    """Whether two cells share an edge or a corner."""
    return place != other and max(abs(place[0] - other[0]), abs(place[1] - other[1])) == 1


def _shortest(ways: dict[Pose, tuple[int, int]], arrived: Callable[[Pose], bool]) -> tuple[int, int] | None:
    """The first of the nearest poses that will do, as `_ways` has it: they come in the order of their distance."""
    return next((way for pose, way in ways.items() if arrived(pose)), None)


def _state(thing: Any) -> str:
    if thing.type != "door":
        return ""
    return "open" if thing.is_open else "locked" if thing.is_locked else "closed"


def _moved(poses: Sequence[Pose]) -> list[Deed]:
    """Name turns on the spot, straight walks and rest; a winding way has no name."""
    places = list(dict.fromkeys(pose[:2] for pose in poses))
    turned = (poses[-1][2] - poses[0][2]) % 4
    if len(places) == 1:
        return [("wait",) if turned == 0 else ("turn", ("right", "around", "left")[turned - 1])]
    straight = len({pose[2] for pose in poses}) == 1 and len(places) - 1 <= len(STRIDES)
    return [("walk", STRIDES[len(places) - 2])] if straight else []
