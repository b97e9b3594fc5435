"""Does what was planned keep to its constraints? Asked of the model that planned it, or of the true environment.

A penalty makes violations dear, not impossible, and a gradient that leads a rollout towards a constraint may stop short
of it. So what comes out is rolled out once more and each constraint is evaluated at each step:

    feasible:  g_c(t) <= tolerance  for every constraint c, at every step t that the episode reaches

With a `Simulator` in place of an engine, whose futures are the true ones, the same says whether it holds in truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .base import Model, Plan, Sessions, recalled
from .objective import Constraint, Future, Objective, Sum, as_objective

GOING = 0.5  # a step counts where the episode is more likely than not to go on until then


@dataclass(frozen=True)
class Feasibility:
    """Constraints along B plans of H steps. `print` it for a sentence.

    g: `(B, C, H)`, what each of C constraints gave, above 0 where it does not hold. reached: bool `(B, H)`, steps that
    the episode reaches. tolerance: what g may be above 0.
    """

    g: np.ndarray
    reached: np.ndarray
    tolerance: float = 0.0

    @property
    def holds(self) -> np.ndarray:
        """Whether each plan keeps to all constraints, bool `(B,)`."""
        return self.excess <= self.tolerance

    @property
    def excess(self) -> np.ndarray:
        """The largest g of each plan, over constraints and the steps reached, `(B,)`; below 0 is room to spare."""
        return np.where(self.reached[:, None], self.g, -np.inf).max((1, 2))

    def __str__(self) -> str:
        bad = int(self.excess.argmax())
        step = int(np.where(self.reached[bad], self.g[bad].max(0), -np.inf).argmax())
        return (
            f"{int(self.holds.sum())} of {len(self.g)} plans are feasible; the largest excess is "
            f"{self.excess[bad]:.3g}, of plan {bad} at step {step + 1} of {self.g.shape[-1]}"
        )


def feasibility(
    engine: Model,
    state: Sessions,
    plan: Plan | np.ndarray,
    objective: Objective | Callable[[Future], np.ndarray],
    tolerance: float = 0.0,
) -> Feasibility:
    """Roll out plans, rows `(B, H, W)`, and evaluate the constraints that are part of an objective.

    `state` stays as it is. Raises `ConfigError` where there is no constraint, or one does not give a number a step, and
    what the engine raises.
    """
    constraints = list(_constraints(as_objective(objective)))
    if not constraints:
        raise ConfigError("this objective has no Constraint, so nothing can fail to hold; add one.")
    rows = np.asarray(plan.actions if isinstance(plan, Plan) else plan, np.float64)
    past = recalled(engine, state)
    _, frame = engine.rollout(state.fork(1), rows, observe=any(c.observe for c in constraints))
    trail = None if past is None else past.then(frame.latent, rows)
    future = Future(rows, frame.reward, frame.terminated, frame.observation, np.arange(len(rows)), trail)
    g = np.stack([c.values(future) for c in constraints], 1)
    return Feasibility(g, future.alive > GOING, tolerance)


def _constraints(objective: Objective) -> Iterator[Constraint]:
    if isinstance(objective, Constraint):
        yield objective
    if isinstance(objective, Sum):
        for weight, part in objective.parts:
            if weight:
                yield from _constraints(part)
