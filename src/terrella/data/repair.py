"""Finding damage in a dataset, and keeping what is intact."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import DamagedData, DatasetError
from .dataset import Dataset
from .store import checked_bytes, read_manifest

log = logging.getLogger("terrella.data")


def verify(path: str | Path) -> list[str]:
    """Read and check every byte of a dataset; one message for each damage, none when it is whole.

    Raises `DatasetError` when there is no dataset at `path`.
    """
    found: list[str] = []
    try:
        manifest = read_manifest(Path(path))
        dataset = Dataset.damaged(path, found)
    except DamagedData as error:
        return [str(error)]
    for segment in manifest.segments:
        if segment.states:
            try:
                checked_bytes(dataset.path / f"{segment.name}.states.parquet", segment.states)
            except DamagedData as error:
                found.append(str(error))
    found += dataset.check_chunks()
    for index in range(len(dataset)):
        try:
            dataset.states(index)
        except DamagedData as error:
            found.append(str(error))
    return found


def salvage(path: str | Path, out: str | Path) -> Dataset:
    """Copy every intact episode of a damaged dataset to a new folder, and return the copy.

    An episode whose saved simulator states alone are damaged is kept without them. Raises `DatasetError` when `out`
    holds a dataset already, `DamagedData` when `dataset.json` itself cannot be read.
    """
    if (Path(out) / "dataset.json").exists():
        raise DatasetError(f"{out} is a dataset already; choose a new folder.")
    lost: list[str] = []
    dataset = Dataset.damaged(path, lost)
    with Dataset.create(out, dataset.spec, chunk_frames=dataset.layout.chunk_frames) as writer:
        for index in range(len(dataset)):
            try:
                episode = dataset.episode(index, states=False)
            except DamagedData as error:
                lost.append(str(error))
                continue
            try:
                episode.states = dataset.states(index)
            except DamagedData as error:
                lost.append(str(error))
            writer.add(episode)
    for message in lost:
        log.warning("left out: %s", message)
    return Dataset(out)
