"""Dyna: act in the true environment, learn the world anew from all that was seen, go on learning in it, act again.

Ref: Sutton, *Dyna*, SIGART Bulletin 2 (1991); in the form of Janner et al., arXiv 1906.08253: imagined episodes are
short and begin at true states. Differs: one world instead of an ensemble, an on-policy learner, and a few long rounds
instead of many short ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Dataset, record
from ..data.policies import Policy
from ..errors import ConfigError
from ..spec import EnvSpec
from ..training import train
from ..world import World
from .imagine import beginnings, learn
from .policy import LearnedPolicy
from .support import Support


@dataclass(frozen=True)
class Round:
    """What one round came to: the data so far, the world learned from it, and the policy learned in that."""

    number: int
    data: Dataset
    world: World
    policy: LearnedPolicy


def dyna(
    env: str | EnvSpec,
    out: str | Path,
    *,
    rounds: Sequence[int] = (1000, 1000, 2000, 4000),
    imagined: int = 50_000,
    first: Policy | str = "random",
    context: int = 0,
    reach: float | None = None,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    learning: Mapping[str, Any] | None = None,
) -> Iterator[Round]:
    """Learn to act with few true steps; yields after each round, so that whoever has seen enough may stop.

    rounds: true transitions of each. A round records them by the policy of the last one, drawing its actions (by
    `first` in the first round), trains a world on everything recorded so far, and learns on for `imagined` transitions
    in it, from places in the recordings with `context` transitions before. Worlds begin from new weights in each
    round: later data is not outweighed by what was learned from little, and rounds that double keep that cheap. reach:
    how far imagined episodes may leave the recordings (see `Support`); None lets them go anywhere. out: folder for the
    dataset. training, learning: arguments of `terrella.train` and `learn`.

    Raises `ConfigError` for no rounds, and what `record`, `train` and `learn` raise.
    """
    if not rounds or min(rounds) < 1:
        raise ConfigError(f"rounds is {tuple(rounds)}; expected at least one round of at least one transition.")
    return _rounds(
        env, Path(out), rounds, imagined, first, context, reach, seed, dict(training or {}), dict(learning or {})
    )


def _rounds(
    env: str | EnvSpec,
    out: Path,
    rounds: Sequence[int],
    imagined: int,
    first: Policy | str,
    context: int,
    reach: float | None,
    seed: int,
    training: dict[str, Any],
    learning: dict[str, Any],
) -> Iterator[Round]:
    policy: LearnedPolicy | None = None
    for number, steps in enumerate(rounds):
        if policy is not None:
            policy.deterministic = False
        data = record(env, out / "data", steps=steps, policy=policy or first, seed=seed, progress=False)
        world = train(data, **{"seed": seed, "progress": False, **training})
        if policy is not None:  # the network of the last round goes on
            learning.pop("network", None)
        starts = beginnings(data, context=context, seed=seed + number)
        near = None if reach is None else Support(data, reach)
        policy = learn(world, steps=imagined, starts=starts, within=near, seed=seed + number, policy=policy, **learning)
        yield Round(number, data, world, policy)
