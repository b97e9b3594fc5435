"""One world trained on a cluster: the world of one process; who dies is named, who interrupts goes on."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from test_training import PLACE, RECIPE, make_dataset, quick

from terrella.cluster import train
from terrella.cluster.connect import connect
from terrella.errors import ConfigError, DatasetError, MissingExtra, TrainingError
from terrella.training import TrainingConfig
from terrella.training.checkpoint import load_checkpoint
from terrella.world import World

HOW = {"budget": "16steps", "preset": "debug", "training": RECIPE, "seed": 3, "device": "cpu"}
LONG = {**HOW, "budget": "1000000steps"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("places") / "data", PLACE, episodes=20, length=10).path


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"workers": 0}, ConfigError, "workers is 0"),
        ({"workers": 1, "shard": True}, ConfigError, "2 or more"),
        ({"device": "cuda:1"}, ConfigError, "cuda, or cpu"),
        ({"cpus": 0}, ConfigError, "cpus is 0"),
        ({"budget": "soon"}, ConfigError, "soon"),
    ],
)
def test_bad_arguments_are_refused_before_a_cluster_is_asked(data, tmp_path, monkeypatch, changes, error, says):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(error, match=says):
        train(data, tmp_path / "w", **{**HOW, **changes})
    assert not (tmp_path / "w").exists()


def test_what_is_not_there_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DatasetError, match="nowhere"):
        train(tmp_path / "nowhere", tmp_path / "w")
    with pytest.raises(MissingExtra, match=r"terrella\[ray\]"):
        train(data, tmp_path / "w")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "world.json").touch()
    with pytest.raises(TrainingError, match="finished world"):
        train(data, tmp_path / "done")


@pytest.fixture(scope="module")
def local():
    """A cluster of two CPUs, which takes a minute to start on a busy machine."""
    if "ray" in sys.modules or importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed, or was imported before, when it takes no settings any more")
    torch.set_num_threads(1)
    ray, own = connect("local", "training on a cluster", cpus=2)
    assert own
    try:
        assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
        yield ray
    finally:
        ray.shutdown()


def trainees() -> list[int]:
    """Processes of this machine that are workers of a training run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if said.startswith(b"ray::Trainee"):
            found.append(int(folder.name))
    return found


def gone(seconds: float = 20.0) -> bool:
    """Whether no worker is left, after a moment."""
    until = time.monotonic() + seconds
    while trainees() and time.monotonic() < until:
        time.sleep(0.2)
    return not trainees()


def when(ready: Path, act) -> threading.Thread:
    """Act once a file is there."""

    def wait() -> None:
        until = time.monotonic() + 200
        while not ready.exists() and time.monotonic() < until:
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def distance(a: World, b: World) -> float:
    theirs = b.state_dict()
    return max(float((v.float() - theirs[k].float()).abs().max()) for k, v in a.state_dict().items())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", [False, True])
def test_a_cluster_makes_the_world_of_one_process(local, data, tmp_path, capsys, shard):
    together = train(data, tmp_path / "w", workers=2, shard=shard, **HOW)
    alone = quick(data)
    assert distance(together, alone) < 2e-3  # bfloat16 where the processor has it; `test_team.py` measures without
    assert together.record["dynamics_steps"] == 15
    assert "dynamics" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "w").iterdir()} == {
        "world.json",
        "weights.safetensors",
        "starts.safetensors",
        "logs",
    }
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_that_dies_is_named_and_the_checkpoint_stands(local, data, tmp_path):
    out = tmp_path / "w"
    killer = when(out / "checkpoint.safetensors", lambda: os.kill(max(trainees()), signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"worker [01] died .*the same command goes on"):
        train(data, out, workers=2, progress=False, **LONG)
    killer.join()
    assert gone()
    _, about = load_checkpoint(out / "checkpoint.safetensors")
    assert about["step"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_who_interrupts_goes_on(local, data, tmp_path):
    out, few = tmp_path / "w", {**HOW, "budget": "150steps", "progress": False}
    when(out / "checkpoint.safetensors", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(data, out, workers=2, **{**few, "training": TrainingConfig(**{**RECIPE.__dict__, "batch": 8})})
    assert gone()
    _, about = load_checkpoint(out / "checkpoint.safetensors")
    assert 0 < about["step"] < 140
    world = train(data, out, workers=2, **{**few, "training": TrainingConfig(**{**RECIPE.__dict__, "batch": 8})})
    assert world.record["dynamics_steps"] > 140
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_without_room_and_errors_of_workers_are_told(local, data, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="the cluster has 2 CPUs"):
        train(data, tmp_path / "w", workers=3, **HOW)
    with pytest.raises(ConfigError, match="a GPU each"):
        train(data, tmp_path / "w", workers=2, **{**HOW, "device": "cuda"})
    with pytest.raises(ConfigError, match="batch is 5"):
        train(data, tmp_path / "w", workers=2, **{**HOW, "training": TrainingConfig(batch=5)})
    assert not (tmp_path / "w").exists()
    with pytest.raises(TrainingError, match="no train episode has 12 transitions"):
        train(data, tmp_path / "w", workers=2, progress=False, **{**HOW, "training": TrainingConfig(batch=4)})
    assert gone()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_that_do_not_see_the_folders_are_told(local, data, tmp_path, monkeypatch):
    from terrella.cluster.trainee import Trainee

    look = Trainee.look
    monkeypatch.setattr(Trainee, "look", lambda self, dataset, mark: look(self, dataset + "-not-here", mark))
    with pytest.raises(ConfigError, match=r"worker 0 cannot read the dataset.*folder that all machines share"):
        train(data, tmp_path / "w", workers=2, **HOW)
    monkeypatch.setattr(Trainee, "look", lambda self, dataset, mark: look(self, dataset, mark + "-not-here"))
    with pytest.raises(ConfigError, match="worker 0 does not see the folder"):
        train(data, tmp_path / "w", workers=2, **HOW)
    assert gone()
