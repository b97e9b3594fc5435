"""Watching: who has `watch` of a session sees what its player sees, changes nothing, and keeps nobody waiting."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_cluster import LIMITS, Here, door
from test_page import at_least, browser, frame, until  # noqa: F401  (a fixture)
from test_page import serving as page_serving
from test_page import tiny as arena
from test_serving import CAR, LEFT, POLE, QUICK, REST, RIGHT, WALK, Client, pixels, running, tiny
from test_serving_faults import until as eventually
from test_serving_protocol import count

from terrella.cluster.gateway import Gateway
from terrella.cluster.replica import Replica
from terrella.errors import ServingError
from terrella.serving import Follower
from terrella.serving.moves import is_watch, journal_name, locate, new_token, root_of, watch_token


def watching(client: Client, token: str) -> tuple[int, dict[str, Any]]:
    """Begin to watch; returns the session's number there and the frame that is shown first."""
    client.send("watch", token=token)
    client.opened = client.until("opened")
    return client.opened["session"], client.until("tick", session=client.opened["session"])


def shown(follower: Follower) -> int:
    """The number of the next frame that comes."""
    while (body := follower.read())["type"] != "tick":
        pass
    return body["frame"]


def test_a_watcher_sees_what_the_player_sees_and_changes_nothing() -> None:
    with running({"car": tiny(CAR, "car")}, truth=False) as url, Client(url) as player, Client(url) as guest:
        guest.open("car")  # has a session of its own as well
        mine, _ = player.open("car", seed=1)
        before = player.play(mine, WALK[:4])
        assert player.opened["token"] is None  # nothing is kept here, and it can be watched all the same
        number, shown = watching(guest, player.opened["watch"])
        assert (guest.opened["watching"], guest.opened["token"], guest.opened["seed"]) == (True, None, 1)
        assert (shown["frame"], pixels(shown)) == (4, pixels(before[-1]))
        assert player.until("status")["watched"] == 1
        for row in WALK[4:9]:
            (tick,), seen = player.play(mine, [row]), guest.until("tick", session=number)
            assert pixels(seen) == pixels(tick)
            assert {k: v for k, v in seen.items() if k not in ("session", "parts")} == {
                k: v for k, v in tick.items() if k not in ("session", "parts")
            }
        player.send("rewind", session=mine, frame=2)
        for client, session in ((player, mine), (guest, number)):
            assert pixels(client.until("tick", session=session)) == pixels(before[1])
        player.send("set", session=mine, fps=7)
        assert guest.until("status", session=number, fps=7.0)["watched"] == 1
        for kind, fields in (("step", {}), ("resume", {}), ("rewind", {"frame": 0}), ("fork", {}), ("reset", {})):
            guest.send(kind, session=number, **fields)
            assert "you watch it" in guest.until("error")["message"]
        guest.act(number, RIGHT)
        assert "you watch it" in guest.until("error")["message"]
        assert player.play(mine, [REST])[0]["frame"] == 3
        guest.send("close", session=number)
        guest.until("closed", session=number)
        assert player.until("status")["watched"] == 0
        _, shown = watching(guest, player.opened["watch"])
        assert shown["frame"] == 3
        player.socket.close()
        assert "nobody plays" in guest.until("closed")["reason"]
        guest.send("watch", token=player.opened["watch"])
        assert "nobody plays" in guest.until("error")["message"]


def test_watching_is_no_right_to_the_session(tmp_path: Path) -> None:
    token = new_token()
    watch = watch_token(token)
    assert (watch, root_of(watch)) == (watch_token(token), root_of(token))
    assert [is_watch(t) for t in (watch, token, watch[:-1], watch + "0", "")] == [True, False, False, False, False]
    folder = tmp_path / "one" / "sessions"
    folder.mkdir(parents=True)
    (folder / journal_name(token)).touch()
    assert [locate(tmp_path, t) for t in (token, watch, watch_token("other"))] == ["one", "one", None]
    served = running({"car": tiny(CAR, "car")}, keep=tmp_path / "kept", truth=False)
    with served as url, Client(url) as player, Client(url) as guest:
        player.open("car")
        watch = player.opened["watch"]
        guest.send("reopen", token=watch)
        assert guest.until("error")["message"]
        assert httpx.get(f"{url}v1/sessions/{watch}").status_code in (404, 422)
        assert watching(guest, watch)[1]["frame"] == 0
        assert guest.opened["watch"] == watch  # they may pass it on


def test_who_watches_slowly_or_not_at_all_keeps_nobody_waiting() -> None:
    with running({"car": tiny(CAR, "car")}, truth=False) as url, Client(url) as player:
        mine, _ = player.open("car")
        with Client(url, ack=False) as slow:
            number, first = watching(slow, player.opened["watch"])
            ticks = player.play(mine, WALK)
            second = slow.until("tick")
            assert (first["frame"], second["frame"]) == (0, 1)  # a window of two, and nothing more
            with pytest.raises(TimeoutError):
                slow.read(0.3)
            slow.send("ack", session=number, epoch=0, frame=1)
            newest = slow.until("tick")
            assert (newest["frame"], pixels(newest)) == (len(WALK), pixels(ticks[-1]))
            slow.send("ack", session=number, epoch=5, frame=99)  # of nothing that is under way
            with pytest.raises(TimeoutError):
                slow.read(0.3)
        assert player.until("status", watched=0)


def test_pictures_come_in_the_codec_of_whoever_watches() -> None:
    with running({"pole": tiny(POLE, "pole")}) as url, Client(url) as player:
        mine, _ = player.open("pole")
        with Client(url, hello=False) as webp, Client(url) as jpeg:
            webp.send("hello", protocol=1, codecs=["webp"])
            webp.until("welcome")
            (one, _), (two, _) = (watching(client, player.opened["watch"]) for client in (webp, jpeg))
            (tick,) = player.play(mine, [LEFT])
            small, same = (c.until("tick", session=n)["parts"] for c, n in ((webp, one), (jpeg, two)))
            assert {header.session for header, _ in small} == {one}
            assert [data for _, data in same] == [data for _, data in tick["parts"]]
            kinds = [header.kind for header, _ in same]
            assert 1 in kinds
            assert [header.kind for header, _ in small] == [2 if kind in (0, 1) else kind for kind in kinds]


def test_watchers_are_limited() -> None:
    limits = replace(QUICK, watchers=1, panes=2)
    with running({"car": tiny(CAR, "car")}, limits, truth=False) as url, Client(url) as player:
        player.open("car")
        watch = player.opened["watch"]
        with Client(url) as one, Client(url) as two:
            watching(one, watch)
            two.send("watch", token=watch)
            assert "1 people watch" in two.until("error")["message"]
            one.open("car")
            one.send("watch", token=watch)
            assert "2 sessions" in one.until("error")["message"]
        player.until("status", watched=0)
        with Client(url) as again:  # the place is free
            watching(again, watch)
            assert count(url, "terrella_watchers") == 1


def test_what_a_program_steps_over_http_can_be_watched() -> None:
    with running({"car": tiny(CAR, "car")}, truth=False) as url, Client(url) as guest:
        base = f"{url}v1/sessions"
        session = httpx.post(base, json={"world": "car", "seed": 2}).json()
        number, _ = watching(guest, session["watch"])
        assert httpx.post(f"{base}/{session['id']}/step", json={"actions": [RIGHT, LEFT]}).status_code == 200
        assert [guest.until("tick", session=number)["frame"] for _ in range(2)] == [1, 2]
        assert httpx.delete(f"{base}/{session['id']}").status_code == 204
        guest.until("closed", session=number)


def test_a_path_with_a_line_break_is_answered_like_any_other() -> None:
    with running({"car": tiny(CAR, "car")}, truth=False) as url:
        for path in ("v1/sessions/a%0Ab", "v1/worlds/%0A", "no/such/page", "%0A"):
            answer = httpx.get(url + path)
            assert (answer.status_code, sorted(answer.json())) == (404, ["code", "message"]), path


def test_watchers_find_the_session_after_the_server_was_away(tmp_path: Path) -> None:
    with running({"car": tiny(CAR, "car")}, keep=tmp_path, truth=False) as url:
        player = Follower(url.replace("http", "ws") + "ws")
        opened = player.open("car", seed=3)
        token, watch = opened["token"], opened["watch"]
        player.send("step", n=5)
        while shown(player) != 5:
            pass
        player.close()
    with running({"car": tiny(CAR, "car")}, keep=tmp_path, truth=False) as url:
        address = url.replace("http", "ws") + "ws"
        guest = Follower(address, patience=5.0)
        with pytest.raises(ServingError, match="nobody plays"):
            guest.watch(watch)
        player = Follower(address)
        assert player.reopen(token)["watch"] == watch
        guest.watch(watch)
        assert shown(guest) == 5
        player.close()
        time.sleep(0.2)
        player.reopen(token)
        while guest.read()["type"] != "opened":  # awaited, and found
            pass
        assert guest.moves == 1
        assert shown(guest) == 5
        for client in (guest, player):
            client.close()


def test_watchers_go_where_the_session_is_and_do_not_move_it(tmp_path: Path) -> None:
    tiny(CAR, "car").save(tmp_path / "car")
    settings = {"truth": False, "limits": LIMITS}
    store = tmp_path / "store"
    replicas = [Replica(f"r{i}", {"car": str(tmp_path / "car")}, str(store), **settings) for i in (0, 1)]
    here = Here(replicas)
    gateway = Gateway(here, store)
    try:
        with door(gateway) as url:
            player, guest = Follower(url), Follower(url)
            opened = player.open("car", seed=2, truth=False)
            token, watch = opened["token"], opened["watch"]
            eventually(lambda: locate(store, token) is not None)  # a journal is written soon
            home = str(locate(store, token))
            here.full.add(home)
            gateway.refresh()
            assert gateway.place(watch) == gateway.berths[home].url
            guest.watch(watch)
            assert shown(guest) == 0
            assert locate(store, token) == home
            here.full.clear()
            gateway.drain(home)  # the session goes elsewhere, and they with it
            while player.read()["type"] != "opened":
                pass
            assert locate(store, token) != home
            while guest.read()["type"] != "opened":
                pass
            player.send("step")
            while shown(guest) != 1:
                pass
            for client in (guest, player):
                client.close()
    finally:
        for replica in replicas:
            replica.stop()


@pytest.mark.browser
def test_a_friend_watches_in_a_page(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    world = arena("MountainCar-v0", "car", pixels=True)
    first, second = (browser.new_page(viewport={"width": 1000, "height": 760}) for _ in range(2))
    with page_serving({"car": world}) as url:
        first.goto(url)
        first.wait_for_selector(".pane .hint.on")
        first.click("#share")  # no moment is kept here, but it can be watched
        first.wait_for_selector("#shared[open]")
        assert first.is_hidden("#moment")
        link = first.input_value("#watch")
        first.click("#shared button")
        second.goto(link)
        second.wait_for_selector(".pane[data-watching]")
        first.wait_for_function("() => document.querySelector('.watched').textContent === '1 watching'")
        for name in ("play", "step", "restart", "fork", "sync"):
            assert second.is_disabled(f"#{name}")
        assert second.locator("#controls button").count() == 0
        first.uncheck("#stop", force=True)
        first.click("#play")
        at_least(second, 10)
        second.screenshot(path=tmp_path / "watching.png")
        first.click("#play")
        until(first, "() => document.getElementById('play').dataset.running === 'false'")
        first.wait_for_timeout(300)
        until(second, "(n) => Number(document.getElementById('frame').textContent) === n", frame(first))
        shot = "() => { const c = document.querySelector('.view.world canvas'); return c.toDataURL(); }"
        assert first.evaluate(shot) == second.evaluate(shot)
        second.keyboard.press("ArrowLeft")  # is nobody's business
        second.locator("#time").fill("3")  # to look back is
        until(second, "() => document.querySelector('.badge').textContent === 'looking back'")
        assert frame(first) > 3
        second.reload()  # the link goes on meaning this
        second.wait_for_selector(".pane[data-watching]")
        first.close()
        second.wait_for_selector("#reconnecting")
        assert "nobody plays" in second.inner_text("#reconnecting")
    second.close()
