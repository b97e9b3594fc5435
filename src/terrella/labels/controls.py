"""Latent actions get a handle: a few labelled transitions say which of them each control stands for.

    z = W x + b        x: the choice as a one-hot vector (a table of latents), or the numbers of the action

A world of latent actions whose embedding of actions is put behind this map is a world of the controls themselves, to
the last weight an ordinary one: nothing that steps, plans, plays or measures has to know.

    M labelled transitions   A numbers of a latent action   F choices, or numbers of a control

Ref: Gao et al., AdaWorld, arXiv 2503.18938 (latent actions averaged for each control of a new
environment); Bruce et al., Genie, arXiv 2402.15391 (latent actions mapped to real ones by few labels).
Differs: table and ridge regression are one closed form, and the map is folded into the world's weights instead of
fine-tuning them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..actions import describe
from ..data import Dataset
from ..data.index import Split
from ..errors import ActionError, ConfigError, DatasetError, SpecError
from ..nn.actions import ActionEmbedding
from ..spec import ActionSpec
from ..training.loop import recorded_starts
from ..world import World
from .latent import LatentActions

ALONE = 1e-3  # weight of a transition's own label in what is said of it, this near to all of it: nobody else tells


@dataclass(frozen=True)
class Controls:
    """An affine map from controls to latent actions.

    weight: float64 `(A, F)`, bias: `(A,)`. action: the controls. record: from how many transitions, and how much of the
    variance of their latents each explains for the others (`explained`, leaving one out; None where that is undefined).
    """

    weight: np.ndarray
    bias: np.ndarray
    action: ActionSpec
    record: dict[str, Any] = field(default_factory=dict)

    def rows(self, controls: np.ndarray) -> np.ndarray:
        """The latent actions of rows of controls `(..., W)`, float64 `(..., A)`."""
        return features(self.action, controls) @ self.weight.T + self.bias


def align(
    model: LatentActions,
    labelled: Dataset,
    *,
    transitions: int | None = None,
    ridge: float = 1e-3,
    split: Split = "all",
) -> Controls:
    """Find the latent action of each control from recordings whose actions are known.

    transitions: how many of them are read, from the first on; all by default. ridge: penalty on the weights of
    each x in units of its deviation, times M; with 0 a table holds the mean latent of each choice. A choice that was
    never taken gets what all have in common. split: of the dataset.

    Raises `ActionError` for actions other than one choice or numbers, `SpecError` for other streams, `ConfigError` and
    `DatasetError` where nothing can be learned.
    """
    if not ridge >= 0 or (transitions is not None and transitions < 1):
        raise ConfigError(f"ridge is {ridge}, transitions {transitions}; expected at least 0, and at least 1.")
    _require_streams(model.world, labelled)
    found, taken, left = [], [], labelled.steps if transitions is None else transitions
    for index in labelled.split(split):
        if left <= 0:
            break
        episode = labelled.episode(int(index), states=False)
        count = min(left, len(episode))
        found.append(model.rows({name: o[: count + 1] for name, o in episode.observations.items()}))
        taken.append(episode.actions[:count])
        left -= count
    if not found:
        raise DatasetError(f"{labelled.path} has no episodes in split {split!r} to align by; record some.")
    z, controls = np.concatenate(found), np.concatenate(taken)
    weight, bias, explained = fitted(features(labelled.spec.action, controls), z, ridge)
    record = {"transitions": len(z), "ridge": ridge, "explained": explained, "dataset": labelled.fingerprint}
    return Controls(weight, bias, labelled.spec.action, record)


def controlled(world: World, controls: Controls, labelled: Dataset) -> World:
    """Return a world of latent actions as one that takes controls: the same frames as under the latents they stand for.

    world: trained on recordings that `label` wrote. labelled: whose environment, keys and names of actions the new
    world has, and recorded beginnings. Heads were fitted on latent actions and stay behind.

    Raises `SpecError` for other streams, `ActionError` where the world's backbone has no embedding of actions that
    could hold the map.
    """
    _require_streams(world, labelled)
    twin = World(labelled.spec, world.config, world.name).to(next(world.parameters()))
    embeddings = [name for name, module in twin.named_modules() if isinstance(module, ActionEmbedding)]
    if not embeddings or world.spec.action.shape != controls.bias.shape or controls.action != labelled.spec.action:
        raise ActionError(
            f"the world takes {describe(world.spec.action)} and backbone {world.dynamics.name!r}, the map turns "
            f"{describe(controls.action)} into {controls.bias.size} numbers and the labelled recordings have "
            f"{describe(labelled.spec.action)}; expected a world trained on latent actions of the same encoder."
        )
    others = {k: v for k, v in world.state_dict().items() if not k.startswith(tuple(f"{n}." for n in embeddings))}
    twin.load_state_dict(others, strict=False)
    weight, bias = torch.from_numpy(controls.weight), torch.from_numpy(controls.bias)
    for name in embeddings:
        own, theirs = twin.get_submodule(name), world.get_submodule(name)
        assert isinstance(own, ActionEmbedding)
        assert isinstance(theirs, ActionEmbedding)
        own.follow(theirs, weight, bias)
    twin.record = {**world.record, "controls": controls.record}
    twin.starts = recorded_starts(labelled)
    return twin.eval().requires_grad_(False)


def features(action: ActionSpec, rows: np.ndarray) -> np.ndarray:
    """What the map reads of rows `(..., W)`: float64 `(..., F)`; raises `ActionError` for other action spaces."""
    if action.kind == "discrete":
        return np.eye(action.n)[np.rint(rows[..., 0]).astype(np.int64) - action.start]
    if action.kind == "box":
        return np.asarray(rows, np.float64)
    raise ActionError(
        f"actions are {describe(action)}; latent actions can be aligned to Discrete or Box. Turn the others into one "
        "choice, with a gymnasium.ActionWrapper."
    )


def fitted(x: np.ndarray, z: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Ridge regression of z `(M, A)` on x `(M, F)`: weight `(A, F)`, bias `(A,)`, share explained leaving one out."""
    middle, centre, unit = x.mean(0), z.mean(0), x.std(0)
    unit = np.where(unit > 0, unit, 1.0)
    x, z = (x - middle) / unit, z - centre
    inverse = np.linalg.pinv(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), 1e-10, hermitian=True)
    weight = z.T @ x @ inverse
    own = 1 - ((x @ inverse) * x).sum(1) - 1 / len(x)  # 1 minus each transition's own weight in its prediction
    told = own > ALONE
    missed = ((z - x @ weight.T)[told] / own[told, None]) ** 2
    variance = (z[told] ** 2).sum()
    weight = weight / unit
    return weight, centre - weight @ middle, float(1 - missed.sum() / variance) if variance > 0 else None


def _require_streams(world: World, labelled: Dataset) -> None:
    if world.spec.streams != labelled.spec.streams:
        raise SpecError(
            f"the labelled recordings have streams {labelled.spec.streams}; this world is of {world.spec.streams}. "
            "Record the same environment."
        )
