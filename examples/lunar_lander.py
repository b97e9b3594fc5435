"""LunarLander from pixels: rendered frames are recorded, and a landing is tried in the world that learned them.

    python examples/lunar_lander.py

Shown here: `pixels=True`, where an environment's own observations are numbers; and the world's state as a value, tried
out in many branches before acting.
"""

from __future__ import annotations

import numpy as np
import tyro

import terrella


def main(folder: str = "runs/lunar", steps: int = 20_000, budget: str = "10m", preset: str = "auto", play: bool = True):
    data = terrella.record("LunarLander-v3", f"{folder}/data", steps=steps, pixels=True)
    world = terrella.train(data, folder, budget=budget, preset=preset)

    env = terrella.WorldEnv(world, max_episode_steps=200)
    env.reset(seed=0)
    total = 0.0
    for _ in range(5):
        # Each engine in its own branch for eight frames; then the best one in the world itself.
        branches = env.state.fork(4)
        held = np.arange(4.0).reshape(4, 1, 1).repeat(8, axis=1)  # rows (branch, frame, 1)
        _, frames = env.engine.rollout(branches, held)
        best = int(frames.reward.sum(1).argmax())
        _, reward, terminated, truncated, _ = env.step(best)
        total += reward
        print(f"{world.spec.action_names[best]:14} reward {reward:6.2f}")
        if terminated or truncated:
            break
    print(f"predicted return {total:.2f}")
    if play:
        terrella.serve(world)  # the true lander runs beside the dream, under the same keys
    return world


if __name__ == "__main__":
    tyro.cli(main)
