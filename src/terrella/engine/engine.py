"""From weights to futures: start sessions from observations, step them under actions, a whole batch a call."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..actions import width
from ..errors import ActionError, ConfigError, SpecError, StateError
from ..nn.kv_policies import Memory
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..spec import WorldSpec
from ..world import World
from .alarm import Alarm
from .budget import Budget
from .caches import FeatureCache, find_cache
from .calibration import calibrated
from .compiled import CompiledStepper, warm
from .dream import Dream, dream
from .fingerprint import fingerprint
from .frame import Frame, bring, stacked
from .given import action_rows, beginning, compiled_sizes, require_finite
from .guidance import guidance_weights
from .memory import with_memory
from .precision import Precision, copied, lowered, require_one_type, weight_bytes
from .recall import Trail, recall_slabs, recalled
from .reword import require_sentences, retold, rewritten
from .state import State, load_state
from .stepper import Stepper
from .twins import distinct


class Engine:
    """Runs one world. Keeps no session of its own: all that changes is in the `State` handed in and out.

    steps: denoising steps a frame (None: the world's own).
    dtype: of weights and memory: float32, or bfloat16.
    precision: of the weights by part, one name for all or a `Precision` (`{"dynamics": "int8"}`); dtype then is that of
        memory, by default the one in which the dynamics computes.
    memory: which past frames a session keeps, a `Memory` or its name or settings (None: as the world says).
    recall: how many of a session's last frames are kept as latents, for heads (`recent`, `Frame.latent`); 0: none.
    exact: None, or a batch size to which every call is padded, so that a session's frames are bit for bit the same
        whoever shares its batch (slower: for replays and tests).
    cache: which denoising steps are forecast instead of computed, by name (`terrella.engine.CACHES`) or a
        `FeatureCache`; `Frame.info["evaluations"]` then tells how many each session computed.
    reencode: whether, or every how many frames, a dreamed frame passes through pixels and back before it enters the
        memory, 0 for never (None: as the world says).
    alarm: what tells that a session has left what the world knows, an `Alarm` or the name of its signal, such as
        `reencoding`; `Frame.info["alarm"]` then tells each session's level, above 1 where it has.
    guidance: how far beyond what an action leads to frames are drawn (see `engine/guidance.py`), unless a step says
        otherwise; for worlds trained with `action_dropout`, at twice the rows in each denoising step.
    rewords: whether a step under other sentences than those of the frames recalled begins with `reword`.
    budget_ms: milliseconds that `step` may take, action to frame: it then takes as many denoising steps as fit on this
        machine at this moment, and `Frame.info["steps"]` tells how many; equal seeds and actions no longer give equal
        frames.
    fused: whether `rollout` writes a frame and begins the next one in one pass (None: where it is compiled, which is
        where that saves time; see docs/speed.md).
    compiled: batch sizes whose steps are compiled, now, which takes up to two minutes each and warns where it cannot be
        done; other batches run as without.

    States belong to engines with the same world, precision, memory, recall and remembering cache, with an alarm or
    without: a past that other weights wrote, or that another rule chose, is not what this engine would have.

    Raises `ConfigError` for settings the world cannot follow, `UnknownName` for a precision, memory, cache or signal
    there is not, `WorldError` for tokenizers that are not finite.
    """

    def __init__(
        self,
        world: World,
        *,
        steps: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        precision: Precision | Mapping[str, str] | str | None = None,
        memory: Memory | Mapping[str, Any] | str | None = None,
        recall: int = 0,
        exact: int | None = None,
        cache: FeatureCache | str | None = None,
        reencode: bool | int | None = None,
        alarm: Alarm | str | None = None,
        guidance: float = 0.0,
        rewords: bool = False,
        budget_ms: float | None = None,
        fused: bool | None = None,
        compiled: int | Sequence[int] = (),
    ):
        if exact is not None and exact < 1:
            raise ConfigError(f"exact is {exact}; it is a batch size, at least 1.")
        if recall < 0:
            raise ConfigError(f"recall is {recall}; it is a number of frames, 0 for none.")
        require_one_type(world)
        parameter = next(world.parameters())
        self.device = torch.device(device) if device is not None else parameter.device
        chosen = None if precision is None else Precision.of(precision)
        self.dtype = dtype or parameter.dtype if chosen is None else chosen.memory(dtype)
        # A world in training or another precision keeps its own weights: the engine takes a copy.
        if memory is not None:
            world = copied(world, with_memory(world.config.dynamics, memory))
        if chosen is not None:
            world = lowered(world, chosen, self.device, self.dtype)
        elif (self.device, self.dtype) != (parameter.device, parameter.dtype):
            world = copied(world).to(device=self.device, dtype=self.dtype)
        if reencode is not None:  # another description of the same weights
            world = copy.copy(world)
            world.config = replace(world.config, reencode=reencode)
        self.world, self.exact, self.recall = world.eval(), exact, recall
        self.guidance, self.rewords = guidance, rewords
        require_finite(world)
        if rewords:
            require_sentences(world, recall)
        self.tokens, self.cache = world.tokens, find_cache(cache, world, budgeted=budget_ms is not None)
        self.compiled = compiled_sizes(world, compiled, exact, cache is not None)
        self._steppers: dict[int, Stepper | CompiledStepper] = {}
        self._cached: dict[str, SlabSpec] = {}  # what a feature cache remembers from frame to frame
        alarm = Alarm(alarm) if isinstance(alarm, str) else alarm
        self.alarm = None if alarm is None else calibrated(self.world, alarm, self.dtype)
        self.steps, self._budget = world.decoder.steps if steps is None else steps, None
        self._stepper(self.steps)  # refuse what is impossible now rather than inside a step
        self._weights(None, 1)
        if budget_ms is not None:  # from the best frames to the cheapest
            counts = [k for k in world.decoder.choices[::-1] if steps is None or k <= steps]
            self._budget, self.steps = Budget(budget_ms, counts), counts[0]
        if self.cache is not None:
            self._cached = self.cache.slabs(self.tokens, width(world.spec.action), self.steps)
        self._kept = {**self._cached, **({} if self.alarm is None else self.alarm.slabs), **world.decoder.slabs}
        layer = self.cache is not None and self.cache.rule == "layer"  # which is passed alone
        self.fused = (bool(self.compiled) if fused is None else fused) and not self._kept and not layer
        chunks = bool(world.decoder.slabs)  # which are drawn given the last frame
        self._recalled = recall_slabs(max(recall, chunks), self.tokens, width(world.spec.action), beside=not chunks)
        self.fingerprint = fingerprint(world, *self._kept, *(f"{name} {recall}" for name in self._recalled))
        for size, count in itertools.product(self.compiled, self._budget.steps if self._budget else (self.steps,)):
            warm(self._stepper(count), self._blank(size), width(world.spec.action))

    @property
    def spec(self) -> WorldSpec:
        """What observations and actions of the world look like."""
        return self.world.spec

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the weights by part: `encoder`, `dynamics`, `decoder`, and `other` for constants of the world."""
        return weight_bytes(self.world)

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
        seen, led, keys = beginning(self.world, observations, actions, seeds, self.device)
        pad = self._padding(len(keys))
        latent = self.world.encode(seen if pad is None else {k: v[pad] for k, v in seen.items()}).to(self.dtype)
        return State(self._prefill(latent[: len(keys)], led, keys), keys, self.fingerprint)

    @torch.inference_mode()
    def observe(self, state: State, actions: np.ndarray | Tensor, observations: Mapping[str, np.ndarray]) -> State:
        """Go on with what truly came of an action in every session, instead of a frame of the world's own.

        actions: rows `(B, W)`. observations: stream -> `(B, ...)`, the frames that followed. They are written as
        `start` writes what it is given: starting from the first of some frames and observing the others is starting
        from all. Consumes `state` and returns the next one. Raises `ActionError`, `SpecError` or `StateError` before
        anything is consumed.
        """
        self._require_own(state)
        batch, slabs, seeds = state.batch, state.slabs, state.seeds
        row, seen = self._rows(actions, batch), self.world.tensors(observations, self.device)
        if any(v.shape != (batch, *self.spec.modelled[name].shape) for name, v in seen.items()):
            shapes = {name: tuple(v.shape) for name, v in seen.items()}
            raise SpecError(f"{batch} sessions observe one frame each, (B, ...) with B = {batch}; got {shapes}.")
        pad = self._padding(batch)
        if pad is not None:
            slabs, seeds, row = slabs.owned().select(pad), seeds[pad], row[pad]
            seen = {name: v[pad] for name, v in seen.items()}
        latent = self.world.encode(seen).to(self.dtype)
        state.take()
        after, _ = self._stepper(self.steps).commit(slabs, seeds, row, latent, self.world.config.context_level)
        # What a feature cache or an alarm remembers is of frames that did not come true.
        after.recurrent.update(Slabs.empty(StateSpec(self._kept), len(seeds), self.device, self.dtype).recurrent)
        if pad is not None:
            after = after.select(torch.arange(batch, device=self.device))
        return State(after, state.seeds, state.world)

    @torch.inference_mode()
    def reword(self, state: State, actions: np.ndarray | Tensor) -> State:
        """Write the last frames of every session anew, as if the sentences of `actions` had always held.

        actions: rows `(B, W)`, of which the texts count. A session then remembers what one remembers that began with
        the oldest of its last `recall` frames; one that has heard nothing else stays as it is (see `engine/reword.py`).
        Consumes `state` and returns the next one. Raises, before anything is consumed, `ActionError` where actions hold
        no text, `ConfigError` where this engine recalls fewer than two frames, and `StateError`.
        """
        self._require_own(state)
        row, slabs = self._rows(actions, state.batch), state.slabs
        require_sentences(self.world, self.recall)
        again = retold(self.spec.action, recalled(slabs, self.recall), slabs.time, state.seeds, row)
        if not again:
            return State(state.take(), state.seeds, state.world, state.twins)
        after, seeds = rewritten(slabs, state.seeds, again, self._prefill)
        state.take()
        return State(after, seeds, state.world)

    def step(
        self, state: State, actions: np.ndarray | Tensor, *, steps: int | None = None, guidance: Any = None
    ) -> tuple[State, Frame]:
        """Take one action in every session.

        actions: rows `(B, W)` (see `terrella.actions`); where frames are drawn in chunks (`Decoder.unit`), the one that
        begins a chunk draws all of it. steps: denoising steps of this frame, instead of those that the engine or its
        budget would take. guidance: of this frame, instead of the engine's, one number or one for each session `(B,)`.
        Consumes `state` and returns the next one with its frame. Raises, before anything is consumed, `ActionError`,
        `ConfigError` for steps that the world cannot take or guidance that it cannot have and `StateError` for another
        world's state, and `WorldError` when the world predicts numbers that are not finite; `state` is then spent.
        """
        return self._advance(state, self._rows(actions, state.batch), steps=steps, guidance=guidance)

    @torch.inference_mode()
    def rollout(
        self, state: State, actions: np.ndarray | Tensor, *, observe: bool = True, guidance: Any = None
    ) -> tuple[State, Frame]:
        """Take T actions in every session.

        Rows `(B, T, W)` give the last state and frames with a time axis, `(B, T, ...)`. The actions being known ahead,
        writing a frame and beginning the next one are one pass where the engine is `fused`. observe: whether frames
        are decoded; without, `observation` is empty, for planners that look at rewards alone. guidance: as of `step`.
        Raises as `step` does.
        """
        many = torch.as_tensor(np.asarray(actions) if not isinstance(actions, Tensor) else actions)
        if many.ndim != 3 or many.shape[1] < 1:
            raise ActionError(f"rollout takes actions of shape (B, T, W), T at least 1; got {tuple(many.shape)}.")
        rows = [self._rows(many[:, t], state.batch) for t in range(many.shape[1])]
        whole = self.fused and self.exact is None and self._budget is None and not self.rewords
        if whole and len(rows) > 1 and self._weights(guidance, state.batch) is None:
            state, frames = self._advance_many(state, rows, observe)
        else:
            frames = []
            for row in rows:
                state, frame = self._advance(state, row, observe, guidance=guidance)
                frames.append(frame)
        return state, stacked(frames)

    def dream(self, state: State, actions: Tensor, *, observe: bool = True) -> Dream:
        """Take actions `(B, T, W)` as `rollout` does, with a gradient by them; `state` stays usable.

        For short futures: memory grows with every frame. Without feature caches and compiled graphs. Raises
        `ConfigError` where the world has no gradient, `ActionError` or `StateError` as `rollout` does.
        """
        self._require_own(state)
        for t in range(actions.shape[1]):
            self._rows(actions[:, t].detach(), state.batch)
        stepper = Stepper(self.world, self.steps, self.dtype)
        return dream(stepper, state, actions, observe, self._weights(None, state.batch))

    def recent(self, state: State) -> Trail:
        """The last `recall` frames of every session as latents, for heads; `state` stays usable.

        Raises `ConfigError` where this engine recalls none, `StateError` for another world's state.
        """
        self._require_own(state)
        if not self.recall:
            raise ConfigError("this engine recalls no frames; make it with Engine(world, recall=4).")
        return recalled(state.slabs, self.recall)

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
        return load_state(path, self._spec, self.fingerprint, self.device, self.dtype)

    # inside

    def _blank(self, batch: int) -> Slabs:
        """The memory of sessions that have seen nothing."""
        slabs = self.world.dynamics.init(batch, self.device, self.dtype)
        blank = Slabs.empty(StateSpec({**self._kept, **self._recalled}), batch, self.device, self.dtype)
        return Slabs(self._spec, {**slabs.recurrent, **blank.recurrent}, slabs.segments, slabs.time)

    def _prefill(self, latent_BTNZ: Tensor, led_BTW: Tensor, seeds_B: Tensor) -> Slabs:
        """What sessions remember that have seen these frames and nothing before them. led: the row before each."""
        pad, stepper = self._padding(len(seeds_B)), self._stepper(self.steps)
        latent, led, seeds = (x if pad is None else x[pad] for x in (latent_BTNZ, led_BTW, seeds_B))
        slabs = self._blank(len(seeds))
        for t in range(latent.shape[1]):
            slabs, _ = stepper.commit(slabs, seeds, led[:, t], latent[:, t], self.world.config.context_level)
        return slabs if pad is None else slabs.select(torch.arange(len(seeds_B), device=self.device))

    @property
    def _spec(self) -> StateSpec:
        own = self.world.dynamics.spec
        return replace(own, slabs={**own.slabs, **self._kept, **self._recalled})

    @torch.inference_mode()
    def _stepper(self, steps: int) -> Stepper | CompiledStepper:
        """What makes frames of so many denoising steps; raises `ConfigError` where the world cannot."""
        if steps not in self._steppers:
            if self._cached and steps != self.steps:
                raise ConfigError(f"steps is {steps}, but what this engine's cache remembers is of {self.steps} steps.")
            blank, decoder = torch.zeros(1, self.tokens.n, self.tokens.channels), self.world.decoder
            noise = blank if decoder.unit == 1 else torch.stack([blank] * decoder.unit, 1)
            decoder.sample(lambda z, level: blank, noise, steps)
            plain = Stepper(self.world, steps, self.dtype, self.cache, self.alarm)
            self._steppers[steps] = CompiledStepper(plain, self.compiled) if self.compiled else plain
        return self._steppers[steps]

    @torch.inference_mode()
    def _advance(
        self, state: State, row: Tensor, observe: bool = True, steps: int | None = None, guidance: Any = None
    ) -> tuple[State, Frame]:
        self._require_own(state)
        weight = self._weights(guidance, state.batch)
        budget = self._budget if steps is None else None
        if steps is not None:
            self._stepper(steps)
        few, back, twins = self._padding(state.batch), None, None
        state = self.reword(state, row) if self.rewords else state
        batch, seeds, slabs = state.batch, state.seeds, state.slabs
        if few is not None:
            slabs, back = slabs.owned(), torch.arange(batch, device=self.device)
        elif (found := distinct(state, row if weight is None else torch.cat([row, weight[:, None]], 1))) is not None:
            few, back, twins = found
        if few is not None:
            slabs, seeds, row = slabs.select(few), seeds[few], row[few]
            weight = None if weight is None else weight[few]
        rows = len(row) if weight is None else 2 * len(row)  # that pass the network
        began, rung = time.perf_counter(), 0 if budget is None else budget.choose(rows)
        stepper = self._stepper(steps or (self.steps if budget is None else budget.steps[rung]))
        drawn = stepper.draw(slabs, seeds, row, observe, weight)
        state.take()  # until here nothing was written: a step that fails leaves its state as it was
        after, outcome = stepper.commit_dreamed(slabs, seeds, row, drawn.z_BNZ)
        after.recurrent.update(drawn.kept)
        if back is not None:
            after = after.select(back)
        frame = bring(self.world, drawn, outcome, back, self.recall > 0)
        if budget is not None:
            budget.note(rows, rung, 1e3 * (time.perf_counter() - began))
            frame.info["steps"] = np.full(batch, stepper.steps)
        return State(after, state.seeds, state.world, twins), frame

    def _advance_many(self, state: State, rows: list[Tensor], observe: bool) -> tuple[State, list[Frame]]:
        self._require_own(state)
        frames = []
        while state.twins is not None and len(rows) > 1:  # branches that are still one are computed once
            state, frame = self._advance(state, rows.pop(0), observe, guidance=0.0)
            frames.append(frame)
        seeds, slabs = state.seeds, state.slabs
        stepper = self._stepper(self.steps)
        drawn = stepper.draw(slabs, seeds, rows[0], observe)
        state.take()
        for row, after in itertools.pairwise(rows):
            before = drawn
            slabs, outcome, drawn = stepper.commit_and_draw(slabs, seeds, row, before.z_BNZ, after, observe)
            frames.append(bring(self.world, before, outcome, latent=self.recall > 0))
        slabs, outcome = stepper.commit_dreamed(slabs, seeds, rows[-1], drawn.z_BNZ)
        frames.append(bring(self.world, drawn, outcome, latent=self.recall > 0))
        return State(slabs, seeds, state.world), frames

    def _require_own(self, state: State) -> None:
        if state.world != self.fingerprint:
            raise StateError("this state belongs to another world, precision or memory; use the engine that made it.")

    def _padding(self, batch: int) -> Tensor | None:
        """Indices that fill a batch up to `exact` with its last session, or None where nothing is padded."""
        if self.exact is None:
            return None
        if batch > self.exact:
            raise ConfigError(f"{batch} sessions do not fit an exact engine of {self.exact}; make a larger one.")
        return torch.arange(self.exact, device=self.device).clamp(max=batch - 1)

    def _weights(self, guidance: Any, batch: int) -> Tensor | None:
        wanted = self.guidance if guidance is None else guidance
        return guidance_weights(self.world, wanted, batch, self.device, self.cache is not None)

    def _rows(self, actions: np.ndarray | Tensor, batch: int) -> Tensor:
        return action_rows(self.spec.action, actions, batch, self.device)
