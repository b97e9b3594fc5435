"""A suite on a cluster: the desk that tasks share, the results of one process, resumed where it was stopped."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from terrella.cluster import RayJobs
from terrella.cluster.suite import Desk
from terrella.errors import MissingExtra, UnknownName
from terrella.evaluation.jobs import portable
from terrella.evaluation.measurements import Measurement
from terrella.evaluation.suite import run_suite

TINY = (
    Measurement("plans", "forks", "plans", 3, 4, (1, 4), shift=1),
    Measurement("loss", "loss", "plans", 2, 2, (1, 4), draws=1),
    Measurement("drift", "drift", groups=3, marks=(1, 4)),
)
QUIET = {"suite": TINY, "progress": False, "lead": 6, "context": 2}


def test_the_desk_gives_out_once_and_is_emptied_once():
    desk = Desk({"old.json": "1"})
    assert [desk.claim(*what) for what in (("plans", "a"), ("plans", "b"), ("plans", "a"))] == [True, True, False]
    assert (desk.read("old.json"), desk.read("new.json")) == ("1", None)
    desk.write("new.json", "2")
    desk.count(3)
    desk.count(4)
    assert desk.empty() == (7, {"new.json": "2"})
    assert desk.empty() == (0, {})


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"terrella\[ray\]"):
        run_suite("pendulum", jobs=RayJobs("local", 2), out=tmp_path, **QUIET)


def test_importing_it_does_not_import_ray():
    program = "import terrella.cluster, sys; assert 'ray' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def bare(result):
    """What was measured, without how long it took."""
    for found in result["measurements"].values():
        for row in found["entrants"].values():
            del row["seconds"]
    return result["measurements"]


@pytest.fixture(scope="module")
def local():
    """A cluster of two CPUs, which takes a minute to start on a busy machine."""
    if "ray" in sys.modules or importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed, or was imported before, when it takes no settings any more")
    torch.set_num_threads(1)
    executor = RayJobs("local", 2)
    with executor.joined(1) as ray:
        assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
        yield executor
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_local_cluster_finds_what_one_process_does_and_goes_on_where_it_was(
    local, pendulum_world, tmp_path, monkeypatch
):
    saved = pendulum_world.save(tmp_path / "world")
    alone = run_suite(saved, out=tmp_path / "alone", **QUIET)
    monkeypatch.setattr("terrella.evaluation.suite._measure", lambda *_: pytest.fail("measured in this process"))
    out, counted = tmp_path / "shared", []

    def stops(frames):
        if any((out / "kept").glob("*.json")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(saved, out=out, jobs=local, **{**QUIET, "progress": stops})
    before = len(list((out / "kept").glob("*.json")))
    assert before >= 1
    shared = run_suite(saved, out=out, jobs=local, **{**QUIET, "progress": counted.append})
    assert shared["reused"] == before
    assert shared["hardware"]["cluster"] == "local"
    assert bare(shared) == bare(alone)
    assert sum(counted) > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_a_task_raises_is_raised(local, tmp_path):
    how = {"env": None, "suite": TINY, "dataset": None, "policy": "random", "engine": None, "out": tmp_path}
    sent = portable(str(tmp_path / "nowhere"), [], 2, **how)
    with pytest.raises(UnknownName, match="nowhere"):
        local.run(sent, tmp_path / "kept", lambda frames: None)
    sent = portable("pendulum", [], 2, **{**how, "policy": "no-such"})
    with pytest.raises(UnknownName, match="no-such"):
        local.run(sent, tmp_path / "kept", lambda frames: None)
