"""Any Gymnasium vector environment, a world's or the true one's, as a `VecEnv` of Stable-Baselines3.

    from terrella.learning.sb3 import VecEnvAdapter
    envs = VecEnvAdapter(terrella.WorldVectorEnv(world, 16, autoreset_mode="SameStep"))
    stable_baselines3.PPO("MlpPolicy", envs).learn(100_000)

This is the one file that imports Stable-Baselines3 at its head; import it where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from ..errors import ConfigError, missing_extra

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise missing_extra("stable-baselines3", "rl", "learning") from error


class VecEnvAdapter(VecEnv):
    """A `gymnasium.vector.VectorEnv` that resets within the step, under the interface of Stable-Baselines3.

    A step that ends an episode returns the first observation of the next one; what the ended one came to is in its info
    as `terminal_observation`, beside `TimeLimit.truncated`, by which a learner knows whether to go on valuing it, and
    `episode` with return `r` and length `l`. All sub-environments are one batch, so attributes are those of the whole
    and options of a reset are one for all.

    Raises `ConfigError` for a vector environment of another autoreset mode, or options that differ.
    """

    def __init__(self, envs: VectorEnv):
        mode = envs.metadata.get("autoreset_mode")
        if mode is None or AutoresetMode(mode) != AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"autoreset_mode is {mode}; Stable-Baselines3 needs environments that reset within the step. Make them "
                'with autoreset_mode="SameStep".'
            )
        self.envs = envs
        self._return, self._length = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Begin an episode everywhere, from the seeds given to `seed` and the options given to `set_options`."""
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ConfigError(f"options are {self._options}; all sub-environments are reset together, with the same.")
        seeds: Any = list(self._seeds) if all(seed is not None for seed in self._seeds) else None  # one each
        observation, told = self.envs.reset(seed=seeds, options=options or None)
        self.reset_infos = [_info(told, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._return[:], self._length[:] = 0, 0
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions of the step to come."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Take the step: observations, rewards float32 `(num_envs,)`, whether each episode ended, and infos."""
        observation, reward, terminated, truncated, told = self.envs.step(self._actions)
        over = terminated | truncated
        self._return += reward
        self._length += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(over):
            infos[i] = {
                "terminal_observation": told["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                "episode": {"r": float(self._return[i]), "l": int(self._length[i])},
            }
        self._return[over], self._length[over] = 0, 0
        return observation, reward.astype(np.float32), over, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the whole, once for each index."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the whole; raises `ConfigError` for only some of it."""
        if indices is not None:
            raise ConfigError(f"{attr_name} belongs to all sub-environments together; set it without indices.")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Raise `ConfigError`: there are no single environments to call."""
        raise ConfigError(f"{method_name} cannot be called on one of a batch; call it on VecEnvAdapter.envs.")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Say that no single environment is wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every sub-environment."""
        pictures: Any = self.envs.render()
        return pictures or [None] * self.num_envs


def _info(told: dict[str, Any], i: int) -> dict[str, Any]:
    """What the infos of a batch, arrays with masks, say of one sub-environment."""
    return {key: values[i] for key, values in told.items() if not key.startswith("_") and told.get(f"_{key}", [])[i]}
