"""Your own environment: a class of Gymnasium's interface, recorded, learned, stepped and played.

    python examples/custom_env.py

Nothing has to be registered. The world remembers some recorded beginnings, so it can be entered without the class.
"""

# ruff: noqa: D102
from __future__ import annotations

import gymnasium as gym
import numpy as np
import tyro
from gymnasium import spaces

import terrella


class Catch(gym.Env):
    """A ball falls through a picture; move the paddle under it. Ten balls make an episode."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(3)  # left, stay, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.paddle, self.balls = 24, 0
        self.drop()
        return self.picture(), {}

    def step(self, action):
        self.paddle = int(np.clip(self.paddle + 4 * (int(action) - 1), 0, 48))
        self.y += 4
        landed = self.y >= 56
        caught = landed and -8 < self.x - self.paddle < 16
        if landed:
            self.drop()
        return self.picture(), float(caught), self.balls > 10, False, {}

    def drop(self):
        self.x, self.y, self.balls = int(self.np_random.integers(0, 57)), 0, self.balls + 1

    def picture(self):
        image = np.full((64, 64, 3), (20, 24, 40), np.uint8)
        image[self.y : self.y + 8, self.x : self.x + 8] = (250, 200, 60)
        image[58:62, self.paddle : self.paddle + 16] = (90, 200, 250)
        return image


def main(folder: str = "runs/catch", steps: int = 6000, budget: str = "3m", preset: str = "auto", play: bool = True):
    data = terrella.record(Catch, f"{folder}/data", steps=steps)
    world = terrella.train(data, folder, budget=budget, preset=preset)

    env = terrella.WorldEnv(world)
    observation, _ = env.reset(seed=0)
    caught = 0.0
    for _ in range(100):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        caught += reward
        if terminated or truncated:
            observation, _ = env.reset()
    print(f"100 dreamed frames, {observation.dtype} {observation.shape}, with about {caught:.1f} balls caught")
    if play:
        terrella.serve(world)  # the address to open in a browser is printed; keys 1, 2 and 3 move
    return world


if __name__ == "__main__":
    tyro.cli(main)
