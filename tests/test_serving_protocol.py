"""The protocol: what is written about it agrees with the code, and no message brings a server down."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from concurrent.futures import Future
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from test_serving import CAR, LEFT, POLE, QUICK, REST, RIGHT, Client, running, tiny
from websockets.exceptions import ConnectionClosed

from terrella.errors import ServingError
from terrella.serving.protocol import ANSWERS, BOUNDS, MESSAGES, TEXTS, Error, Hello, Moved, dump, parse
from terrella.serving.schema import schema, write

WEB = httpx.Client(timeout=60)
DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = schema()
CLIENT = jsonschema_rs.validator_for({**SCHEMA, "anyOf": [{"$ref": "#/$defs/client"}]})
SERVER = jsonschema_rs.validator_for({**SCHEMA, "anyOf": [{"$ref": "#/$defs/server"}]})


# --- what is written about it


def test_the_docs_are_made_from_the_code(tmp_path: Path) -> None:
    for name in ("protocol.schema.json", "protocol.md"):
        (tmp_path / name).write_text((DOCS / name).read_text())
    write(tmp_path)
    for name in ("protocol.schema.json", "protocol.md"):
        assert (tmp_path / name).read_text() == (DOCS / name).read_text(), "run: python -m terrella.serving.schema docs"
    (tmp_path / "protocol.md").write_text("nothing")
    with pytest.raises(ServingError, match="marks"):
        write(tmp_path)


def test_every_message_is_described() -> None:
    page = (DOCS / "protocol.md").read_text()
    for name in (*MESSAGES, *ANSWERS):
        assert f"**`{name}`**" in page
        assert name in SCHEMA["$defs"]
    for code in re.findall(r"^\| (\d{4}) \|", page, re.M):
        assert 1000 <= int(code) < 5000


GOOD = {
    "session": [1, 1, 1, 2, 200],
    "frame": [0, 1, 5, 2**32 - 1],
    "n": [1, 2, 16],
    "fps": [0.5, 30, 60],
    "steps": [1, 3, 8],
}
TEXT, ROW = ["pole", "", "../etc", "\ud800", "x" * 500], [LEFT, RIGHT, [], [0.5] * 3, [1e308], None]
BAD = [None, True, "x", "", [], {}, 1.5, -1, 2**70, [1, "2"], [[1]], "a" * 600, 1e300]


def value(rng: random.Random, field: str, wrong: float) -> Any:
    """A value for a client's field, in so many cases of another type or beyond the bounds."""
    low, high = BOUNDS.get(field, (0, 0))
    if rng.random() < wrong:
        return rng.choice([*BAD, *([low - 1, high + 1] if field in BOUNDS else [])])
    if field in BOUNDS:
        return rng.choice(GOOD.get(field, [int(low), int(high), int(high) // 2]))
    if field in TEXTS:
        return rng.choice(TEXT)
    return rng.choice(ROW) if field == "row" else rng.random() < 0.5


def message(rng: random.Random, wrong: float) -> dict[str, Any]:
    """A message of a known type, whose fields are wrong in so many cases."""
    kind = rng.choice([name for name in MESSAGES if name != "hello"])
    fields = MESSAGES[kind].__dataclass_fields__
    given = [name for name, field in fields.items() if rng.random() < (1 - wrong if field.default is MISSING else 0.5)]
    body = {"type": kind, **{name: value(rng, name, wrong) for name in given}}
    return body | ({"extra": 1} if rng.random() < wrong / 4 else {})


def test_the_schema_says_what_the_code_does() -> None:
    rng = random.Random(0)
    answers = {True: 0, False: 0}
    for _ in range(4000):
        body = message(rng, 0.2)
        text = json.dumps(body)
        try:
            parse(text)
            good = True
        except ServingError:
            good = False
        if "\\ud800" not in text:  # which is JSON, and no Unicode
            assert CLIENT.is_valid(body) is good, body
        answers[good] += 1
    assert min(answers.values()) > 300


def test_what_the_server_says_fits_the_schema(tmp_path: Path) -> None:
    with running({"pole": tiny(POLE)}, keep=tmp_path) as url, Client(url) as client:
        said = [client.welcome]
        number, tick = client.open("pole")
        said += [client.opened, {k: v for k, v in tick.items() if k != "parts"}]
        client.send("set", session=number, fps=20.0)
        said.append(client.until("status"))
        client.send("open", world="nowhere")
        said.append(client.until("error"))
        client.send("fork", session=number, share=True, req=7)
        said.append(client.until("shared"))
        assert said[-1]["req"] == 7
        client.send("close", session=number)
        said.append(client.until("closed"))
    said += [json.loads(dump(Moved(url))) for url in ("ws://127.0.0.1:1/ws?root=0", None)]  # a gateway, and a replica
    assert {body["type"] for body in said} == set(ANSWERS)
    for body in said:
        SERVER.validate(body)
    assert not SERVER.is_valid(json.loads(dump(Error("a", "b"))) | {"fatal": "no"})
    assert not SERVER.is_valid(json.loads(dump(Hello(1))))


# --- messages that nobody should send


def spoilt(rng: random.Random) -> tuple[str | bytes, int]:
    """A message and the close code that it should bring, 0 for none."""
    kind = rng.randrange(60)
    if kind == 0:
        return rng.randbytes(rng.randrange(200)), 1008
    if kind == 1:
        return json.dumps({"type": "action", "session": 1, "seq": 1, "text": "x" * rng.randrange(5000, 20_000)}), 1009
    if kind == 2:
        return json.dumps({"type": "hello", "protocol": 1}), 1008
    if kind == 3:
        return rng.choice(
            ["", "[]", "null", "0", '"open"', "[" * 4000, "{" * 2000, '{"type":"open"', "\x00", "𝕏" * 99]
        ), 1008
    if kind == 4:  # bytes changed: what that means, the specification says
        text = bytearray(json.dumps(message(rng, 0.01)).encode())
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(32, 127)
        said = text.decode()
    else:
        said = json.dumps(message(rng, 0.01))
    try:
        parse(said)
    except ServingError:
        return said, 1008
    return said, 0


def bystander(url: str, stop: threading.Event, seen: list[Any], watch: Future[str] | None = None) -> None:
    """Somebody who plays all the while, and may be watched; every frame must come, in order."""
    with Client(url) as client:
        number, first = client.open("car", truth=False)
        if watch is not None:
            watch.set_result(client.opened["watch"])
        seen.append((first["frame"], first["parts"][0][1]))
        client.send("set", session=number, fps=10, stop_at_end=False)
        client.send("resume", session=number)
        while not stop.is_set():
            body = client.read()
            if body["type"] == "tick":
                seen.append((body["frame"], body["parts"][0][1]))
            elif body["type"] in ("error", "closed"):
                seen.append(body)


def count(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", WEB.get(url + "metrics").text, re.M)
    return sum(map(float, lines))


def abuse(url: str, messages: int, seed: int, watch: str) -> dict[int, int]:
    """Send messages, most of them wrong; count the connections by close code, each of which must be the right one."""
    rng, codes, sent = random.Random(seed), dict[int, int](), 0
    while sent < messages:
        greeted = rng.random() < 0.97
        with Client(url, hello=greeted) as client:
            expected = 0
            if greeted and rng.random() < 0.5:
                client.open("pole", truth=False)
            if greeted and rng.random() < 0.3:
                client.send("watch", token=watch)
            for _ in range(rng.randrange(1, 40)):
                said, code = spoilt(rng)
                if not greeted:  # whatever it is, it is no hello
                    said, code = ("", 1008) if "hello" in str(said) else (said, code or 1008)
                try:
                    client.socket.send(said)
                except ConnectionClosed:
                    break
                sent += 1
                if code:
                    expected = code
                    break
            if not expected:
                if rng.random() < 0.5:
                    continue  # leave in the middle of everything
                client.socket.send("that is all")
                expected = 1008
            _, got = client.closing()
            assert got == expected, said
            codes[got] = codes.get(got, 0) + 1
    return codes


def fuzz(messages: int, seed: int) -> None:
    world = tiny(CAR, "car")
    limits = replace(QUICK, sessions=64)
    with running({"car": world, "pole": tiny(POLE)}, limits, truth=False) as url:
        stop, seen, watch = threading.Event(), list[Any](), Future[str]()
        other = threading.Thread(target=bystander, args=(url, stop, seen, watch))
        other.start()
        codes = abuse(url, messages, seed, watch.result(20))
        stop.set()
        other.join(20)
        deadline = time.monotonic() + 10
        while count(url, "terrella_sessions") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert count(url, "terrella_sessions") == count(url, "terrella_connections") == 0
        assert count(url, "terrella_closed_total") >= sum(codes.values())
        assert WEB.get(url + "health").text == "ok"
        with Client(url) as client:  # what the bystander saw is what anybody sees who is alone
            number, first = client.open("car", truth=False)
            alone = [first, *client.play(number, [REST] * (len(seen) - 1))]
        assert [frame for frame, _ in seen] == list(range(len(seen)))
        assert [data for _, data in seen] == [tick["parts"][0][1] for tick in alone]
    assert set(codes) == {1008, 1009}


def test_three_hundred_messages_that_nobody_should_send() -> None:
    fuzz(300, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_messages_that_nobody_should_send() -> None:
    fuzz(10_000, 1)
