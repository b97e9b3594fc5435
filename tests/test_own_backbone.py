"""A new backbone is one file: registered, it is checked, trained, saved, stepped and compared like any other."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import terrella
from terrella import check, registry
from terrella.engine import Engine
from terrella.training import TrainingConfig
from terrella.world import Part, World, WorldConfig

ROOT = Path(__file__).parents[1]


def load(monkeypatch, path):
    monkeypatch.syspath_prepend(path.parent)  # benchmarks import their neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(registry._PARTS, "dynamics", dict(registry._PARTS["dynamics"]))
    return load(monkeypatch, ROOT / "examples" / "own_backbone.py")


def test_it_keeps_the_laws(own):
    assert len(check.check_dynamics(own.Fading(own.FadingConfig(dim=16), check.TOKENS, check.ACTION))) > 5


def test_it_is_trained_saved_stepped_and_compared(own, tmp_path, monkeypatch):
    benchmark = load(monkeypatch, ROOT / "benchmarks" / "memory.py")
    arena = benchmark.ARENAS["sprites"]
    assert arena.unseen == {"held_out": True}
    assert not arena.training
    data = terrella.record(
        "terrella/SpritesMicro-v0", tmp_path / "data", policy="cover", episodes=4, max_episode_steps=20, seed=0
    )
    tokenizers = {"pixels": Part("patches", {"size": 4})}
    config = WorldConfig(Part("fading", {"dim": 16}), Part("regression"), tokenizers)
    recipe = TrainingConfig(length=6, batch=4)
    terrella.train(data, tmp_path / "world", budget="20steps", config=config, training=recipe, device="cpu")
    world = World.load(tmp_path / "world")
    state = Engine(world).start({"pixels": np.zeros((2, 1, *data.spec.modelled["pixels"].shape), np.uint8)})
    _, frame = Engine(world).rollout(state, np.ones((2, 3, 2)))
    assert frame.observation["pixels"].shape[:2] == (2, 3)
    assert "fading" in benchmark.backbones()
    assert benchmark.matched("fading", arena, data.spec).dynamics.name == "fading"
