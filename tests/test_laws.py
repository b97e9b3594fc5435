"""The laws over every registered part, mutants that each law must catch, and states as values."""

import os
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from terrella import check, laws
from terrella.check import BATCH, CONTEXT_FRAMES, LAWS, example_world, examples
from terrella.data import Dataset, Episode, import_npz
from terrella.decoders import Decoder, Regression, RegressionConfig, Shortcut, ShortcutConfig
from terrella.dynamics import Dynamics
from terrella.engine import Engine, State
from terrella.engine.stepper import Stepper
from terrella.errors import (
    ActionError,
    CheckFailed,
    ConfigError,
    DatasetError,
    SpecError,
    StateError,
    StateSpent,
    UnknownName,
    WorldError,
)
from terrella.nn.actions import ActionEmbedding
from terrella.nn.latents import Outcome, TokenSpec
from terrella.nn.slabs import Slabs, SlabSpec, StateSpec
from terrella.registry import lookup, names
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.tokenizers import Tokenizer
from terrella.world import Part, World, WorldConfig

# Sizes for tests; a part that is not listed runs with its defaults. Several settings make several examples.
SMALL = {
    "flow": [{}, {"infer": 1, "side": 5}, {"kind": "recurrent", "speed": 0}],
    "flow_wedge": [{"reach": 3, "dim": 16}, {"reach": 2, "dim": 8, "turns": 0, "velocities": False}],
    "transformer": [
        {"dim": 32, "heads": 2, "layers": 3, "every": 2, "window": 4, "sinks": 1},
        {"dim": 32, "heads": 2, "layers": 2, "every": 1, "window": 5, "sinks": 0},
        {"dim": 32, "heads": 1, "layers": 1, "every": 4, "window": 1, "sinks": 2},
        {"dim": 24, "layers": 3, "every": 2, "window": 3, "sinks": 2, "history": 3, "fetch": 1, "stride": 2},
        {"dim": 32, "heads": 2, "layers": 1, "window": 4, "sinks": 0, "history": 6, "fetch": 2},
    ],
    "ssm": [
        {"dim": 32, "heads": 2, "layers": 2, "scan_heads": 4, "state": 8},
        {"dim": 16, "heads": 1, "layers": 1, "scan_heads": 1, "state": 3},
    ],
    "hybrid": [
        {"dim": 32, "heads": 2, "layers": 3, "every": 2, "window": 4, "sinks": 1, "scan_heads": 4, "state": 8},
        {"dim": 16, "heads": 1, "layers": 1, "window": 1, "track_layers": 2, "scan_heads": 1, "state": 3},
        {"dim": 16, "heads": 1, "layers": 1, "window": 3, "history": 5, "fetch": 1, "scan_heads": 1, "state": 3},
    ],
    "language": [{"dim": 16, "heads": 2, "layers": 1, "window": 2}],
    "token_memory": [
        {"dim": 32, "heads": 2, "layers": 1, "slots": 6, "reads": 4},
        {"dim": 16, "heads": 1, "layers": 2, "slots": 1, "reads": 1},
    ],
    "rssm": [
        {"dim": 32, "blocks": 2, "groups": 4, "classes": 4, "hidden": 16, "width": 16, "layers": 1, "heads": 1},
        {"dim": 16, "blocks": 1, "groups": 1, "classes": 2, "hidden": 8, "width": 16, "layers": 2, "heads": 2},
    ],
    "reaction_diffusion": [{"dim": 32}, {"dim": 12, "groups": 3, "steps": 1, "settle": 1, "scales": 1, "mlp": 1.0}],
    "conv": [{"width": 16}, {"width": 16, "stride": 16, "blocks": 2}],
    "fsq": [{"width": 16}, {"width": 16, "digits": 3, "levels": 5}],
    "vector": [{}, {"channels": 4, "hidden": 8}],
    "codes": [{}, {"channels": 6, "side": 2, "hidden": 16}],
    "shortcut": [{}, {"finest": 1, "steps": 1}, {"finest": 4, "steps": 4}],
    "residual": [
        {"dim": 16, "layers": 1, "heads": 1},
        {"steps": 1, "dim": 16, "layers": 2, "heads": 2},
    ],
    "swin": [
        {"unit": 3, "steps": 4, "dim": 16, "layers": 1, "heads": 1},
        {"unit": 2, "steps": 2, "dim": 16, "layers": 2, "heads": 2, "fog": 0.0},
    ],
    "masked": [{}, {"levels": 3, "steps": 1}, {"levels": 2, "steps": 9, "temperature": 0.5}],
}
PARTS = [(kind, n, c) for kind in ("tokenizer", "dynamics", "decoder") for n in names(kind) for c in SMALL.get(n, [{}])]
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_world(dynamics="transformer", decoder="shortcut", pixels="conv", context_level=0.9) -> World:
    tokenizers = {"pixels": Part(pixels, SMALL.get(pixels, [{}])[-1])}
    channels = example_channels(tokenizers["pixels"])
    tokenizers["state"] = Part("vector", {"channels": channels})
    parts = Part(dynamics, SMALL.get(dynamics, [{}])[0]), Part(decoder, SMALL.get(decoder, [{}])[0])
    return example_world(*parts, tokenizers, context_level)


def example_channels(part: Part) -> int:
    return examples("tokenizer", part.name, part.config)[0].spec.channels


# every registered part keeps every law of its kind


@pytest.mark.parametrize("law", LAWS["dynamics"], ids=lambda law: law.__name__)
@pytest.mark.parametrize(("name", "config"), [(n, c) for kind, n, c in PARTS if kind == "dynamics"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["f64", "f32"])
def test_backbones(name, config, law, dtype):
    for part in examples("dynamics", name, config):
        law(part, dtype)


@pytest.mark.parametrize(("kind", "name", "config"), [p for p in PARTS if p[0] != "dynamics"])
def test_tokenizers_and_decoders(kind, name, config):
    parts = examples(kind, name, config)
    group = "chunks" if kind == "decoder" and parts[0].unit > 1 else kind
    assert check.check_part(kind, name, config) == [law.__name__ for law in LAWS[group]] * len(parts)


@pytest.mark.parametrize("law", LAWS["world"], ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    ("dynamics", "decoder", "pixels", "level", "dtype"),
    [(d, "shortcut", "conv", 0.9, t) for d in names("dynamics") for t in DTYPES]
    + [(names("dynamics")[0], d, "conv", 1.0, torch.float64) for d in names("decoder") if d != "shortcut"]
    + [
        (names("dynamics")[0], "shortcut", t, 1.0, torch.float64)
        for t in names("tokenizer")
        if t != "conv" and "image" in lookup("tokenizer", t).takes
    ],
)
def test_worlds(dynamics, decoder, pixels, level, dtype, law):
    law(small_world(dynamics, decoder, pixels, level), dtype)


def test_a_gallery_size_world_keeps_the_laws():
    spec = WorldSpec({"pixels": StreamSpec("image", (64, 64, 3))}, ActionSpec("discrete", n=15))
    from terrella.training import world_config

    config = world_config("tiny", spec)
    dynamics = replace(config.dynamics, config=config.dynamics.config | {"window": 3})
    world = World(spec, replace(config, dynamics=dynamics))
    check.rollout_equals_parallel(world, torch.float32)
    check.company_changes_no_frame(world, torch.float32)


def test_unknown_parts_are_named():
    with pytest.raises(UnknownName, match="transformer"):
        check.check_part("dynamics", "transfomer")


# mutants: each law can fail


@dataclass(frozen=True)
class LeakyConfig:
    """Nothing to set."""


class Leaky(Dynamics):
    """A recurrent backbone without framed slabs: a leaky sum of frames. `fault` names the law that it breaks."""

    def __init__(self, fault: str = ""):
        super().__init__(check.TOKENS, check.ACTION)
        self.fault, self.calls = fault, 0
        z = SlabSpec((self.tokens.n, self.tokens.channels))
        self.spec = StateSpec({"sum": z})
        self.act = ActionEmbedding(check.ACTION, self.tokens.channels)
        self.mix = nn.Linear(self.tokens.channels, self.tokens.channels)

    def predict(self, slabs, action_BW, z_BNZ=None, noise=None):
        return self._expect(slabs.recurrent["sum"], action_BW, z_BNZ, noise, slabs)

    def _expect(self, total, action, z, noise, slabs=None):
        out = self.mix(total) + (0 if self.fault == "action" else self.act(action)[..., None, :])
        if z is not None:
            out = out + z * noise.tau[..., None, None] * (1 + noise.d[..., None, None])
        if self.fault == "chance":
            out = out + 1e-3 * torch.rand(out.shape).to(out)
        self.calls += 1
        if self.fault == "module":
            out = out + 1e-3 * self.calls
        if self.fault == "company":
            out = out + out.mean(0, keepdim=True)
        if slabs is not None:
            if self.fault == "clock":
                out = out + 1e-3 * slabs.time[:, None, None]
            if self.fault == "writes":
                total.mul_(0.99)
            if self.fault == "streaming":
                out = out + 1e-4
        return out

    def commit(self, slabs, action_BW, z_BNZ, tau_B):
        total = 0.5 * slabs.recurrent["sum"] + torch.tanh(z_BNZ) * tau_B[:, None, None].to(z_BNZ)
        if self.fault == "grows":
            total = torch.cat([total, total[:, :1]], 1)
        outcome = total.mean((-1, -2))
        return slabs.append({}, {"sum": total}), Outcome(outcome, -outcome)

    def parallel(self, z_BTNZ, action_BTW, tau_BT, since=0):
        past, total = [], torch.zeros_like(z_BTNZ[:, 0])
        for t in range(z_BTNZ.shape[1]):
            past.append(total)
            total = 0.5 * total + torch.tanh(z_BTNZ[:, t]) * tau_BT[:, t, None, None].to(total)
        shown = [*past[1:], total] if self.fault == "future" else past
        sums = torch.stack([*past[1:], total], 1).mean((-1, -2))
        return Outcome(sums, -sums), self.last(
            lambda z, noise: self._expect(torch.stack(shown, 1), action_BTW, z, noise), since
        )


def test_a_recurrent_backbone_keeps_the_laws():
    assert check.check_dynamics(Leaky()) == [law.__name__ for law in LAWS["dynamics"]]


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("streaming", laws.streaming_equals_parallel),
        ("future", laws.future_changes_no_past),
        ("action", laws.actions_reach_the_next_frame),
        ("module", laws.predict_is_pure),
        ("chance", laws.predict_is_pure),
        ("writes", laws.predict_is_pure),
        ("company", laws.company_does_not_matter),
        ("grows", laws.memory_does_not_grow),
        ("clock", laws.absolute_time_does_not_matter),
    ],
)
def test_faulty_backbones_are_caught(fault, law):
    with pytest.raises(CheckFailed, match="expected"):
        law(Leaky(fault))


@pytest.mark.parametrize("what", ["one segment", "writes to the shared past", "another's past"])
def test_a_backbone_that_misreads_forks_is_caught(what, monkeypatch):
    (part,) = examples("dynamics", "transformer", SMALL["transformer"][0])
    fork = Slabs.fork

    def misread(self, n):
        forked = fork(self, n)
        if what == "one segment":
            forked.segments = forked.segments[-1:] if len(forked.segments) > 1 else forked.segments
        elif what == "writes to the shared past":
            self.segments = [replace(s, shared=False) for s in self.segments]
        else:
            forked.recurrent = {k: v.roll(1, 0) for k, v in forked.recurrent.items()}
        return forked

    monkeypatch.setattr(Slabs, "fork", misread)
    with pytest.raises(CheckFailed):
        laws.branches_equal_their_parent(part)


@pytest.mark.parametrize("what", ["window", "sinks", "level", "previous"])
def test_a_transformer_that_forgets_differently_is_caught(what, monkeypatch):
    (part,) = examples("dynamics", "transformer", SMALL["transformer"][0])
    law = laws.streaming_equals_parallel
    law(part)
    if what in ("window", "sinks"):  # what a session keeps no longer is what `parallel` shows
        part.spec = replace(part.spec, **{what: getattr(part.spec, what) - 1})
        monkeypatch.setattr(laws, "_ready", lambda d, t, f=laws._ready: (f(d, t)[0], laws._clip(d, 17, t)))
    else:
        commit = type(part).commit

        def forgetful(self, slabs, *args):
            after, outcome = commit(self, slabs, *args)
            after.recurrent[what] = torch.zeros_like(after.recurrent[what])
            return after, outcome

        monkeypatch.setattr(type(part), "commit", forgetful)
    with pytest.raises(CheckFailed):
        law(part)


class Spoiled(Decoder):
    """The plain decoder with a `fault`."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault, self.inner = fault, Regression(RegressionConfig())

    def sample(self, predict, noise_BNZ, steps=None):
        if self.fault == "any steps":
            return predict(None, None)
        z = self.inner.sample(predict, noise_BNZ, steps)
        if self.fault == "misses":
            z = z + 1e-6
        if self.fault == "chance":
            torch.rand(1)
        if self.fault == "writes":
            noise_BNZ.zero_()
        return z.float() if self.fault == "type" else z

    def loss(self, predict, z_BTNZ, progress, generator):
        loss = self.inner.loss(predict, z_BTNZ, progress, generator)
        if self.fault == "loss chance":
            torch.rand(1)
        if self.fault == "one number":
            loss = loss.mean()
        if self.fault == "detached":
            loss = loss.detach()
        return -loss if self.fault == "upside down" else loss


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("misses", laws.truth_stays_truth),
        ("any steps", laws.truth_stays_truth),
        ("writes", laws.truth_stays_truth),
        ("type", laws.truth_stays_truth),
        ("chance", laws.samples_are_functions),
        ("loss chance", laws.decoder_loss_prefers_truth),
        ("one number", laws.decoder_loss_prefers_truth),
        ("detached", laws.decoder_loss_prefers_truth),
        ("upside down", laws.decoder_loss_prefers_truth),
    ],
)
def test_faulty_decoders_are_caught(fault, law):
    law(Spoiled(""))
    with pytest.raises(CheckFailed):
        law(Spoiled(fault))


class Smeared(Tokenizer):
    """A vector as one token, with a `fault`."""

    def __init__(self, fault: str):
        places = ((0.0, 0.0),) * (2 if fault == "places" else 1)
        super().__init__(StreamSpec("vector", (20,)), TokenSpec(1, 20, places))
        self.fault, self.gain = fault, nn.Parameter(10 * torch.ones(20))
        self.register_buffer("middle", torch.zeros(20), persistent=fault != "buffer")

    def prepare(self, obs):
        self.middle.copy_(obs.mean(0))

    def encode_raw(self, obs):
        x = obs - self.middle
        return ((x - x.mean(0) if self.fault == "mixes" and x.ndim > 1 else x) * self.gain).unsqueeze(-2)

    def decode_raw(self, z):
        return z.squeeze(-2) / self.gain + self.middle

    def normalise(self, obs):
        if self.fault != "scale":
            super().normalise(obs)

    def loss(self, obs, generator):
        if self.fault == "chance":
            torch.rand(1)
        error = (
            self.decode_raw(self.encode_raw(obs) + torch.randn(obs[..., None, :].shape, generator=generator)) - obs
        ) ** 2
        return error.mean(-1) if self.fault == "many" else error.mean()


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("mixes", laws.frames_are_coded_alone),
        ("places", laws.frames_are_coded_alone),
        ("buffer", laws.constants_travel_with_weights),
        ("scale", laws.constants_travel_with_weights),
        ("chance", laws.tokenizer_loss_teaches),
        ("many", laws.tokenizer_loss_teaches),
    ],
)
def test_faulty_tokenizers_are_caught(fault, law):
    law(Smeared(""))
    with pytest.raises(CheckFailed):
        law(Smeared(fault))


@pytest.mark.parametrize("what", ["dreamed", "other actions", "other frames"])
def test_an_engine_that_observes_something_else_is_caught(what, monkeypatch):
    observe = Engine.observe

    def other(self, state, actions, observations):
        if what == "dreamed":
            return self.step(state, actions)[0]
        if what == "other actions":
            return observe(self, state, np.roll(actions, 1, 0), observations)
        return observe(self, state, actions, {name: np.roll(v, 1, 0) for name, v in observations.items()})

    check.observed_frames_are_a_context(small_world())
    monkeypatch.setattr(Engine, "observe", other)
    with pytest.raises(CheckFailed, match="context observed"):
        check.observed_frames_are_a_context(small_world())


def test_an_engine_that_draws_otherwise_when_nobody_looks_is_caught(monkeypatch):
    draw = Stepper.draw

    def unseen(self, slabs, seeds, row, observe=True, guidance=None):
        drawn = draw(self, slabs, seeds, row, observe, guidance)
        return drawn if observe else replace(drawn, z_BNZ=1.001 * drawn.z_BNZ)

    check.looking_changes_no_latent(small_world())
    monkeypatch.setattr(Stepper, "draw", unseen)
    with pytest.raises(CheckFailed, match="without looking"):
        check.looking_changes_no_latent(small_world())


def test_a_world_with_global_chance_is_caught():
    world = small_world()
    sample = world.decoder.sample

    class Chancy(Decoder):
        steps = world.decoder.steps

        def sample(self, predict, noise_BNZ, steps=None):
            return sample(predict, noise_BNZ + 0.1 * torch.rand(()), steps)

        def loss(self, predict, z_BTNZ, progress, generator):
            raise NotImplementedError

    world.decoder = Chancy()
    with pytest.raises(CheckFailed):
        check.seed_and_actions_decide(world)


# exactness


def sessions(world: World, batch: int, length: int, seed: int = 0):
    """Random beginnings and further actions."""
    seen = {
        k: laws.random_observations(s, (batch, CONTEXT_FRAMES), seed).numpy() for k, s in world.spec.modelled.items()
    }
    rows = laws.random_rows(world.spec.action, batch, CONTEXT_FRAMES - 1 + length, seed)
    return seen, rows[:, : CONTEXT_FRAMES - 1], rows[:, CONTEXT_FRAMES - 1 :]


def play(engine: Engine, state: State, rows: np.ndarray) -> dict[str, np.ndarray]:
    _, frame = engine.rollout(state, rows)
    return {**frame.observation, "reward": frame.reward, "terminated": frame.terminated}


@pytest.mark.parametrize("exact", [1, 3, 8, 21])
def test_exact_engines_are_exact_in_every_slot(exact):
    world = laws.shaken(small_world())
    engine = Engine(world, exact=exact)
    seen, before, after = sessions(world, exact, 7)
    together = play(engine, engine.start(seen, before, seeds=5), after)
    for row in {0, exact // 2, exact - 1}:
        one = slice(row, row + 1)
        alone = engine.start({k: v[one] for k, v in seen.items()}, before[one], seeds=5 + row)
        for name, value in play(engine, alone, after[one]).items():
            np.testing.assert_array_equal(value, together[name][one], err_msg=name)


def test_exact_forks_equal_sessions_that_were_never_forked():
    world = laws.shaken(small_world())
    engine = Engine(world, exact=8)
    seen, before, after = sessions(world, 2, 9)
    whole = play(engine, engine.start(seen, before), after)
    state, _ = engine.rollout(engine.start(seen, before), after[:, :4])
    forked, _ = engine.rollout(state.fork(4), after[:, 4:6].repeat(4, 0))
    for name, value in play(engine, forked, after[:, 6:].repeat(4, 0)).items():
        np.testing.assert_array_equal(value, whole[name][:, 6:].repeat(4, 0), err_msg=name)


def test_an_exact_engine_refuses_a_larger_batch_and_leaves_the_state():
    world = laws.shaken(small_world())
    seen, before, after = sessions(world, 3, 1)
    state = Engine(world).start(seen, before)
    with pytest.raises(ConfigError, match="3 sessions do not fit"):
        Engine(world, exact=2).step(state, after[:, 0])
    with pytest.raises(ConfigError, match="3 sessions do not fit"):
        Engine(world, exact=2).start(seen, before)
    assert not state.spent


# states are values


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(laws.shaken(small_world()))


def begin(engine: Engine, batch: int = 2) -> State:
    seen, before, _ = sessions(engine.world, batch, 1)
    return engine.start(seen, before)


def test_a_spent_state_says_to_fork(engine):
    state = begin(engine)
    row = np.zeros((2, 3))
    after, _ = engine.step(state, row)
    assert (state.spent, after.spent) == (True, False)
    for use in (lambda: engine.step(state, row), lambda: state.fork(), lambda: state.nbytes, lambda: state.time):
        with pytest.raises(StateSpent, match="fork"):
            use()


def test_a_failing_step_leaves_the_state_bit_identical(engine, monkeypatch):
    state, row = begin(engine), np.full((2, 3), 0.5)
    kept = [t.clone() for t in state.slabs.tensors()]

    def failing(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine.world.dynamics, "predict", failing)
        with pytest.raises(MemoryError):
            engine.step(state, row)
    for bad in (np.zeros((2, 2)), np.zeros((3, 3)), np.full((2, 3), np.nan), np.full((2, 3), np.inf)):
        with pytest.raises(ActionError):
            engine.step(state, bad)
    assert all(torch.equal(a, b) for a, b in zip(kept, state.slabs.tensors(), strict=True))
    engine.step(state, row)


@pytest.mark.parametrize(
    "rows", [np.zeros((2, 0, 3)), np.zeros((2, 3)), np.zeros((1, 4, 3)), np.full((2, 4, 3), np.nan)]
)
def test_rollout_refuses_what_does_not_fit_and_consumes_nothing(engine, rows):
    state = begin(engine)
    with pytest.raises(ActionError):
        engine.rollout(state, rows)
    assert not state.spent


def test_select_merge_and_reseed(engine):
    seen, before, after = sessions(engine.world, 3, 4)
    state = engine.start(seen, before, seeds=[4, 9, 11])
    whole = play(engine, state.fork(1), after)
    picked = state.select([2, 0, 2])
    assert picked.seeds.tolist() == [11, 4, 11]
    for name, value in play(engine, picked, after[[2, 0, 2]]).items():
        np.testing.assert_allclose(value.astype(float), whole[name][[2, 0, 2]].astype(float), atol=1.001, err_msg=name)
        np.testing.assert_array_equal(value[0], value[2])
    both = State.merge([state, state.select([1])])
    assert both.seeds.tolist() == [4, 9, 11, 9]
    assert not state.spent
    other = state.fork(1).reseed([1, 2, 3])
    assert not np.array_equal(play(engine, other, after)["state"], whole["state"])
    for wrong in (lambda: state.select([]), lambda: state.select([3]), lambda: state.fork(0), lambda: State.merge([])):
        with pytest.raises(StateError):
            wrong()
    with pytest.raises(StateError):
        state.reseed([1])


def test_selecting_from_branches(engine):
    seen, before, after = sessions(engine.world, 2, 8)
    whole = play(engine, engine.start(seen, before), after)
    state, _ = engine.rollout(engine.start(seen, before), after[:, :2])
    branches, _ = engine.rollout(state.fork(2), after[:, 2:5].repeat(2, 0))
    for index in ([3, 0], [1, 1, 2]):
        rows = [i // 2 for i in index]
        for name, value in play(engine, branches.select(index), after[rows, 5:]).items():
            np.testing.assert_allclose(value.astype(float), whole[name][rows, 5:].astype(float), atol=1.001)
    lone, _ = engine.rollout(state.select([1]).fork(4), after[[1] * 4, 2:3])
    for name, value in play(engine, lone.select([3, 2]), after[[1, 1], 3:]).items():
        np.testing.assert_allclose(value.astype(float), whole[name][[1, 1], 3:].astype(float), atol=1.001)


def test_forks_share_their_past(engine):
    state = begin(engine, 1)
    apart, many = state.select([0] * 64), state.fork(64)
    assert many.nbytes < 0.2 * apart.nbytes
    shared = {t.data_ptr() for s in state.slabs.segments for t in s.tensors.values()}
    assert shared == {t.data_ptr() for s in many.slabs.segments for t in s.tensors.values()}


def test_states_of_other_worlds_are_refused(engine, tmp_path):
    world = laws.shaken(small_world())
    next(world.parameters()).data.add_(0.5)
    other = Engine(world)
    state = begin(engine)
    with pytest.raises(StateError, match="another world"):
        other.step(state, np.zeros((2, 3)))
    with pytest.raises(StateError, match="another world"):
        other.load_state(state.save(tmp_path / "s"))
    with pytest.raises(StateError):
        State.merge([state, begin(other)])
    with pytest.raises(StateError, match="float32"):
        Engine(engine.world, dtype=torch.float64).load_state(state.save(tmp_path / "s"))


def test_seeds_and_observations_are_checked(engine):
    seen, before, _ = sessions(engine.world, 2, 1)
    assert engine.start(seen, before, np.int64(3)).seeds.tolist() == [3, 4]
    with pytest.raises(SpecError, match="seeds"):
        engine.start(seen, before, [1, 2, 3])
    with pytest.raises(SpecError, match="pixels"):
        engine.start({"state": seen["state"]}, before)
    with pytest.raises(SpecError, match="uint8"):
        engine.start(seen | {"pixels": seen["pixels"].astype(np.float32)}, before)
    with pytest.raises(SpecError, match="shape"):
        engine.start(seen | {"state": seen["state"][..., :3]}, before)
    with pytest.raises(SpecError, match="batch and time"):
        engine.start(seen | {"state": seen["state"][:, :2]}, before)
    with pytest.raises(ActionError):
        engine.start(seen, before[..., :2])
    with pytest.raises(ActionError):
        engine.start(seen)
    for steps in (0, 3, 64):
        with pytest.raises(ConfigError):
            Engine(engine.world, steps=steps)
    with pytest.raises(ConfigError):
        Engine(engine.world, exact=0)


def test_one_frame_is_enough_to_begin(engine):
    seen, _, _ = sessions(engine.world, 2, 1)
    state = engine.start({k: v[:, :1] for k, v in seen.items()})
    assert state.time.tolist() == [1, 1]
    state, frame = engine.step(state, np.zeros((2, 3)))
    assert frame.observation["pixels"].shape == (2, 32, 32, 3)
    assert frame.ended.shape == (2,)


def test_bfloat16_stays_near_float32():
    world = laws.shaken(small_world())
    seen, before, after = sessions(world, BATCH, 3)
    full, half = (Engine(world, dtype=t) for t in (torch.float32, torch.bfloat16))
    a, b = (play(e, e.start(seen, before), after) for e in (full, half))
    assert np.abs(a["pixels"].astype(int) - b["pixels"].astype(int)).mean() < 2
    assert np.abs(a["state"] - b["state"]).mean() < 0.02 * np.abs(a["state"]).mean() + 0.02


# reading files executes nothing


class Bomb:
    """A pickle of this makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    mark = tmp_path / "executed"
    yield pickle.dumps(Bomb(mark))
    assert not mark.exists(), "a file was executed"


def test_the_bomb_goes_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "starts.safetensors", "world.json"])
def test_a_world_with_a_pickle_inside_is_refused(tmp_path, bomb, name):
    path = small_world().save(tmp_path / "world")
    (path / name).write_bytes(bomb)
    with pytest.raises(WorldError, match="world"):
        World.load(path)


def test_a_pickle_as_state_is_refused(tmp_path, bomb, engine):
    (tmp_path / "state").write_bytes(bomb)
    with pytest.raises(StateError):
        engine.load_state(tmp_path / "state")
    with pytest.raises(StateError):
        engine.load_state(tmp_path / "nowhere")


@pytest.mark.parametrize("tamper", ["time", "frames/0", "segment/0/keys", "recurrent/previous", "seeds"])
def test_a_state_whose_tensors_do_not_fit_is_refused(tmp_path, engine, tamper):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = begin(engine).save(tmp_path / "state")
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    engine.load_state(path)
    for other in (tensors[tamper][:1].clone(), None):
        changed = {k: v for k, v in tensors.items() if k != tamper} | ({} if other is None else {tamper: other})
        save_file(changed, path, about)
        with pytest.raises(StateError):
            engine.load_state(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StateError):
        engine.load_state(path)


def test_a_dataset_with_a_pickle_inside_is_refused(tmp_path, bomb):
    spec = WorldSpec({"state": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=2))
    for n in range(4):
        with Dataset.create(tmp_path / "data", spec) as writer:
            frames = {"state": np.full((4, 2), n, np.float32)}
            flags = np.zeros(3, bool)
            writer.add(Episode(frames, np.ones((3, 1)), np.zeros(3, np.float32), flags, flags, states={0: b"x" * 9}))
    files = [p for p in (tmp_path / "data").iterdir() if p.is_file() and p.stat().st_size]
    assert len(files) >= 3
    hit = 0
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(bomb)
        try:
            list(Dataset(tmp_path / "data"))
        except DatasetError:
            hit += 1
        path.write_bytes(whole)
    assert hit >= 3
    assert len(list(Dataset(tmp_path / "data"))) == 4


def test_npz_with_objects_is_refused(tmp_path, bomb):
    del bomb
    np.savez(tmp_path / "0.npz", pixels=np.array([Bomb(tmp_path / "executed")] * 3, object), actions=np.zeros((2, 1)))
    with pytest.raises(DatasetError):
        import_npz(tmp_path, tmp_path / "out")


def test_damaged_worlds_are_refused(tmp_path):
    path = small_world().save(tmp_path / "world")
    whole = (path / "world.json").read_text()
    for text in ("", "[]", "{}", whole.replace('"format": 1', '"format": 99'), whole[: len(whole) // 2]):
        (path / "world.json").write_text(text)
        with pytest.raises(WorldError):
            World.load(path)
    (path / "world.json").write_text(whole.replace('"sinks": 1', '"sincs": 1'))
    with pytest.raises(ConfigError, match="sinks"):
        World.load(path)
    (path / "world.json").write_text(whole)
    World.load(path)
    (path / "weights.safetensors").unlink()
    with pytest.raises(WorldError):
        World.load(path)


# worlds are put together with care


def test_a_stream_may_have_any_name():
    streams = {name: StreamSpec("vector", (3,)) for name in ("values", "type", "training", "a.b", "items")}
    spec = WorldSpec(streams, ActionSpec("discrete", n=2))
    world = World(spec, WorldConfig(Part("transformer", SMALL["transformer"][0]), Part("shortcut")))
    seen = {k: torch.randn(2, 3) for k in streams}
    assert list(world.decode(world.encode(seen))) == list(streams)


def test_a_tokenizer_for_another_kind_of_stream_is_refused():
    with pytest.raises(ConfigError, match="takes vector"):
        example_world(Part("transformer"), Part("shortcut"), {"pixels": Part("vector")})
    with pytest.raises(ConfigError, match="same `channels`"):
        example_world(Part("transformer"), Part("shortcut"), {"pixels": Part("conv", {"channels": 3})})
    with pytest.raises(UnknownName, match="pixels"):
        example_world(Part("transformer"), Part("shortcut"), {"pixel": Part("conv")})
    spec = WorldSpec({"words": StreamSpec("text")}, ActionSpec("discrete", n=2))
    with pytest.raises(SpecError, match="nothing to model"):
        World(spec, WorldConfig(Part("transformer"), Part("shortcut")))


def test_half_weights_load_as_float32(tmp_path):
    world = laws.shaken(small_world())
    loaded = World.load(world.save(tmp_path / "half", half=True))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    gap = max(float((a - b).abs().max()) for a, b in zip(world.parameters(), loaded.parameters(), strict=True))
    assert 0 < gap < 1e-2
    assert Shortcut(ShortcutConfig()).steps == world.decoder.steps == loaded.decoder.steps
