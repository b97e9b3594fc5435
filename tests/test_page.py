"""The page in a real browser, against a real server with tiny random worlds."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terrella
from terrella import arenas
from terrella.arenas.sentences import find_sentences
from terrella.data.episode import Clips
from terrella.serving import create_app, create_server
from terrella.serving.header import H264_DELTA, H264_KEY, RAW, WEBP, Header
from terrella.serving.truth import Truth
from terrella.serving.video import KEY_EVERY, Decoder, has_h264
from terrella.training import TrainingConfig
from terrella.world import Part, World, WorldConfig

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP world.example 127.0.0.1",
]
PIXELS = """() => { const canvas = document.querySelector('.view.world canvas');
  return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]; }"""
TRUTH = "document.querySelector('.view.truth canvas').toDataURL()"
DECODES = """async () => isSecureContext && 'VideoDecoder' in window
  && (await VideoDecoder.isConfigSupported({ codec: 'avc1.42c028', optimizeForLatency: true })).supported"""
SHOWN = "[...document.querySelectorAll('.pane')].map(p => p.querySelector('.view.world canvas').toDataURL())"


def tiny(env: str, name: str, **kwargs: Any) -> World:
    """A small world with random weights and one recorded start from its environment."""
    made = arenas.make(env, **kwargs)
    spec = arenas.describe(made)
    torch.manual_seed(0)
    parts = {s: Part("conv", {"width": 16}) for s, kind in spec.modelled.items() if kind.kind == "image"}
    backbone = Part("transformer", {"dim": 32, "layers": 2, "heads": 2, "every": 2, "window": 6})
    world = World(spec, WorldConfig(backbone, Part("shortcut", {"steps": 1}), parts), name)
    with torch.no_grad():
        for parameter in world.dynamics.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    frames = {s: v for s, v in arenas.to_streams(made, made.reset(seed=0)[0]).items() if s in spec.modelled}
    row = np.asarray(spec.noop or next(iter(spec.keys.values())), np.float32)
    blank = np.zeros((1, 2), np.float32)
    starts = {s: np.repeat(np.asarray(v)[None, None], 3, 1) for s, v in frames.items()}
    world.starts = Clips(starts, np.broadcast_to(row, (1, 2, len(row))).copy(), blank, blank > 0)
    world.card = {"summary": "Random weights, for tests.", "known_failures": ["<b>Everything</b> is noise."]}
    made.close()
    return world.eval().requires_grad_(False)


@contextlib.contextmanager
def listening(server: Any) -> Iterator[int]:
    """Run a server in a thread; yields its port."""
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


@contextlib.contextmanager
def serving(worlds: dict[str, World], port: int = 0, **kwargs: Any) -> Iterator[str]:
    with listening(create_server(create_app(dict(worlds), **kwargs), port=port)) as bound:
        yield f"http://127.0.0.1:{bound}/"


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {
        "car": tiny("MountainCar-v0", "car", pixels=True),
        "pole": tiny("CartPole-v1", "pole", pixels=True),
        "pendulum": tiny("Pendulum-v1", "pendulum"),
    }


@pytest.fixture(scope="module")
def address(worlds: dict[str, World]) -> Iterator[str]:
    with serving(worlds) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright (extra 'dev')")
    if CHROMIUM is None:
        pytest.skip("the page's tests need a browser: no chromium on the PATH")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, open on the first world; fails the test for any error in the console or request elsewhere."""
    with opened(browser, address) as page:
        page.wait_for_selector(".pane .hint.on")
        page.uncheck("#stop", force=True)  # random weights predict an end now and then
        page.focus("#stage")
        yield page


@contextlib.contextmanager
def opened(browser: Any, address: str, width: int = 1280, height: int = 800) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else wrong.append(r.url))
    page.goto(address)
    yield page
    page.close()
    assert wrong == []


def frame(page: Any) -> int:
    return int(page.text_content("#frame"))


def until(page: Any, condition: str, argument: Any = None) -> None:
    page.wait_for_function(condition, arg=argument)


def at_least(page: Any, count: int) -> None:
    until(page, "n => Number(document.getElementById('frame').textContent) >= n", count)


def test_a_key_starts_the_world_and_frames_change(page: Any, tmp_path: Path) -> None:
    assert page.title() == "Terrella"
    assert frame(page) == 0
    before = page.evaluate(SHOWN)
    size = page.locator(".view.world canvas").bounding_box()
    page.keyboard.down("ArrowRight")
    at_least(page, 8)
    assert page.locator("[data-codes='ArrowRight'][data-down]").count() == 1
    page.keyboard.up("ArrowRight")
    assert page.evaluate(SHOWN) != before
    until(page, "() => Number(document.getElementById('latency').textContent) > 0")
    until(page, "() => Number(document.getElementById('fps').textContent) > 1")
    assert page.locator(".view.world canvas").bounding_box() == size  # nothing jumps
    assert size["width"] >= 400
    page.keyboard.press("p")
    until(page, "() => document.getElementById('play').dataset.running === 'false'")
    page.screenshot(path=tmp_path / "playing.png")
    assert (tmp_path / "playing.png").stat().st_size > 10_000


def test_pause_step_and_look_back(page: Any, tmp_path: Path) -> None:
    page.keyboard.press("p")
    at_least(page, 6)
    page.click("#play")
    until(page, "() => document.getElementById('play').dataset.running === 'false'")
    page.wait_for_timeout(200)
    now = frame(page)
    seen = {now: page.evaluate(SHOWN)[0]}
    for i in range(1, 4):
        page.keyboard.press("Period")
        at_least(page, now + i)
        page.wait_for_timeout(50)
        seen[now + i] = page.evaluate(SHOWN)[0]
    assert len(set(seen.values())) == 4
    page.keyboard.down("Backspace")
    until(page, "n => Number(document.getElementById('frame').textContent) < n", now)
    page.keyboard.up("Backspace")
    assert page.text_content(".badge") == "looking back"
    page.screenshot(path=tmp_path / "back.png")
    page.focus("#time")
    while frame(page) < now:
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(50)
    assert frame(page) == now
    assert page.evaluate(SHOWN)[0] == seen[now]
    page.focus("#stage")
    for i in range(1, 4):  # the server goes back and computes them again
        page.keyboard.press("Period")
        until(page, "n => document.getElementById('last').textContent === String(n)", now + i)
        page.wait_for_timeout(80)
        assert page.evaluate(SHOWN)[0] == seen[now + i]


def test_fork_drive_one_and_all(page: Any, tmp_path: Path) -> None:
    page.keyboard.down("ArrowLeft")
    at_least(page, 4)
    page.keyboard.up("ArrowLeft")
    page.keyboard.press("f")
    until(page, "() => document.querySelectorAll('.pane').length === 2")
    until(page, "() => document.querySelectorAll('.pane .hint.on').length === 2")
    a, b = page.evaluate(SHOWN)
    assert a == b
    page.keyboard.press("Period")  # both, with the same action
    page.wait_for_timeout(400)
    a, b = page.evaluate(SHOWN)
    assert a == b
    page.check("#drive input[value=one]", force=True)
    page.keyboard.press("2")
    assert page.locator(".pane[data-focus] .number").text_content() == "2"
    page.keyboard.down("ArrowRight")
    page.keyboard.press("Period")
    page.wait_for_timeout(400)
    page.keyboard.up("ArrowRight")
    other, mine = page.evaluate(SHOWN)
    assert other == a
    assert mine != b
    page.screenshot(path=tmp_path / "fork.png")
    page.click(".pane:nth-of-type(1) .icon.small")
    until(page, "() => document.querySelectorAll('.pane').length === 1")


def test_seed_restart_and_matching_the_truth(page: Any) -> None:
    first = page.evaluate(SHOWN)[0]
    page.keyboard.press("Period")
    at_least(page, 1)
    truth = "document.querySelector('.view.truth canvas').toDataURL()"
    assert page.evaluate(SHOWN)[0] != page.evaluate(truth)
    page.click("#sync")
    until(page, f"() => {SHOWN}[0] === {truth}")
    page.keyboard.press("r")
    until(page, "() => document.getElementById('last').textContent === '0'")
    assert page.evaluate(SHOWN)[0] == first
    page.fill("#seed", "5")
    page.press("#seed", "Enter")
    until(page, f"first => {SHOWN}.length === 1 && {SHOWN}[0] !== first", first)
    assert "seed=5" in page.url


def test_buttons_instead_of_keys(page: Any) -> None:
    page.hover("[data-codes=ArrowLeft]")
    page.mouse.down()
    at_least(page, 3)
    assert page.locator("[data-codes=ArrowLeft][data-down]").count() == 1
    page.mouse.up()
    assert page.locator("[data-down]").count() == 0
    page.focus("[data-codes=ArrowRight]")
    page.keyboard.down("Enter")
    assert page.locator("[data-codes=ArrowRight][data-down]").count() == 1
    page.keyboard.up("Enter")
    assert page.locator("[data-down]").count() == 0


def test_a_world_that_waits_takes_one_step_a_tap(page: Any) -> None:
    page.select_option("#world", "pole")
    until(page, "() => document.getElementById('turns').checked")
    page.uncheck("#stop", force=True)
    page.focus("#stage")
    for count in (1, 2, 3):
        page.keyboard.press("ArrowLeft")
        until(page, "n => document.getElementById('frame').textContent === String(n)", count)
        page.wait_for_timeout(150)
        assert frame(page) == count


def test_vectors_are_plotted_and_sliders_act(page: Any, tmp_path: Path) -> None:
    page.select_option("#world", "pendulum")
    page.wait_for_selector(".view.plot canvas")
    page.wait_for_selector(".view.truth canvas")  # the environment's picture
    page.uncheck("#stop", force=True)
    slider = page.locator(".dial input")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    at_least(page, 10)
    painted = page.evaluate(
        """() => { const c = document.querySelector('.view.plot canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
        for (let i = 0; i < d.length; i += 4) if (d[i] > 200 && d[i + 2] < 120 && d[i + 3]) n++; return n; }"""
    )
    assert painted > 100
    page.screenshot(path=tmp_path / "plot.png")


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world that remembers by a map, trained for a moment."""
    pytest.importorskip("sklearn", reason="sprites need scikit-learn (extra 'arenas')")
    path = tmp_path_factory.mktemp("sprites") / "data"
    data = terrella.record("terrella/SpritesMicro-v0", path, episodes=4, max_episode_steps=16, policy="cover")
    parts = {"pixels": Part("patches", {"size": 1})}
    config = WorldConfig(Part("flow", {"features": 8, "width": 16}), Part("regression"), parts)
    recipe = TrainingConfig(batch=2, length=8)
    return terrella.train(data, budget="10steps", config=config, training=recipe, progress=False)


def test_memory_is_shown_where_it_is_a_map(
    browser: Any, sprites: World, worlds: dict[str, World], tmp_path: Path
) -> None:
    drawn = "document.querySelector('.view.memory canvas').toDataURL()"
    boxes = "[...document.querySelector('.view.memory').children].slice(0, 3).map(n => n.getBoundingClientRect())"
    with serving({"sprites": sprites, "car": worlds["car"]}) as url, opened(browser, url) as page:
        page.wait_for_selector(".pane .hint.on")
        canvas = page.locator(".view.memory canvas.crisp")
        assert canvas.is_visible()
        assert canvas.evaluate("c => [c.width, c.height]") == [16, 16]
        assert page.text_content(".view.memory figcaption") == "Memory"
        assert page.get_attribute(".view.memory polygon", "points") == "4,4 12,4 12,12 4,12"
        map_box, _, line_box = page.evaluate(boxes)
        assert line_box == map_box
        left, world_box = map_box["left"], page.locator(".view.world").bounding_box()
        assert 0 <= left - world_box["x"] - world_box["width"] < 30  # next to the world, before the truth
        seen = [page.evaluate(drawn)]
        page.focus("#stage")
        page.uncheck("#stop", force=True)
        page.keyboard.down("ArrowRight")
        at_least(page, 4)
        page.keyboard.up("ArrowRight")
        page.keyboard.press("p")
        until(page, "() => document.getElementById('play').dataset.running === 'false'")
        for _ in range(3):  # each frame, and each way, has a map of its own
            now = frame(page)
            page.keyboard.down("ArrowDown")
            page.keyboard.press("Period")
            at_least(page, now + 1)
            page.keyboard.up("ArrowDown")
            page.wait_for_timeout(80)
            seen.append(page.evaluate(drawn))
        assert len(set(seen)) == len(seen)
        page.screenshot(path=tmp_path / "memory.png")
        page.focus("#time")
        page.keyboard.press("ArrowLeft")
        until(page, f"old => {drawn} === old", seen[-2])  # looking back shows what was remembered then
        page.select_option("#world", "car")
        until(page, "() => document.getElementById('last').textContent === '0'")
        page.wait_for_selector(".pane .hint.on")
        assert page.locator(".view").count() == 2
        assert page.locator(".view.memory").count() == 0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose actions are sentences, trained for a moment."""
    pytest.importorskip("minigrid", reason="sentences need minigrid (extra 'arenas')")
    path = tmp_path_factory.mktemp("told") / "data"
    how: dict[str, Any] = {"episodes": 4, "max_episode_steps": 24, "policy": "speak", "num_envs": 1}
    data = terrella.record("terrella/SentencesGrid-v0", path, **how)
    world = terrella.train(data, budget="20steps", preset="debug", name="told", device="cpu", progress=False)
    torch.manual_seed(0)
    for parameter in world.dynamics.parameters():  # so few steps teach it nothing: what is said must show
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return world


def say(page: Any, sentence: str, steps: int = 2) -> None:
    """Type a sentence into a world that is paused, and take some steps under it."""
    page.fill("[aria-label='Action in words']", sentence)
    page.press("[aria-label='Action in words']", "Enter")
    page.focus("#stage")
    for _ in range(steps):
        now = frame(page)
        page.keyboard.press("Period")
        at_least(page, now + 1)
    page.wait_for_timeout(80)


def test_a_typed_sentence_changes_the_world(browser: Any, told: World, tmp_path: Path) -> None:
    in_force = "[...document.querySelectorAll('.pane .said')].map(p => p.hidden ? null : p.textContent)"
    with serving({"told": told}) as url, opened(browser, url) as page:
        page.wait_for_selector(".pane .hint.on")
        page.uncheck("#stop", force=True)
        page.focus("#stage")
        assert page.evaluate(in_force) == [None]  # nobody has said anything yet
        page.keyboard.press("f")
        until(page, "() => document.querySelectorAll('.pane').length === 2")
        page.keyboard.press("Period")
        at_least(page, 1)
        say(page, "turn left")  # both
        a, b = page.evaluate(SHOWN)
        assert a == b
        assert page.evaluate(in_force) == ["turn left"] * 2
        page.check("#drive input[value=one]", force=True)
        page.focus("#stage")
        for number, sentence in ((1, "turn around"), (2, "go forward four steps")):  # each its own, from one moment
            page.keyboard.press(str(number))
            say(page, sentence)
        assert page.evaluate("[...document.querySelectorAll('.pane .views')].length") == 2
        assert page.evaluate(in_force) == ["turn around", "go forward four steps"]
        one, other = page.evaluate(SHOWN)
        assert one != other
        page.screenshot(path=tmp_path / "said.png")
        page.keyboard.press("1")  # a sentence holds where it was said, whoever is driven meanwhile
        assert page.input_value("[aria-label='Action in words']") == "turn around"
        page.keyboard.press("Period")
        at_least(page, 6)
        page.wait_for_timeout(80)
        assert page.evaluate(in_force) == ["turn around", "go forward four steps"]
        page.keyboard.press("2")
        page.keyboard.down("Backspace")  # looking back shows what was said then
        until(page, f"() => {in_force}[1] === 'turn left'")
        page.keyboard.up("Backspace")


def test_sentences_are_suggested_and_shown_as_text(browser: Any, told: World, tmp_path: Path) -> None:
    offered = "[...document.querySelectorAll('.hints button')].map(b => b.textContent)"
    grammar = find_sentences(arenas.make(told.spec.env)).grammar
    assert len(told.sentences) > 4
    assert set(told.sentences) <= set(grammar.asked)
    with serving({"told": told}) as url, opened(browser, url) as page:
        page.wait_for_selector(".hints button")
        page.uncheck("#stop", force=True)
        possible = page.evaluate(offered)
        assert set(possible) <= set(grammar.asked)
        assert {grammar.understand(s)[0] for s in possible} >= {"turn", "wait"}  # type: ignore[index]
        page.keyboard.press("Period")
        at_least(page, 1)
        page.click(".hints button:nth-of-type(2)")
        page.keyboard.press("Period")
        at_least(page, 2)
        until(page, "said => document.querySelector('.said').textContent === said", possible[1])
        assert page.locator(".said").is_visible()
        assert page.input_value("[aria-label='Action in words']") == possible[1]
        say(page, "<b>jump</b>", 1)
        assert page.text_content(".said") == "<b>jump</b>"
        assert page.locator(".said *").count() == 0
        page.screenshot(path=tmp_path / "suggested.png")
        page.keyboard.press("f")  # a branch hears what holds, and waits
        until(page, "() => document.querySelectorAll('.pane .hint.on').length === 2")
        page.wait_for_timeout(200)
        assert page.locator(".pane[data-running]").count() == 0
        page.press("[aria-label='Action in words']", "Enter")  # the same once more, and both go on
        until(page, "() => document.querySelectorAll('.pane[data-running]').length === 2")
        page.click("#play")
        page.uncheck("#truth", force=True)  # begins again without it
        until(page, f"said => JSON.stringify({offered}) === JSON.stringify(said)", list(told.sentences))


def test_a_page_from_elsewhere_shows_webp_to_the_pixel(browser: Any, worlds: dict[str, World]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said, heard = [], []

    def listen(ws: Any) -> None:
        ws.on("framesent", lambda message: said.append(message))
        ws.on("framereceived", lambda message: heard.append(message))

    public = f"http://world.example:{port}"
    with serving(worlds, port, public=public) as here:
        for address in (public, here):
            page = browser.new_page()
            page.set_default_timeout(30_000)
            page.on("websocket", listen)
            page.goto(address)
            deadline = time.monotonic() + 30
            while not any('"ack"' in message for message in said) and time.monotonic() < deadline:
                page.wait_for_timeout(20)  # the page says which frame it has drawn
            drawn = page.evaluate(PIXELS)
            header, data = next(Header.unpack(message) for message in heard if isinstance(message, bytes))
            elsewhere = address == public
            assert json.loads(said[0])["codecs"] == (["webp"] if elsewhere else [])
            assert header.kind == (WEBP if elsewhere else RAW)
            size = (header.width, header.height)
            shown = Image.open(io.BytesIO(data)).convert("RGB") if elsewhere else Image.frombytes("RGB", size, data)
            assert bytes(drawn) == shown.convert("RGBA").tobytes()
            page.close()
            said.clear()
            heard.clear()


class Elsewhere:
    """A page that counts as another machine's, where there is `VideoDecoder`: what was said, and its pictures."""

    def __init__(self, page: Any, public: str) -> None:
        self.page, self.said, self.kinds = page, list[dict[str, Any]](), list[int]()
        self.pictures, self._decoder, self._part = dict[int, np.ndarray](), Decoder(), (Header(0, 0), b"")
        page.set_default_timeout(30_000)
        page.on("websocket", self._listen)
        page.goto(public)
        if not page.evaluate(DECODES):
            pytest.skip("this browser does not decode H.264")
        page.wait_for_selector(".view.truth canvas")
        page.uncheck("#stop", force=True)

    def _listen(self, ws: Any) -> None:
        ws.on("framesent", lambda message: self.said.append(json.loads(message)))
        ws.on("framereceived", self._hear)

    def _hear(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            part = Header.unpack(message)
            self._part = part if part[0].stream == 255 else self._part
        elif json.loads(message)["type"] == "tick":
            header, data = self._part
            self.kinds.append(header.kind)
            self.pictures[header.frame] = self._decoder.decode(header, data)

    def drawn(self, frame: int) -> str:
        """What the canvas shows once the page has said that it has drawn this frame."""
        deadline = time.monotonic() + 30
        while not any(s["type"] == "ack" and s["frame"] == frame for s in self.said) and time.monotonic() < deadline:
            self.page.wait_for_timeout(10)
        return self.page.evaluate(TRUTH)

    def right(self, frame: int, shown: str) -> bool:
        """Whether that is this frame, in its colours: with another matrix, they are 1.7 off."""
        data, wanted = base64.b64decode(shown.split(",")[1]), self.pictures[frame]
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
        coloured = np.ptp(wanted.astype(int), axis=-1) > 60
        off = np.abs(pixels - wanted)
        return coloured.sum() > 1000 and off.mean() < 0.2 and off[coloured].mean() < 1.3


@pytest.fixture
def elsewhere(browser: Any, worlds: dict[str, World], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A new page, and an address for it. The rendered picture has odd sides, which are coded as even ones."""
    if not has_h264():
        pytest.skip("PyAV has no libx264 here")
    whole = Truth._picture
    monkeypatch.setattr(Truth, "_picture", lambda truth: whole(truth)[:497, :489])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = f"http://world.localhost:{port}"  # a name that is this machine's by its kind, so no https is needed
    with serving({"pendulum": worlds["pendulum"]}, port, public=public):
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        yield page, public
        page.close()
        assert wrong == []


def test_a_page_from_elsewhere_shows_h264_as_it_comes_and_looked_back_at(elsewhere: Any, tmp_path: Path) -> None:
    view = Elsewhere(*elsewhere)
    page, seen = view.page, list[str]()
    assert view.said[0]["codecs"] == ["h264", "webp"]
    for at in range(40):
        seen.append(view.drawn(at))
        assert view.pictures[at].shape == (497, 489, 3)
        assert view.right(at, seen[at]), at
        page.keyboard.press("Period")
    view.drawn(40)
    assert view.kinds == [H264_DELTA if at % KEY_EVERY else H264_KEY for at in range(41)]
    assert len(set(seen)) == 40  # it moves
    page.focus("#time")
    for at in [*range(39, 25, -1), *range(27, 36)]:  # backwards over a key frame, and on again
        page.keyboard.press("ArrowLeft" if frame(page) > at else "ArrowRight")
        until(page, f"shown => {TRUTH} === shown", seen[at])
        assert frame(page) == at
    page.focus("#stage")
    page.keyboard.press("f")  # another pane, which begins with what this one has shown
    until(page, "() => document.querySelectorAll('.pane').length === 2")
    page.screenshot(path=tmp_path / "h264.png")


def test_a_decoder_that_fails_or_holds_pictures_back_is_helped(elsewhere: Any) -> None:
    page, public = elsewhere
    page.add_init_script(
        """let chunks = 0;
        window.VideoDecoder = class extends VideoDecoder {
          constructor({ output, error }) {
            const held = [];
            super({ output: (frame) => (chunks > 9 ? held.push(frame) : output(frame)), error });
            Object.assign(this, { held, output, error });
          }
          decode(chunk) {
            if (++chunks === 5) { this.close(); this.error(new Error("spoilt")); } else super.decode(chunk);
          }
          async flush() {
            await super.flush();
            this.held.splice(0).forEach((frame) => this.output(frame));
          }
        };"""
    )
    view = Elsewhere(page, public)
    good = []
    for at in range(9):
        good.append(view.right(at, view.drawn(at)))
        page.keyboard.press("Period")
    assert good == [True] * 4 + [False] + [True] * 4  # the fifth was spoilt; later ones were held


def test_card_and_help_show_text_only(page: Any) -> None:
    assert page.text_content(".failures li") == "<b>Everything</b> is noise."
    page.keyboard.press("?")
    assert page.locator("#help[open]").count() == 1
    assert "left" in page.text_content("#help-world")
    page.keyboard.press("Escape")
    assert page.locator("#help[open]").count() == 0


def test_every_control_has_a_name(page: Any) -> None:
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select')]
        .filter(n => n.checkVisibility() && !n.getAttribute('aria-label') && !n.textContent.trim())
        .filter(n => !n.labels?.[0]?.textContent.trim()).map(n => n.outerHTML)"""
    )
    assert unnamed == []


def test_a_phone(browser: Any, address: str, tmp_path: Path) -> None:
    with opened(browser, address, 390, 844) as page:
        page.wait_for_selector(".pane .hint.on")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        left = page.locator("[data-codes=ArrowLeft]").bounding_box()
        assert left["height"] >= 44
        assert left["y"] + left["height"] < 844  # play without scrolling
        page.screenshot(path=tmp_path / "phone.png", full_page=True)


def test_token_and_a_server_that_goes_away(browser: Any, worlds: dict[str, World]) -> None:
    token = "t" * 24
    page = browser.new_page()
    with serving({"car": worlds["car"]}, token=token) as url:
        page.goto(url)
        page.wait_for_selector("#ask-token[open]")
        page.fill("#token", token)
        page.click("#token-form button")
        page.wait_for_selector(".pane")
        assert token not in page.url
    page.wait_for_selector("#reconnecting")
    assert page.get_attribute("#lamp", "aria-label") == "Reconnecting"
    assert page.locator("dialog[open]").count() == 0
    with serving({"car": worlds["car"]}, int(url.rstrip("/").rsplit(":", 1)[1]), token=token):
        page.wait_for_selector(".pane .hint.on")  # begins again, since nothing was kept
    page.close()


def test_sessions_go_on_with_a_new_server_and_show_their_company(
    browser: Any, worlds: dict[str, World], tmp_path: Path
) -> None:
    page, car = browser.new_page(), {"car": worlds["car"]}
    page.set_default_timeout(20_000)
    with serving(car, truth=False, keep=tmp_path, batch=2, admit=False) as url:
        page.goto(url)
        page.wait_for_selector(".pane .hint.on")
        page.uncheck("#stop", force=True)
        page.click("#fork")
        until(page, "() => document.querySelectorAll('.pane').length === 2")
        page.click("#play")
        at_least(page, 5)
        until(page, "() => document.getElementById('together').textContent === '2 of 2'")
        assert page.locator("#late").is_visible()
        page.click("#play")
        page.wait_for_timeout(500)
        at = frame(page)
    page.wait_for_selector("#reconnecting")
    with serving(car, int(url.rstrip("/").rsplit(":", 1)[1]), truth=False, keep=tmp_path, batch=2, admit=False):
        until(page, "() => document.querySelectorAll('.pane').length === 2")
        at_least(page, at)
        assert frame(page) == at
        page.click("#step")
        at_least(page, at + 1)
    page.close()
