"""Denoising steps that are forecast instead of computed: when, how, and who watches.

A `FeatureCache` stands between the sampler and the network. Its tap is what the network expects of the clean frame,
above which nothing is left to compute, so that a skipped step is free. Each session decides for itself, so its frames
do not depend on its neighbours; time is saved where all sessions of a batch skip.

    schedule   steps are computed by their number: the first ones, then one in so many, or an explicit mask
    change     a step is computed once what should have changed since the last one passes a threshold
    drift      the same, by how far tokens whose path bends have moved
    layer      the same, by what the backbone's first layer adds, which is always computed
    across     the first step is computed; the others take the difference to it that an earlier frame had

What outlives a frame (`across`, and what the guard found) belongs to the session: it is forked, saved and batched with
it. With `across`, a frame under another action than the one before is computed in full.

Ref: Selvaraju et al., FORA, arXiv 2407.01425 (`interval`); EasyCache, arXiv 2507.02860 (`change`: accumulated relative
change, no constants fitted to a checkpoint); WorldCache, arXiv 2603.06331 (`drift`); cache-dit, a library (`layer`: its
first block); CacheQuant, arXiv 2503.01323 (`best_mask`). Differs: all at the output tap and for each session; `across`
is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from ..nn.latents import Begin, Noise, Predict, TokenSpec
from ..nn.slabs import SlabSpec
from ..world import World
from .cache_rules import LEFT, RESIDUAL, ROW, Across, Rule, Within

REST = "cache.rest"
RULES = ("schedule", "change", "drift", "layer", "across")


@dataclass(frozen=True)
class FeatureCache:
    """When a denoising step is computed, and how it is forecast otherwise.

    rule: see the module. first: steps computed at the beginning of each frame. every: with `schedule`, one in so many
    is computed after these; `mask` overrides both. threshold: of `change`, `drift` and `layer`. furthest: how many
    steps in a row, with `across` frames in a row, may be forecast. order: of the polynomial (see `forecast`).
    band: `high` continues only what is fine on the token grid and reuses the rest. tokens: continue each token by its
    curvature. guard: 0, or every how many frames all steps are computed beside their forecasts; where the relative
    squared error of a forecast exceeds `bound`, the session does without for the next `guard` frames.

    Raises `ConfigError` for values out of range.
    """

    rule: Literal["schedule", "change", "drift", "layer", "across"] = "schedule"
    first: int = 1
    every: int = 2
    mask: tuple[bool, ...] | None = None
    threshold: float = 0.05
    furthest: int = 2
    order: int = 0
    band: Literal["all", "high"] = "all"
    tokens: bool = False
    guard: int = 0
    bound: float = 0.05

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise did_you_mean(str(self.rule), RULES, "rule of a feature cache")
        if self.first < 1 or self.every < 1 or self.furthest < 1 or not 0 <= self.order <= 2 or self.guard < 0:
            raise ConfigError("first, every and furthest must be at least 1, order 0, 1 or 2, guard at least 0.")
        if self.mask is not None and (not self.mask or not self.mask[0]):
            raise ConfigError(f"mask is {self.mask}; its first step must be computed: there is nothing before it.")
        if not self.threshold >= 0 or not self.bound >= 0 or self.guard > 256:
            raise ConfigError("threshold and bound must be at least 0, guard at most 256.")
        points = 3 if self.tokens or self.rule == "drift" else self.order + 1
        begun = self.steps(points)[:points]
        if self.rule != "across" and not all(begun):
            raise ConfigError(
                f"the first {points} steps must be computed for this forecast, but of these are {sum(begun)}; raise "
                f"first to {points}, or lower the order."
            )

    def steps(self, count: int) -> tuple[bool, ...]:
        """Which of `count` steps a schedule computes."""
        if self.mask is not None:
            return (self.mask + (True,) * count)[:count]
        return tuple(i < self.first or (i - self.first + 1) % self.every == 0 for i in range(count))

    def slabs(self, tokens: TokenSpec, width: int, steps: int) -> dict[str, SlabSpec]:
        """What a session keeps from frame to frame; nothing for most rules."""
        kept = {REST: SlabSpec(())} if self.guard else {}
        if self.rule == "across":
            later = (max(1, steps - 1), tokens.n, tokens.channels)
            kept |= {RESIDUAL: SlabSpec(later), ROW: SlabSpec((width,)), LEFT: SlabSpec(())}
        return kept


CACHES = {
    "interval": FeatureCache(every=2),
    "taylor": FeatureCache(first=3, every=2, order=2),
    "frequency": FeatureCache(first=3, every=3, order=2, band="high"),
    "curvature": FeatureCache("drift", first=3, threshold=1.0, tokens=True),
    "change": FeatureCache("change", first=2, threshold=0.05),
    "first_layer": FeatureCache("layer", threshold=0.3),
    "across": FeatureCache("across", furthest=1),
}
"""Caches by name: `Engine(world, cache="interval")` takes one of these or a `FeatureCache`."""


def find_cache(cache: FeatureCache | str | None, world: World, *, budgeted: bool) -> FeatureCache | None:
    """Return a cache by its name, if frames of this world can have it.

    Raises `UnknownName`, and `ConfigError` where tokens have no grid to part by frequency, where the number of steps
    that a cache remembers will change with a budget, or where the world's backbone is not `layered`.
    """
    if isinstance(cache, str):
        if cache not in CACHES:
            raise did_you_mean(cache, CACHES, "feature cache")
        cache = CACHES[cache]
    if cache is not None and cache.band == "high" and world.tokens.grid is None:
        raise ConfigError("this world's tokens fill no grid that could be parted by frequency; choose band='all'.")
    if cache is not None and cache.rule == "across" and budgeted:
        raise ConfigError("a budget changes the number of steps, which this cache remembers; choose one of both.")
    if cache is not None and cache.rule == "layer" and not world.dynamics.layered:
        raise ConfigError("this world's backbone has no first layer that could be passed alone; choose rule='change'.")
    return cache


class CachedFrame:
    """The network as the sampler of one frame sees it: a `Predict` that may forecast.

    memory: the recurrent slabs of the sessions. steps: denoising steps of the frame. begin: the network's first layer
    and how it goes on, for the rule that looks at it. evaluations_B: how often each
    session computed a step, after the frame.
    """

    def __init__(
        self,
        cache: FeatureCache,
        predict: Predict,
        memory: dict[str, Tensor],
        time_B: Tensor,
        row_BW: Tensor,
        steps: int,
        grid: tuple[int, int] | None,
        begin: Begin | None = None,
    ):
        self.cache, self.predict, self.memory, self.step, self.begin = cache, predict, memory, 0, begin
        self.mask = cache.steps(steps)
        self.rule: Rule = (
            Across(memory, row_BW, cache.furthest)
            if cache.rule == "across"
            else Within(
                cache.rule,
                self.mask,
                first=cache.first,
                threshold=cache.threshold,
                furthest=cache.furthest,
                order=cache.order,
                tokens=cache.tokens,
                grid=grid if cache.band == "high" else None,
            )
        )
        never = torch.zeros_like(time_B, dtype=torch.bool)
        self.watched = time_B % cache.guard == 0 if cache.guard else never
        self.certain = cache.rule == "schedule" and not cache.guard  # all sessions alike, known beforehand
        self.forced = self.watched | (memory[REST] > 0 if cache.guard else never)
        self.evaluations_B = torch.zeros_like(time_B)
        self.error = torch.zeros(time_B.shape, device=time_B.device)

    def __call__(self, z: Tensor | None, noise: Noise | None) -> Tensor:
        """Expect the clean frame behind `z`."""
        step, self.step = self.step, self.step + 1
        if z is None:  # a plain prediction: there is one, and nothing to go by
            self.evaluations_B = self.evaluations_B + 1
            return self.predict(z, noise)
        wanted, by, ask = torch.ones_like(self.forced), z, partial(self.predict, z, noise)
        if self.begin is not None:
            by, ask = self.begin(z, noise)
        if step == 0 or (self.certain and self.mask[step]):
            x = ask()
        elif self.certain:  # nobody need ask the device
            x, wanted = self.rule.guess(step), ~wanted
        else:
            x = self.rule.guess(step)
            wanted = self.rule.wanted(step, by, x)
            if bool((wanted | self.forced).any()):
                true = ask()
                self._watch(true, x, wanted)
                wanted = wanted | self.forced
                x = torch.where(wanted[:, None, None], true, x)
        self.rule.note(step, by, x, wanted)
        self.evaluations_B = self.evaluations_B + wanted
        return x

    def kept(self) -> dict[str, Tensor]:
        """What the sessions remember for their next frame."""
        kept = self.rule.kept()
        if self.cache.guard:
            rest = self.memory[REST]
            over = self.watched & (self.error > self.cache.bound)
            kept[REST] = torch.where(over, float(self.cache.guard), (rest - 1).clamp(min=0).float()).to(rest.dtype)
        return kept

    def _watch(self, true: Tensor, guess: Tensor, wanted: Tensor) -> None:
        if not self.cache.guard:
            return
        error = (guess - true).float().square().flatten(1).mean(1)
        error = error / true.float().square().flatten(1).mean(1).clamp(min=1e-8)
        # What the rule would have computed anyway says nothing about forecasts.
        self.error = torch.where(wanted, self.error, torch.maximum(self.error, error))
