"""What goes wrong around a server, and what that costs: full disks, lost stores, rude clients, clocks set anew."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import re
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
from urllib.parse import urlsplit

import numpy as np
import pytest
from test_serving import CAR, LEFT, POLE, QUICK, RIGHT, WALK, Client, pixels, running, tiny
from test_serving_api import WEB
from test_serving_kept import LIMITS, PROGRAM, begun, walk
from test_serving_protocol import bystander, count
from websockets.exceptions import ConnectionClosed

import terrella.serving
from terrella.errors import ServingError
from terrella.serving.connection import Connection
from terrella.serving.keeper import Keeper
from terrella.serving.session import Session

ROWS = (WALK * 3)[:30]


def until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "that did not happen in time"
        time.sleep(0.05)


def store(url: str) -> str:
    return WEB.get(url + "ready").json()["store"]


def reopened(url: str, token: str) -> dict[str, Any]:
    with Client(url) as client:
        client.send("reopen", token=token)
        return client.until("tick")


@contextlib.contextmanager
def program(world: Path, kept: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own; yields it and its address."""
    args = [sys.executable, "-c", PROGRAM, str(world), str(kept)]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(20)


# --- the disk is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this machine lets us have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "terrella", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("this machine does not let tests mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill a file system to the last byte."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler


def test_a_full_disk_costs_nothing_once_there_is_room_again(small_disk: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.keeper.RECENT", 1.0)
    with running({"car": tiny(CAR)}, LIMITS, keep=small_disk, truth=False) as url, Client(url) as client:
        number, first = client.open("car", seed=1)
        token = client.opened["token"]
        ticks = [first, *client.play(number, ROWS[:5])]
        until(lambda: (small_disk / "sessions").exists() and any((small_disk / "sessions").iterdir()))
        filler = fill(small_disk)
        ticks += client.play(number, ROWS[5:])  # everybody goes on
        client.send("fork", session=number)
        fork = client.until("opened", parent=number)["token"]
        until(lambda: store(url) == "failing")
        assert count(url, "terrella_store_errors") > 0
        filler.unlink()
        until(lambda: store(url) == "ok")
        ticks += client.play(number, [RIGHT] * 2)
    with running({"car": tiny(CAR)}, LIMITS, keep=small_disk, truth=False) as url:
        back = reopened(url, token)
        assert (back["frame"], pixels(back)) == (32, pixels(ticks[-1]))
        back = reopened(url, fork)
        assert (back["frame"], pixels(back)) == (30, pixels(ticks[30]))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of another process are Linux's")
def test_a_server_killed_while_the_disk_is_full_keeps_what_was_written(tmp_path: Path) -> None:
    import resource

    tiny(CAR, "car").save(tmp_path / "car")
    with program(tmp_path / "car", tmp_path / "kept") as (process, url), Client(url) as client:
        number, first = client.open("car", seed=1)
        token = client.opened["token"]
        ticks = [first, *client.play(number, ROWS[:20])]
        time.sleep(0.6)
        journal = next((tmp_path / "kept" / "sessions").iterdir())
        room = journal.stat().st_size + 50  # for a line and a half
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        ticks += client.play(number, ROWS[20:])
        until(lambda: store(url) == "failing")
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert journal.read_bytes().endswith(b"\n")
    with running({"car": tiny(CAR, "car")}, keep=tmp_path / "kept", truth=False) as url:
        back = reopened(url, token)
        assert 20 <= back["frame"] <= 22
        assert pixels(back) == pixels(ticks[back["frame"]])


# --- the store is gone, or does not answer


def test_a_store_that_goes_away_and_comes_back(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.keeper.RECENT", 1.0)
    place, away = tmp_path / "kept", tmp_path / "away"
    with running({"car": tiny(CAR)}, LIMITS, keep=place, truth=False) as url, Client(url) as client:
        number, first = client.open("car", seed=1)
        token = client.opened["token"]
        ticks = [first, *client.play(number, ROWS[:5])]
        until(lambda: (place / "sessions").exists() and any((place / "sessions").iterdir()))
        place.rename(away)
        ticks += client.play(number, ROWS[5:])
        until(lambda: store(url) == "failing")
        away.rename(place)
        until(lambda: store(url) == "ok")
    with running({"car": tiny(CAR)}, LIMITS, keep=place, truth=False) as url:
        back = reopened(url, token)
        assert (back["frame"], pixels(back)) == (30, pixels(ticks[-1]))
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="choose another"):
        Keeper(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe stands for a store that hangs")
def test_a_store_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.keeper.PATIENCE", 0.5)
    monkeypatch.setattr("terrella.serving.keeper.RECENT", 1.0)
    with running({"car": tiny(CAR)}, LIMITS, keep=tmp_path, truth=False) as url, Client(url) as client:
        number, first = client.open("car", seed=1)
        token = client.opened["token"]
        ticks = [first, *client.play(number, ROWS[:5])]
        until(lambda: any((tmp_path / "sessions").iterdir()))
        journal = next((tmp_path / "sessions").iterdir())
        os.mkfifo(tmp_path / "pipe")
        os.link(journal, tmp_path / "aside")
        (tmp_path / "pipe").replace(journal)  # whoever opens it to write waits until somebody reads
        ticks += client.play(number, ROWS[5:10])
        until(lambda: store(url) == "failing")
        began = time.monotonic()
        client.send("fork", session=number)
        opened = client.until("opened", parent=number)
        assert opened["token"] is None  # it goes on, and is not kept
        assert time.monotonic() - began < 10
        ticks += client.play(number, ROWS[10:])
        client.play(opened["session"], [LEFT])
        client.send("reopen", token="x" * 32)
        assert "does not answer" in client.until("error")["message"]
        reader = os.open(journal, os.O_RDONLY | os.O_NONBLOCK)  # which ends the wait: a pipe takes no journal
        (tmp_path / "aside").replace(journal)  # at once: between two steps a keeper would begin another one
        os.close(reader)
        until(lambda: store(url) == "ok")
        client.send("close", session=opened["session"])
    with running({"car": tiny(CAR)}, LIMITS, keep=tmp_path, truth=False) as url:
        back = reopened(url, token)
        assert (back["frame"], pixels(back)) == (30, pixels(ticks[-1]))


def test_a_journal_for_which_too_much_waits_ends_whole(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("terrella.serving.keeper.LINES", 400)
    keeper = Keeper(tmp_path)
    line = begun(keeper)
    keeper.start()
    walk(line)
    keeper.flush()
    assert line.record is not None
    (tmp_path / "sessions").rename(tmp_path / "away")
    walk(line, WALK * 2)
    keeper.flush()
    assert keeper.failures > 0
    (tmp_path / "away").rename(tmp_path / "sessions")
    walk(line)
    keeper.flush()
    past, _ = keeper.resume("a")
    assert past.frame == len(WALK)  # nothing after a gap
    keeper.close()


def test_the_oldest_that_nobody_plays_make_room(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.start()
    lines = {token: begun(keeper, token, seed=ord(token)) for token in "abcd"}
    for age, line in enumerate(lines.values()):
        walk(line, [RIGHT] * 16)
        keeper.flush()
        assert line.record is not None
        os.utime(line.record.path, (1000.0 + age, 1000.0 + age))
    assert keeper.stored == sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    before = keeper.stored
    del lines["b"], lines["c"], line
    gc.collect()
    keeper._most = before  # so that one more needs the place of another
    lines["e"] = begun(keeper, "e", seed=9)
    keeper.flush()
    assert keeper.stored <= before
    assert keeper.stored == sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    with pytest.raises(ServingError, match="not kept here"):
        keeper.resume("b")  # the oldest that nobody plays; "a" is older, and played
    for token in "ace":
        keeper.resume(token)
    keeper._most = 1
    walk(lines["e"], [RIGHT] * 16)
    keeper.flush()
    assert keeper.failing
    keeper.close()


# --- clients


def test_a_client_that_never_reads_is_closed() -> None:
    limits = replace(QUICK, outbox=16)
    with running({"car": tiny(CAR)}, limits, truth=False) as url, Client(url) as other:
        number, _ = other.open("car")
        place = urlsplit(url)
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect((place.hostname, place.port))
        with Client(url, ack=False, sock=narrow, max_queue=1, close_timeout=1) as client:
            mine, _ = client.open("car")
            with contextlib.suppress(ConnectionClosed):
                for _ in range(100):
                    client.send("step", session=mine, n=16)  # more than any buffer holds
                    time.sleep(0.01)
            until(lambda: 'terrella_closed_total{code="1008"} 1.0' in WEB.get(url + "metrics").text, 90)
            narrow.close()  # without a farewell, for which it would have to read
        until(lambda: count(url, "terrella_sessions") == 1)
        assert other.play(number, [LEFT])[0]["frame"] == 1


def flood(url: str, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(ConnectionClosed, OSError, TimeoutError), Client(url) as client:
            for _ in range(10_000):
                client.send("pause", session=1)


@pytest.mark.slow
def test_clients_that_flood_take_nothing_from_others() -> None:
    with running({"car": tiny(CAR)}, replace(QUICK, messages_per_second=240), truth=False) as url:
        stop, seen = threading.Event(), list[Any]()
        others = [threading.Thread(target=flood, args=(url, stop)) for _ in range(3)]
        player = threading.Thread(target=bystander, args=(url, stop, seen))
        for thread in (*others, player):
            thread.start()
        until(lambda: len(seen) > 50 and count(url, "terrella_closed_total") > 3, 60)  # somebody came back
        stop.set()
        for thread in (*others, player):
            thread.join(20)
        assert [frame for frame, _ in seen] == list(range(len(seen)))
        closed = re.search(r'terrella_closed_total\{code="1008"\} (\S+)', WEB.get(url + "metrics").text)
        assert closed is not None
        assert float(closed[1]) > 3
        until(lambda: count(url, "terrella_connections") == 0)


def alive() -> int:
    gc.collect()
    return sum(isinstance(thing, (Connection, Session)) for thing in gc.get_objects())


def test_forty_who_come_and_go_leave_nothing() -> None:
    before = alive()
    with running({"pole": tiny(POLE)}, QUICK, truth=False) as url:
        for turn in range(40):
            with Client(url) as client:
                if turn % 2:
                    client.open("pole")
        until(lambda: count(url, "terrella_connections") == count(url, "terrella_sessions") == 0)
        assert alive() <= before + 1  # the engine thread may still have the last one in hand
        assert count(url, "terrella_closed_total") == 40


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what a process takes from /proc")
def test_a_thousand_who_come_and_go_leave_nothing(tmp_path: Path) -> None:
    tiny(POLE, "pole").save(tmp_path / "pole")

    def taken(pid: int) -> tuple[int, int, int]:
        """Kilobytes of memory, open files, threads."""
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = [int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("VmRSS", "Threads")]
        return numbers[0], len(os.listdir(f"/proc/{pid}/fd")), numbers[1]

    def visit(url: str, times: int) -> None:
        for turn in range(times):
            with Client(url) as client:
                if turn % 2:
                    number, _ = client.open("pole")
                    client.play(number, [LEFT])
                    client.send("close", session=number)
                    client.until("closed")
        until(lambda: count(url, "terrella_connections") == 0)

    with program(tmp_path / "pole", tmp_path / "kept") as (process, url):
        visit(url, 200)
        memory, files, threads = taken(process.pid)
        visit(url, 1000)
        after = taken(process.pid)
        print(f"memory {memory} -> {after[0]} kB, files {files} -> {after[1]}, threads {threads} -> {after[2]}")
        assert after[0] - memory < 8 * 1024
        assert after[1] <= files + 2
        assert after[2] <= threads + 2
        assert list((tmp_path / "kept" / "sessions").iterdir()) == []


# --- the clock


def test_a_clock_that_is_set_anew_changes_nothing(monkeypatch: Any) -> None:
    real = time.time
    with running({"car": tiny(CAR)}, replace(QUICK, idle_seconds=30), truth=False) as url, Client(url) as client:
        number, _ = client.open("car")
        client.send("set", session=number, fps=20, stop_at_end=False)
        client.send("resume", session=number)
        for jump in (86_400.0, -86_400.0, 10**8):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            frame = client.until("tick")["frame"]
            began = time.monotonic()
            assert client.until("tick", frame=frame + 10)["late_ms"] < 5000
            assert 0.3 < time.monotonic() - began < 10  # neither a burst nor a stop


def test_a_clock_ahead_deletes_no_sessions(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.start()
    line = begun(keeper)
    walk(line)
    keeper.close()
    assert line.record is not None
    os.utime(line.record.path, (10**9, 10**9))  # as it looks to a clock that is decades ahead
    keeper = Keeper(tmp_path)
    keeper.start()
    past, _ = keeper.resume("a")
    assert past.frame == len(WALK)
    assert np.array_equal(past.rows[0][0], WALK[0])
    keeper.close()


def test_only_monotonic_clocks_tell_the_time() -> None:
    wall = {"time.time", "time.time_ns", "time.localtime", "datetime.now", "datetime.utcnow", "time.gmtime"}
    for path in Path(terrella.serving.__file__).parent.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not wall & {ast.unparse(call.func) for call in calls}, path.name
