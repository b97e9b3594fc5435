"""Which of four true futures of a dimension's scene follows from which actions? A fork matrix of each item."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from .. import actions as codec
from ..arenas import describe, forkable, to_streams
from ..errors import ArenaError, ConfigError
from .dimension import Dimension, build_items
from .fork_matrix import fork_table, matrices, predict
from .forks import Forks
from .rollout import Dreamer


def dimension_forks(dimension: Dimension, env: gym.Env, layouts: int, seed: int = 0) -> Forks:
    """Play every branch of every item of a dimension of prediction from the restored scene.

    The groups' seeds are their places, so that an oracle finds its states by them. Raises `ConfigError` for a
    dimension of perception, `ArenaError` for an environment that cannot be forked exactly.
    """
    if dimension.branches is None:
        raise ConfigError(f"dimension {dimension.id!r} asks what is there; score it with `perceive`.")
    fork, spec = forkable(env), describe(env)
    if fork is None or not fork.exact:
        raise ArenaError(f"{dimension.arena} cannot be forked exactly, so its futures cannot be compared.")
    items = build_items(dimension, env, layouts, seed)
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


def foresee(dimension: Dimension, dreamer: Dreamer, env: gym.Env, forks: Forks) -> dict[str, Any]:
    """Score one dimension of prediction, as JSON values: `fork_table` of each stream (see `fork_matrix`)."""
    predicted, spec = predict(dreamer, forks), describe(env)
    tables = {}
    for name, stream in spec.modelled.items():
        scale = None
        if stream.kind == "vector":
            deviation = forks.observations[name].reshape(-1, *stream.shape).std(0)
            scale = np.where(deviation > 0, deviation, 1.0)
        tables[name] = fork_table(matrices(predicted, forks, name, stream, scale), forks.marks)
    return {"id": dimension.id, "approximates": dimension.approximates, "streams": tables}
