"""Environments that nothing here was made for: from recording to training, stepping and serving, small but real."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from websockets.sync.client import connect

from terrella.arenas import make
from terrella.data import record
from terrella.env import WorldEnv
from terrella.serving import create_app, create_server
from terrella.training import train
from terrella.vector_env import WorldVectorEnv
from terrella.world import World

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK: dict[str, Any] = {"budget": "30steps", "preset": "debug"}


class Snowman(gym.Env):
    """A dot on a small field: four ways to go, a reward for the right edge, where the episode ends."""

    def __init__(self, width: int = 40):
        self.width = width
        self.observation_space = spaces.Box(0, 255, (width, width, 3), np.uint8)
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at = self.np_random.integers(4, self.width - 12, 2)
        return self._look(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.at = (self.at + [(0, 2), (0, -2), (2, 0), (-2, 0)][int(action)]).clip(0, self.width - 4)
        there = bool(self.at[1] >= self.width - 4)
        return self._look(), float(there), there, False, {}

    def _look(self) -> np.ndarray:
        field = np.full((self.width, self.width, 3), 30, np.uint8)
        field[self.at[0] : self.at[0] + 4, self.at[1] : self.at[1] + 4] = 250
        return field


def serve_one_step(world: World, row: list[float], truth: bool) -> dict[str, Any]:
    """Open a session of a real server, take one action, and return how it was opened."""
    server = create_server(create_app(world, truth=truth), port=0)
    door = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([door],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        with connect(f"ws://127.0.0.1:{door.getsockname()[1]}/ws", max_size=None) as socket:

            def send(kind: str, **fields: Any) -> None:
                socket.send(json.dumps({"type": kind, **fields}))

            def until(kind: str) -> dict[str, Any]:
                while True:
                    message = socket.recv(20)
                    if isinstance(message, str):
                        body = json.loads(message)
                        assert body["type"] != "error", body
                        if body["type"] == kind:
                            return body

            send("hello", protocol=1)
            send("open", world=until("welcome")["default"], seed=0, truth=truth)
            opened = until("opened")
            send("ack", **{k: v for k, v in until("tick").items() if k in ("session", "epoch", "frame")})
            send("action", session=opened["session"], seq=1, row=row)
            send("step", session=opened["session"])
            assert until("tick")["frame"] == 1
            return opened
    finally:
        server.should_exit = True
        thread.join(20)


def step_alone_and_together(world: World, space: gym.Space) -> None:
    env = WorldEnv(world, render_mode="rgb_array")
    assert env.action_space == space
    check_env(env)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (64, 64, 3)
    for _ in range(5):
        observation, reward, terminated, truncated, _ = env.step(space.sample())
        assert np.isfinite(reward)
        assert env.observation_space.contains(observation)
        if terminated or truncated:
            env.reset()
    many = WorldVectorEnv(world, 3)
    many.reset(seed=0)
    for _ in range(3):
        frames = many.step(many.action_space.sample())[0]
    assert frames.shape == (3, 64, 64, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_class_of_ones_own(tmp_path: Path) -> None:
    data = record(Snowman, tmp_path / "data", episodes=14, max_episode_steps=30, width=48)
    assert data.spec.env.id == ""
    assert len(data.split("held_out")) >= 1
    assert sum(e.terminated[-1] for e in data) >= 1
    world = train(data, tmp_path / "world", progress=False, **QUICK)
    step_alone_and_together(world, spaces.Discrete(4))
    loaded = World.load(tmp_path / "world")
    opened = serve_one_step(loaded, [2.0], truth=True)
    assert opened["start"] == "recorded"  # the class itself is not in the file


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lunar_lander_from_pixels(tmp_path: Path) -> None:
    data = record("LunarLander-v3", tmp_path / "data", steps=250, pixels=True)
    world = train(data, tmp_path / "world", progress=False, **QUICK)
    assert world.spec.action_names[2] == "main engine"
    env = make(world.spec.env)
    step_alone_and_together(world, env.action_space)
    env.close()
    assert serve_one_step(world, [2.0], truth=True)["start"] == "environment"
    assert serve_one_step(world, [2.0], truth=False)["start"] == "recorded"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_car_racing_has_a_wheel_and_pedals(tmp_path: Path) -> None:
    data = record("CarRacing-v3", tmp_path / "data", episodes=3, max_episode_steps=40, frame_skip=2)
    world = train(data, tmp_path / "world", progress=False, **QUICK)
    box = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    step_alone_and_together(world, box)
    assert world.spec.keys["ArrowLeft+ArrowUp"] == (-1.0, 1.0, 0.0)
    assert serve_one_step(world, [0.5, 0.2, 0.0], truth=False)["start"] == "recorded"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("custom_env", {"steps": 300, "play": False}),
        ("lunar_lander", {"steps": 300, "play": False}),
        pytest.param("car_racing", {"steps": 220, "play": False}, marks=pytest.mark.slow),
        ("train_policy_in_world", {"steps": 300, "dreamed": 2048, "episodes": 2}),
    ],
)
def test_examples_run(name: str, options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location(f"run_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.main(folder=str(tmp_path / "run"), **QUICK, **options)
    assert (tmp_path / "run" / "world.json").exists()
    assert capsys.readouterr().out.strip()
