"""A real server on a free loopback port, real WebSocket clients, tiny untrained worlds and real environments."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from terrella import arenas
from terrella.data.episode import Clips
from terrella.errors import ActionError, ArenaError, ConfigError, ServingError, UnknownName
from terrella.serving import create_app, create_server, serve
from terrella.serving.catalogue import Catalogue, Served
from terrella.serving.frames import list_codecs
from terrella.serving.guard import allowed, check_binding
from terrella.serving.header import JPEG, RAW, VECTOR, WEBP, Header
from terrella.serving.player import Player, check_row
from terrella.serving.protocol import Action, Limits, Open, Rewind, dump, parse
from terrella.serving.session import Session
from terrella.spec import ActionSpec, EnvSpec, StreamSpec, WorldSpec
from terrella.world import Part, World, WorldConfig

CONTEXT = 2
QUICK = Limits(messages_per_second=2000)


def tiny(spec: WorldSpec, name: str = "tiny", seed: int = 0) -> World:
    """A small world with random weights everywhere, so that actions matter, and one recorded start made of noise."""
    torch.manual_seed(seed)
    parts = {s: Part("conv", {"width": 16}) for s, kind in spec.modelled.items() if kind.kind == "image"}
    backbone = Part("transformer", {"dim": 32, "layers": 2, "heads": 2, "every": 2, "window": 6})
    world = World(spec, WorldConfig(backbone, Part("shortcut", {"steps": 1}), parts), name)
    with torch.no_grad():
        for parameter in world.dynamics.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    rng = np.random.default_rng(seed)
    observations = {
        s: rng.integers(0, 256, (1, CONTEXT + 1, *kind.shape), np.uint8)
        if kind.kind == "image"
        else rng.normal(size=(1, CONTEXT + 1, *kind.shape)).astype(np.float32)
        for s, kind in spec.modelled.items()
    }
    row = np.asarray(spec.noop or next(iter(spec.keys.values())), np.float32)
    blank = np.zeros((1, CONTEXT), np.float32)
    world.starts = Clips(observations, np.broadcast_to(row, (1, CONTEXT, len(row))).copy(), blank, blank > 0)
    return world.eval().requires_grad_(False)


def spec_of(env: str, **kwargs: Any) -> WorldSpec:
    made = arenas.make(env, **kwargs)
    spec = arenas.describe(made)
    made.close()
    return spec


CAR = spec_of("MountainCar-v0", pixels=True)
POLE = spec_of("CartPole-v1")
PENDULUM = spec_of("Pendulum-v1")
LEFT, REST, RIGHT = [0.0], [1.0], [2.0]


def broken() -> World:
    """A world whose predictions are not numbers."""
    world = tiny(replace(POLE, env=EnvSpec()), "broken")
    with torch.no_grad():
        for parameter in world.dynamics.parameters():
            parameter.fill_(torch.nan)
    return world


@contextlib.contextmanager
def running(worlds: Any, limits: Limits = QUICK, **kwargs: Any) -> Iterator[str]:
    """Serve on a free port in a thread; yields the page's address."""
    with hosting(create_app(worlds, limits=limits, **kwargs), limits) as address:
        yield address


@contextlib.contextmanager
def hosting(app: Any, limits: Limits = QUICK) -> Iterator[str]:
    """The same for an application."""
    server = create_server(app, port=0, limits=limits)
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    recorded = tiny(replace(CAR, env=EnvSpec()), "recorded")
    worlds = {
        "car": tiny(CAR),
        "recorded": recorded,
        "pole": tiny(POLE),
        "pendulum": tiny(PENDULUM),
        "broken": broken(),
    }
    with running(worlds) as url:
        yield url


class Client:
    """A WebSocket client that gathers the parts of each frame into its tick, and acknowledges when told to."""

    def __init__(self, address: str, *, hello: bool = True, ack: bool = True, **kwargs: Any) -> None:
        self.socket = connect(address.replace("http", "ws") + "ws", max_size=None, **kwargs)
        self.ack, self.parts, self.seq = ack, {}, 0
        if hello:
            self.send("hello", protocol=1)
            self.welcome = self.until("welcome")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def read(self, timeout: float = 20) -> dict[str, Any]:
        while isinstance(message := self.socket.recv(timeout), bytes):
            header, payload = Header.unpack(message)
            self.parts.setdefault(header.session, []).append((header, payload))
        body = json.loads(message)
        if body["type"] == "tick":
            body["parts"] = self.parts.pop(body["session"], [])
            if self.ack:
                self.send("ack", session=body["session"], epoch=body["epoch"], frame=body["frame"])
        return body

    def until(self, kind: str, **match: Any) -> dict[str, Any]:
        while True:
            body = self.read()
            if body["type"] == kind and all(body[k] == v for k, v in match.items()):
                return body

    def open(self, world: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Open a session; returns its number and its first frame."""
        self.send("open", world=world, **fields)
        self.opened = self.until("opened")
        return self.opened["session"], self.until("tick", session=self.opened["session"])

    def act(self, session: int, row: list[float] | None) -> int:
        self.seq += 1
        self.send("action", session=session, seq=self.seq, row=row)
        return self.seq

    def play(self, session: int, rows: list[list[float]]) -> list[dict[str, Any]]:
        """Give each row for exactly one frame."""
        ticks = []
        for row in rows:
            self.act(session, row)
            self.send("step", session=session)
            ticks.append(self.until("tick", session=session))
        return ticks

    def closing(self) -> tuple[dict[str, Any], int]:
        """Read until the server closes; returns the error before it and the code."""
        error: dict[str, Any] = {}
        try:
            while True:
                body = self.read()
                error = body if body["type"] == "error" else error
        except ConnectionClosed as closed:
            return error, closed.rcvd.code if closed.rcvd else 0


def pixels(tick: dict[str, Any], *, truth: bool = False) -> bytes:
    return next(data for header, data in tick["parts"] if bool(header.flags & 4) == truth and header.kind != VECTOR)


WALK = [RIGHT, RIGHT, LEFT, REST, RIGHT, LEFT, LEFT, RIGHT, REST, RIGHT, RIGHT, LEFT]


# --- protocol


def test_header_is_32_bytes_and_survives() -> None:
    header = Header(JPEG, 7, 1 << 8 | 4, 3, 2**31, 99, 16_000, 640, 480, 5)
    packed = header.pack()
    assert len(packed) == 32
    assert packed[:4] == b"WMF1"
    assert Header.unpack(packed + b"frame") == (header, b"frame")
    assert header.stream == 1
    for cut in (packed[:31], packed + b"fram", b"XXXX" + packed[4:] + b"frame"):
        with pytest.raises(ServingError):
            Header.unpack(cut)


def test_parse_reads_messages() -> None:
    assert parse('{"type":"open","world":"car","seed":5}') == Open("car", seed=5)
    assert parse('{"type":"action","session":1,"seq":2,"row":[1,0.5]}') == Action(1, 2, row=(1.0, 0.5))
    assert parse('{"type":"rewind","session":1,"frame":0}') == Rewind(1, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "nonsense",
        "{}",
        '{"type":"explode"}',
        '{"type":["open"]}',
        '{"type":"open"}',
        '{"type":"open","world":3}',
        '{"type":"open","world":"a","path":"/etc"}',
        '{"type":"open","world":"a","seed":-1}',
        '{"type":"open","world":"a","seed":true}',
        '{"type":"open","world":"a","steps":0}',
        '{"type":"open","world":"' + "a" * 600 + '"}',
        '{"type":"action","session":1,"seq":1,"row":[NaN]}',
        '{"type":"action","session":1,"seq":1,"row":"1"}',
        '{"type":"action","session":1,"seq":1,"row":[1],"text":"go"}',
        '{"type":"action","session":1,"seq":1,"row":[1' + "0" * 400 + "]}",
        '{"type":"step","session":1,"n":1000}',
        '{"type":"set","session":1,"fps":1e400}',
        '{"type":"hello","protocol":"1"}',
        "[" * 4000,
        " " * 5000,
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ServingError) as caught:
        parse(text)
    assert len(str(caught.value)) < 400


def test_dump_knows_no_nan() -> None:
    from terrella.serving.protocol import TrueTick

    assert json.loads(dump(TrueTick(float("nan"), float("inf"), False, None))) == {
        "type": "truetick",
        "reward": None,
        "score": None,
        "ended": False,
        "gap": None,
    }


# --- who may connect


@pytest.mark.parametrize(
    ("host", "origin", "local", "answer"),
    [
        ("127.0.0.1:7860", None, True, True),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", True, True),
        ("localhost:7860", "http://localhost:3000", True, True),
        ("[::1]:7860", "http://[::1]:7860", True, True),
        ("127.0.0.1:7860", "https://evil.example", True, False),
        ("127.0.0.1:7860", "null", True, False),
        ("127.0.0.1:7860", "file://", True, False),
        ("evil.example:7860", "http://evil.example:7860", True, False),  # a foreign name that resolves to this machine
        ("evil.example:7860", None, True, False),
        ("127.0.0.1.evil.example", None, True, False),
        (None, None, True, False),
        ("world.example", "https://world.example", False, True),
        ("world.example:80", "https://world.example", False, False),
        ("world.example:7860", "http://world.example:7860", False, True),
        ("world.example:7860", "http://world.example:9", False, False),
        ("world.example:7860", "http://localhost:7860", False, False),
        ("world.example:7860", None, False, True),
    ],
)
def test_origin(host: str | None, origin: str | None, local: bool, answer: bool) -> None:
    assert allowed(host, origin, local=local) is answer


def test_other_machines_need_a_token() -> None:
    check_binding("127.0.0.1", None)
    check_binding("::1", None)
    check_binding("0.0.0.0", "a" * 32)
    for host, token in (("0.0.0.0", None), ("192.168.0.2", None), ("world.example", None), ("127.0.0.1", "short")):
        with pytest.raises(ServingError):
            check_binding(host, token)
    with pytest.raises(ServingError, match="token"):
        serve(tiny(POLE), host="0.0.0.0")


def test_foreign_pages_are_refused_before_they_are_accepted(address: str) -> None:
    refused: list[dict[str, Any]] = [
        {"origin": "https://evil.example"},
        {"additional_headers": {"Host": "evil.example"}},
    ]
    for headers in refused:
        with pytest.raises(InvalidStatus) as caught:
            Client(address, **headers)
        assert caught.value.response.status_code == 403
    with Client(address, origin=address.rstrip("/")) as client:
        assert client.welcome["default"] == "car"
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403


def test_token() -> None:
    token = "k" * 32
    with running({"pole": tiny(POLE)}, token=token) as url:
        for given in ({}, {"token": "wrong"}, {"token": token + "k"}):
            with Client(url, hello=False) as client:
                client.send("hello", protocol=1, **given)
                error, code = client.closing()
                assert (error["code"], code) == ("token", 4001)
        with Client(url, hello=False) as client:
            client.send("hello", protocol=1, token=token)
            assert client.until("welcome")["worlds"] == ["pole"]


# --- sessions without a server


def session(spec: WorldSpec = CAR, *, truth: bool = True, limits: Limits = QUICK, seed: int = 3) -> Session:
    served = Served("tiny", tiny(spec))
    return Session(served, seed=seed, truth=served.truth() if truth else None, limits=limits)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("spec", [CAR, PENDULUM], ids=["pixels", "vector"])
def test_rewind_brings_back_every_frame(spec: WorldSpec) -> None:
    line = session(spec)
    assert line.truth is not None
    rows = [np.asarray(r) for r in (list(spec.keys.values()) * 10)[:20]]
    shots = [line.shot, *(line.advance(row) for row in rows)]
    for frame in (20, 19, 17, 16, 9, 8, 3, 0):
        shot = line.rewind(frame)
        true, seen = shot.truth, shots[frame].truth
        assert shot.frame == frame
        assert same(shot.observation, shots[frame].observation)
        assert shot.score == shots[frame].score
        assert true is not None
        assert seen is not None
        assert same(true.observation, seen.observation)
        assert true.score == seen.score
    for row, shot in zip(rows, shots[1:]):  # and the way forward is the old one again
        assert same(line.advance(row).observation, shot.observation)
    line.close()


def test_a_changed_past_replaces_the_old_one() -> None:
    line = session()
    for row in WALK:
        line.advance(np.asarray(row))
    line.rewind(2)
    changed = [line.shot, *(line.advance(np.asarray(LEFT)) for _ in range(8))]
    for shot in (changed[7], changed[4], changed[0]):
        assert same(line.rewind(shot.frame).observation, shot.observation)


def test_branches_remember_each_its_own_past() -> None:
    line = session()
    for row in WALK[:3]:
        line.advance(np.asarray(row))
    twin = line.fork()
    mine = [line.advance(np.asarray(LEFT)) for _ in range(8)]
    theirs = [twin.advance(np.asarray(RIGHT)) for _ in range(8)]
    for branch, shots in ((line, mine), (twin, theirs)):
        for shot in (shots[7], shots[3]):
            assert same(branch.rewind(shot.frame).observation, shot.observation)


def test_the_world_starts_where_the_environment_is() -> None:
    line = session()
    true = line.shot.truth
    assert line.from_environment
    assert true is not None
    assert same(line.shot.observation, true.observation)
    again, other = session(seed=3), session(seed=4)
    assert same(line.shot.observation, again.shot.observation)
    assert not same(line.shot.observation, other.shot.observation)


def test_fork_shares_the_past_and_then_goes_its_own_way() -> None:
    line = session()
    shots = [line.shot, *(line.advance(np.asarray(row)) for row in WALK)]
    twin, earlier = line.fork(), line.fork(5)
    assert same(earlier.shot.observation, shots[5].observation)
    a, b = line.advance(np.asarray(LEFT)), twin.advance(np.asarray(LEFT))
    assert same(a.observation, b.observation)
    assert a.truth is not None
    assert b.truth is not None
    assert same(a.truth.observation, b.truth.observation)
    a, b = line.advance(np.asarray(LEFT)), twin.advance(np.asarray(RIGHT))
    assert not same(a.observation, b.observation)
    assert same(twin.rewind(7).observation, shots[7].observation)
    assert same(earlier.advance(np.asarray(WALK[5])).observation, shots[6].observation)
    assert line.shot.frame == len(WALK) + 2


def test_memory_is_bounded_and_says_how_far_back_it_reaches() -> None:
    line = session(limits=replace(QUICK, keyframe_bytes=1), truth=False)
    shots = [line.shot, *(line.advance(np.asarray(REST)) for _ in range(60))]
    assert 60 - 5 * QUICK.keyframe_every <= line.oldest <= 60
    assert same(line.rewind(line.oldest + 3).observation, shots[line.oldest + 3].observation)
    with pytest.raises(ServingError, match="out of reach"):
        line.rewind(line.oldest - 1)
    with pytest.raises(ServingError, match="out of reach"):
        line.fork(10_000)
    assert line.sound


def test_rewind_repeats_the_denoising_steps_of_the_time() -> None:
    line = session(truth=False)
    first = [line.advance(np.asarray(RIGHT)) for _ in range(3)]
    line.steps = 4
    second = [line.advance(np.asarray(RIGHT)) for _ in range(3)]
    for shot in (second[1], first[1]):
        assert same(line.rewind(shot.frame).observation, shot.observation)


def test_rewind_repeats_what_a_budget_chose() -> None:
    world = tiny(CAR)
    served = Served("tiny", world, settings={"budget_ms": 10_000.0, "precision": "bfloat16"})
    line = Session(served, seed=3, truth=None, limits=QUICK)
    shots = [line.shot, *(line.advance(np.asarray(RIGHT)) for _ in range(QUICK.keyframe_every + 4))]
    assert len({steps for _, steps in line._log}) > 1  # the first frame is the cheapest
    for shot in shots[::-1]:
        assert same(line.rewind(shot.frame).observation, shot.observation)
    assert served.engine.dtype == torch.bfloat16


def test_steps_that_a_world_cannot_take_are_refused() -> None:
    line = session(truth=False)
    with pytest.raises(ConfigError, match="1, 2, 4, 8"):
        line.set_steps(3)
    assert line.advance(np.asarray(RIGHT)).frame == 1
    with pytest.raises(UnknownName, match="precision"):
        create_app(tiny(CAR), engine={"precison": "int8"})


def test_sync_puts_the_truth_in_place() -> None:
    line = session()
    before = [line.advance(np.asarray(row)) for row in WALK]
    shot = line.sync()
    true = shot.truth
    assert true is not None
    assert same(shot.observation, true.observation)
    assert shot.frame == before[-1].frame
    after = line.advance(np.asarray(RIGHT))
    assert same(line.rewind(after.frame).observation, after.observation)
    assert same(line.rewind(6).observation, before[5].observation)
    with pytest.raises(ServingError, match="no running true environment"):
        session(truth=False).sync()


def test_the_truth_stays_at_its_end_and_comes_back_from_it() -> None:
    line = session(POLE)
    shots = [line.shot]
    while not (true := shots[-1].truth) or not true.ended:
        shots.append(line.advance(np.asarray([1.0])))
        assert len(shots) < 100
    last = line.advance(np.asarray([0.0]))
    assert last.truth is true
    assert last.gap is None
    back = line.rewind(len(shots) - 2)
    assert back.truth is not None
    assert not back.truth.ended
    again = line.advance(np.asarray([1.0])).truth
    assert again is not None
    assert again.ended
    assert same(again.observation, true.observation)


def test_a_failing_environment_leaves_the_world_alone() -> None:
    line = session()
    assert line.truth is not None
    line.advance(np.asarray(REST))

    def explode(action: Any) -> Any:
        raise RuntimeError("broken spring")

    line.truth.env.step = explode  # type: ignore[method-assign]
    shot = line.advance(np.asarray(REST))
    assert shot.frame == 2
    assert shot.truth is None
    assert "goes on without it" in line.notice
    assert line.sound
    assert line.advance(np.asarray(REST)).frame == 3


def test_a_spec_that_no_longer_fits_its_environment_has_no_truth() -> None:
    other = replace(CAR, env=EnvSpec("CartPole-v1", pixels=True))
    with pytest.raises(ArenaError, match="other observations or actions"):
        Served("tiny", tiny(other)).truth()
    with pytest.raises(ArenaError, match="does not name an environment"):
        Served("tiny", tiny(replace(CAR, env=EnvSpec()))).truth()


def test_catalogue_knows_only_names() -> None:
    catalogue = Catalogue({"pole": tiny(POLE)})
    assert catalogue.get("pole").spec == POLE
    for name in ("poll", "../pole", "/etc/passwd", ""):
        with pytest.raises(UnknownName):
            catalogue.get(name)
    with pytest.raises(ServingError):
        Catalogue({})


# --- clock and controls


def player(spec: WorldSpec = CAR, **kwargs: Any) -> Player:
    return Player(1, session(spec, truth=False), QUICK, fps=10, **kwargs)


def test_no_tap_is_lost_and_the_latest_press_counts() -> None:
    hand = player()
    hand.press(Action(1, 1, row=(2.0,)))
    hand.press(Action(1, 2))  # let go before a frame came
    assert hand.take().tolist() == RIGHT
    assert hand.seq == 1
    assert hand.take().tolist() == REST
    assert hand.seq == 2
    hand.press(Action(1, 3, row=(0.0,)))
    hand.press(Action(1, 4, row=(2.0,)))
    assert hand.take().tolist() == RIGHT
    assert hand.take().tolist() == RIGHT  # held


def test_a_world_without_an_idle_action_waits() -> None:
    hand = player(POLE)
    assert hand.turns
    hand.start(0.0)
    assert not hand.due(1.0)
    with pytest.raises(ActionError, match="no idle action"):
        hand.take()
    hand.press(Action(1, 1, row=(1.0,)))
    assert hand.due(1.0)
    hand.schedule(1.0)
    hand.take()
    assert not hand.due(1.15)  # a short press is one step ...
    assert hand.due(1.3)  # ... a long one repeats
    hand.set_turns(False)
    assert hand.turns


def test_the_clock_keeps_step_and_never_catches_up_in_a_burst() -> None:
    hand = player()
    hand.start(5.0)
    times = []
    now = 5.0
    for delay in (0.0, 0.03, 0.0, 1.0, 0.0, 0.0):
        now = max(now, hand.deadline) + delay
        assert hand.due(now)
        hand.schedule(now)
        times.append(now)
    assert times == pytest.approx([5.0, 5.13, 5.2, 6.3, 6.4, 6.5])


def test_the_window_holds_frames_back() -> None:
    hand = player()
    hand.start(0.0)
    hand.in_flight.extend([(0, 1), (0, 2)])
    assert not hand.due(1.0)
    hand.acknowledge(0, 7)
    hand.acknowledge(1, 1)
    assert not hand.due(1.0)
    hand.acknowledge(0, 1)
    assert hand.due(1.0)


BOX = ActionSpec("box", shape=(2,), low=(-1.0, 0.0), high=(1.0, 2.0), dtype="float32")


@pytest.mark.parametrize(
    ("spec", "good", "bad"),
    [
        (ActionSpec("discrete", n=3, start=-1), [(-1,), (1,)], [(2,), (-2,), (0.5,), (1e300,), (), (0, 0)]),
        (BOX, [(0.1, 0.2), (-1, 2)], [(1.5, 0), (0, -0.1), (float("nan"), 0), (float("inf"), 0), (0,)]),
        (ActionSpec("multi_discrete", shape=(2,), nvec=(2, 3), dtype="int64"), [(1, 2)], [(2, 0), (0.2, 0), (-1, 0)]),
        (ActionSpec("multi_binary", shape=(2,)), [(0, 1)], [(2, 0), (0.5, 0)]),
        (ActionSpec("dict", keys=("a", "b"), children=(ActionSpec("discrete", n=2), BOX)), [(1, 0, 1)], [(2, 0, 1)]),
    ],
)
def test_rows_are_checked(spec: ActionSpec, good: list[tuple[float, ...]], bad: list[tuple[float, ...]]) -> None:
    for row in good:
        np.testing.assert_allclose(check_row(spec, row), row)
    for row in bad:
        with pytest.raises(ActionError):
            check_row(spec, row)


# --- over the wire


def test_open_and_play(address: str) -> None:
    with Client(address) as client:
        number, first = client.open("car", seed=3, req=9)
        assert client.opened["req"] == 9
        assert client.opened["start"] == "environment"
        assert client.opened["truth"] is True
        assert client.opened["about"]["keys"]["ArrowLeft"] == LEFT
        assert client.opened["about"]["step_choices"] == [1, 2, 4, 8]
        assert (first["frame"], first["epoch"]) == (0, 0)
        header, data = first["parts"][0]
        assert (header.kind, header.width, header.height, len(data)) == (RAW, 64, 64, 64 * 64 * 3)
        assert data == pixels(first, truth=True)
        env = arenas.make(CAR.env)  # what the client was shown is the environment itself
        obs, _ = env.reset(seed=3)
        for _ in range(CONTEXT):
            obs = env.step(1)[0]
        assert data == obs.tobytes()
        ticks = client.play(number, WALK)
        for i, (tick, row) in enumerate(zip(ticks, WALK), 1):
            obs = env.step(int(row[0]))[0]
            assert tick["frame"] == i
            assert tick["seq"] == i
            assert pixels(tick, truth=True) == obs.tobytes()
            assert tick["truth"]["reward"] == -1
            assert 0 <= tick["end"] <= 1
            assert 0 < tick["truth"]["gap"] < 1
        env.close()


def test_running_follows_the_acks(address: str) -> None:
    with Client(address, ack=False) as client:
        number, first = client.open("car", fps=60)
        client.send("set", session=number, stop_at_end=False)
        client.send("resume", session=number)
        client.until("tick", frame=1)  # two frames may be unanswered: the first one and this
        with pytest.raises(TimeoutError):
            client.socket.recv(0.4)
        client.send("ack", session=number, epoch=first["epoch"], frame=0)
        client.until("tick", frame=2)
        client.send("ack", session=number, epoch=first["epoch"], frame=2)
        client.until("tick", frame=4)
        client.send("pause", session=number)
        assert client.until("status")["running"] is False
        client.send("ack", session=number, epoch=first["epoch"], frame=4)
        with pytest.raises(TimeoutError):
            client.socket.recv(0.2)


def test_latency_and_speed(address: str) -> None:
    with Client(address) as client:
        number, _ = client.open("car", truth=False)
        client.send("set", session=number, fps=20, stop_at_end=False)
        client.send("resume", session=number)
        client.until("tick", frame=5)
        began = time.monotonic()
        client.until("tick", frame=25)
        assert 0.8 < time.monotonic() - began < 5  # twenty frames at twenty a second, on a busy machine
        waits = []
        for row in (LEFT, RIGHT, LEFT):
            began, seq = time.monotonic(), client.act(number, row)
            client.until("tick", seq=seq)
            waits.append(time.monotonic() - began)
        assert min(waits) < 0.5


def test_rewind(address: str) -> None:
    with Client(address) as client:
        number, first = client.open("car", seed=1)
        ticks = [first, *client.play(number, WALK)]
        for epoch, frame in enumerate((11, 9, 3, 0), 1):
            client.send("rewind", session=number, frame=frame)
            back = client.until("tick")
            assert (back["epoch"], back["frame"], back["replayed"]) == (epoch, frame, True)
            assert pixels(back) == pixels(ticks[frame])
            assert pixels(back, truth=True) == pixels(ticks[frame], truth=True)
            assert all(header.flags & 2 for header, _ in back["parts"])
        assert [pixels(t) for t in client.play(number, WALK)] == [pixels(t) for t in ticks[1:]]
        client.send("rewind", session=number, frame=500)
        assert "out of reach" in client.until("error", session=number)["message"]


def test_fork(address: str) -> None:
    with Client(address) as client:
        number, _ = client.open("car")
        ticks = client.play(number, WALK[:6])
        client.send("fork", session=number)
        twin = client.until("opened", parent=number)["session"]
        shown = client.until("tick", session=twin)
        assert shown["frame"] == 6
        assert pixels(shown) == pixels(ticks[-1])
        a, b = client.play(number, WALK[6:9]), client.play(twin, WALK[6:9])
        assert [pixels(t) for t in a] == [pixels(t) for t in b]
        (a,), (b,) = client.play(number, [LEFT]), client.play(twin, [RIGHT])
        assert pixels(a) != pixels(b)
        client.send("fork", session=number, frame=2)
        third = client.until("opened", parent=number)["session"]
        assert pixels(client.until("tick", session=third)) == pixels(ticks[1])
        client.send("close", session=number)
        client.until("closed", session=number)
        assert client.play(twin, [REST])[0]["frame"] == 11


def test_seed_and_reset(address: str) -> None:
    with Client(address) as client:
        number, first = client.open("car", seed=1)
        ticks = client.play(number, WALK[:4])
        client.send("reset", session=number)
        again = client.until("tick", epoch=1)
        assert pixels(again) == pixels(first)
        assert [pixels(t) for t in client.play(number, WALK[:4])] == [pixels(t) for t in ticks]
        client.send("reset", session=number, seed=2)
        other = client.until("tick", epoch=2)
        assert other["frame"] == 0
        assert pixels(other) != pixels(first)
        assert client.until("status")["seed"] == 2


def test_sync(address: str) -> None:
    with Client(address) as client:
        number, _ = client.open("car")
        (tick,) = client.play(number, [RIGHT])
        assert pixels(tick) != pixels(tick, truth=True)
        client.send("sync", session=number)
        tick = client.until("tick", epoch=1)
        assert pixels(tick) == pixels(tick, truth=True)


def test_a_world_without_its_environment(address: str) -> None:
    with Client(address) as client:
        number, first = client.open("recorded")
        assert (client.opened["start"], client.opened["truth"], first["truth"]) == ("recorded", False, None)
        assert client.play(number, [RIGHT])[0]["truth"] is None
        client.send("sync", session=number)
        assert client.until("error")["session"] == number


def test_vectors_and_pictures(address: str) -> None:
    with Client(address) as client:
        number, first = client.open("pendulum")
        kinds = [(h.kind, h.stream, bool(h.flags & 4)) for h, _ in first["parts"]]
        assert kinds == [(VECTOR, 0, False), (VECTOR, 0, True), (JPEG, 255, True)]
        assert np.frombuffer(first["parts"][0][1], "<f4").shape == (3,)
        (tick,) = client.play(number, [[1.5]])
        assert np.isfinite(np.frombuffer(tick["parts"][0][1], "<f4")).all()
        client.act(number, [2.5])
        assert client.until("error", session=number)["code"] == "ActionError"
        assert client.play(number, [[-2.0]])[0]["frame"] == 2


def test_images_come_in_a_codec_that_the_client_can_show(address: str) -> None:
    small, pictures = set[bytes](), dict[int, Any]()
    kinds = {(): JPEG, ("webp",): WEBP, ("avif", "webp", "jpeg"): WEBP, ("avif",): JPEG, ("jpeg",): JPEG}
    for codecs, kind in kinds.items():
        with Client(address, hello=False) as client:
            client.send("hello", protocol=1, **({"codecs": codecs} if codecs else {}))
            welcome = client.until("welcome")
            assert (welcome["codec"], welcome["codecs"]) == ({JPEG: "jpeg", WEBP: "webp"}[kind], list(list_codecs()))
            _, first = client.open("pendulum", seed=3)
            (header, data) = next(part for part in first["parts"] if part[0].stream == 255)
            picture = Image.open(io.BytesIO(data))
            assert (header.kind, picture.format) == (kind, welcome["codec"].upper())
            assert picture.size == (header.width, header.height)
            pictures[kind] = np.asarray(picture.convert("RGB"), np.float32)
            header, data = client.open("car", seed=3)[1]["parts"][0]
            assert header.kind == (WEBP if kind == WEBP else RAW)
            small.add(data if kind != WEBP else Image.open(io.BytesIO(data)).convert("RGB").tobytes())
    assert np.abs(pictures[JPEG] - pictures[WEBP]).mean() < 2
    assert len(small) == 1  # these are exact
    for wrong in ("webp", [1], {"a": 1}):
        with Client(address, hello=False) as client:
            client.send("hello", protocol=1, codecs=wrong)
            assert client.closing()[1] == 1008


def test_a_world_that_waits_for_actions(address: str) -> None:
    with Client(address) as client:
        number, _ = client.open("pole", fps=50)
        client.send("step", session=number)
        assert "no idle action" in client.until("error")["message"]
        client.send("set", session=number, stop_at_end=False)
        client.send("resume", session=number)
        client.until("status", running=True)
        with pytest.raises(TimeoutError):
            client.socket.recv(0.2)
        client.act(number, LEFT)
        client.act(number, None)  # a tap is one frame
        assert client.until("tick", frame=1)["seq"] == 1
        with pytest.raises(TimeoutError):
            client.socket.recv(0.4)


def test_denoising_steps(address: str) -> None:
    with Client(address) as client:
        number, _ = client.open("car", steps=2)
        (two,) = client.play(number, [RIGHT])
        client.send("rewind", session=number, frame=0)
        client.send("set", session=number, steps=8)
        client.until("status", steps=8)
        (eight,) = client.play(number, [RIGHT])
        assert pixels(two) != pixels(eight)
        client.send("set", session=number, steps=3)
        assert client.until("error", session=number)["code"] == "ConfigError"
        assert client.play(number, [RIGHT])[0]["frame"] == 2


def test_unknown_names_are_refused_and_the_client_goes_on(address: str) -> None:
    with Client(address) as client:
        for name in ("caar", "../../etc/passwd", "/tmp", ""):
            client.send("open", world=name, req=4)
            error = client.until("error")
            assert (error["code"], error["req"], error["fatal"]) == ("UnknownName", 4, False)
        client.send("pause", session=77)
        assert "no session" in client.until("error")["message"]
        client.open("car")


def test_panes_and_sessions_are_limited() -> None:
    limits = replace(QUICK, panes=3, sessions=4, clients=2)
    with running({"pole": tiny(POLE)}, limits, truth=False) as url, Client(url) as client, Client(url) as other:
        number = [client.open("pole")[0] for _ in range(3)][-1]
        for message in ({"type": "open", "world": "pole"}, {"type": "fork", "session": number}):
            client.socket.send(json.dumps(message))
            assert "close one first" in client.until("error")["message"]
        other.open("pole")
        other.send("open", world="pole")
        assert "the most" in other.until("error")["message"]
        client.send("close", session=number)
        client.until("closed")
        other.open("pole")
        with Client(url, hello=False) as third:
            error, code = third.closing()
            assert (error["code"], code) == ("full", 1013)


@pytest.mark.parametrize(
    ("message", "close"),
    [
        ("nonsense", 1008),
        ('{"type":"open","world":"car","path":"x"}', 1008),
        ('{"type":"hello","protocol":1}', 1008),
        (b"\x00binary", 1008),
        ('{"type":"action","session":1,"seq":1,"row":[' + "1," * 3000 + "1]}", 1009),
    ],
)
def test_bad_messages_end_the_connection(address: str, message: str | bytes, close: int) -> None:
    with Client(address) as client:
        client.open("car")
        client.socket.send(message)
        error, code = client.closing()
        assert code == close
        assert close == 1009 or (error["fatal"] and error["code"] == "bad_message")
    with Client(address) as client:  # and the server goes on
        client.open("car")


def test_hello_comes_first_and_soon() -> None:
    with running({"pole": tiny(POLE)}, replace(QUICK, hello_seconds=0.3, idle_seconds=0.5)) as url:
        with Client(url, hello=False) as client:
            client.send("open", world="pole")
            assert client.closing()[1] == 1008
        with Client(url, hello=False) as client:
            client.send("hello", protocol=99)
            assert client.closing()[1] == 4002
        with Client(url, hello=False) as client:
            assert client.closing()[1] == 1008
        with Client(url) as client:
            assert client.closing()[1] == 4004


def test_rate_is_limited() -> None:
    with running({"pole": tiny(POLE)}, Limits(messages_per_second=50)) as url, Client(url) as client:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(500):
                client.send("pause", session=1)
        error, code = client.closing()
        assert (error["code"], code) == ("rate", 1008)


def test_a_client_that_does_not_read_holds_nobody_up(address: str) -> None:
    with Client(address, ack=False) as slow, Client(address) as quick:
        lazy, _ = slow.open("car")
        slow.send("set", session=lazy, fps=60, stop_at_end=False)
        slow.send("resume", session=lazy)
        number, _ = quick.open("car", truth=False)
        quick.send("set", session=number, fps=60, stop_at_end=False)
        quick.send("resume", session=number)
        began = time.monotonic()
        quick.until("tick", frame=40)
        assert time.monotonic() - began < 10


def test_a_failing_session_closes_alone(address: str) -> None:
    with Client(address) as client:
        good, _ = client.open("car")
        bad, _ = client.open("broken")
        client.act(bad, LEFT)
        client.send("step", session=bad)
        assert "not finite" in client.until("error", session=bad)["message"]
        assert "not finite" in client.until("closed", session=bad)["reason"]
        assert client.play(good, [RIGHT])[0]["frame"] == 1
        bad, _ = client.open("broken")  # and so when the clock makes the frame
        client.send("resume", session=bad)
        client.act(bad, LEFT)
        assert "not finite" in client.until("closed", session=bad)["reason"]
        assert client.play(good, [RIGHT])[0]["frame"] == 2


def test_leaving_frees_everything() -> None:
    with running({"pole": tiny(POLE)}, replace(QUICK, sessions=1)) as url:
        for _ in range(3):
            with Client(url) as client:
                client.open("pole")
            time.sleep(0.3)


def test_text_actions() -> None:
    spec = WorldSpec(
        {"vector": StreamSpec("vector", (3,))},
        ActionSpec("text", n=64, charset="abcdefghijklmnopqrstuvwxyz "),
        EnvSpec(),
    )
    spec = replace(spec, noop=(-1.0,) * 64)
    with running({"words": tiny(spec)}) as url, Client(url) as client:
        number, _ = client.open("words")
        frames = []
        for seq, said in enumerate(("go left", "go right"), 1):
            client.send("rewind", session=number, frame=0)
            assert client.until("tick", frame=0)["said"] == ""
            client.send("action", session=number, seq=seq, text=said)
            client.send("step", session=number, n=2)
            tick = client.until("tick", frame=1)
            frames.append(tick["parts"][0][1])
            assert (tick["said"], tick["possible"]) == (said, None)
            client.until("tick", frame=2)
        assert frames[0] != frames[1]
        client.send("rewind", session=number, frame=1)
        assert client.until("tick", frame=1)["said"] == "go right"
        client.send("action", session=number, seq=3, text="x" * 90)
        assert client.until("error")["code"] == "ActionError"


# --- the page's files, and the whole thing as a program


def test_page_and_headers(address: str) -> None:
    page = httpx.get(address)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    for name in ("main.js", "style.css", "icon.svg"):
        assert httpx.get(address + name).status_code == 200
    for path in ("..%2fapp.py", "%2e%2e/app.py", "docs", "openapi.json"):
        assert httpx.get(address + path).status_code == 404
    assert httpx.get(address + "healthz").text == "ok"


def test_serve_as_a_program(tmp_path: Any) -> None:
    tiny(POLE, "pole").save(tmp_path / "mine")
    (tmp_path / "mine" / "card.md").write_text("# Mine\n\n## Known failures\n- all\n")
    with pytest.raises(UnknownName):
        serve(tmp_path / "yours", port=0)
    code = (
        "import sys; from terrella.serving import serve; "
        "serve(sys.argv[1], port=0, truth=False, on_ready=lambda url: print(url, flush=True))"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "mine")], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert program.stdout is not None
        url = program.stdout.readline().strip()
        with Client(url) as client:
            assert client.welcome["default"] == "mine"
            client.open("mine")
            assert client.opened["about"]["card_text"].startswith("# Mine")
        with pytest.raises(ServingError, match="cannot be bound"):
            serve(tiny(POLE), port=int(url.rstrip("/").rsplit(":", 1)[1]))
        program.send_signal(signal.SIGINT)
        assert program.wait(20) is not None
    finally:
        program.kill()
