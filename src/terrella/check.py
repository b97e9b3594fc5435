"""Public conformance checks: what every tokenizer, backbone, decoder and world keeps.

    check.check_part("dynamics", "mine", {"dim": 32})     # builds a small one and runs every law of its kind
    check.check_world(World.load("my-world"))             # engine, states and files too

Our own tests and a plug-in's call the same functions. `LAWS` lists the laws of each kind; a law raises `CheckFailed`.
The laws of parts are in `terrella.laws`; those of whole worlds are here. The latter roll on from their own frames, so
that rounding accumulates: at float32 an image may differ by `LEVELS` of 255, and numbers by `ROLLED`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import chunk_laws, laws
from .config import from_json, to_json
from .decoders import Decoder
from .dynamics import Dynamics
from .engine import Engine, Frame, State
from .laws import BATCH, TOLERANCE, close, expect, no_global_chance, random_observations, random_rows, shaken
from .nn.latents import TokenSpec
from .nn.noise import CONTEXT, SAMPLE, keyed_normal
from .registry import lookup
from .spec import ActionSpec, StreamSpec, WorldSpec
from .tokenizers import Tokenizer
from .world import Part, World, WorldConfig, build_part

CONTEXT_FRAMES = 3
ROLLED = {torch.float64: 1e-8, torch.float32: 1e-4}
LEVELS = {torch.float64: 0, torch.float32: 1}

STREAMS = {"image": StreamSpec("image", (32, 32, 3)), "vector": StreamSpec("vector", (20,))}
_CELLS = ActionSpec("multi_discrete", shape=(5, 3, 2), nvec=(4, 3) * 15)
STREAMS["codes"] = StreamSpec("vector", (30,), (0.0,) * 30, (3.0, 2.0) * 15, _CELLS)
TOKENS = TokenSpec(5, 6, ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 100.0)))
ACTION = ActionSpec(
    "tuple",
    children=(ActionSpec("discrete", n=3), ActionSpec("box", shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0))),
)


def check_tokenizer(tokenizer: Tokenizer) -> list[str]:
    """Run every law of tokenizers; return their names or raise `CheckFailed`."""
    return _run(LAWS["tokenizer"], tokenizer)


def check_dynamics(dynamics: Dynamics) -> list[str]:
    """Run every law of backbones in float64 and float32; return their names or raise `CheckFailed`."""
    return _run(LAWS["dynamics"], dynamics, *TOLERANCE)


def check_decoder(decoder: Decoder) -> list[str]:
    """Run every law of decoders, or of those that draw chunks; return their names or raise `CheckFailed`."""
    return _run(LAWS["decoder" if decoder.unit == 1 else "chunks"], decoder)


def check_world(world: World) -> list[str]:
    """Run every law of worlds in float64 and float32; return their names or raise `CheckFailed`."""
    return _run(LAWS["world"], world, *TOLERANCE)


def check_part(kind: str, name: str, config: dict[str, Any] | None = None) -> list[str]:
    """Build the registered part `name` for small examples and run every law of its kind.

    config: settings that keep it small (None: the part's defaults). Raises `CheckFailed`, `UnknownName`, `ConfigError`.
    """
    run = {"tokenizer": check_tokenizer, "dynamics": check_dynamics, "decoder": check_decoder}
    return [law for part in examples(kind, name, config) for law in run[kind](part)]


def examples(kind: str, name: str, config: dict[str, Any] | None = None) -> list[Any]:
    """Build the registered part `name` once for each kind of input it takes."""
    part = Part(name, config or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "tokenizer":
            return [build_part(kind, part, STREAMS[k]) for k in lookup(kind, name).takes]
        if kind == "dynamics":
            return [build_part(kind, part, *(lookup(kind, name).example or (TOKENS, ACTION)))]
        return [build_part(kind, part, *((TOKENS,) if lookup(kind, name).sized else ()))]


def example_world(
    dynamics: Part, decoder: Part, tokenizers: dict[str, Part] | None = None, context_level: float = 1.0
) -> World:
    """Build a small world of an image stream, "pixels", and a vector stream, "state".

    A backbone that takes only certain tokens gets an image cut into as many patches, and nothing else.
    """
    spec = WorldSpec({"pixels": STREAMS["image"], "state": STREAMS["vector"]}, ACTION)
    own = lookup("dynamics", dynamics.name).example
    if own:
        height, width = (4 * (int(max(axis)) + 1) for axis in zip(*own[0].places))
        spec = WorldSpec({"pixels": StreamSpec("image", (height, width, 3))}, own[1])
        tokenizers = {"pixels": Part("patches", {"size": 4})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return World(spec, WorldConfig(dynamics, decoder, tokenizers or {}, context_level), "example")


def _run(laws: Sequence[Callable[..., None]], part: Any, *dtypes: torch.dtype) -> list[str]:
    for law in laws:
        for given in [(dtype,) for dtype in dtypes] or [()]:
            law(part, *given)
    return [law.__name__ for law in laws]


# laws of worlds


def rollout_equals_parallel(world: World, dtype: torch.dtype = torch.float64) -> None:
    """A rollout gives the frames that the parallel path gives for the same noise, for more than three windows.

    A world that steps with a bounded memory is held to it for as many frames as its backbone says that they agree.
    """
    story = _Story.of(world, dtype, windows=3)
    if world.dynamics.agrees is not None:
        frames = world.dynamics.agrees - CONTEXT_FRAMES
        if frames < 1:
            return
        story = replace(story, after=story.after[:, :frames])
    twin, sampled = story.engine.world, []
    inner = twin.decoder
    twin.decoder = _Recorder(inner, sampled)
    story.play(story.begin(), 0, story.length)
    z = torch.cat([twin.encode(twin.tensors(story.observations)).to(dtype), torch.stack(sampled, 1)], 1)
    none = torch.full((BATCH, 1, story.before.shape[2]), torch.nan)
    action = torch.cat([none, torch.from_numpy(np.concatenate([story.before, story.after], 1)).float()], 1)
    seeds, level = torch.arange(BATCH), world.config.context_level
    times = range(z.shape[1] + inner.unit)  # a chunk may reach beyond the last frame
    noise, blur = (
        torch.stack([keyed_normal(seeds, torch.full_like(seeds, t), why, z[0, 0].numel()) for t in times], 1)
        .unflatten(2, z.shape[2:])
        .to(dtype)
        for why in (SAMPLE, CONTEXT)
    )
    past = level * z + (1 - level) * blur[:, : z.shape[1]] if level < 1 else z
    _, predict = twin.dynamics.parallel(past, action, torch.full(z.shape[:2], level))
    if inner.unit == 1:
        again = inner.sample(predict, noise[:, : z.shape[1]])[:, CONTEXT_FRAMES:]
    else:
        again = chunk_laws.drawn(inner, predict(None, None), z, noise, blur, CONTEXT_FRAMES)
    remedy = "The engine, `parallel` and the decoder must agree on noise, actions and levels."
    close("latents of a rollout", again, z[:, CONTEXT_FRAMES:], TOLERANCE[dtype], remedy)


def seed_and_actions_decide(world: World, dtype: torch.dtype = torch.float64) -> None:
    """The same seed and actions give the same frames, bit for bit, whatever torch's global random stream is."""
    story = _Story.of(world, dtype)
    _, first = story.play(story.begin(), 0, story.length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        with no_global_chance():
            _, again = story.play(story.begin(), 0, story.length)
    _same_bits("the same rollout again", first, again)


def future_actions_change_no_frame(world: World, dtype: torch.dtype = torch.float64) -> None:
    """Editing the actions from t on changes no frame before the one that action t leads to, and changes that one."""
    story, t = _Story.of(world, dtype), 4
    other = story.after.copy()
    other[:, t:] = random_rows(world.spec.action, BATCH, story.length - t, seed=1)
    _, first = story.play(story.begin(), 0, t + 2)
    _, edited = story.engine.rollout(story.begin(), other[:, : t + 2])
    _same_bits(f"frames before action {t}", _frames(first, slice(0, t)), _frames(edited, slice(0, t)))
    moved = not np.array_equal(first.reward[:, t], edited.reward[:, t])
    expect(moved, f"outcome of action {t}", "changed by another action", "the same", "Actions must reach the backbone.")


def branches_get_equal_frames(world: World, dtype: torch.dtype = torch.float64) -> None:
    """Branches, nested ones and the parent after them get an undivided session's frames; bit for bit when exact."""
    for exact in (None, 6 * BATCH):
        story = _Story.of(world, dtype, exact)
        same = _same_bits if exact else _same_frames(dtype)
        _, whole = story.play(story.begin(), 0, story.length)
        parent, _ = story.play(story.begin(), 0, 2)
        branches = parent.fork(2)
        stray = random_rows(world.spec.action, BATCH, 3, seed=1)
        story.engine.rollout(parent.fork(1), stray)
        branches, seen = story.play(branches, 2, 5, copies=2)
        same("branches", _frames(whole, slice(2, 5), 2), seen)
        inner = branches.fork(3)
        for what, state, first, copies in (
            ("parent", parent, 2, 1),
            ("branches", branches, 5, 2),
            ("inner", inner, 5, 6),
        ):
            _, seen = story.play(state, first, story.length, copies)
            same(f"{what} after a fork", _frames(whole, slice(first, None), copies), seen)


def saved_states_go_on(world: World, dtype: torch.dtype = torch.float64) -> None:
    """A state, forked or not, that is saved and loaded gives the same frames as one that was not, bit for bit."""
    story = _Story.of(world, dtype)
    state, _ = story.play(story.begin(), 0, 2)
    branches, _ = story.play(state.fork(2), 2, 4, copies=2)
    with tempfile.TemporaryDirectory() as folder:
        for what, kept, first, copies in (("state", state, 2, 1), ("branches", branches, 4, 2)):
            loaded = story.engine.load_state(kept.save(Path(folder) / "state.safetensors"))
            expect(loaded.nbytes == kept.nbytes, f"bytes of a loaded {what}", kept.nbytes, loaded.nbytes)
            frames = [story.play(s, first, story.length, copies)[1] for s in (loaded, kept)]
            _same_bits(f"frames after loading a {what}", frames[1], frames[0])


def company_changes_no_frame(world: World, dtype: torch.dtype = torch.float64) -> None:
    """A session gets the same frames alone as beside others of other ages; bit for bit in an exact engine."""
    for exact in (None, BATCH + 2):
        story = _Story.of(world, dtype, exact)
        same = _same_bits if exact else _same_frames(dtype)
        ages, more = [0, 3, story.length - 4], 4
        states, alone = [], []
        for row, age in enumerate(ages):
            own = story.row(row)
            alone.append(own.play(own.begin(seed=row), 0, age + more)[1])
            states.append(own.play(own.begin(seed=row), 0, age)[0] if age else own.begin(seed=row))
        rows = np.stack([story.after[row, age : age + more] for row, age in enumerate(ages)])
        _, together = story.engine.rollout(State.merge(states), rows)
        for row, age in enumerate(ages):
            lone = _frames(alone[row], slice(age, None))
            same(f"session {row} in company", lone, _frames(together, slice(None), rows=slice(row, row + 1)))


def observed_frames_are_a_context(world: World, dtype: torch.dtype = torch.float64) -> None:
    """Starting from the first frame and observing the others, forked or not, is starting from all of them."""
    for exact in (None, 2 * BATCH):
        story = _Story.of(world, dtype, exact)
        _, whole = story.play(story.begin(), 0, 4)
        first = {name: frames[:, :1] for name, frames in story.observations.items()}
        state = story.engine.start(first, None, 0)
        branches = state.fork(2)
        for t in range(story.before.shape[1]):
            seen = {name: frames[:, t + 1] for name, frames in story.observations.items()}
            state = story.engine.observe(state, story.before[:, t], seen)
            twice = {name: frames.repeat(2, 0) for name, frames in seen.items()}
            branches = story.engine.observe(branches, story.before[:, t].repeat(2, 0), twice)
        for what, one, copies in (("observed", state, 1), ("observed in branches", branches, 2)):
            _, frame = story.play(one, 0, 4, copies)
            _same_frames(dtype)(f"frames after a context {what}", _frames(whole, slice(None), copies), frame)


def state_bytes_are_constant(world: World, dtype: torch.dtype = torch.float64) -> None:
    """A state has the same bytes early and late, and a window after a fork as many as one never forked."""
    story = _Story.of(world, dtype)
    state = story.begin()
    early, branch = state.nbytes, state.fork(1)
    for what, one in (("state", state), ("branch", branch)):
        late = story.play(one, 0, story.length)[0].nbytes
        expect(
            late == early, f"bytes of a late {what}", early, late, "Overwrite what is too old; let a shared past go."
        )


def files_hold_the_world(world: World, dtype: torch.dtype = torch.float64) -> None:
    """Config to JSON and back is the identity; a world that was saved and loaded gives the same frames, bit for bit."""
    for value in (world.config, world.spec):
        back = from_json(type(value), json.loads(json.dumps(to_json(value))))
        expect(back == value, f"{type(value).__name__} from its JSON", value, back)
    story = _Story.of(world, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        loaded = World.load(story.engine.world.save(folder))
    engines = (Engine(story.engine.world, dtype=dtype), Engine(loaded, dtype=dtype))
    frames = [engine.rollout(story.begin(engine=engine), story.after[:, :4])[1] for engine in engines]
    _same_bits("frames of a loaded world", *frames)


def looking_changes_no_latent(world: World, dtype: torch.dtype = torch.float64) -> None:
    """Latents and state are the same whether frames are shown or not, bit for bit, also where they are re-encoded."""
    story, twin = _Story.of(world, dtype), shaken(world, dtype)
    for reencode in (False, True):
        engine = Engine(twin, dtype=dtype, recall=1, reencode=reencode)
        found = [engine.rollout(story.begin(engine=engine), story.after[:, :3], observe=look) for look in (True, False)]
        (state, shown), (blind, unseen) = found
        expect(reencode or not unseen.observation, "observations unless frames are re-encoded", "none", "some")
        same = np.array_equal(shown.latent, unseen.latent)  # pyright: ignore[reportArgumentType]
        same &= all(torch.equal(*pair) for pair in zip(state.slabs.tensors(), blind.slabs.tensors(), strict=True))
        expect(same, "latents and state without looking", "equal bits", "others", "Decode what is drawn, no more.")


LAWS: dict[str, tuple[Callable[..., None], ...]] = {
    "tokenizer": (laws.frames_are_coded_alone, laws.constants_travel_with_weights, laws.tokenizer_loss_teaches),
    "dynamics": (
        laws.streaming_equals_parallel,
        laws.future_changes_no_past,
        laws.actions_reach_the_next_frame,
        laws.predict_is_pure,
        laws.branches_equal_their_parent,
        laws.company_does_not_matter,
        laws.memory_does_not_grow,
        laws.absolute_time_does_not_matter,
    ),
    "decoder": (laws.truth_stays_truth, laws.samples_are_functions, laws.decoder_loss_prefers_truth),
    "chunks": (chunk_laws.chunks_are_functions, chunk_laws.chunks_come_frame_by_frame, chunk_laws.chunk_loss_teaches),
    "world": (
        rollout_equals_parallel,
        seed_and_actions_decide,
        future_actions_change_no_frame,
        branches_get_equal_frames,
        saved_states_go_on,
        company_changes_no_frame,
        looking_changes_no_latent,
        observed_frames_are_a_context,
        state_bytes_are_constant,
        files_hold_the_world,
    ),
}

# what these laws are made of


@dataclass(frozen=True)
class _Story:
    """An engine of a shaken world, beginnings (stream -> `(B, c+1, ...)`, rows `(B, c, W)`) and T further rows."""

    engine: Engine
    observations: dict[str, np.ndarray]
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def of(cls, world: World, dtype: torch.dtype, exact: int | None = None, windows: int = 2) -> _Story:
        streams, action, capacity = world.spec.modelled, world.spec.action, world.dynamics.spec.capacity
        seen = {k: random_observations(s, (BATCH, CONTEXT_FRAMES)).numpy() for k, s in streams.items()}
        rows = random_rows(action, BATCH, CONTEXT_FRAMES - 1 + max(12, windows * capacity + 2))
        engine = Engine(shaken(world, dtype), dtype=dtype, exact=exact)
        return cls(engine, seen, rows[:, : CONTEXT_FRAMES - 1], rows[:, CONTEXT_FRAMES - 1 :])

    @property
    def length(self) -> int:
        return self.after.shape[1]

    def row(self, b: int) -> _Story:
        one = slice(b, b + 1)
        return _Story(self.engine, {k: v[one] for k, v in self.observations.items()}, self.before[one], self.after[one])

    def begin(self, seed: int = 0, engine: Engine | None = None) -> State:
        return (engine or self.engine).start(self.observations, self.before, seed)

    def play(self, state: State, first: int, last: int, copies: int = 1) -> tuple[State, Frame]:
        return self.engine.rollout(state, self.after[:, first:last].repeat(copies, 0))


class _Recorder(nn.Module):
    inner: Decoder

    def __init__(self, inner: Decoder, kept: list[Tensor]):
        super().__init__()
        self.inner, self.kept, self.slabs, self.unit = inner, kept, inner.slabs, inner.unit

    def go_on(self, *args: Any) -> tuple[Tensor, dict[str, Tensor]]:
        frame, remembered = self.inner.go_on(*args)
        self.kept.append(frame)
        return frame, remembered


def _frames(frame: Frame, times: slice, copies: int = 1, rows: slice = slice(None)) -> Frame:
    def cut(x: np.ndarray) -> np.ndarray:
        return x[rows, times].repeat(copies, 0)

    return Frame({k: cut(v) for k, v in frame.observation.items()}, cut(frame.reward), cut(frame.terminated))


def _numbers(frame: Frame) -> dict[str, np.ndarray]:
    return {**frame.observation, "reward": frame.reward, "terminated": frame.terminated}


def _same_bits(what: str, expected: Frame, received: Frame) -> None:
    theirs = _numbers(received)
    differ = [name for name, value in _numbers(expected).items() if not np.array_equal(value, theirs[name])]
    expect(not differ, what, "equal bits", f"other {', '.join(differ)}")


def _same_frames(dtype: torch.dtype) -> Callable[[str, Frame, Frame], None]:
    def compare(what: str, expected: Frame, received: Frame) -> None:
        theirs = _numbers(received)
        for name, value in _numbers(expected).items():
            mine, other = torch.from_numpy(value), torch.from_numpy(theirs[name])
            if value.dtype == np.uint8:
                gap = int((mine.int() - other.int()).abs().max())
                expect(gap <= LEVELS[dtype], f"{what}, {name}", f"at most {LEVELS[dtype]} levels off", gap)
            else:
                close(f"{what}, {name}", mine, other, ROLLED[dtype], "")

    return compare
