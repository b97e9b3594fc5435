"""What a world is held against: entries that know everything, nothing, or nothing of actions.

Each starts and rolls out as an engine does (`Dreamer`), so it goes through the same measurement as a world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Frame
from ..errors import SpecError
from .moments import Moment, Stage
from .rollout import Dreamer


@dataclass
class _Session:
    """What references remember: last frames, stream -> `(B, ...)`, noise seeds, and how far each is."""

    frames: dict[str, np.ndarray]
    seeds: list[int]
    time: int = 0


def _frame(observation: dict[str, np.ndarray], batch: int, steps: int) -> Frame:
    blank = np.zeros((batch, steps), np.float32)
    return Frame(observation, blank, blank.copy())


class CopyLast:
    """Says that nothing ever changes."""

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> _Session:
        """Keep the last frame."""
        frames = {name: v[:, -1] for name, v in observations.items()}
        return _Session(frames, _seeds(seeds, len(next(iter(frames.values())))))

    def rollout(self, state: _Session, actions: Any) -> tuple[_Session, Frame]:
        """Repeat it."""
        batch, steps = np.shape(actions)[:2]
        held = {n: np.broadcast_to(v[:, None], (batch, steps, *v.shape[1:])) for n, v in state.frames.items()}
        return state, _frame(held, batch, steps)


class RandomFrames:
    """Says that any frame may follow: at each step one drawn from `bank` (stream -> `(n, ...)`).

    What is drawn follows from the session's seed, as whatever is random in an entrant must, so that branches of one
    moment are told the same. Its score is therefore chance exactly; with draws of each branch's own it would be chance
    on average alone.
    """

    def __init__(self, bank: dict[str, np.ndarray], seed: int = 0) -> None:
        self.bank, self.seed = bank, seed
        self.count = len(next(iter(bank.values())))

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> _Session:
        """Forget what was seen."""
        return _Session({}, _seeds(seeds, len(next(iter(observations.values())))))

    def rollout(self, state: _Session, actions: Any) -> tuple[_Session, Frame]:
        """Draw frames."""
        batch, steps = np.shape(actions)[:2]
        last = state.time + steps
        drawn = {seed: self._draws(seed, last)[state.time :] for seed in set(state.seeds)}
        index = np.stack([drawn[seed] for seed in state.seeds])
        shown = _frame({name: frames[index] for name, frames in self.bank.items()}, batch, steps)
        return _Session({}, state.seeds, last), shown

    def _draws(self, seed: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.seed, seed]).integers(self.count, size=count)


class ActionBlind:
    """Knows what a dreamer knows, but not the actions: it takes the mean over `draws` plans of its own.

    plans: float32 `(draws, T, W)`, the same for every session; T is as long as the longest rollout asked for.
    """

    def __init__(self, dreamer: Dreamer, plans: np.ndarray) -> None:
        self.dreamer, self.plans = dreamer, plans

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Start a session of the dreamer for each plan."""
        n, batch = len(self.plans), len(next(iter(observations.values())))
        seen = {name: np.repeat(v, n, 0) for name, v in observations.items()}
        past = None if actions is None else np.repeat(np.asarray(actions), n, 0)
        return self.dreamer.start(seen, past, seeds=np.repeat(_seeds(seeds, batch), n).tolist()), 0

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Frame]:
        """Roll out under the plans, whatever the actions are."""
        inner, time = state
        batch, steps = np.shape(actions)[:2]
        if time + steps > self.plans.shape[1]:
            raise SpecError(
                f"plans have {self.plans.shape[1]} actions; {time + steps} were asked for. Give longer ones."
            )
        n = len(self.plans)
        inner, frame = self.dreamer.rollout(inner, np.tile(self.plans[:, time : time + steps], (batch, 1, 1)))

        def mean(values: np.ndarray) -> np.ndarray:
            parted = np.asarray(values).reshape(batch, n, *values.shape[1:])
            middle = parted.mean(1, dtype=np.float64)
            return middle.round().astype(parted.dtype) if parted.dtype == np.uint8 else middle.astype(parted.dtype)

        observation = {name: mean(v) for name, v in frame.observation.items()}
        return (inner, time + steps), Frame(observation, mean(frame.reward), mean(frame.terminated))


class Oracle:
    """Knows the truth: plays it in the environment itself, from the saved state that a noise seed stands for.

    states: noise seed -> saved state. redrawn: share of sessions whose rollouts are under other actions, drawn by
    `stage`; noise: deviation of what is added to images, 0 to 255. Both make an oracle whose score is known.
    """

    def __init__(
        self, stage: Stage, states: Mapping[int, bytes], *, redrawn: float = 0.0, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.stage, self.states, self.redrawn, self.noise = stage, states, redrawn, noise
        self.rng = np.random.default_rng(seed)

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> _Past:
        """Look up the saved states; raises `SpecError` for a seed that has none."""
        keys = _seeds(seeds, len(next(iter(observations.values()))))
        lost = [key for key in keys if key not in self.states]
        if lost:
            raise SpecError(
                f"no state was saved for the seeds {lost[:4]}; an oracle knows the moments it was given alone."
            )
        last = {name: v[:, -1] for name, v in observations.items()}
        return _Past(keys, [np.zeros((0, 0), np.float32)] * len(keys), last, self.rng.random(len(keys)) < self.redrawn)

    def rollout(self, state: _Past, actions: Any) -> tuple[_Past, Frame]:
        """Play all actions since the start again, and hand on the new ones' frames; an ended episode stays as it is."""
        rows = np.asarray(actions, np.float32)
        batch, steps = rows.shape[:2]
        frames: dict[str, list[np.ndarray]] = {}
        rewards, ends = np.zeros((2, batch, steps), np.float32)
        played = []
        for b, (key, before) in enumerate(zip(state.seeds, state.rows)):
            now = self.stage.draw(self.rng, steps) if state.wrong[b] else rows[b]
            whole = np.concatenate([before, now]) if len(before) else now
            played.append(whole)
            self.stage.restore(Moment(key, [], whole, self.states[key], 0))
            found = self.stage.play(whole)
            seen = found.frames or [{name: v[b] for name, v in state.last.items()}]
            index = [min(len(seen) - 1, len(before) + t) for t in range(steps)]
            for name in state.last:
                frames.setdefault(name, []).append(self._noisy(np.stack([seen[i][name] for i in index])))
            paid = found.rewards[len(before) :]
            rewards[b, : len(paid)] = paid
            if found.terminated and len(paid) > 0:
                ends[b, len(paid) - 1] = 1.0
        stacked = {name: np.stack(parts) for name, parts in frames.items()}
        return _Past(state.seeds, played, state.last, state.wrong), Frame(stacked, rewards, ends)

    def _noisy(self, frames: np.ndarray) -> np.ndarray:
        if not self.noise or frames.dtype != np.uint8:
            return frames
        return (frames + self.rng.normal(0, self.noise, frames.shape)).round().clip(0, 255).astype(np.uint8)


class Deaf:
    """Knows what a dreamer knows, but hears one action, `row` `(W,)`, whatever it is told.

    Branches of one moment are told the same, so its score is chance over all of them, though not over some of them.
    """

    def __init__(self, dreamer: Dreamer, row: Any) -> None:
        self.dreamer, self.row = dreamer, np.asarray(row, np.float32)

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Start the dreamer, which knows how the context came about."""
        return self.dreamer.start(observations, actions, seeds=seeds)

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Frame]:
        """Roll out under the one action."""
        return self.dreamer.rollout(state, np.tile(self.row, (*np.shape(actions)[:2], 1)))


class Misheard:
    """Knows what a dreamer knows, but in each branch hears what the next branch of that moment is told.

    Branches of one moment are the sessions of one seed. Who follows actions is wrong here more often than by chance.
    """

    def __init__(self, dreamer: Dreamer) -> None:
        self.dreamer = dreamer

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Start the dreamer, which knows how the context came about, and find the neighbours."""
        keys = np.array(_seeds(seeds, len(next(iter(observations.values())))))
        order = np.arange(len(keys))
        for key in np.unique(keys):
            there = np.flatnonzero(keys == key)
            order[there] = np.roll(there, -1)
        return self.dreamer.start(observations, actions, seeds=seeds), order

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Frame]:
        """Roll out under the neighbours' actions."""
        inner, order = state
        inner, frame = self.dreamer.rollout(inner, np.asarray(actions)[order])
        return (inner, order), frame


@dataclass
class _Past:
    """An oracle's sessions: seeds, actions so far, last context frames, and which are under other actions."""

    seeds: list[int]
    rows: list[np.ndarray]
    last: dict[str, np.ndarray]
    wrong: np.ndarray


def _seeds(seeds: int | Sequence[int], batch: int) -> list[int]:
    return list(range(seeds, seeds + batch)) if isinstance(seeds, (int, np.integer)) else [int(s) for s in seeds]
