"""The environment that a world was recorded from, seen as the world shows it: to learn in, and to judge policies by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from .. import arenas
from ..entry import observation_space, present
from ..errors import ConfigError, SpecError
from ..spec import EnvSpec, WorldSpec

if TYPE_CHECKING:
    from .policy import LearnedPolicy


class Shown(gym.ObservationWrapper):
    """An environment whose observations have the form that a world of its spec gives them (see `WorldEnv`).

    Raises `ArenaError` for an environment that `terrella.arenas.make` has not made.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.world_spec: WorldSpec = arenas.describe(env)
        self.observation_space = observation_space(self.world_spec)

    def observation(self, observation: Any) -> Any:
        """Turn a native observation into the world's form."""
        return present(self.world_spec, arenas.to_streams(self.env, observation))


def true_envs(env: str | EnvSpec, num_envs: int, *, max_episode_steps: int | None = None) -> SyncVectorEnv:
    """Make `num_envs` true environments that look like a world of them and reset within the step.

    env: an id, or the `EnvSpec` that a world keeps (`world.spec.env`). max_episode_steps: truncate there, besides the
    environment's own limit. Raises what `terrella.arenas.make` raises, and `ConfigError` for numbers below 1.
    """
    if num_envs < 1 or (max_episode_steps is not None and max_episode_steps < 1):
        raise ConfigError(f"num_envs is {num_envs}, max_episode_steps {max_episode_steps}; both must be at least 1.")

    def one() -> gym.Env:
        made = Shown(arenas.make(env))
        return made if max_episode_steps is None else gym.wrappers.TimeLimit(made, max_episode_steps)

    return SyncVectorEnv([one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def returns(
    policy: LearnedPolicy | None,
    env: str | EnvSpec | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    max_episode_steps: int | None = None,
    deterministic: bool = True,
) -> np.ndarray:
    """Play whole episodes in the true environment and return what each brought, float64 `(episodes,)`.

    policy: None acts at random. env: an id or `EnvSpec`; by default the one that the policy was made for. seed: decides
    how episodes begin, `episodes` seeds drawn from it, so that policies are judged on the same ones. deterministic:
    take the likeliest action, rather than draw one. The episodes are played side by side.

    Raises `SpecError` for an environment that does not fit the policy, `ConfigError` for no environment or episodes.
    """
    made_for = env if env is not None or policy is None else policy.spec.env
    if made_for is None or episodes < 1:
        raise ConfigError(f"env is {made_for} and episodes {episodes}; name an environment, and at least one episode.")
    envs = true_envs(made_for, episodes, max_episode_steps=max_episode_steps)
    spec: WorldSpec = envs.envs[0].get_wrapper_attr("world_spec")
    if policy is not None and not policy.spec.same_interface(spec):
        envs.close()
        raise SpecError(f"{made_for} has other observations or actions than the environment of this policy.")
    starts = np.random.SeedSequence([0x7E57, seed]).generate_state(episodes, np.uint32) >> 1
    rng = np.random.default_rng([seed, 1])
    envs.action_space.seed(int(starts[0]))
    observations, _ = envs.reset(seed=[int(s) for s in starts])
    total, going = np.zeros(episodes), np.ones(episodes, bool)
    while going.any():  # those that are over play on until the last one is, and count no more
        if policy is None:
            actions = envs.action_space.sample()
        else:
            actions = policy.predict(observations, deterministic=deterministic, rng=rng)
        observations, reward, terminated, truncated, _ = envs.step(actions)
        total += np.where(going, reward, 0.0)
        going &= ~(terminated | truncated)
    envs.close()
    return total
