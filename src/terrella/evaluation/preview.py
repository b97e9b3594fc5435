"""The small moving picture of a world: what really happens and what it dreams, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import Dataset, Policy
from ..engine import Engine
from ..errors import SpecError
from ..files import atomic
from ..spec import StreamSpec
from ..world import World
from . import film
from .moments import POLICY
from .run import default_context
from .source import EnvLike, open_truth
from .truth import Truth

_LEAST = 48  # frames of one episode shown when the truth ends earlier
_EPISODES = 4


def write_preview(
    world: World,
    out: str | Path,
    env: EnvLike | None = None,
    *,
    dataset: Dataset | None = None,
    frames: int = 120,
    seed: int = 0,
    steps: int | None = None,
    height: int = 160,
    policy: str | Policy = POLICY,
) -> Path:
    """Write an animated WebP of truth and dream under the same actions and return its path.

    The first fresh episodes of `seed` are shown one after another, unpicked, until there are `frames` frames. A world
    of vectors is drawn as curves, truth and dream in one plot, the time line growing. Where a world remembers by a map,
    it is shown beside them. `out` is a file, or a folder that gets `preview.webp`. `height`: pixels, about.
    `policy`: who acts.

    Raises `SpecError` when there is neither an environment nor a dataset to take the truth from.
    """
    path = Path(out)
    path = path / "preview.webp" if path.is_dir() else path
    data = render_preview(
        Engine(world, steps=steps), world, env, dataset=dataset, frames=frames, seed=seed, height=height, policy=policy
    )
    with atomic(path) as partial:
        partial.write_bytes(data)
    return path


def render_preview(
    engine: Engine,
    world: World,
    env: EnvLike | None,
    *,
    dataset: Dataset | None,
    frames: int,
    seed: int,
    height: int,
    policy: str | Policy = POLICY,
) -> bytes:
    """Return the bytes of the picture that `write_preview` writes."""
    spec = world.spec
    if not spec.modelled:
        raise SpecError("this world models no stream that could be shown.")
    name, stream = next(
        ((n, s) for n, s in spec.modelled.items() if s.kind == "image"), next(iter(spec.modelled.items()))
    )
    _, truths = open_truth(
        spec,
        env,
        dataset,
        episodes=_EPISODES,
        context=default_context(world),
        frames=frames,
        marks=[frames],
        seed=seed,
        lead=0,
        policy=policy,
    )
    truth = next(truths)
    dreams, maps = _dreamed(engine, truth, name, frames)
    pieces: list[np.ndarray] = []
    for row in range(len(truth)):
        left = frames - sum(len(p) for p in pieces)
        if left <= 0:
            break
        memory = None if maps is None else maps[row]
        pieces.append(_piece(truth, name, stream, row, dreams[row], memory, left, height))
    captions = ("true", "dreamed") if maps is None else ("true", "dreamed", "memory")
    return film.animation(film.captioned(np.concatenate(pieces), captions), spec.fps)


def _dreamed(engine: Engine, truth: Truth, name: str, frames: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A dream's frames `(B, T, ...)`, and what was remembered after each as maps `(B, T, h, w, 1)`, where it is one."""
    observations, past = truth.start()
    state = engine.start(observations, past, seeds=truth.seeds)
    seen, maps = [], []
    for t in range(min(frames, truth.future.shape[1])):
        state, frame = engine.step(state, truth.future[:, t])
        seen.append(frame.observation[name])
        maps.append(engine.picture(state))
    drawn = [m for m in maps if m is not None]
    return np.stack(seen, 1), np.stack(drawn, 1)[..., None] if drawn else None


def _piece(
    truth: Truth,
    name: str,
    stream: StreamSpec,
    row: int,
    dream: np.ndarray,
    memory: np.ndarray | None,
    most: int,
    height: int,
) -> np.ndarray:
    """One episode, RGB `(T, h, w, 3)`: the truth's last frame stands while the dream goes on to at least `_LEAST`."""
    true = truth.real_frames(name, row)[truth.context + 1 :]
    length = min(most, len(dream), max(len(true), _LEAST))
    held = true[np.minimum(np.arange(length), len(true) - 1)]
    if stream.kind == "vector":
        bounds = np.stack([held.min(0), held.max(0)])
        both = [curves(values[:length], bounds, height) for values in (held, dream)]
    else:
        both = [film.enlarged(film.rgb(values[:length]), height) for values in (held, dream)]
    gap = np.full((length, both[0].shape[1], 4, 3), 24, np.uint8)
    columns = [both[0], gap, both[1]]
    if memory is not None:
        columns += [gap, film.fitted(film.rgb(memory[:length]), both[0].shape[1])]
    return np.concatenate(columns, axis=2)


def curves(values: np.ndarray, bounds: np.ndarray, side: int) -> np.ndarray:
    """Draw the dimensions of `values` `(T, F)` as growing curves, one band each: RGB `(T, side, side, 3)`.

    `bounds` `(2, F)` are the values at the bottom and top of each band.
    """
    from PIL import Image, ImageDraw

    count = min(values.shape[1], 6)
    span = np.where(bounds[1] > bounds[0], bounds[1] - bounds[0], 1.0)
    unit = np.clip((values - bounds[0]) / span, -0.1, 1.1)
    x = np.linspace(2, side - 3, len(values))
    colours = ((91, 156, 240), (240, 160, 75), (80, 190, 140), (225, 105, 125), (165, 135, 225), (150, 150, 150))
    image = Image.new("RGB", (side, side), (14, 14, 14))
    draw = ImageDraw.Draw(image)
    shots = []
    for t in range(len(values)):
        for i in range(count):
            band = side / count
            y = band * (i + 0.9 - 0.8 * unit[max(0, t - 1) : t + 1, i])
            at = list(zip(x[max(0, t - 1) : t + 1], y))
            draw.line(at if len(at) > 1 else at * 2, fill=colours[i], width=2)
        shots.append(np.asarray(image).copy())
    return np.stack(shots)
