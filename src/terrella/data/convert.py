"""Episodes from elsewhere: a folder of `.npz` files becomes a dataset.

For any other source, build `Episode`s and add them:

    with Dataset.create("runs/mine", spec) as writer:
        writer.add(Episode(observations={"pixels": frames}, actions=rows, rewards=r, terminated=te, truncated=tr))
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np

from .. import actions as codec
from .. import arenas
from ..errors import DatasetError
from ..spec import ActionSpec, EnvSpec, StreamSpec, WorldSpec
from .dataset import Dataset
from .episode import Episode

UNKNOWN = ActionSpec("discrete", n=1)  # of recordings whose actions nobody wrote down


def import_npz(
    folder: str | Path,
    out: str | Path,
    *,
    env: str | EnvSpec | None = None,
    action: ActionSpec | gym.Space | None = None,
    fps: float = 15.0,
) -> Dataset:
    """Convert the `.npz` files of a folder, one an episode, in the order of their names.

    Each file has `observations` (uint8 `(T+1, h, w[, C])` images, or float `(T+1, ...)` vectors) or one array for each
    of several streams, `observations.<name>`; and, where they are known, `actions` `(T,)` or `(T, ...)`, as the
    environment takes them (in no file: a single choice stands for them, see `terrella.labels`), `rewards` `(T,)` (else
    0), `terminated` and `truncated` (T,) or a single value for the end (else the episode counts as truncated), `seed`.
    A lone image stream is named "pixels", a lone vector stream "vector".

    env: the environment they come from, which then says what streams and actions are. Otherwise the streams are read
    off the first file, and actions are `action`, a space or its description; without it, integers of shape (T,) are
    `Discrete` with as many choices as the files use, and anything else an unbounded `Box`.

    Files are opened without pickle: arrays of objects are refused. Raises `DatasetError` for a file that does not fit.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise DatasetError(f"there are no .npz files in {folder}.")
    if env is not None:
        made = arenas.make(env)
        spec = arenas.describe(made)
        made.close()
    else:
        described = codec.action_spec(action) if isinstance(action, gym.Space) else action
        spec = WorldSpec(_streams(files[0]), described or _guess_actions(files), fps=fps)
    with Dataset.create(out, spec) as writer:
        for file in files:
            writer.add(read_npz(file, spec))
    return Dataset(out)


def read_npz(file: str | Path, spec: WorldSpec) -> Episode:
    """Read one episode as `import_npz` describes it; raises `DatasetError` when a key is missing or does not fit."""
    data = _load(Path(file))
    observations = {}
    for name, stream in spec.streams.items():
        frames = _stream_array(data, name, len(spec.streams) == 1, Path(file))
        if stream.kind == "text":
            frames = np.array([*map(str, frames), None], object)[:-1]
        observations[name] = frames.reshape(len(frames), *stream.shape) if stream.shape else frames
    unknown = "actions" not in data and spec.action == UNKNOWN
    native = np.zeros(len(next(iter(observations.values()))) - 1) if unknown else _get(data, "actions", Path(file))
    rows = [codec.encode(spec.action, a) for a in native]
    steps = len(rows)
    seed = data.get("seed")
    terminated = _flags(data.get("terminated"), steps)
    truncated = _flags(data.get("truncated"), steps)
    if "terminated" not in data and "truncated" not in data and steps:
        truncated[-1] = True
    return Episode(
        observations=observations,
        actions=np.stack(rows) if rows else np.empty((0, codec.width(spec.action))),
        rewards=np.asarray(data.get("rewards", np.zeros(steps)), np.float32),
        terminated=terminated,
        truncated=truncated,
        seed=None if seed is None else int(seed),
        info={"file": Path(file).name},
    )


def _load(file: Path, only: str | None = None) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if only in (None, key)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{file} cannot be read: {error}. Save plain arrays with numpy.savez.") from error


def _get(data: dict[str, np.ndarray], key: str, file: Path) -> np.ndarray:
    if key not in data:
        raise DatasetError(f"{file} has no array {key!r}; it has {', '.join(sorted(data))}.")
    return data[key]


def _stream_array(data: dict[str, np.ndarray], name: str, alone: bool, file: Path) -> np.ndarray:
    key = "observations" if alone and "observations" in data else f"observations.{name}"
    return _get(data, key, file)


def _streams(file: Path) -> dict[str, StreamSpec]:
    data = _load(file)
    named = {k.removeprefix("observations."): v for k, v in data.items() if k.startswith("observations.")}
    if not named:
        frames = _get(data, "observations", file)
        named = {"pixels" if _is_image(frames) else "vector": frames}
    return {name: _stream(frames) for name, frames in named.items()}


def _is_image(frames: np.ndarray) -> bool:
    return frames.dtype == np.uint8 and frames.ndim in (3, 4)


def _stream(frames: np.ndarray) -> StreamSpec:
    if frames.dtype.kind == "U":
        return StreamSpec("text")
    if _is_image(frames):
        return StreamSpec("image", frames.shape[1:] if frames.ndim == 4 else (*frames.shape[1:], 1))
    return StreamSpec("vector", (int(np.prod(frames.shape[1:], dtype=np.int64)),))


def _guess_actions(files: list[Path]) -> ActionSpec:
    found = [_load(file, "actions") for file in files]
    if not any(found):
        return UNKNOWN
    arrays = [data["actions"] if data else _get(_load(file), "actions", file) for data, file in zip(found, files)]
    if all(a.ndim == 1 and a.dtype.kind in "iu" for a in arrays):
        low, high = min(int(a.min()) for a in arrays if a.size), max(int(a.max()) for a in arrays if a.size)
        return ActionSpec("discrete", n=high - min(low, 0) + 1, start=min(low, 0))
    shape = arrays[0].shape[1:]
    width = int(np.prod(shape, dtype=np.int64))
    bound = (float("inf"),) * width
    return ActionSpec("box", shape=shape, low=tuple(-b for b in bound), high=bound, dtype="float32")


def _flags(value: np.ndarray | None, steps: int) -> np.ndarray:
    flags = np.zeros(steps, bool)
    if value is not None and np.ndim(value) == 0 and steps:
        flags[-1] = bool(value)
    elif value is not None:
        flags = np.asarray(value, bool)
    return flags
