"""What happens next, given an action: the interface of every backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.kv_policies import Memory
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.slabs import Slabs, StateSpec
from ..spec import ActionSpec


class Dynamics(nn.Module, ABC):
    """A backbone: memory in, expectation of the next frame out.

    Frame t is predicted from the committed frames before it and the action `a_{t-1}` that leads to it. An action row of
    NaN stands for "none" and belongs to a session's first frame. Two paths compute the same numbers: `predict` and
    `commit` one frame at a time, `parallel` for whole clips. A frame committed at signal level 0 was *not seen*: its
    `z` holds nothing but noise. A recurrent backbone goes on from its own plain prediction instead; others are told the
    level and see the noise.

    spec: the slabs of one session; `window` and `sinks` say which past frames are visible. example: tokens and actions
    that the laws are tested with, for a backbone that does not take just any. memory: the bounded memory that it steps
    with instead of its window, if any. agrees: for how many frames of a session the two paths agree; None: for ever.
    differentiable: whether what it predicts has a gradient by numbers in actions, over many frames. recurrent: how the
    names of the parameters begin that take what is remembered from one frame to the next, for bounds on them. layered:
    whether its first layer can be passed alone (`begin`).
    """

    name: ClassVar[str] = ""
    differentiable: ClassVar[bool] = True
    recurrent: ClassVar[tuple[str, ...]] = ()
    layered: ClassVar[bool] = False
    example: ClassVar[tuple[TokenSpec, ActionSpec] | None] = None
    spec: StateSpec
    memory: Memory | None = None
    agrees: int | None = None

    def __init__(self, tokens: TokenSpec, action: ActionSpec):
        super().__init__()
        self.tokens, self.action = tokens, action

    def init(self, batch: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Slabs:
        """Allocate the memory of `batch` sessions that have seen nothing."""
        return Slabs.empty(self.spec, batch, device, dtype)

    @abstractmethod
    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Expect the next frame's clean latent `(B, N, Z)` under an action.

        Pure, so it may be called once a denoising step.
        """

    def begin(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """Pass the first layer of `predict` alone, for a backbone that is `layered`.

        Returns what the layer adds to the frame's tokens, `(B, N, D)`, and a function that goes on to what `predict`
        returns.
        """
        raise NotImplementedError

    @abstractmethod
    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """Write one frame, known or sampled, whose signal level is `tau_B`, and read its outcome. Consumes `slabs`."""

    def commit_and_predict(
        self,
        slabs: Slabs,
        action_BW: Tensor,
        z_BNZ: Tensor,
        tau_B: Tensor,
        next_BW: Tensor,
        noisy_BNZ: Tensor | None,
        noise: Noise | None,
    ) -> tuple[Slabs, Outcome, Tensor]:
        """Commit a frame and expect the one after it under the action `next_BW`; a backbone may do both in one pass.

        Consumes `slabs`. The same as `commit`, then `predict`, within rounding.
        """
        after, outcome = self.commit(slabs, action_BW, z_BNZ, tau_B)
        return after, outcome, self.predict(after, next_BW, noisy_BNZ, noise)

    @abstractmethod
    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """Commit T frames at once.

        Returns the outcome of each, and a function that predicts each frame from `since` on from the frames before it
        (it may be called many times; `z` is `(B, T - since, N, Z)`).
        """

    @staticmethod
    def last(predict: Predict, since: int) -> Predict:
        """Drop predictions before `since`, for a backbone that makes all of them at once."""
        if since == 0:
            return predict

        def tail(z: Tensor | None, noise: Noise | None) -> Tensor:
            z = z if z is None else F.pad(z, (0, 0, 0, 0, since, 0))
            noise = noise if noise is None else Noise(F.pad(noise.tau, (since, 0)), F.pad(noise.d, (since, 0)))
            return predict(z, noise)[:, since:]

        return tail

    def picture(self, slabs: Slabs) -> Tensor | None:
        """Draw what is remembered as maps `(B, h, w)` in [0, 1], for people; None where memory has no such form."""
        del slabs
        return None
