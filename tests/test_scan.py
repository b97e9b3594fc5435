"""The selective scan: whole clips against one frame at a time."""

import math

import pytest
import torch

from terrella.nn.scan import Scan, advance, read


def draw(steps, scale=1.0, heads=3, dtype=torch.float64, seed=0):
    """Keys and queries shared by heads, values and log decays of their own: batch 2, R 4, P 5."""
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 2, 1, steps, 4, generator=g, dtype=torch.float64)
    v = torch.randn(2, heads, steps, 5, generator=g, dtype=torch.float64)
    a = -scale * torch.rand(2, heads, steps, generator=g, dtype=torch.float64) ** 2
    return [x.to(dtype) for x in (q, k, v, a)]


def loop(q, k, v, a):
    """The recurrence, as it is written."""
    state = torch.zeros(*v.shape[:-2], k.shape[-1], v.shape[-1], dtype=v.dtype)
    said = []
    for t in range(v.shape[-2]):
        said.append(read(state, q[..., t, :]))
        state = advance(state, k[..., t, :], v[..., t, :], a[..., t])
    return torch.stack(said, -2)


@pytest.mark.parametrize("chunk", [1, 4, 7, 32])
@pytest.mark.parametrize("steps", [1, 2, 7, 8, 33])
def test_a_scan_is_the_recurrence(steps, chunk):
    q, k, v, a = draw(steps)
    received = Scan(k, v, a, chunk).read(q)
    assert received.shape == (2, 3, steps, 5)
    torch.testing.assert_close(received, loop(q, k, v, a), rtol=0, atol=1e-12)


def test_reads_are_as_many_as_one_likes():
    q, k, v, a = draw(9)
    scan = Scan(k, v, a, 4)
    torch.testing.assert_close(scan.read(2 * q), 2 * scan.read(q))
    torch.testing.assert_close(scan.read(q), loop(q, k, v, a))


def test_a_constant_gate_gives_a_geometric_series():
    steps, decay = 50, 0.9
    one = torch.ones(1, steps, 1, dtype=torch.float64)
    a = torch.full((1, steps), math.log(decay), dtype=torch.float64)
    expected = (1 - decay ** torch.arange(steps, dtype=torch.float64)) / (1 - decay)
    torch.testing.assert_close(Scan(one, one, a, 8).read(one)[0, :, 0], expected)


@pytest.mark.parametrize("chunk", [2, 8])
def test_gradients_are_those_of_the_recurrence(chunk):
    q, k, v, a = tensors = [x.requires_grad_() for x in draw(5, heads=2)]
    assert torch.autograd.gradcheck(lambda q, k, v, a: Scan(k, v, a, chunk).read(q), tensors)
    weight = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    mine = torch.autograd.grad((Scan(k, v, a, chunk).read(q) * weight).sum(), tensors)
    theirs = torch.autograd.grad((loop(q, k, v, a) * weight).sum(), tensors)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e4])
def test_long_clips_of_any_gate_stay_exact_in_float32(scale):
    exact = draw(3000, scale)
    q, k, v, a = tensors = [x.float().requires_grad_() for x in exact]
    received, expected = Scan(k, v, a).read(q), loop(*exact)
    assert float((received - expected).detach().abs().max() / expected.abs().max()) < 1e-5
    gradients = torch.autograd.grad(received.square().mean(), tensors)
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_a_gate_that_shut_long_ago_costs_no_precision():
    q, k, v, a = draw(30, 0.01)
    a[..., 3] = -1e7  # a difference of running sums would leave nothing of the gates that follow
    received = Scan(k.float(), v.float(), a.float()).read(q.float())
    assert float((received - loop(q, k, v, a)).abs().max()) < 1e-5


def test_autocast_does_not_reach_the_states():
    q, k, v, a = draw(40, 0.01, dtype=torch.float32)
    expected = Scan(k, v, a, 16).read(q)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Scan(k, v, a, 16).read(q), expected)
