"""A world as a `gymnasium.Env`: `reset` enters a recorded beginning, `step` takes a native action.

An episode is a function of the seed alone: `reset(seed=s)` seeds `np_random`, which draws the beginning and the key of
the world's own chance, so equal seeds and actions give equal episodes, bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from . import actions
from .data import Dataset
from .data.episode import Clips
from .engine import Engine, State
from .entry import MEMORY, Stage, check_options, picture, start_option
from .errors import StateError
from .world import World

ID = "terrella/World-v0"
_PYGAME = {"ArrowRight": 1073741903, "ArrowLeft": 1073741904, "ArrowDown": 1073741905, "ArrowUp": 1073741906}
_PYGAME |= {"Space": 32, "Enter": 13, "Tab": 9}


def register() -> None:
    """Let `gymnasium.make("terrella/World-v0", world=...)` and `make_vec` find these environments.

    Importing the package registers nothing; call this first. Calling it twice does no harm.
    """
    if ID not in gym.registry:
        gym.register(ID, "terrella.env:WorldEnv", vector_entry_point="terrella.vector_env:WorldVectorEnv")


@dataclass(frozen=True)
class Moment:
    """A moment of a `WorldEnv` to come back to, as often as you like; its state is never stepped itself."""

    state: State
    observation: dict[str, np.ndarray]
    elapsed: int
    over: bool


class WorldEnv(gym.Env[Any, Any]):
    """A world, stepped like the environment that it was recorded from.

    world: a `World`, a folder, or a name in the gallery. starts: where episodes begin: clips, a dataset (any place in
    its training episodes), or None for the beginnings kept in the world. max_episode_steps: truncate there.
    render_mode: None or "rgb_array". steps: denoising steps a frame (None: the world's own). engine:
    more settings of the `Engine`, by name.

    Observations: as recorded, a `Box` of uint8 `(h, w, C)` or float32 `(F,)` (other shapes flattened, choices one-hot),
    a grid of choices, a spelled text, or a flat `Dict` of these where there were several; other text is left out,
    numbers stay within their declared bounds.
    Actions: the recorded space; numbers beyond the bounds of a `Box` are clipped.
    Reward: as predicted. Termination: when the predicted probability of the end exceeds one half, so that an episode is
    a function of seed and actions; `info["end_probability"]` has the probability, and with `engine={"alarm": ...}`
    `info["alarm"]` the level of the alarm.
    Reset: `options={"start": i}` chooses the i-th clip, or the i-th episode of a dataset.

    Raises what `Stage` and `Engine.step` raise; `ActionError` for an action that does not fit; `StateError` for a step
    before `reset` or after the end.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        world: World | str | Path,
        *,
        starts: Clips | Dataset | str | Path | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        steps: int | None = None,
        device: torch.device | str | None = None,
        engine: Mapping[str, Any] | None = None,
    ):
        check_options(max_episode_steps, render_mode)
        self.stage = Stage(world, starts, steps, device, engine)
        self.observation_space, self.action_space = self.stage.observation_space, self.stage.action_space
        self.metadata = {**type(self).metadata, "render_fps": self.stage.fps}  # pyright: ignore[reportAttributeAccessIssue]
        self.render_mode, self.max_episode_steps = render_mode, max_episode_steps
        self._state: State | None = None
        self._elapsed, self._over = 0, False
        self._past: deque[dict[str, np.ndarray]] = deque(maxlen=1 if render_mode is None else MEMORY)

    @property
    def engine(self) -> Engine:
        """The engine that runs the world, for planners that step its states themselves."""
        return self.stage.engine

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; returns the last recorded frame, and which beginning and key of chance it has."""
        super().reset(seed=seed)
        beginning = self.stage.draw(self.np_random, start_option(options))
        self._state = self.stage.begin([beginning])
        self._elapsed, self._over = 0, False
        self._past.clear()
        return self._see(beginning.last), beginning.info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one native action."""
        state = self._alive()
        if self._over:
            raise StateError("the episode has ended; call reset() before the next step.")
        row = self.stage.row(action)
        self._state, frame = self.engine.step(state, row[None])
        self._elapsed += 1
        terminated = bool(frame.ended[0])
        truncated = self.max_episode_steps is not None and self._elapsed >= self.max_episode_steps
        self._over = terminated or truncated
        seen = self._see({name: frames[0] for name, frames in frame.observation.items()})
        info = {"end_probability": float(frame.terminated[0])}
        info |= {"alarm": float(frame.info["alarm"][0])} if "alarm" in frame.info else {}
        return seen, float(frame.reward[0]), terminated, truncated, info

    # state is a value

    @property
    def state(self) -> State:
        """A copy of the present state (one session), yours to fork and step with `env.engine`."""
        return self._alive().select([0])

    def save_state(self) -> Moment:
        """Remember this moment; `restore_state` comes back to it."""
        return Moment(self.state, self._past[-1], self._elapsed, self._over)

    def restore_state(self, moment: Moment, seed: int | None = None) -> Any:
        """Come back to a moment, of this environment or another one of the same world; returns its observation.

        The same actions then bring the same frames; a `seed` gives the branch another chance.
        """
        if moment.state.world != self.engine.fingerprint:
            raise StateError("this moment belongs to another world; restore it in an environment of that world.")
        state = moment.state.select([0])
        self._state = state if seed is None else state.reseed([seed])
        self._elapsed, self._over = moment.elapsed, moment.over
        self._past.clear()
        return self._see(moment.observation)

    # people

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the first image of the observation, RGB, or a plot of the first vector; None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn('nothing is rendered: make this environment with render_mode="rgb_array".')
            return None
        self._alive()
        return picture(self.stage.spec, self._past)

    @property
    def noop(self) -> Any:
        """The native action when no key is held, or None where every action acts."""
        row = self.stage.spec.noop
        return None if row is None else actions.decode(self.stage.spec.action, np.asarray(row))

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Map held keys (pygame codes) to native actions, for `gymnasium.utils.play.play(env, noop=env.noop)`."""
        found = {}
        for chord, row in self.stage.spec.keys.items():
            codes = [_pygame_code(key) for key in chord.split("+")]
            if None not in codes:
                held = tuple(sorted(code for code in codes if code is not None))
                found[held] = actions.decode(self.stage.spec.action, np.asarray(row))
        return found

    def close(self) -> None:
        """Let the state go; `reset` begins anew."""
        self._state = None

    def _alive(self) -> State:
        if self._state is None:
            raise StateError("there is no episode yet; call reset() first.")
        return self._state

    def _see(self, observation: dict[str, np.ndarray]) -> Any:
        self._past.append(observation)
        return self.stage.present(observation)


def _pygame_code(key: str) -> int | None:
    """Turn a DOM key code into pygame's number; None for keys that have none here."""
    letter = key.removeprefix("Key").removeprefix("Digit")
    return ord(letter.lower()) if len(letter) == 1 and letter != key else _PYGAME.get(key)
