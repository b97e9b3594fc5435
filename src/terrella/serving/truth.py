"""The true environment beside a world: the same start, the same actions, and a way back to any earlier frame.

Environments whose state can be saved are taken back to the nearest saved state; the others are reset with their seed
and given all actions again, which is exact for every environment that is deterministic given its seed.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np

from .. import arenas
from ..actions import action_space, decode, encode, width
from ..arenas.sentences import Sentences, find_sentences
from ..data.episode import Clips
from ..data.speech import allowed
from ..errors import ArenaError
from ..spec import WorldSpec

log = logging.getLogger("terrella.serving")
SUGGESTED = 12  # sentences at a time
ATTEMPTS = 20  # seeds tried for a start that outlives its own context

SMALLEST = 32  # pixels; smaller images are symbols, and a rendered picture is shown beside them


@dataclass(frozen=True)
class TrueFrame:
    """What the environment showed after one action; `picture` is a rendered frame where the observation is no image."""

    observation: dict[str, np.ndarray]
    reward: float = 0.0
    score: float = 0.0
    ended: bool = False
    picture: np.ndarray | None = None


@dataclass(frozen=True)
class Mark:
    """A point in an environment's life: how many actions it has seen, and its saved state if it has one."""

    count: int
    frame: TrueFrame
    recent: tuple[dict[str, np.ndarray], ...]
    state: bytes | None = None


@dataclass
class Truth:
    """An environment made again from a world's spec, stepped by flat action rows.

    `context` is how many transitions a world needs to start from here. openings: recorded beginnings; where they begin
    at a reset whose seed is known, every start is one of them played again, since a world may need what they show.
    After the episode's end the last frame stays. Raises `ArenaError` when the environment cannot be made or does not
    match the world.
    """

    spec: WorldSpec
    context: int
    openings: Clips | None = None
    env: gym.Env = field(init=False)
    frame: TrueFrame = field(init=False)

    def __post_init__(self) -> None:
        self.env = _make(self.spec)
        self._told = _sentences(self.env)
        self._visible = any(s.kind == "image" and s.shape[0] >= SMALLEST for s in self.spec.modelled.values())
        saved = arenas.forkable(self.env)
        self._forkable = saved if saved is not None and saved.exact else None
        self._seed = 0
        self._rows: list[np.ndarray] = []
        self._recent: deque[dict[str, np.ndarray]] = deque(maxlen=self.context + 1)

    def begin(self, seed: int) -> None:
        """Reset, then let `context` idle actions pass; a seed whose episode ends meanwhile gives way to the next."""
        if self.openings is not None and self.openings.seeds is not None:
            which = seed % len(self.openings.seeds)
            self._play(int(self.openings.seeds[which]), self.openings.actions[which])
            return
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng(seed + attempt)
            self._play(seed + attempt, [self._idle(rng) for _ in range(self.context)])
            if not self.frame.ended:
                return
        raise ArenaError(
            f"{self.spec.env.id} ends within {self.context} idle steps for {ATTEMPTS} seeds from {seed} on."
        )

    def step(self, row: np.ndarray) -> TrueFrame:
        """Apply one flat action row and return what the environment shows."""
        self._rows.append(np.asarray(row, np.float64))
        last = self.frame
        if not last.ended:
            obs, reward, terminated, truncated, _ = self.env.step(decode(self.spec.action, self._rows[-1]))
            streams = self._streams(obs)
            ended = bool(terminated or truncated)
            self.frame = TrueFrame(streams, float(reward), last.score + float(reward), ended, self._picture())
        self._recent.append(self.frame.observation)
        return self.frame

    def possible(self, always: bool = False) -> tuple[str, ...] | None:
        """Sentences that can be carried out now, verbs by turns; None where the current one is not over, or none are.

        always: also in the middle of a sentence, where they otherwise stay as they were, so that nothing changes place
        on the page while it is carried out. What is kept for testing is left out.
        """
        told = self._told
        if told is None or self.frame.ended:
            return None
        if not always and told.played and len(told.played) < told.chunk and not told.done:
            return None
        count: Counter[str] = Counter()
        turns = []
        for deed in allowed(told, told.feasible()):
            turns.append((count[deed[0]], deed))
            count[deed[0]] += 1
        deeds = [deed for _, deed in sorted(turns, key=lambda turn: turn[0])[:SUGGESTED]]
        return tuple(told.grammar.say(deed, told.grammar.phrasings(deed, held=False)[0]) for deed in deeds)

    def start(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The last frames as a context: stream -> `(1, c+1, ...)`, and the actions between them, `(1, c, W)`."""
        frames = list(self._recent)
        observations = {name: np.stack([f[name] for f in frames])[None] for name in self.spec.modelled}
        rows = self._rows[len(self._rows) - (len(frames) - 1) :]
        return observations, np.stack(rows)[None] if rows else np.zeros((1, 0, width(self.spec.action)))

    def mark(self) -> Mark:
        """Remember this moment, for `back`."""
        state = self._forkable.save() if self._forkable is not None and not self.frame.ended else None
        return Mark(len(self._rows), self.frame, tuple(self._recent), state)

    def back(self, mark: Mark) -> None:
        """Return to an earlier moment of this environment's life, or of the one it was forked from."""
        rows = self._rows[: mark.count]
        if self._forkable is not None and mark.state is not None:
            self._forkable.restore(mark.state)
            self._rows = rows
        elif not mark.frame.ended:
            self._replay(rows)
        self._rows = rows
        self.frame = mark.frame
        self._recent = deque(mark.recent, maxlen=self.context + 1)

    def relive(
        self, seed: int, rows: Sequence[tuple[np.ndarray, int | None]], frames: Sequence[int]
    ) -> dict[int, Mark]:
        """Begin from `seed` and give the actions of these rows again; return marks of `frames`, 0 to `len(rows)`."""
        self.begin(seed)
        marks = {}
        for frame in range(len(rows) + 1):
            if frame in frames:
                marks[frame] = self.mark()
            if frame < len(rows):
                self.step(rows[frame][0])
        return marks

    def fork(self, mark: Mark) -> Truth:
        """Return another environment at that moment; this one is left as it is."""
        other = Truth(self.spec, self.context, self.openings)
        other._reset(self._seed)
        other._rows = list(self._rows)
        other.back(mark)
        return other

    def close(self) -> None:
        """Free the environment."""
        self.env.close()

    def _play(self, seed: int, rows: Iterable[np.ndarray]) -> None:
        self._reset(seed)
        for row in rows:
            self.step(row)
        self.frame = replace(self.frame, reward=0.0, score=0.0)

    def _reset(self, seed: int) -> None:
        self._seed = seed
        obs, _ = self.env.reset(seed=seed)
        self._rows = []
        self.frame = TrueFrame(self._streams(obs), picture=self._picture())
        self._recent.clear()
        self._recent.append(self.frame.observation)

    def _replay(self, rows: list[np.ndarray]) -> None:
        self.env.reset(seed=self._seed)
        for row in rows:
            self.env.step(decode(self.spec.action, row))

    def _idle(self, rng: np.random.Generator) -> np.ndarray:
        if self.spec.noop is not None:
            return np.asarray(self.spec.noop, np.float64)
        space = action_space(self.spec.action)
        space.seed(int(rng.integers(2**31)))
        return encode(self.spec.action, space.sample())

    def _streams(self, obs: Any) -> dict[str, np.ndarray]:
        streams = arenas.to_streams(self.env, obs)
        return {name: np.array(streams[name]) for name in self.spec.modelled}

    def _picture(self) -> np.ndarray | None:
        if self._visible or self.env.render_mode != "rgb_array":
            return None
        picture = self.env.render()
        return picture if isinstance(picture, np.ndarray) and picture.ndim == 3 else None


def _sentences(env: gym.Env) -> Sentences | None:
    try:
        return find_sentences(env)
    except ArenaError:
        return None


def _make(spec: WorldSpec) -> gym.Env:
    """Make the environment of a spec, rendering if it can; raises `ArenaError` when it does not fit the spec."""
    if not spec.env.id:
        raise ArenaError("this world does not name an environment; it starts from recorded frames.")
    env = arenas.make(spec.env)
    if not arenas.describe(env).same_interface(spec):
        env.close()
        raise ArenaError(
            f"environment {spec.env.id!r} has other observations or actions here than when the world learned it."
        )
    return env
