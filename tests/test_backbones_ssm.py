"""The state-space backbone: what its memory reads, and that it learns."""

import pytest
import torch

from terrella.decoders import Regression, RegressionConfig
from terrella.dynamics import SSM, SSMConfig
from terrella.errors import ConfigError
from terrella.nn.latents import TokenSpec
from terrella.nn.track import _Clip, _Memory, _Moment
from terrella.spec import ActionSpec

TOKENS = TokenSpec(16, 4, tuple((float(r), float(c)) for r in range(4) for c in range(4)))


def test_what_is_read_does_not_depend_on_age():
    memory = _Memory(16, 4, 3).double()
    x, q = torch.randn(2, 1, 5, 16, dtype=torch.float64), torch.randn(2, 1, 5, 1, 3, dtype=torch.float64)
    written = memory.write(x.expand(2, 900, 5, 16))  # a world that stands still
    said = _Clip(*written).read(q.expand(2, 900, 5, 1, 3))
    k, v, gain = memory.write(x)[0], memory.tell(memory.norm(x))[..., 3:], -torch.expm1(memory.write(x)[2])
    torch.testing.assert_close(written[1][:, :1], v.unflatten(-1, (4, 4)) * gain[..., None])
    expected = (q * k).sum(-1, keepdim=True) * v.unflatten(-1, (4, 4))
    assert not said[:, 0].any()
    torch.testing.assert_close(said[:, 1:], expected.expand(2, 899, 5, 4, 4))


def test_a_fresh_layer_forgets_at_many_paces():
    memory = _Memory(16, 4, 3)
    with torch.no_grad():
        memory.step.weight.zero_()
        decay = memory.write(torch.randn(5, 16)).log_decay.exp()
    torch.testing.assert_close(decay[0], torch.exp(-1 / torch.tensor([1.0, 256 ** (1 / 3), 256 ** (2 / 3), 256.0])))


def test_a_frame_that_writes_nothing_leaves_the_memory():
    memory = _Memory(16, 4, 3)
    states, mass = torch.randn(2, 5, 4, 3, 4), torch.rand(2, 5, 4)
    k, v, log_decay = memory.write(torch.randn(2, 5, 16))
    kept = _Moment(states, mass).after(k, 0 * v, 0 * log_decay)
    assert torch.equal(kept.states, states)
    assert torch.equal(kept.mass, mass)
    replaced = _Moment(states, mass).after(k, v, log_decay - torch.inf)
    torch.testing.assert_close(replaced.states, k[..., :, None] * v[..., None, :])
    assert bool((replaced.mass == 1).all())


def dots(batch, steps, source):
    """A dot on a torus of 8x8 pixels, seen as 16 tokens of 2x2, moved by the action that leads to each frame."""
    action = torch.randint(4, (batch, steps), generator=source)
    moves = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[action]
    moves[:, 0] = torch.randint(8, (batch, 2), generator=source)
    row, column = (moves.cumsum(1) % 8).unbind(-1)
    picture = torch.zeros(batch, steps, 8, 8)
    picture[torch.arange(batch)[:, None], torch.arange(steps), row, column] = 4.0
    z = picture.unflatten(2, (4, 2)).unflatten(4, (4, 2)).transpose(3, 4).reshape(batch, steps, 16, 4)
    rows = action[..., None].float()
    rows[:, 0] = torch.nan
    return z, rows


def test_it_learns_how_a_dot_moves():
    torch.manual_seed(0)
    source, decoder = torch.Generator().manual_seed(0), Regression(RegressionConfig())
    model = SSM(SSMConfig(dim=64, layers=1, heads=2, scan_heads=4, state=8), TOKENS, ActionSpec("discrete", n=4))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        z, rows = dots(16, 5, source)
        _, predict = model.parallel(z, rows, torch.ones(16, 5))
        loss = decoder.loss(predict, z, 0.0, source)[:, 1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    copy_last = 2 * 16 / 64  # the dot is missed where it is, and drawn where it was
    assert sum(losses[-10:]) / 10 < 0.1 * copy_last


@pytest.mark.parametrize(
    ("wrong", "named"), [({"dim": 30}, "heads"), ({"scan_heads": 5}, "scan_heads"), ({"state": 0}, "state")]
)
def test_sizes_that_cannot_be_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=named):
        SSMConfig(**wrong)
