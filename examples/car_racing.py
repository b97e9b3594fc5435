"""CarRacing: continuous actions (steering, gas, brake), and two roads from one moment.

    python examples/car_racing.py

Shown here: recording with a policy of your own, and `save_state`, from which the same moment is driven twice.
"""

from __future__ import annotations

import numpy as np
import tyro
from PIL import Image

import terrella


def careful(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Drive with little gas and sway, so that the car stays near the road for a while."""
    del observation
    return np.array([rng.normal(0, 0.4), rng.uniform(0, 0.5), rng.random() < 0.1], np.float32).clip([-1, 0, 0], 1)


def main(folder: str = "runs/racing", steps: int = 6000, budget: str = "10m", preset: str = "auto", play: bool = True):
    data = terrella.record(
        "CarRacing-v3", f"{folder}/data", steps=steps, policy=careful, frame_skip=2, max_episode_steps=100
    )
    world = terrella.train(data, folder, budget=budget, preset=preset)

    env = terrella.WorldEnv(world)
    env.reset(seed=0)
    crossroads = env.save_state()
    roads = []
    for steering in (-1.0, 1.0):
        env.restore_state(crossroads)
        drive = np.array([steering, 0.3, 0.0], np.float32)
        frames = []
        for _ in range(12):
            observation, _, terminated, _, _ = env.step(drive)
            frames.append(observation)
            if terminated:
                break
        roads.append(np.concatenate((frames + [frames[-1]] * 12)[:12], axis=1))
    Image.fromarray(np.concatenate(roads)).save(f"{folder}/roads.png")  # above to the left, below to the right
    print(f"two roads from one moment: {folder}/roads.png")
    if play:
        terrella.serve(world)
    return world


if __name__ == "__main__":
    tyro.cli(main)
