"""A world that must have seen all before it goes on alone starts with openings, and the truth plays them again."""

import numpy as np
import pytest

from terrella.data import Cover, record
from terrella.serving.truth import Truth
from terrella.training import TrainingConfig, train
from terrella.world import Part, World, WorldConfig

SEEN = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("openings")
    options = {"episodes": 20, "max_episode_steps": SEEN + 5, "seed": 4}
    return record("terrella/SpritesMicro-v0", path / "data", policy=Cover(SEEN), **options)


@pytest.fixture(scope="module")
def world(data, tmp_path_factory):
    config = WorldConfig(
        Part("flow", {"width": 8, "features": 4}), Part("regression"), {"pixels": Part("patches", {"size": 1})}
    )
    alone = TrainingConfig(length=SEEN + 4, batch=2, blind=1.0, seen=SEEN, self_fed=0.0)
    out = tmp_path_factory.mktemp("openings") / "world"
    train(data, out, budget="2steps", config=config, training=alone, device="cpu")
    return World.load(out)


def test_starts_are_the_openings_of_held_out_episodes(data, world):
    held_out = [int(i) for i in data.split("held_out")]
    assert len(held_out) > 0
    assert world.starts.seeds.tolist() == [data.seeds[i] for i in held_out]
    for row, i in enumerate(held_out):
        assert np.array_equal(world.starts.observations["pixels"][row], data.episode(i).observations["pixels"][:SEEN])


def test_the_true_environment_plays_an_opening_again(world):
    truth = Truth(world.spec, world.starts.actions.shape[1], world.starts)
    for seed in range(3):
        truth.begin(seed)
        row = seed % len(world.starts.seeds)
        observations, actions = truth.start()
        assert np.array_equal(observations["pixels"][0], world.starts.observations["pixels"][row])
        assert np.array_equal(actions[0], world.starts.actions[row])
    truth.close()


def test_short_episodes_leave_a_world_without_starts(data, tmp_path):
    from terrella.training.loop import _openings

    assert _openings(data, 1000) is None
