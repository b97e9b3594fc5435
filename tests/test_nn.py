"""Layers, keyed noise, the memory of sessions, and the arithmetic of the shortcut decoder."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from terrella.decoders import Regression, RegressionConfig, Shortcut, ShortcutConfig
from terrella.errors import ConfigError, StateError
from terrella.nn.actions import ActionEmbedding
from terrella.nn.attention import attend
from terrella.nn.conv import Conv3x3
from terrella.nn.latents import Noise
from terrella.nn.layers import EPSILON, LevelEmbedding, RMSNorm, SwiGLU, modulate, rms
from terrella.nn.noise import CONTEXT, SAMPLE, chance, keyed_normal
from terrella.nn.rotary import rotate, rotation
from terrella.nn.slabs import Slabs, SlabSpec, StateSpec
from terrella.spec import ActionSpec

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# layers


@pytest.mark.parametrize("scales", [(8,), (2, 1, 8)])
def test_the_derivative_by_hand_is_that_of_the_norm(scales):
    """Against finite differences, and against what is derived step by step."""
    x = torch.randn(3, 2, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(scales, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms, (x, weight))
    grad = torch.randn_like(x)
    by_hand = torch.autograd.grad(rms(x, weight), (x, weight), grad)
    derived = torch.autograd.grad(F.rms_norm(x, (8,), None, EPSILON) * weight, (x, weight), grad)
    torch.testing.assert_close(by_hand, derived)
    torch.testing.assert_close(rms(x, weight), rms(x.detach(), weight.detach()))


def test_rms_norm_has_unit_mean_square():
    x = RMSNorm(16)(5 * draw(3, 16).float())
    torch.testing.assert_close(x.square().mean(-1), torch.ones(3), rtol=1e-4, atol=1e-4)
    assert RMSNorm(16)(draw(3, 16).bfloat16()).dtype == torch.bfloat16


def test_swiglu_is_its_formula():
    layer = SwiGLU(6, 10).double()
    x = draw(4, 6)
    a, b = (x @ layer.enter.weight.T).split(10, -1)
    torch.testing.assert_close(layer(x), (a / (1 + (-a).exp()) * b) @ layer.leave.weight.T)


def test_modulation_with_zeros_is_the_identity():
    x = draw(2, 3)
    assert torch.equal(modulate(x, torch.zeros(3), torch.ones(3)), x)


def test_levels_are_told_apart_in_every_precision():
    torch.manual_seed(0)
    embed = LevelEmbedding(64)
    levels = torch.arange(129) / 128
    for module, limit in ((embed, 1e-6), (copy.deepcopy(embed).bfloat16(), 0.02)):
        out = module(levels).float()
        gaps = torch.cdist(out, out) + torch.eye(129) * 9
        assert gaps.min() > 0.1
        assert (out - embed(levels)).abs().max() < limit
    assert copy.deepcopy(embed).double()(levels.double()).dtype == F64


def test_attention_is_softmax_attention():
    q, k, v = (draw(2, 3, 5, 8, seed=s) for s in range(3))
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(("axes", "channels"), [(1, 8), (2, 16), (2, 6), (3, 8)])
def test_rotations_depend_on_distance_alone(axes, channels):
    q, k = draw(channels), draw(channels, seed=1)

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return rotate(q, rotation(a, channels, 50.0)) @ rotate(k, rotation(b, channels, 50.0))

    a, b, shift = (draw(axes, seed=s) * 20 for s in (2, 3, 4))
    torch.testing.assert_close(score(a, b), score(a + shift, b + shift))
    assert abs(score(a, b) - score(a, b + 1)) > 1e-3
    torch.testing.assert_close(rotate(q, rotation(a, channels, 50.0)).norm(), q.norm())


def test_rotations_of_distances_in_range_differ():
    turn = rotation(torch.arange(64, dtype=F64)[:, None], 16, 64.0)
    x = rotate(torch.ones(64, 16, dtype=F64), turn)
    assert (torch.cdist(x, x) + 9 * torch.eye(64)).min() > 0.1


# actions


SPACES = {
    "discrete": (ActionSpec("discrete", n=4, start=-1), [[-1], [0], [2]]),
    "box": (ActionSpec("box", shape=(2,), low=(-1.0, 0.0), high=(1.0, math.inf)), [[0, 0], [1, 5], [-1, 0.5]]),
    "multi_discrete": (ActionSpec("multi_discrete", shape=(2,), nvec=(3, 2)), [[0, 0], [2, 1], [0, 1]]),
    "multi_binary": (ActionSpec("multi_binary", shape=(3,)), [[0, 0, 0], [1, 0, 1], [0, 0, 1]]),
    "text": (ActionSpec("text", n=8), [[104, 105] + [-1] * 6, [105, 104] + [-1] * 6, [-1] * 8]),
    "dict": (
        ActionSpec(
            "dict",
            keys=("go", "turn"),
            children=(ActionSpec("discrete", n=3), ActionSpec("box", shape=(1,), low=(-2.0,), high=(2.0,))),
        ),
        [[0, 0.0], [1, 0.0], [0, 1.5]],
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_each_action_has_its_own_embedding(name):
    spec, rows = SPACES[name]
    torch.manual_seed(0)
    embed = ActionEmbedding(spec, 32)
    none = [math.nan] * len(rows[0])
    out = embed(torch.tensor([[none, *rows], [*rows, none]]))
    assert out.shape == (2, 4, 32)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0, 0], embed.none)
    torch.testing.assert_close(out[0, 1:], out[1, :3])
    assert (torch.cdist(out[0], out[0]) + 9 * torch.eye(4)).min() > 0.01
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in embed.parameters())


def test_choices_out_of_range_are_clamped():
    embed = ActionEmbedding(ActionSpec("discrete", n=3), 8)
    out = embed(torch.tensor([[-5.0], [0.0], [2.0], [99.0]]))
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[2], out[3])


# keyed noise


def keys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_noise_is_standard_normal():
    x = keyed_normal(torch.arange(64), torch.arange(64), SAMPLE, 8192).double()
    n = x.numel()
    assert abs(x.mean()) < 5 / n**0.5
    assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    ordered = x.flatten().sort().values
    expected = torch.special.ndtr(ordered)
    ks = (expected - (torch.arange(n, dtype=F64) + 0.5) / n).abs().max()
    assert ks < 1.9 / n**0.5, "Kolmogorov-Smirnov, p about 0.001"
    half = x[:, :4096] * x[:, 4096:]  # sine and cosine of one pair
    assert abs(half.mean()) < 5 / half.numel() ** 0.5
    assert abs((half**2).mean() - 1) < 5 * (8 / half.numel()) ** 0.5
    assert (x[:, 1:] * x[:, :-1]).mean().abs() < 5 / n**0.5


def test_noise_of_different_keys_is_unrelated():
    pairs = [(s, t, p) for s in (0, 1, 2**40, -1) for t in (0, 1, 2, 10**6) for p in (SAMPLE, CONTEXT)]
    x = torch.cat([keyed_normal(keys(s), keys(t), p, 4096) for s, t, p in pairs]).double()
    correlation = x @ x.T / 4096 - torch.eye(len(pairs), dtype=F64)
    assert correlation.fill_diagonal_(0).abs().max() < 6 / 4096**0.5
    # swapping seed and frame is another key, not the same one
    assert not torch.equal(keyed_normal(keys(3), keys(5), SAMPLE, 8), keyed_normal(keys(5), keys(3), SAMPLE, 8))


@pytest.mark.parametrize("count", [1, 7, 64, 768])
def test_noise_does_not_know_its_slot(count):
    seeds, frames = torch.arange(37) * 10**15 - 7, torch.arange(37) * 3
    many = keyed_normal(seeds, frames, SAMPLE, count)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(many[order], keyed_normal(seeds[order], frames[order], SAMPLE, count))
    for row in (0, 5, 36):
        assert torch.equal(many[row], keyed_normal(seeds[row : row + 1], frames[row : row + 1], SAMPLE, count)[0])


def test_noise_stays_as_it_was_published():
    """Replays and saved states rely on these numbers: a change here is a change of format."""
    x = keyed_normal(keys(0, 12345), keys(0, 678), SAMPLE, 3)
    expected = [[-1.8732188, 0.6428307, 0.5502141], [0.8601671, 1.9288173, -0.8073319]]
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)


def test_chance_follows_its_generator():
    a, b = (torch.Generator().manual_seed(3) for _ in range(2))
    drawn = [chance(a) for _ in range(200)]
    assert drawn == [chance(b) for _ in range(200)]
    assert 0.4 < np.mean(drawn) < 0.6


# the memory of sessions, against plain lists


def memory(window: int, sinks: int) -> StateSpec:
    framed = SlabSpec((2, window + sinks, 3), frame_axis=1)
    return StateSpec({"seen": framed, "last": SlabSpec((2,))}, window, sinks)


def readable(slabs: Slabs) -> list[dict[int, float]]:
    """Frame -> value of every frame that each session may read; complains about a frame that is there twice."""
    out: list[dict[int, float]] = [{} for _ in range(slabs.batch)]
    for segment in slabs.segments:
        values = segment.tensors["seen"].repeat_interleave(segment.repeat, 0)
        frames = segment.frames.repeat_interleave(segment.repeat, 0)
        for session, place in slabs.visible(segment).nonzero().tolist():
            frame = int(frames[session, place])
            assert frame not in out[session]
            assert bool((values[session, :, place] == values[session, 0, place, 0]).all())
            out[session][frame] = float(values[session, 0, place, 0])
    return out


def expected(history: list[float], spec: StateSpec) -> dict[int, float]:
    now = len(history)
    return {t: v for t, v in enumerate(history) if t < spec.sinks or now - t <= spec.window}


def write(slabs: Slabs, histories: list[list[float]], value: float) -> tuple[Slabs, list[list[float]]]:
    values = [float(value + i) for i in range(slabs.batch)]
    seen = torch.tensor(values)[:, None, None].expand(-1, 2, 3)
    slabs = slabs.append({"seen": seen}, {"last": seen[:, :, 0]})
    return slabs, [[*h, v] for h, v in zip(histories, values, strict=True)]


operation = st.tuples(
    st.sampled_from(["write", "write", "write", "fork", "select", "merge"]), st.integers(0, 9), st.integers(1, 3)
)


@given(window=st.integers(1, 5), sinks=st.integers(0, 2), program=st.lists(operation, min_size=5, max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
def test_memories_equal_plain_lists(window, sinks, program):
    """Any order of writing, forking, selecting and merging, on several memories that share their pasts."""
    spec = memory(window, sinks)
    alive = [(Slabs.empty(spec, 2, "cpu", torch.float32), [[], []])]
    for number, (what, which, n) in enumerate(program):
        which %= len(alive)
        slabs, histories = alive[which]
        if what == "write":
            alive[which] = write(slabs, histories, 100.0 * (number + 1))
        elif what == "fork" and slabs.batch * n <= 12:
            alive.append((slabs.fork(n), [h for h in histories for _ in range(n)]))
        elif what == "select":
            index = [(which + i * n) % slabs.batch for i in range(n)]
            alive.append((slabs.select(torch.tensor(index)), [histories[i] for i in index]))
        elif what == "merge" and slabs.batch + alive[0][0].batch <= 12:
            both = [slabs, alive[0][0]]
            alive.append((Slabs.merge(both), [*histories, *alive[0][1]]))
        for slabs, histories in alive:
            assert readable(slabs) == [expected(h, spec) for h in histories]
            assert slabs.time.tolist() == [len(h) for h in histories]
            assert slabs.recurrent["last"][:, 0].tolist() == [h[-1] if h else 0.0 for h in histories]
        alive = alive[-5:]


@pytest.mark.parametrize(("window", "sinks"), [(6, 1), (32, 1), (1, 0)])
def test_bytes_do_not_grow(window, sinks):
    spec = memory(window, sinks)
    slabs, histories = write(Slabs.empty(spec, 2, "cpu", torch.float32), [[], []], 0.0)
    early = slabs.nbytes
    assert early == 2 * (spec.nbytes() + 8 * (spec.capacity + 2))  # frame numbers, start and time beside the slabs
    branch, peak = slabs.fork(1), 0
    for t in range(4 * spec.capacity):
        slabs, histories = write(slabs, histories, t)
        branch, _ = write(branch, [[], []], t)
        peak = max(peak, branch.nbytes)
    assert slabs.nbytes == branch.nbytes == early
    assert peak <= 2.5 * early
    chain = 0
    for t in range(4 * spec.capacity):  # a rewind point at every frame
        kept = slabs.fork(1)
        slabs, histories = write(slabs, histories, t)
        chain = max(chain, slabs.nbytes, len(slabs.segments))
        del kept
    assert chain <= 2.5 * early
    assert readable(slabs) == [expected(h, spec) for h in histories]


def test_branches_cost_little_until_they_have_a_past_of_their_own():
    spec = memory(32, 1)
    slabs, histories = Slabs.empty(spec, 1, "cpu", torch.float32), [[]]
    for t in range(40):
        slabs, histories = write(slabs, histories, t)
    whole = slabs.nbytes
    many = slabs.fork(64)
    assert many.nbytes < 2.5 * whole
    many, _ = write(many, [[]] * 64, 0.0)
    assert many.nbytes < 0.15 * 64 * whole


def test_memories_of_different_shape_do_not_merge():
    a, b = (Slabs.empty(memory(w, 0), 1, "cpu", torch.float32) for w in (2, 3))
    with pytest.raises(StateError, match="same engine"):
        Slabs.merge([a, b])


# the shortcut decoder


@pytest.mark.parametrize("finest", [1, 2, 8, 128])
def test_a_perfect_prediction_is_sampled_exactly_in_any_number_of_steps(finest):
    decoder, z = Shortcut(ShortcutConfig(finest=finest, steps=1)), draw(2, 5, 3)
    for steps in (2**i for i in range(int(math.log2(finest)) + 1)):
        torch.testing.assert_close(decoder.sample(lambda n, level: z, draw(2, 5, 3, seed=1), steps), z)
    for steps in (0, 3, -2, 2 * finest):
        with pytest.raises(ConfigError):
            decoder.sample(lambda n, level: z, z, steps)


def test_the_sampler_follows_its_levels_and_lands_on_the_last_prediction():
    seen: list[tuple[float, float]] = []
    last = []

    def predict(noisy, level):
        seen.append((float(level.tau[0]), float(level.d[0])))
        last.append(torch.tanh(noisy + len(seen)))
        return last[-1]

    noise = draw(2, 5, 3)
    out = Shortcut(ShortcutConfig()).sample(predict, noise, 4)
    assert seen == [(0.0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.75, 0.25)]
    torch.testing.assert_close(out, last[-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(noise, draw(2, 5, 3))


def test_two_steps_are_euler_steps():
    noise, a, b = (draw(2, 3, 4, seed=s) for s in range(3))
    shown = []

    def predict(noisy, level):
        shown.append(noisy)
        return a if float(level.tau[0]) == 0 else b

    Shortcut(ShortcutConfig()).sample(predict, noise, 2)
    torch.testing.assert_close(shown[1], noise + 0.5 * (a - noise))  # tau = 1/2: half noise, half the first prediction


def self_case():
    """A non-linear predictor with a weight, noisy clips and admissible levels."""
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def predict(noisy, level):
        return torch.tanh(weight * noisy) + level.tau[..., None, None] * 0.3 + level.d[..., None, None] * 0.2

    d = torch.tensor([[1.0, 0.5, 0.25], [0.5, 0.25, 1.0]], dtype=F64)
    tau = torch.tensor([[0.0, 0.5, 0.75], [0.0, 0.25, 0.0]], dtype=F64)
    return predict, weight, draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1), tau, d


def test_the_two_forms_of_the_self_loss_agree():
    predict, _, z, eps, tau, d = self_case()
    level, step = tau[..., None, None], d[..., None, None]
    noisy = (1 - level) * eps + level * z
    target = Shortcut._bootstrap(predict, noisy, tau, d)
    x = predict(noisy, Noise(tau, d))
    # published form: w(tau) (1 - tau)^2 |(x - z~) / (1 - tau) - (v1 + v2) / 2|^2, with velocities of two half steps
    v1 = (predict(noisy, Noise(tau, d / 2)) - noisy) / (1 - level)
    middle = noisy + step / 2 * v1
    v2 = (predict(middle, Noise(tau + d / 2, d / 2)) - middle) / (1 - level - step / 2)
    published = (1 - level) ** 2 * ((x - noisy) / (1 - level) - (v1 + v2) / 2) ** 2
    torch.testing.assert_close((x - target) ** 2, published)


def test_the_self_target_has_no_gradient_and_is_two_half_steps():
    predict, weight, z, eps, tau, d = self_case()
    level = tau[..., None, None]
    target = Shortcut._bootstrap(predict, (1 - level) * eps + level * z, tau, d)
    assert not target.requires_grad
    # from pure noise with d = 1: the target is what sampling in two steps gives
    noise = draw(1, 4, 5, seed=7)
    zero = torch.zeros(1, dtype=F64)
    wanted = Shortcut(ShortcutConfig()).sample(lambda n, s: predict(n, s).detach(), noise, 2)
    torch.testing.assert_close(Shortcut._bootstrap(predict, noise, zero, zero + 1), wanted)
    assert weight.grad is None


def losses(config: ShortcutConfig, progress: float, seed: int):
    """Levels asked of the predictor in one loss, and the loss."""
    asked: list[Noise] = []
    weight = torch.ones((), requires_grad=True)
    z = draw(64, 9, 2, 3).float()

    def predict(noisy, level):
        asked.append(level)
        return weight * noisy

    loss = Shortcut(config).loss(predict, z, progress, torch.Generator().manual_seed(seed))
    return asked, loss, weight


def test_fine_batches_take_one_pass_on_the_finest_grid():
    asked, loss, _ = losses(ShortcutConfig(finest=8), 0.0, 0)
    assert len(asked) == 1
    assert set(asked[0].d.unique().tolist()) == {0.125}
    assert asked[0].tau.unique().tolist() == [i / 8 for i in range(8)]
    assert loss.shape == (64, 9)


def test_coarse_batches_use_every_coarse_step_and_never_leave_the_grid():
    asked, _, weight = losses(ShortcutConfig(finest=8, coarse=1.0, warm=0.0), 0.5, 1)
    first, second, main = asked
    assert main.d.unique().tolist() == [0.25, 0.5, 1.0]
    for level in asked:
        assert bool((level.tau + level.d <= 1 + 1e-6).all())
        assert bool(((level.tau / level.d) % 1 == 0).all())
    torch.testing.assert_close(first.d, main.d / 2)
    torch.testing.assert_close(second.tau, main.tau + main.d / 2)
    assert weight.grad is None


def test_coarse_batches_come_after_warming_in_their_share():
    config = ShortcutConfig(finest=8, coarse=0.25, warm=0.3)
    assert all(len(losses(config, 0.29, s)[0]) == 1 for s in range(20))
    share = np.mean([len(losses(config, 0.3, s)[0]) == 3 for s in range(200)])
    assert 0.15 < share < 0.35
    assert all(len(losses(ShortcutConfig(finest=1, steps=1, coarse=1.0), 1.0, s)[0]) == 1 for s in range(5))


def test_the_loss_has_the_ramp_weight():
    z = draw(32, 7, 2, 3)
    taus = []

    def predict(noisy, level):
        taus.append(level.tau)
        return z + 2.0

    loss = Shortcut(ShortcutConfig()).loss(predict, z, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, (0.9 * taus[0] + 0.1) * 4.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [{"finest": 3}, {"finest": 0}, {"steps": 16}, {"steps": 3}])
def test_impossible_grids_are_refused(bad):
    with pytest.raises(ConfigError):
        ShortcutConfig(**bad)


def test_regression_is_the_expectation():
    z = draw(2, 4, 3)
    decoder = Regression(RegressionConfig())
    assert torch.equal(decoder.sample(lambda n, level: z, draw(2, 4, 3, seed=1)), z)
    with pytest.raises(ConfigError, match="exactly 1"):
        decoder.sample(lambda n, level: z, z, 2)


@pytest.mark.parametrize("size", [4, 16])
def test_one_small_image_is_convolved_as_in_a_batch(size: int) -> None:
    torch.manual_seed(0)
    conv = Conv3x3(64, 8)
    image = torch.randn(1, 64, size, size, requires_grad=True)
    alone, beside = conv(image), conv(torch.cat([image, image]))[:1]
    assert torch.allclose(alone, beside, atol=1e-5)
    grads = [torch.autograd.grad(x.square().sum(), [image, conv.weight]) for x in (alone, beside)]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(*grads))
