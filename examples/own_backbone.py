"""A backbone of your own in one file: what each token held lately fades, and a small network says what comes next.

    python examples/own_backbone.py

checks it against the laws, trains it for a minute on CartPole and steps it. Once its file is imported, `fading` is a
name like any other: in `terrella.train(..., config=...)`, in saved worlds and in `benchmarks/memory.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terrella.dynamics import Dynamics
from terrella.nn.actions import ActionEmbedding
from terrella.nn.blocks import ChangeHead, OutcomeHead
from terrella.nn.latents import Noise, Outcome, Predict, TokenSpec
from terrella.nn.slabs import Slabs, SlabSpec, StateSpec
from terrella.registry import register
from terrella.spec import ActionSpec


@dataclass(frozen=True)
class FadingConfig:
    """dim: width of the network. keep: what is left of a frame after another one."""

    dim: int = 128
    keep: float = 0.7


@register("dynamics", "fading")
class Fading(Dynamics):
    """Memory a session: the last latent and the fading one."""

    Config = FadingConfig

    def __init__(self, config: FadingConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config, channels = config, tokens.channels
        frame = SlabSpec((tokens.n, channels))
        self.spec = StateSpec({"previous": frame, "faded": frame})
        self.enter = nn.Linear(4 * channels, config.dim)
        self.place = nn.Parameter(torch.randn(tokens.n, config.dim) * 0.02)
        self.act = ActionEmbedding(action, config.dim)
        self.mix = nn.Linear(config.dim, config.dim)
        self.leave, self.outcome = ChangeHead(config.dim, channels), OutcomeHead(config.dim)

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Expect the next frame."""
        return self._expect(slabs.recurrent["previous"], slabs.recurrent["faded"], action_BW, z_BNZ, noise)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """Let a frame be past."""
        faded = self._fade(slabs.recurrent["faded"], z_BNZ, tau_B)
        outcome = self.outcome(self._think(z_BNZ, faded, action_BW, None, None))
        return slabs.append({}, {"previous": z_BNZ, "faded": faded}), outcome

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """Do both for all frames of clips."""
        states = [torch.zeros_like(z_BTNZ[:, 0])]
        for t in range(z_BTNZ.shape[1]):
            states.append(self._fade(states[-1], z_BTNZ[:, t], tau_BT[:, t]))
        faded, previous = torch.stack(states, 1), F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0))

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            return self._expect(previous, faded[:, :-1], action_BTW, z, noise)

        return self.outcome(self._think(z_BTNZ, faded[:, 1:], action_BTW, None, None)), self.last(predict, since)

    def _fade(self, faded: Tensor, z: Tensor, tau: Tensor) -> Tensor:
        return torch.lerp(tau[:, None, None].to(z) * z, faded, self.config.keep)

    def _expect(self, previous: Tensor, faded: Tensor, action: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        return previous + self.leave(self._think(previous, faded, action, z, noise))

    def _think(self, previous: Tensor, faded: Tensor, action: Tensor, z: Tensor | None, noise: Noise | None) -> Tensor:
        level = torch.zeros_like(previous) if noise is None else noise.tau[..., None, None].expand_as(previous)
        given = torch.cat([previous, faded, torch.zeros_like(previous) if z is None else z, level.to(previous)], -1)
        x = self.enter(given.to(self.place.dtype)) + self.place
        return F.silu(self.mix(F.silu(x + self.act(action)[..., None, :])))


def main() -> None:
    import tempfile
    from pathlib import Path

    import terrella
    from terrella import check
    from terrella.world import Part, WorldConfig

    backbone = Fading(FadingConfig(), check.TOKENS, check.ACTION)
    print("laws that hold:", ", ".join(check.check_dynamics(backbone)))
    with tempfile.TemporaryDirectory() as folder:
        data = terrella.record("CartPole-v1", Path(folder) / "data", steps=5_000)
        config = WorldConfig(Part("fading"), Part("regression"), {"state": Part("vector", {"channels": 16})})
        world = terrella.train(data, Path(folder) / "world", budget="1m", config=config)
        print("held-out loss (1 is the mean frame):", world.record["dynamics_held_out"])


if __name__ == "__main__":
    main()
