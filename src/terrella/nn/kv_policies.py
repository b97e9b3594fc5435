"""Which frames a bounded memory keeps: rules, each a score for slots and what becomes of the one that gives way.

A *score* says how much each slot of the store (`terrella.nn.kv_store`) is worth, perhaps by the attention that some
queries pay to it, an *allocator* how many slots each head may hold. At a commit the worst slots of heads beyond their
share give way: they are dropped, merged into the most similar newer slot, or folded into a compensation slot.

Attention over time is factorised here: a token sees the past of its own place alone, with one query a pass. So "the
last queries" of the papers are those of the last frames, and what is kept differs from place to place. Left out:

- Plain dilation (every p-th old frame): by frame number it would depend on absolute time, by gaps it is `ladder` with
  exponent 0.
- Importance minus redundancy (FlowCache): its threshold is fitted for each checkpoint.
- Shares among layers. The papers divide among dozens; here one layer in four attends over time, and a small world has a
  single one. Shares are divided among the heads of one layer and place.

Scores of attention are compared in steps of 1/4096, and among equals the newest frame wins: in a scene that stands
still, rounding must not decide what is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .kv_view import ALIKE, View

STEP = 1 / 4096  # scores of attention that differ by less count as equal
NEIGHBOURS = 1  # frames on either side that share a frame's importance; theirs is 2 to 3 tokens of thousands
VARIANCE = 200.0  # CAKE's gamma
EPISODES = 4  # centroids of frames
FAR = 0.15  # share of heads that keep what is far, RazorAttention's echo and induction heads


@dataclass(frozen=True)
class Memory:
    """Keeps `frames` frames a head by the rule `policy` (see `POLICIES`) instead of the last `window` of them.

    frames: None for as many as the network's window. sinks: first frames that stay; None for as many as it was trained
    with, which is what its weights expect. recent: newest frames that are never given up; None for half of
    `frames`. queries: frames over which attention is averaged, where a rule looks at it. dtype: "int8" keeps keys and
    values in 8 bits, with a scale for each slot.
    """

    policy: str
    frames: int | None = None
    sinks: int | None = None
    recent: int | None = None
    queries: int = 16
    dtype: Literal["int8"] | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise did_you_mean(self.policy, POLICIES, "memory policy")
        for name, least in (("frames", 1), ("sinks", 0), ("recent", 1), ("queries", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} of a memory is {value}; it must be at least {least}.")
        if self.dtype not in (None, "int8"):
            raise ConfigError(f"dtype of a memory is {self.dtype!r}; expected 'int8' or None.")

    def sized(self, window: int, sinks: int) -> Memory:
        """Fill in what follows from the network, whose window and sinks these are; raises `ConfigError`."""
        frames = window if self.frames is None else self.frames
        spare = frames - (self.rule.reduce == "compensate")
        recent = max(1, min(frames // 2, spare)) if self.recent is None else self.recent
        if recent > spare:
            raise ConfigError(
                f"a memory of {frames} frames cannot keep the {recent} newest by {self.policy!r}, which has {spare} "
                "to choose from; give it more frames or a smaller `recent`."
            )
        return replace(self, frames=frames, sinks=sinks if self.sinks is None else self.sinks, recent=recent)

    @property
    def rule(self) -> Policy:
        """The policy of that name."""
        return POLICIES[self.policy]


@dataclass(frozen=True)
class Policy:
    """A rule. score: `(B, L, N, S)` of a view, more is better. allocate: slots that each head may hold, `(B, L, N, H)`.

    reduce: what becomes of a slot that gives way. looks: whose attention is averaged: nobody's, that of the tokens of
    each finished frame, or that of tokens of which nothing is known yet (which costs a pass at each commit). episodes:
    centroids of frames to keep. Another rule is one more entry of `POLICIES`.
    """

    score: Callable[[View], Tensor]
    source: str
    allocate: Callable[[View], Tensor] | None = None
    reduce: Literal["drop", "merge", "compensate"] = "drop"
    looks: Literal["never", "finished", "blind"] = "never"
    episodes: int = 0


# scores


def newest(view: View) -> Tensor:
    """Newer is better. A view is sorted from new to old."""
    return -torch.arange(view.size, device=view.age.device).expand_as(view.age).float()


def ladder(view: View) -> Tensor:
    """A frame is worth the gap that it would leave, relative to its age: what stays thins out geometrically.

    Heads stand on a ladder from those that reach far (gap / age^0.5) to those that stay near (gap / age^1.5), so that
    together they have more frames than one alone. The oldest frame counts as if the next stood at twice its age.
    """
    layers, heads = view.age.shape[1], view.heads
    first, last = (0.5, 1.5) if layers * heads > 1 else (1.0, 1.0)
    steps = torch.linspace(first, last, layers * heads, device=view.age.device).view(layers, 1, heads)
    age = view.age.float()
    gap = view.beside(age, 1, 2 * age) - view.beside(age, -1, torch.zeros_like(age))
    return gap / age ** steps.expand_as(view.compensation).gather(-1, view.owner)


def attended(view: View) -> Tensor:
    """Mean attention over the last queries."""
    return _steps(view.mean)


def attended_around(view: View) -> Tensor:
    """Mean attention over the last queries, the largest among a frame and its neighbours in time.

    Recent frames, which stay anyway, do not vouch for those before them.
    """
    best = view.mean
    for step in (k for k in range(-NEIGHBOURS, NEIGHBOURS + 1) if k):
        age = view.beside(view.age, step, view.age)
        near = ((age - view.age).abs() <= NEIGHBOURS) & (age >= view.recent)
        best = torch.maximum(best, view.beside(view.mean, step, view.mean) * near)
    return _steps(best)


def attended_or_shifting(view: View) -> Tensor:
    """Mean attention over the last queries and a multiple of its variance: what is looked at now and then counts."""
    return _steps(view.mean + VARIANCE * view.variance)


def unlike_newer(view: View) -> Tensor:
    """Of the pair that is most alike the older gives way; where none is alike, the oldest.

    Forced to merge what differs, a store soon holds nothing but means.
    """
    best = view.similar().amax(-1)
    return torch.where(best >= ALIKE, -best, newest(view) / view.size * ALIKE)


def first_of_its_episode(view: View) -> Tensor:
    """Newer is better among frames of one episode; so the largest episode gives way first, and each keeps its last."""
    member = (view.episode[..., None] == torch.arange(EPISODES, device=view.age.device)) & view.filled[..., None]
    upto = member.long().cumsum(-2)
    before = torch.cat([torch.zeros_like(upto[..., :1, :]), upto[..., :-1, :]], -2)
    start = before.gather(-2, view.start[..., None].expand_as(before))  # members of the heads before
    return -(upto - start).gather(-1, view.episode[..., None]).squeeze(-1).float()


# allocators


def by_mass(view: View) -> Tensor:
    """Heads share by the attention they pay to the past at all; the rest goes to the learned null."""
    return _divide(view, view.per_head(view.mean))


def by_dispersion(view: View) -> Tensor:
    """Heads share by the entropy of their mean attention times its variance over queries, summed over slots."""
    entropy = -torch.special.xlogy(view.mean, view.mean)
    return _divide(view, view.per_head(entropy) * view.per_head(view.variance))


def far_and_near(view: View) -> Tensor:
    """The heads that look farthest (see `FAR`; at least one) divide what the others, with `recent` each, leave.

    A head looks far by its attention to frames that are not recent, and to its compensation slot; one answer for all
    places of a layer.
    """
    old = view.mean * (view.age > view.recent)
    reach = (view.per_head(old) + view.compensation).mean(2, keepdim=True)
    few = max(1, round(FAR * view.heads))
    rest = (view.size - (view.heads - few) * view.recent) / few
    quota = torch.full_like(reach, float(view.recent)).scatter(-1, reach.topk(few).indices, rest)
    return quota.expand_as(view.compensation)


def _divide(view: View, preference: Tensor) -> Tensor:
    preference = preference.clamp(min=0) + 1e-12  # where nothing is known, evenly
    return view.size * preference / preference.sum(-1, keepdim=True)


def _steps(score: Tensor) -> Tensor:
    return (score / STEP).round()


# Sources, and how we differ. The papers on language models mostly evict after a prompt; here it is done at each commit.
POLICIES: dict[str, Policy] = {
    # The plain ring, in this store.
    "window": Policy(newest, "Xiao et al., arXiv 2309.17453 (sinks and a window)"),
    # Theirs staggers which tokens each of many layers keeps; ours, for lack of layers, how steeply heads thin out.
    "ladder": Policy(ladder, "Shi et al., LaCache, arXiv 2507.14204 (ladder, iterative compaction)"),
    # Theirs sums over the last 32 tokens of a prompt; ours is a running mean over `Memory.queries` frames.
    "snapkv": Policy(attended_around, "Li et al., SnapKV, arXiv 2404.14469 (observation window)", looks="finished"),
    # Exponents 1, where the paper fits two for each model; heads share, not layers.
    "cake": Policy(
        attended_or_shifting,
        "Qin et al., CAKE, arXiv 2503.12491 (mean and variance; entropy times variance)",
        by_dispersion,
        looks="finished",
    ),
    # Latents of zero at signal level 0 are our mask tokens; shares follow the same attention, not offline ones.
    "maskkv": Policy(
        attended, "Huang et al., MaskKV, arXiv 2510.09309 (votes of mask queries)", by_mass, looks="blind"
    ),
    # Theirs merges, above a threshold, what the current queries match best; ours the nearest pair, when full.
    "tempcache": Policy(
        unlike_newer, "Samuel et al., TempCache, arXiv 2602.01801 (newest key, mean value, log m)", reduce="merge"
    ),
    # Theirs classes heads offline and far ones keep everything; ours by running attention, within the budget.
    "razor": Policy(
        newest,
        "Tang et al., RazorAttention, arXiv 2407.15891 (head split, compensation token)",
        far_and_near,
        reduce="compensate",
        looks="finished",
    ),
    # Theirs has one cache an episode and swaps them; here episodes share one store and all that is kept is read.
    "epicache": Policy(
        first_of_its_episode, "Kim et al., EpiCache, arXiv 2509.17396 (clusters of the past)", episodes=EPISODES
    ),
}
