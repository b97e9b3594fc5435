"""Chunks of frames from a slow state: the window's exactness, its levels, and what a session sees of it."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from terrella import check, chunk_laws
from terrella.check import ACTION, TOKENS, example_world
from terrella.decoders import Swin, SwinConfig
from terrella.engine import Alarm, Engine
from terrella.errors import CheckFailed, ConfigError
from terrella.laws import random_observations, random_rows, shaken
from terrella.nn.slabs import Slabs, StateSpec
from terrella.nn.window import Window, chunk_causal
from terrella.training import train
from terrella.training.optim import Optimizer
from terrella.training.presets import training_config
from terrella.world import Part, World

SMALL = {"unit": 3, "steps": 4, "dim": 16, "layers": 2, "heads": 1}
UNIT, STEPS = 3, 4
B, N, Z = 2, TOKENS.n, TOKENS.channels


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def swin(**settings) -> Swin:
    torch.manual_seed(0)
    return Swin(SwinConfig(**{**SMALL, **settings}), TOKENS)


def chunks(part: Swin, slow, start, eps, fog) -> torch.Tensor:
    """Draw a chunk for each slow state `(k, B, N, Z)`, frame by frame, `(k, B, unit, N, Z)`."""
    kept = Slabs.empty(StateSpec(dict(part.slabs)), B, "cpu", torch.float64).recurrent
    out, before = [], start
    for k in range(len(slow)):
        frames = []
        for _ in range(part.unit):
            draw = lambda j, k=k: eps[k, :, j] if j >= 0 else fog[k]  # noqa: E731
            before, kept = part.go_on(lambda *_, k=k: slow[k], kept, before, draw)
            frames.append(before)
        out.append(torch.stack(frames, 1))
    return torch.stack(out)


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_drawing_chunks_one_after_another_is_the_window_that_slides_over_two(steps):
    part, half, c = shaken(swin(steps=steps), torch.float64), steps // 2, UNIT
    slow, fog, start = normal(3, B, N, Z), normal(3, B, N, Z, seed=2), normal(B, N, Z, seed=3)
    eps = normal(3, B, c, N, Z, seed=1)
    drawn = chunks(part, slow, start, eps, fog)
    clear = 1 - part.config.fog

    def expect(before, chunks, levels, slows):
        tau = torch.tensor([clear] + [i / steps for i in levels for _ in range(c)]).expand(B, -1)
        return part.window(torch.cat([before[:, None], *chunks], 1), tau, torch.stack(slows, 1)).split(c, 1)

    # The staircase: both chunks in every pass, the newer one half a schedule behind, whose action must be known.
    before, older, newer, finished = clear * start + (1 - clear) * fog[0], eps[0], None, []
    for i in range(half):
        (x,) = expect(before, [older], [i], [slow[0]])
        older = older + (x - older) / (steps - i)
    for k in range(3):
        newer = eps[k + 1] if k < 2 else torch.zeros_like(older)
        late = slow[k + 1] if k < 2 else torch.zeros_like(slow[0])
        for i in range(half):
            x, y = expect(before, [older, newer], [i + half, i], [slow[k], late])
            older, newer = older + (x - older) / (steps - half - i), newer + (y - newer) / (steps - i)
        finished.append(older)
        before, older = clear * older[:, -1] + (1 - clear) * fog[min(k + 1, 2)], newer  # the window moves by a chunk
    assert torch.allclose(drawn, torch.stack(finished), rtol=0, atol=1e-11)
    assert (drawn[1] - drawn[0]).abs().max() > 0.1


class Sure(nn.Module):
    """A window sure of the truth, that notes the levels it is asked at."""

    def __init__(self, truth: torch.Tensor):
        super().__init__()
        self.truth, self.asked = truth, []

    def forward(self, z, tau, slow):
        self.asked.append(tau)
        return self.truth[:, :1].expand(-1, z.shape[1] - 1, -1, -1)


def test_the_last_step_lands_on_the_prediction():
    part, truth = swin(), normal(B, 1, N, Z)
    part.window = Sure(truth)
    drawn = chunks(part, normal(2, B, N, Z), normal(B, N, Z), normal(2, B, UNIT, N, Z), normal(2, B, N, Z))
    assert torch.allclose(drawn, truth.expand(2, -1, UNIT, -1, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 4])
def test_training_meets_the_levels_of_sampling_and_no_others(steps):
    part = swin(steps=steps)
    part.window = sure = Sure(normal(B, 1, N, Z))
    chunks(part, normal(2, B, N, Z), normal(B, N, Z), normal(2, B, UNIT, N, Z), normal(2, B, N, Z))
    calls = [tuple(tau[0, [0, *range(1, tau.shape[1], UNIT)]].tolist()) for tau in sure.asked]
    first, second = calls[:steps], calls[steps:]
    clear = pytest.approx(1 - part.config.fog)
    assert all(call[0] == clear for call in calls)
    assert [call[1] for call in first] == [i / steps for i in range(steps)]  # alone, in the older place
    half = steps // 2
    assert [call[1:] for call in second[:half]] == [((i + half) / steps, i / steps) for i in range(half)]
    assert [call[1] for call in second[half:]] == [i / steps for i in range(half, steps)]

    tau, counts = part._levels(4000, torch.Generator().manual_seed(0), torch.device("cpu"))
    pairs = {tuple(row) for row in tau[counts[:, -1] > 0][:, [1, -1]].tolist()}
    assert pairs == {call[1:] for call in second[:half]}
    assert {*tau[:, 1].tolist()} == {call[1] for call in calls}
    assert (tau[:, 1 : 1 + UNIT] == tau[:, 1:2]).all()
    assert {round(level, 4) for level in tau[:, 0].tolist()} == {0.0, round(1 - part.config.fog, 4)}
    assert 0.7 < counts[:, -1].mean() < 0.8


def test_a_fresh_decoder_hears_no_slow_state():
    fresh, noise = swin(), normal(B, UNIT, N, Z)
    assert all(block.out_s.weight.abs().max() == 0 for block in fresh.window.blocks)
    part = shaken(fresh, torch.float64)
    for block in part.window.blocks:
        nn.init.zeros_(block.out_s.weight)
    one, other = (part.sample(lambda *_, s=s: normal(B, N, Z, seed=s), noise) for s in (1, 2))
    assert torch.equal(one, other)
    nn.init.normal_(part.window.blocks[0].out_s.weight)
    one, other = (part.sample(lambda *_, s=s: normal(B, N, Z, seed=s), noise) for s in (1, 2))
    assert (one - other).abs().max() > 1e-3


def test_later_chunks_see_earlier_ones_and_never_the_reverse():
    assert chunk_causal(2, 2).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    torch.manual_seed(0)
    window = shaken(Window(TOKENS, UNIT, 16, 2, 1, 3.0), torch.float64)
    z, slow, tau = normal(B, 1 + 2 * UNIT, N, Z), normal(B, 2, N, Z), torch.full((B, 1 + 2 * UNIT), 0.5)
    told = window(z, tau, slow)

    def moved(what: str, at: slice) -> tuple[bool, bool]:
        given = {"z": z.clone(), "slow": slow.clone(), "tau": tau.clone()}
        given[what][:, at] += 0.3
        gap = (window(given["z"], given["tau"], given["slow"]) - told).abs()
        return bool(gap[:, :UNIT].max() > 1e-6), bool(gap[:, UNIT:].max() > 1e-6)

    assert moved("z", slice(0, 1)) == moved("tau", slice(0, 1)) == (True, True)
    assert moved("z", slice(1, 2)) == moved("slow", slice(0, 1)) == (True, True)
    assert moved("z", slice(1 + UNIT, None)) == moved("tau", slice(1 + UNIT, None)) == (False, True)
    assert moved("slow", slice(1, 2)) == (False, True)
    alone = window(z[:, : 1 + UNIT], tau[:, : 1 + UNIT], slow[:, :1])
    assert torch.allclose(alone, told[:, :UNIT], rtol=0, atol=1e-12)


def test_the_loss_reads_slow_states_where_chunks_begin_and_scores_what_windows_hold():
    part, frames = shaken(swin()), 2 * 2 * UNIT + 1
    z, slow = normal(B, frames, N, Z).float(), normal(B, frames, N, Z, seed=1).float().requires_grad_(True)
    loss = part.loss(lambda *_: slow, z, 0.0, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss.sum(), slow)
    heard = (gradient.abs().sum((0, 2, 3)) > 0).nonzero().flatten().tolist()
    assert heard == [1, 1 + UNIT, 1 + 2 * UNIT, 1 + 3 * UNIT]
    with pytest.raises(ConfigError, match=r"6 frames; a window .* needs 7"):
        part.loss(lambda *_: slow, z[:, :6], 0.0, torch.Generator())


# sessions


@pytest.mark.parametrize("law", [check.rollout_equals_parallel, check.branches_get_equal_frames])
def test_worlds_that_attend_keep_the_laws_in_single_precision(world, law):
    law(world, torch.float32)  # backbones of one kind, in double precision, keep all of them in test_laws.py


@pytest.fixture(scope="module")
def world() -> World:
    backbone = Part("transformer", {"dim": 32, "heads": 2, "layers": 2, "window": 4})
    return shaken(example_world(backbone, Part("swin", SMALL), {"state": Part("vector", {"channels": 16})}, 0.9))


def begun(engine: Engine, frames: int = 1):
    seen = {k: random_observations(s, (B, frames)).numpy() for k, s in engine.spec.modelled.items()}
    return engine.start(seen, random_rows(ACTION, B, frames - 1) if frames > 1 else None)


def test_actions_inside_a_chunk_show_from_the_next_one_on_and_its_outcomes_at_once(world):
    engine, rows = Engine(world), random_rows(ACTION, B, 3 * UNIT)
    _, first = engine.rollout(begun(engine), rows)
    other = rows.copy()
    other[:, UNIT + 1] = random_rows(ACTION, B, 1, seed=5)[:, 0]
    _, second = engine.rollout(begun(engine), other)
    one, two = (frame.observation["state"] for frame in (first, second))
    assert [bool((one[:, t] != two[:, t]).any()) for t in range(3 * UNIT)] == [False] * 2 * UNIT + [True] * UNIT
    assert not np.array_equal(first.reward[:, UNIT + 1], second.reward[:, UNIT + 1])
    assert np.array_equal(first.reward[:, : UNIT + 1], second.reward[:, : UNIT + 1])


def test_a_rollout_is_as_many_steps_wherever_it_is_cut(world):
    engine, rows = Engine(world, recall=2), random_rows(ACTION, B, 2 * UNIT + 2)
    state, whole = engine.rollout(begun(engine, 2), rows)
    part = begun(engine, 2)
    for t in range(rows.shape[1]):
        part, frame = engine.step(part, rows[:, t])
        assert np.array_equal(frame.observation["pixels"], whole.observation["pixels"][:, t])
    assert torch.equal(engine.recent(part).z, engine.recent(state).z)
    assert engine.recent(state).frames == 2


def test_what_waits_is_dropped_where_the_truth_is_observed(world):
    engine, rows = Engine(world), random_rows(ACTION, B, 4)
    seen = {k: random_observations(s, (B, 2)).numpy() for k, s in engine.spec.modelled.items()}
    known = engine.start(seen, rows[:, :1])
    state = engine.start({k: v[:, :1] for k, v in seen.items()})
    dreamed, _ = engine.step(state.fork(1), rows[:, 0])
    assert dreamed.slabs.recurrent["swin.shown"].tolist() == [1, 1]
    observed = engine.observe(state, rows[:, 0], {k: v[:, 1] for k, v in seen.items()})
    assert observed.slabs.recurrent["swin.shown"].tolist() == [0, 0]
    frames = [engine.rollout(s, rows[:, 1:])[1].observation["pixels"] for s in (known, observed)]
    assert np.array_equal(*frames)


def test_shown_frames_enrich_the_next_slow_state_and_window(world):
    rows = random_rows(ACTION, B, 2 * UNIT)
    engines = Engine(world, reencode=0), Engine(world, reencode=1)
    plain, again = (engine.rollout(begun(engine), rows)[1].observation["state"] for engine in engines)
    assert np.array_equal(plain[:, :UNIT], again[:, :UNIT])  # the first chunk was drawn before any was shown
    assert not np.array_equal(plain[:, UNIT:], again[:, UNIT:])


def test_an_alarm_watches_chunks_too(world):
    engine = Engine(world, alarm=Alarm("distance", threshold=1.0))
    _, frame = engine.rollout(begun(engine), random_rows(ACTION, B, UNIT + 1))
    assert frame.info["alarm"].shape == (B, UNIT + 1)


def test_what_is_made_of_single_frames_is_refused(world):
    with pytest.raises(ConfigError, match="single ones"):
        Engine(world, cache="interval")
    with pytest.raises(ConfigError, match="single ones"):
        Engine(world, compiled=1)
    with pytest.raises(ConfigError, match="steps is 2"):
        Engine(world, steps=2)
    engine = Engine(world)
    with pytest.raises(ConfigError, match="no gradient"):
        engine.dream(begun(engine), torch.from_numpy(random_rows(ACTION, B, 1)))
    with pytest.raises(ConfigError, match="chunks of 3 frames"):
        world.decoder.sample(lambda *_: torch.zeros(B, 4, 32), torch.zeros(B, 4, 32))
    for wrong in ({"steps": 3}, {"steps": 0}, {"unit": 1}, {"dim": 18}, {"fog": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SwinConfig(**wrong)


# training


def test_a_world_of_two_clocks_trains_stops_goes_on_and_steps(cartpole_data, tmp_path, monkeypatch):
    how = {"preset": "debug", "decoder": "swin", "device": "cpu", "progress": False}
    after = train(cartpole_data, tmp_path / "whole", budget="6steps", **how)
    torch.manual_seed(0)
    early, late = (dict(w.decoder.named_parameters()) for w in (World(after.spec, after.config), after))
    assert [n for n in early if torch.equal(early[n], late[n])] == []  # cross-attention, too, which began at zero
    take = Optimizer.step

    def interrupted(self, loss, step, progress):
        if step == 3 and len(self.parts) > 1:
            signal.raise_signal(signal.SIGINT)
        take(self, loss, step, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cartpole_data, tmp_path / "stopped", budget="6steps", **how)
    resumed = train(cartpole_data, tmp_path / "stopped", budget="6steps", **how).state_dict()
    assert [n for n, value in after.state_dict().items() if not torch.equal(value, resumed[n])] == []
    loaded = World.load(tmp_path / "whole")
    engine = Engine(loaded)
    assert loaded.starts is not None
    assert Engine(loaded, alarm="distance").alarm is not None
    with pytest.raises(ConfigError, match="in chunks"):
        Engine(loaded, alarm="disagreement")
    starts = {k: v[:2] for k, v in loaded.starts.observations.items()}
    rows = np.zeros((2, 5, 1))
    _, frame = engine.rollout(engine.start(starts, loaded.starts.actions[:2]), rows)
    assert frame.observation["vector"].shape == (2, 5, 4)
    for wrong in ({"self_fed": 0.3}, {"recycled": 0.3}, {"growth": 0.5}, {"length": 3}):
        recipe = replace(training_config("debug", decoder="swin"), **wrong)
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} \\("):
            train(cartpole_data, budget="1steps", training=recipe, **how)
    assert training_config("debug", decoder="swin") == replace(training_config("debug"), self_fed=0.0)
    assert training_config("tiny", "flow_wedge", "swin").growth == 0.0 < training_config("tiny", "flow_wedge").growth


# mutants: each law of chunks can fail


class Crowd(Swin):
    """Begins a chunk for all sessions where it begins one for any."""

    def go_on(self, predict, slabs, before, noise, steps=None):
        shown = slabs["swin.shown"]
        return super().go_on(predict, {**slabs, "swin.shown": shown.max().expand_as(shown)}, before, noise, steps)


class Deaf(Swin):
    """Hears no slow state when drawing."""

    def go_on(self, predict, slabs, before, noise, steps=None):
        return super().go_on(lambda *_: torch.zeros_like(before), slabs, before, noise, steps)


class Eager(Swin):
    """Draws a new chunk for every frame."""

    def go_on(self, predict, slabs, before, noise, steps=None):
        return super().go_on(predict, {**slabs, "swin.shown": slabs["swin.shown"] * 0}, before, noise, steps)


class Moody(Swin):
    """Draws noise of its own."""

    def sample(self, predict, noise, steps=None):
        return super().sample(predict, torch.randn_like(noise), steps)


class Aloof(Swin):
    """Learns without its backbone."""

    def loss(self, predict, z, progress, generator):
        return super().loss(lambda *_: predict(None, None).detach() + 0 * predict(None, None), z, progress, generator)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        (Crowd, chunk_laws.chunks_come_frame_by_frame),
        (Deaf, chunk_laws.chunks_come_frame_by_frame),
        (Eager, chunk_laws.chunks_come_frame_by_frame),
        (Moody, chunk_laws.chunks_are_functions),
        (Aloof, chunk_laws.chunk_loss_teaches),
    ],
)
def test_faulty_decoders_of_chunks_are_caught(fault, law):
    torch.manual_seed(0)
    with pytest.raises(CheckFailed):
        law(fault(SwinConfig(**SMALL), TOKENS))
