"""Chaotic systems as vector worlds: how long any model can be right is known beforehand.

Each is an ordinary differential equation dx/dt = f(x) + action, advanced by the classical Runge-Kutta method of fourth
order in double precision, with the action held over a step. Two futures from states that lie e apart grow apart like
e * exp(exponent * t): past ln(size / e) / exponent no prediction from an observation with error e can hold.

| id | x | parameters | step (s) | largest Lyapunov exponent (1/s) |
|---|---|---|---|---|
| `terrella/Lorenz-v0` | x, y, z | sigma 10, rho 28, beta 8/3 | 0.02 | 0.906 |
| `terrella/Rossler-v0` | x, y, z | a 0.2, b 0.2, c 5.7 | 0.1 | 0.071 |
| `terrella/DoublePendulum-v0` | two angles, two rates | 1 kg, 1 m, 9.81 m/s^2 | 0.05 | by energy |

Ref: Lorenz, 1963, J. Atmos. Sci. 20, 130-141; Rössler, 1976, Phys. Lett. A 57, 397-398. The exponents are those of
Sprott, 2003, Chaos and Time-Series Analysis (the step has no influence at the digits given). Time and coordinates of
the first two have no unit of nature; "s" is their unit of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError, did_you_mean
from .base import Simulator, adapter
from .quantity import Quantity, entry

Parameters = Mapping[str, float]
Flow = Callable[[np.ndarray, Parameters], np.ndarray]


def lorenz(x: np.ndarray, p: Parameters) -> np.ndarray:
    """Return dx/dt of Lorenz's convection, states `(..., 3)`."""
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return np.stack([p["sigma"] * (b - a), a * (p["rho"] - c) - b, a * b - p["beta"] * c], -1)


def rossler(x: np.ndarray, p: Parameters) -> np.ndarray:
    """Return dx/dt of Rössler's band, states `(..., 3)`."""
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return np.stack([-b - c, a + p["a"] * b, p["b"] + c * (a - p["c"])], -1)


def double_pendulum(x: np.ndarray, p: Parameters) -> np.ndarray:
    """Return dx/dt of two points on massless rods, states `(..., 4)`: angles from straight down, then their rates.

    Lagrange's equations are linear in the accelerations; the two are solved by Cramer's rule.
    """
    one, two, rate_one, rate_two = (x[..., i] for i in range(4))
    m1, m2, l1, l2, g = p["mass_1"], p["mass_2"], p["length_1"], p["length_2"], p["gravity"]
    sine, cosine = np.sin(one - two), np.cos(one - two)
    a, b, d = (m1 + m2) * l1, m2 * l2 * cosine, l1 * cosine  # [a b; d l2] times accelerations = (r, s)
    r = -m2 * l2 * rate_two * rate_two * sine - (m1 + m2) * g * np.sin(one)
    s = l1 * rate_one * rate_one * sine - g * np.sin(two)
    determinant = a * l2 - b * d
    return np.stack([rate_one, rate_two, (r * l2 - b * s) / determinant, (a * s - d * r) / determinant], -1)


def runge_kutta(flow: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float) -> np.ndarray:
    """Return the states `(..., d)` one step later, by the classical fourth-order method."""
    one = flow(x)
    two = flow(x + 0.5 * step * one)
    three = flow(x + 0.5 * step * two)
    four = flow(x + step * three)
    return x + (step / 6.0) * (one + 2.0 * two + 2.0 * three + four)


@dataclass(frozen=True)
class System:
    """An equation, its parameters with their units, names and units of its coordinates, and where episodes begin.

    step: seconds between observations, in `substeps` steps of the method. low, high: the box that a start is drawn
    from. warm: seconds that pass before an episode begins, so that it starts on the attractor. force: what an action
    of 1 adds to which coordinate's rate. size: no coordinate gets near it unless something is wrong. exponent: the
    largest Lyapunov exponent (1/s), None where it depends on the energy.
    """

    flow: Flow
    parameters: dict[str, tuple[float, str]]
    coordinates: dict[str, str]
    step: float
    substeps: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    warm: float
    force: tuple[float, ...]
    size: float
    exponent: float | None = None


SYSTEMS: dict[str, System] = {
    "lorenz": System(
        lorenz, {"sigma": (10.0, "1/s"), "rho": (28.0, "1"), "beta": (8.0 / 3.0, "1/s")},
        {"x": "1", "y": "1", "z": "1"}, 0.02, 2, (-10.0, -10.0, 15.0), (10.0, 10.0, 35.0), 10.0, (0.0, 20.0, 0.0), 1e3,
        0.906,
    ),
    "rossler": System(
        rossler, {"a": (0.2, "1/s"), "b": (0.2, "1/s"), "c": (5.7, "1")},
        {"x": "1", "y": "1", "z": "1"}, 0.1, 4, (-5.0, -5.0, 0.0), (5.0, 5.0, 1.0), 100.0, (0.0, 0.5, 0.0), 1e3,
        0.071,
    ),
    "double_pendulum": System(
        double_pendulum,
        {
            "mass_1": (1.0, "kg"), "mass_2": (1.0, "kg"), "length_1": (1.0, "m"), "length_2": (1.0, "m"),
            "gravity": (9.81, "m/s^2"),
        },
        {"angle_1": "rad", "angle_2": "rad", "rate_1": "rad/s", "rate_2": "rad/s"},
        0.05, 10, (1.5, 1.5, 0.0, 0.0), (4.5, 4.5, 0.0, 0.0), 0.0, (0.0, 0.0, 2.0, 0.0), 1e4,
    ),
}  # fmt: skip


class Chaos(gym.Env[np.ndarray, np.ndarray]):
    """One of `SYSTEMS`, pushed by the action.

    Observation: float64 `(d,)`, the whole state. Actions: `Box(-1, 1, (1,))`, times `force` added to the rates.
    Rewards: 0. End: never (registered ids are truncated after 1,000 steps).

    noise: standard deviation of what is added to each coordinate after a step, in its unit; the only chance there is.
    parameters: other values than the system's own. Raises `UnknownName` for a system or parameter that does not exist,
    `ArenaError` for numbers that make no world and when the state leaves every bound.
    """

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self, system: str = "lorenz", *, noise: float = 0.0, parameters: dict[str, float] | None = None
    ) -> None:
        if system not in SYSTEMS:
            raise did_you_mean(system, SYSTEMS, "chaotic system")
        self.system = SYSTEMS[system]
        self._own = {name: value for name, (value, _) in self.system.parameters.items()}
        for name, value in (parameters or {}).items():
            if name not in self._own:
                raise did_you_mean(name, self._own, f"parameter of {system}")
            self._own[name] = float(value)
        if not np.isfinite([noise, *self._own.values()]).all() or noise < 0:
            raise ArenaError(f"noise is {noise}, parameters {self._own}; expected finite numbers, noise at least 0.")
        self.noise = np.array(noise, np.float64)
        self.render_mode = None
        self.observation_space = spaces.Box(-self.system.size, self.system.size, (len(self.system.low),), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.x = np.array(self.system.low)
        self.parameters = np.array(list(self._own.values()))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin somewhere else, with the parameters it was made with."""
        super().reset(seed=seed)
        self.parameters = np.array(list(self._own.values()))
        self.x = self.np_random.uniform(self.system.low, self.system.high)
        for _ in range(round(self.system.warm / self.system.step)):
            self._advance(0.0)
        return self.x.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by `system.step` seconds."""
        push = np.asarray(action, np.float64)
        if push.shape != (1,) or not np.isfinite(push).all():
            raise ArenaError(f"action is {action!r}; expected one finite number from -1 to 1.")
        self._advance(float(push.clip(-1, 1)[0]))
        if self.noise > 0:
            self.x = self.x + self.np_random.normal(0.0, float(self.noise), self.x.shape)
        if not (np.abs(self.x) <= self.system.size).all():
            raise ArenaError(
                f"the state left every bound: {self.x.tolist()}. With these parameters the system flies apart; choose "
                f"others than {dict(zip(self._own, self.parameters.tolist()))}, or less noise."
            )
        return self.x.copy(), 0.0, False, False, {}

    def _advance(self, push: float) -> None:
        parameters = dict(zip(self._own, self.parameters.tolist()))
        force = push * np.array(self.system.force)
        for _ in range(self.system.substeps):
            step = self.system.step / self.system.substeps
            self.x = runge_kutta(lambda x: self.system.flow(x, parameters) + force, self.x, step)


@adapter("chaos")
class ChaosSimulator(Simulator):
    """State, parameters and noise; all can be set. Subclasses are left alone: they may have more."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `Chaos`."""
        return type(env) is Chaos

    def capture(self) -> dict[str, Any]:
        """Return coordinates, parameters and noise."""
        return {name: getattr(self.env, name) for name in ("x", "parameters", "noise")}

    def apply(self, state: dict[str, Any]) -> None:
        """Set them."""
        for name in ("x", "parameters", "noise"):
            setattr(self.env, name, state[name])

    def quantities(self) -> dict[str, Quantity]:
        """Each coordinate and each parameter by its name, and the noise."""
        env, system = self.env, self.env.system
        table = {
            name: entry(lambda: env.x, i, unit, low=-system.size, high=system.size)
            for i, (name, unit) in enumerate(system.coordinates.items())
        }
        for i, (name, (_, unit)) in enumerate(system.parameters.items()):
            smallest = 1e-6 if name.startswith(("mass", "length")) else -1e6
            table[name] = entry(lambda: env.parameters, i, unit, low=smallest, high=1e6)
        return table | {"noise": entry(lambda: env.noise, (), "the coordinates'", low=0.0)}

    def observe(self) -> np.ndarray:
        """Return the state."""
        return self.env.x.copy()


for _id, _name in (("Lorenz", "lorenz"), ("Rossler", "rossler"), ("DoublePendulum", "double_pendulum")):
    gym.register(f"terrella/{_id}-v0", f"{__name__}:Chaos", max_episode_steps=1000, kwargs={"system": _name})
