"""Snapshots and shared moments in other filesystems: whole or not there, equal bits, and nobody waits for them."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from test_serving import CAR, LEFT, PENDULUM, RIGHT, WALK, Client, pixels, running, same, tiny
from test_serving_api import WEB
from test_serving_faults import ROWS, reopened, store, until
from test_serving_kept import LIMITS, again, begun, walk
from test_serving_moments import free_port
from test_serving_protocol import count

from terrella.errors import ServingError, StateError, UnknownName
from terrella.serving.keeper import Keeper
from terrella.serving.remote import OWNER, PART, Remote
from terrella.serving.snapshots import Snapshots

SECRET = "hunter2hunter2"


class Gate(MemoryFileSystem):
    """A filesystem in memory that can be made to hang, to refuse, and to break off half-way."""

    protocol = "gate"
    store, pseudo_dirs = {}, [""]
    way = threading.Event()
    refuses = half = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("gate://"))

    def _enter(self) -> None:
        assert Gate.way.wait(60)
        if Gate.refuses:
            raise PermissionError(f"wrong password {SECRET}")

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self._enter()
        if Gate.half:
            self.pipe_file(rpath, Path(lpath).read_bytes()[:100])
            raise ConnectionResetError(rpath)
        super().put_file(lpath, rpath, **kwargs)

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        self._enter()
        super().get_file(rpath, lpath, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._enter()
        return super().ls(path, detail, **kwargs)


fsspec.register_implementation("gate", Gate)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    for kind in (Gate, MemoryFileSystem):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
    Gate.refuses = Gate.half = False
    Gate.way.set()
    yield
    Gate.way.set()


@pytest.fixture(params=["memory://kept", "file://{}/there"])
def url(request: Any, tmp_path: Path) -> str:
    return request.param.format(tmp_path)


def keeping(folder: Path, url: str, **how: Any) -> Keeper:
    keeper = Keeper(folder, url=url, **how)
    keeper.start()
    return keeper


def there(url: str) -> dict[str, int]:
    """Names and sizes of what a store has, seen from outside."""
    fs, root = fsspec.core.url_to_fs(url)
    return {info["name"].rsplit("/", 1)[-1]: info["size"] for info in fs.ls(root, detail=True)}


def sent(keeper: Keeper) -> None:
    keeper.flush()
    assert keeper._remote is not None
    assert keeper._remote.flush(20)
    assert list((keeper._home / "snapshots").iterdir()) == []


# --- what is in a store


@pytest.mark.parametrize("spec", [CAR, PENDULUM], ids=["pixels", "vector"])
def test_what_rests_in_a_store_comes_back_with_equal_bits(tmp_path: Path, url: str, spec: Any) -> None:
    keeper = keeping(tmp_path / "home", url)
    line = begun(keeper, spec=spec)
    other = begun(keeper, "b", spec=spec)
    rows = [list(spec.keys.values())[i % len(spec.keys)] for i in range(23)]
    shots = [line.shot, *walk(line, rows)]
    walk(other, rows)
    assert not line.rest("disk")
    sent(keeper)
    assert line.rest("disk")
    assert line.nbytes == 0
    assert same(walk(line, rows[:1])[0].observation, walk(other, rows[:1])[0].observation)
    for frame in (22, 17, 16, 3, 0):
        assert same(line.rewind(frame).observation, shots[frame].observation)
    keeper.close()
    keeper = keeping(tmp_path / "home", url)  # with the next server, too
    sent(keeper)  # what no journal names is deleted soon, not at once
    assert keeper.stored == sum(there(url).values()) - there(url)[OWNER] + sum(
        path.stat().st_size for path in (tmp_path / "home" / "sessions").iterdir()
    )
    line.served.store = keeper.snapshots
    assert same(again(keeper, line, "b").shot.observation, other.shot.observation)
    keeper.close()


def test_a_store_has_what_is_needed_and_no_more(tmp_path: Path, url: str) -> None:
    keeper = keeping(tmp_path / "home", url)
    lines = [begun(keeper, token, seed=seed) for token, seed in (("a", 1), ("b", 1), ("c", 2))]
    for line in lines:
        walk(line, [RIGHT] * 16)
    sent(keeper)
    assert len(there(url)) == 1 + 2 * 4  # its owner; two starts, two frames
    for line in lines[:2]:
        assert line.record is not None
        keeper.forget(line.record)
        sent(keeper)
        assert (lines[0].key in keeper.snapshots) is (line is lines[0])
    assert len(there(url)) == 1 + 2 * 2
    keeper.close()
    shutil.rmtree(tmp_path / "home" / "sessions")  # nobody names them any more
    keeper = keeping(tmp_path / "home", url)
    sent(keeper)
    assert set(there(url)) == {OWNER}
    keeper.close()


def test_the_oldest_make_room_in_a_store_too(tmp_path: Path, url: str) -> None:
    keeper = keeping(tmp_path / "home", url)
    lines = {token: begun(keeper, token, seed=ord(token)) for token in "ab"}
    for age, line in enumerate(lines.values()):
        walk(line, [RIGHT] * 16)
        keeper.flush()
        assert line.record is not None
        os.utime(line.record.path, (1000.0 + age, 1000.0 + age))
    keeper._most = before = keeper.stored
    del lines["a"], line
    gc.collect()
    begun(keeper, "c", seed=9)
    sent(keeper)
    assert keeper.stored <= before
    assert sum(there(url).values()) < before
    with pytest.raises(ServingError, match="not kept here"):
        keeper.resume("a")
    keeper.close()


def test_nobody_sees_half_a_file(tmp_path: Path) -> None:
    Gate.half = True
    keeper = keeping(tmp_path / "home", "gate://kept")
    line = begun(keeper)
    walk(line)
    keeper.flush()
    until(lambda: keeper.failing)
    found = there("gate://kept")
    assert [name for name in found if name.endswith(PART)]
    assert [name for name in found if not name.endswith(PART)] == [OWNER]
    assert same(again(keeper, line).shot.observation, line.shot.observation)  # from the outbox
    assert keeper.failures > 0
    keeper._lock.close()  # killed
    Gate.half = False
    keeper = keeping(tmp_path / "home", "gate://kept")
    sent(keeper)
    assert {name.rpartition(".")[2] for name in there("gate://kept")} == {"state", "shot", OWNER}
    line.served.store = keeper.snapshots
    assert same(again(keeper, line).shot.observation, line.shot.observation)
    keeper.close()


def test_what_is_damaged_is_named(tmp_path: Path, url: str) -> None:
    keeper = keeping(tmp_path / "home", url)
    line = begun(keeper)
    walk(line, WALK[:5])
    line.rest("disk")
    sent(keeper)
    assert line.rest("disk")
    fs, root = fsspec.core.url_to_fs(url)
    whole = {kind: fs.cat_file(f"{root}/{line.key}.{kind}") for kind in ("state", "shot")}
    for kind, error in (("state", StateError), ("shot", ServingError)):
        for content in (whole[kind][:-7], b""):
            fs.pipe_file(f"{root}/{line.key}.{kind}", content)
            with pytest.raises(error, match=line.key[:12]):
                line.wake()
        fs.pipe_file(f"{root}/{line.key}.{kind}", whole[kind])
    fs.rm_file(f"{root}/{line.key}.state")
    with pytest.raises(ServingError, match=f"{line.key}.state is not to be had"):
        line.wake()
    assert line.sound
    fs.pipe_file(f"{root}/{line.key}.state", whole["state"])
    line.wake()
    keeper.close()


def test_a_store_belongs_to_one_folder(tmp_path: Path, url: str) -> None:
    keeper = keeping(tmp_path / "a", url)
    walk(begun(keeper), WALK)
    keeper.close()
    before = there(url)
    with pytest.raises(ServingError, match="another folder"):
        Keeper(tmp_path / "b", url=url)
    assert there(url) == before
    keeping(tmp_path / "a", url).close()
    assert there(url) == before


def test_a_folder_of_before_goes_on_in_a_store(tmp_path: Path, url: str) -> None:
    keeper = Keeper(tmp_path / "home")
    keeper.start()
    line = begun(keeper)
    walk(line, WALK * 2)
    keeper.close()
    keeper = keeping(tmp_path / "home", url)
    sent(keeper)
    line.served.store = keeper.snapshots
    assert same(again(keeper, line).shot.observation, line.shot.observation)
    keeper.close()


# --- servers


def test_a_moment_outlives_the_folder(tmp_path: Path, url: str) -> None:
    served = {"car": tiny(CAR, "car")}
    with running(served, LIMITS, keep=tmp_path / "a", store=url, truth=False) as address, Client(address) as client:
        number, first = client.open("car", seed=1)
        ticks = [first, *client.play(number, ROWS[:20])]
        client.send("fork", session=number, frame=18, share=True)
        moment = client.until("shared")["token"]
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(ServingError, match="another folder"):
        Keeper(tmp_path / "b", url=url)
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm_file(f"{root}/{OWNER}")
    for _ in range(2):  # to stay
        with running(served, LIMITS, keep=tmp_path / "b", store=url, truth=False) as address:
            back = reopened(address, moment)
            assert (back["frame"], pixels(back)) == (18, pixels(ticks[18]))
    (journal,) = [path for path in (tmp_path / "b" / "sessions").iterdir() if b'"moment"' in path.read_bytes()]
    assert journal.name in there(url)
    os.utime(journal, (1000.0, 1000.0))  # long ago
    Keeper(tmp_path / "b", url=url)._lock.close()
    until(lambda: journal.name not in there(url))


def two_sessions(url: str, client: Client) -> tuple[int, str, list[Any], str, Any]:
    """One that `client` plays (number, token, ticks so far), and one that was left (token, last tick)."""
    with Client(url) as guest:
        number, _ = guest.open("car", seed=2)
        away, left = guest.opened["token"], guest.play(number, ROWS[:5])[-1]
    number, first = client.open("car", seed=1)
    return number, client.opened["token"], [first, *client.play(number, ROWS[:10])], away, left


def test_a_store_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.remote.PATIENCE", 0.5)
    monkeypatch.setattr("terrella.serving.remote.SLOW", 0.5)
    limits = replace(LIMITS, snapshot_every=8)
    how: dict[str, Any] = {"keep": tmp_path, "store": "gate://kept", "truth": False}
    with running({"car": tiny(CAR)}, limits, **how) as url, Client(url) as client:
        number, token, ticks, away, left = two_sessions(url, client)
        until(lambda: not list((tmp_path / "snapshots").iterdir()))
        Gate.way.clear()
        ticks += client.play(number, ROWS[10:20])
        until(lambda: store(url) == "failing")
        with Client(url) as guest:
            began = time.monotonic()
            for _ in range(5):  # one waits for the store, the others are told
                guest.send("reopen", token=away)
                assert "does not answer" in guest.until("error")["message"]
            assert time.monotonic() - began < 5
        client.send("fork", session=number, frame=3)
        fork = client.until("opened", parent=number)["token"]
        ticks += client.play(number, ROWS[20:])
        time.sleep(0.6)
        journals = {path: path.read_text().count('"act"') for path in (tmp_path / "sessions").iterdir()}
        assert 30 in journals.values()  # they do not wait for it
        Gate.way.set()
        until(lambda: store(url) == "ok")
        back = reopened(url, away)
        assert (back["frame"], pixels(back)) == (5, pixels(left))
    with running({"car": tiny(CAR)}, limits, **how) as url:
        assert list((tmp_path / "snapshots").iterdir()) == []
        for name, frame in ((token, 30), (fork, 3)):
            back = reopened(url, name)
            assert (back["frame"], pixels(back)) == (frame, pixels(ticks[frame]))


def test_what_a_running_session_asks_of_a_store_that_hangs_costs_it_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.remote.PATIENCE", 0.3)
    monkeypatch.setattr("terrella.serving.tiers.DEFAULT", {"host": 0.0, "disk": 0.0})
    how: dict[str, Any] = {"keep": tmp_path, "store": "gate://kept", "truth": False}
    with running({"car": tiny(CAR)}, LIMITS, **how) as url, Client(url) as client:
        number, _ = client.open("car", seed=1)
        shown = client.play(number, ROWS[:7])
        until(lambda: 'tier="disk"} 1.0' in WEB.get(url + "metrics").text)
        until(lambda: not list((tmp_path / "snapshots").iterdir()))
        Gate.way.clear()
        for message in ("resume", "step", "rewind", "fork"):
            client.send(message, session=number, **({"frame": 3} if message == "rewind" else {}))
            assert "does not answer" in client.until("error")["message"]
        Gate.way.set()
        until(lambda: not [t for t in threading.enumerate() if t.name == "terrella-fetch"])
        client.send("rewind", session=number, frame=3)
        back = client.until("tick", replayed=True)
        assert pixels(back) == pixels(shown[2])
        assert [pixels(tick) for tick in client.play(number, ROWS[3:7])] == [pixels(tick) for tick in shown[3:]]


def test_a_store_that_refuses_keeps_its_secrets(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.remote.RETRY", 0.05)
    said = []
    with running({"car": tiny(CAR)}, LIMITS, keep=tmp_path, store="gate://kept", truth=False) as url:
        caplog.set_level(logging.DEBUG, "terrella")
        with Client(url) as client:
            number, _ = client.open("car", seed=1)
            token = client.opened["token"]
            client.play(number, ROWS[:5])
            until(lambda: not list((tmp_path / "snapshots").iterdir()))
            Gate.refuses = True
            client.play(number, ROWS[5:20])
            until(lambda: store(url) == "failing")
            said.append(WEB.get(url + "metrics").text)
        with Client(url) as client:
            until(lambda: count(url, "terrella_sessions") == 0)
            until(lambda: at_rest(tmp_path / "snapshots"))
            shutil.rmtree(tmp_path / "snapshots")  # so that it must be fetched
            (tmp_path / "snapshots").mkdir()
            client.send("reopen", token=token)
            said.append(client.until("error")["message"])
        assert "PermissionError" in said[-1]
        assert "PermissionError" in caplog.text
        assert SECRET not in caplog.text + "".join(said)
        Gate.refuses = False


def at_rest(folder: Path) -> bool:
    """Whether nothing was written there for half a second: the keeper's thread is done with a session."""
    before = set(folder.iterdir())  # files appear under other names while they are written
    time.sleep(0.5)
    return before == set(folder.iterdir())


# --- what cannot be used


def test_stores_that_cannot_be_used_are_told(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UnknownName, match="'memory'"):
        Remote("memry://x", tmp_path)
    missing = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "oci": "ocifs"}
    absent = [name for name in missing if not _installed(missing[name])]
    for protocol in absent:
        with pytest.raises(ServingError, match=missing[protocol]):
            Remote(f"{protocol}://bucket/prefix", tmp_path)
    assert absent
    for wrong in (f"ftp://me:{SECRET}@host/x", f"s3://bucket/x?signature={SECRET}"):
        with pytest.raises(ServingError, match="environment") as found:
            Remote(wrong, tmp_path)
        assert SECRET not in str(found.value)
    with pytest.raises(ServingError, match="FileNotFoundError"):
        Remote(f"file://{tmp_path}/no/where", tmp_path / "out")
    Gate.refuses = True
    with pytest.raises(ServingError, match="PermissionError"):
        Remote("gate://kept", tmp_path / "out")
    Gate.refuses = False
    Gate.way.clear()
    monkeypatch.setattr("terrella.serving.remote.START", 0.2)
    with pytest.raises(ServingError, match="does not answer"):
        Remote("gate://kept", tmp_path / "out")
    with pytest.raises(ServingError, match="keep="), running({"car": tiny(CAR)}, store="memory://x"):
        pass


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def test_snapshots_of_a_store_that_was_emptied_cost_a_session_and_no_server(tmp_path: Path) -> None:
    keeper = keeping(tmp_path / "home", "memory://kept")
    line = begun(keeper)
    walk(line)
    keeper.close()
    MemoryFileSystem.store.clear()
    keeper = keeping(tmp_path / "home", "memory://kept")
    assert isinstance(keeper.snapshots, Snapshots)
    line.served.store = keeper.snapshots
    with pytest.raises(ServingError, match="no snapshot"):
        again(keeper, line)
    walk(begun(keeper, "b"), [LEFT])
    sent(keeper)
    keeper.close()


# --- S3


@pytest.fixture
def bucket(monkeypatch: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that speaks S3 on this machine, with an empty bucket; yields its process and a URL in it."""
    for package in ("s3fs", "moto", "flask"):
        pytest.importorskip(package)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: listens(port), 60)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("worlds")
        yield process, "s3://worlds/kept"
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(20)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_bucket_that_hangs_holds_nobody_up(bucket: Any, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    server, place = bucket
    monkeypatch.setattr("terrella.serving.remote.SLOW", 1.0)
    caplog.set_level(logging.DEBUG, "terrella")
    with pytest.raises(ServingError, match="FileNotFoundError"):
        Remote("s3://nowhere/kept", tmp_path / "other")
    how: dict[str, Any] = {"keep": tmp_path / "home", "store": place, "truth": False}
    with running({"car": tiny(CAR)}, LIMITS, **how) as url, Client(url) as client:
        number, token, ticks, away, left = two_sessions(url, client)
        until(lambda: not list((tmp_path / "home" / "snapshots").iterdir()), 60)
        back = reopened(url, away)
        assert (back["frame"], pixels(back)) == (5, pixels(left))
        server.send_signal(signal.SIGSTOP)
        ticks += client.play(number, ROWS[10:])
        until(lambda: store(url) == "failing")
        began = time.monotonic()
        for _ in range(3):
            with Client(url) as guest:
                guest.send("reopen", token=away)
                assert "does not answer" in guest.until("error")["message"]
        assert time.monotonic() - began < 10
        assert client.play(number, [LEFT])[0]["frame"] == 31
        server.send_signal(signal.SIGCONT)
        until(lambda: store(url) == "ok", 60)
        client.send("fork", session=number, frame=16, share=True)
        moment = client.until("shared")["token"]
        metrics = WEB.get(url + "metrics").text
    assert {OWNER} < set(there(place))
    assert not [name for name in there(place) if name.endswith(PART)]
    assert SECRET not in caplog.text + metrics
    with running({"car": tiny(CAR)}, LIMITS, **how) as url:
        assert list((tmp_path / "home" / "snapshots").iterdir()) == []
        for name, frame in ((token, 31), (moment, 16)):
            back = reopened(url, name)
            assert back["frame"] == frame
            assert frame == 31 or pixels(back) == pixels(ticks[frame])
