"""What of the true state can be read from a world's latents? Readouts of named quantities, beside controls.

*Snapshots* are moments of true episodes with the simulator's named quantities, one moment an episode, so that holding
out rows holds out episodes. A *reader* turns contexts into features: a world's last latents, its memory, pixels alone.
Three comparisons stand beside each number: the same readout on pixels, on the same features with answers that were
permuted (which shows what readout and split give for nothing), and chance.

Ref: Alain and Bengio 2016, arXiv 1610.01644; Hewitt and Liang 2019, arXiv 1909.03368.
Differs: latents come from the world's own sessions, after a context, and answers from a simulator, not from labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ..engine import Engine, State
from ..errors import ArenaError
from .moments import Stage
from .readouts import Kind, Rows, fit
from .stats import bootstrap, number

BATCH = 96
CLASSES = 16  # whole numbers with at most so many values are classes
HELD_OUT = 0.3


class Reader(Protocol):
    """Turns contexts into features `(n, D)` by name, of what is read together.

    Contexts: stream -> `(n, c+1, ...)`, actions `(n, c, W)`, seeds of sessions.
    """

    def __call__(
        self, observations: Mapping[str, np.ndarray], past: np.ndarray, seeds: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Read features."""
        ...


@dataclass
class Snapshots:
    """n moments. observations: stream -> `(n, c+1, ...)`. past: `(n, c, W)`. seeds: of their episodes, all different.

    quantities: name -> `(n, ...)`. units: name -> unit.
    """

    observations: dict[str, np.ndarray]
    past: np.ndarray
    seeds: list[int]
    quantities: dict[str, np.ndarray]
    units: dict[str, str]


def snapshots(stage: Stage, count: int, context: int, lead: int = 0) -> Snapshots:
    """Play to `count` moments and read the true state there.

    Of things whose number differs from episode to episode, as many are kept as there always are. Raises `ArenaError`
    for an environment without named quantities.
    """
    fork = stage.fork
    moments, states = [], []
    for _ in range(count):
        moments.append(stage.next(context, 1, lead))
        states.append({} if fork is None else fork.quantities())
    if fork is None or not states[0]:
        raise ArenaError(f"{stage.spec.env.id or 'this environment'} names no quantities, so there is nothing to read.")
    found: dict[str, np.ndarray] = {}
    for name in states[0]:
        values = [np.asarray(s[name]) for s in states]
        if values[0].ndim:
            fewest = min(len(v) for v in values)
            values = [v[:fewest] for v in values]
        if len({v.shape for v in values}) == 1 and values[0].size:
            found[name] = np.stack(values)
    names = stage.spec.modelled
    observations = {n: np.stack([np.stack([f[n] for f in m.frames]) for m in moments]) for n in names}
    past = np.stack([m.actions[:context] for m in moments])
    return Snapshots(observations, past, [m.seed for m in moments], found, fork.units())


def pixel_reader(
    observations: Mapping[str, np.ndarray], past: np.ndarray, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Hand on the `frames` as they are, and the actions between them: what can be read without a world."""
    del seeds
    parts = [v.reshape(len(past), -1).astype(np.float32) for v in (*observations.values(), past)]
    return {"frames": np.concatenate(parts, 1)}


@dataclass(frozen=True)
class SessionReader:
    """Of sessions of a world their `latents`, those of the last frames, and their `memory`.

    The engine recalls the frames (`Engine(world, recall=4)`). Memory is what the backbone keeps: recurrent slabs whole,
    of framed ones the newest frame's entries.
    """

    engine: Engine

    @torch.inference_mode()
    def __call__(
        self, observations: Mapping[str, np.ndarray], past: np.ndarray, seeds: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Read features; raises `ConfigError` where the engine recalls no frames."""
        found: dict[str, list[np.ndarray]] = {"latents": [], "memory": []}
        for first in range(0, len(past), BATCH):
            some = slice(first, first + BATCH)
            state = _sessions(self.engine, {n: v[some] for n, v in observations.items()}, past[some], seeds[some])
            for name, parts in (("latents", [self.engine.recent(state).z]), ("memory", _memory(state))):
                found[name].append(torch.cat([p.reshape(len(p), -1).float() for p in parts], 1).cpu().numpy())
        return {name: np.concatenate(batches) for name, batches in found.items()}


def _sessions(engine: Engine, observations: Mapping[str, np.ndarray], past: np.ndarray, seeds: Sequence[int]) -> State:
    """Begin sessions from contexts as `Engine.start` does; those of equal seeds and pasts are one until they part.

    Scenes of one layout begin alike, so that many of their frames are encoded and written once.
    """
    kind, rows = _kinds(seeds, *(v[:, 0] for v in observations.values()))
    first = {name: v[rows, :1] for name, v in observations.items()}
    state = engine.start(first, past[rows, :0], [seeds[row] for row in rows])
    for t in range(past.shape[1]):
        after, rows = _kinds(kind, past[:, t], *(v[:, t + 1] for v in observations.values()))
        seen = {name: v[rows, t + 1] for name, v in observations.items()}
        state = engine.observe(state.select(kind[rows].tolist()), past[rows, t], seen)
        kind = after
    return state.select(kind.tolist())


def _kinds(*columns: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the n rows so that those equal in all columns `(n, ...)` share a number; and one row of each number."""
    keys = [tuple(np.asarray(value).tobytes() for value in row) for row in zip(*columns)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    kind = np.array([numbers[key] for key in keys])
    return kind, np.unique(kind, return_index=True)[1]


def _memory(state: State) -> list[torch.Tensor]:
    slabs = state.slabs.owned()
    parts = [v for name, v in slabs.recurrent.items() if v.is_floating_point() and not slabs.spec.slabs[name].beside]
    rows = torch.arange(slabs.batch, device=slabs.time.device)
    for segment in slabs.segments:
        place = (segment.frames == slabs.time[:, None] - 1).long().argmax(1)
        for name, tensor in segment.tensors.items():
            frames = tensor.movedim((slabs.spec.slabs[name].frame_axis or 0) + 1, 1)
            if frames.is_floating_point():
                parts.append(frames[rows, place])
    return parts


def probe_rows(features: np.ndarray, groups: np.ndarray, seed: int = 0) -> Rows:
    """Rows `(n, D)` for `probe`, of which those of some groups `(n,)` are held out. Raises as `Rows.of` does."""
    names = np.random.default_rng([seed, 1]).permutation(np.unique(groups))
    out = np.isin(groups, names[: max(1, round(HELD_OUT * len(names)))])
    return Rows.of(features, ~out, groups)


def probe(rows: Rows, answers: np.ndarray, *, kind: Kind = "linear", seed: int = 0) -> dict[str, Any]:
    """Fit a readout on some groups and score it on the others, as JSON values.

    rows: of `probe_rows`. answers `(n, M)` of numbers, or `(n,)` of whole numbers, which are classes. Numbers: `r2` =
    1 - sum of squared errors / sum of squared deviations from the fitting rows' mean, over all columns in units of
    their deviation. Classes: `accuracy`, and `chance`, that of naming the commonest class. Each with its bootstrap 95 %
    interval by group. `shuffled`: the same with the answers of the fitting rows permuted.
    """
    out, groups, classes = ~rows.fitted, rows.groups, answers.ndim == 1
    levels, aim = _one_hot(answers) if classes else (None, answers.astype(np.float64))
    permuted = np.random.default_rng([seed, 2]).permutation(np.flatnonzero(~out))
    result: dict[str, Any] = {"rows": len(answers), "held_out": int(out.sum()), "kind": kind}
    for label, fitted in (("", aim[~out]), ("shuffled", aim[permuted])):
        said = fit(rows, fitted, kind, seed)[out]
        score = _class_score(said, aim, out, groups) if classes else _number_score(said, aim, out, groups)
        result |= {"shuffled": score} if label else score
    if levels is not None:
        result["classes"] = len(levels)
    return result


def _one_hot(answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, place = np.unique(answers, return_inverse=True)
    return levels, np.eye(len(levels))[place.ravel()]


def _number_score(said: np.ndarray, aim: np.ndarray, out: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    mean, spread = aim[~out].mean(0), np.maximum(aim[~out].std(0), 1e-12)
    wrong = np.square((said - aim[out]) / spread).sum(1, keepdims=True)
    whole = np.square((mean - aim[out]) / spread).sum(1, keepdims=True)
    middle, low, high = bootstrap(wrong, whole, groups[out])
    return {"r2": number(1 - middle[0]), "interval": [number(1 - high[0]), number(1 - low[0])]}


def _class_score(said: np.ndarray, aim: np.ndarray, out: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    right = (said.argmax(1) == aim[out].argmax(1)).astype(float)[:, None]
    middle, low, high = bootstrap(right, groups=groups[out])
    chance = float(aim[out][:, aim[~out].sum(0).argmax()].mean())
    return {"accuracy": number(middle[0]), "interval": [number(low[0]), number(high[0])], "chance": chance}


def probe_quantities(
    found: Snapshots, readers: Sequence[Reader], *, kinds: Sequence[Kind] = ("linear", "mlp"), seed: int = 0
) -> dict[str, Any]:
    """Probe every quantity that varies, in all that is read, by every kind: quantity -> features -> kind -> scores.

    Angles ("rad") are read as sine and cosine; single whole numbers of few values are classes.
    """
    groups = np.asarray(found.seeds)
    read = [reader(found.observations, found.past, found.seeds) for reader in readers]
    rows = {name: probe_rows(x, groups, seed) for features in read for name, x in features.items()}
    table: dict[str, Any] = {}
    for name, values in found.quantities.items():
        flat = values.reshape(len(values), -1)
        if (flat == flat[:1]).all():
            continue
        whole = values.dtype.kind in "biu" and flat.shape[1] == 1 and len(np.unique(flat)) <= CLASSES
        if whole:
            answers = flat[:, 0]
        elif found.units[name] == "rad":
            answers = np.concatenate([np.sin(flat), np.cos(flat)], 1)
        else:
            answers = flat
        table[name] = {
            what: {kind: probe(some, answers, kind=kind, seed=seed) for kind in kinds} for what, some in rows.items()
        }
    return table
