"""Policy gradient for worlds of discrete tokens, whose draws have no gradient: what came out better becomes likelier.

From one past a group of G rollouts is drawn. With the error e of rollout i, decoded and averaged over its frames,

    A_i = (mean(e) - e_i) / (std(e) + eps)
    loss = - mean_i A_i log p(frames_i) + beta KL(p || p_start)

As every group is used for one step alone, the ratio of new to old probabilities is 1, and clipping it would change
nothing. Frames are drawn in rounds, whose probability as a whole has no closed form: log p is estimated as in training,
by hiding a random part of each frame and asking how likely the hidden digits are, given the shown ones and the past.

Ref: Shao et al., DeepSeekMath, arXiv 2402.03300, section 4.1 (group-relative advantages); Wu et al., RLVR-World, arXiv
2505.13934 (decoded error as the reward of a world model). Differs: masked instead of autoregressive tokens, hence the
estimate above; KL in full over each digit's values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..decoders.masked import Masked
from ..world import World
from .rollouts import Batch, errors, roll


def grpo_loss(
    world: World,
    start: World,
    batch: Batch,
    seen: int,
    group: int,
    beta: float,
    scale: dict[str, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of `group` rollouts from each clip of a batch, after `seen` true frames.

    start: the world whose predictions are kept near. Returns a scalar and its parts, of which `error` is the mean
    decoded error. The world's decoder must be `masked`.
    """
    many, decoder = batch.repeated(group), world.decoder
    assert isinstance(decoder, Masked)
    with torch.no_grad():
        z, _, _ = roll(world, many, seen, generator)
        error = errors(world, z, {k: v[:, seen:] for k, v in many.seen.items()}, scale).mean(1).view(-1, group)
        good = (error.mean(1, keepdim=True) - error) / (error.std(1, keepdim=True) + 1e-8)
        tau = torch.ones(many.z.shape[:2], device=z.device)
        whole = torch.cat([many.z[:, :seen], z], 1)
        value, hidden = decoder.hide(z, generator)
    now = decoder.log_probs(world.dynamics.parallel(whole, many.row, tau, seen)[1], value, hidden)
    with torch.no_grad():
        before = decoder.log_probs(start.dynamics.parallel(whole, many.row, tau, seen)[1], value, hidden)
    share = hidden / hidden.sum((-1, -2), keepdim=True)  # the mean over a frame's hidden digits
    likely = (now.gather(-1, value[..., None])[..., 0] * share).sum((-1, -2)).mean(1)
    apart = ((now.exp() * (now - before)).sum(-1) * share).sum((-1, -2)).mean()
    loss = -(good.flatten() * likely).mean() + beta * apart
    return loss, {"error": error.mean(), "kl": apart.detach(), "spread": error.std(1).mean()}
