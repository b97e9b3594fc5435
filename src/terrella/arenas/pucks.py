"""Pucks on a table, or balls in a box: rigid discs with mass, friction, restitution and gravity to set.

The physics is pymunk's. Its solver starts each step from the contact impulses of the step before, which no body shows:
a space copied from positions and velocities alone has another future. Here every tick builds its space anew from
arrays, so that nothing is hidden: the state is those arrays, and saving, restoring and changing them is exact.

| id | seen from | gravity | drag |
|---|---|---|---|
| `terrella/Pucks-v0` | above | none | 0.3 / s |
| `terrella/PucksFalling-v0` | the side | 9.81 m/s^2 down | 0.05 / s |
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError, missing_extra
from .base import Simulator, adapter
from .quantity import Quantity, attribute

SIDE = 1.0  # metres of the box
TICKS, SUBSTEPS = 20, 5  # a second; of the solver in a tick
FORCE = 5.0  # newtons of a full push
CELLS = 4  # a side of the grid on which discs are placed at a reset
MOST = CELLS * CELLS - 1
SLOP = 1e-4  # metres that discs may overlap; pymunk's own 0.1 is meant for pixels
BACKGROUND, SPOKE = (24, 26, 32), (16, 16, 16)
COLOURS = (
    (240, 240, 240), (230, 70, 60), (70, 160, 230), (250, 200, 60), (90, 200, 110), (180, 110, 220), (240, 140, 50),
    (110, 220, 220),
)  # fmt: skip
# What changes while it runs -> unit and range; those of discs have a row each, the pusher's first.
STATE: dict[str, tuple[str, float, float]] = {
    "position": ("m", 0.0, SIDE),
    "velocity": ("m/s", -50.0, 50.0),
    "angle": ("rad", -math.inf, math.inf),
    "spin": ("rad/s", -1e3, 1e3),
    "mass": ("kg", 1e-3, 1e3),
    "radius": ("m", 0.01, SIDE / 4),
    "friction": ("1", 0.0, 10.0),
    "restitution": ("1", 0.0, 1.0),
    "colour": ("place among the colours", 0, len(COLOURS) - 1),
    "gravity": ("m/s^2", -100.0, 100.0),
    "drag": ("1/s", 0.0, 100.0),
    "gust": ("N", 0.0, 100.0),
}
Range = tuple[float, float]


class Pucks(gym.Env[np.ndarray, np.ndarray]):
    """A box of 1 m with discs in it, one of which, white, is pushed.

    Observation: uint8 `(view, view, 3)`; a spoke shows how a disc is turned. Actions: `Box(-1, 1, (2,))`, the force on
    the pusher to the right and up, in units of 5 N. Rewards: 0. End: never (registered ids are truncated after 500
    steps, of 1/20 s each).

    At a reset the number of pucks is drawn from `count` (both ends included); every disc draws a place, a velocity of
    at most `speed` m/s each way, and its mass (kg), radius (m), friction and restitution from the ranges. Where two
    discs touch, their frictions and restitutions are multiplied; walls have 1 of both. drag: the share of velocity
    lost, 1/s. gust: standard deviation of a random force on each disc, drawn each tick: the only chance there is.
    mixed: whether the order in which pucks get the seven colours is drawn, too; each comes again at the eighth.
    spokes: whether discs have one, or are plain.

    Raises `ArenaError` for numbers that make no world, `MissingExtra` without pymunk.
    """

    # what discs have, a row each; `_place` fills them in
    mass: np.ndarray
    radius: np.ndarray
    friction: np.ndarray
    restitution: np.ndarray
    colour: np.ndarray

    metadata = {"render_modes": ["rgb_array"], "render_fps": TICKS}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        *,
        view: int = 64,
        count: tuple[int, int] = (3, 5),
        speed: float = 1.0,
        mass: Range = (0.5, 2.0),
        radius: Range = (0.06, 0.1),
        friction: Range = (0.2, 0.8),
        restitution: Range = (0.6, 1.0),
        gravity: Range = (0.0, 0.0),
        drag: float = 0.3,
        gust: float = 0.0,
        mixed: bool = False,
        spokes: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if not (view >= 8 and 0 <= count[0] <= count[1] <= MOST):
            raise ArenaError(f"view is {view}, count {count}; expected at least 8, and a pair within 0..{MOST}.")
        ranges = {"mass": mass, "radius": radius, "friction": friction, "restitution": restitution}
        for name, pair in {**ranges, "gravity": gravity, "drag": (drag, drag), "gust": (gust, gust)}.items():
            low, high = STATE[name][1:] if name != "radius" else (STATE[name][1], SIDE / CELLS / 2)
            if not all(low <= number <= high for number in pair):
                raise ArenaError(f"{name} is {pair} {STATE[name][0]}; expected numbers from {low:g} to {high:g}.")
        self._pymunk = _import()
        self.view, self.count, self.speed, self.ranges = int(view), count, float(speed), ranges
        self.gravity, self.drag, self.gust = np.array(gravity, np.float64), float(drag), float(gust)
        self._made_with = (self.gravity, self.drag, self.gust)
        self.mixed, self.spokes = mixed, spokes
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (self.view, self.view, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._place(np.random.default_rng(0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with other discs, drawn from the environment's random stream."""
        super().reset(seed=seed)
        self._place(self.np_random)
        return self.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push for one tick, then look."""
        push = np.asarray(action, np.float64)
        if push.shape != (2,) or not np.isfinite(push).all():
            raise ArenaError(f"action is {action!r}; expected two finite numbers from -1 to 1.")
        force = np.zeros_like(self.position)
        if self.gust > 0:
            force += self.np_random.normal(0.0, self.gust, force.shape)
        force[0] += FORCE * push.clip(-1, 1)
        self._advance(force)
        return self.picture(), 0.0, False, False, {}

    def render(self) -> Any:
        """Return the picture, uint8 `(view, view, 3)`."""
        return self.picture() if self.render_mode == "rgb_array" else None

    def picture(self) -> np.ndarray:
        """Draw the discs, later ones over earlier ones, the pusher last; edges are as smooth as a pixel allows."""
        at, pixel = (np.arange(self.view) + 0.5) * SIDE / self.view, SIDE / self.view
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        reach = self.radius[:, None] + pixel  # of what a disc may colour, by row and column
        first = ((self.position - reach) / pixel).astype(int).clip(0, self.view)
        last = ((self.position + reach) / pixel).astype(int).clip(-1, self.view - 1) + 1
        frame = np.full((self.view, self.view, 3), BACKGROUND, np.float64)
        for i in range(len(first) - 1, -1, -1):
            (left, low), (right, high) = first[i], last[i]
            dx = at[None, left:right] - self.position[i, 0]
            dy = at[low:high, None][::-1] - self.position[i, 1]
            disc = ((self.radius[i] - np.sqrt(dx * dx + dy * dy)) / pixel + 0.5).clip(0, 1)
            box = frame[self.view - high : self.view - low, left:right]
            box += disc[:, :, None] * (np.array(COLOURS[self.colour[i]]) - box)
            if self.spokes:
                along, across = dx * cosine[i] + dy * sine[i], np.abs(dy * cosine[i] - dx * sine[i])
                spoke = disc * ((0.012 - across) / pixel + 0.5).clip(0, 1) * (along > 0)
                box += spoke[:, :, None] * (np.array(SPOKE) - box)
        return np.rint(frame).astype(np.uint8)

    def _place(self, random: np.random.Generator) -> None:
        """Put each disc into a cell of its own, so that none overlap."""
        n = 1 + int(random.integers(self.count[0], self.count[1] + 1))
        for name, pair in self.ranges.items():
            setattr(self, name, random.uniform(*pair, n))
        cell = SIDE / CELLS
        cells = random.permutation(CELLS * CELLS)[:n]
        room = (cell / 2 - self.radius)[:, None]
        centre = (np.stack([cells // CELLS, cells % CELLS], 1) + 0.5) * cell
        self.position = centre + random.uniform(-1, 1, (n, 2)) * room
        self.velocity = random.uniform(-self.speed, self.speed, (n, 2))
        self.angle, self.spin = random.uniform(-math.pi, math.pi, n), np.zeros(n)
        hues = 1 + (random.permutation(len(COLOURS) - 1) if self.mixed else np.arange(len(COLOURS) - 1))
        self.colour = np.append(0, np.resize(hues, n - 1))
        self.gravity, self.drag, self.gust = self._made_with

    def _advance(self, force: np.ndarray) -> None:
        """One tick: arrays -> a new pymunk space -> arrays; forces `(n, 2)` in newtons act throughout."""
        space, bodies = self.space()
        for _ in range(SUBSTEPS):
            for body, push in zip(bodies, force.tolist()):
                body.force = push
            space.step(1.0 / (TICKS * SUBSTEPS))
        self.position = np.array([body.position for body in bodies], np.float64)
        self.velocity = np.array([body.velocity for body in bodies], np.float64)
        self.angle = np.array([body.angle for body in bodies], np.float64)
        self.spin = np.array([body.angular_velocity for body in bodies], np.float64)

    def space(self) -> tuple[Any, list[Any]]:
        """Return a new pymunk space that holds the current state, and its bodies in the order of the rows."""
        pm = self._pymunk
        space = pm.Space()
        space.gravity, space.damping = tuple(self.gravity.tolist()), math.exp(-self.drag)
        space.iterations, space.collision_slop = 20, SLOP
        corners, thick = ((0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)), SIDE
        outside = ((0, -1), (1, 0), (0, 1), (-1, 0))
        for start, end, (x, y) in zip(corners, (*corners[1:], corners[0]), outside):
            # Walls reach a metre outwards, so that nothing fast jumps over them, and past the corners.
            shift = (x * thick, y * thick)
            ends = [(px + shift[0], py + shift[1]) for px, py in (start, end)]
            wall = pm.Segment(space.static_body, *ends, thick)
            wall.elasticity = wall.friction = 1.0
            space.add(wall)
        bodies = []
        rows = (self.position, self.velocity, self.angle, self.spin, self.mass, self.radius, self.friction)
        for place, velocity, angle, spin, mass, radius, friction, bounce in zip(
            *(row.tolist() for row in rows), self.restitution.tolist()
        ):
            body = pm.Body(mass, pm.moment_for_circle(mass, 0, radius))
            body.position, body.velocity, body.angle, body.angular_velocity = tuple(place), tuple(velocity), angle, spin
            shape = pm.Circle(body, radius)
            shape.friction, shape.elasticity = friction, bounce
            space.add(body, shape)
            bodies.append(body)
        return space, bodies


@adapter("pucks")
class PucksSimulator(Simulator):
    """The arrays named in `STATE`, all of which can be set. Subclasses are left alone: they may have more."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `Pucks`."""
        return type(env) is Pucks

    def capture(self) -> dict[str, Any]:
        """Return the arrays."""
        return {name: getattr(self.env, name) for name in STATE}

    def apply(self, state: dict[str, Any]) -> None:
        """Set them; raises `ArenaError` where one is missing, as in states that an older version saved."""
        missing = [name for name in STATE if name not in state]
        if missing:
            raise ArenaError(
                f"this state of pucks has no {', '.join(missing)}: an older version saved it. Record it anew, or "
                "restore it with the version that did."
            )
        for name in STATE:
            setattr(self.env, name, state[name])

    def quantities(self) -> dict[str, Quantity]:
        """Positions, velocities, angles, spins and properties of the discs `(n, ...)`; gravity, drag and gusts."""
        table = {}
        for name, (unit, low, high) in STATE.items():
            table[name] = attribute(self.env, name, unit, low=low, high=high)
        return table

    def observe(self) -> np.ndarray:
        """Return the picture."""
        return self.env.picture()


def _import() -> Any:
    try:
        import pymunk
    except ModuleNotFoundError as error:
        raise missing_extra("pymunk", "arenas-physics", "a world of pucks") from error
    return pymunk


gym.register("terrella/Pucks-v0", f"{__name__}:Pucks", max_episode_steps=500)
gym.register(
    "terrella/PucksFalling-v0",
    f"{__name__}:Pucks",
    max_episode_steps=500,
    kwargs={"gravity": (0.0, -9.81), "drag": 0.05, "restitution": (0.6, 0.95)},
)
