"""Which of four true futures of a dimension's scene follows from which actions? A fork matrix of each item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas import describe, forkable, to_streams
from ..errors import ArenaError, ConfigError
from ..spec import StreamSpec
from .dimension import Dimension, Items
from .fork_matrix import scores
from .forks import Forks
from .measurements import cost_forks, scale
from .perception import tally
from .rollout import Dreamer

WAYS = ("row", "assign")  # of `fork_matrix`


def dimension_forks(dimension: Dimension, env: gym.Env, items: Items, seed: int = 0) -> Forks:
    """Play every branch of every item of a dimension of prediction from the restored scene.

    The groups' seeds are their places, so that an oracle finds its states by them. Raises `ConfigError` for a
    dimension of perception, `ArenaError` for an environment that cannot be forked exactly.
    """
    if dimension.branches is None:
        raise ConfigError(f"dimension {dimension.id!r} asks what is there; score it with `perceive`.")
    fork, spec = forkable(env), describe(env)
    if fork is None or not fork.exact:
        raise ArenaError(f"{dimension.arena} cannot be forked exactly, so its futures cannot be compared.")
    sets = np.stack([dimension.branches(spec, np.random.default_rng([seed, g, 3])) for g in range(len(items))])
    count, k, steps = sets.shape[:3]
    shapes = {name: (np.uint8 if s.kind == "image" else np.float32, s.shape) for name, s in spec.modelled.items()}
    truths = {name: np.zeros((count, k, 1, *shape), kind) for name, (kind, shape) in shapes.items()}
    length = np.zeros((count, k), np.int64)
    for g in range(count):
        for b in range(k):
            observation = fork.restore(items.states[g])
            for row in sets[g, b].astype(np.float64):
                observation, _, terminated, truncated, _ = env.step(codec.decode(spec.action, row))
                length[g, b] += 1
                if terminated or truncated:
                    break
            if length[g, b] == steps:
                for name in truths:
                    truths[name][g, b, 0] = to_streams(env, observation)[name]
    return Forks(
        items.observations, items.past, sets, truths, length, list(range(count)), items.states, (steps,), (steps,)
    )


def foresee(
    dreamer: Dreamer,
    items: Items,
    forks: Forks,
    streams: dict[str, StreamSpec],
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Score one dimension of prediction, as JSON values: `readouts`, stream -> way of `WAYS` -> `tally` over items.

    What fails counts as wrong, and `failed` says of how many items; those of which fewer than two futures differ ask
    nothing.
    """
    scales = {name: scale(forks, name, stream) for name, stream in streams.items()}
    found, _, failures = cost_forks(dreamer, forks, streams, scales, advance)
    readouts = {}
    for name, costs in found.items():
        scored = scores(costs.cost[:, 0], costs.kept[:, 0])
        chance = 1 / np.maximum(scored["left"], 1)
        readouts[name] = {way: tally(scored[way], chance, items.layouts, items.factors, seed) for way in WAYS}
    return {"readouts": readouts, "failed": len(failures), "errors": failures[:3]}
