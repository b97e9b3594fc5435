"""History retrieval: which frames are fetched, that worlds with it keep the laws, and that recall is learned."""

import pytest
import torch
from torch.nn import functional as F

from terrella import check
from terrella.dynamics import HybridConfig, Transformer, TransformerConfig
from terrella.errors import ConfigError
from terrella.nn.history import DESCRIPTOR, History
from terrella.nn.latents import TokenSpec
from terrella.spec import ActionSpec
from terrella.world import Part

TOKENS = TokenSpec(4, 4, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)))
SIZES = {"dim": 8, "heads": 1, "layers": 1}


def expected(similarity: list[float], t: int, history: History) -> list[int]:
    """Frames that frame `t` fetches, by the definition: most similar first, and the newest of equals."""
    kept = range(history.sinks, t, history.stride)
    old = [f for f in kept if history.window < t - f <= history.reach]
    return sorted(sorted(old, key=lambda f: (round(similarity[f] * 1024), f), reverse=True)[: history.fetched])


@pytest.mark.parametrize(("sinks", "size", "fetch", "stride"), [(0, 7, 2, 1), (1, 4, 1, 2), (2, 3, 3, 3), (3, 5, 4, 2)])
def test_the_most_similar_that_left_the_window_are_fetched(sinks, size, fetch, stride):
    torch.manual_seed(0)
    history = History(TOKENS, **SIZES, window=3, sinks=sinks, size=size, fetch=fetch, stride=stride)
    steps, batch = 3 * history.reach, 2
    # A few directions only, so that many frames are equally similar.
    kinds = F.normalize(torch.randn(3, DESCRIPTOR), dim=-1)
    asked, told = kinds[torch.randint(3, (batch, steps))], kinds[torch.randint(3, (batch, steps))]
    number = torch.arange(steps).expand(batch, steps)[..., None, None, None].expand(-1, -1, TOKENS.n, 1, 8).float()
    chosen = history.choose(asked, told, torch.randn(batch, steps, 4, 4), torch.ones(batch, steps))
    clip = history.read(0, number, number, chosen)
    assert clip is not None
    slabs = {name: torch.zeros(batch, *slab.shape) for name, slab in history.slabs.items()}
    for t in range(steps):
        (single,) = history.fetch(slabs, asked[:, t])
        for b in range(batch):
            wanted = expected((told[b] @ asked[b, t]).tolist(), t, history)
            read = single.weights[b].isfinite()
            assert sorted(single.values[b, 0, 0, read, 0].tolist()) == wanted
            read = clip.weights[b, t].isfinite()
            assert clip.values[b, 0, 0, read, 0].tolist() == wanted
        frame = number[:, t, None]
        slabs = history.keep(slabs, torch.full((batch,), t), frame, frame, told[:, t])


def test_a_step_weighs_what_it_fetched_by_similarity():
    history = History(TOKENS, **SIZES, window=1, sinks=0, size=4, fetch=2, stride=1)
    near, far, other = torch.eye(DESCRIPTOR)[:3]
    slabs = {name: torch.zeros(1, *slab.shape) for name, slab in history.slabs.items()}
    for t, told in enumerate((near, F.normalize(near + far, dim=0), other)):
        frame = torch.full((1, 1, 4, 1, 8), float(t))
        slabs = history.keep(slabs, torch.tensor([t]), frame, frame, told[None])
    (fetched,) = history.fetch(slabs, near[None])  # of frames 0 and 1; frame 2 is in the window
    weights = dict(zip(fetched.values[0, 0, 0, :, 0].tolist(), fetched.weights[0].tolist()))
    assert weights == {0.0: pytest.approx(0.0), 1.0: pytest.approx(4 * (0.5**0.5 - 1))}


def test_a_world_with_history_keeps_the_laws():
    settings = {"dim": 32, "heads": 1, "layers": 2, "every": 2, "window": 2, "history": 4, "fetch": 1}
    tokenizers = {"pixels": Part("conv", {"width": 16}), "state": Part("vector", {"channels": 16})}
    world = check.example_world(Part("transformer", settings), Part("shortcut"), tokenizers, 0.9)
    assert "history_keys" in world.dynamics.spec.slabs
    for law in check.LAWS["world"]:
        law(world, torch.float32)


def errors_at_return(history: int, steps: int, seed: int) -> float:
    """Train, and measure the squared error where a place is asked for again, over the last tenth of the steps.

    Four places with random pictures are seen in any order, then nothing for four frames; then the same actions lead to
    the same places, in another order: 5 to 11 frames later, where the window and the previous latent reach 4.
    """
    torch.manual_seed(seed)
    source = torch.Generator().manual_seed(seed)
    config = TransformerConfig(dim=32, heads=1, layers=2, every=2, window=3, sinks=0, history=history, fetch=2)
    model = Transformer(config, TOKENS, ActionSpec("discrete", n=5))
    optimizer, errors = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(steps):
        first, again = (torch.rand(16, 4, generator=source).argsort(1) for _ in range(2))
        nothing = torch.full((16, 4), 4)
        places = torch.cat([nothing[:, :1], first, nothing, again], 1)
        pictures = F.pad(torch.randn(16, 4, 4, 4, generator=source).sign(), (0, 0, 0, 0, 0, 1))
        z, rows = pictures[torch.arange(16)[:, None], places], places[..., None].float()
        rows[:, 0] = torch.nan
        outcome, predict = model.parallel(z, rows, torch.ones(z.shape[:2]))
        error = (predict(None, None) - z).square().mean((2, 3))
        own = outcome.extra.mean() if outcome.extra is not None else 0.0
        optimizer.zero_grad()
        (error[:, 1:].mean() + own).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        errors.append(float(error[:, -4:].mean().detach()))
    return sum(errors[-steps // 10 :]) / (steps // 10)


@pytest.mark.parametrize(("history", "least", "most"), [(16, 0.0, 0.15), (0, 0.9, 1.2)])
def test_what_left_the_window_is_recalled(history, least, most):
    assert least <= errors_at_return(history, 100, seed=0) < most  # 1 for a model that forgot


@pytest.mark.parametrize("config", [TransformerConfig, HybridConfig])
@pytest.mark.parametrize(
    "wrong",
    [{"history": -1}, {"fetch": 0}, {"stride": 0}, {"history": 2, "stride": 9}, {"history": 16}],
)
def test_sizes_that_cannot_be_are_refused(config, wrong):
    with pytest.raises(ConfigError, match="history"):
        config(**wrong)
