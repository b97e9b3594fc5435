"""Where the truth comes from: the environment a world was recorded in, or held-out episodes of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import gymnasium as gym
import numpy as np

from ..arenas import describe, make
from ..data import Dataset, Policy
from ..errors import SpecError, TerrellaError
from ..spec import EnvSpec, WorldSpec
from .truth import Truth, from_dataset, from_environment

EnvLike = str | EnvSpec | Callable[[], gym.Env]

_BYTES = 512 * 2**20  # of true frames held at once


def open_truth(
    spec: WorldSpec,
    env: EnvLike | None,
    dataset: Dataset | None,
    *,
    episodes: int,
    context: int,
    frames: int,
    marks: Sequence[int],
    seed: int,
    lead: int,
    policy: str | Policy,
) -> tuple[str, Iterator[Truth]]:
    """Return ("environment" or "dataset", batches of futures) for a world of `spec`; memory bounds the batches.

    Raises `SpecError` when neither an environment nor a dataset is at hand, or either has another interface.
    """
    sizes = _sizes(spec, episodes, context + 1 + frames)
    if dataset is not None and not spec.same_interface(dataset.spec):
        raise SpecError("the dataset has other observations or actions than this world; pass the world's own dataset.")
    made: gym.Env | None = None
    if env is not None or spec.env.id:
        try:
            made = make_env(spec, env)
        except (TerrellaError, ImportError, gym.error.Error):
            if env is not None or dataset is None:
                raise
    if made is not None:
        taken = frozenset() if dataset is None else used_seeds(dataset)
        truths = from_environment(
            made,
            spec,
            sizes=sizes,
            context=context,
            frames=frames,
            marks=marks,
            seed=seed,
            lead=lead,
            taken=taken,
            policy=policy,
        )
        return "environment", _closing(made, truths)
    if dataset is not None:
        return "dataset", from_dataset(dataset, spec, sizes=sizes, context=context, frames=frames, seed=seed)
    raise SpecError(
        "this world does not say which environment it was recorded in. Pass env=... or dataset=..., whose held-out "
        "episodes then are the truth."
    )


def make_env(spec: WorldSpec, env: EnvLike | None = None) -> gym.Env:
    """Make the environment that a world of `spec` models; an id or callable takes over its pixels, size and frame skip.

    Raises `SpecError` when its observations or actions are not those of the world.
    """
    if isinstance(env, str):
        env = spec.env if env == spec.env.id else replace(spec.env, id=env, kwargs={})
    if env is None or isinstance(env, EnvSpec):
        made = make(spec.env if env is None else env)
    else:
        made = make(env, pixels=spec.env.pixels, size=spec.env.size, frame_skip=spec.env.frame_skip)
    found = describe(made)
    if not spec.same_interface(found):
        made.close()
        raise SpecError(
            f"this environment does not fit the world. The world has streams {spec.streams} and actions {spec.action}; "
            f"the environment {found.streams} and {found.action}. Make it as it was recorded."
        )
    return made


def _closing(env: gym.Env, truths: Iterator[Truth]) -> Iterator[Truth]:
    """Close the environment when the last future is taken, or nobody wants more."""
    try:
        yield from truths
    finally:
        env.close()


def _sizes(spec: WorldSpec, episodes: int, length: int) -> list[int]:
    """Split the episodes into even batches that fit in memory, of at least two so that actions can be swapped."""
    frame = sum(int(np.prod(s.shape)) * (1 if s.kind == "image" else 4) for s in spec.modelled.values())
    most = int(np.clip(_BYTES // max(1, frame * length), 2, 64))
    parts = max(1, min(-(-episodes // most), episodes // 2))
    return [len(part) for part in np.array_split(np.arange(episodes), parts)]


def used_seeds(dataset: Dataset) -> frozenset[int]:
    """Seeds that a dataset was recorded from."""
    return frozenset(seed for seed in dataset.seeds if seed is not None)
