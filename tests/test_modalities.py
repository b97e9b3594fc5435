"""Several modalities in one world: pictures, grids of choices, letters and numbers, each with its own tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from terrella import arenas
from terrella.actions import decode
from terrella.arenas import Spelled, streams, to_streams
from terrella.check import check_tokenizer, check_world
from terrella.config import from_json, to_json
from terrella.data import Dataset, record
from terrella.engine import Engine
from terrella.env import WorldEnv
from terrella.errors import ConfigError, SpecError
from terrella.serving import frames
from terrella.serving.moment import Shot
from terrella.spec import StreamSpec, WorldSpec
from terrella.tokenizers import Codes, CodesConfig, Vector, VectorConfig
from terrella.training import train, world_config
from terrella.vector_env import WorldVectorEnv
from terrella.world import Part, World

CELLS = spaces.MultiDiscrete(np.broadcast_to([11, 6, 3], (7, 7, 3)))
LENGTH = 24
MIXES = (
    ("pixels", "place"),
    ("pixels", "cells"),
    ("cells", "mission"),
    ("pixels", "cells", "mission", "place"),
)


class Mixed(gym.ObservationWrapper):
    """MiniGrid as several modalities at once: its picture, what the agent sees as codes, its mission, where it is."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        super().__init__(gym.make("MiniGrid-GoToObject-6x6-N2-v0", render_mode="rgb_array", tile_size=8))
        each: dict[str, gym.Space] = {
            "pixels": spaces.Box(0, 255, (48, 48, 3), np.uint8),
            "cells": CELLS,
            "mission": spaces.Text(LENGTH, charset="abcdefghijklmnopqrstuvwxyz "),
            "place": spaces.Box(0.0, 6.0, (3,)),
        }
        self.observation_space = spaces.Dict({part: each[part] for part in parts})
        self.parts = parts

    def observation(self, observation: Any) -> dict[str, Any]:
        core: Any = self.unwrapped
        each = {
            "pixels": self.render(),
            "cells": np.asarray(observation["image"], np.int64),
            "mission": observation["mission"],
            "place": np.array([*core.agent_pos, core.agent_dir], np.float32),
        }
        return {part: each[part] for part in self.parts}


def made(parts: tuple[str, ...]) -> gym.Env:
    pytest.importorskip("minigrid")
    inner = Mixed(parts)
    return arenas.make(lambda: Spelled(inner, LENGTH) if "mission" in parts else inner, size=0)


# spaces


def test_grids_and_spelled_texts_are_rows_of_their_spaces() -> None:
    env = made(MIXES[3])
    seen, _ = env.reset(seed=0)
    spec, found = arenas.describe(env), to_streams(env, seen)
    assert set(spec.modelled) == set(MIXES[3])
    assert {n: s.shape for n, s in spec.streams.items()} == {
        "pixels": (48, 48, 3), "cells": (147,), "mission": (4 * LENGTH,), "place": (3,),
    }  # fmt: skip
    for name in ("cells", "mission"):
        native, value = spec.streams[name].native, found[name]
        assert native is not None
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float32
        assert np.array_equal(decode(native, value), seen[name])
    assert from_json(WorldSpec, json.loads(json.dumps(to_json(spec)))) == spec
    assert spec.streams["place"].native is None


def test_which_spaces_are_grids() -> None:
    def native(space: gym.Space) -> str | None:
        (stream,) = streams(space).values()
        return None if stream.native is None else stream.native.kind

    assert native(spaces.Box(-1, 2, (4, 5), np.int64)) == "box"
    assert native(spaces.MultiDiscrete(np.full((2, 3), 4))) == "multi_discrete"
    assert native(spaces.Box(0, 1000, (4, 5), np.int64)) is None  # too many to choose among: numbers
    assert native(spaces.Box(0, 9, (5,), np.int64)) is None
    assert native(spaces.Box(0, 9, (5, 5), np.float32)) is None
    assert native(spaces.Box(0, 255, (5, 5), np.uint8)) is None  # a picture
    assert streams(spaces.MultiDiscrete([2, 3]))["vector"].shape == (5,)  # one-hot
    assert streams(spaces.Text(9))["text"].kind == "text"
    with pytest.raises(SpecError, match="native"):
        StreamSpec("image", (4, 4, 3), native=arenas.describe(made(("cells",))).streams["cells"].native)


def test_texts_of_any_environment_can_be_spelled() -> None:
    pytest.importorskip("minigrid")
    env = arenas.make("terrella/Spelled-v0", inside="MiniGrid-GoToDoor-5x5-v0", length=40)
    seen, _ = env.reset(seed=1)
    spec = arenas.describe(env)
    native = spec.streams["mission"].native
    assert native is not None
    found = to_streams(env, seen)["mission"]
    assert isinstance(found, np.ndarray)
    assert decode(native, found) == seen["mission"]
    assert arenas.describe(arenas.make(spec.env)).same_interface(spec)
    fork: Any = arenas.forkable(env)
    assert fork.restore(fork.save())["mission"] == seen["mission"]
    with pytest.raises(SpecError, match="characters"):
        arenas.make("terrella/Spelled-v0", inside="MiniGrid-GoToDoor-5x5-v0", length=4).reset(seed=1)
    with pytest.raises(SpecError, match="nothing to spell"):
        Spelled(gym.make("CartPole-v1"))


# the tokenizer


@pytest.mark.parametrize("name", ["cells", "mission"])
def test_codes_learn_to_be_exact(name: str) -> None:
    """After a moment of training, nearly every entry comes back as it was, also from somewhat wrong latents."""
    env = made(("cells", "mission"))
    space, seen = env.action_space, []
    space.seed(0)
    for seed in range(12):
        seen.append(to_streams(env, env.reset(seed=seed)[0])[name])
        seen += [to_streams(env, env.step(space.sample())[0])[name] for _ in range(12)]
    obs = torch.from_numpy(np.stack(seen))
    torch.manual_seed(0)
    part = Codes(CodesConfig(channels=16), arenas.describe(env).streams[name])
    optimiser, generator = torch.optim.Adam(part.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(150):
        optimiser.zero_grad()
        loss = part.loss(obs[torch.randint(len(obs), (32,), generator=generator)], generator)
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        part.normalise(obs)
        z = part.encode(obs)
        right = part.decode(z) == obs
        blurred = part.decode(z + 0.1 * torch.randn(z.shape, generator=generator)) == obs
    assert right.float().mean() > 0.985
    assert blurred.float().mean() > 0.97
    most = obs.mode(0).values  # what always guessing the commonest value would get
    assert (most == obs).float().mean() < right.float().mean()


def test_codes_keep_the_laws_of_tokenizers() -> None:
    mission = arenas.describe(made(("mission",))).streams["mission"]
    torch.manual_seed(0)
    letters = Codes(CodesConfig(channels=6, hidden=16), mission)
    check_tokenizer(letters)
    assert letters.spec.n == 2  # 24 letters, 16 a token; what UTF-8 might need besides is not coded
    shown = letters.decode(torch.randn(50, 2, 6))
    allowed = {-1.0, *(float(ord(c)) for c in "abcdefghijklmnopqrstuvwxyz ")}
    assert set(shown.unique().tolist()) <= allowed
    assert mission.native is not None
    foreign = replace(mission, native=replace(mission.native, charset="äb"))
    assert Codes(CodesConfig(), foreign).spec.n == 6  # four bytes a character
    for wrong in (lambda: Codes(CodesConfig(), StreamSpec("vector", (4,))), lambda: CodesConfig(side=0)):
        with pytest.raises(ConfigError):
            wrong()


def test_numbers_are_shown_within_their_declared_bounds() -> None:
    """What leaves them comes back when a frame is re-encoded: places do not drift off a table."""
    bounded = Vector(VectorConfig(channels=2), StreamSpec("vector", (2,), (0.0, -1.0), (1.0, 1.0)))
    free = Vector(VectorConfig(channels=2), StreamSpec("vector", (2,)))
    z = torch.tensor([[[5.0, -5.0]], [[0.5, 0.25]]])
    assert bounded.decode(z).tolist() == [[1.0, -1.0], [0.5, 0.25]]
    assert free.decode(z).tolist() == [[5.0, -5.0], [0.5, 0.25]]
    assert bounded.decode_raw(z).tolist() == free.decode_raw(z).tolist()


# whole worlds


@pytest.mark.parametrize("parts", MIXES, ids="+".join)
def test_a_world_of_several_modalities(parts: tuple[str, ...], tmp_path: Path) -> None:
    """Record, train, step, fork, show each stream in its own space, send it to a page, save and load."""
    env = made(parts)
    data = record(env, tmp_path / "data", steps=60, max_episode_steps=20, policy="random")
    world = train(data, tmp_path / "world", budget="6steps", preset="debug", device="cpu", progress=False)
    kinds = {"pixels": "conv", "cells": "codes", "mission": "codes", "place": "vector"}
    assert {name: world.tokenizer(name).name for name in parts} == {name: kinds[name] for name in parts}

    engine, clip = Engine(world), data.sample(2, 3, np.random.default_rng(0))
    state = engine.start({n: clip.observations[n] for n in parts}, clip.actions, seeds=3)
    branches, row = state.fork(2), clip.actions[:, -1]
    branches, frame = engine.step(branches, row.repeat(2, 0))
    _, alone = engine.step(state, row)
    for name in parts:
        shown = frame.observation[name]
        assert shown.shape == (4, *world.spec.streams[name].shape)
        assert np.array_equal(shown[::2], shown[1::2])  # branches under equal actions are equal
        np.testing.assert_allclose(shown[::2].astype(float), alone.observation[name].astype(float), atol=1.01)

    single, many = WorldEnv(world), WorldVectorEnv(world, 2)
    for one in (single, many):
        assert one.observation_space.contains(one.reset(seed=0)[0])
        assert one.observation_space.contains(one.step(one.action_space.sample())[0])
    if "mission" in parts:  # what begins an episode is a true frame
        assert single.reset(seed=0)[0]["mission"].startswith("go to the ")

    shot = Shot(0, {name: frame.observation[name][0] for name in parts})
    sent = frames.parts(shot, world.spec, session=1, epoch=0, seq=0, gen_us=0, flags=0)
    assert len(sent) == len(parts)

    again = World.load(tmp_path / "world")
    assert again.spec == world.spec
    _, after = Engine(again).step(Engine(again).start({n: clip.observations[n] for n in parts}, clip.actions, 3), row)
    assert all(np.array_equal(after.observation[n], alone.observation[n]) for n in parts)
    assert Dataset(tmp_path / "data").spec == data.spec


def test_the_config_says_which_tokenizer_reads_what(tmp_path: Path) -> None:
    """A grid may be read as numbers, too; what comes out is a grid all the same."""
    env = made(("cells", "place"))
    data = record(env, tmp_path, steps=40, max_episode_steps=20, policy="random")
    config = world_config("debug", data.spec)
    mixed = replace(config, tokenizers={"cells": Part("vector", {"channels": 8}), "place": config.tokenizers["place"]})
    world = train(data, budget="4steps", preset="debug", config=mixed, device="cpu", progress=False)
    assert world.tokenizer("cells").name == "vector"
    shown = WorldEnv(world)
    assert shown.observation_space.contains(shown.reset(seed=0)[0])
    assert shown.observation_space.contains(shown.step(0)[0])
    wrong = replace(config, tokenizers={"place": Part("codes")})
    with pytest.raises(ConfigError, match="takes codes"):
        World(data.spec, wrong)


@pytest.mark.slow
def test_a_mixed_world_keeps_the_laws_of_worlds() -> None:
    spec = arenas.describe(made(("pixels", "cells", "mission")))
    torch.manual_seed(0)
    check_world(World(spec, world_config("debug", spec)))
