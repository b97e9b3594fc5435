"""Random clips a second and bytes on disk: Terrella's store, HDF5 and a raw memmap of the same frames.

All read the same clips in turns, warm, in one thread, and the frames they give are compared first. HDF5 is tried
contiguous, in chunks of 16 frames, and in those with lzf and gzip; the fastest is reported as "hdf5". Terrella is
measured as it comes (it keeps decompressed chunks, up to 512 MB), and without that memory as "terrella_uncached":
that is what a dataset much larger than the memory costs.

    python benchmarks/dataset.py --json dataset.json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import arguments, median, write_json

from terrella.data import Dataset, record

Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]
HDF5_LAYOUTS = {
    "contiguous": {},
    "chunk16": {"chunks": 16},
    "chunk16_lzf": {"chunks": 16, "compression": "lzf"},
    "chunk16_gzip1": {"chunks": 16, "compression": "gzip", "compression_opts": 1},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--env", default="procgen/coinrun")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=15, help="transitions a clip (frames less one)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=10, help="batches a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_json(measure(Path(folder), options), options.json, seeds=[options.seed])


def measure(folder: Path, options) -> dict:
    began = time.perf_counter()
    dataset = record(options.env, folder / "terrella", steps=options.frames, seed=options.seed, progress=False)
    recording = dataset.steps / (time.perf_counter() - began)
    frames = np.concatenate([episode.observations["pixels"] for episode in dataset])
    firsts = np.cumsum(dataset.lengths + 1) - (dataset.lengths + 1)
    readers, sizes = _readers(folder, dataset, frames, firsts, options.length)

    rng = np.random.default_rng(options.seed)
    positions = [dataset.starts(options.batch, options.length, rng, "all") for _ in range(options.batches)]
    expected = [_memory_reader(frames, firsts, options.length)(*position) for position in positions[:2]]
    for name, read in readers.items():
        for position, clips in zip(positions, expected):
            if not np.array_equal(read(*position), clips):
                raise SystemExit(f"{name} gives other frames")

    raw: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(options.rounds + 1):
        for name, read in readers.items():
            began = time.perf_counter()
            for position in positions:
                read(*position)
            if turn:  # the first one warms up
                raw[name].append(options.batch * len(positions) / (time.perf_counter() - began))
    middle = {name: median(values) for name, values in raw.items()}
    best = max((name for name in middle if name.startswith("hdf5_")), key=lambda name: middle[name])
    report = {"terrella": middle["terrella"], "hdf5": middle[best], "memmap": middle["memmap"]}
    return {
        "clips_per_s": {name: round(value, 1) for name, value in report.items()},
        "bytes": {"terrella": sizes["terrella"], "hdf5": sizes[best], "memmap": sizes["memmap"]},
        "hdf5_layout": best,
        "ratio_to_hdf5": {
            name: round(median([a / b for a, b in zip(raw[name], raw[best])]), 3)
            for name in ("terrella", "terrella_uncached", "memmap")
        },
        "all_clips_per_s": {name: round(value, 1) for name, value in middle.items()},
        "all_bytes": sizes,
        "recording_frames_per_s": round(recording, 1),
        "frames": len(frames),
        "frame_shape": list(frames.shape[1:]),
        "episodes": len(dataset),
        "clip_frames": options.length + 1,
        "batch": options.batch,
        "env": options.env,
        "raw_clips_per_s": {name: [round(v, 1) for v in values] for name, values in raw.items()},
    }


def _readers(
    folder: Path, dataset: Dataset, frames: np.ndarray, firsts: np.ndarray, length: int
) -> tuple[dict[str, Reader], dict[str, int]]:
    """Write the frames in each way, and return how to read clips and the bytes on disk."""
    import h5py

    np.save(folder / "frames.npy", frames)
    uncached = Dataset(dataset.path, cache_mb=0)
    readers: dict[str, Reader] = {
        "terrella": lambda e, s: dataset.clips(e, s, length).observations["pixels"],
        "terrella_uncached": lambda e, s: uncached.clips(e, s, length).observations["pixels"],
        "memmap": _memory_reader(np.load(folder / "frames.npy", mmap_mode="r"), firsts, length),
    }
    sizes = {
        "terrella": sum(file.stat().st_size for file in dataset.path.iterdir()),
        "memmap": (folder / "frames.npy").stat().st_size,
    }
    for name, layout in HDF5_LAYOUTS.items():
        path = folder / f"{name}.h5"
        how = {**layout, "chunks": (16, *frames.shape[1:])} if layout else {}
        with h5py.File(path, "w") as file:
            file.create_dataset("frames", data=frames, **how)
        readers[f"hdf5_{name}"] = _memory_reader(h5py.File(path, "r")["frames"], firsts, length)
        sizes[f"hdf5_{name}"] = path.stat().st_size
    return readers, sizes


def _memory_reader(store, firsts: np.ndarray, length: int) -> Reader:
    """Read clips from anything that slices like an array of all frames."""

    def read(episodes: np.ndarray, starts: np.ndarray) -> np.ndarray:
        out = np.empty((len(episodes), length + 1, *store.shape[1:]), np.uint8)
        for b, at in enumerate((firsts[episodes] + starts).tolist()):
            out[b] = store[at : at + length + 1]
        return out

    return read


if __name__ == "__main__":
    main()
