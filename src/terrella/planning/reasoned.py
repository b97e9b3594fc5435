"""Plans that are thought out from what is seen: a proposer reads the last frame, and a search begins from its plans.

A proposer knows nothing of the world; the world knows nothing of how it thinks. It prices what is proposed, together
with the plan it was given, and the cheapest of them becomes the start of any planner, which never makes it worse.

    B problems   P proposals   H steps   W numbers in one action
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from ..engine import Engine
from ..errors import ActionError, ConfigError
from ..registry import register
from .base import Plan, Planner, Request, make_planner
from .begun import search_from
from .equilibrium import Reasoner
from .maze_reader import MazeReader
from .search import Space
from .simulator import Simulator
from .tasks import Seen


class Proposer(Protocol):
    """Turns what is seen into plans; `terrella.planning.MazeReader` is one, and any function of this form."""

    def __call__(self, frames: Seen, count: int, horizon: int, seed: int = 0) -> np.ndarray:
        """Propose P = `count` plans of H = `horizon` steps from frames, stream -> `(B, ...)`: rows `(B, P, H, W)`."""
        ...


@torch.inference_mode()
def last_seen(engine: Any, state: Any) -> dict[str, np.ndarray]:
    """The last frame of every session, true or imagined: stream -> `(B, ...)`.

    An engine decodes it from what it recalls; a simulator looks. Raises `ConfigError` for an engine that recalls no
    frames, and for other models.
    """
    if isinstance(engine, Simulator):
        return engine.look(state)
    if not isinstance(engine, Engine) or not engine.recall:
        raise ConfigError(
            f"a {type(engine).__name__} cannot say what was seen last; make it with Engine(world, recall=1)."
        )
    shown = engine.world.decode(engine.recent(state).z[:, -1])
    return {name: frames.cpu().numpy() for name, frames in shown.items()}


@dataclass(frozen=True)
class ReasonedSettings:
    """horizon: actions a plan has, H. inner, settings: what searches, by name. proposals: plans proposed, P. max_rows:
    sessions imagined at a time.

    reasoner: the file of a reasoner of mazes, read where no proposer is given; side, iters, starts: see `MazeReader`.
    """

    horizon: int = 12
    inner: str = "icem"
    settings: dict[str, Any] = field(default_factory=dict)
    proposals: int = 1
    max_rows: int = 256
    reasoner: str = ""
    side: int = 7
    iters: int = 32
    starts: int = 8

    def __post_init__(self) -> None:
        if min(self.horizon, self.proposals, self.max_rows) < 1 or self.inner == "reasoned":
            raise ConfigError(
                f"horizon {self.horizon}, proposals {self.proposals} and max_rows {self.max_rows} must be at least 1, "
                f"and the planner another one than this (it is {self.inner!r})."
            )


@register("planner", "reasoned")
class Reasoned(Planner):
    """Lets another planner begin from the best of what a proposer reads off the last frame and the plan it was given.

    Needs an engine that recalls a frame, or a simulator. Pricing proposals is paid from the budget; thinking takes no
    model evaluations, and its time counts against a budget of time. Trace: its first iteration is the proposals'.

    proposer: by default a `MazeReader` of the settings' reasoner. Raises `ConfigError` where there is neither.
    """

    Config: ClassVar[type[ReasonedSettings]] = ReasonedSettings

    def __init__(self, config: ReasonedSettings, proposer: Proposer | None = None):
        super().__init__(config)
        if proposer is None and not config.reasoner:
            raise ConfigError(
                "nobody proposes: name a reasoner of mazes, reasoner='runs/mazes/reasoner.safetensors' (see "
                "docs/reasoning.md), or give a function, Reasoned(Reasoned.Config(...), proposer)."
            )
        if proposer is None:
            reader = Reasoner.load(config.reasoner)
            proposer = MazeReader(reader, config.side, config.iters, max(config.starts, config.proposals))
        self.proposer: Proposer = proposer
        self.inner = make_planner(config.inner, **{**config.settings, "horizon": config.horizon})

    def solve(self, request: Request) -> Plan:
        """See `Planner.plan`; of a budget, what pricing proposals leaves.

        Raises `ConfigError` also for a model that cannot say what was seen last, `ActionError` for proposals of
        another shape than the model's actions.
        """
        config = self.config

        def thought() -> np.ndarray:
            seen = last_seen(request.engine, request.state)
            return proposed(self.proposer, seen, request.space, config, request.seed)

        how = {"max_rows": config.max_rows}
        return search_from(self.inner, request, thought, config.proposals, config.horizon, **how)


def proposed(proposer: Proposer, frames: Seen, space: Space, config: ReasonedSettings, seed: int) -> np.ndarray:
    """Ask for plans and check them: rows `(B, P, H, W)` within bounds. Raises `ActionError` for another shape."""
    rows = np.asarray(proposer(frames, config.proposals, config.horizon, seed), np.float64)
    batch = len(next(iter(frames.values())))
    wanted = batch, config.proposals, config.horizon, space.width
    if rows.shape != wanted or not np.isfinite(rows).all():
        raise ActionError(f"proposals have shape {rows.shape}; expected {wanted}, every number finite.")
    return space.clip(rows)


class Follower:
    """Acts in B episodes as a proposer says, without a world: what planning has to be better than. An `Actor`.

    execute: actions taken of each proposal of `horizon` steps before the next look. Raises `ConfigError` for `execute`
    outside 1 to the horizon.
    """

    def __init__(self, proposer: Proposer, horizon: int, execute: int = 1, seed: int = 0):
        if not 1 <= execute <= horizon:
            raise ConfigError(f"execute is {execute}; of a plan of {horizon} actions 1 to {horizon} can be taken.")
        self.proposer, self.horizon, self.execute, self.seed = proposer, horizon, execute, seed
        self.plan: Plan | None = None
        self._frames: dict[str, np.ndarray] = {}
        self._rows, self._taken = np.empty(0), 0

    def begin(self, observations: dict[str, np.ndarray], seeds: Sequence[int]) -> None:
        """Take in first frames."""
        del seeds
        self._frames, self._taken = observations, 0

    def act(self) -> np.ndarray:
        """Rows `(B, W)`."""
        t = self._taken % self.execute
        if t == 0:
            self._rows = self.proposer(self._frames, 1, self.horizon, self.seed)[:, 0]
        self._taken += 1
        return self._rows[:, t]

    def see(self, observations: dict[str, np.ndarray]) -> None:
        """Take in what followed."""
        self._frames = observations
