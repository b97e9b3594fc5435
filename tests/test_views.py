"""Pictures without tokens: what a field learns to draw, and worlds that draw their pictures from everything else."""

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
from torch import Tensor

import terrella
from terrella import arenas
from terrella.check import check_world
from terrella.config import from_json, to_json
from terrella.data import record
from terrella.engine import Engine
from terrella.errors import ConfigError, UnknownName
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import train, world_config
from terrella.views import Field, FieldConfig
from terrella.world import Part, World, WorldConfig

SIDE, CELLS, TILE = 24, 3, 8
ROOM = ActionSpec("multi_discrete", shape=(CELLS, CELLS), nvec=(3,) * CELLS**2)
POSE = ActionSpec("multi_discrete", shape=(1, 1, 2), nvec=(CELLS, CELLS))
STREAMS = {
    "pixels": StreamSpec("image", (SIDE, SIDE, 3)),
    "balls": StreamSpec("vector", (4,)),
    "room": StreamSpec("vector", (9,), (0.0,) * 9, (2.0,) * 9, ROOM),
    "pose": StreamSpec("vector", (2,), (0.0,) * 2, (2.0,) * 2, POSE),
}
SPEC = WorldSpec(STREAMS, ActionSpec("discrete", 3))


def scenes(count: int, seed: int, *streams: str) -> dict[str, Tensor]:
    """A red and a green ball anywhere, floors of three greys, and a blue tile where somebody stands."""
    rng = np.random.default_rng(seed)
    balls, room = rng.random((count, 2, 2)) * SIDE, rng.integers(0, 3, (count, CELLS, CELLS))
    pose = rng.integers(0, CELLS, (count, 2))
    picture = np.zeros((count, SIDE, SIDE, 3))
    if "room" in streams:
        picture += 30 * room.repeat(TILE, 1).repeat(TILE, 2)[..., None]
    at = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1)
    if "pose" in streams:
        picture[(at[None] // TILE == pose[:, None, None]).all(-1)] = (0, 0, 200)
    for ball, colour in enumerate(((220, 0, 0), (0, 220, 0)) if "balls" in streams else ()):
        near = np.linalg.norm(at[None] + 0.5 - balls[:, None, None, ball], axis=-1) < 4
        picture[near] = colour
    every = {"balls": balls.reshape(count, 4), "room": room.reshape(count, 9), "pose": pose}
    found = {name: torch.from_numpy(every[name]).float() for name in streams}
    return {"pixels": torch.from_numpy(picture.astype(np.uint8)), **found}


def field(config: FieldConfig, *streams: str) -> Field:
    torch.manual_seed(0)
    return Field(config, STREAMS["pixels"], {name: STREAMS[name] for name in streams})


@pytest.mark.parametrize(("streams", "steps", "most"), [(("room", "pose"), 250, 0.1), (("balls",), 500, 0.35)])
def test_a_field_learns_what_follows_from_numbers_and_choices(
    streams: tuple[str, ...], steps: int, most: float
) -> None:
    """Scenes that training never had are drawn with a small share of the error of the mean picture."""
    seen, unseen = scenes(2000, 0, *streams), scenes(100, 1, *streams)
    view = field(FieldConfig(group=2, patch=4, dim=32, share=0.5), *streams)
    view.prepare({name: seen[name] for name in streams}, seen["pixels"])
    optimiser, generator = torch.optim.Adam(view.parameters(), 4e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        pick = torch.randint(2000, (32,), generator=generator)
        optimiser.zero_grad()
        view.loss({name: seen[name][pick] for name in streams}, seen["pixels"][pick], generator).backward()
        optimiser.step()
    with torch.inference_mode():
        drawn = view.decode({name: unseen[name] for name in streams}).float()
    mean = seen["pixels"].float().mean(0)
    error, without = ((x - unseen["pixels"].float()).square().mean() for x in (drawn, mean))
    assert error < most * without


def test_a_field_draws_each_frame_by_itself() -> None:
    streams = ("balls", "room", "pose")
    view, found = field(FieldConfig(group=2), *streams), scenes(6, 0, *streams)
    view.prepare({name: found[name] for name in streams}, found["pixels"])
    with torch.no_grad():
        view.leave.weight.normal_()
        given = {name: found[name].view(2, 3, -1) for name in streams}
        together = view.draw(given)
        assert together.shape == (2, 3, SIDE, SIDE, 3)
        alone = view.draw({name: part[1, 2] for name, part in given.items()})
    assert torch.allclose(together[1, 2], alone, atol=1e-5)
    assert view.decode(given).dtype == torch.uint8
    given["balls"].requires_grad_()
    view.draw(given).sum().backward()
    assert given["balls"].grad is not None
    assert given["balls"].grad.abs().sum() > 0


def test_a_field_without_lone_streams_still_knows_its_places() -> None:
    view = field(FieldConfig(), "room")
    with torch.no_grad():
        view.leave.weight.normal_()
        picture = view.draw({"room": torch.zeros(1, 9)})
    patches = picture[0, ::4, ::4].flatten(0, 1)
    assert patches.std(0).max() > 0
    assert all(p.grad is not None for p in backward(view))


def backward(view: Field) -> list[Tensor]:
    found = scenes(4, 0, "room")
    view.loss({"room": found["room"]}, found["pixels"], torch.Generator().manual_seed(0)).backward()
    return list(view.parameters())


def test_what_a_view_cannot_be_made_of_is_said() -> None:
    vector, text = STREAMS["balls"], StreamSpec("vector", (8,), (-1.0,) * 8, (255.0,) * 8, ActionSpec("text", 2))
    for config, stream, others, words in (
        ({}, vector, {"balls": vector}, "no image|is a vector"),
        ({"patch": 5}, STREAMS["pixels"], {"balls": vector}, "does not divide"),
        ({}, STREAMS["pixels"], {"said": text}, "said"),
    ):
        with pytest.raises(ConfigError, match=words):
            Field(FieldConfig(**config), stream, others)
    with pytest.raises(ConfigError, match="share"):
        FieldConfig(share=0.0)


# whole worlds


def world(**views: Part) -> World:
    torch.manual_seed(0)
    made = World(SPEC, world_config("debug", SPEC, "regression", views=views))
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn_like(weight))  # so that a fresh world says something
    return made


def test_a_picture_that_is_a_view_has_no_tokens_and_no_past() -> None:
    """Other pictures in the past change nothing of the future; other numbers do, of the picture too."""
    plain, viewed = world(), world(pixels=Part("field"))
    assert viewed.tokens.n < plain.tokens.n
    assert viewed.tokenized == ["balls", "room", "pose"]
    assert list(viewed.decode(torch.zeros(1, viewed.tokens.n, viewed.tokens.channels))) == list(STREAMS)
    assert viewed.parameters_by_part()["views"] > 0
    assert "views" not in plain.parameters_by_part()
    seen = {name: part.numpy()[None] for name, part in scenes(4, 0, "balls", "room", "pose").items()}
    for made in (plain, viewed):
        engine = Engine(made, reencode=True)

        def imagined(given: dict[str, np.ndarray], engine: Engine = engine) -> dict[str, np.ndarray]:
            state = engine.start(given, np.ones((1, 3, 1), np.float32), seeds=[0])
            return engine.rollout(state, np.ones((1, 3, 1), np.float32))[1].observation

        first = imagined(seen)
        repainted = imagined({**seen, "pixels": 255 - seen["pixels"]})
        assert all(np.array_equal(first[name], repainted[name]) == (made is viewed) for name in ("pixels", "balls"))
        assert not np.array_equal(first["pixels"], imagined({**seen, "balls": seen["balls"] + 5})["pixels"])


def test_the_config_says_what_is_a_view() -> None:
    made = world(pixels=Part("field", {"group": 2}))
    assert from_json(WorldConfig, json.loads(json.dumps(to_json(made.config)))) == made.config
    assert "siren" in terrella.cite(made)
    config = made.config
    with pytest.raises(UnknownName, match="Did you mean 'pixels'"):
        World(SPEC, replace(config, views={"pixel": Part("field")}))
    with pytest.raises(ConfigError, match="views have no tokens"):
        World(SPEC, replace(config, tokenizers={"pixels": Part("conv")}))
    with pytest.raises(ConfigError, match="leave one out"):
        World(replace(SPEC, streams={"pixels": STREAMS["pixels"]}), replace(config, tokenizers={}))
    with pytest.raises(UnknownName, match="field"):
        World(SPEC, replace(config, views={"pixels": Part("fields")}))


class Ball(gym.Env):
    """A ball that goes where it is told, as a picture and as its place."""

    def __init__(self) -> None:
        box = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.observation_space = spaces.Dict([("pixels", box), ("place", spaces.Box(0.0, 1.0, (2,)))])
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.random(2)
        return self._seen(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = (self.place + 0.1 * np.array(((-1, 0), (1, 0), (0, -1), (0, 1))[action])).clip(0, 1)
        return self._seen(), 0.0, False, False, {}

    def _seen(self) -> dict[str, np.ndarray]:
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        row, column = (self.place * (SIDE - 6)).astype(int)
        picture[row : row + 6, column : column + 6] = 255
        return {"pixels": picture, "place": self.place.astype(np.float32)}


def test_a_world_with_a_view_is_trained_stepped_and_saved(tmp_path: Path) -> None:
    env = arenas.make(Ball, size=0)
    data = record(env, tmp_path / "data", steps=400, max_episode_steps=20, policy="random")
    config = world_config("debug", data.spec, "regression", views={"pixels": Part("field", {"dim": 32})})
    made = train(data, tmp_path / "world", budget="120steps", config=config, device="cpu", progress=False)
    assert made.record["training"]["context_noise"] == 0  # all that has tokens are numbers
    clip = data.sample(2, 3, np.random.default_rng(0))
    engine, again = Engine(made), Engine(World.load(tmp_path / "world"))
    before = {name: clip.observations[name] for name in ("pixels", "place")}
    stepped = (one.step(one.start(before, clip.actions, 3), clip.actions[:, -1]) for one in (engine, again))
    frames = [frame.observation for _, frame in stepped]
    assert all(np.array_equal(frames[0][name], frames[1][name]) for name in ("pixels", "place"))
    assert frames[0]["pixels"].shape == (2, SIDE, SIDE, 3)


@pytest.mark.slow
def test_a_world_with_a_view_keeps_the_laws_of_worlds() -> None:
    check_world(world(pixels=Part("field", {"group": 2})))
