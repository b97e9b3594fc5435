"""The loss of a batch of clips, whose past is made as unreliable as the model's own past will be."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn.latents import Predict
from ..nn.noise import chance, drawn
from ..world import World
from .error_buffer import ErrorBuffer, recycled_past
from .presets import TrainingConfig
from .self_fed import levels, own_past, spoilt

SELF_FED_FROM = 0.3  # of training: earlier predictions are not worth feeding


def clip_loss(
    world: World,
    config: TrainingConfig,
    z_BTNZ: Tensor,
    action_BTW: Tensor,
    reward_BT: Tensor,
    end_BT: Tensor,
    progress: float,
    generator: torch.Generator,
    errors: ErrorBuffer | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the training loss of clips of T frames.

    action_BTW: the row that led to each frame (NaN for the first). reward, end: of the same transition. progress:
    share of training done, in [0, 1]. errors: what recycled batches draw from and add to. Returns a scalar and its
    parts. The first frame of a clip is context only.

    Past frames carry noise of a level drawn for each and told to the network (Dreamer 4, arXiv 2509.24527); in a share
    of batches they are the model's own (`own_past`), in another share they carry errors that it made lately
    (`recycled_past`), while the targets stay real. In *blind* batches the frames after `seen` are withheld altogether
    (signal level 0), and only they are scored unless `score_seen`. A piece of a clip shows as large a part of itself.
    A share of actions is withheld, as is every first one: what comes under "none" is what guidance leads away from
    (Ho & Salimans, arXiv 2207.12598, algorithm 1).
    """
    past, blind = z_BTNZ, chance(generator) < config.blind
    fed = not blind and progress >= SELF_FED_FROM and chance(generator) < config.self_fed
    if fed:
        past = own_past(world, config, z_BTNZ, action_BTW, generator)
    elif errors is not None and not blind and progress >= SELF_FED_FROM and chance(generator) < config.recycled:
        past = recycled_past(world, config, z_BTNZ, action_BTW, errors, generator)
    frames = z_BTNZ.shape[1]
    first = min(max(1, config.seen * frames // (config.length + 1)), frames - 1) if blind else 1
    if config.action_dropout:  # for each frame by itself: the past goes on telling which actions there were
        withheld = drawn(torch.rand, action_BTW.shape[:2], generator, device=action_BTW.device)
        action_BTW = action_BTW.masked_fill((withheld < config.action_dropout)[..., None], torch.nan)
    noisy, tau = _context(past, config.context_noise, generator, first if blind else None)
    scored = 1 if config.score_seen else first
    since = scored if blind else 0  # frames that are not scored need no prediction
    outcome, predict = world.dynamics.parallel(noisy, action_BTW, tau, since)
    latent, match = _supervised(world, config, predict, z_BTNZ[:, since:], progress, generator)
    latent = latent[:, scored - since :].mean()
    wanted = (reward_BT - world.reward_shift) / world.reward_scale
    reward = F.mse_loss(outcome.reward[:, 1:].float(), wanted[:, 1:])
    end = F.binary_cross_entropy_with_logits(outcome.end[:, 1:].float(), end_BT[:, 1:])
    total = latent + config.reward_weight * reward + config.end_weight * end
    parts = {"latent": latent.detach(), "reward": reward.detach(), "end": end.detach()}
    if match is not None:
        match = match[:, scored - since :].mean()
        total, parts["match"] = total + match, match.detach()
    if outcome.extra is not None:
        extra = outcome.extra.float().mean()
        total, parts["extra"] = total + extra, extra.detach()
    return total, parts


def _supervised(
    world: World, config: TrainingConfig, predict: Predict, z: Tensor, progress: float, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """The decoder's loss of every frame, and that of matching latents where these teach the backbone; `(B, T)` each.

    Then nothing of the decoder's loss reaches the backbone, and the latents are targets without a gradient, as clips
    hold them. Ref: LeCun, A Path Towards Autonomous Machine Intelligence, 2022, section 4.4 (joint embeddings predicted
    in latent space). Differs: the encoder is trained before, for reconstruction, so nothing can collapse.
    """
    if config.supervision == "decoder":
        return world.decoder.loss(predict, z, progress, generator), None
    plain = predict(None, None)
    known = plain.detach()
    match = (plain.float() - z.float()).square().mean((-1, -2))
    return world.decoder.loss(lambda noisy, noise: known, z, progress, generator), match


def _context(z: Tensor, most: float, generator: torch.Generator, seen: int | None = None) -> tuple[Tensor, Tensor]:
    """Add noise of up to `most` to each frame, and nothing but noise after the first `seen`."""
    tau, noise = levels(z, most, generator)
    if seen is not None:
        tau[:, seen:] = 0
    return spoilt(z, tau, noise), tau
