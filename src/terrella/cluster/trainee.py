"""A worker of a training run on a cluster: an actor of Ray, in torch's process group, that calls `terrella.train`."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from ..config import from_json
from ..data import Dataset
from ..errors import TerrellaError
from ..training import train
from ..training.budget import Budget
from ..training.presets import TrainingConfig
from ..training.team import Team
from ..world import WorldConfig

INTERRUPTED = "interrupted"
WIDTH = 110  # of lines of progress
PATIENCE = timedelta(days=1)  # of torch: Ray finds out who has died, and others may take long over a dataset


class Trainee:
    """One of `workers`. threads: of torch."""

    def __init__(self, rank: int, workers: int, threads: int) -> None:
        self.rank, self.workers, self.threads = rank, workers, threads
        self._stop, self._store = threading.Event(), None
        self._said = _Lines()

    def node(self) -> tuple[str, str]:
        """Where it runs: the id of the machine, and its address."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def look(self, dataset: str, mark: str) -> tuple[str | None, str, bool]:
        """What it sees: the dataset's fingerprint, or None and why not; and whether a file is there."""
        try:
            return Dataset(dataset).fingerprint, "", Path(mark).exists()
        except TerrellaError as error:
            return None, str(error), Path(mark).exists()

    def listen(self, host: str) -> int:
        """Begin the store where workers meet, at that address of this machine alone; returns its port."""
        own = socket.create_server((host, 0))
        port = own.getsockname()[1]
        self._store = _store(host, port, self.workers, True, wait_for_workers=False, master_listen_fd=own.detach())
        return port

    def train(self, text: str, host: str, port: int) -> list[str] | None:
        """Train as it is told; returns None, or the name and text of what went wrong."""
        told = json.loads(text)
        torch.set_num_threads(self.threads)
        try:
            self._join(host, port, told["device"])
            self._train(told)
        except KeyboardInterrupt:
            return [INTERRUPTED, ""]
        except TerrellaError as error:
            return [type(error).__name__, str(error)]
        except Exception:
            return ["", traceback.format_exc()]
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        return None

    def stop(self) -> None:
        """End training after the step; for the first worker to be told."""
        self._stop.set()

    def said(self) -> str:
        """Lines of progress since this was asked last."""
        return self._said.taken()

    def _join(self, host: str, port: int, device: str) -> None:
        own = host if self._store is not None or host == "127.0.0.1" else self.node()[1]
        if (interface := _interface(own)) is not None:  # else both guess by the machine's name
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        store = self._store or _store(host, port, self.workers, False)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.workers,
            timeout=PATIENCE,
        )

    def _train(self, told: dict[str, Any]) -> None:
        shown = told["progress"] and self.rank == 0
        config, training = told["config"], told["training"]
        how = {key: told[key] for key in ("preset", "seed", "backbone", "decoder", "device", "name", "resume")}
        train(
            told["dataset"],
            told["out"],
            budget=from_json(Budget, told["budget"]),
            config=None if config is None else from_json(WorldConfig, config),
            training=None if training is None else from_json(TrainingConfig, training),
            progress=Console(file=self._said, width=WIDTH) if shown else False,
            team=Team(self.rank, self.workers, told["shard"], self._stop.is_set),
            **how,
        )


def _store(host: str, port: int, workers: int, first: bool, **how: Any) -> Any:
    return dist.TCPStore(host, port, workers, first, PATIENCE, **how)  # pyright: ignore[reportPrivateImportUsage]


class _Lines(io.StringIO):
    """A text that is written by one thread and taken by another."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            return super().write(text)

    def taken(self) -> str:
        with self._lock:
            text = self.getvalue()
            self.seek(0)
            self.truncate()
        return text


def _interface(address: str) -> str | None:
    """The network interface that has an IPv4 address, by name; None where the system does not say."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(asking, 0x8915, name.encode().ljust(256, b"\0"))  # SIOCGIFADDR
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
