"""Moments that are shared by a link: people go on from them, each in a session of their own, also after a kill -9."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_page import SHOWN, at_least, browser, frame, until  # noqa: F401  (a fixture)
from test_page import tiny as arena
from test_serving import CAR, LEFT, QUICK, RIGHT, Client, pixels, running, tiny
from test_serving_protocol import count

LEAST = replace(QUICK, moments=2)


def test_many_go_on_from_a_moment_and_nobody_changes_it(tmp_path: Path) -> None:
    with running({"car": tiny(CAR, "car")}, LEAST, keep=tmp_path, truth=False) as url, Client(url) as host:
        mine, _ = host.open("car", seed=1)
        ticks = host.play(mine, [RIGHT] * 20)
        host.send("fork", session=mine, frame=17, share=True)
        moment = host.until("shared")["token"]
        host.send("fork", session=mine, share=True)
        now = host.until("shared")["token"]
        host.send("fork", session=mine, share=True)  # no more than the limit
        assert "2 moments" in host.until("error")["message"]
        after = host.play(mine, [LEFT] * 3)
        tokens = {host.opened["token"], moment, now}
        for row in (RIGHT, LEFT):  # who comes second finds what the first found
            with Client(url) as guest:
                guest.send("reopen", token=moment)
                tokens.add(guest.until("opened")["token"])
                first = guest.until("tick")
                assert (first["frame"], pixels(first)) == (17, pixels(ticks[16]))
                played = guest.play(first["session"], [row] * 3)
                assert [pixels(a) == pixels(b) for a, b in zip(played, ticks[17:])] == [row == RIGHT] * 3
        assert len(tokens) == 5
        assert pixels(host.play(mine, [LEFT])[0]) != pixels(after[-1])
        base = f"{url}v1/sessions/"
        assert httpx.post(f"{base}{now}/step", json={"actions": [None]}).status_code == 409
        shown = httpx.get(f"{base}{now}").json()
        assert (shown["frame"]["frame"], shown["id"] in tokens) == (20, False)
        assert httpx.post(f"{base}{shown['id']}/step", json={"actions": [None]}).json()["frames"][0]["frame"] == 21
        assert httpx.get(f"{base}{now}").json()["frame"]["frame"] == 20
        before = count(url, "terrella_sessions")
        fork = httpx.post(f"{base}{moment}/fork", json={"frame": 15})
        assert (fork.status_code, fork.json()["frame"]["frame"]) == (201, 15)
        assert count(url, "terrella_sessions") == before + 1  # and no other one that nobody knows of
        assert httpx.delete(f"{base}{fork.json()['id']}").status_code == 204
        answer = httpx.delete(f"{base}{moment}")  # whoever has the link may not take it from others
        assert (answer.status_code, answer.json()["code"]) == (409, "snapshot")
        assert count(url, "terrella_sessions") == before
    with running({"car": tiny(CAR, "car")}, LEAST, keep=tmp_path, truth=False) as url, Client(url) as guest:
        guest.send("reopen", token=moment)  # it outlives the server
        assert pixels(guest.until("tick")) == pixels(ticks[16])


def test_a_moment_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    for keep, at, words in ((tmp_path, 9, "0 to 2"), (None, None, "--keep")):
        with running({"car": tiny(CAR, "car")}, keep=keep, truth=False) as url, Client(url) as client:
            number, _ = client.open("car")
            client.play(number, [RIGHT] * 2)
            client.send("fork", session=number, frame=at, share=True)
            assert words in client.until("error")["message"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def command(world: Path, port: int, *said: str) -> Any:
    """`terrella serve` in a process of its own, killed at the end."""
    how = [str(world), "--port", str(port), "--batch", "1", *said]
    process = subprocess.Popen([sys.executable, "-m", "terrella.cli", "serve", *how], stderr=subprocess.DEVNULL)
    alive = "healthz" if "--cluster" in said else "ready"
    try:
        for _ in range(600):
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/{alive}").status_code == 200:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGINT if "--cluster" in said else signal.SIGKILL)  # a cluster ends its processes
        process.wait(60)


@pytest.mark.slow
@pytest.mark.browser
def test_two_people_from_one_moment_and_a_server_that_is_killed(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    arena("MountainCar-v0", "car", pixels=True).save(tmp_path / "car")
    port = free_port()
    first, second = (browser.new_page(viewport={"width": 1000, "height": 760}) for _ in range(2))
    both = ((first, "ArrowLeft"), (second, "ArrowRight"))
    for page, _ in both:
        page.set_default_timeout(40_000)
    with command(tmp_path / "car", port, "--keep", str(tmp_path / "kept")) as server:
        first.goto(f"http://127.0.0.1:{port}/")
        first.wait_for_selector(".pane .hint.on")
        first.uncheck("#stop", force=True)
        first.click("#play")
        at_least(first, 12)
        first.click("#play")
        until(first, "() => document.getElementById('play').dataset.running === 'false'")
        first.click("#share")
        first.wait_for_selector("#shared[open]")
        moment, link = frame(first), first.input_value("#moment")  # a step was still on its way when play was stopped
        first.screenshot(path=tmp_path / "share.png")
        first.click("#shared button")
        second.goto(link)
        at_least(second, moment)
        second.wait_for_timeout(200)
        assert frame(second) == moment
        assert second.evaluate(SHOWN) == first.evaluate(SHOWN)
        for page, key in both:  # each goes another way
            page.click("#play")
            page.keyboard.down(key)
        for page, _ in both:
            at_least(page, moment + 20)
        assert second.evaluate(SHOWN) != first.evaluate(SHOWN)
        first.wait_for_timeout(1000)
        before = frame(second)
        second.keyboard.down("Backspace")  # one goes back, and on from there
        until(second, "n => Number(document.getElementById('frame').textContent) < n", before - 10)
        second.keyboard.up("Backspace")
        until(second, "n => Number(document.getElementById('last').textContent) < n", before - 5)
        second.wait_for_timeout(1000)
        assert first.locator(".pane").count() == 1
        rate, at = float(first.input_value("#speed")), [frame(page) for page, _ in both]
        server.send_signal(signal.SIGKILL)
        for page, _ in both:
            page.wait_for_selector("#reconnecting")
            assert page.locator("dialog[open]").count() == 0
        first.screenshot(path=tmp_path / "reconnecting.png")
    with command(tmp_path / "car", port, "--keep", str(tmp_path / "kept")):
        for (page, key), then in zip(both, at):
            page.wait_for_selector(".pane[data-running]")  # by itself, and it runs as it ran
            at_least(page, then + 10)
            assert page.evaluate("Number(document.getElementById('time').min)") >= then - 1.25 * rate
            assert page.locator(f"[data-codes='{key}'][data-down]").count() == 1
            assert page.get_attribute("#lamp", "aria-label") == "Connected"
        assert second.evaluate(SHOWN) != first.evaluate(SHOWN)
        first.screenshot(path=tmp_path / "first.png")
        second.screenshot(path=tmp_path / "second.png")
    for page, _ in both:
        page.close()


def holder(folder: Path) -> int:
    """The process that holds a server's folder."""
    inode = (folder / "lock").stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return next(int(words[4]) for words in held if words[1] == "FLOCK" and words[5].endswith(f":{inode}"))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(sys.platform != "linux", reason="who holds a lock is asked of /proc/locks")
def test_the_page_goes_on_after_kill_9_of_its_replica(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    pytest.importorskip("ray")
    arena("MountainCar-v0", "car", pixels=True).save(tmp_path / "car")
    port, store, page = free_port(), tmp_path / "store", browser.new_page()
    page.set_default_timeout(60_000)
    with command(tmp_path / "car", port, "--cluster", "local", "--store", str(store)):
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector(".pane .hint.on")
        page.uncheck("#stop", force=True)
        page.click("#play")
        at_least(page, 40)
        (journal,) = store.glob("replica-*/sessions/*.jsonl")
        rate, at, home = float(page.input_value("#speed")), frame(page), journal.parents[1]
        os.kill(holder(home), signal.SIGKILL)
        page.wait_for_selector("#reconnecting")
        page.wait_for_selector(".pane[data-running]")  # by way of the gateway
        at_least(page, at + 10)
        assert page.evaluate("Number(document.getElementById('time').min)") >= at - 1.25 * rate
        (journal,) = store.glob("replica-*/sessions/*.jsonl")
        assert journal.parents[1] != home
    page.close()
