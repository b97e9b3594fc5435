"""State-space backbone: a selective scan over frames, which remembers the whole past at constant size.

The layers are those of `terrella.nn.track`: attention among the tokens of a frame, a selective scan over time at each
token's place, a feed-forward layer. Training is parallel over frames; stepping carries one matrix a head, place and
layer, whatever the session's age. There is no window: how long something is kept is learned, by gates that see what
comes.

Ref: Gu & Dao, Mamba, arXiv 2312.00752; Dao & Gu, Mamba-2, arXiv 2405.21060; for worlds, Po et al., arXiv 2505.20171
(attention inside frames, state-space layers across them). Differs: no attention to past frames at all (`hybrid` has
it), and scans run along time at fixed places, never across the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..nn.blocks import ChangeHead, OutcomeHead
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.slabs import Slabs, StateSpec
from ..nn.track import Track
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics


@dataclass(frozen=True)
class SSMConfig:
    """Size of the backbone. `scan_heads` gates a place and layer, with keys of `state` numbers."""

    dim: int = 192
    layers: int = 4
    heads: int = 3
    mlp: float = 3.0
    scan_heads: int = 6
    state: int = 16

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 x heads ({self.heads}), for rotary pairs.")
        if self.scan_heads < 1 or self.dim % self.scan_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of scan_heads ({self.scan_heads}).")
        if self.layers < 1 or self.state < 1:
            raise ConfigError("layers and state must be at least 1.")


@register("dynamics", "ssm")
class SSM(Dynamics):
    """The state-space backbone.

    Memory a session: `layers * N * dim * state` numbers and one latent.
    """

    Config = SSMConfig

    def __init__(self, config: SSMConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        self.track = Track(
            tokens,
            action,
            dim=c.dim,
            layers=c.layers,
            heads=c.heads,
            mlp=c.mlp,
            scan_heads=c.scan_heads,
            state=c.state,
        )
        self.spec = StateSpec(self.track.slabs)
        self.leave, self.outcome = ChangeHead(c.dim, tokens.channels), OutcomeHead(c.dim)

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        x = self.track.read(slabs.recurrent, action_BW, z_BNZ, noise)
        return slabs.recurrent["previous"].to(x.dtype) + self.leave(x)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        x, recurrent = self.track.commit(slabs.recurrent, action_BW, z_BNZ, tau_B)
        return slabs.append({}, recurrent), self.outcome(x)

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. The commit stream runs once; its states serve every call of what is returned."""
        x, ask = self.track.clip(z_BTNZ, action_BTW, tau_BT)
        previous = F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0))

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            x = ask(z, noise)
            return previous.to(x.dtype) + self.leave(x)

        return self.outcome(x), self.last(predict, since)
