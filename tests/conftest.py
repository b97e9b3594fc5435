"""Small worlds that many tests share: recorded and trained once a session, each in a few seconds.

`<name>_data` is a dataset and `<name>_world` a world trained on it, for pendulum (a vector, continuous actions),
cartpole (a vector, choices, episodes that end) and coinrun (images, choices). They know very little.
"""

from __future__ import annotations

import signal

import pytest
import torch

from terrella.data import Dataset, record
from terrella.training import train
from terrella.world import World

STEPS = "30steps"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # networks this small lose time on a second one


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has interrupts ignored


@pytest.fixture(scope="session")
def pendulum_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record("Pendulum-v1", tmp_path_factory.mktemp("data") / "pendulum", episodes=6, max_episode_steps=50)


@pytest.fixture(scope="session")
def cartpole_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record("CartPole-v1", tmp_path_factory.mktemp("data") / "cartpole", episodes=24)


@pytest.fixture(scope="session")
def coinrun_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record("procgen/coinrun", tmp_path_factory.mktemp("data") / "coinrun", episodes=6, max_episode_steps=40)


def small(data: Dataset, name: str) -> World:
    return train(data, budget=STEPS, preset="debug", name=name, device="cpu", progress=False)


@pytest.fixture(scope="session")
def pendulum_world(pendulum_data: Dataset) -> World:
    return small(pendulum_data, "pendulum")


@pytest.fixture(scope="session")
def cartpole_world(cartpole_data: Dataset) -> World:
    return small(cartpole_data, "cartpole")


@pytest.fixture(scope="session")
def coinrun_world(coinrun_data: Dataset) -> World:
    return small(coinrun_data, "coinrun")
