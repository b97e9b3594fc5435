"""One world trained on many machines: Ray begins a worker for each share of the batch, and torch does the rest.

What the workers do is `terrella.train` with a `Team`; here they are placed, told who they are and where the first one
listens, and watched. Ray carries orders and lines of progress, as JSON values and text; gradients go from worker to
worker by torch.distributed (nccl among GPUs, else gloo).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .. import errors
from ..config import to_json
from ..data import Dataset
from ..errors import ConfigError, TerrellaError, TrainingError
from ..training.budget import Budget
from ..training.checkpoint import require_unfinished
from ..training.loop import chosen
from ..training.presets import TrainingConfig
from ..training.team import require_shares, require_team
from ..world import World, WorldConfig
from .connect import LOCAL, connect
from .trainee import INTERRUPTED, Trainee

PERIOD = 0.5  # seconds between two looks at what worker 0 says
GRACE = 10.0  # for others to tell why they stopped, after one did
ROOM = 120.0  # for the cluster to find room


def train(
    dataset: Dataset | str | Path,
    out: str | Path,
    *,
    workers: int = 2,
    address: str | None = LOCAL,
    shard: bool = False,
    cpus: int | None = None,
    budget: str | Budget = "10m",
    preset: str = "auto",
    seed: int = 0,
    backbone: str | None = None,
    decoder: str | None = None,
    config: WorldConfig | None = None,
    training: TrainingConfig | None = None,
    device: str | None = None,
    name: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> World:
    """Train a world on a dataset by `workers` processes of a Ray cluster, in folders that all of them reach.

    Each takes its share of every batch, so the world is the one that `terrella.train` would make in as many steps, up
    to rounding; see there for the other arguments. A checkpoint of so many workers is gone on from by any number.
    address: of the cluster, as `connect` takes it. shard: split parameters, gradients and optimiser among the workers.
    cpus: of each, and threads of torch; by default this process's threads are divided where the cluster is local, and
    else all CPUs are. device: cuda (the default where there are GPUs), one GPU a worker, or cpu.

    Interrupted (Ctrl-C), they stop after the step and save a checkpoint. Raises what `terrella.train` raises,
    `MissingExtra` without Ray, `ConfigError` for shares, folders and machines that there are not, and `TrainingError`
    where a worker dies.
    """
    require_team(workers, shard)
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; each worker has one of its own: say cuda, or cpu.")
    if cpus is not None and cpus < 1:
        raise ConfigError(f"cpus is {cpus}; each worker needs at least 1.")
    data, folder, whole = dataset if isinstance(dataset, Dataset) else Dataset(dataset), Path(out), Budget.parse(budget)
    if resume:
        require_unfinished(folder)
    local = address in (None, LOCAL)
    each = cpus or max(1, torch.get_num_threads() // workers)
    ray, own = connect(address, "training on a cluster", cpus=workers * each if local else None)
    try:
        needs = _needs(ray, workers, each if local or cpus else None, device)
        where = "cuda" if needs["GPU"] else "cpu"
        chosen_ = chosen(data.spec, whole, torch.device(where), preset, backbone, decoder, config, training)
        require_shares(chosen_[2], workers, shard)
        told = {
            "dataset": str(Path(data.path).resolve()),
            "out": str(folder.resolve()),
            "shard": shard,
            "budget": to_json(whole),
            "preset": preset,
            "seed": seed,
            "backbone": backbone,
            "decoder": decoder,
            "config": None if config is None else to_json(config),
            "training": None if training is None else to_json(training),
            "device": where,
            "name": name or folder.name,
            "resume": resume,
            "progress": progress,
        }
        with _placed(ray, workers, needs) as team:
            _look(ray, team, told, data)
            _run(ray, team, told, Console(stderr=True, quiet=not progress))
    finally:
        if own:
            ray.shutdown()
    return World.load(folder)


def _needs(ray: Any, workers: int, cpus: int | None, device: str | None) -> dict[str, float]:
    """What Ray sets aside for a worker; raises `ConfigError` where the cluster has not so much."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [node.get("CPU", 0.0) for node in nodes]
    there, largest, gpus = sum(cores), max(cores, default=0.0), sum(node.get("GPU", 0.0) for node in nodes)
    each = cpus or int(max(1, min(largest, there // workers)))
    if workers * each > there or each > largest:
        raise ConfigError(
            f"workers is {workers}, {each} CPUs each; the cluster has {there:.0f} CPUs, {largest:.0f} on its largest "
            "machine."
        )
    if device == "cpu" or (device is None and not gpus):
        return {"CPU": each, "GPU": 0}
    if gpus < workers:
        raise ConfigError(
            f"workers is {workers}, a GPU each, and the cluster has {gpus:.0f}; ask for fewer, or for device='cpu'."
        )
    return {"CPU": each, "GPU": 1}


@contextmanager
def _placed(ray: Any, workers: int, needs: dict[str, float]) -> Iterator[list[Any]]:
    """Begin workers, all or none and near one another, that end with the block; raises `ConfigError` without room."""
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group, team = placement_group([{k: v for k, v in needs.items() if v}] * workers, strategy="PACK"), []
    try:
        if not group.wait(ROOM):
            raise ConfigError(
                f"the cluster has found no room in {ROOM:.0f} s for {workers} workers of {needs['CPU']:.0f} CPUs and "
                f"{needs['GPU']:.0f} GPUs each: others are using it. Ask for fewer, or wait."
            )
        start = ray.remote(Trainee).options
        for rank in range(workers):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            # One of its threads trains, another answers.
            how = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_restarts": 0, "max_concurrency": 2}
            team.append(start(scheduling_strategy=place, **how).remote(rank, workers, int(needs["CPU"])))
        yield team
    finally:
        for worker in team:
            ray.kill(worker)
        remove_placement_group(group)


def _look(ray: Any, team: list[Any], told: dict[str, Any], data: Dataset) -> None:
    """Raise `ConfigError` where a worker does not see the dataset, or the folder for the world, that is seen here."""
    folder = Path(told["out"])
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".{secrets.token_hex(8)}"
    mark.touch()
    try:
        seen = ray.get([worker.look.remote(told["dataset"], str(mark)) for worker in team])
    except ray.exceptions.RayError as error:
        raise TrainingError(f"a worker died before training began ({_line(error)}); see its output.") from error
    finally:
        mark.unlink()
    for rank, (fingerprint, why, there) in enumerate(seen):
        if fingerprint != data.fingerprint:
            raise ConfigError(
                f"worker {rank} cannot read the dataset {told['dataset']} ({why or 'it finds another one there'}); put "
                "it into a folder that all machines share."
            )
        if not there:
            raise ConfigError(f"worker {rank} does not see the folder {folder}; choose one that all machines share.")


def _run(ray: Any, team: list[Any], told: dict[str, Any], console: Console) -> None:
    """Let the workers train, and raise what went wrong."""
    nodes = ray.get([worker.node.remote() for worker in team])
    alone = len({node for node, _ in nodes}) == 1
    host = "127.0.0.1" if alone else nodes[0][1]
    port = ray.get(team[0].listen.remote(host))
    text = json.dumps(told)
    waiting = {worker.train.remote(text, host, port): rank for rank, worker in enumerate(team)}
    found: dict[int, list[str]] = {}
    stopping = False
    while waiting and not found:
        try:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=PERIOD)
            _show(ray, team[0], console)
            found |= _outcomes(ray, waiting, done)
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            team[0].stop.remote()
            console.print("interrupted; the workers stop after this step (again: at once)", highlight=False)
    if found:
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE) if waiting else ([], [])
        found |= _outcomes(ray, waiting, done)
    _show(ray, team[0], console)
    if found:
        raise _worst(found, told["out"])


def _outcomes(ray: Any, waiting: dict[Any, int], done: list[Any]) -> dict[int, list[str]]:
    """Take what has ended off the list; returns failures, worker -> name and text, the name None for a death."""
    found = {}
    for task in done:
        rank = waiting.pop(task)
        try:
            failure = ray.get(task)
        except ray.exceptions.RayError as error:
            failure = ["died", _line(error)]
        if failure is not None:
            found[rank] = failure
    return found


def _worst(found: dict[int, list[str]], out: str) -> BaseException:
    """The failure that explains the others: an error of ours, then a death, then what else was raised."""
    if any(name == INTERRUPTED for name, _ in found.values()):
        return KeyboardInterrupt()
    for rank in sorted(found):
        name, text = found[rank]
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, TerrellaError):
            return kind(text)
    stands = f"The checkpoint in {out}, if one was written, stands: the same command goes on from there."
    for rank in sorted(found, key=lambda rank: found[rank][0] != "died"):
        name, text = found[rank]
        if name == "died":
            return TrainingError(f"worker {rank} died ({text}). {stands}")
        return TrainingError(f"worker {rank} failed:\n{text}\n{stands}")
    raise AssertionError("nothing was found")


def _show(ray: Any, first: Any, console: Console) -> None:
    try:
        said = ray.get(first.said.remote(), timeout=GRACE)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        return  # whether it has died is told elsewhere
    if said:
        console.print(said, end="", highlight=False, markup=False, soft_wrap=True)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return os.fsdecode(lines[0]) if lines else type(error).__name__
