"""Train a policy inside a world with Stable-Baselines3, then try it in the true environment.

    pip install stable-baselines3
    python examples/train_policy_in_world.py

The policy never touches the environment while it learns: all its experience is dreamed, many episodes at a time.
"""

# ruff: noqa: D102
from __future__ import annotations

from typing import Any

import numpy as np
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

import terrella
from terrella import arenas


class WorldVecEnv(VecEnv):
    """Show a `WorldVectorEnv` to Stable-Baselines3, whose vector environments reset within the step (`SAME_STEP`)."""

    def __init__(self, world: Any, num_envs: int, **kwargs: Any):
        self.env = terrella.WorldVectorEnv(world, num_envs, autoreset_mode="SameStep", **kwargs)
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)

    def reset(self):
        observation, _ = self.env.reset(seed=self._seeds)
        self._reset_seeds()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self):
        observation, reward, terminated, truncated, told = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(terminated | truncated):
            infos[i] = {"terminal_observation": told["final_obs"][i], "TimeLimit.truncated": not terminated[i]}
        return observation, reward.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("all sub-environments are one batch; call the WorldVectorEnv itself.")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def real_return(model: PPO, world: terrella.World, episodes: int, most: int) -> float:
    """Mean return of the policy in the environment that the world was recorded from."""
    env = arenas.make(world.spec.env)
    returns = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        total, over, steps = 0.0, False, 0
        while not over and steps < most:
            action, _ = model.predict(observation, deterministic=False)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over, steps = total + float(reward), terminated or truncated, steps + 1
        returns.append(total)
    env.close()
    return float(np.mean(returns))


def main(
    folder: str = "runs/cartpole",
    steps: int = 10_000,
    budget: str = "3m",
    preset: str = "auto",
    dreamed: int = 60_000,
    episodes: int = 20,
):
    data = terrella.record("CartPole-v1", f"{folder}/data", steps=steps)
    world = terrella.train(data, folder, budget=budget, preset=preset)
    envs = WorldVecEnv(world, 16, starts=data, max_episode_steps=100)
    model = PPO("MlpPolicy", envs, n_steps=128, batch_size=256, seed=0, device="cpu")
    print(f"true return before: {real_return(model, world, episodes, 500):.1f}")
    model.learn(dreamed)
    print(f"true return after {dreamed} dreamed steps: {real_return(model, world, episodes, 500):.1f}")
    return model


if __name__ == "__main__":
    tyro.cli(main)
