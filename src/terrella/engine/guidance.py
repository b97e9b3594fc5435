"""Classifier-free guidance: frames drawn further in the direction in which an action, or a sentence, moves them.

    x = f(a) + w (f(a) - f(none)),    w a weight for each session; 0 draws what the action alone leads to

f is what the backbone predicts from one memory, under the action and under none. Both are rows of one call, so a guided
frame costs twice the rows in every denoising step and nothing more at its writing. What is predicted may be a frame
behind noise, the logits of digits, or the slow state of a chunk: decoders do not know of it.

"None" is a learned vector that training must have met in place of actions (`TrainingConfig.action_dropout`): each
frame's action is withheld for itself, so that the memory goes on telling which sentences were heard before. What
guidance strengthens is therefore what the action of *this* frame adds; above all, a sentence that has just changed.

Ref: Ho & Salimans, arXiv 2207.12598, eq. 6; for actions of world models, Hafner et al., Dreamer 4, arXiv 2509.24527 is
trained so. Differs: guides the prediction of the clean latent, which for a given noisy one is the same as the velocity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..dynamics import Dynamics
from ..errors import ConfigError
from ..nn.latents import Noise, Predict
from ..nn.slabs import Slabs
from ..world import World


def guided(dynamics: Dynamics, slabs: Slabs, row_BW: Tensor, weight_B: Tensor) -> Predict:
    """Bind a guided prediction of the next frame to a memory, actions and weights."""
    both = torch.stack([row_BW, torch.full_like(row_BW, torch.nan)], 1)  # (B, 2, W)
    wide: dict[int, tuple[Slabs, Tensor]] = {}

    def predict(z: Tensor | None, level: Noise | None) -> Tensor:
        each = 1 if z is None else len(z) // len(row_BW)
        if each not in wide:
            wide[each] = slabs.widened(2 * each), both.repeat_interleave(each, 1).flatten(0, 1)
        doubled = None if level is None else Noise(_twice(level.tau, each), _twice(level.d, each))
        x = dynamics.predict(*wide[each], None if z is None else _twice(z, each), doubled)
        told, untold = x.unflatten(0, (-1, 2, each)).unbind(1)  # (B, each, N, Z)
        weight = weight_B[:, None, None, None].to(x.dtype)
        return (told + weight * (told - untold)).flatten(0, 1)

    return predict


def guidance_weights(world: World, guidance: Any, batch: int, device: torch.device, cached: bool) -> Tensor | None:
    """Check one weight for each session, or one for all; float32 `(B,)`, None where nobody is guided.

    cached: whether a feature cache draws frames. Raises `ConfigError` for other numbers, for a world that cannot be
    guided, and beside a cache.
    """
    weights = np.asarray(guidance, np.float32)
    if weights.shape not in ((), (batch,)) or not np.isfinite(weights).all():
        raise ConfigError(
            f"guidance has shape {weights.shape}; expected one finite number, or one for each of {batch} sessions."
        )
    if not weights.any():
        return None
    world.require_guidable()
    if cached:
        raise ConfigError("a feature cache forecasts frames that are not guided; leave cache or guidance out.")
    return torch.from_numpy(np.broadcast_to(weights, (batch,)).copy()).to(device)


def _twice(x: Tensor, each: int) -> Tensor:
    """Repeat what belongs to each session, `(B * each, ...)` -> `(B * 2 * each, ...)`, both copies side by side."""
    rows = x.unflatten(0, (-1, each))
    return torch.stack([rows, rows], 1).flatten(0, 2)
