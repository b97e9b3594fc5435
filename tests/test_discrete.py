"""Discrete tokens: codes, the tokenizer that makes them, and the decoder that draws them in rounds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from terrella import laws
from terrella.decoders import Masked, MaskedConfig
from terrella.decoders.masked import SCALE
from terrella.engine import Engine
from terrella.errors import CheckFailed, ConfigError, UnknownName
from terrella.laws import random_observations, random_rows
from terrella.nn.codes import by_digit, from_code, to_code
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.tokenizers import FSQ, FSQConfig
from terrella.training import train, world_config
from terrella.world import World

IMAGE = StreamSpec("image", (16, 16, 3))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# codes and their tokenizer


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_codes_are_centred_scaled_and_exact(levels):
    value = torch.arange(levels)[:, None].expand(-1, 2)
    code = to_code(value, levels, torch.float64)
    assert code.shape == (levels, 2 * levels)
    torch.testing.assert_close(code.mean(0), torch.zeros(2 * levels, dtype=torch.float64))
    torch.testing.assert_close(code.std(0, correction=0), torch.ones(2 * levels, dtype=torch.float64))
    assert torch.equal(from_code(code, levels), value)
    with pytest.raises(ConfigError, match="same `levels`"):
        by_digit(code[:, 1:], levels)


def test_fsq_reaches_every_level_and_only_codes():
    torch.manual_seed(0)
    tokenizer = FSQ(FSQConfig(digits=3, levels=5, width=16), IMAGE)
    with torch.no_grad():
        tokenizer.networks.encoder[-1].weight *= 20
    z = tokenizer.encode(random_observations(IMAGE, (64,)))
    value = from_code(z, 5)
    assert torch.equal(z, to_code(value, 5))
    assert all(set(value[..., digit].flatten().tolist()) == set(range(5)) for digit in range(3))
    near = z + 0.3 * random(*z.shape)
    assert torch.equal(tokenizer.decode(near), tokenizer.decode(z))
    assert not torch.equal(tokenizer.decode(z.roll(1, -1)), tokenizer.decode(z))


def test_fsq_learns_to_show_images():
    torch.manual_seed(0)
    tokenizer, generator = FSQ(FSQConfig(digits=6, levels=5, width=16), IMAGE), torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 16)
    phase = 2 * math.pi * torch.rand(256, 1, 1, 1, generator=generator)
    waves = torch.sin(6 * ramp[:, None, None] + phase) * torch.cos(6 * ramp[:, None] + phase)
    images = (127.5 + 120 * waves.expand(-1, -1, -1, 3)).to(torch.uint8)
    train_on, test_on = images[:224], images[224:]
    tokenizer.prepare(train_on)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    for _ in range(120):
        loss = tokenizer.loss(train_on[torch.randint(224, (32,), generator=generator)], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shown = tokenizer.eval().decode(tokenizer.encode(test_on)).float()
    blind = train_on.float().mean(0)
    assert float((shown - test_on).square().mean()) < 0.2 * float((blind - test_on).square().mean())


# the decoder


def twins(prior: torch.Tensor):
    """The exact predictions of two tokens that are always equal, each drawn from `prior` `(levels,)`."""

    def predict(z, level):
        other = z.flip(-2)
        known = other.amax(-1, keepdim=True) > 0
        return torch.where(known, 1e3 * other, prior.log().expand_as(z) / SCALE)

    return predict


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_tokens_that_depend_on_one_another_need_rounds(steps):
    prior = torch.tensor([0.6, 0.3, 0.1])
    z = Masked(MaskedConfig(levels=3)).sample(twins(prior), random(20_000, 2, 3), steps)
    value = from_code(z, 3)[..., 0]
    agree = float((value[:, 0] == value[:, 1]).float().mean())
    assert agree == 1.0 if steps > 1 else abs(agree - float(prior.square().sum())) < 0.02
    share = torch.bincount(value.flatten(), minlength=3) / value.numel()
    torch.testing.assert_close(share, prior, atol=0.015, rtol=0)  # as learned: ranks do not favour likely values


def test_rounds_show_more_and_keep_what_is_shown():
    seen = []

    def predict(z, level):
        seen.append((z, level.tau))
        return random(*z.shape, seed=len(seen))

    last = Masked(MaskedConfig(levels=4)).sample(predict, random(3, 5, 8), 4)
    assert [len(seen), float(seen[0][0].abs().max())] == [4, 0.0]
    for (before, _), (after, tau) in zip(seen, [*seen[1:], (last, None)]):
        shown = by_digit(before, 4).abs().amax(-1) > 0
        assert torch.equal(by_digit(before, 4)[shown], by_digit(after, 4)[shown])
        if tau is not None:
            share = (by_digit(after, 4).abs().amax(-1) > 0).float().mean((-1, -2))
            assert bool((share > shown.float().mean((-1, -2))).all())
            torch.testing.assert_close(tau, share)
    seen.clear()
    Masked(MaskedConfig(levels=4)).sample(predict, random(3, 5, 8), 64)
    assert len(seen) == 10  # a round a digit, at most


def test_independent_digits_come_out_alike_in_any_number_of_rounds():
    x, noise = random(4, 6, 10), random(4, 6, 10, seed=1)
    decoder, greedy = Masked(MaskedConfig(levels=5)), Masked(MaskedConfig(levels=5, temperature=0.0))
    once = decoder.sample(lambda z, level: x, noise, 1)
    assert all(torch.equal(once, decoder.sample(lambda z, level: x, noise, k)) for k in (2, 7, 12))
    assert torch.equal(greedy.sample(lambda z, level: x, noise, 3), to_code(from_code(x, 5), 5))
    assert not torch.equal(once, greedy.sample(lambda z, level: x, noise, 3))


def test_the_loss_scores_hidden_digits_alone():
    decoder, shown = Masked(MaskedConfig(levels=4)), {}
    z = to_code(torch.randint(4, (16, 9, 5, 2), generator=torch.Generator().manual_seed(0)), 4)
    x = torch.zeros_like(z).requires_grad_()

    def predict(noisy, level):
        shown.update(z=noisy, tau=level.tau)
        return x

    loss = decoder.loss(predict, z, 0.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss, torch.full((16, 9), math.log(4)))
    loss.sum().backward()
    hidden = by_digit(shown["z"], 4).abs().amax(-1) == 0
    assert torch.equal(hidden, by_digit(x.grad, 4).abs().amax(-1) > 0)
    torch.testing.assert_close(shown["tau"], 1 - hidden.float().mean((-1, -2)))
    assert torch.equal(by_digit(shown["z"], 4), by_digit(z, 4).masked_fill(hidden[..., None], 0.0))
    assert shown["tau"].unique().numel() > 5


class Faulty(Masked):
    """Masked decoding with a `fault`."""

    def __init__(self, fault: str):
        super().__init__(MaskedConfig(levels=4, temperature=1e6 if fault == "hot" else 1.0))
        self.fault = fault

    def sample(self, predict, noise_BNZ, steps=None):
        if self.fault == "mixes":
            noise_BNZ = noise_BNZ + noise_BNZ.mean(-3, keepdim=True)
        z = super().sample(predict, noise_BNZ, max(1, steps or 2) if self.fault == "any steps" else steps)
        return 0.999 * z if self.fault == "soft" else z

    def loss(self, predict, z_BTNZ, progress, generator):
        loss = super().loss(predict, z_BTNZ.roll(1, -1) if self.fault == "rolled" else z_BTNZ, progress, generator)
        return -loss if self.fault == "upside down" else loss


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("hot", laws.truth_stays_truth),
        ("soft", laws.truth_stays_truth),
        ("any steps", laws.truth_stays_truth),
        ("mixes", laws.samples_are_functions),
        ("rolled", laws.decoder_loss_prefers_truth),
        ("upside down", laws.decoder_loss_prefers_truth),
    ],
)
def test_laws_catch_faulty_masked_decoders(fault, law):
    law(Faulty(""))
    with pytest.raises(CheckFailed):
        law(Faulty(fault))


# a world of them


def test_the_masked_decoder_brings_its_tokenizer():
    choices = ActionSpec("discrete", n=2)
    config = world_config("tiny", WorldSpec({"pixels": StreamSpec("image", (64, 64, 3))}, choices), "masked")
    assert config.tokenizers["pixels"].name == "fsq"
    assert config.tokenizers["pixels"].config["levels"] == config.decoder.config["levels"]
    with pytest.raises(ConfigError, match="discrete tokens"):
        world_config("tiny", WorldSpec({"state": StreamSpec("vector", (4,))}, choices), "masked")


def test_a_discrete_world_trains_and_steps(coinrun_data):
    world = train(coinrun_data, budget="8steps", preset="debug", decoder="masked", device="cpu", progress=False)
    engine = Engine(world)
    seen = {"pixels": random_observations(world.spec.streams["pixels"], (2, 1)).numpy()}
    state, frame = engine.step(engine.start(seen), random_rows(world.spec.action, 2, 1)[:, 0])
    assert frame.observation["pixels"].shape == (2, 64, 64, 3)
    drawn = state.slabs.recurrent["previous"]
    assert torch.equal(drawn, to_code(from_code(drawn, 8), 8))


# token by token, and all at once


def ordered(order: str, temperature: float, calls: list[int]):
    """An engine of a world of discrete tokens that draws them in an order, and counts the rows it asks for."""
    torch.manual_seed(0)
    spec = WorldSpec({"pixels": StreamSpec("image", (32, 32, 3))}, ActionSpec("discrete", n=3))
    config = world_config("debug", spec, "masked")
    settings = config.decoder.config | {"order": order, "temperature": temperature}
    made = laws.shaken(World(spec, replace(config, decoder=replace(config.decoder, config=settings))), torch.float64)
    predict = made.dynamics.predict

    def counted(slabs, row, z=None, noise=None):
        calls.append(len(row))
        return predict(slabs, row, z, noise)

    made.dynamics.predict = counted
    return Engine(made, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("fused", [False, True])
def test_tokens_drawn_at_once_are_those_drawn_one_by_one(temperature, fused):
    ends, counts = [], []
    for order in ("raster", "jacobi"):
        calls: list[int] = []
        made = ordered(order, temperature, calls)
        made.fused = fused
        state = made.start({"pixels": np.zeros((2, 1, 32, 32, 3), np.uint8)}, seeds=3)
        state, _ = made.rollout(state, np.array([[[0], [1]], [[2], [1]]]))
        ends.append(state.slabs.recurrent["previous"])
        counts.append(calls)
    assert torch.equal(*ends)
    tokens = made.tokens.n
    assert counts[0].count(2) >= 2 * tokens - fused
    rounds = counts[1].count(2 * tokens)
    assert 2 <= rounds <= 2 * (tokens + 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_chain_of_tokens_is_followed_to_its_end(temperature):
    levels, tokens, calls = 5, 6, []

    def chain(z: torch.Tensor, noise: object) -> torch.Tensor:
        """Each token is one more than the one before it; the first is 3, and what follows the unknown is unknown."""
        calls.append(len(z))
        known = z.abs().sum(-1, keepdim=True) > 0
        after = to_code((from_code(z, levels) + 1) % levels, levels, z.dtype).where(known, 0.0)
        first = to_code(torch.full((len(z), 1, 1), 3), levels, z.dtype)
        return 50 * torch.cat([first, after[:, :-1]], 1)

    noise = random(2, tokens, levels).double()
    frames = {}
    for order in ("raster", "jacobi"):
        calls.clear()
        made = Masked(MaskedConfig(levels=levels, order=order, temperature=temperature))  # pyright: ignore
        frames[order] = from_code(made.sample(chain, noise), levels)[..., 0].tolist()
        assert calls == ([2] * tokens if order == "raster" else [2 * tokens] * len(calls))
    assert frames["raster"] == frames["jacobi"] == [[3, 4, 0, 1, 2, 3]] * 2
    assert tokens - 1 <= len(calls) <= tokens  # the worst case: nothing can be guessed


def test_an_order_there_is_not_is_refused():
    with pytest.raises(UnknownName, match="raster"):
        MaskedConfig(order="rastr")  # pyright: ignore
