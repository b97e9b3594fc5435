"""Windowed transformer with a memory track: sharp about the last frames, and aware of everything before them.

The track (`terrella.nn.track`, a selective scan at each token's place) sees every frame and keeps the whole past at
constant size. Asked under the action that leads to the next frame, it gives a vector for each token; these are added to
the tokens and, their mean, to the condition of a block-causal transformer, which has the last `window` frames in full.
Committed frames carry them too, so that keys, rewards and ends know of the long past.

Frames fetched from a `history` are chosen by what the track knows, too. A pose that it learned to sum up is then a
reason to fetch.

The track is asked once a frame, whatever the number of denoising steps, and what it says begins at zero: the hybrid
begins as its transformer.

Ref: Lee et al., EDELINE, arXiv 2502.00466 (a state-space memory conditions a diffusion model of a few frames);
`terrella.dynamics.transformer` and `terrella.nn.track` for the parts. Differs: the model of the next frame is a
transformer, not a U-Net; memory is kept at each token's place, not as one vector; it is asked under the next action.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor, nn

from ..errors import ConfigError
from ..nn.kv_policies import Memory
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import RMSNorm
from ..nn.slabs import Slabs, StateSpec
from ..nn.track import Track
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics
from .transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class HybridConfig:
    """Size of the backbone: of its transformer as in `TransformerConfig`, of the track beside it as in `SSMConfig`."""

    dim: int = 192
    layers: int = 4
    heads: int = 3
    mlp: float = 3.0
    every: int = 4
    window: int = 16
    sinks: int = 0
    history: int = 0
    fetch: int = 4
    stride: int = 1
    memory: Memory | None = None
    track_layers: int = 1
    scan_heads: int = 6
    state: int = 16

    def __post_init__(self) -> None:
        if self.track_layers < 1 or self.state < 1:
            raise ConfigError("track_layers and state must be at least 1.")
        if self.scan_heads < 1 or self.dim % self.scan_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of scan_heads ({self.scan_heads}).")
        _ = self.transformer  # refuses what the transformer cannot be

    @property
    def transformer(self) -> TransformerConfig:
        """The settings of the transformer inside."""
        shared = (f.name for f in fields(TransformerConfig))
        return TransformerConfig(**{name: getattr(self, name) for name in shared})


@register("dynamics", "hybrid")
class Hybrid(Dynamics):
    """The transformer with a memory track.

    Memory a session: the transformer's, and `track_layers * N * dim * state` numbers.
    """

    Config = HybridConfig

    def __init__(self, config: HybridConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        self.transformer = Transformer(c.transformer, tokens, action)
        self.track = Track(
            tokens,
            action,
            dim=c.dim,
            layers=c.track_layers,
            heads=c.heads,
            mlp=c.mlp,
            scan_heads=c.scan_heads,
            state=c.state,
        )
        self.recall = nn.Sequential(RMSNorm(c.dim), nn.Linear(c.dim, c.dim, bias=False))
        nn.init.zeros_(self.recall[1].weight)  # pyright: ignore[reportArgumentType]
        inner = self.transformer.spec  # both know the previous frame's latent and level
        self.spec = StateSpec({**inner.slabs, **self.track.slabs}, inner.window, inner.sinks)
        self.memory, self.agrees = self.transformer.memory, self.transformer.agrees

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        return self.transformer.predict(slabs, action_BW, z_BNZ, noise, self._recalled(slabs, action_BW))

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        recalled = self._recalled(slabs, action_BW)
        written, recurrent, outcome = self.transformer.write(slabs, action_BW, z_BNZ, tau_B, recalled)
        _, remembered = self.track.commit(slabs.recurrent, action_BW, z_BNZ, tau_B, through=False)
        return slabs.append(written, {**recurrent, **remembered}), outcome

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`."""
        _, ask = self.track.clip(z_BTNZ, action_BTW, tau_BT, through=False)
        return self.transformer.parallel(z_BTNZ, action_BTW, tau_BT, since, self.recall(ask(None, None)))

    def _recalled(self, slabs: Slabs, action: Tensor) -> Tensor:
        kept = slabs.scratch.get((self.name, "recalled"))  # the same for all passes of a frame
        if not isinstance(kept, tuple) or kept[0] is not action:
            kept = action, self.recall(self.track.read(slabs.recurrent, action))
            slabs.scratch[self.name, "recalled"] = kept
        return kept[1]
