"""What an engine does beyond the laws that every world keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.laws import shaken
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

SPEC = WorldSpec({"pixels": StreamSpec("image", (32, 32, 3))}, ActionSpec("discrete", n=3))


def engine(reencode: bool) -> Engine:
    torch.manual_seed(0)
    world = World(SPEC, replace(world_config("debug", SPEC), reencode=reencode))
    return Engine(shaken(world))


@pytest.mark.parametrize("reencode", [False, True])
def test_what_enters_the_memory(reencode):
    made = engine(reencode)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    state = made.start({"pixels": pixels}, np.zeros((2, 2, 1)))
    state, frame = made.step(state, np.ones((2, 1)))
    seen = made.world.encode({"pixels": torch.from_numpy(frame.observation["pixels"])})
    same = torch.allclose(state.slabs.recurrent["previous"], seen, atol=1e-5)
    assert same == reencode


def test_reencoding_changes_the_next_frame_only_through_the_memory():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 32, 3), np.uint8)
    films = []
    for reencode in (False, True):
        made = engine(reencode)
        state = made.start({"pixels": pixels}, seeds=3)
        films.append(made.rollout(state, np.ones((1, 4, 1)))[1].observation["pixels"])
    assert np.array_equal(films[0][:, 0], films[1][:, 0])
    assert not np.array_equal(films[0], films[1])
