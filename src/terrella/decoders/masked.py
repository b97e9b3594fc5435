"""Masked parallel decoding: a discrete frame is drawn in a few rounds, what is surest first.

A token holds digits of `levels` values as centred one-hot codes (`terrella.nn.codes`); what a backbone expects of a
digit is read as its logits. Hidden digits are zeros, and `Noise.tau` tells the share that is shown.

    training    u ~ U(0, 1); ceil(U cos(pi u / 2)) of a frame's U digits are hidden, at random
                loss = mean over hidden digits of -log p(truth), p = softmax(s x_hat)
    sampling    K rounds; in round k every hidden digit is drawn, and all but U cos(pi k / 2K) digits are kept:
                value = argmax(log p + g),  rank = sum p log p + (1 - k/K) max(log p + g)

with Gumbel noise g times `temperature`, the same for a digit in all rounds: digits that depend on no other come out
alike in any number of rounds. The largest of `log p + g` tells nothing of where it lies, so ranks do not look at the
value drawn.

Ref: Chang et al., MaskGIT, arXiv 2202.04200, section 3 (schedule, rounds by confidence with annealed noise); used for
worlds in Micheli et al., Delta-IRIS, arXiv 2406.19320 (discrete tokens), and Guo et al., MineWorld, arXiv 2504.08388
(parallel decoding). Differs: MaskGIT ranks by the probability of the value drawn, which favours likely values beyond
their share; and digits are hidden one by one, not by tokens, as those of one token depend on one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from ..nn.codes import by_digit, from_code, to_code
from ..nn.latents import Noise, Predict
from ..nn.noise import drawn
from ..registry import register
from .base import Decoder
from .raster import Draw, jacobi, one_by_one

SCALE = 2.0  # of logits: a backbone that repeats a code is then about as sure of it as most digits deserve


@dataclass(frozen=True)
class MaskedConfig:
    """`levels` of a digit, as the tokenizer has them; `steps` rounds by default.

    `temperature` 1 draws as learned, 0 takes what is likeliest. `order`: `sure` draws what is surest first; `raster`
    draws token by token instead, and `jacobi` the same tokens all at once (`terrella.decoders.raster`); both take as
    many rounds as it takes, whatever `steps` says, and draw the digits of a token together.
    """

    levels: int = 8
    steps: int = 8
    temperature: float = 1.0
    order: Literal["sure", "raster", "jacobi"] = "sure"

    def __post_init__(self) -> None:
        if self.order not in ("sure", "raster", "jacobi"):
            raise did_you_mean(str(self.order), ("sure", "raster", "jacobi"), "order of masked decoding")
        if self.levels < 2 or self.steps < 1 or not self.temperature >= 0:
            raise ConfigError("levels must be at least 2, steps at least 1, temperature at least 0.")


@register("decoder", "masked")
class Masked(Decoder):
    """The decoder for discrete tokens; latents that are no codes count as the nearest ones."""

    Config = MaskedConfig
    differentiable: ClassVar[bool] = False  # drawing among values has no gradient

    def __init__(self, config: MaskedConfig):
        super().__init__()
        self.config, self.steps = config, config.steps

    def sample(self, predict: Predict, noise_BNZ: Tensor, steps: int | None = None) -> Tensor:
        """Draw codes in `steps` rounds, or one round a digit where those are fewer."""
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise ConfigError(f"steps is {steps}; masked decoding takes at least 1 round.")
        kind = torch.promote_types(noise_BNZ.dtype, torch.float32)
        log_uniform = torch.special.log_ndtr(by_digit(noise_BNZ.to(kind), self.config.levels))
        gumbel = -self.config.temperature * (-log_uniform).log()
        value = torch.zeros(gumbel.shape[:-1], dtype=torch.int64, device=gumbel.device)  # (..., N, G)
        if self.config.order != "sure":
            draw = self._in_order(predict, gumbel, noise_BNZ.dtype)
            value = (one_by_one if self.config.order == "raster" else jacobi)(draw, value)
            return to_code(value, self.config.levels, noise_BNZ.dtype)
        hidden = torch.ones_like(value, dtype=torch.bool)
        digits = left = value.shape[-2] * value.shape[-1]
        plan = _rounds(digits, steps)
        for k, after in enumerate(plan, 1):
            tau = torch.full(noise_BNZ.shape[:-2], 1 - left / digits, device=value.device)
            logits = self._logits(predict, self._shown(value, hidden, noise_BNZ.dtype), tau)
            p = logits.to(kind).log_softmax(-1)
            most, drawn = (p + gumbel).max(-1)
            value = torch.where(hidden, drawn, value)
            rank = (p.exp() * p).sum(-1) + (1 - k / len(plan)) * most
            rank = rank.masked_fill(~hidden, torch.inf).flatten(-2)  # what is shown stays
            again = rank.sort(dim=-1, stable=True).indices[..., :after]
            hidden = torch.zeros_like(hidden.flatten(-2)).scatter(-1, again, True).view_as(value)
            left = after
        return to_code(value, self.config.levels, noise_BNZ.dtype)

    @property
    def choices(self) -> tuple[int, ...]:
        """See `Decoder.choices`: any number of rounds will do; these halve."""
        return tuple(sorted({max(1, self.steps >> i) for i in range(self.steps.bit_length())}))

    def loss(self, predict: Predict, z_BTNZ: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """See `Decoder.loss` and the module's equations."""
        del progress
        value, hidden = self.hide(z_BTNZ, generator)
        surprise = -self.log_probs(predict, value, hidden, z_BTNZ.dtype).gather(-1, value[..., None])[..., 0]
        return (surprise * hidden).sum((-1, -2)) / hidden.sum((-1, -2))

    def hide(self, z_BTNZ: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Read the digits of frames, int64 `(B, T, N, G)`, and draw which are hidden in training, bool."""
        value = from_code(z_BTNZ, self.config.levels)
        flat, device = value.flatten(-2).shape, value.device
        count = drawn(torch.rand, flat[:-1], generator, device=device).mul(pi / 2).cos().mul(flat[-1]).ceil()
        order = drawn(torch.rand, flat, generator, device=device).argsort(-1).argsort(-1)
        return value, (order < count.clamp(min=1)[..., None]).view_as(value)

    def log_probs(self, predict: Predict, value: Tensor, hidden: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """How likely each value of each digit is, `(B, T, N, G, levels)`, given those digits that are not hidden."""
        tau = 1 - hidden.float().mean((-1, -2))
        return self._logits(predict, self._shown(value, hidden, dtype), tau).float().log_softmax(-1)

    def example(self, lead: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw codes; logits far apart are sure of them."""
        value = torch.randint(self.config.levels, (*lead, 2), generator=generator)
        z = to_code(value, self.config.levels, torch.float64)
        return z, 1e3 * z

    def _in_order(self, predict: Predict, gumbel: Tensor, dtype: torch.dtype) -> Draw:
        def draw(values: Tensor, shown: Tensor) -> Tensor:
            hidden = ~shown[..., None].expand(values.shape)
            logits = self._logits(predict, self._shown(values, hidden, dtype), shown.to(dtype).mean(-1))
            noise = gumbel.repeat_interleave(len(values) // len(gumbel), 0)
            return (logits.to(noise.dtype).log_softmax(-1) + noise).argmax(-1)

        return draw

    def _shown(self, value: Tensor, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        code = by_digit(to_code(value, self.config.levels, dtype), self.config.levels)
        return code.masked_fill(hidden[..., None], 0.0).flatten(-2)

    def _logits(self, predict: Predict, z: Tensor, tau: Tensor) -> Tensor:
        return SCALE * by_digit(predict(z, Noise(tau, torch.zeros_like(tau))), self.config.levels)


def _rounds(digits: int, steps: int) -> list[int]:
    """Count the digits still hidden after each round; every round shows at least one."""
    steps, counts, left = min(steps, digits), [], digits
    for k in range(1, steps):
        left = min(left - 1, int(digits * cos(pi * k / (2 * steps))))
        counts.append(left)
    return [*counts, 0]
