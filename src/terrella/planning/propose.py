"""Plans that a policy proposes: it is followed in the world, and a search begins from the best of what comes.

Ref: Hansen et al., TD-MPC2, arXiv 2310.16828, in which rollouts of a policy join the candidates of MPPI. Differs: the
policy imitates recordings, and the cheapest of its plans, or the one given, becomes the start of any planner.

    B problems   P proposals   H steps   W numbers in one action
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from .. import heads
from ..engine import Engine, State
from ..errors import ConfigError
from ..registry import register
from .base import Plan, Planner, Request, make_planner
from .begun import search_from
from .search import Search, Space, draw_noise

AHEAD = 1 << 21  # apart from the noise of searches, which is keyed by lower numbers


@torch.no_grad()
def propose(
    engine: Engine, state: State, policy: heads.Policy, horizon: int, count: int = 1, seed: int = 0, beta: float = 0.0
) -> np.ndarray:
    """Follow a policy head in the world for `horizon` steps: plans `(B, P, H, W)`, the first of likeliest actions.

    The others are drawn, by the session's own seed and time, so that neighbours cannot matter. beta: of noise that is
    alike from step to step, as of `Settings`. `state` stays as it is. Raises `ConfigError` for an engine that recalls
    fewer frames than the head reads.
    """
    if min(horizon, count) < 1:
        raise ConfigError(f"horizon is {horizon} and count {count}; expected at least 1 each.")
    space, batch = Space(engine.spec.action), state.batch
    branches, plans = state.fork(count), []
    width = len(space.numbers) + int(np.prod(space.uniform.shape))
    noise = draw_noise(state.seeds, state.time + AHEAD, seed, (count, horizon, width), beta)
    for t in range(horizon):
        laws = policy(policy.last(engine.recent(branches)))
        mean, std, log_probs = (x.double().cpu().numpy()[:, None] for x in (laws.mean, laws.std, laws.log_probs))
        step = Search(space, mean, std, np.exp(log_probs))
        rows = step.sample(noise[:, :, t].reshape(batch * count, 1, 1, width))[:, 0, 0]
        likeliest = np.arange(batch) * count
        rows[likeliest] = step.mode()[likeliest, 0]
        plans.append(rows)
        if t + 1 < horizon:
            branches, _ = engine.rollout(branches, rows[:, None], observe=False)
    return np.stack(plans, 1).reshape(batch, count, horizon, space.width)


@dataclass(frozen=True)
class GuidedSettings:
    """horizon: actions a plan has, H. inner, settings: what searches, by name. proposals: of the policy, P. beta: see
    `propose`. max_rows: sessions imagined at a time.
    """

    horizon: int = 12
    inner: str = "icem"
    settings: dict[str, Any] = field(default_factory=dict)
    proposals: int = 8
    beta: float = 0.0
    max_rows: int = 256

    def __post_init__(self) -> None:
        if min(self.horizon, self.proposals, self.max_rows) < 1 or self.inner == "guided":
            raise ConfigError(
                f"horizon {self.horizon}, proposals {self.proposals} and max_rows {self.max_rows} must be at least 1, "
                f"and the planner another one than this (it is {self.inner!r})."
            )


@register("planner", "guided")
class Guided(Planner):
    """Lets another planner begin from the best of what the world's policy head proposes and the plan it was given.

    Needs an engine that recalls frames, of a world with a policy head. Proposals are paid from the budget: as many
    frames for following the policy as for pricing what came of it. Trace: its first iteration is the proposals'.
    """

    Config: ClassVar[type[GuidedSettings]] = GuidedSettings

    def __init__(self, config: Any):
        super().__init__(config)
        self.inner = make_planner(config.inner, **{**config.settings, "horizon": config.horizon})

    def solve(self, request: Request) -> Plan:
        """See `Planner.plan`; of a budget of time, what proposals leave.

        Raises `ConfigError` also for an engine without a world, `WorldError` for a world without a policy head.
        """
        config, engine, state = self.config, request.engine, request.state
        if not isinstance(engine, Engine):
            raise ConfigError(f"proposals come of a world's policy head, and this is a {type(engine).__name__}.")

        def followed() -> np.ndarray:
            policy = engine.world.head("policy")
            return propose(engine, state, policy, config.horizon, config.proposals, request.seed, config.beta)

        frames = config.proposals * (config.horizon - 1)
        sizes = {"frames": frames, "max_rows": config.max_rows}
        return search_from(self.inner, request, followed, config.proposals, config.horizon, **sizes)
