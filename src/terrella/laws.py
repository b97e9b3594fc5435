"""The laws of a world's parts, one function each: tokenizers, backbones, decoders. `terrella.check` runs them.

A law takes a part (a backbone's law a precision too) and raises `CheckFailed` with what was expected, what came and
what to do. It works on a copy whose weights are all random, because layers that begin at zero would hide mistakes.

Differences are relative to the largest number compared, or to 1; `TOLERANCE` says what is allowed. Float32 leaves room
for another order of summation and is far below what a wrong frame, action or position makes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .actions import action_space, encode
from .decoders import Decoder
from .dynamics import Dynamics
from .errors import CheckFailed, ConfigError
from .nn.latents import Noise
from .nn.slabs import Slabs
from .spec import ActionSpec, StreamSpec
from .tokenizers import Tokenizer

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5}
BATCH = 3
M = TypeVar("M", bound=nn.Module)

# laws of tokenizers


def frames_are_coded_alone(tokenizer: Tokenizer) -> None:
    """Any leading axes give the same latents and observations, of the declared shapes and types."""
    part, spec = shaken(tokenizer), tokenizer.spec
    obs = random_observations(part.stream, (2, 3))
    z, one = part.encode(obs), part.encode(obs[1, 2])
    expect(len(spec.places) == spec.n, "spec.places", spec.n, len(spec.places), "Give each token one place.")
    expect(z.shape == (2, 3, spec.n, spec.channels), "shape of latents", (2, 3, spec.n, spec.channels), z.shape, "")
    close("latents of one frame", one, z[1, 2], 1e-4, "A tokenizer may not mix frames.")
    shown, kind = part.decode(z), torch.uint8 if part.stream.kind == "image" else torch.float32
    expect(
        shown.dtype == kind and shown.shape == obs.shape, "decoded", (kind, obs.shape), (shown.dtype, shown.shape), ""
    )
    gap = int((part.decode(one).int() - shown[1, 2].int()).abs().max())
    expect(gap <= 1, "observation of one frame", "at most 1 off", gap, "A tokenizer may not mix frames.")


def constants_travel_with_weights(tokenizer: Tokenizer) -> None:
    """What `prepare` and `normalise` measure is in the weights' file, and gives latents of about unit variance."""
    part, other = shaken(tokenizer), shaken(tokenizer)
    obs = random_observations(part.stream, (64,))
    part.prepare(obs)
    part.normalise(obs)
    other.load_state_dict(part.state_dict())
    z = part.encode(obs)
    same = torch.equal(z, other.encode(obs))
    expect(same, "latents after loading", "equal bits", "others", "Use persistent buffers.")
    mean, spread = abs(float(z.mean())), float(z.std())
    fits = mean < 0.5 and 0.3 < spread < 3
    expect(fits, "mean and deviation of latents", "about 0 and 1", (mean, spread), "Measure them in `normalise`.")


def tokenizer_loss_teaches(tokenizer: Tokenizer) -> None:
    """The loss is one finite number, follows its generator alone, and has a gradient if there is anything to learn."""
    part = shaken(tokenizer).train().requires_grad_(True)
    obs = random_observations(part.stream, (8,))
    part.prepare(obs)
    with no_global_chance():
        loss, again = (part.loss(obs, torch.Generator().manual_seed(1)) for _ in range(2))
    expect(loss.shape == () and bool(loss.isfinite()), "loss", "one finite number", loss, "")
    expect(torch.equal(loss, again), "loss with the same generator", "equal bits", "others", "Draw only from it.")
    if part.trains:
        loss.backward()
        idle = [n for n, p in part.named_parameters() if p.grad is None]
        expect(not idle, "parameters without gradient", [], idle, "Use them in the loss, or make them buffers.")


# laws of backbones


def streaming_equals_parallel(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """Frame by frame and whole clips give the same numbers, for three windows or as long as `agrees` says."""
    part, clip = _ready(dynamics, dtype)
    clip = clip.span(0, part.agrees or clip.length)
    _, streamed = _stream(part, part.init(BATCH, dtype=dtype), clip)
    remedy = "`parallel` must show each frame the same past as `commit` leaves: window, sinks, positions and levels."
    close("streamed and parallel predictions", _parallel(part, clip), streamed, TOLERANCE[dtype], remedy)
    half, tail = clip.length // 2, clip.span(clip.length // 2, clip.length)
    late = part.parallel(clip.z, clip.action, clip.level, half)[1](tail.noisy, Noise(tail.tau, tail.d)).flatten(2)
    close("late predictions", late, streamed[:, half:, : late.shape[2]], TOLERANCE[dtype], remedy)


def future_changes_no_past(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """Editing frames from t on, and actions after the one that leads to t, changes no prediction up to t."""
    part, clip = _ready(dynamics, dtype)
    other, before = _clip(part, clip.length, dtype, seed=1), _parallel(part, clip)
    for t in (1, clip.length // 2, clip.length - 1):
        after = _parallel(part, clip.until(t, other))
        close(f"frames before {t}", before[:, :t], after[:, :t], TOLERANCE[dtype], "Mask what lies ahead.")
        kept = slice(0, -2)  # the outcome of frame t belongs to the edited frame itself
        close(f"prediction of {t}", before[:, t, kept], after[:, t, kept], TOLERANCE[dtype], "Mask the frame itself.")


def actions_reach_the_next_frame(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """The prediction of frame t depends on the action that leads to it, and on frame t - 1."""
    part, clip = _ready(dynamics, dtype)
    before, t = _parallel(part, clip), clip.length // 2
    for what in ("action", "z"):
        at = t if what == "action" else t - 1
        edited = getattr(clip, what).clone()
        edited[:, at] = getattr(_clip(part, clip.length, dtype, seed=1), what)[:, at]
        after = _parallel(part, replace(clip, **{what: edited}))
        moved = float((after[:, t] - before[:, t]).abs().max())
        expect(
            moved > 1e-4,
            f"change of frame {t} by {what} {at}",
            "more than 1e-4",
            moved,
            "See `Dynamics` for alignment.",
        )


def predict_is_pure(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """`predict` changes nothing in the memory, and says the same when asked again."""
    part, clip = _ready(dynamics, dtype)
    slabs, _ = _stream(part, part.init(BATCH, dtype=dtype), clip.span(0, 3))
    kept = [t.clone() for t in slabs.tensors()]
    with no_global_chance():
        first, again = (part.predict(slabs, clip.action[:, 3], clip.noisy[:, 3], clip.noise(3)) for _ in range(2))
    expect(torch.equal(first, again), "second prediction", "equal bits", "others", "Keep no state in the module.")
    same = all(torch.equal(a, b) for a, b in zip(kept, slabs.tensors(), strict=True))
    expect(same, "memory after predict", "as before", "changed", "Write only in `commit`, through `slabs.append`.")


def branches_equal_their_parent(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """Branches, branches of branches and the parent after them give what an undivided session gives."""
    part, clip = _ready(dynamics, dtype)
    length, remedy = clip.length, "Read every segment of the slabs, with its `repeat`; write only through `append`."
    _, whole = _stream(part, part.init(BATCH, dtype=dtype), clip)
    third = length // 3
    for first, second in ((1, 2), (third, 2 * third)):
        parent, _ = _stream(part, part.init(BATCH, dtype=dtype), clip.span(0, first))
        branches, stray = parent.fork(2), parent.fork(1)
        _stream(part, stray, _clip(part, length, dtype, seed=1).span(first, length))
        branches, seen = _stream(part, branches, clip.span(first, second).repeat(2))
        close("branches", whole[:, first:second].repeat_interleave(2, 0), seen, TOLERANCE[dtype], remedy)
        inner = branches.fork(3)
        _, seen = _stream(part, branches, clip.span(second, length).repeat(2))
        close("parent of branches", whole[:, second:].repeat_interleave(2, 0), seen, TOLERANCE[dtype], remedy)
        _, seen = _stream(part, inner, clip.span(second, length).repeat(6))
        close("branches of branches", whole[:, second:].repeat_interleave(6, 0), seen, TOLERANCE[dtype], remedy)
        _, seen = _stream(part, parent, clip.span(first, length))
        close("parent", whole[:, first:], seen, TOLERANCE[dtype], remedy)


def company_does_not_matter(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """Sessions of different ages in one batch get the predictions they would get alone."""
    part, clip = _ready(dynamics, dtype)
    ages = (1, clip.length // 2, clip.length - 3)
    alone, slabs, rest = [], [], []
    for row, age in enumerate(ages):
        own = clip.row(row)
        _, whole = _stream(part, part.init(1, dtype=dtype), own.span(0, age + 3))
        young, _ = _stream(part, part.init(1, dtype=dtype), own.span(0, age))
        alone.append(whole[:, age:])
        slabs.append(young)
        rest.append(own.span(age, age + 3))
    _, together = _stream(part, Slabs.merge(slabs), _Clip.join(rest))
    close("sessions in company", torch.cat(alone), together, TOLERANCE[dtype], "Let no session see another.")


def memory_does_not_grow(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """Bytes are constant, return to what they were a window after a fork, and are bounded when each frame is forked."""
    part, clip = _ready(dynamics, dtype)
    room = max(part.spec.capacity, 4)
    slabs, _ = _stream(part, part.init(BATCH, dtype=dtype), clip.span(0, 1))
    early = slabs.nbytes
    for name, value in slabs.recurrent.items():
        shape = (BATCH, *part.spec.slabs[name].shape)
        expect(value.shape == shape, f"shape of slab {name!r}", shape, tuple(value.shape), "Declare it in `spec`.")
    slabs, _ = _stream(part, slabs, clip.span(1, clip.length))
    expect(slabs.nbytes == early, "bytes after a long rollout", early, slabs.nbytes, "Overwrite what is too old.")
    forked, _ = _stream(part, slabs.fork(1), clip.span(0, room))
    expect(forked.nbytes == early, "bytes a window after a fork", early, forked.nbytes, "Let the shared past go.")
    peak = 0
    for t in range(3 * room):
        slabs, _ = _stream(part, slabs.fork(1), clip.span(t % room, t % room + 1))
        peak = max(peak, slabs.nbytes)
    expect(peak <= 3 * early, "bytes when every frame is forked", f"at most {3 * early}", peak, "")


def absolute_time_does_not_matter(dynamics: Dynamics, dtype: torch.dtype = torch.float64) -> None:
    """A million frames later the same window (sinks aside) gives the same predictions."""
    part, clip = _ready(dynamics, dtype)
    half, shift = clip.length // 2, 10**6 // max(part.spec.window, 1) * max(part.spec.window, 1)
    slabs, _ = _stream(part, part.init(BATCH, dtype=dtype), clip.span(0, half))
    late = copy.deepcopy(slabs)
    late.time, sinks = late.time + shift, part.spec.sinks
    for segment in late.segments:
        segment.frames.add_(shift * (segment.frames >= sinks))
    _, now = _stream(part, slabs, clip.span(half, clip.length))
    _, then = _stream(part, late, clip.span(half, clip.length))
    close("predictions a million frames later", now, then, TOLERANCE[dtype], "Use ages, not frame numbers.")


# laws of decoders


def truth_stays_truth(decoder: Decoder) -> None:
    """Given predictions sure of the truth, `sample` returns it exactly, in the noise's type, at any number of steps."""
    z, sure = decoder.example((2, 4), torch.Generator().manual_seed(0))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept, allowed = noise.clone(), 0
    for steps in (None, 1, 2, 4, 8):
        try:
            sampled = decoder.sample(lambda noisy, level: sure, noise, steps)
        except ConfigError:
            continue
        allowed += steps is not None
        close(f"sample in {steps} steps", z, sampled, 1e-12, "The last step must land on the prediction.")
        expect(sampled.dtype == noise.dtype, "type of sample", noise.dtype, sampled.dtype, "")
    expect(allowed > 0, "allowed numbers of steps", "one of 1, 2, 4, 8", 0, "")
    expect(torch.equal(noise, kept), "noise", "untouched", "changed", "Do not write into it.")
    for steps in (0, -1):
        try:
            decoder.sample(lambda noisy, level: sure, noise, steps)
        except ConfigError:
            continue
        expect(False, f"sample in {steps} steps", "ConfigError", "a sample", "Refuse what cannot be.")


def samples_are_functions(decoder: Decoder) -> None:
    """A sample follows from predictions and noise alone, each frame by itself, in clips as in single frames."""
    x, _ = decoder.example((2, 3, 4), torch.Generator().manual_seed(1))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def predict(z: Tensor | None, level: Noise | None, of: slice | int = slice(None)) -> Tensor:
        if z is None or level is None:
            return x[:, of]
        return x[:, of] + torch.tanh(z.roll(1, -2) + level.tau[..., None, None] - level.d[..., None, None])

    with no_global_chance(), torch.no_grad():
        clip = decoder.sample(predict, noise)
        again = decoder.sample(predict, noise)
    expect(torch.equal(clip, again), "second sample", "equal bits", "others", "All chance is in the noise.")
    for t in range(3):
        alone = decoder.sample(lambda z, level, t=t: predict(z, level, t), noise[:, t])
        close(f"frame {t} alone", clip[:, t], alone, 1e-12, "Let no frame see another.")


def decoder_loss_prefers_truth(decoder: Decoder) -> None:
    """The loss has one float32 number a frame, follows its generator alone, and is lowest for right predictions."""
    source = torch.Generator().manual_seed(0)
    (z, sure), (_, other) = ([v.float() for v in decoder.example((4, 5, 3), source)] for _ in range(2))

    def loss(error: Tensor, progress: float, seed: int) -> Tensor:
        said = sure + error * (other - sure)
        return decoder.loss(lambda noisy, level: said, z, progress, torch.Generator().manual_seed(seed))

    off = torch.ones((), requires_grad=True)
    for progress, seed in ((p, s) for p in (0.0, 0.5, 1.0) for s in range(8)):
        with no_global_chance():
            right, again = loss(0 * off, progress, seed), loss(0 * off, progress, seed)
            wrong = loss(off, progress, seed)
        fits = right.shape == (4, 5) and right.dtype == torch.float32 and bool(right.isfinite().all())
        expect(fits, "loss", "finite float32 (4, 5)", f"{right.dtype} {tuple(right.shape)}")
        expect(torch.equal(right, again), "loss with the same generator", "equal bits", "others", "Draw only from it.")
        expect(bool(wrong.mean() > right.mean()), "loss of wrong predictions", f"> {right.mean()}", f"{wrong.mean()}")
        expect(wrong.requires_grad, "loss", "a gradient", "none", "Keep the prediction in the graph.")


# what laws are made of


def expect(holds: bool, what: str, expected: Any, received: Any, remedy: str = "") -> None:
    """Raise `CheckFailed` unless `holds`."""
    if not holds:
        raise CheckFailed(f"{what}: expected {expected}, received {received}. {remedy}".rstrip())


def close(what: str, expected: Tensor, received: Tensor, tolerance: float, remedy: str) -> None:
    """Raise `CheckFailed` unless two tensors agree to `tolerance`, relative to the largest number or 1."""
    expect(expected.shape == received.shape, f"shape of {what}", tuple(expected.shape), tuple(received.shape), remedy)
    gap = float((expected.double() - received.detach().double()).abs().max() / expected.abs().max().clamp(min=1.0))
    expect(gap <= tolerance, what, f"a difference of at most {tolerance:g}", f"{gap:.3g}", remedy)


@contextmanager
def no_global_chance() -> Iterator[None]:
    """Raise `CheckFailed` when torch's global random stream is used inside."""
    before = torch.get_rng_state()
    yield
    same = torch.equal(before, torch.get_rng_state())
    expect(same, "torch's global random stream", "untouched", "used", "Draw from the generator or noise handed in.")


def shaken(module: M, dtype: torch.dtype = torch.float32) -> M:
    """Return a copy in `dtype`, ready to run, whose weights are all random; the same for every precision."""
    twin = copy.deepcopy(module).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in twin.parameters():
        spread = 0.5 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1
        weight += spread * torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
    return twin


def random_observations(stream: StreamSpec, lead: tuple[int, ...], seed: int = 0) -> Tensor:
    """Draw observations `(*lead, *stream.shape)`: uint8 images, float32 vectors, or rows of the stream's own space."""
    rng, shape = np.random.default_rng(seed), (*lead, *stream.shape)
    if stream.kind == "image":
        return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    own = None if stream.native is None else random_rows(stream.native, 1, int(np.prod(lead)), seed).reshape(shape)
    return torch.from_numpy((rng.normal(1.0, 2.0, shape) if own is None else own).astype(np.float32))


def random_rows(action: ActionSpec, batch: int, steps: int, seed: int = 0) -> np.ndarray:
    """Draw action rows, float64 `(B, T, W)`."""
    space = action_space(action)
    space.seed(seed)
    return np.stack([[encode(action, space.sample()) for _ in range(steps)] for _ in range(batch)])


@dataclass(frozen=True)
class _Clip:
    """Latents `(B, T, N, Z)` to commit, rows `(B, T, W)` that lead to them, their levels `(B, T)`, and noisy frames."""

    z: Tensor
    action: Tensor
    level: Tensor
    noisy: Tensor
    tau: Tensor
    d: Tensor

    @property
    def length(self) -> int:
        return self.z.shape[1]

    def noise(self, t: int) -> Noise:
        return Noise(self.tau[:, t], self.d[:, t])

    def span(self, first: int, last: int) -> _Clip:
        return _Clip(*(v[:, first:last] for v in self._values()))

    def row(self, b: int) -> _Clip:
        return _Clip(*(v[b : b + 1] for v in self._values()))

    @staticmethod
    def join(clips: list[_Clip]) -> _Clip:
        return _Clip(*(torch.cat(values) for values in zip(*(c._values() for c in clips))))

    def repeat(self, n: int) -> _Clip:
        return _Clip(*(v.repeat_interleave(n, 0) for v in self._values()))

    def until(self, t: int, other: _Clip) -> _Clip:
        """Replace frames from `t` on, and what follows the prediction of `t`, by those of `other`."""
        late = {"z": t, "level": t}
        pairs = ((f.name, late.get(f.name, t + 1)) for f in fields(self))
        return _Clip(*(torch.cat([getattr(self, n)[:, :at], getattr(other, n)[:, at:]], 1) for n, at in pairs))

    def _values(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]


def _clip(part: Dynamics, length: int, dtype: torch.dtype, seed: int = 0) -> _Clip:
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, length, part.tokens.n, part.tokens.channels)
    z, noisy = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    level, tau, d = torch.rand(3, BATCH, length, generator=generator)
    action = torch.from_numpy(random_rows(part.action, BATCH, length, seed)).float()
    action[:, 0] = torch.nan
    return _Clip(z, action, level, noisy, tau, 0.5 ** (3 * d).round())


def _ready(dynamics: Dynamics, dtype: torch.dtype) -> tuple[Dynamics, _Clip]:
    part = shaken(dynamics, dtype)  # and clips of more than three times what it remembers
    return part, _clip(part, 3 * part.spec.capacity + 2 if part.spec.capacity else 12, dtype)


def _parallel(part: Dynamics, clip: _Clip) -> Tensor:
    """All that a backbone says about each frame, `(B, T, numbers)`; the outcome's two numbers come last."""
    outcome, predict = part.parallel(clip.z, clip.action, clip.level)
    noisy, plain = predict(clip.noisy, Noise(clip.tau, clip.d)), predict(None, None)
    return torch.cat([noisy.flatten(2), plain.flatten(2), outcome.reward[..., None], outcome.end[..., None]], 2)


def _stream(part: Dynamics, slabs: Slabs, clip: _Clip) -> tuple[Slabs, Tensor]:
    """The same numbers, frame by frame; consumes `slabs` and returns the next ones."""
    said = []
    for t in range(clip.length):
        noisy = part.predict(slabs, clip.action[:, t], clip.noisy[:, t], clip.noise(t))
        plain = part.predict(slabs, clip.action[:, t])
        slabs, outcome = part.commit(slabs, clip.action[:, t], clip.z[:, t], clip.level[:, t])
        said.append(torch.cat([noisy.flatten(1), plain.flatten(1), outcome.reward[:, None], outcome.end[:, None]], 1))
    return slabs, torch.stack(said, 1)
