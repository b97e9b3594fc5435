"""The true environment with the surface of an engine: what a planner could do in a perfect world.

A session is a saved state of the environment (`terrella.arenas.forkable`). Futures are played in the environment
itself, one after another, and afterwards it is back where it was. The chance of a future is keyed by the session, as an
engine's is: candidates of one problem meet the same luck, which is not the luck that the environment will really have.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from .. import actions as codec
from ..arenas import describe, forkable, to_streams
from ..arenas.wrappers import find_arena
from ..engine import Frame
from ..errors import ArenaError, ConfigError, StateError
from ..spec import WorldSpec


@dataclass(frozen=True)
class Moments:
    """Saved states of an environment: B sessions. ended: bool `(B,)`, whether each episode is over."""

    saved: tuple[bytes, ...]
    seeds: Tensor
    time: Tensor
    ended: np.ndarray

    @property
    def batch(self) -> int:
        """B."""
        return len(self.saved)

    def fork(self, n: int = 1) -> Moments:
        """Branch each session n times, branches side by side."""
        return self.select(np.repeat(np.arange(self.batch), n).tolist())

    def select(self, indices: Sequence[int]) -> Moments:
        """The sessions at `indices`; raises `StateError` for those there are not."""
        index = list(indices)
        if not index or min(index) < 0 or max(index) >= self.batch:
            raise StateError(f"select({index}): indices must lie in 0..{self.batch - 1}, at least one.")
        return Moments(tuple(self.saved[i] for i in index), self.seeds[index], self.time[index], self.ended[index])

    def reseed(self, seeds: Sequence[int]) -> Moments:
        """The same sessions with other chance, one key each; raises `StateError` for another number of keys."""
        if len(seeds) != self.batch:
            raise StateError(f"{len(seeds)} seeds for {self.batch} sessions; give one each.")
        return Moments(self.saved, torch.tensor(list(seeds), dtype=torch.int64), self.time, self.ended)

    @staticmethod
    def merge(states: Sequence[Moments]) -> Moments:
        """Put the sessions of several into one batch, in order."""
        seeds, time = (torch.cat([getattr(s, name) for s in states]) for name in ("seeds", "time"))
        return Moments(sum((s.saved for s in states), ()), seeds, time, np.concatenate([s.ended for s in states]))

    def digest(self, tolerance: float, whole: bool = True) -> Tensor:
        """Number each session by its saved state, int64 `(B,)`: only equal states have equal numbers."""
        del tolerance, whole
        short = [hashlib.blake2b(saved, digest_size=8).digest() for saved in self.saved]
        return torch.from_numpy(np.frombuffer(b"".join(short), np.int64).copy()) + self.seeds + self.time


class Simulator:
    """Plays futures in `env`, made by `terrella.arenas.make`; its present moment is the one to plan from.

    steps: 1, one evaluation a frame. An episode that a time limit ends is over, as any other.

    Raises `ArenaError` for an environment whose state cannot be saved.
    """

    steps = 1
    spec: WorldSpec

    def __init__(self, env: gym.Env):
        fork = forkable(env)
        if fork is None:
            raise ArenaError(f"the state of {env} cannot be saved, so no future can be tried; see terrella.arenas.")
        self._env, self._arena, self._fork, self.spec = env, find_arena(env), fork, describe(env)

    def start(self, observations: Any = None, actions: Any = None, seeds: int | Sequence[int] = 0) -> Moments:
        """The environment's present moment as one session; it knows what it shows. seeds: of the chance."""
        del observations, actions
        keys = [seeds] if isinstance(seeds, (int, np.integer)) else list(seeds)
        if len(keys) != 1:
            raise ConfigError(f"{len(keys)} seeds for the one present moment of an environment; give one.")
        key, time = torch.tensor(keys, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        return Moments((self._fork.save(),), key, time, np.zeros(1, np.bool_))

    def observe(self, state: Moments, actions: np.ndarray, observations: Mapping[str, np.ndarray]) -> Moments:
        """The present moment, which the environment has reached by itself."""
        del actions, observations
        return Moments((self._fork.save(),), state.seeds, state.time + 1, np.zeros(1, np.bool_))

    def look(self, state: Moments) -> dict[str, np.ndarray]:
        """What each session shows, stream -> `(B, ...)`; the environment is back where it was afterwards."""
        present, seen = self._fork.save(), []
        for saved in state.saved:
            seen.append(to_streams(self._env, self._fork.restore(saved)))
        self._fork.restore(present)
        return {name: np.stack([s[name] for s in seen]) for name in self.spec.modelled}

    def rollout(self, state: Moments, actions: np.ndarray, *, observe: bool = True) -> tuple[Moments, Frame]:
        """Take actions `(B, T, W)` in every session; as `Engine.rollout`.

        After an episode's end nothing is paid and its last frame stays.
        """
        rows = np.asarray(actions, np.float64)
        batch, length = rows.shape[:2]
        reward, ended = np.zeros((batch, length), np.float32), np.zeros((batch, length), np.float32)
        frames = {n: np.zeros((batch, length, *s.shape), _TYPES[s.kind]) for n, s in self.spec.modelled.items()}
        saved, present = list(state.saved), self._fork.save()
        keys = ((state.seeds * 1_000_003 + state.time) % (1 << 31)).tolist()
        same = Counter(zip(saved, keys))
        env = self._env if observe else self._arena.unseen
        ready: dict[tuple[bytes, int], bytes] = {}
        for b in range(batch):  # one environment plays one future at a time
            moment, over = (saved[b], keys[b]), bool(state.ended[b])
            shown = self._fork.restore(ready.get(moment, saved[b]))
            if moment not in ready:
                self._fork.reseed(keys[b])
                if same[moment] > 1:  # candidates of one problem: some simulators take long to seed
                    ready[moment] = self._fork.save()
            went = False
            for t in range(length):
                if not over:
                    action = codec.decode(self.spec.action, rows[b, t])
                    shown, reward[b, t], terminated, truncated, _ = env.step(action)
                    over, went = bool(terminated or truncated), True
                ended[b, t] = over
                if observe:
                    seen = to_streams(self._env, shown)
                    for name, stream in frames.items():
                        stream[b, t] = seen[name]
            if went and not observe:
                self._arena.look(shown)  # a picture for each future, not for each of its steps
            saved[b] = self._fork.save()
        self._fork.restore(present)
        after = Moments(tuple(saved), state.seeds, state.time + length, ended[:, -1] > 0)
        return after, Frame(frames if observe else {}, reward, ended)


_TYPES = {"image": np.uint8, "vector": np.float32}
