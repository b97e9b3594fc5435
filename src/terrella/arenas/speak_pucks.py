"""What can be said of pucks seen from above: push a disc somewhere, go beside one, move, hold still.

The controller steers the velocity of the white disc; to come beside another it goes around it if need be. It
is no planner: other discs in the way spoil a push, and then `did` does not say that it was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .grammar import Deed, Verb
from .pucks import FORCE, SIDE, TICKS, Pucks
from .sentences import Facts, Speaker, speaker

COLOURS = ("red", "blue", "yellow", "green", "purple", "orange", "cyan")  # as `pucks.COLOURS` has them, after white
DIRECTIONS = {"up": (0.0, 1.0), "right": (1.0, 0.0), "down": (0.0, -1.0), "left": (-1.0, 0.0)}
SIDES = {"above": "up", "right of": "right", "below": "down", "left of": "left"}
TOUCH = 0.01  # metres between two discs that count as touching
NEAR = 0.04  # metres left when one has gone to a disc
PUSHED, MOVED = 0.05, 0.1  # metres a disc was pushed, or the white one moved, at least
STRAIGHT = 1.5  # how much farther than across
STILL = 0.05  # metres a second
GAIN = 0.6  # share of a difference in velocity that a push makes up for in one tick


@speaker
class PucksSpeaker(Speaker):
    """Deeds of the white disc. Facts: places, velocities, radii and colours of all discs, the white one's first."""

    chunk = 24
    rest = ("hold still",)
    verbs = (
        Verb(
            "push",
            (tuple(DIRECTIONS), COLOURS),
            (
                "[push|shove|knock|drive] the {1} [disc|puck] {0}",
                "give the {1} [disc|puck] a [push|shove] {0}",
            ),
            objects=2,
        ),
        Verb(
            "go",
            (tuple(SIDES), COLOURS),
            ("[go|move|roll] [|to a place|to a spot] {0} the {1} [disc|puck]",),
            objects=2,
            number=2,
        ),
        Verb("move", (tuple(DIRECTIONS),), ("[move|go|roll] [|on|farther] {0}", "[move|roll] the white disc {0}")),
        Verb("hold still", (), ("[hold|stay|keep] [still|where you are|at rest]",)),
    )

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `Pucks`, without gravity: seen from the side, pushing is another thing."""
        return type(env) is Pucks and not env.gravity.any()

    @property
    def sensors(self) -> spaces.Dict:
        """Places of discs by colour, white first."""
        return spaces.Dict({"sensors": spaces.Box(0.0, SIDE, (1 + len(COLOURS), 2))})

    def sensed(self) -> dict[str, np.ndarray]:
        """Return where the white disc is, and the first one of each colour (m), `(8, 2)`; zeros where there is none."""
        colours, first = np.unique(self.env.colour, return_index=True)
        places = np.zeros((1 + len(COLOURS), 2), np.float32)
        places[colours] = self.env.position[first]
        return {"sensors": places}

    def facts(self) -> Facts:
        """Return what is measured of every disc."""
        env = self.env
        disc = {"place": env.position, "velocity": env.velocity, "radius": env.radius, "colour": env.colour}
        return {name: values.copy() for name, values in disc.items()}

    def feasible(self, steps: int) -> list[Deed]:
        """Return pushes with room behind and ahead, sides of discs with room, and where one could move."""
        del steps  # a chunk is long enough to cross the box
        env, found = self.env, []
        place, radius = env.position, env.radius
        for colour, i in _named(env.colour).items():
            for direction, way in DIRECTIONS.items():
                ahead = place[i] + 3 * PUSHED * np.array(way)
                room = (np.minimum(ahead, SIDE - ahead) >= radius[i]).all()
                if room and self._is_free(self._beside(i, -np.array(way))):
                    found.append(("push", direction, colour))
            for side, direction in SIDES.items():
                beside = self._beside(i, np.array(DIRECTIONS[direction]))
                if self._is_free(beside) and np.hypot(*(beside - place[0])) > 2 * NEAR:
                    found.append(("go", side, colour))
        for direction, way in DIRECTIONS.items():
            ahead = place[0] + 2 * MOVED * np.array(way)
            if (np.minimum(ahead, SIDE - ahead) >= radius[0]).all():
                found.append(("move", direction))
        return [*found, ("hold still",)]

    def act(self, deed: Deed, begun: Facts, passed: int) -> np.ndarray:
        """Return the push that brings the white disc nearer to the velocity it should have."""
        del passed
        verb, place, radius = deed[0], self.env.position, self.env.radius
        if verb == "move":
            gone = float((place[0] - begun["place"][0]) @ np.array(DIRECTIONS[deed[1]]))
            return self._steer(0.6 * np.array(DIRECTIONS[deed[1]]) * (gone < 2 * MOVED))
        i = _named(self.env.colour).get(deed[-1]) if verb in ("push", "go") else None
        if i is None:  # nothing to do, or no such disc
            return self.idle()
        if verb == "go":
            return self._come(i, np.array(DIRECTIONS[SIDES[deed[1]]]))
        way = np.array(DIRECTIONS[deed[1]])
        if (place[i] - begun["place"][i]) @ way >= 2 * PUSHED:
            return self.idle()
        apart, across = place[0] - place[i], np.array([-way[1], way[0]])
        beside = float(apart @ across)
        if apart @ way < 0 and abs(beside) < 0.5 * radius[i]:
            return self._steer(1.2 * way - 6 * beside * across)
        return self._come(i, -way)

    def idle(self) -> np.ndarray:
        """Brake."""
        return self._steer(np.zeros(2))

    def wander(self, rng: Any, previous: Any) -> np.ndarray:
        """Push somewhere, mostly where one pushed before."""
        if previous is not None and rng.random() < 0.85:
            return previous
        return rng.uniform(-0.6, 0.6, 2).astype(np.float32)

    def did(self, trace: Sequence[Facts], played: Sequence[Any]) -> list[Deed]:
        """Say what was pushed (touched, made to move that way, and moved), gone to, and how the white disc moved."""
        del played
        first, last, found = trace[0], trace[-1], []
        for colour, i in _named(first["colour"]).items():
            touched = [t for t, facts in enumerate(trace) if _gap(facts, i) <= TOUCH]
            if touched:
                before = trace[max(touched[0] - 1, 0)]
                after = trace[min(touched[-1] + 1, len(trace) - 1)]
                direction = _direction(last["place"][i] - before["place"][i], PUSHED)
                faster = after["velocity"][i] - before["velocity"][i]
                if direction and faster @ np.array(DIRECTIONS[direction]) > STILL:
                    found.append(("push", direction, colour))
            side = _side(last, i)
            if side and side != _side(first, i):
                found.append(("go", side, colour))
        direction = _direction(last["place"][0] - first["place"][0], MOVED)
        if direction:
            found.append(("move", direction))
        if np.hypot(*last["velocity"][0]) < STILL and np.hypot(*(last["place"][0] - first["place"][0])) < MOVED / 2:
            found.append(("hold still",))
        return found

    def _beside(self, i: int, way: np.ndarray) -> np.ndarray:
        """Where the white disc is beside disc i, in a direction."""
        return self.env.position[i] + way * (self.env.radius[0] + self.env.radius[i] + NEAR / 2)

    def _is_free(self, place: np.ndarray) -> bool:
        """Whether the white disc has room there, as far as walls go."""
        return bool((np.minimum(place, SIDE - place) >= self.env.radius[0]).all())

    def _come(self, i: int, way: np.ndarray) -> np.ndarray:
        """Go beside disc i, in a direction; around it where it is in between."""
        place, radius = self.env.position, self.env.radius
        apart, across = place[0] - place[i], np.array([-way[1], way[0]])
        beside, goal = float(apart @ across), self._beside(i, way)
        if apart @ way < 0.5 * radius[i]:  # on the side where it already is
            side = across if beside >= 0 else -across
            past = radius[0] if abs(beside) > radius[i] else 0.0
            goal = place[i] + side * (radius[0] + radius[i] + NEAR) + past * way
        return self._steer(_limited(8 * (goal - place[0]), 1.8))

    def _steer(self, velocity: np.ndarray) -> np.ndarray:
        force = self.env.mass[0] * (velocity - self.env.velocity[0]) * TICKS * GAIN
        return (force / FORCE).clip(-1, 1).astype(np.float32)


def _named(colours: np.ndarray) -> dict[str, int]:
    """Each colour that pucks have -> the row of the first one of it."""
    found: dict[str, int] = {}
    for i, colour in enumerate(colours.tolist()):
        if colour:  # not the white one's
            found.setdefault(COLOURS[colour - 1], i)
    return found


def _gap(facts: Facts, i: int) -> float:
    """Metres between the edges of the white disc and disc i."""
    return float(np.hypot(*(facts["place"][i] - facts["place"][0])) - facts["radius"][0] - facts["radius"][i])


def _side(facts: Facts, i: int) -> str | None:
    """On which side of disc i the white one is, None where it is not near or between two."""
    direction = _direction(facts["place"][0] - facts["place"][i], 0.0) if _gap(facts, i) <= NEAR else None
    return next((side for side, to in SIDES.items() if to == direction), None)


def _direction(moved: np.ndarray, least: float) -> str | None:
    """The direction of a displacement that is long and straight enough to have one."""
    far, across = np.abs(moved).max(), np.abs(moved).min()
    if far < least or far < STRAIGHT * across:
        return None
    return max(DIRECTIONS, key=lambda name: float(moved @ np.array(DIRECTIONS[name])))


def _limited(velocity: np.ndarray, most: float) -> np.ndarray:
    return velocity * min(1.0, most / max(float(np.hypot(*velocity)), 1e-9))
