"""H.264: what is encoded can be decoded, nobody gets a delta without the frame before it, and encoders are let go."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_serving import PENDULUM, QUICK, Client, hosting, running, tiny

from terrella.errors import ServingError
from terrella.serving import Follower, create_app, video
from terrella.serving.connection import Connection
from terrella.serving.frames import choose_codecs, encode, list_codecs, parts
from terrella.serving.header import H264_DELTA, H264_KEY, JPEG, TRUE, VECTOR, WEBP, Header
from terrella.serving.moment import Shot
from terrella.serving.video import KEY_EVERY, Decoder, Studio, Video
from terrella.spec import ActionSpec, StreamSpec, WorldSpec

pytestmark = pytest.mark.skipif(not video.has_h264(), reason="PyAV has no libx264 here")
PICTURE = 255
STILL = [[0.0]]


def moving(height: int, width: int, frames: int) -> np.ndarray:
    """A soft background over which a disc moves, uint8 `(n, h, w, 3)`."""
    y, x = np.mgrid[:height, :width]
    ground = np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 30)], -1)
    found = np.empty((frames, height, width, 3), np.uint8)
    for i in range(frames):
        far = np.hypot(y - height / 2, x - 20 - 6 * i) - height / 5
        found[i] = ground + (np.array([220, 60, 40]) - ground) * np.clip(0.5 - far / 4, 0, 1)[..., None]
    return found


def psnr(seen: np.ndarray, true: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((seen.astype(np.float64) - true) ** 2)))


def header(kind: int, picture: np.ndarray) -> Header:
    return Header(kind, 1, width=picture.shape[1], height=picture.shape[0])


# --- encoder and decoder


@pytest.mark.parametrize("size", [(200, 320), (201, 320), (200, 321), (129, 131), (500, 500)])
def test_what_is_encoded_comes_back(size: tuple[int, int]) -> None:
    pictures, studio = moving(*size, 40), Studio(1)
    film, decoder, sizes = Video(studio), Decoder(), dict[int, list[int]]()
    for i, picture in enumerate(pictures):
        found = film.encode(0, picture, (0, i))
        assert found is not None
        kind, data = found
        assert kind == (H264_KEY if i % KEY_EVERY == 0 else H264_DELTA)
        assert data.startswith(b"\0\0\0\1")  # Annex B, which needs no description
        seen = decoder.decode(header(kind, picture), data)
        assert seen.shape == picture.shape
        assert psnr(seen, picture) > 36
        assert psnr(seen[-3:, -3:], picture[-3:, -3:]) > 30  # the corner, where an odd side was padded
        sizes.setdefault(kind, []).append(len(data))
    assert np.mean(sizes[H264_DELTA]) < 0.5 * np.mean(sizes[H264_KEY])
    assert np.mean(sizes[H264_DELTA]) < 0.5 * len(encode(pictures[-1])[1])
    assert studio.open == 1
    film.close()
    assert studio.open == 0


def test_a_key_frame_wherever_it_is_not_simply_the_next() -> None:
    pictures = moving(160, 160, 2)
    moments = [
        ((0, 0), {}, H264_KEY),
        ((0, 1), {}, H264_DELTA),
        ((0, 2), {}, H264_DELTA),
        ((0, 2), {}, H264_KEY),  # the same once more
        ((0, 4), {}, H264_KEY),  # one is left out
        ((0, 5), {}, H264_DELTA),
        ((1, 6), {}, H264_KEY),  # another epoch
        ((1, 7), {"replayed": True}, H264_KEY),
        ((1, 8), {}, H264_DELTA),
        ((1, 3), {}, H264_KEY),  # back
        ((1, 4), {}, H264_DELTA),
    ]
    film, decoder = Video(Studio(4)), Decoder()
    for i, (moment, how, wanted) in enumerate(moments):
        kind, data = film.encode(7, pictures[i % 2], moment, **how) or (None, b"")
        assert kind == wanted, moment
        if kind == H264_KEY:
            decoder = Decoder()  # whoever comes now needs nothing from before
        assert psnr(decoder.decode(header(kind, pictures[0]), data), pictures[i % 2]) > 36
    assert film.encode(8, pictures[0], (1, 5))[0] == H264_KEY  # another stream is another one's
    other = moving(160, 200, 1)[0]
    assert film.encode(7, other, (1, 5))[0] == H264_KEY  # another size
    assert film.encode(7, other, (1, 6))[0] == H264_DELTA
    film.close()
    assert film.encode(7, other, (1, 7))[0] == H264_KEY


def test_a_decoder_says_what_it_lacks() -> None:
    pictures, film = moving(160, 160, 2), Video(Studio(1))
    sent = [film.encode(0, picture, (0, i)) for i, picture in enumerate(pictures)]
    (key, first), (delta, second) = sent
    with pytest.raises(ServingError, match="begins with a key frame"):
        Decoder().decode(header(delta, pictures[0]), second)
    with pytest.raises(ServingError, match=r"is not H\.264"):
        Decoder().decode(header(JPEG, pictures[0]), first)
    decoder = Decoder()
    with pytest.raises(ServingError, match=r"no H\.264 picture"):
        decoder.decode(header(key, pictures[0]), b"\0\0\0\1nothing at all")
    with pytest.raises(ServingError, match="begins with a key frame"):  # what follows a spoilt one is spoilt
        decoder.decode(header(delta, pictures[0]), second)
    assert psnr(decoder.decode(header(key, pictures[0]), first), pictures[0]) > 36


def test_beyond_the_limit_and_after_a_failure_it_is_another_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, studio = moving(160, 160, 1)[0], Studio(2)
    films = [Video(studio) for _ in range(3)]
    assert [film.encode(0, picture, (0, 0)) is None for film in films] == [False, False, True]
    films[0].close()
    films[0].close()  # once more is no matter
    assert studio.open == 1
    assert films[2].encode(0, picture, (0, 1))[0] == H264_KEY  # there is room now
    assert films[1].encode(0, picture, (0, 1))[0] == H264_DELTA

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(video.Encoder, "encode", fail)
    assert films[1].encode(0, picture, (0, 2)) is None
    assert studio.open == 1
    monkeypatch.undo()
    assert films[1].encode(0, picture, (0, 3)) is None  # it is not tried again
    monkeypatch.setattr(video, "has_h264", lambda: False)
    assert Video(Studio(9)).encode(0, picture, (0, 0)) is None


def test_codecs_are_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_codecs() == ("jpeg", "webp", "h264")
    assert choose_codecs(["h264", "webp"]) == ("h264", "webp")
    assert choose_codecs(["h264"]) == choose_codecs(["av2", "h264"]) == ("h264", "jpeg")
    assert choose_codecs(["webp", "h264"]) == ("webp", "webp")
    assert choose_codecs([]) == choose_codecs(["av2"]) == ("jpeg", "jpeg")
    list_codecs.cache_clear()
    monkeypatch.setattr("terrella.serving.frames.has_h264", lambda: False)
    try:
        assert list_codecs() == ("jpeg", "webp")
        assert choose_codecs(["h264", "webp"]) == ("webp", "webp")
    finally:
        list_codecs.cache_clear()


# --- a server


@pytest.fixture(scope="module")
def world() -> Any:
    return tiny(PENDULUM, "pendulum")


@pytest.fixture(scope="module")
def address(world: Any) -> Iterator[str]:
    with running({"pendulum": world}) as url:
        yield url


class Viewer(Client):
    """A client that asks for codecs and decodes the rendered picture of its sessions; deltas must follow on."""

    def __init__(self, address: str, *codecs: str, **kwargs: Any) -> None:
        super().__init__(address, hello=False, **kwargs)
        self.decoders = dict[int, Decoder]()
        self.send("hello", protocol=1, codecs=list(codecs))
        self.welcome = self.until("welcome")

    def look(self, tick: dict[str, Any]) -> tuple[int, np.ndarray]:
        """Kind and pixels of a frame's picture."""
        head, data = next(part for part in tick["parts"] if part[0].stream == PICTURE)
        assert head.flags & TRUE
        if head.kind in (H264_KEY, H264_DELTA):
            return head.kind, self.decoders.setdefault(head.session, Decoder()).decode(head, data)
        return head.kind, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def kinds(viewer: Viewer, ticks: list[dict[str, Any]]) -> list[int]:
    return [viewer.look(tick)[0] for tick in ticks]


def encoders(app: Any) -> int:
    """How many are open."""
    return app.state.thread.call(lambda dispatcher: dispatcher.studio.open).result(10)


def test_two_clients_one_with_h264_and_one_without(address: str) -> None:
    with Viewer(address, "h264") as mine, Viewer(address) as plain, Viewer(address, "av2", "h264", "webp") as third:
        assert [v.welcome["codec"] for v in (mine, plain, third)] == ["h264", "jpeg", "h264"]
        assert mine.welcome["codecs"] == ["jpeg", "webp", "h264"]
        shown = []
        for viewer in (mine, plain, third):
            number, first = viewer.open("pendulum", seed=3)
            shown.append([viewer.look(tick) for tick in [first, *viewer.play(number, STILL * 6)]])
        moved, still, _ = shown
        assert [kind for kind, _ in moved] == [H264_KEY] + [H264_DELTA] * 6
        assert [kind for kind, _ in still] == [JPEG] * 7
        for (_, a), (_, b) in zip(moved, still):
            assert psnr(a, b) > 36
        assert len({pixels.tobytes() for _, pixels in moved}) == 7  # it moves
        for (_, a), (_, c) in zip(moved, shown[2]):
            assert np.array_equal(a, c)


def test_deltas_only_follow_the_frame_before(address: str) -> None:
    with Viewer(address, "h264") as viewer:
        number, first = viewer.open("pendulum", seed=3)
        ticks = viewer.play(number, STILL * 4)
        assert kinds(viewer, [first, *ticks]) == [H264_KEY] + [H264_DELTA] * 4
        before = viewer.look(viewer.play(number, STILL)[0])[1]
        for kind, fields in (("rewind", {"frame": 2}), ("reset", {}), ("sync", {}), ("reset", {"seed": 4})):
            viewer.send(kind, session=number, **fields)
            tick = viewer.until("tick", session=number)
            assert viewer.look(tick)[0] == H264_KEY, kind
            assert kinds(viewer, viewer.play(number, STILL * 2)) == [H264_DELTA] * 2
        viewer.send("fork", session=number)
        opened = viewer.until("opened", parent=number)
        assert viewer.look(viewer.until("tick", session=opened["session"]))[0] == H264_KEY
        assert kinds(viewer, viewer.play(number, STILL)) == [H264_DELTA]  # the parent goes on
        assert kinds(viewer, viewer.play(opened["session"], STILL)) == [H264_DELTA]
        viewer.send("step", session=number, n=3)
        assert kinds(viewer, [viewer.until("tick", session=number) for _ in range(3)]) == [H264_DELTA] * 3
        assert before.shape == (500, 500, 3)


def test_a_clock_that_runs_sends_deltas_in_order(address: str) -> None:
    with Viewer(address, "h264") as viewer:
        number, first = viewer.open("pendulum", seed=3, fps=30)
        viewer.act(number, STILL[0])
        viewer.send("set", session=number, stop_at_end=False)
        viewer.send("resume", session=number)
        ticks = [first]
        while len(ticks) < KEY_EVERY + 4:
            ticks.append(viewer.until("tick", session=number))
            time.sleep(0.02 * (len(ticks) % 3))  # a slow reader gets fewer frames, none of which is left out
    assert [tick["frame"] for tick in ticks] == list(range(len(ticks)))
    wanted = [H264_KEY if i % KEY_EVERY == 0 else H264_DELTA for i in range(len(ticks))]
    assert kinds(viewer, ticks) == wanted


def test_who_reconnects_or_takes_over_begins_with_a_key_frame(world: Any, tmp_path: Path) -> None:
    app = create_app({"pendulum": world}, limits=QUICK, keep=tmp_path)
    with hosting(app) as url:
        with Viewer(url, "h264") as viewer:
            number, first = viewer.open("pendulum", seed=3)
            token = viewer.opened["token"]
            assert kinds(viewer, [first, *viewer.play(number, STILL * 2)]) == [H264_KEY, H264_DELTA, H264_DELTA]
            with Viewer(url, "h264") as other:  # takes it over
                other.send("reopen", token=token)
                mine = other.until("opened")["session"]
                assert other.look(other.until("tick"))[0] == H264_KEY
                assert kinds(other, other.play(mine, STILL)) == [H264_DELTA]
                viewer.until("closed", session=number)
                viewer.send("reopen", token=token)  # and back, to the connection that had it
                number = viewer.until("opened")["session"]
                viewer.decoders.clear()
                assert viewer.look(viewer.until("tick"))[0] == H264_KEY
                viewer.send("reopen", token=token)  # from itself
                number = viewer.until("opened")["session"]
                viewer.decoders.clear()
                assert viewer.look(viewer.until("tick"))[0] == H264_KEY
                assert encoders(app) == 1  # who had it before has none left
                with Viewer(url) as plain:  # who has not asked for it
                    plain.send("reopen", token=token)
                    plain.until("opened")
                    assert plain.look(plain.until("tick"))[0] == JPEG
                    assert encoders(app) == 0
        follower = Follower(url.replace("http", "ws") + "ws", codecs=["h264"])
        follower.reopen(token)
        decoder, seen = Decoder(), []
        for lost in (False, True, False):
            if lost:
                follower._socket.close()
            else:
                follower.send("action", seq=len(seen) + 1, row=STILL[0])
                follower.send("step")
            while (body := follower.read())["type"] != "tick":
                pass
            head, data = next(part for part in body["parts"] if part[0].stream == PICTURE)
            seen.append(head.kind)
            assert decoder.decode(head, data).shape == (500, 500, 3)
        follower.close()
        assert seen[0] == H264_KEY
        assert follower.moves == 1


def test_after_an_overflow_nothing_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a client is dropped beyond a limit; a delta that came after the hole would be worth nothing."""

    async def put() -> list[bytes | str]:
        connection = Connection.__new__(Connection)
        connection._limits = replace(QUICK, outbox=4)
        connection._outbox, connection._wake, connection._overflow = deque[bytes | str](), asyncio.Event(), False
        connection._put([b"1", "a"])
        connection._put([b"2", b"3", "b"])  # too much
        connection._outbox.clear()  # sent, by now
        connection._put([b"4", "c"])
        return list(connection._outbox)

    assert asyncio.run(put()) == []


def test_encoders_end_with_their_sessions(world: Any) -> None:
    app = create_app({"pendulum": world}, limits=replace(QUICK, encoders=3))
    with hosting(app) as url:
        with Viewer(url, "h264") as viewer:
            first, _ = viewer.open("pendulum")
            assert encoders(app) == 1
            second, _ = viewer.open("pendulum")
            assert encoders(app) == 2
            viewer.send("close", session=first)
            viewer.until("closed", session=first)
            assert encoders(app) == 1
            viewer.open("pendulum")
            viewer.open("pendulum")
            _, tick = viewer.open("pendulum")
            assert encoders(app) == 3
            assert viewer.look(tick)[0] == JPEG  # no room for a fourth
            viewer.send("close", session=second)
            viewer.until("closed", session=second)
            (tick,) = viewer.play(tick["session"], STILL)
            assert viewer.look(tick)[0] == H264_KEY  # now there is
            assert encoders(app) == 3
        deadline = time.monotonic() + 10
        while encoders(app) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert encoders(app) == 0  # the connection has ended


def test_a_session_that_is_put_away_has_no_encoder(world: Any) -> None:
    app = create_app({"pendulum": world}, limits=replace(QUICK, resident_bytes=0))
    with hosting(app) as url, Viewer(url, "h264") as viewer:
        number, first = viewer.open("pendulum")
        assert viewer.look(first)[0] == H264_KEY
        deadline = time.monotonic() + 10
        while encoders(app):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert viewer.look(viewer.play(number, STILL)[0])[0] == H264_KEY


def test_a_session_that_fails_lets_its_encoder_go(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app({"pendulum": world}, limits=QUICK)
    with hosting(app) as url, Viewer(url, "h264") as viewer:
        number, _ = viewer.open("pendulum")
        monkeypatch.setattr("terrella.serving.session.Session.advance", lambda *_: 1 / 0)
        monkeypatch.setattr("terrella.serving.session.Session.begin", lambda *_: 1 / 0)
        viewer.send("reset", session=number)
        viewer.until("closed", session=number)
        assert encoders(app) == 0


def test_small_images_stay_exact() -> None:
    """Up to 128 pixels a side an image of a client with H.264 is what it would be without."""
    streams = {"small": StreamSpec("image", (128, 128, 3)), "large": StreamSpec("image", (129, 64, 3))}
    spec = WorldSpec(streams, ActionSpec("discrete", n=2))
    observation = {"small": moving(128, 128, 1)[0], "large": moving(129, 64, 1)[0]}
    how = {"session": 1, "epoch": 0, "seq": 0, "gen_us": 0, "flags": 0}
    film = Video(Studio(4))
    for codec in ("jpeg", "webp"):
        found = [Header.unpack(m) for m in parts(Shot(0, observation), spec, codec=codec, video=film, **how)]
        alone = [Header.unpack(m) for m in parts(Shot(0, observation), spec, codec=codec, **how)]
        assert found[0] == alone[0]
        assert (found[1][0].kind, found[1][0].width, found[1][0].height) == (H264_KEY, 64, 129)
        assert alone[1][0].kind == {"jpeg": JPEG, "webp": WEBP}[codec]
    assert VECTOR not in {head.kind for head, _ in found}
