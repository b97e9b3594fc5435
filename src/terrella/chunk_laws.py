"""The laws of decoders that draw chunks of frames (`Decoder.unit` above 1). `terrella.check` runs them.

Such a decoder has a network of its own, and no prediction makes it sure of a frame. What holds of it is what sessions
rely on: chunks follow from predictions and noise alone, are handed over frame by frame, and do not mix sessions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .decoders import Decoder
from .decoders.base import FrameNoise
from .errors import ConfigError
from .laws import BATCH, TOLERANCE, close, expect, no_global_chance, shaken
from .nn.slabs import Slabs, StateSpec

EXACT = TOLERANCE[torch.float64]


def chunks_are_functions(decoder: Decoder) -> None:
    """A chunk has its shape, follows from prediction and noise alone, and is the same in any company."""
    part = shaken(decoder, torch.float64)
    noise, slow = part.example((BATCH, part.unit), torch.Generator().manual_seed(0))
    kept, slow = noise.clone(), slow[:, 0]
    with no_global_chance():
        first, again = (part.sample(lambda z, level: slow, noise) for _ in range(2))
    expect(first.shape == noise.shape, "shape of a chunk", tuple(noise.shape), tuple(first.shape))
    expect(torch.equal(first, again), "second chunk", "equal bits", "others", "All chance is in the noise.")
    expect(torch.equal(noise, kept), "noise", "untouched", "changed", "Do not write into it.")
    for row in range(BATCH):
        alone = part.sample(lambda z, level, row=row: slow[row : row + 1], noise[row : row + 1])
        close(f"chunk of session {row} alone", first[row : row + 1], alone, EXACT, "Let no session see another.")
    for steps in (0, -1):
        try:
            part.sample(lambda z, level: slow, noise, steps)
        except ConfigError:
            continue
        expect(False, f"sample in {steps} steps", "ConfigError", "a chunk", "Refuse what cannot be.")


def chunks_come_frame_by_frame(decoder: Decoder) -> None:
    """Sessions at different frames of their chunks get what each gets alone; inside a chunk no prediction matters."""
    part = shaken(decoder, torch.float64)
    frames, ages = 4 * part.unit, (0, 1, part.unit + 1)
    source = torch.Generator().manual_seed(0)
    (noise, slow), (blur, other) = (part.example((BATCH, frames + part.unit), source) for _ in range(2))
    start = blur[:, :1]
    whole = drawn(part, slow[:, :frames], start, noise, blur, 1)
    expect(whole.shape[1] == frames - 1, "frames drawn one by one", frames - 1, whole.shape[1])
    inside = slow.clone()
    inside[:, 2 : 1 + part.unit] = other[:, 2 : 1 + part.unit]  # the first chunk holds frames 1 .. unit
    edited = drawn(part, inside[:, :frames], start, noise, blur, 1)
    close("frames after other predictions inside a chunk", whole, edited, EXACT, "Ask once, where a chunk begins.")
    inside[:, 1 + part.unit] = other[:, 1 + part.unit]
    moved = drawn(part, inside[:, :frames], start, noise, blur, 1)
    gap = float((moved - whole)[:, part.unit].abs().max())
    expect(gap > 1e-6, "next chunk under another prediction", "changed", gap, "The slow state must reach the chunk.")
    alone = [_sessions(part, [row], [age], slow, start, noise, blur) for row, age in enumerate(ages)]
    together = _sessions(part, list(range(BATCH)), list(ages), slow, start, noise, blur)
    close("sessions in company", torch.cat(alone), together, EXACT, "Let no session see another.")
    for row, age in enumerate(ages):
        expected = whole[row, age : age + part.unit + 1]
        close(f"session {row} after {age} frames", expected, together[row], EXACT, "Keep all that matters in `slabs`.")


def chunk_loss_teaches(decoder: Decoder) -> None:
    """The loss has one finite float32 number a frame, follows its generator alone, and teaches the predictions."""
    part = shaken(decoder)
    z, slow = (v.float() for v in part.example((4, 2 * part.unit + 3), torch.Generator().manual_seed(0)))
    slow.requires_grad_(True)
    for progress, seed in ((p, s) for p in (0.0, 1.0) for s in range(4)):
        with no_global_chance():
            loss, again = (
                part.loss(lambda noisy, level: slow, z, progress, torch.Generator().manual_seed(seed)) for _ in range(2)
            )
        fits = loss.shape == z.shape[:2] and loss.dtype == torch.float32 and bool(loss.isfinite().all())
        expect(fits, "loss", f"finite float32 {tuple(z.shape[:2])}", f"{loss.dtype} {tuple(loss.shape)}")
        expect(torch.equal(loss, again), "loss with the same generator", "equal bits", "others", "Draw only from it.")
        (gradient,) = torch.autograd.grad(loss.sum(), slow)
        reached = bool(gradient.abs().sum() > 0)
        expect(reached, "gradient by predictions", "some", "none", "Keep the prediction in the graph.")


def drawn(part: Decoder, plain: Tensor, z: Tensor, noise: Tensor, blur: Tensor, first: int) -> Tensor:
    """Draw the frames `first`, `first + 1`, ... one by one from plain predictions `(B, T, N, Z)` of all frames.

    z: `(B, t, N, Z)`, frames to go on from; the frame before each is taken from here, or, past its end, is what was
    drawn. noise, blur: `(B, T + unit, N, Z)`, of each frame. Returns `(B, T - first, N, Z)`.
    """
    kept, frames = _blank(part, len(z), z.dtype), []
    for t in range(first, plain.shape[1]):
        before = z[:, t - 1] if t <= z.shape[1] else frames[-1]
        frame, kept = part.go_on(lambda *_, t=t: plain[:, t], kept, before, _noise(noise, blur, t))
        frames.append(frame)
    return torch.stack(frames, 1)


def _sessions(
    part: Decoder, rows: list[int], ages: list[int], slow: Tensor, start: Tensor, noise: Tensor, blur: Tensor
) -> Tensor:
    """Let sessions reach their ages one by one, then draw `unit + 1` frames of all of them together."""
    kept, before = [], []
    for row, age in zip(rows, ages):
        one, last = _blank(part, 1, slow.dtype), start[row : row + 1, 0]
        own = slice(row, row + 1)
        for t in range(1, 1 + age):
            fresh = _noise(noise[own], blur[own], t)
            last, one = part.go_on(lambda *_, t=t, own=own: slow[own, t], one, last, fresh)
        kept.append(one)
        before.append(last)
    state, last, frames = {name: torch.cat([k[name] for k in kept]) for name in kept[0]}, torch.cat(before), []
    index, time = torch.tensor(rows), torch.tensor(ages) + 1
    for _ in range(part.unit + 1):
        now = time
        last, state = part.go_on(
            lambda *_, now=now: slow[index, now],
            state,
            last,
            lambda j, now=now: noise[index, now + j] if j >= 0 else blur[index, now - 1],
        )
        frames.append(last)
        time = time + 1
    return torch.stack(frames, 1)


def _noise(noise: Tensor, blur: Tensor, t: int) -> FrameNoise:
    return lambda j: noise[:, t + j] if j >= 0 else blur[:, t - 1]


def _blank(part: Decoder, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return Slabs.empty(StateSpec(dict(part.slabs)), batch, "cpu", dtype).recurrent
