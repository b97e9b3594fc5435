"""Behaviour cloning: a policy that does what was done in recordings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..data import Dataset
from ..data.episode import Clips
from ..data.index import Split
from ..entry import present
from ..errors import ConfigError
from .policy import LearnedPolicy, NetworkConfig

LOOK = 200  # steps between looks at held-out episodes
HELD_OUT = 2048  # transitions of them
POOL_BYTES = 512 << 20  # of observations that are read; from more, so many are drawn


def clone(
    dataset: Dataset,
    *,
    steps: int = 4000,
    batch: int = 256,
    lr: float = 1e-3,
    best: float = 1.0,
    seed: int = 0,
    network: NetworkConfig | None = None,
) -> LearnedPolicy:
    """Learn to act as a dataset's episodes did: maximise the log-likelihood of each action given its observation.

    steps: of Adam, `batch` transitions each; the weights that did best on held-out episodes are kept. best: share of
    episodes to learn from, those of the largest returns, since whoever imitates everybody does as well as they on
    average.

    Ref: Pomerleau, NeurIPS 1988; cloning the best share only, as in Chen et al., arXiv 2106.01345, section 5.1.

    Raises `ConfigError` for numbers out of range, `DatasetError` for a dataset without held-out episodes, and what
    `LearnedPolicy` raises.
    """
    if steps < 1 or batch < 1 or not 0 < best <= 1:
        raise ConfigError(f"steps is {steps}, batch {batch}, best {best}; expected at least 1, at least 1, and (0, 1].")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = LearnedPolicy(dataset.spec, network)
    model, rng = policy.network, np.random.default_rng(seed)
    pools: dict[Split, Clips] = {split: _pool(dataset, split, best) for split in ("train", "held_out")}

    def loss(split: Split, index: np.ndarray) -> torch.Tensor:
        pool = pools[split]
        seen = present(dataset.spec, {name: frames[index, 0] for name, frames in pool.observations.items()})
        done = torch.from_numpy(pool.actions[index, 0])
        done = done[:, 0] if dataset.spec.action.kind == "discrete" else done
        return -model.evaluate_actions(model.obs_to_tensor(seen)[0], done)[1].mean()

    optimizer = torch.optim.Adam(model.parameters(), lr)
    least, chosen, at = float("inf"), {}, 0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss("train", rng.integers(len(pools["train"].actions), size=batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % LOOK == 0 or step == steps:
            with torch.no_grad():
                held_out = float(loss("held_out", np.arange(min(HELD_OUT, len(pools["held_out"].actions)))))
            if held_out < least:
                least, at, chosen = held_out, step, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(chosen)
    model.eval()
    policy.record = {"algorithm": "clone", "steps": at, "seed": seed, "best": best, "held_out": round(least, 6)}
    return policy


def _pool(dataset: Dataset, split: Split, best: float) -> Clips:
    """Read the transitions of the best share of a split's episodes, in random order, as many as memory shall hold."""
    index = dataset.split(split)
    kept = index[np.argsort(-dataset.returns[index], kind="stable")][: max(1, round(best * len(index)))]
    places = np.concatenate([np.stack([np.full(n, e), np.arange(n)]) for e, n in zip(kept, dataset.lengths[kept])], 1)
    size = sum(int(np.prod(s.shape)) * (1 if s.kind == "image" else 4) for s in dataset.spec.modelled.values())
    chosen = np.random.default_rng(0).permutation(places.shape[1])[: max(HELD_OUT, POOL_BYTES // (2 * size))]
    clips = dataset.clips(places[0, chosen], places[1, chosen], 1)
    return replace(clips, observations={name: clips.observations[name] for name in dataset.spec.modelled})
