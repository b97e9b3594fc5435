"""Does the world know when a reward comes and when an episode ends?

Asked twice: one step after a true context, at transitions chosen so that rewards and ends occur among them, and along
the free rollout, where errors of the picture add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .rollout import Dreamer
from .stats import auroc, detection
from .truth import Truth


@dataclass
class Guesses:
    """Matched predictions and truths, each `(n,)`: rewards, guessed rewards, ends (bool), guessed chance of an end."""

    reward: np.ndarray
    guessed_reward: np.ndarray
    ended: np.ndarray
    guessed_end: np.ndarray

    @staticmethod
    def join(parts: list[Guesses]) -> Guesses:
        """Put several batches one after another."""
        names = ("reward", "guessed_reward", "ended", "guessed_end")
        return Guesses(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def along(truth: Truth, rewards: np.ndarray, ended: np.ndarray, first: int = 32) -> Guesses:
    """Match what a rollout said (`rewards`, `ended`: `(B, T)`) with the truth over its first `first` frames."""
    length = min(first, rewards.shape[1])
    alive = np.arange(length)[None] < truth.length[:, None]
    pick = (truth.rewards, rewards, truth.terminated, ended)
    return Guesses(*(values[:, :length][alive] for values in pick))


def one_step(dreamer: Dreamer, truth: Truth, rng: np.random.Generator, batch: int = 64) -> Guesses:
    """Ask for one frame after true contexts: at each future's last transition, two rewarded ones, three others."""
    rows, steps = _transitions(truth, rng)
    parts = []
    for i in range(0, len(rows), batch):
        row, step = rows[i : i + batch], steps[i : i + batch]
        frames = step[:, None] + np.arange(truth.context + 1)
        observations = {name: stream[row[:, None], frames] for name, stream in truth.observations.items()}
        past = truth.actions[row[:, None], frames[:, :-1]]
        now = truth.actions[row, step + truth.context]
        _, frame = dreamer.rollout(dreamer.start(observations, past, seeds=[truth.seeds[r] for r in row]), now[:, None])
        parts.append(
            Guesses(
                truth.rewards[row, step],
                np.asarray(frame.reward)[:, 0],
                truth.terminated[row, step],
                np.asarray(frame.terminated)[:, 0],
            )
        )
    return Guesses.join(parts)


def _transitions(truth: Truth, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, steps = [], []
    for row in range(len(truth)):
        length = int(truth.length[row])
        rewarded = np.flatnonzero(truth.rewards[row, :length])
        chosen = {length - 1, *rng.permutation(rewarded)[:2].tolist(), *rng.integers(0, length, 3).tolist()}
        rows += [row] * len(chosen)
        steps += sorted(chosen)
    return np.array(rows), np.array(steps)


def score(guesses: Guesses) -> dict[str, Any]:
    """Return `{"reward": ..., "termination": ...}` as JSON values; what cannot be computed is None.

    Reward: squared error against that of always guessing the mean, correlation, and where fewer than half of the
    rewards differ from 0, how well "a reward comes" is detected (a guess counts above half the median true reward).
    Termination: detection at 0.5 and the area under the ROC curve.
    """
    true, guessed = guesses.reward.astype(np.float64), guesses.guessed_reward.astype(np.float64)
    varies = true.std() > 0 and guessed.std() > 0
    reward: dict[str, Any] = {
        "n": len(true),
        "mse": float(np.mean((true - guessed) ** 2)),
        "mse_of_mean": float(true.var()),
        "correlation": float(np.corrcoef(true, guessed)[0, 1]) if varies else None,
        "sparse": bool((true != 0).mean() < 0.5),
        "detection": None,
    }
    if reward["sparse"] and (true != 0).any():
        threshold = 0.5 * float(np.median(np.abs(true[true != 0])))
        reward["detection"] = {"threshold": threshold, **detection(np.abs(guessed) > threshold, true != 0)}
    area = auroc(guesses.guessed_end, guesses.ended)
    termination = {
        "n": len(true),
        "auroc": None if np.isnan(area) else area,
        **detection(guesses.guessed_end > 0.5, guesses.ended),
    }
    return {"reward": reward, "termination": termination}
