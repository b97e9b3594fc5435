"""What benchmarks of approximations share: the same futures, the same noise, and errors beside the frames of an engine
that approximates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from train_gallery import acting

from terrella.engine import Engine
from terrella.evaluation import table
from terrella.evaluation.gather import stream_scale
from terrella.evaluation.metrics import frame_mse
from terrella.evaluation.moments import POLICY
from terrella.evaluation.rollout import compare
from terrella.evaluation.run import LEAD, default_context
from terrella.evaluation.source import open_truth
from terrella.evaluation.stats import bootstrap
from terrella.evaluation.truth import Truth
from terrella.world import World


def futures(world: World, episodes: int, horizons: Sequence[int], seed: int, context: int | None = None) -> list[Truth]:
    """Play what really happens, once for all ways. context: frames seen before (default: the world's own)."""
    how: dict[str, Any] = {"policy": POLICY, "lead": LEAD} | acting(world.name)
    how |= {"episodes": episodes, "context": default_context(world) if context is None else context, "seed": seed}
    _, truths = open_truth(world.spec, None, None, frames=max(horizons), marks=horizons, **how)
    return list(truths)


def main_stream(world: World) -> str:
    """The stream that stands for a world: its first image, or its first stream."""
    streams = world.spec.modelled
    return next((n for n, s in streams.items() if s.kind == "image"), next(iter(streams)))


class Walker:
    """One session that a call takes a frame further, under the actions of a true future again and again."""

    def __init__(self, engine: Engine, truth: Truth):
        first = truth.first(1)
        self.engine, self.rows, self.time = engine, first.future, 0
        self.state = engine.start(*first.start(), seeds=first.seeds)

    def __call__(self) -> None:
        """Step."""
        self.state, _ = self.engine.step(self.state, self.rows[:, self.time % self.rows.shape[1]])
        self.time += 1


def dreams(engine: Engine, truths: Sequence[Truth], marks: Sequence[int]) -> tuple[np.ndarray, float]:
    """Frames at the marks, `(episodes, marks, ...)`, and denoising steps computed a frame."""
    shown, asked, stream = [], [], main_stream(engine.world)
    for truth in truths:
        state = engine.start(*truth.start(), seeds=truth.seeds)
        _, frames = engine.rollout(state, truth.future[:, : max(marks)])
        shown.append(frames.observation[stream][:, [m - 1 for m in marks]])
        asked.append(frames.info.get("evaluations", np.full(1, engine.steps)).mean())
    return np.concatenate(shown), float(np.mean(asked))


def against_truth(engine: Engine, truths: Sequence[Truth], marks: list[int], seed: int) -> dict[str, Any]:
    """Errors of the main stream against the truth, one number a mark, as `terrella evaluate` has them.

    mse, mse_interval, mse_copy_last; action_ratio: under another future's actions / under its own.
    """
    spec, stream, rng = engine.world.spec, main_stream(engine.world), np.random.default_rng([seed, 1])
    scales = {name: stream_scale(truths[0], name, spec.modelled[name]) for name in spec.modelled}
    errors = table.join([compare(engine, truth, spec, marks, scales, rng) for truth in truths])
    groups = np.concatenate([truth.groups for truth in truths])
    own, other = errors.mse[stream], errors.shuffled[stream]
    (mse, low, high), (held, *_) = (bootstrap(values, groups=groups) for values in (own, errors.copy_last[stream]))
    action_ratio = bootstrap(other, np.where(np.isnan(other), np.nan, own), groups)[0]
    return {
        "mse": mse.tolist(),
        "mse_interval": [low.tolist(), high.tolist()],
        "mse_copy_last": held.tolist(),
        "action_ratio": action_ratio.tolist(),
    }


def apart(world: World, frames: np.ndarray, exact: np.ndarray, truth: Truth) -> list[float]:
    """Mean squared error between frames `(episodes, marks, ...)` and the exact ones, at each mark.

    truth: some of the futures, by which vectors are scaled.
    """
    name = main_stream(world)
    stream = world.spec.modelled[name]
    return frame_mse(frames, exact, stream, stream_scale(truth, name, stream)).mean(0).tolist()
