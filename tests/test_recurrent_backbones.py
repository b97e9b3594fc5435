"""The recurrent state-space model and reaction-diffusion beyond the laws: a loss of one's own, stencils, learning."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from terrella.dynamics import RSSM, Dynamics, ReactionDiffusion, ReactionDiffusionConfig, RSSMConfig
from terrella.dynamics.reaction_diffusion import stencils
from terrella.dynamics.rssm import _divergence
from terrella.laws import close, shaken
from terrella.nn.latents import TokenSpec
from terrella.spec import ActionSpec

TOKENS = TokenSpec(16, 1, tuple((float(r), float(c)) for r in range(4) for c in range(4)))
ACTION = ActionSpec("discrete", n=5)
MOVES = torch.tensor([[0, 0], [0, 1], [0, -1], [1, 0], [-1, 0]])
STEPS = 120


def rssm(**settings: float) -> RSSM:
    sizes = {"dim": 64, "blocks": 2, "groups": 8, "classes": 8, "hidden": 64, "width": 32, "layers": 1, "heads": 2}
    torch.manual_seed(0)
    return RSSM(RSSMConfig(**sizes | settings), TOKENS, ACTION)  # pyright: ignore[reportArgumentType]


def reaction_diffusion() -> ReactionDiffusion:
    torch.manual_seed(0)
    return ReactionDiffusion(ReactionDiffusionConfig(dim=32, groups=8), TOKENS, ACTION)


def dots(batch: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A lit token that walks where the actions say and stops at walls, and the rows of actions."""
    place = torch.randint(4, (batch, 2), generator=generator)
    action = torch.randint(5, (batch, frames, 1), generator=generator)
    shown = []
    for t in range(frames):
        place = (place + MOVES[action[:, t, 0]]).clamp(0, 3) if t else place
        shown.append(4.0 * F.one_hot(4 * place[:, 0] + place[:, 1], 16))
    rows = action.float()
    rows[:, 0] = torch.nan
    return torch.stack(shown, 1)[..., None], rows


@pytest.mark.parametrize("make", [rssm, reaction_diffusion])
def test_it_learns_where_actions_lead(make: Callable[[], Dynamics]):
    part, generator = make(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(part.parameters(), 4e-3)
    for step in range(STEPS):
        z, rows = dots(16, 6, generator)
        outcome, predict = part.parallel(z, rows, torch.ones(16, 6))
        loss = (predict(None, None) - z)[:, 1:].square().mean()
        loss = loss if outcome.extra is None else loss + outcome.extra.mean()
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20, 2 * (1 - step / STEPS))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()
    z, rows = dots(64, 6, generator)
    with torch.no_grad():
        _, predict = part.parallel(z, rows, torch.ones(64, 6))
        error = (predict(None, None) - z)[:, 1:].square().mean()
    copied = (z[:, 1:] - z[:, :-1]).square().mean()
    assert float(error) < 0.15 * float(copied)


@pytest.mark.parametrize("make", [rssm, reaction_diffusion])
def test_unseen_frames_are_its_own_expectations(make: Callable[[], Dynamics]):
    part = shaken(make(), torch.float64)
    z, rows = dots(2, 6, torch.Generator().manual_seed(0))
    tau = torch.ones(2, 6)
    tau[0, 3:], tau[1, 4] = 0, 0
    unseen = (tau == 0)[..., None, None]
    outcome, predict = part.parallel(z.double(), rows, tau)
    other, again = part.parallel(torch.where(unseen, torch.randn(z.shape), z).double(), rows, tau)
    close("predictions under other noise", predict(None, None), again(None, None), 1e-12, "")
    close("rewards under other noise", outcome.reward, other.reward, 1e-12, "")
    slabs = part.init(2, dtype=torch.float64)
    for t in range(6):
        wanted = torch.where(unseen[:, t], part.predict(slabs, rows[:, t]), z[:, t])
        slabs, _ = part.commit(slabs, rows[:, t], z[:, t].double(), tau[:, t])
        close("previous latent", wanted, slabs.recurrent["previous"], 1e-12, "")


def test_its_own_loss_is_of_seen_frames_and_at_least_the_free_nats():
    z, rows = dots(4, 5, torch.Generator().manual_seed(0))
    tau = torch.ones(4, 5)
    tau[:, 3:] = 0
    part = rssm(beta_pred=0.0, beta_dyn=1.0, beta_rep=0.5, free_bits=1e3)
    extra = part.parallel(z, rows, tau)[0].extra
    assert extra is not None
    torch.testing.assert_close(extra[:, :3], torch.full((4, 3), 1.5e3 / 16))
    assert not extra[:, 3:].any()
    sizes = {}
    for free in (0.0, 1e3):
        part = rssm(beta_pred=0.0, free_bits=free)
        extra = part.parallel(z, rows, tau)[0].extra
        assert extra is not None
        extra.sum().backward()
        sizes[free] = [float(p.grad.norm()) for n in (part.prior, part.posterior) for p in n.parameters()]  # pyright: ignore
    assert min(sizes[0.0]) > 0  # towards each other, prior and posterior both
    assert max(sizes[1e3]) == 0  # below the free nats nothing pulls


def test_divergence_is_that_of_independent_groups():
    q, p = torch.rand(2, 3, 4, 5, dtype=torch.float64).softmax(-1).unbind(0)
    known = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=q), torch.distributions.Categorical(probs=p)
    )
    torch.testing.assert_close(_divergence(q.flatten(-2), p.flatten(-2)), known.sum(-1))


def test_spreading_conserves_a_constant_and_lets_nothing_grow():
    places = (*TOKENS.places, (0.0, 100.0))  # the last has no neighbours
    matrices = stencils(places, 3)
    assert len(matrices) == 8  # four places apart there is nobody
    assert not (matrices @ torch.ones(17, 1)).any()
    right = (torch.eye(17) + matrices[0]) @ torch.arange(17.0)
    assert right.tolist() == [1, 2, 3, 3, 5, 6, 7, 7, 9, 10, 11, 11, 13, 14, 15, 15, 16]
    spread = reaction_diffusion().blocks[0].spread()  # pyright: ignore[reportCallIssue]
    step = torch.eye(16) + spread
    assert step.min() >= 0
    torch.testing.assert_close(step.sum(-1), torch.ones(8, 16))


def test_a_single_token_has_no_sides():
    part = ReactionDiffusion(ReactionDiffusionConfig(dim=16), TokenSpec(1, 3, ((0.0, 0.0),)), ACTION)
    _, predict = part.parallel(torch.randn(2, 4, 1, 3), torch.zeros(2, 4, 1), torch.ones(2, 4))
    assert predict(None, None).isfinite().all()
