"""Sessions on several servers: where they are placed, how they move, and that they go on with the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_page import at_least, browser, frame, listening, opened  # noqa: F401  (a fixture)
from test_serving import CAR, LEFT, QUICK, REST, RIGHT, WALK, same, tiny

from terrella.cli.main import main
from terrella.cluster import Berth, Fleet, Gateway, Load, Placement, Replica, create_gateway
from terrella.cluster.placement import OVER, crowded
from terrella.errors import MissingExtra, ServerFull, ServingError
from terrella.serving import Follower, create_server
from terrella.serving.audit import audit
from terrella.serving.catalogue import Served
from terrella.serving.keeper import Keeper
from terrella.serving.limits import Limits
from terrella.serving.moves import ADRIFT, alive, locate, new_token, root_of
from terrella.serving.session import Session
from terrella.world import World

NAMES = [f"r{i}" for i in range(50)]
ROOTS = [f"{i:08x}" for i in range(3000)]
EXACT = 2
LIMITS = Limits(messages_per_second=2000, snapshot_every=16)


# --- placement


def loads(used: Mapping[str, int], step: float = 0.1) -> dict[str, Load]:
    return {name: Load(step * used.get(name, 0), step * (used.get(name, 0) + 1), used.get(name, 0)) for name in NAMES}


def test_two_choices_balance_what_one_does_not() -> None:
    placement, roots, counts = Placement(NAMES), ROOTS[: 5 * len(NAMES)], {}
    for policy in ("one", "two"):
        seen = Counter[str]()
        for root in roots:
            placed = placement.place(root, loads(seen)) if policy == "two" else None
            seen[placed.name if placed else placement.choices(root, NAMES)[0]] += 1
        counts[policy] = max(seen.values())
    assert counts["two"] <= 7 < counts["one"]  # of 5 on average


def test_one_more_replica_takes_only_its_share() -> None:
    few, many = Placement(NAMES[:-1]), Placement(NAMES)
    before = [few.choices(root, NAMES[:-1]) for root in ROOTS]
    after = [many.choices(root, NAMES) for root in ROOTS]
    changed = [(a, b) for a, b in zip(before, after) if a != b]
    assert 0 < len(changed) <= 3 * len(ROOTS) * 2 / len(NAMES)
    assert all(NAMES[-1] in b for _, b in changed)
    assert [many.choices(root, NAMES[:-1]) for root in ROOTS] == before  # and gives back the same when it is gone
    assert all(len(set(pair)) == 2 for pair in after)


def test_who_comes_back_goes_where_the_session_is() -> None:
    placement, root = Placement(NAMES), ROOTS[7]
    first, second = placement.choices(root, NAMES)
    other = next(name for name in NAMES if name not in (first, second))
    empty = loads({})
    placed = placement.place(root, empty, held=other)
    assert placed is not None
    assert (placed.name, placed.why) == (other, "held")
    for held, full, drained, expected in (
        (other, {other: 8}, (), {first, second}),  # no room there
        (other, {}, (other,), {first, second}),  # it will be taken away
        ("gone", {}, (), {first, second}),  # it is dead
        (None, {first: 5}, (), {second}),  # the less loaded of the two
        (None, {second: 5}, (), {first}),
        (None, {first: 8}, (), {second}),
        (None, {}, (first,), set(NAMES) - {first}),
    ):
        placed = placement.place(root, loads(full), held=held, drained=drained)
        assert placed is not None
        assert placed.name in expected
        assert placed.why == "choices"
    beyond = placement.place(root, loads({first: 8, second: 8}))
    assert beyond is not None
    assert beyond.why == "beyond"
    assert placement.place(root, loads(dict.fromkeys(NAMES, 8))) is None
    assert placement.place(root, {}) is None
    assert Load(0.1, 0.2, 4, most=4).room is False
    assert Load(0.1, 0.3, 1).plus() == Load(0.3, 0.5, 2)


def test_crowded_replicas_send_away_only_where_there_is_room() -> None:
    full = {"a": Load(OVER + 0.01, 1.1, 5), "b": Load(0.9, 1.0, 5)}
    assert crowded(full) == []
    roomy = {**full, "c": Load(0.1, 0.2, 1)}
    assert crowded(roomy) == ["a"]
    assert crowded(roomy, {"c"}) == []
    assert crowded({**roomy, "d": Load()}, {"c"}) == ["a", "c"]
    assert crowded({"a": Load(1.2, 2.0, 1), "b": Load()}) == []  # it would be as slow there


def test_tokens_name_their_tree() -> None:
    first = new_token()
    child = new_token(root_of(first))
    assert root_of(child) == root_of(first) != root_of(new_token())
    assert first.split(".")[1] != child.split(".")[1]
    assert root_of(new_token("../../x")) != "../../x"
    assert len(root_of("a text")) == 8


# --- folders


@contextlib.contextmanager
def keeping(store: Path, name: str) -> Iterator[Keeper]:
    keeper = Keeper(store / name, store=store)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.close()


def begun(keeper: Keeper, token: str, seed: int = 3) -> Session:
    record = keeper.record(token)
    served = Served("tiny", tiny(CAR), settings={"exact": EXACT}, store=keeper.snapshots)
    record.amend(world="tiny", engine=served.plain_settings)
    return Session(served, seed=seed, truth=None, limits=LIMITS, record=record)


def again(keeper: Keeper, token: str) -> Session:
    past, record = keeper.resume(token)
    served = Served("tiny", tiny(CAR), settings={"exact": EXACT}, store=keeper.snapshots)
    return Session(served, seed=past.seed, truth=None, limits=LIMITS, record=record, past=past)


def walk(line: Session, rows: Any = WALK) -> list[Any]:
    return [line.advance(np.asarray(row)) for row in rows]


def test_a_dead_servers_session_goes_on_with_another(tmp_path: Path) -> None:
    token = new_token()
    with keeping(tmp_path, "a") as a:
        line = begun(a, token)
        shots = [line.shot, *walk(line, WALK * 2)]
        a.flush()
        assert locate(tmp_path, token) == "a"
        with keeping(tmp_path, "b") as b, pytest.raises(ServingError, match="another server"):
            b.resume(token)
    assert not alive(tmp_path / "a")
    with keeping(tmp_path, "b") as b:
        assert alive(tmp_path / "b")
        back = again(b, token)
        assert locate(tmp_path, token) == "b"
        assert same(back.shot.observation, shots[24].observation)
        assert same(back.rewind(17).observation, shots[17].observation)
        assert [same(s.observation, t.observation) for s, t in zip(walk(back, (WALK * 2)[17:]), shots[18:])] == [
            True
        ] * 7
        with keeping(tmp_path, "a") as a, pytest.raises(ServingError, match="another server"):
            a.resume(token)  # begun again, it has nothing left of it
        assert back.record is not None
        b.forget(back.record)
        b.flush()
        assert locate(tmp_path, token) is None
        assert list((tmp_path / "b" / "snapshots").iterdir()) == []


def test_a_living_server_lets_go(tmp_path: Path) -> None:
    tokens = [new_token(), new_token()]
    with keeping(tmp_path, "a") as a, keeping(tmp_path, "b") as b:
        lines = [begun(a, token) for token in tokens]  # of equal pasts, which share snapshots
        for line in lines:
            walk(line)
            line.rest("disk")
        released = threading.Event()
        assert lines[0].record is not None
        a.release(lines[0].record, released.set)
        assert released.wait(10)
        assert [locate(tmp_path, token) for token in tokens] == [ADRIFT, "a"]
        taken = again(b, tokens[0])
        assert same(taken.shot.observation, lines[1].shot.observation)
        stayed = again(a, tokens[1])
        assert same(walk(taken, [RIGHT])[0].observation, walk(stayed, [RIGHT])[0].observation)
    with Keeper(tmp_path / "c")._lock, pytest.raises(ServingError, match="no other one"):
        Keeper(tmp_path / "d").release(lines[0].record, print)


def test_what_was_taken_away_is_not_written_to(tmp_path: Path) -> None:
    token = new_token()
    with keeping(tmp_path, "a") as a:
        line = begun(a, token)
        walk(line)
        a.flush()
        a._lock.close()  # as when a network file system gives up on a server that is not dead
        with keeping(tmp_path, "b") as b:
            back = again(b, token)
            walk(back, [LEFT])
            walk(line, [RIGHT] * 5)
            a.flush()
            assert not (tmp_path / "a" / "sessions" / back.record.path.name).exists()  # type: ignore[union-attr]
            assert again(b, token).shot.frame == 13


# --- audit


def test_an_audit_finds_the_frames_that_were_shown(tmp_path: Path, capsys: Any) -> None:
    token = new_token()
    with keeping(tmp_path, "a") as a:
        line = begun(a, token)
        walk(line, (WALK * 2)[:17])
        line.rewind(14)
        walk(line, [LEFT] * 4)
        line.begin(5)
        walk(line, [RIGHT] * 4)
    with keeping(tmp_path, "b") as b:
        back = again(b, token)
        walk(back, [REST] * 5)
        path = back.record.path  # type: ignore[union-attr]
    found = audit(path, tiny(CAR))
    assert found.passed
    assert (found.frames, found.starts, found.unmarked) == (17 + 4 + 4 + 5, 2, 0)
    assert found.keys >= 4
    tiny(CAR).save(tmp_path / "tiny")
    assert main(["audit", str(path), str(tmp_path / "tiny")]) == 0
    assert "30 frames" in capsys.readouterr().out

    def changed(number: int, change: Any) -> Any:
        said = [json.loads(line) for line in path.read_text().splitlines()]
        acts = [line["act"] for line in said if "act" in line]
        change(acts[number])
        other = path.with_name("other.jsonl")
        other.write_text("".join(json.dumps(line) + "\n" for line in said))
        return audit(other, tiny(CAR))

    wrong = changed(3, lambda act: act.__setitem__(2, "0" * 16))
    assert (wrong.passed, wrong.differing, wrong.foreign) == (False, [4], [])
    wrong = changed(3, lambda act: act.__setitem__(0, [1.0] if act[0] != [1.0] else [2.0]))
    assert wrong.differing[0] == 4
    assert set(wrong.foreign) == {16}
    assert not wrong.passed
    assert changed(3, lambda act: act.pop()).unmarked == 1
    with pytest.raises(ServingError, match="not kept any more"):
        audit(path.rename(tmp_path / "alone.jsonl"), tiny(CAR, seed=1))
    assert main(["audit", str(tmp_path / "alone.jsonl"), str(tmp_path / "tiny")]) == 0  # the seed is enough


# --- replicas of one process, and a gateway


class Here:
    """Replicas of this process, for a gateway."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = {replica.name: replica for replica in replicas}
        self.full: set[str] = set()
        self.names = tuple(self.replicas)

    def look(self) -> dict[str, Berth]:
        states = {name: replica.state() for name, replica in self.replicas.items()}
        return {
            name: Berth(state["url"], Load(1.0, 1.1, 1) if name in self.full else Load(**state["load"]))
            for name, state in states.items()
        }

    def release(self, name: str, count: int | None) -> None:
        self.replicas[name].release(count)

    def give_up(self, name: str, token: str) -> None:
        self.replicas[name].give_up(token)


@contextlib.contextmanager
def door(gateway: Gateway, **kwargs: Any) -> Iterator[str]:
    with listening(create_server(create_gateway(gateway, **kwargs), port=0)) as port:
        yield f"ws://127.0.0.1:{port}/ws"


def expected(seed: int, rows: Any) -> list[bytes]:
    served = Served("car", tiny(CAR, "car"), settings={"exact": EXACT})
    line = Session(served, seed=seed, truth=None, limits=QUICK)
    return [shot.observation["pixels"].tobytes() for shot in walk(line, rows)]


def step(client: Follower, seen: list[bytes], row: list[float]) -> None:
    """Take one frame, and note its pixels."""
    client.send("action", seq=1, row=row)
    client.send("step")
    while (body := client.read())["type"] != "tick" or body["frame"] != len(seen) + 1:
        assert body["type"] != "error", body
    seen.append(body["parts"][0][1])


def test_a_session_moves_between_replicas_with_the_same_bits(tmp_path: Path) -> None:
    tiny(CAR, "car").save(tmp_path / "car")
    settings = {"batch": EXACT, "exact": True, "truth": False, "limits": LIMITS, "token": "t" * 16}
    replicas = [Replica(f"r{i}", {"car": str(tmp_path / "car")}, str(tmp_path / "store"), **settings) for i in (0, 1)]
    here = Here(replicas)
    gateway = Gateway(here, tmp_path / "store")
    rows, truth = [*WALK, LEFT, RIGHT, REST, LEFT], expected(2, [*WALK, LEFT, RIGHT, REST, LEFT])
    try:
        with door(gateway, token="t" * 16) as url:
            with pytest.raises(ServingError, match="asks for its token"):
                Follower(url).open("car")
            client = Follower(url, token="t" * 16)
            token = client.open("car", seed=2, truth=False)["token"]
            seen: list[bytes] = []
            for row in rows[:8]:
                step(client, seen, row)
            home = locate(tmp_path / "store", token)
            assert home is not None
            other = next(name for name in here.names if name != home)

            def moved(to: str) -> None:
                while (body := client.read())["type"] != "opened":
                    pass
                assert body["token"] == token
                while client.read()["type"] != "tick":
                    pass
                assert locate(tmp_path / "store", token) == to

            gateway.drain(home)  # sent away while it is connected
            moved(other)
            for row in rows[8:12]:
                step(client, seen, row)
            client.close()
            gateway._drained.clear()
            gateway.refresh()
            client.reopen(token)  # sticky: it is there
            assert locate(tmp_path / "store", token) == other
            step(client, seen, rows[12])
            client.close()
            here.full.add(other)  # and is given up where there is no room any more
            gateway.refresh()
            client.reopen(token)
            assert locate(tmp_path / "store", token) == home
            step(client, seen, rows[13])
            client.send("resume")
            here.full.clear()
            here.replicas.pop(home).stop()  # the whole server ends
            while client.moves < 2:
                client.read()
            assert locate(tmp_path / "store", token) == other
            client.close()
            here.full.add(other)
            gateway.refresh()
            with pytest.raises(ServerFull, match="none of 1 replicas"):
                gateway.place()
            assert seen == truth[:14]
            home = str(locate(tmp_path / "store", token))
            (journal,) = (tmp_path / "store" / home / "sessions").iterdir()
            found = audit(journal, tiny(CAR, "car"))
            assert found.passed
            assert (found.starts, found.frames >= 14) == (1, True)
    finally:
        for replica in here.replicas.values():
            replica.stop()


@pytest.mark.browser
def test_the_page_follows_its_session(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    tiny(CAR, "car").save(tmp_path / "car")
    store = tmp_path / "store"
    replicas = [Replica(f"r{i}", {"car": str(tmp_path / "car")}, str(store), truth=False) for i in (0, 1)]
    gateway = Gateway(Here(replicas), store)
    try:
        with door(gateway) as url, opened(browser, url.replace("ws", "http", 1).removesuffix("ws")) as page:
            page.wait_for_selector(".pane .hint.on")
            page.uncheck("#stop", force=True)
            page.click("#play")
            at_least(page, 4)
            page.click("#play")
            page.wait_for_timeout(500)  # frames that were on their way when it was stopped
            at = frame(page)
            (journal,) = store.glob("r*/sessions/*.jsonl")
            gateway.drain(journal.parents[1].name)
            there = store / next(r.name for r in replicas if r.name != journal.parents[1].name) / "sessions"
            until = time.monotonic() + 20
            while not list(there.glob("*.jsonl")) and time.monotonic() < until:
                page.wait_for_timeout(100)
            at_least(page, at)
            assert frame(page) == at
            page.click("#step")
            at_least(page, at + 1)
    finally:
        for replica in replicas:
            replica.stop()


def test_replicas_bind_as_safely_as_servers(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="token"):
        Replica("r", {"car": "nowhere"}, str(tmp_path), host="0.0.0.0")


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"terrella\[ray\]"):
        Fleet({"car": "nowhere"}, tmp_path)


# --- Ray


@pytest.mark.slow
def test_recording_by_ray_is_recording(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    program = """
import sys, terrella
from terrella import cluster
here = terrella.record("Pendulum-v1", sys.argv[1] + "/a", episodes=4, max_episode_steps=20, progress=False)
there = cluster.record("Pendulum-v1", sys.argv[1] + "/b", workers=2, episodes=4, max_episode_steps=20, progress=False)
print(here.fingerprint == there.fingerprint, here.fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True")


PROGRAM = """
import contextlib, os, sys, threading, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
from terrella.cluster import Fleet, Gateway, create_gateway
from terrella.serving import create_server
from terrella.serving.limits import Limits
world, store = sys.argv[1:]
limits = Limits(messages_per_second=2000)
fleet = Fleet({"car": world}, store, batch=2, exact=True, admit=False, truth=False, limits=limits)
with fleet:
    server = create_server(create_gateway(Gateway(fleet, store)), port=0)
    socket = server.config.bind_socket()
    states = fleet.states()

    def announce():
        while not server.started:
            time.sleep(0.05)
        print(socket.getsockname()[1], *[f"{n}={s['pid']}" for n, s in states.items()], flush=True)

    threading.Thread(target=announce, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run([socket])
ray.shutdown()
"""


def test_a_server_that_dies_as_it_takes_a_connection_has_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def die() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)

        threading.Thread(target=die, daemon=True).start()
        with pytest.raises(ServingError, match="left before it answered"):
            Follower(f"ws://127.0.0.1:{server.getsockname()[1]}/ws").open("car")


@pytest.mark.slow
def test_kill_9_of_a_ray_replica_in_mid_stream(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    tiny(CAR, "car").save(tmp_path / "car")
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "car"), str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    try:
        assert program.stdout is not None
        port, *pids = program.stdout.readline().split()
        where = dict(pair.split("=") for pair in pids)
        assert len(where) == 2
        client = Follower(f"ws://127.0.0.1:{port}/ws")
        token = client.open("car", seed=1, truth=False, fps=10.0)["token"]
        client.send("set", stop_at_end=False)
        client.send("action", seq=1, row=RIGHT)
        client.send("resume")
        ticks: dict[int, tuple[float, bytes]] = {}
        killed = back = 0.0
        last, until, moved = -1, time.monotonic() + 120, False
        while time.monotonic() < until and not (back and last == max(ticks) and time.monotonic() > back + 3):
            body = client.read()
            moved |= body["type"] == "opened"
            if body["type"] != "tick":
                continue
            now, frame, pixels = time.monotonic(), body["frame"], body["parts"][0][1]
            if moved and not back:
                back, resumed = now, frame
                lost = killed - ticks[frame + 1][0] if frame + 1 in ticks else 0.0
            if frame in ticks and frame <= resumed:
                assert ticks[frame][1] == pixels
            ticks[frame], last = (now, pixels), frame
            if not killed and frame == 40:
                home = locate(tmp_path / "store", token)
                killed = time.monotonic()
                os.kill(int(where[home]), signal.SIGKILL)  # type: ignore[index]
        print({"away_s": round(back - killed, 2), "lost_s": round(lost, 2), "frames": last})
        assert killed < back
        assert lost <= 1.0
        other = locate(tmp_path / "store", token)
        assert other not in (home, None)
        assert [ticks[i][1] for i in range(1, last + 1)] == expected(1, [RIGHT] * last)
        client.close()
    finally:
        program.send_signal(signal.SIGINT)
        try:
            program.wait(60)
        finally:
            program.kill()
    found = audit(next((tmp_path / "store" / str(other) / "sessions").glob("*.jsonl")), World.load(tmp_path / "car"))
    assert found.passed
    assert found.frames >= last
