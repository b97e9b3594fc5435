"""True stories of things that leave the view: what was seen, what was hidden for how long, and where it is now.

Every predicted frame in which a moving thing comes back into view, having been out of it for at least a few frames,
makes a *case*: the true frame, in which it went on, beside the frame in which it was left where it was last seen. A
world's prediction is nearer to one of the two, over the pixels in which they differ. Things that have not come back
make no case: an empty prediction would be right about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from terrella.actions import encode
from terrella.arenas import describe, make
from terrella.data.policies import Cover, make_policy
from terrella.spec import WorldSpec

HIDDEN = 5  # frames out of view before anything counts as hidden
PIXELS = 6  # in which the two frames differ, for a case to say anything
DIFFERENT = 25  # levels of 255


class LeaveAndReturn(Cover):
    """Covers the world, then by turns rests for 5, 20 or 70 frames and wanders for 10: things stay away for long."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.frame, self.plan = 0, []

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Plan the walk and the rests."""
        super().begin(space, rng)
        rests = rng.choice([5, 20, 70], size=20)
        self.frame, self.plan = 0, [moving for n in rests for moving in [False] * n + [True] * 10]

    def act(self, observation: Any) -> Any:
        """Return the next action; rest is the middle of each choice."""
        self.frame += 1
        walked = super().act(observation)
        assert self.frames is not None
        if self.frame < self.frames or self.plan[self.frame - self.frames]:
            return walked
        return self._middle

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Find the action that moves nothing."""
        super().prepare(spec, env)
        self._middle = self._actions[int(np.abs(self._moves).sum(1).argmin())]


@dataclass
class Case:
    """One hidden thing at one frame: how long it was out of view, and the view had it been left where it was."""

    frame: int
    hidden_for: int
    left: np.ndarray


@dataclass
class Story:
    """One episode: frames `(T, h, w, C)`, rows `(T - 1, W)`, `frozen` frames in which all things stay where they were
    last seen before `observed`, and cases."""

    frames: np.ndarray
    rows: np.ndarray
    frozen: np.ndarray
    cases: list[Case] = field(default_factory=list)


def tell(env_id: str, policy: Any, observed: int, predicted: int, seed: int, **kwargs: Any) -> Story:
    """Play one episode of `observed + predicted` frames and look for hidden things among the predicted ones."""
    env = make(env_id, max_episode_steps=observed + predicted, **kwargs)
    spec = describe(env)
    core: Any = env.unwrapped
    actor = make_policy(policy)
    actor.prepare(spec, env)
    rng = np.random.default_rng(seed)
    actor.begin(env.action_space, rng)
    frame, _ = env.reset(seed=seed)
    frames, rows, frozen, cases = [frame], [], [], []
    last_seen, last_at = np.zeros(len(core.truth["positions"]), np.int64), core.truth["positions"]
    left_at = last_at.copy()
    for t in range(1, observed + predicted):
        action = actor.act(frame)
        frame = env.step(action)[0]
        frames.append(frame)
        rows.append(encode(spec.action, action))
        where, seen = core.truth["positions"], core.visible()
        if t >= observed:
            frozen.append(core.view_with(left_at))
            for i in np.flatnonzero(seen & (t - last_seen > HIDDEN) & core.truth["velocities"].any(1)):
                left = core.view_with(np.where(np.arange(len(where))[:, None] == i, last_at, where))
                if _differ(frame, left).sum() >= PIXELS:
                    cases.append(Case(t - observed, int(t - last_seen[i]), left))
        last_seen = np.where(seen, t, last_seen)
        last_at = np.where(seen[:, None], where, last_at)
        if t < observed:
            left_at = last_at.copy()
    return Story(np.stack(frames), np.stack(rows), np.stack(frozen), cases)


def judge(stories: list[Story], predicted: np.ndarray, observed: int) -> list[dict[str, float]]:
    """Hold predictions `(stories, P, h, w, C)` against each case: its errors, over the pixels that tell.

    Returns for each case `frame`, `hidden_for`, `error` to the truth and `error_left` to the frame of a thing left
    behind, on the scale 0..1.
    """
    found = []
    for story, dream in zip(stories, predicted):
        for case in story.cases:
            if case.frame >= len(dream):
                continue
            truth, guess = story.frames[observed + case.frame], dream[case.frame].astype(np.float64)
            tell_tale = _differ(truth, case.left)
            true, left = (np.square((guess - f)[tell_tale] / 255).mean() for f in (truth, case.left))
            found.append({"frame": case.frame, "hidden_for": case.hidden_for, "error": true, "error_left": left})
    return found


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.int64) - b).max(-1) >= DIFFERENT
