"""The HTTP API beside the socket: sessions for programs, who may ask, how much, and what a server counts."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_serving import CAR, LEFT, PENDULUM, POLE, QUICK, REST, RIGHT, WALK, Client, pixels, running, tiny

from terrella import arenas
from terrella.errors import ServingError
from terrella.serving.guard import allowed, check_binding, read_token, site
from terrella.serving.limits import Allowance, client_address
from terrella.serving.logs import JsonLines
from terrella.spec import EnvSpec

TOKEN = "t" * 32
WEB = httpx.Client(timeout=60)  # one for all: making one costs more than most requests


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    worlds = {"car": tiny(CAR), "pendulum": tiny(PENDULUM), "recorded": tiny(replace(CAR, env=EnvSpec()), "recorded")}
    with running(worlds, replace(QUICK, sessions=64)) as url:
        yield url


def begin(url: str, world: str = "car", **fields: Any) -> dict[str, Any]:
    answer = WEB.post(url + "v1/sessions", json={"world": world, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def step(url: str, session: dict[str, Any], actions: list[Any]) -> list[dict[str, Any]]:
    answer = WEB.post(f"{url}v1/sessions/{session['id']}/step", json={"actions": actions})
    assert answer.status_code == 200, answer.text
    return answer.json()["frames"]


def ask(url: str, session: dict[str, Any], what: str, **fields: Any) -> dict[str, Any]:
    answer = WEB.post(f"{url}v1/sessions/{session['id']}/{what}", json=fields)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def seen(frame: dict[str, Any]) -> np.ndarray:
    """The first stream of a frame, as an array."""
    (stream,) = frame["observation"].values()
    kind = {"rgb": np.uint8, "float32": np.dtype("<f4")}[stream["format"]]
    return np.frombuffer(base64.b64decode(stream["data"]), kind).reshape(stream["shape"])


# --- sessions


def test_worlds(address: str) -> None:
    assert WEB.get(address + "v1/worlds").json() == {"worlds": ["car", "pendulum", "recorded"]}
    world = WEB.get(address + "v1/worlds/car").json()
    assert (world["starts"], world["context"]) == (1, 2)
    assert world["about"]["keys"]["ArrowLeft"] == LEFT
    answer = WEB.get(address + "v1/worlds/caar")
    assert answer.status_code == 404
    assert "car" in answer.json()["message"]


def test_a_session_over_http_is_the_one_of_the_socket(address: str) -> None:
    session = begin(address, seed=3)
    frames = [session["frame"], *step(address, session, WALK[:8]), *step(address, session, WALK[8:])]
    with Client(address) as client:
        number, first = client.open("car", seed=3, truth=False)
        ticks = [first, *client.play(number, WALK)]
    assert [frame["frame"] for frame in frames] == list(range(len(WALK) + 1))
    assert [seen(frame).tobytes() for frame in frames] == [pixels(tick) for tick in ticks]
    assert [frame["score"] for frame in frames] == [tick["score"] for tick in ticks]
    now = WEB.get(f"{address}v1/sessions/{session['id']}").json()
    assert now["frame"] == frames[-1]
    assert now["start"] == "recorded"  # nobody asked for the environment
    assert WEB.delete(f"{address}v1/sessions/{session['id']}").status_code == 204
    for answer in (
        WEB.get(f"{address}v1/sessions/{session['id']}"),
        WEB.delete(f"{address}v1/sessions/{session['id']}"),
        WEB.post(f"{address}v1/sessions/{session['id']}/step", json={"actions": [LEFT]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "session")


def test_the_true_environment_beside_it(address: str) -> None:
    session = begin(address, "pendulum", seed=1, truth=True)
    assert session["start"] == "environment"
    (frame,) = step(address, session, [[0.5]])
    env = arenas.make(PENDULUM.env)
    env.reset(seed=1)
    assert seen(frame).shape == (3,)
    assert frame["truth"]["picture"]["format"] == "jpeg"
    assert seen(frame["truth"]).shape == (3,)
    assert np.isfinite(frame["truth"]["gap"])


def test_fork_rewind_reset_and_snapshot(address: str) -> None:
    session = begin(address, seed=5)
    frames = [session["frame"], *step(address, session, WALK[:10])]
    fork = ask(address, session, "fork", frame=4)
    kept = ask(address, session, "snapshot")
    assert len({session["id"], fork["id"], kept["id"]}) == 3
    assert fork["frame"]["observation"] == frames[4]["observation"]
    assert step(address, fork, WALK[4:6])[-1]["observation"] == frames[6]["observation"]
    back = ask(address, session, "rewind", frame=2)
    assert (back["frame"]["frame"], back["frame"]["observation"]) == (2, frames[2]["observation"])
    other = ask(address, session, "reset", seed=6)
    assert (other["seed"], other["frame"]["frame"]) == (6, 0)
    answer = WEB.post(f"{address}v1/sessions/{kept['id']}/step", json={"actions": [LEFT]})
    assert (answer.status_code, answer.json()["code"]) == (409, "snapshot")
    for _ in range(2):  # a snapshot may be played from again and again
        again = ask(address, kept, "fork")
        assert again["frame"] == frames[10]
        assert (
            step(address, again, [RIGHT])[0]["observation"]
            == step(address, ask(address, kept, "fork"), [RIGHT])[0]["observation"]
        )
    assert WEB.delete(f"{address}v1/sessions/{kept['id']}").status_code == 204
    answer = WEB.post(f"{address}v1/sessions/{session['id']}/rewind", json={"frame": 99})
    assert (answer.status_code, "out of reach" in answer.json()["message"]) == (409, True)


@pytest.mark.parametrize("exact", [False, True])
def test_plans_bring_what_carrying_them_out_brings(exact: bool) -> None:
    plans = [WALK[i : i + 5] for i in range(7)]
    with running({"car": tiny(CAR), "pendulum": tiny(PENDULUM)}, QUICK, batch=3, exact=exact, admit=False) as url:
        session = begin(url, seed=5)
        frames = step(url, session, WALK[:6])
        answer = ask(url, session, "evaluate", plans=plans, last=True)["futures"]
        assert len(answer) == 7
        assert WEB.get(f"{url}v1/sessions/{session['id']}").json()["frame"] == frames[-1]  # it stays as it is
        for plan, future in zip(plans, answer):
            walked = step(url, fork := ask(url, session, "fork"), plan)
            WEB.delete(f"{url}v1/sessions/{fork['id']}")
            told, true = seen({"observation": future["last"]}), seen(walked[-1])
            assert np.allclose(future["reward"], [f["reward"] for f in walked], atol=0 if exact else 1e-4)
            assert np.allclose(future["end"], [f["end"] for f in walked], atol=0 if exact else 1e-4)
            assert np.abs(told.astype(int) - true.astype(int)).max() <= (0 if exact else 2)
        assert len({tuple(future["reward"]) for future in answer}) > 1
        kept = ask(url, session, "snapshot")
        assert ask(url, kept, "evaluate", plans=[[None]])["futures"][0]["last"] is None
        for body, status, word in (
            ({"plans": [[LEFT], [LEFT, LEFT]]}, 409, "lengths"),
            ({"plans": [[[7.0]]]}, 409, "ActionError"),
            ({"plans": []}, 422, "plans"),
            ({"plans": [[LEFT] * 17]}, 422, "plans"),
            ({"plans": [[LEFT]] * 65}, 422, "plans"),
        ):
            answer = WEB.post(f"{url}v1/sessions/{session['id']}/evaluate", json=body)
            assert (answer.status_code, word in answer.text) == (status, True)


def test_none_of_the_actions_is_taken_if_one_is_wrong(address: str) -> None:
    session = begin(address)
    answer = WEB.post(f"{address}v1/sessions/{session['id']}/step", json={"actions": [LEFT, [7.0]]})
    assert (answer.status_code, answer.json()["code"]) == (409, "ActionError")
    assert WEB.get(f"{address}v1/sessions/{session['id']}").json()["frame"]["frame"] == 0
    assert step(address, session, [None, REST])[-1]["frame"] == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "world"),
        ({"world": "car", "path": "/etc"}, "path"),
        ({"world": "car", "seed": -1}, "seed"),
        ({"world": "car", "seed": "5"}, "seed"),
        ({"world": "car", "seed": True}, "seed"),
        ({"world": "car", "seed": 2**31}, "seed"),
        ({"world": "car", "steps": 0}, "steps"),
        ({"world": "x" * 501}, "world"),
        ({"world": 3}, "world"),
        ([], "body"),
    ],
)
def test_what_makes_no_sense_is_refused(address: str, body: Any, field: str) -> None:
    answer = WEB.post(address + "v1/sessions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert field in answer.json()["message"]


@pytest.mark.parametrize(
    "body", ['{"actions":[[NaN]]}', '{"actions":[[1e999]]}', "[" * 2000, "\udcff", '{"actions":[]}']
)
def test_numbers_that_are_none_are_refused(address: str, body: str) -> None:
    session = begin(address)
    raw, kind = body.encode("utf-8", "surrogateescape"), {"content-type": "application/json"}
    answer = WEB.post(f"{address}v1/sessions/{session['id']}/step", content=raw, headers=kind)
    assert answer.status_code in (400, 422)
    assert answer.json()["message"]
    WEB.delete(f"{address}v1/sessions/{session['id']}")


def test_paths_and_methods_that_there_are_not(address: str) -> None:
    assert WEB.get(address + "v1/nowhere").status_code == 404
    assert WEB.get(address + "v1/sessions/x").status_code == 422
    answer = WEB.put(address + "v1/sessions/" + "a" * 32)
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    assert WEB.get(address + "v1/openapi.json").json()["info"]["title"] == "Terrella"


# --- who may ask, and how much


def test_the_api_is_behind_token_and_guard() -> None:
    with running({"pole": tiny(POLE)}, token=TOKEN) as url:
        for path in ("v1/worlds", "v1/openapi.json", "metrics"):
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
                answer = WEB.get(url + path, headers=header)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert WEB.get(url + path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        good = {"Authorization": f"Bearer {TOKEN}"}
        assert WEB.get(url + "v1/worlds", headers={**good, "Host": "evil.example"}).status_code == 403
        assert WEB.get(url + "v1/worlds", headers={**good, "Origin": "https://evil.example"}).status_code == 403
        assert WEB.get(url + "health").text == "ok"
        assert WEB.get(url + "ready").json() == {"ready": True, "why": "", "store": "ok"}


def test_rate_and_size_are_limited() -> None:
    with running({"pole": tiny(POLE)}, replace(QUICK, messages_per_second=10, request_bytes=2000)) as url:
        large = json.dumps({"world": "pole" + " " * 3000})
        assert WEB.post(url + "v1/sessions", content=large).status_code == 413
        answers = [WEB.get(url + "v1/worlds") for _ in range(40)]
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        assert next(a for a in answers if a.status_code == 429).headers["retry-after"] == "1"
        assert WEB.get(url + "health").text == "ok"


def test_an_address_has_so_many_sessions_and_connections() -> None:
    with running({"pole": tiny(POLE)}, replace(QUICK, sessions=2)) as url:
        first, _ = begin(url, "pole"), begin(url, "pole")
        answer = WEB.post(url + "v1/sessions", json={"world": "pole"})
        assert answer.status_code in (409, 503)
        assert "the most" in answer.json()["message"]
        WEB.delete(f"{url}v1/sessions/{first['id']}")
        begin(url, "pole")
    assert [client_address(host) for host in ("127.0.0.1", "::1", "10.0.0.1", None)] == ["", "", "10.0.0.1", ""]
    assert client_address("2001:db8::1") == client_address("2001:db8::ffff") != client_address("2001:db8:0:1::1")


def test_sessions_of_http_end_when_nobody_asks_for_them(tmp_path: Path) -> None:
    import time

    limits = replace(QUICK, idle_seconds=1.5)
    for keep in (None, tmp_path):
        with running({"pole": tiny(POLE)}, limits, keep=keep) as url:
            session = begin(url, "pole", seed=2)
            (frame,) = step(url, session, [LEFT])
            deadline = time.monotonic() + 10
            while sessions(url) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert sessions(url) == 0
            answer = WEB.get(f"{url}v1/sessions/{session['id']}")
            assert answer.status_code == (404 if keep is None else 200)
    with running({"pole": tiny(POLE)}, keep=tmp_path) as url:  # and of kept ones with the next server
        assert WEB.get(f"{url}v1/sessions/{session['id']}").json()["frame"] == frame
        with Client(url) as client:  # or over the socket
            client.send("reopen", token=session["id"])
            assert client.until("tick")["frame"] == 1
            assert step(url, session, [LEFT])[0]["frame"] == 2  # and back
            assert "another window" in client.until("closed")["reason"]
        assert WEB.get(f"{url}v1/sessions/{'x' * 32}").status_code == 404


def test_the_rate_comes_back(monkeypatch: Any) -> None:
    now = [100.0]
    monkeypatch.setattr("terrella.serving.limits.time.monotonic", lambda: now[0])
    rate = Allowance(10)
    assert [rate.take() for _ in range(12)] == [True] * 10 + [False] * 2
    assert not rate.full
    now[0] += 0.35
    assert [rate.take() for _ in range(3)] == [True, False, False]
    now[0] += 2
    assert rate.full


# --- behind a proxy, and with a token in a file


@pytest.mark.parametrize(
    ("host", "origin", "answer"),
    [
        ("world.example", "https://world.example", True),
        ("world.example", None, True),
        ("world.example:443", "https://world.example:443", True),
        ("world.example", "http://world.example", False),
        ("world.example", "https://evil.example", False),
        ("world.example:8443", "https://world.example", False),
        ("evil.example", "https://world.example", False),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", True),
        ("127.0.0.1:7860", "https://world.example", False),
    ],
)
def test_a_public_address_is_served_beside_this_machine(host: str, origin: str | None, answer: bool) -> None:
    assert allowed(host, origin, local=True, public="https://world.example") is answer


def test_a_public_address_needs_a_token() -> None:
    check_binding("127.0.0.1", TOKEN, "https://world.example")
    with pytest.raises(ServingError, match="token"):
        check_binding("127.0.0.1", None, "https://world.example")
    for wrong in ("world.example", "ftp://world.example", "https://", "https://a.b/c", "https://u@a.b", "https://a:b"):
        with pytest.raises(ServingError, match=r"https://world\.example"):
            site(wrong)


def test_tokens_in_files(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = read_token(path)
    assert len(made) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == made
    for wrong in (tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(ServingError):
            read_token(wrong)


def test_serve_as_a_command(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny(POLE, name).save(tmp_path / name)
    args = [sys.executable, "-m", "terrella.cli", "serve", "one", "two", "--port", "0", "--log", "json"]
    args += ["--public", "https://world.example", "--token-file", "token", "--keep", "kept"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(args, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = []
        while not (lines and "playing at" in lines[-1]):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        url = re.search(r"http://\S+/", json.loads(lines[-1])["message"])
        assert url is not None
        token = (tmp_path / "token").read_text().strip()
        good = {"Authorization": f"Bearer {token}", "Host": "world.example"}
        assert WEB.get(url[0] + "v1/worlds", headers=good).json() == {"worlds": ["one", "two"]}
        with Client(url[0], hello=False) as client:
            client.send("hello", protocol=1, token=token)
            assert client.until("welcome")["limits"]["clients"] == 64
    finally:
        process.terminate()
        rest = process.communicate(timeout=20)[0] or ""
    assert token not in "".join(lines) + rest


# --- what it counts and writes down


def sessions(url: str, headers: dict[str, str] | None = None) -> float:
    text = WEB.get(url + "metrics", headers=headers).text
    return sum(float(n) for n in re.findall(r"^terrella_sessions\{.*\} (\S+)$", text, re.M))


def test_metrics() -> None:
    with running({"car": tiny(CAR)}, truth=False) as url:
        with Client(url) as client:
            number, _ = client.open("car")
            client.send("set", session=number, fps=30, stop_at_end=False)
            client.send("resume", session=number)
            client.until("tick", frame=12)
            text = WEB.get(url + "metrics").text
            assert 'terrella_sessions{running="true",tier="slot"} 1.0' in text
            assert "terrella_connections 1.0" in text
        begin(url)
        WEB.get(url + "v1/worlds/nowhere")
        text = WEB.get(url + "metrics").text
        frames = float(re.findall(r'^terrella_frames_total\{world="car"\} (\S+)$', text, re.M)[0])
        assert 12 <= frames < 40
        for name in ("frame_lateness_seconds", "batch_size", "batch_seconds"):
            assert float(re.findall(rf'^terrella_{name}_count\{{world="car"\}} (\S+)$', text, re.M)[0]) == frames
        assert 'terrella_requests_total{method="GET",status="404"} 1.0' in text
        assert 'terrella_requests_total{method="POST",status="201"} 1.0' in text
        assert 'terrella_closed_total{code="1000"} 1.0' in text


def test_logs_are_lines_of_json() -> None:
    record = logging.makeLogRecord({"name": "terrella.serving", "levelname": "INFO", "msg": "a %s", "args": ("b\n",)})
    record.code = 1008
    line = JsonLines().format(record)
    assert "\n" not in line
    body = json.loads(line)
    assert (body["message"], body["code"], body["level"], body["time"][-6:]) == ("a b\n", 1008, "info", "+00:00")
    try:
        raise ServingError("why")
    except ServingError:
        record.exc_info = sys.exc_info()
    assert "why" in json.loads(JsonLines().format(record))["error"]


# --- requests that nobody should send


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_schemathesis_finds_nothing() -> None:
    """Every operation with generated requests, right and wrong, one after another and in sequences."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.config import SchemathesisConfig

    quiet = settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    limits = replace(QUICK, messages_per_second=100_000, sessions=250)
    tried = 0
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with running({"car": tiny(CAR), "pole": tiny(POLE)}, limits, truth=False, token=TOKEN) as url:
        answers = {  # anything may be larger than a request may be
            "negative_data_rejection": {"expected-statuses": [400, 401, 404, 408, 409, 413, 422, 429]},
            "positive_data_acceptance": {"expected-statuses": ["2xx", 401, 404, 409, 413, 429, 503]},
        }
        config = SchemathesisConfig.from_dict({"checks": answers})
        schema = schemathesis.openapi.from_url(url + "v1/openapi.json", headers=headers, config=config)
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode:

                @quiet
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case: Any) -> None:
                    nonlocal tried
                    tried += 1
                    case.call_and_validate(headers=headers)

                check()
        assert tried > 300

        class Told(schema.as_state_machine()):
            def get_call_kwargs(self, case: Any) -> dict[str, Any]:
                return {"headers": headers}

        Told.run(settings=settings(quiet, max_examples=25, stateful_step_count=8))
        assert WEB.get(url + "health").text == "ok"
