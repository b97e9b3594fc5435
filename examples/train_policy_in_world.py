"""Train a policy inside a world, then try it in the true environment.

    pip install 'terrella[rl]'
    python examples/train_policy_in_world.py

The policy never touches the environment while it learns: all its experience is dreamed, many episodes at a time.
"""

from __future__ import annotations

import tyro

import terrella
from terrella.learning import LearnedPolicy, beginnings, learn, returns


def main(
    folder: str = "runs/cartpole",
    steps: int = 10_000,
    budget: str = "3m",
    preset: str = "auto",
    dreamed: int = 100_000,
    episodes: int = 20,
) -> LearnedPolicy:
    data = terrella.record("CartPole-v1", f"{folder}/data", steps=steps, policy="random")
    world = terrella.train(data, folder, budget=budget, preset=preset)
    print(f"true return at random: {returns(None, 'CartPole-v1', episodes=episodes).mean():.1f}")
    policy = learn(world, starts=beginnings(data), within=data, steps=dreamed)
    policy.save(f"{folder}/policy")
    print(f"true return after {dreamed} dreamed steps: {returns(policy, episodes=episodes).mean():.1f}")
    return policy


if __name__ == "__main__":
    tyro.cli(main)
