"""From weights to futures: start sessions from observations, step them under actions, a whole batch a call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..actions import describe, width
from ..errors import ActionError, ConfigError, SpecError, StateError, WorldError
from ..nn.kv_policies import Memory
from ..nn.latents import Noise, Outcome
from ..nn.noise import CONTEXT, SAMPLE, keyed_normal
from ..nn.slabs import Slabs
from ..world import Part, World
from .memory import with_memory
from .state import State, load_state


@dataclass
class Frame:
    """What a step brings, for each session (after `rollout` a time axis follows the batch axis).

    observation: stream -> uint8 images `(B, h, w, C)` or float32 vectors `(B, F)`. reward: float32 `(B,)`. terminated:
    float32 `(B,)`, the probability that the episode ends here. info: more, by name.
    """

    observation: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> np.ndarray:
        """Whether the end is more likely than not, bool `(B,)`."""
        return self.terminated > 0.5


class Engine:
    """Runs one world. Keeps no session of its own: all that changes is in the `State` handed in and out.

    steps: denoising steps a frame (None: the world's own). dtype: of weights and memory (float32, or bfloat16 for
    speed). exact: None, or a batch size to which every call is padded, so that a session's frames are bit for bit
    the same whoever shares its batch (slower: for replays and tests). memory: which past frames a session keeps, a
    `Memory` or its name or settings (None: as the world says); the engine takes a copy of the world that steps so, and
    its states are its own.

    Raises `ConfigError` for settings the world cannot follow, `WorldError` for tokenizers that are not finite,
    `UnknownName` for a memory policy that is not there.
    """

    def __init__(
        self,
        world: World,
        *,
        steps: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        exact: int | None = None,
        memory: Memory | Mapping[str, Any] | str | None = None,
    ):
        if exact is not None and exact < 1:
            raise ConfigError(f"exact is {exact}; it is a batch size, at least 1.")
        parameter = next(world.parameters())
        self.device = torch.device(device) if device is not None else parameter.device
        self.dtype = dtype or parameter.dtype
        # A world in training or another precision keeps its own weights: the engine takes a copy.
        part = None if memory is None else with_memory(world.config.dynamics, memory)
        if part is not None or (self.device, self.dtype) != (parameter.device, parameter.dtype):
            world = _copy(world, part).to(device=self.device, dtype=self.dtype)
        self.world, self.steps, self.exact = world.eval(), steps, exact
        for name, weight in world.tokenizers.named_parameters():
            if not bool(weight.isfinite().all()):  # seen here alone: a picture turns NaN into a colour
                raise WorldError(
                    f"world {world.name!r} has weights that are not finite (tokenizers.{name}): every frame would be "
                    "wrong. Restore its files from a copy, or train it again with a smaller tokenizer_lr."
                )
        self.tokens = world.tokens
        self.fingerprint = fingerprint(world)
        with torch.inference_mode():  # refuse impossible steps now rather than inside a step
            blank = torch.zeros(1, self.tokens.n, self.tokens.channels)
            world.decoder.sample(lambda z, noise: blank, blank, steps)

    # sessions

    @torch.inference_mode()
    def start(
        self,
        observations: Mapping[str, np.ndarray],
        actions: np.ndarray | None = None,
        seeds: int | Sequence[int] = 0,
    ) -> State:
        """Begin sessions from what was seen.

        observations: stream -> `(B, c+1, ...)`, the frames so far. actions: rows `(B, c, W)` between them (none for a
        single frame). seeds: one a session, or the first of a range. Raises `SpecError` or `ActionError`.
        """
        seen = self.world.tensors(observations, self.device)
        first = next(iter(self.world.spec.modelled))
        batch, frames = seen[first].shape[:2]
        if any(v.shape[:2] != (batch, frames) for v in seen.values()) or frames < 1:
            shapes = {k: tuple(v.shape) for k, v in seen.items()}
            raise SpecError(f"streams must share batch and time, with at least one frame; got {shapes}.")
        rows = np.zeros((batch, 0, width(self.world.spec.action))) if actions is None else np.asarray(actions)
        if rows.shape != (batch, frames - 1, width(self.world.spec.action)):
            raise ActionError(f"{frames} frames need actions of shape ({batch}, {frames - 1}, W); got {rows.shape}.")
        keys = range(int(seeds), int(seeds) + batch) if isinstance(seeds, (int, np.integer)) else seeds
        if len(keys) != batch:
            raise SpecError(f"{len(keys)} seeds for {batch} sessions; give one each, or a single number.")
        seed = torch.tensor([int(s) for s in keys], dtype=torch.int64, device=self.device)
        none = torch.full((batch, 1, width(self.world.spec.action)), torch.nan, device=self.device)
        given = torch.cat([none, torch.from_numpy(rows.astype(np.float32)).to(self.device)], 1)
        pad, kept = self._padding(batch), seed
        if pad is not None:
            seed, given, seen = seed[pad], given[pad], {k: v[pad] for k, v in seen.items()}
        latent = self.world.encode(seen).to(self.dtype)
        slabs = self.world.dynamics.init(len(seed), self.device, self.dtype)
        for t in range(frames):
            slabs, _ = self._commit(slabs, seed, given[:, t], latent[:, t], self.world.config.context_level)
        if pad is not None:
            slabs = slabs.select(torch.arange(batch, device=self.device))
        return State(slabs, kept, self.fingerprint)

    def step(self, state: State, actions: np.ndarray | Tensor) -> tuple[State, Frame]:
        """Take one action in every session.

        actions: rows `(B, W)` (see `terrella.actions`). Consumes `state` and returns the next one with its frame.
        Raises `ActionError` when the actions do not fit and `StateError` for another world's state, before anything is
        consumed, and `WorldError` when the world predicts numbers that are not finite; `state` is then spent.
        """
        return self._advance(state, self._rows(actions, state.batch))

    def rollout(self, state: State, actions: np.ndarray | Tensor) -> tuple[State, Frame]:
        """Take T actions in every session.

        Rows `(B, T, W)` give the last state and frames with a time axis, `(B, T, ...)`.
        """
        many = torch.as_tensor(np.asarray(actions) if not isinstance(actions, Tensor) else actions)
        if many.ndim != 3 or many.shape[1] < 1:
            raise ActionError(f"rollout takes actions of shape (B, T, W), T at least 1; got {tuple(many.shape)}.")
        rows = [self._rows(many[:, t], state.batch) for t in range(many.shape[1])]
        frames = []
        for row in rows:
            state, frame = self._advance(state, row)
            frames.append(frame)
        streams = self.world.spec.modelled
        return state, Frame(
            {s: np.stack([f.observation[s] for f in frames], 1) for s in streams},
            np.stack([f.reward for f in frames], 1),
            np.stack([f.terminated for f in frames], 1),
        )

    @torch.inference_mode()
    def picture(self, state: State) -> np.ndarray | None:
        """Draw what every session remembers as maps, uint8 `(B, h, w)`, for people; None where memory has no such form.

        Consumes nothing. Raises `StateError` for another world's state.
        """
        self._require_own(state)
        drawn = self.world.dynamics.picture(state.slabs)
        return None if drawn is None else (drawn * 255).round().to(torch.uint8).cpu().numpy()

    def load_state(self, path: str | Path) -> State:
        """Read a saved state of this world; raises `StateError` for any other."""
        return load_state(path, self.world.dynamics.spec, self.fingerprint, self.device, self.dtype)

    # inside

    @torch.inference_mode()
    def _advance(self, state: State, row: Tensor) -> tuple[State, Frame]:
        self._require_own(state)
        batch, seeds, slabs = state.batch, state.seeds, state.slabs
        pad = self._padding(batch)
        if pad is not None:
            slabs, seeds, row = slabs.owned().select(pad), seeds[pad], row[pad]
        shape = (slabs.batch, self.tokens.n, self.tokens.channels)
        noise = keyed_normal(seeds, slabs.time, SAMPLE, shape[1] * shape[2]).view(shape).to(self.dtype)
        dynamics = self.world.dynamics

        def predict(z: Tensor | None, level: Noise | None) -> Tensor:
            return dynamics.predict(slabs, row, z, level)

        z = self.world.decoder.sample(predict, noise, self.steps)
        finite = z.isfinite().flatten(1).all(1)
        shown = self.world.decode(z)
        if self.world.config.reencode:
            z = self.world.encode(shown).to(self.dtype)
        state.take()  # until here nothing was written: a step that fails leaves its state as it was
        config = self.world.config
        level = config.context_level if config.dream_level is None else config.dream_level
        after, outcome = self._commit(slabs, seeds, row, z, level)
        if pad is not None:
            after = after.select(torch.arange(batch, device=self.device))
        return State(after, state.seeds, state.world), self._frame(shown, outcome, finite, batch)

    def _require_own(self, state: State) -> None:
        if state.world != self.fingerprint:
            raise StateError("this state belongs to another world or memory; use the engine of the one that made it.")

    def _padding(self, batch: int) -> Tensor | None:
        """Indices that fill a batch up to `exact` with its last session, or None where nothing is padded."""
        if self.exact is None:
            return None
        if batch > self.exact:
            raise ConfigError(f"{batch} sessions do not fit an exact engine of {self.exact}; make a larger one.")
        return torch.arange(self.exact, device=self.device).clamp(max=batch - 1)

    def _commit(self, slabs: Slabs, seeds: Tensor, row: Tensor, z: Tensor, level: float) -> tuple[Slabs, Outcome]:
        if level < 1:
            noise = keyed_normal(seeds, slabs.time, CONTEXT, z[0].numel()).view(z.shape).to(z.dtype)
            z = level * z + (1 - level) * noise
        return self.world.dynamics.commit(slabs, row, z, torch.full(z.shape[:1], level, device=z.device))

    def _frame(self, decoded: dict[str, Tensor], outcome: Outcome, finite: Tensor, batch: int) -> Frame:
        reward = outcome.reward * self.world.reward_scale + self.world.reward_shift
        # Pixels cannot say that their latents were NaN; the reward, which is fetched anyway, says it for them.
        reward = torch.where(finite, reward, torch.nan)
        end = outcome.end.sigmoid()
        shown = {k: v[:batch].cpu().numpy() for k, v in decoded.items()}
        frame = Frame(shown, reward[:batch].float().cpu().numpy(), end[:batch].float().cpu().numpy())
        self._require_finite(frame)
        return frame

    def _require_finite(self, frame: Frame) -> None:
        numbers = [frame.reward, frame.terminated, *(v for v in frame.observation.values() if v.dtype != np.uint8)]
        lost = ~np.all([np.isfinite(v).reshape(len(v), -1).all(1) for v in numbers], axis=0)
        if lost.any():
            who = f" in sessions {np.flatnonzero(lost).tolist()} of {len(lost)}" if len(lost) > 1 else ""
            raise WorldError(
                f"world {self.world.name!r} predicted numbers that are not finite{who}. Go on from an earlier fork, or "
                "start anew; if it happens again, train the world longer or with a smaller learning rate."
            )

    def _rows(self, actions: np.ndarray | Tensor, batch: int) -> Tensor:
        spec = self.world.spec.action
        rows = actions if isinstance(actions, Tensor) else torch.from_numpy(np.asarray(actions, np.float64))
        if rows.shape != (batch, width(spec)):
            raise ActionError(
                f"actions have shape {tuple(rows.shape)}; {batch} sessions of {describe(spec)} take rows of shape "
                f"({batch}, {width(spec)}). Turn native actions into rows with terrella.actions.encode."
            )
        rows = rows.to(self.device, torch.float32)
        if not bool(rows.isfinite().all()):
            raise ActionError("actions hold NaN or infinity; every number must be finite.")
        return rows


def _copy(world: World, dynamics: Part | None = None) -> World:
    config = world.config if dynamics is None else replace(world.config, dynamics=dynamics)
    twin = World(world.spec, config, world.name).to(next(world.parameters()).dtype)
    twin.load_state_dict(world.state_dict())
    twin.record, twin.card, twin.starts = world.record, world.card, world.starts
    return twin.requires_grad_(False)


def fingerprint(world: World) -> str:
    """Hash the shape and a sample of the weights of a world, and its memory, to tell its states from another's."""
    digest = hashlib.blake2b(digest_size=12)
    if world.dynamics.memory is not None:
        digest.update(repr(world.dynamics.memory).encode())
    for name, tensor in sorted(world.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().half().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()
