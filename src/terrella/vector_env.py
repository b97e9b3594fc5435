"""A world as a `gymnasium.vector.VectorEnv`: many episodes in one engine state, a whole batch a call.

Each sub-environment has its own random stream, seeded as Gymnasium does (`seed + i`), and noise in the engine is keyed
by session, so each lives the episode that a `WorldEnv` with its seed would live, within rounding. Those that end are
replaced alone: a fresh session takes the place of the old one in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from .data import Dataset
from .data.episode import Clips
from .engine import Engine, State
from .entry import Beginning, Stage, check_options, picture, start_option
from .errors import ActionError, ConfigError, StateError
from .world import World


class WorldVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """`num_envs` episodes of one world, stepped together; arguments and behaviour are those of `WorldEnv`.

    autoreset_mode: what happens to a sub-environment that has ended. `NEXT_STEP` (the default): the next step ignores
    its action and returns its new beginning with reward 0. `SAME_STEP`: the step that ends it already returns the new
    beginning, and the infos hold `final_obs` and `final_info`.

    halt: where an episode ends besides: a function of the frames seen, stream -> `(num_envs, ...)`, that tells bool
    `(num_envs,)`. halt_reward: what such an end pays on top. `info["halted"]` tells which ends were of this kind.

    reset: `seed` is a number (sub-environment i takes `seed + i`) or one a sub-environment; `options={"start": i}`
    takes one number for all or one each. Rewards are float64 `(num_envs,)`.

    Raises what `WorldEnv` raises, and `ConfigError` for a number of sub-environments or a mode that cannot be.
    """

    def __init__(
        self,
        world: World | str | Path,
        num_envs: int = 1,
        *,
        starts: Clips | Dataset | str | Path | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        steps: int | None = None,
        device: torch.device | str | None = None,
        engine: Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        halt: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
        halt_reward: float = 0.0,
    ):
        check_options(max_episode_steps, render_mode)
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}; expected at least 1.")
        if autoreset_mode not in (*_MODES, *(m.value for m in _MODES)):
            known = " or ".join(repr(m.value) for m in _MODES)
            raise ConfigError(f"autoreset_mode is {autoreset_mode!r}; a world resets by {known}.")
        self.stage = Stage(world, starts, steps, device, engine)
        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.halt, self.halt_reward = halt, halt_reward
        self.single_observation_space = self.stage.observation_space
        self.single_action_space = self.stage.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": self.stage.fps,
            "autoreset_mode": self.autoreset_mode,
        }
        self._state: State | None = None
        self._rngs: list[np.random.Generator] = []
        self._seen: dict[str, np.ndarray] = {}
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)

    @property
    def engine(self) -> Engine:
        """The engine that runs the world."""
        return self.stage.engine

    @property
    def state(self) -> State:
        """A copy of the present state, one session a sub-environment."""
        return self._alive().select(range(self.num_envs))

    def reset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every sub-environment."""
        self._reseed(seed)
        start = start_option(options)
        chosen = start if isinstance(start, (list, tuple, np.ndarray)) else [start] * self.num_envs
        if len(chosen) != self.num_envs:
            raise ConfigError(f"start has {len(chosen)} numbers; give one for all {self.num_envs}, or one each.")
        beginnings = [self.stage.draw(rng, s) for rng, s in zip(self._rngs, chosen)]
        self._state = self.stage.begin(beginnings)
        self._seen = {name: np.stack([b.last[name] for b in beginnings]) for name in self.stage.spec.modelled}
        self._elapsed[:], self._over[:] = 0, False
        return self.stage.present(self._seen), self._join([b.info for b in beginnings])

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one native action in every sub-environment; those that ended before begin again instead."""
        state, rows, waiting = self._alive(), self._rows(actions), self._over
        reward, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if not waiting.all():  # the few that wait are stepped along, which is cheaper than taking them out
            self._state, frame = self.engine.step(state, rows)
            self._seen = frame.observation
            reward[~waiting], terminated[~waiting] = frame.reward[~waiting], frame.ended[~waiting]
            told = {"end_probability": frame.terminated} | {k: v for k, v in frame.info.items() if k == "alarm"}
            infos = [{name: float(values[i]) for name, values in told.items()} for i in range(self.num_envs)]
            if self.halt is not None:
                halted = self.halt(self._seen) & ~terminated & ~waiting
                reward[halted] += self.halt_reward
                terminated |= halted
                for i, info in enumerate(infos):
                    info["halted"] = bool(halted[i])
        self._elapsed += 1
        for i, beginning in self._restart(waiting):
            infos[i] = beginning.info
        limit = self.max_episode_steps
        truncated = self._elapsed >= limit if limit is not None else np.zeros(self.num_envs, bool)
        self._over = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = {i: self._observation(i) for i in np.flatnonzero(self._over)}
            for i, beginning in self._restart(self._over):
                infos[i] = {"final_obs": final[i], "final_info": infos[i], **beginning.info}
            self._over = np.zeros(self.num_envs, bool)
        return self.stage.present(self._seen), reward, terminated, truncated, self._join(infos)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one picture a sub-environment; None without a render mode."""
        if self.render_mode is None:
            return None
        self._alive()
        each = [{name: frames[i] for name, frames in self._seen.items()} for i in range(self.num_envs)]
        return tuple(picture(self.stage.spec, [seen]) for seen in each)

    def close_extras(self, **kwargs: Any) -> None:
        """Let the state go."""
        del kwargs
        self._state = None

    # inside

    def _alive(self) -> State:
        if self._state is None:
            raise StateError("there are no episodes yet; call reset() first.")
        return self._state

    def _reseed(self, seed: int | Sequence[int | None] | None) -> None:
        """Seed the random streams; None goes on with what there is, or begins with chance."""
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} sub-environments; give one each, or one number.")
        old: list[np.random.Generator | None] = [*self._rngs] or [None] * self.num_envs
        self._rngs = [rng if rng is not None and s is None else seeding.np_random(s)[0] for rng, s in zip(old, seeds)]

    def _rows(self, actions: Any) -> np.ndarray:
        try:
            each = list(iterate(self.action_space, actions))
        except (TypeError, KeyError, ValueError) as error:
            raise ActionError(f"actions {actions!r} are not a batch of {self.single_action_space}: {error}.") from error
        if len(each) != self.num_envs:
            raise ActionError(f"{len(each)} actions for {self.num_envs} sub-environments; give one each.")
        return np.stack([self.stage.row(action) for action in each])

    def _restart(self, which: np.ndarray) -> list[tuple[int, Beginning]]:
        """Let the sub-environments under the mask `which` begin again; returns where, and how."""
        index = [int(i) for i in np.flatnonzero(which)]
        if not index:
            return []
        fresh = [self.stage.draw(self._rngs[i]) for i in index]
        begun = self.stage.begin(fresh)
        if len(index) < self.num_envs:
            order = np.arange(self.num_envs)
            order[index] = self.num_envs + np.arange(len(index))
            begun = State.merge([self._alive(), begun]).select(order.tolist())
        self._state = begun
        self._elapsed[index] = 0
        for i, beginning in zip(index, fresh):
            for name, frame in beginning.last.items():
                self._seen[name][i] = frame
        return list(zip(index, fresh))

    def _observation(self, i: int) -> Any:
        return self.stage.present({name: frames[i] for name, frames in self._seen.items()})

    def _join(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        """Lay the infos of all sub-environments into arrays with masks, as Gymnasium has them."""
        joined: dict[str, Any] = {}
        for i, info in enumerate(infos):
            joined = self._add_info(joined, info, i)
        return joined


_MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
