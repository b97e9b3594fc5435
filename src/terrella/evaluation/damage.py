"""Entrants damaged on purpose: does a score fall when it should, and only then?

Each is an entrant of its own, under the name `<name>, <damage>`. What goes through `start` and `rollout` alone can be
done to any entrant; weights and denoising steps are those of a world. What each damage must cost is stated here, before
anybody measures it (`STATED`); `benchmarks/sensitivity.py` holds worlds to it.

    actions late      from the context on each action arrives one step late; the first step gets the context's last one
    memory cleared    after every 20 frames the session begins anew from the last one, without a past
    fewer steps       of denoising: the fewest that the decoder was trained for
    3 bits            weights of linear and convolution layers, one scale a row
    frames late       each frame is shown one step late; the first one is the last of the context
    frames frozen     the first frame of every four is shown until the next
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from ..engine import Frame
from ..engine.frame import joined
from ..errors import ConfigError, did_you_mean
from ..world import World
from .entrant import Entrant, WorldEntrant

Damage = Literal["actions late", "memory cleared", "frames late", "frames frozen"]
_HOLD, _FORGET, _BITS = 4, 20, 3


@dataclass(frozen=True)
class Stated:
    """What a damage must do: dimensions it must fall on, and those it must leave alone; of others nothing is said."""

    falls: tuple[str, ...]
    stays: tuple[str, ...]

    def of(self, dimension: str) -> str | None:
        """Return "falls", "stays" or None."""
        return "falls" if dimension in self.falls else "stays" if dimension in self.stays else None


# Dimensions, as `benchmarks/sensitivity.py` measures them; a world is held to those that it has.
DIMENSIONS: Mapping[str, str] = {
    "which action": "the true future after 1 action was nearest to what was said under that very action (column)",
    "next picture": "how near what was said after 1 action lies to the nearest of the true futures",
    "in time": "after 16 actions, nearer to the truth than to the true frame before it",
    "sharpness": "after 16 actions, neighbouring pixels differ, for the variance of all, as much as in the truth",
    "drift": "how near to the truth after 40 actions",
    "out of sight": "looking away and back: things have gone on",
}
STATED: Mapping[str, Stated] = {
    "actions late": Stated(("which action",), ("sharpness",)),
    "memory cleared": Stated(("out of sight",), ("which action", "next picture", "in time", "sharpness")),
    "fewer steps": Stated(("next picture",), ("which action", "in time")),
    "3 bits": Stated(("next picture", "drift"), ("out of sight",)),
    "frames late": Stated(("in time",), ("sharpness",)),
    "frames frozen": Stated(("in time",), ("which action", "next picture")),
}


@dataclass
class _Session:
    """inner: the state. action: the last one given, `(B, W)`. shown: the last true or last dreamed frame `(B, ...)`."""

    inner: Any
    action: np.ndarray
    shown: dict[str, np.ndarray]
    seeds: Any
    time: int = 0


class Damaged:
    """An entrant with one damage between it and whoever asks."""

    def __init__(self, entrant: Entrant, damage: Damage) -> None:
        self.entrant, self.damage = entrant, damage

    def describe(self) -> dict[str, Any]:
        """What the entrant says of itself, with the damage in its name."""
        found = self.entrant.describe()
        return {**found, "name": f"{found['name']}, {self.damage}", "damage": [self.damage, _HOLD, _FORGET]}

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> _Session:
        """Begin sessions; the past is told as it was."""
        past = np.asarray(actions, np.float32)
        last = past[:, -1] if past.shape[1] else np.zeros((len(past), past.shape[2]), np.float32)
        shown = {name: np.asarray(frames)[:, -1] for name, frames in observations.items()}
        return _Session(self.entrant.start(observations, past, seeds), last, shown, seeds)

    def rollout(self, state: _Session, actions: Any) -> tuple[_Session, Frame]:
        """Go on, damaged."""
        rows = np.asarray(actions, np.float32)
        if self.damage == "memory cleared":
            return self._forgetting(state, rows)
        given = np.concatenate([state.action[:, None], rows[:, :-1]], 1) if self.damage == "actions late" else rows
        inner, frame = self.entrant.rollout(state.inner, given)
        steps, seen = rows.shape[1], {}
        if self.damage == "frames frozen":
            at = [max(-1, _HOLD * ((state.time + t) // _HOLD) - state.time) for t in range(steps)]
        else:
            at = [t - (self.damage == "frames late") for t in range(steps)]
        for name, frames in frame.observation.items():  # place 0 is what was shown last
            seen[name] = np.concatenate([state.shown[name][:, None], frames], 1)[:, np.array(at) + 1]
        kept = frame.observation if self.damage == "frames late" else seen
        shown = {name: np.asarray(frames)[:, -1] for name, frames in kept.items()}
        return _Session(inner, rows[:, -1], shown, state.seeds, state.time + steps), replace(frame, observation=seen)

    def close(self) -> None:
        """Close the entrant."""
        self.entrant.close()

    def _forgetting(self, state: _Session, rows: np.ndarray) -> tuple[_Session, Frame]:
        frames: list[Frame] = []
        while rows.shape[1]:
            if state.time and state.time % _FORGET == 0:
                alone = {name: frame[:, None] for name, frame in state.shown.items()}
                state.inner = self.entrant.start(
                    alone, np.zeros((len(rows), 0, rows.shape[2]), np.float32), state.seeds
                )
            now, rows = np.split(rows, [_FORGET - state.time % _FORGET], 1)
            inner, frame = self.entrant.rollout(state.inner, now)
            frames.append(Frame(frame.observation, frame.reward, frame.terminated))
            shown = {name: np.asarray(v)[:, -1] for name, v in frame.observation.items()}
            state = _Session(inner, now[:, -1], shown, state.seeds, state.time + now.shape[1])
        return state, joined(frames)


def coarse(world: World, bits: int = _BITS) -> World:
    """A copy of a world with weights rounded to `bits` bits, one scale for each output of a layer."""
    copied, most = copy.deepcopy(world), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                rows = module.weight.flatten(1)
                scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
                module.weight.copy_(((rows / scale).round() * scale).view_as(module.weight))
    return copied


def kinds(world: World) -> tuple[str, ...]:
    """The damages of `STATED` that can be done to a world: steps can be fewer only where there are several."""
    return tuple(kind for kind in STATED if kind != "fewer steps" or min(world.decoder.choices) < world.decoder.steps)


def spoil(world: World, damage: str) -> Entrant:
    """A world as an entrant with one of the damages of `STATED`.

    Raises `UnknownName` for one there is not, `ConfigError` for one that cannot be done to this world.
    """
    if damage not in STATED:
        raise did_you_mean(damage, STATED, "damage")
    if damage not in kinds(world):
        raise ConfigError(f"{world.name!r} takes {world.decoder.steps} denoising step, which cannot be fewer.")
    name = f"{world.name}, {damage}"
    if damage == "fewer steps":
        return WorldEntrant(world, {"steps": min(world.decoder.choices)}, name)
    if damage == "3 bits":
        return WorldEntrant(coarse(world), name=name)
    return next(Damaged(WorldEntrant(world), kind) for kind in get_args(Damage) if kind == damage)


def damages(world: World) -> Iterator[Entrant]:
    """A world, then each damage done to it."""
    yield WorldEntrant(world)
    for kind in kinds(world):
        yield spoil(world, kind)
