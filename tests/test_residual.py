"""The decoder that draws what a regression blurs: it commits to one of several futures."""

import numpy as np
import pytest
import torch

from terrella.citation import cite
from terrella.data import Dataset
from terrella.decoders import Residual, ResidualConfig
from terrella.engine import Engine
from terrella.errors import ConfigError
from terrella.nn.latents import TokenSpec
from terrella.training import train, world_config
from terrella.training.presets import training_config

TOKENS = TokenSpec(4, 3, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)))
SMALL = ResidualConfig(dim=32, layers=2, heads=2)


@pytest.fixture(scope="module")
def coin() -> Residual:
    """Of frames that show one of two opposite pictures, each as often; what is expected is neither."""
    torch.manual_seed(0)
    decoder, chance = Residual(SMALL, TOKENS), torch.Generator().manual_seed(0)
    learn = torch.optim.Adam(decoder.parameters(), 3e-3)
    for _ in range(400):
        side = torch.randint(0, 2, (64, 1, 1, 1), generator=chance) * 2.0 - 1
        frames = side.expand(-1, -1, 4, 3)
        loss = decoder.loss(lambda z, noise: torch.zeros(64, 1, 4, 3), frames, 0.5, chance).mean()
        learn.zero_grad()
        loss.backward()
        learn.step()
    return decoder


def test_it_commits_to_one_of_two_futures_and_all_tokens_to_the_same(coin: Residual) -> None:
    noise = torch.randn(400, 4, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        drawn = coin.sample(lambda z, level: torch.zeros_like(noise), noise)
        mean = coin.sample(lambda z, level: torch.zeros_like(noise), noise, 1)
    assert ((drawn.abs() - 1).abs() < 0.3).float().mean() > 0.9
    whole = drawn.mean((1, 2))
    assert 0.35 < float((whole > 0).float().mean()) < 0.65
    assert (whole.abs() > 0.7).float().mean() > 0.9  # all tokens on one side
    assert mean.abs().mean() < 0.5 * drawn.abs().mean()


def test_the_backbone_learns_the_mean_alone(coin: Residual) -> None:
    z = torch.ones(2, 3, 4, 3)
    said = torch.full_like(z, 0.25, requires_grad=True)
    coin.loss(lambda noisy, level: said, z, 0.5, torch.Generator().manual_seed(0)).sum().backward()
    assert said.grad is not None
    torch.testing.assert_close(said.grad, 2 * (said.detach() - z) / (4 * 3))


def test_a_world_of_it_is_trained_fed_with_its_own_frames_and_played(cartpole_data: Dataset) -> None:
    config = world_config("debug", cartpole_data.spec, "residual")
    assert (config.decoder.config["layers"], config.decoder.config["dim"]) == (1, 32)
    assert training_config("debug", decoder="residual").self_fed > 0
    how = {"budget": "30steps", "preset": "debug", "decoder": "residual", "device": "cpu", "progress": False}
    world = train(cartpole_data, **how)
    clips = cartpole_data.sample(2, 4, np.random.default_rng(0))
    engine = Engine(world)
    state = engine.start(clips.observations, clips.actions, seeds=[0, 1])
    rows = clips.actions[:, :2]
    one, two = (engine.rollout(state.fork(1), rows)[1].observation["vector"] for _ in range(2))
    other = engine.rollout(engine.start(clips.observations, clips.actions, seeds=[2, 3]), rows)[1].observation["vector"]
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert "Residual Corrective Diffusion" in cite(world)


def test_what_cannot_be_is_refused() -> None:
    decoder = Residual(SMALL, TOKENS)
    assert decoder.choices == (1, 2, 4)
    z = torch.zeros(1, 4, 3)
    with pytest.raises(ConfigError, match="1, 2, 4"):
        decoder.sample(lambda noisy, level: z, z, 3)
    for settings in ({"steps": 0}, {"dim": 30}, {"layers": 0}):
        with pytest.raises(ConfigError):
            ResidualConfig(**settings)
