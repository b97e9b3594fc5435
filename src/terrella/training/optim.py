"""The optimiser: Muon for the matrices inside the backbone's layers, AdamW for everything else; or AdamAtan2 for all.

Ref: Jordan et al., Muon, 2024 (orthogonalised momentum); step sizes matched to AdamW's as in Liu et al., arXiv
2502.16982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from .sharding import ShardedMuon, in_shards, like_shards


class Optimizer:
    """Two optimisers stepped as one, with a learning rate that follows training's progress.

    The rate rises over the first steps, stays, and falls linearly over the last half.
    """

    WARM_STEPS = 100
    FLAT = 0.5

    def __init__(
        self, module: nn.Module, lr: float, weight_decay: float, clip_norm: float, muon: bool, atan2: bool = False
    ):
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        inner = {
            id(p) for n, p in module.named_parameters() if muon and p.ndim == 2 and "blocks." in n and "table" not in n
        }
        matrices = [p for p in self.parameters if id(p) in inner]
        rest = [p for p in self.parameters if id(p) not in inner]
        self.parts: list[torch.optim.Optimizer] = []
        if rest:  # some tokenizers have nothing to learn
            rate = min(lr, 1e-3) if muon else lr
            adam = AdamAtan2 if atan2 else torch.optim.AdamW
            self.parts.append(adam(rest, lr=rate, weight_decay=weight_decay, betas=(0.9, 0.95)))
        if matrices:
            whole: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
            if in_shards(matrices[0]):
                self.parts.append(ShardedMuon(matrices, **whole))
            else:
                self.parts.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **whole))
        self.rates = [group["lr"] for part in self.parts for group in part.param_groups]
        self.clip_norm = clip_norm

    def step(self, loss: Tensor, step: int, progress: float) -> None:
        """Take one step down `loss`; raises `TrainingError` when it is not finite."""
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {step}; lower TrainingConfig.lr and resume.")
        scale = min(1.0, (step + 1) / self.WARM_STEPS) * min(1.0, (1 - progress) / (1 - self.FLAT) + 0.01)
        for group, rate in zip((g for part in self.parts for g in part.param_groups), self.rates):
            group["lr"] = rate * scale
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimisers' memory, name -> tensor, for a checkpoint."""
        out = {}
        for i, part in enumerate(self.parts):
            for j, p in enumerate(_members(part)):
                for key, value in part.state.get(p, {}).items():
                    out[f"{i}/{j}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return out

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the memory of a checkpoint back."""
        for name, value in tensors.items():
            i, j, key = name.split("/")
            part = self.parts[int(i)]
            p = _members(part)[int(j)]
            part.state[p][key] = value.clone() if key == "step" else like_shards(value.to(p.device).clone(), p)


class AdamAtan2(torch.optim.Optimizer):
    """Adam without an epsilon: p <- p (1 - lr wd) - 1.27 lr atan2(m, sqrt v), with m and v corrected for their start.

    The step depends on the ratio of m to sqrt v alone, however small the gradient; 1.27 makes the largest step 2 lr.
    Ref: Everett et al., arXiv 2407.05872 (Adam-atan2).
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step down the gradients."""
        del closure
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                m = state["exp_avg"].lerp_(p.grad, 1 - fast)
                v = state["exp_avg_sq"].mul_(slow).addcmul_(p.grad, p.grad, value=1 - slow)
                steps = float(state["step"])  # rests on the CPU: no device waits
                turn = torch.atan2(m / (1 - fast**steps), (v / (1 - slow**steps)).sqrt_())
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(turn, alpha=1.27 * group["lr"])


class Average:
    """An exponential moving average of weights, whose memory grows with training (a `share` of the steps so far).

    With a share of 0 there is none, and `exchange` does nothing.
    Ref: Karras et al., arXiv 2312.02696, section 3 (power-function averages).
    """

    def __init__(self, module: nn.Module, share: float = 0.05):
        self.module, self.share = module, share
        self.shadow = {k: v.detach().clone() for k, v in self._live()} if share else {}

    def _live(self) -> Iterable[tuple[str, Tensor]]:
        return ((k, v) for k, v in self.module.named_parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after `step` steps."""
        weight = max(1 / (step + 1), 1 / (self.share * step + 10))
        for name, value in self._live() if self.share else ():
            self.shadow[name].lerp_(value, weight)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the average of a checkpoint back."""
        live = dict(self._live())
        self.shadow = {k: like_shards(v.to(live[k].device), live[k]) for k, v in tensors.items()}

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the weights and their average; call twice to come back."""
        for name, value in self._live() if self.share else ():
            kept = value.detach().clone()
            value.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)


def _members(part: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in part.param_groups for p in group["params"]]
