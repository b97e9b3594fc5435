"""Files appear whole or not at all, and as readable as any other."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from terrella import Engine, files
from terrella.data import Dataset
from terrella.files import atomic
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.training.checkpoint import save_checkpoint
from terrella.world import World

SPEC = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=2))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def plain(request):
    """The permissions that a new file gets."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for text in ("old", "new"):
        with atomic(tmp_path / "a") as partial:
            partial.write_text(text)
            assert not (tmp_path / "a").exists() or (tmp_path / "a").read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_text() == text


@pytest.mark.parametrize("call", ["the block", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, call):
    (tmp_path / "a").write_text("old")

    def fail(*args):
        raise KeyboardInterrupt

    def write():
        with atomic(tmp_path / "a") as partial:
            partial.write_text("half")
            if call == "the block":
                fail()

    with monkeypatch.context() as patch:
        if call != "the block":
            patch.setattr(files.os, call, fail)
        with pytest.raises(KeyboardInterrupt):
            write()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_what_a_killed_process_left_does_not_matter(tmp_path, plain):
    (tmp_path / "a.tmp").write_text("a longer text of a process that was killed")
    (tmp_path / "a.tmp").chmod(0o400)
    with atomic(tmp_path / "a") as partial:
        partial.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert mode(tmp_path / "a") == plain


def test_content_and_name_are_synced_before_it_returns(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, real=real: (done.append(name), real(*a)))
    with atomic(tmp_path / "a") as partial:
        partial.write_text("new")
    assert done == ["fsync", "replace", "fsync"]


def test_every_file_that_is_written_can_be_read_by_others(tmp_path, plain):
    world = World(SPEC, world_config("debug", SPEC))
    world.save(tmp_path / "world")
    Engine(world).start({"vector": np.zeros((1, 1, 2))}).save(tmp_path / "state.safetensors")
    save_checkpoint(tmp_path / "checkpoint.safetensors", {"a": {"x": torch.zeros(1)}}, {})
    Dataset.create(tmp_path / "data", SPEC).close()
    with atomic(tmp_path / "text") as partial:
        partial.write_text("x")
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    assert len(written) == 6
    assert {p.name: mode(p) for p in written} == {p.name: plain for p in written}
