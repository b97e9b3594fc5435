"""Steps the pixel U-Net as `terrella.Engine` steps a world: same start, same step, same frames."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from unet import Denoiser, UNetConfig, to_pixels, to_signal

from terrella.engine import Frame
from terrella.errors import SpecError
from terrella.spec import StreamSpec, WorldSpec

ORDERS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def image_stream(spec: WorldSpec) -> tuple[str, StreamSpec]:
    """Name and shape of the one image that the peer models; raises `SpecError` for worlds that it cannot model."""
    streams = list(spec.modelled.items())
    kinds = ", ".join(f"{name} ({stream.kind} {stream.shape})" for name, stream in streams)
    if len(streams) != 1 or streams[0][1].kind != "image" or any(n % 8 for n in streams[0][1].shape[:2]):
        raise SpecError(f"the U-Net models one image with sides that divide by 8; this dataset has {kinds}.")
    if spec.action.kind != "discrete":
        raise SpecError(f"the U-Net takes discrete actions, not {spec.action.kind}; choose another environment.")
    return streams[0]


def config_for(spec: WorldSpec) -> UNetConfig:
    """The published size, for the images and actions of a dataset."""
    return UNetConfig(actions=spec.action.n, channels=image_stream(spec)[1].shape[-1])


def lay_out(module: nn.Module, order: str) -> None:
    """Choose in which order images lie in memory: weights are laid out so, and what passes through them follows."""
    module.to(memory_format=ORDERS[order])  # pyright: ignore[reportCallIssue]


@dataclass
class PeerState:
    """The last P frames `(B, P, C, h, w)`, the P - 1 actions between them `(B, P - 1)`, and where noise comes from."""

    past: Tensor
    actions: Tensor
    generator: torch.Generator


class PeerEngine:
    """Steps a peer as `terrella.Engine` steps a world; what it does not predict (reward, end) is NaN.

    dtype: of the network's weights. order: of channels in memory. Works on a copy.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        spec: WorldSpec,
        *,
        dtype: torch.dtype = torch.float32,
        order: str = "channels last",
    ):
        self.stream, self.spec = image_stream(spec)[0], spec
        self.denoiser = copy.deepcopy(denoiser).to(dtype).eval()
        lay_out(self.denoiser, order)
        self.device = next(self.denoiser.parameters()).device
        self.frames = self.denoiser.net.config.past

    @torch.inference_mode()
    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> PeerState:
        """Begin from frames `(B, c+1, h, w, C)` and rows `(B, c, W)`; the noise of all sessions follows the first seed.

        Raises `SpecError` for fewer than P frames.
        """
        seen = observations[self.stream]
        if seen.shape[1] < self.frames or actions is None:
            raise SpecError(f"the peer sees {self.frames} frames and the actions between; got {seen.shape[1]} frames.")
        past = to_signal(torch.from_numpy(seen[:, -self.frames :]).to(self.device))
        first = seeds if isinstance(seeds, int) else seeds[0]
        rows = self._choices(np.asarray(actions)[:, len(actions[0]) - self.frames + 1 :])
        return PeerState(past, rows, torch.Generator(self.device).manual_seed(int(first)))

    @torch.inference_mode()
    def step(self, state: PeerState, actions: np.ndarray) -> tuple[PeerState, Frame]:
        """Take one action, rows `(B, W)`, in every session."""
        chosen = torch.cat([state.actions, self._choices(np.asarray(actions)[:, None])], 1)
        noise = torch.randn(state.past[:, 0].shape, generator=state.generator, device=self.device)
        pixels = to_pixels(self.denoiser.sample(state.past, chosen, noise))
        past = torch.cat([state.past[:, 1:], to_signal(pixels)[:, None]], 1)
        unknown = np.full(len(past), np.nan, np.float32)
        frame = Frame({self.stream: pixels.cpu().numpy()}, unknown, unknown)
        return PeerState(past, chosen[:, 1:], state.generator), frame

    def rollout(self, state: PeerState, actions: Any) -> tuple[PeerState, Frame]:
        """Take T actions, rows `(B, T, W)`; the frames get a time axis after the batch."""
        shown = []
        for t in range(actions.shape[1]):
            state, frame = self.step(state, actions[:, t])
            shown.append(frame.observation[self.stream])
        unknown = np.full(actions.shape[:2], np.nan, np.float32)
        return state, Frame({self.stream: np.stack(shown, 1)}, unknown, unknown)

    def _choices(self, rows: np.ndarray) -> Tensor:
        """Rows `(B, T, 1)` to choices counted from 0, int64 `(B, T)`."""
        return torch.from_numpy(rows[..., 0].astype(np.int64) - self.spec.action.start).to(self.device)
