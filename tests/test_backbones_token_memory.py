"""Token memory beyond the laws: summaries, frames that were not seen, and that it remembers."""

import torch
from torch.nn import functional as F

from terrella.dynamics import TokenMemory, TokenMemoryConfig
from terrella.dynamics.token_memory import _Summary
from terrella.laws import close, shaken
from terrella.nn.latents import TokenSpec
from terrella.spec import ActionSpec

TOKENS = TokenSpec(4, 3, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)))
ACTION = ActionSpec("discrete", n=2)


def backbone(**sizes: int) -> TokenMemory:
    torch.manual_seed(0)
    config = TokenMemoryConfig(**{"dim": 32, "heads": 2, "layers": 1, "slots": 6, "reads": 4} | sizes)
    return TokenMemory(config, TOKENS, ACTION)


def test_summaries_are_means_of_normalised_tokens():
    torch.manual_seed(0)
    summary = _Summary(8, 5, 3)
    tokens = torch.randn(2, 5, 8)
    unit = F.rms_norm(tokens, (8,))
    out = summary(tokens)
    assert out.shape == (2, 3, 8)
    assert bool((out.amax(1) <= unit.amax(1)).all() and (out.amin(1) >= unit.amin(1)).all())
    torch.testing.assert_close(summary(100 * tokens), out)
    torch.testing.assert_close(summary(tokens[:, :1].expand(-1, 5, -1)), unit[:, :1].expand(-1, 3, -1))
    torch.testing.assert_close(summary(tokens, torch.full((3,), 60.0)), unit[:, :3])


def test_unseen_frames_are_its_own_expectations():
    part = shaken(backbone(), torch.float64)
    z, other = torch.randn(2, 2, 8, 4, 3, dtype=torch.float64)
    action = torch.randint(2, (2, 8, 1)).float()
    tau = torch.ones(2, 8)
    tau[0, 3:6], tau[1, 7] = 0, 0
    outcome, predict = part.parallel(z, action, tau)
    blank = torch.where((tau == 0)[..., None, None], other, z)
    again = part.parallel(blank, action, tau)
    close("predictions under other noise", predict(None, None), again[1](None, None), 1e-12, "")
    own = torch.where((tau == 0)[..., None, None], predict(None, None), z)
    slabs, plain = part.init(2, dtype=torch.float64), []
    for t in range(8):
        plain.append(part.predict(slabs, action[:, t]))
        slabs, said = part.commit(slabs, action[:, t], z[:, t], tau[:, t])
        close("reward", outcome.reward[:, t], said.reward, 1e-12, "")
        close("previous latent", own[:, t], slabs.recurrent["previous"], 1e-12, "")
    close("predictions", predict(None, None), torch.stack(plain, 1), 1e-12, "")


def test_it_remembers_what_was_shown_once():
    """A first frame shows which token is lit; it stays dark until an action asks for it again, six frames later."""
    part, generator = backbone(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(part.parameters(), 3e-3)
    for _ in range(100):
        lit = F.one_hot(torch.randint(4, (32,), generator=generator), 4).float()
        z = torch.zeros(32, 7, 4, 3)
        z[:, 0, :, 0] = z[:, 6, :, 0] = 2 * lit
        action = torch.zeros(32, 7, 1)
        action[:, 0], action[:, 6] = torch.nan, 1
        _, predict = part.parallel(z, action, torch.ones(32, 7))
        error = (predict(None, None)[:, 6] - z[:, 6]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    guess = 4 * (0.25 * 0.75) / 3  # of the mean over places
    assert float(error.detach()) < 0.1 * guess
