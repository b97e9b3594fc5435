"""Embeds flat action rows of any action space into one vector a frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..actions import describe, width
from ..errors import ActionError
from ..spec import ActionSpec
from .text import Words, WordsConfig


class ActionEmbedding(nn.Module):
    """Sum of one embedding for each leaf of the action space: `(..., W)` -> `(..., D)`.

    Choices look up a table; numbers are scaled by their bounds and pass through a small network; text has an encoder
    (`nn/text.py`). A row of NaN means "no action" (a first frame) and gives a learned vector.
    """

    def __init__(self, spec: ActionSpec, dim: int):
        super().__init__()
        self.spec = spec
        self.leaves = nn.ModuleList(_leaves(spec, dim))
        self.splits = [leaf.width for leaf in self.leaves]
        self.none = nn.Parameter(torch.randn(dim) * 0.02)
        self.width = width(spec)

    def forward(self, rows: Tensor) -> Tensor:
        """Embed rows `(..., W)`; NaN rows give the learned "none"."""
        absent = rows[..., :1].isnan()
        rows = rows.nan_to_num(0.0)
        total = torch.zeros((), dtype=self.none.dtype, device=rows.device)
        for leaf, part in zip(self.leaves, rows.split(self.splits, -1)):
            total = total + leaf(part)
        return torch.where(absent, self.none, total)

    @torch.no_grad()
    def follow(self, other: ActionEmbedding, weight_ZF: Tensor, bias_Z: Tensor) -> None:
        """Become the embedding that `other`, of a `Box` of Z numbers, has of `weight x + bias`, exactly.

        x: the number of each choice (of a `Discrete` space) as a one-hot vector, or the numbers of a `Box`; F of them.
        Raises `ActionError` for other spaces, whose embeddings cannot hold that.
        """
        own, theirs = self.leaves[0], other.leaves[0]
        if self.spec.kind not in ("discrete", "box") or not isinstance(theirs, _Numbers):
            raise ActionError(
                f"actions are {describe(self.spec)}, to be turned into {describe(other.spec)}; expected Discrete or "
                "Box, to be turned into a Box."
            )
        self.none.copy_(other.none)
        own.follow(theirs, weight_ZF.to(other.none), bias_Z.to(other.none))  # pyright: ignore[reportCallIssue]


def _leaves(spec: ActionSpec, dim: int) -> list[nn.Module]:
    if spec.kind == "discrete":
        return [_Choices([spec.n], [spec.start], dim)]
    if spec.kind == "multi_discrete":
        return [_Choices(list(spec.nvec), [0] * len(spec.nvec), dim)]
    if spec.kind == "multi_binary":
        return [_Choices([2] * width(spec), [0] * width(spec), dim)]
    if spec.kind == "box":
        return [_Numbers(spec, dim)]
    if spec.kind == "text":
        return [TextLeaf(spec, dim)]
    return [leaf for child in spec.children for leaf in _leaves(child, dim)]


class _Choices(nn.Module):
    def __init__(self, counts: list[int], starts: list[int], dim: int):
        super().__init__()
        self.width = len(counts)
        self.table = nn.Embedding(sum(counts), dim)
        first = torch.tensor([sum(counts[:i]) for i in range(len(counts))])
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("start", torch.tensor(starts), persistent=False)
        self.register_buffer("last", torch.tensor(counts) - 1, persistent=False)

    def forward(self, part: Tensor) -> Tensor:
        choice = (part.long() - self.start).clamp(min=0).minimum(self.last)  # pyright: ignore
        return self.table(choice + self.first).sum(-2)  # pyright: ignore

    def follow(self, numbers: _Numbers, weight_ZF: Tensor, bias_Z: Tensor) -> None:
        """See `ActionEmbedding.follow`."""
        self.table.weight.copy_(numbers((weight_ZF + bias_Z[:, None]).T))


class _Numbers(nn.Module):
    def __init__(self, spec: ActionSpec, dim: int):
        super().__init__()
        self.width = width(spec)
        low, high = (torch.tensor(b, dtype=torch.float64) for b in (spec.low, spec.high))
        finite = low.isfinite() & high.isfinite() & (high > low)
        centre = torch.where(finite, (low + high) / 2, 0.0)
        scale = torch.where(finite, (high - low) / 2, 1.0)
        self.register_buffer("centre", centre.float(), persistent=False)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.net = nn.Sequential(nn.Linear(self.width, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, part: Tensor) -> Tensor:
        weight = self.net[0].weight
        return self.net(((part - self.centre) / self.scale).to(weight.dtype))  # pyright: ignore

    def follow(self, numbers: _Numbers, weight_ZF: Tensor, bias_Z: Tensor) -> None:
        """See `ActionEmbedding.follow`: two linear maps in a row are one."""
        turned = numbers.net[0].weight / numbers.scale  # pyright: ignore
        self.net.load_state_dict({**numbers.net.state_dict(), "0.weight": turned @ weight_ZF * self.scale})  # pyright: ignore
        bias = weight_ZF @ self.centre + bias_Z - numbers.centre  # pyright: ignore
        self.net[0].bias.add_(turned @ bias)  # pyright: ignore


class TextLeaf(nn.Module):
    """One text of an action: bytes `(..., W)` -> `(..., D)`, by an encoder that can be exchanged.

    Clips hold a sentence for many frames, so what is given as clips is encoded once for each distinct sentence; one
    frame of each session is encoded as it is, in shapes that depend on no text.
    """

    def __init__(self, spec: ActionSpec, dim: int):
        super().__init__()
        self.width, self.dim = width(spec), dim
        # Bytes beyond one a character are never used where all characters have one.
        self.used = spec.n // 4 if spec.charset.isascii() and spec.charset else spec.n
        self.encoder: nn.Module = Words(WordsConfig(), dim)

    def forward(self, part: Tensor) -> Tensor:
        """Encode."""
        rows = part[..., : self.used].reshape(-1, self.used).long()
        if part.ndim > 2 and not torch.compiler.is_compiling():
            rows, where = torch.unique(rows, dim=0, return_inverse=True)
            return self.encoder(rows)[where].unflatten(0, part.shape[:-1])
        return self.encoder(rows).reshape(*part.shape[:-1], self.dim)


def text_leaves(module: nn.Module) -> list[TextLeaf]:
    """Find where a part reads text, in the order of its modules."""
    return [leaf for leaf in module.modules() if isinstance(leaf, TextLeaf)]
