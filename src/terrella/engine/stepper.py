"""One frame, as functions of slabs and tensors alone: draw it, write it into the memory, or both in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..nn.latents import Begin, Noise, Outcome, Predict
from ..nn.noise import ALARM, CONTEXT, SAMPLE, keyed_normal
from ..nn.slabs import Slabs
from ..world import World
from .alarm import LEVEL, SIGNALS, Alarm
from .caches import CachedFrame, FeatureCache
from .guidance import guided
from .recall import LATENT, remember


@dataclass
class Drawn:
    """A frame that is not in the memory yet.

    z_BNZ: what will be committed. finite_B: whether the latent drawn was. shown: stream -> observations, empty where
    nobody looks. kept: what a decoder, a feature cache and an alarm want to remember. evaluations_B: denoising steps
    computed, not forecast. alarm_B: the level of an alarm over its threshold.
    """

    z_BNZ: Tensor
    finite_B: Tensor
    shown: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    evaluations_B: Tensor | None = None
    alarm_B: Tensor | None = None


class Stepper:
    """Makes the frames of one world.

    steps: denoising steps a frame (None: the world's own). dtype: of latents. cache: which steps are forecast. alarm:
    what each frame is watched by.
    """

    def __init__(
        self,
        world: World,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        cache: FeatureCache | None = None,
        alarm: Alarm | None = None,
    ):
        self.world, self.dtype, self.cache, self.alarm = world, dtype, cache, alarm
        self.steps = world.decoder.steps if steps is None else steps

    def draw(
        self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, observe: bool = True, guidance_B: Tensor | None = None
    ) -> Drawn:
        """Draw the next frame under an action; nothing is written.

        observe: whether it is decoded, too. guidance: how far beyond what the action leads to (`guidance.guided`).
        """
        predict = ask = self._predictor(slabs, row_BW)
        begin = self._beginner(slabs, row_BW)
        if guidance_B is not None:
            predict = guided(self.world.dynamics, slabs, row_BW, guidance_B)
        return self._drawn(predict, ask, slabs.recurrent, seeds_B, slabs.time, row_BW, observe, begin)

    def commit(
        self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, z_BNZ: Tensor, level: float
    ) -> tuple[Slabs, Outcome]:
        """Write a frame into the memory at a signal level. Consumes `slabs`."""
        noisy = self._at(level, seeds_B, slabs.time, z_BNZ)
        after, outcome = self.world.dynamics.commit(slabs, row_BW, noisy, _full(z_BNZ, level))
        return remember(after, row_BW, z_BNZ), outcome

    def commit_dreamed(self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, z_BNZ: Tensor) -> tuple[Slabs, Outcome]:
        """Write a frame that `draw` drew. Consumes `slabs`."""
        return self.commit(slabs, seeds_B, row_BW, z_BNZ, self.dream_level)

    def commit_and_draw(
        self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, z_BNZ: Tensor, next_BW: Tensor, observe: bool = True
    ) -> tuple[Slabs, Outcome, Drawn]:
        """Write a dreamed frame and draw the one after it: the first denoising step goes with the writing.

        Consumes `slabs`. As `commit_dreamed` and `draw` one after the other, within rounding; not for a feature cache
        that remembers from frame to frame or looks at the first layer.
        """
        dynamics, time, go_on = self.world.dynamics, slabs.time, None
        written = self._at(self.dream_level, seeds_B, time, z_BNZ)
        tau = _full(z_BNZ, self.dream_level)
        memory, outcome = slabs, None

        def predict(z: Tensor | None, level: Noise | None) -> Tensor:
            nonlocal memory, outcome, go_on
            if go_on is not None:
                return go_on(z, level)
            if z is not None and len(z) != len(z_BNZ):  # rows that the writing has not
                memory, outcome = dynamics.commit(slabs, row_BW, written, tau)
                go_on = self._predictor(memory, next_BW)
                return go_on(z, level)
            memory, outcome, x = dynamics.commit_and_predict(slabs, row_BW, written, tau, next_BW, z, level)
            go_on = self._predictor(memory, next_BW)
            return x

        drawn = self._drawn(predict, predict, {}, seeds_B, time + 1, next_BW, observe)
        assert outcome is not None  # every decoder predicts at least once
        return remember(memory, row_BW, z_BNZ), outcome, drawn

    @property
    def dream_level(self) -> float:
        """The signal level at which dreamed frames enter the memory."""
        config = self.world.config
        return config.context_level if config.dream_level is None else config.dream_level

    def _predictor(self, slabs: Slabs, row: Tensor) -> Predict:
        wide: dict[int, tuple[Slabs, Tensor]] = {1: (slabs, row)}

        def predict(z: Tensor | None, level: Noise | None) -> Tensor:
            rows = 1 if z is None else len(z) // len(row)
            if rows not in wide:
                wide[rows] = slabs.widened(rows), row.repeat_interleave(rows, 0)
            return self.world.dynamics.predict(*wide[rows], z, level)

        return predict

    def _beginner(self, slabs: Slabs, row: Tensor) -> Begin | None:
        if self.cache is None or self.cache.rule != "layer":
            return None
        return lambda z, level: self.world.dynamics.begin(slabs, row, z, level)

    def _drawn(
        self,
        predict: Predict,
        ask: Predict,
        memory: dict[str, Tensor],
        seeds: Tensor,
        time: Tensor,
        row: Tensor,
        observe: bool,
        begin: Begin | None = None,
    ) -> Drawn:
        # Alarms ask what the world expects, not what draws: their thresholds were measured so.
        world, tokens = self.world, self.world.tokens

        def noise(ahead: int) -> Tensor:  # the fog of the frame before is that in which it entered the memory
            purpose = SAMPLE if ahead >= 0 else CONTEXT
            drawn = keyed_normal(seeds, time + ahead, purpose, tokens.n * tokens.channels)
            return drawn.view(-1, tokens.n, tokens.channels).to(self.dtype)

        cached = None
        if self.cache is not None:
            grid = tokens.grid
            cached = predict = CachedFrame(self.cache, predict, memory, time, row, self.steps, grid, begin)
        before = memory[LATENT][:, -1] if world.decoder.unit > 1 else None
        z, kept = world.decoder.go_on(predict, memory, before, noise, self.steps)
        drawn = Drawn(z, z.isfinite().flatten(1).all(1), kept=kept)
        if cached is not None:
            drawn.kept, drawn.evaluations_B = {**kept, **cached.kept()}, cached.evaluations_B
        every = int(world.config.reencode)
        if observe or every:
            drawn.shown = world.decode(z)
        if self.alarm is not None:
            other = keyed_normal(seeds, time, ALARM, tokens.n * tokens.channels).view(z.shape)
            signal = SIGNALS[self.alarm.signal](world, z, drawn.shown or world.decode(z), ask, other)
            drawn.kept[LEVEL], drawn.alarm_B = self.alarm.note(memory[LEVEL], signal)
        if every:
            again = world.encode(drawn.shown).to(self.dtype)
            drawn.z_BNZ = again if every == 1 else torch.where((time % every == 0)[:, None, None], again, z)
        return drawn

    @staticmethod
    def _at(level: float, seeds: Tensor, time: Tensor, z: Tensor) -> Tensor:
        if level >= 1:
            return z
        return level * z + (1 - level) * keyed_normal(seeds, time, CONTEXT, z[0].numel()).view(z.shape).to(z.dtype)


def _full(z: Tensor, level: float) -> Tensor:
    return torch.full(z.shape[:1], level, device=z.device)
