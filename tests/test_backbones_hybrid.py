"""The hybrid: its transformer at first, and a memory beyond its window."""

import pytest
import torch

from terrella import laws
from terrella.check import ACTION, TOKENS
from terrella.decoders import Regression, RegressionConfig
from terrella.dynamics import Hybrid, HybridConfig
from terrella.errors import ConfigError
from terrella.nn.latents import Noise, TokenSpec
from terrella.spec import ActionSpec

SMALL = HybridConfig(dim=32, layers=2, heads=1, window=2, scan_heads=4, state=8)


def test_it_begins_as_its_transformer():
    model = Hybrid(SMALL, TOKENS, ACTION)
    model.transformer = laws.shaken(model.transformer)
    clip = laws._clip(model, 7, torch.float32)
    with torch.no_grad():
        expected = laws._parallel(model.transformer, clip)
        assert torch.equal(laws._parallel(model, clip), expected)
        model.recall[1].weight.normal_()
        assert not torch.allclose(laws._parallel(model, clip), expected)


def test_the_track_is_asked_once_a_frame():
    model, asked = laws.shaken(Hybrid(SMALL, TOKENS, ACTION)), []
    model.track.enter.register_forward_hook(lambda *_: asked.append(1))
    clip = laws._clip(model, 2, torch.float32)
    slabs, seen = model.init(laws.BATCH), []
    for t in range(2):
        row = clip.action[:, t]
        for _ in range(4):
            model.predict(slabs, row, clip.noisy[:, t], clip.noise(t))
        slabs, _ = model.commit(slabs, row, clip.z[:, t], clip.level[:, t])
        seen.append(len(asked))
    assert seen == [2, 4]  # one read and one commit each
    _, predict = model.parallel(clip.z, clip.action, clip.level)
    for _ in range(4):
        predict(clip.noisy, Noise(clip.tau, clip.d))
    assert len(asked) == 6


def test_it_remembers_what_left_the_window():
    """A picture is shown, hidden for longer than the window, and shown again when the action says so."""
    torch.manual_seed(0)
    source, decoder, steps = torch.Generator().manual_seed(0), Regression(RegressionConfig()), 9
    tokens = TokenSpec(4, 4, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)))
    model = Hybrid(SMALL, tokens, ActionSpec("discrete", n=2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    shown = torch.zeros(16, steps)
    shown[:, ::4] = 1.0  # a window of two frames, each of which knows the one before it, reaches three back
    rows = shown[..., None].clone()
    rows[:, 0] = torch.nan
    losses = []
    for _ in range(70):
        z = torch.randn(16, 1, 4, 4, generator=source).sign() * shown[..., None, None]
        _, predict = model.parallel(z, rows, torch.ones(16, steps))
        loss = decoder.loss(predict, z, 0.0, source)
        optimizer.zero_grad()
        loss[:, 1:].mean().backward()
        optimizer.step()
        losses.append(float(loss[:, 4::4].mean().detach()))
    assert sum(losses[-10:]) / 10 < 0.1  # 1 for a model that forgot


@pytest.mark.parametrize(
    ("wrong", "named"), [({"window": 0}, "window"), ({"scan_heads": 5}, "scan_heads"), ({"track_layers": 0}, "track")]
)
def test_sizes_that_cannot_be_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=named):
        HybridConfig(**wrong)
