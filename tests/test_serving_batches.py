"""Sessions stepped together: slots that stay, curves, who goes along with whom, and frames equal to those alone."""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_serving import CAR, LEFT, PENDULUM, QUICK, RIGHT, WALK, Client, broken, pixels, running, same, tiny

from terrella.engine import Engine, State
from terrella.errors import ConfigError, ServingError, WorldError
from terrella.serving import create_app
from terrella.serving.admission import cover, fits, refusal
from terrella.serving.catalogue import Served
from terrella.serving.curve import BatchCurve
from terrella.serving.dispatch import Dispatcher
from terrella.serving.limits import Limits
from terrella.serving.player import Player
from terrella.serving.protocol import Action
from terrella.serving.scheduler import choose
from terrella.serving.session import Session, advance_together
from terrella.serving.slots import Slots
from terrella.serving.visitor import Client as Seat

SEEN = 3  # frames a start of these worlds has seen
GREY, NUMBER = 2, 1e-4  # how far rounding may carry eight frames of these worlds: grey levels, vectors


def sessions(served: Served, count: int, limits: Limits = QUICK) -> list[Session]:
    return [Session(served, seed=seed, truth=None, limits=limits) for seed in range(count)]


def alike(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(
        np.abs(a[k].astype(float) - b[k].astype(float)).max() <= (GREY if a[k].dtype == np.uint8 else NUMBER) for k in a
    )


# --- slots


def test_slots_that_step_together_stay_where_they_are() -> None:
    served = Served("tiny", tiny(PENDULUM))
    slots = served.slots
    seats = [line._slot for line in sessions(served, 4)]
    slots.step(seats, np.zeros((4, 1), np.float32))
    batch = seats[0].batch
    assert batch is not None
    ring = batch.state.slabs.segments[0].tensors
    places = {name: tensor.data_ptr() for name, tensor in ring.items()}
    slots.step(seats[::-1], np.zeros((4, 1), np.float32))
    assert all(seat.batch is batch for seat in seats)
    assert {name: t.data_ptr() for name, t in batch.state.slabs.segments[0].tensors.items()} == places
    slots.step(seats[1:3], np.zeros((2, 1), np.float32))  # two go on without the others
    assert [int(slots.read(seat).time[0]) for seat in seats] == [SEEN + 2, SEEN + 3, SEEN + 3, SEEN + 2]
    assert seats[0].batch is seats[3].batch is not seats[1].batch
    slots.free(seats[3])
    with pytest.raises(ServingError, match="gone"):
        slots.read(seats[3])
    slots.step(seats[:3], np.zeros((3, 1), np.float32))  # and come together again
    assert seats[0].batch is seats[1].batch is seats[2].batch
    assert slots.nbytes(seats[0]) == slots.read(seats[0]).nbytes


def test_every_session_gets_its_own_action() -> None:
    served = Served("tiny", tiny(PENDULUM))
    together, alone = sessions(served, 5), sessions(served, 5)
    rng = np.random.default_rng(0)
    for order in (range(5), (3, 1, 4, 0, 2), (0, 2), (4, 2, 3), range(5)):
        rows = [rng.uniform(-2, 2, 1) for _ in order]
        shots = advance_together([together[i] for i in order], rows)
        for i, row, shot in zip(order, rows, shots):
            assert alike(shot.observation, alone[i].advance(row).observation)
            assert shot.frame == alone[i].shot.frame


# --- exact


@pytest.mark.parametrize("spec", [CAR, PENDULUM], ids=["pixels", "vector"])
def test_an_exact_engine_gives_every_session_the_bits_it_has_alone(spec: Any) -> None:
    served = Served("tiny", tiny(spec), settings={"exact": 4})
    together, alone = sessions(served, 4), sessions(served, 4)
    rows = [np.asarray(r) for r in (list(spec.keys.values()) * 9)[:14]]
    for turn, row in enumerate(rows):  # late joiners, leavers, a pause
        who = [i for i in range(4) if turn >= i and not (i == 1 and 6 <= turn < 10) and not (i == 2 and turn > 12)]
        advance_together([together[i] for i in who], [row] * len(who))
        for i in who:
            assert same(alone[i].advance(row).observation, together[i].shot.observation)
    for line in together:  # and a rewind, which steps alone, comes back to the same bits
        last = line.shot
        line.rewind(last.frame - 3)
        for row in [row for row, _ in alone[together.index(line)]._log[-3:]]:
            line.advance(row)
        assert same(line.shot.observation, last.observation)


def test_outside_exact_mode_frames_agree_within_rounding() -> None:
    served = Served("tiny", tiny(CAR))
    together, alone = sessions(served, 3), sessions(served, 3)
    for row in WALK[:8]:
        advance_together(together, [np.asarray(row)] * 3)
        for a, b in zip(together, alone):
            assert alike(a.shot.observation, b.advance(np.asarray(row)).observation)


def test_an_exact_engine_takes_no_larger_batch() -> None:
    served = Served("tiny", tiny(PENDULUM), settings={"exact": 2})
    with pytest.raises(ConfigError, match="do not fit"):
        advance_together(sessions(served, 3), [np.zeros(1)] * 3)
    with pytest.raises(ServingError, match="batch is 0"):
        create_app(tiny(PENDULUM), batch=0)


# --- what a batch costs


def measured(a: float, b: float, sizes: tuple[int, ...] = (1, 2, 4, 8), noise: float = 0.0) -> BatchCurve:
    curve, rng = BatchCurve(), np.random.default_rng(0)
    for _ in range(30):
        for size in sizes:
            curve.note(size, (a + b * size) * (1 + noise * rng.standard_exponential()))
    return curve


def test_the_curve_finds_the_line() -> None:
    curve = measured(4e-3, 0.5e-3)
    assert (curve.a, curve.b) == (pytest.approx(4e-3), pytest.approx(0.5e-3))
    assert curve.p95(16) == pytest.approx(12e-3)
    curve = measured(4e-3, 0.5e-3, noise=0.2)
    assert curve.spread > 1.2
    assert curve.a == pytest.approx(4e-3, rel=0.4)
    before = curve.mean(8)
    curve.note(8, 10.0)  # one hiccup
    assert curve.mean(8) == pytest.approx(before, rel=0.1)


def test_a_single_size_promises_no_gain() -> None:
    curve = measured(4e-3, 0.5e-3, sizes=(4,))
    assert curve.a == 0
    assert curve.mean(8) == pytest.approx(2 * curve.mean(4))
    assert BatchCurve().p95(8) == 0
    falling = BatchCurve()
    for _ in range(10):
        falling.note(1, 5e-3)
        falling.note(2, 4e-3)
    assert falling.b == 0


# --- who goes along


def player(served: Served, fps: float = 10.0, deadline: float = 0.0, **kwargs: Any) -> Player:
    line = Session(served, seed=0, truth=None, limits=QUICK)
    return Player(1, line, QUICK, fps, running=True, deadline=deadline, **kwargs)


def chosen(players: list[Player], now: float, most: int = 8) -> list[int]:
    return [players.index(p) for _, p in choose([(None, p) for p in players if p.due(now)], now, most)]


def test_a_batch_grows_only_while_it_is_in_time() -> None:
    served = Served("tiny", tiny(CAR))
    players = [player(served, deadline=i * 1e-3) for i in range(6)]
    assert chosen(players, 0.01) == [0]  # nothing was measured: begin small
    served.curves[None] = measured(10e-3, 10e-3, sizes=(1, 2, 3))
    assert chosen(players, 0.01) == [0, 1, 2, 3, 4, 5]
    assert chosen(players, 0.01, most=4) == [0, 1, 2, 3]
    assert chosen(players, 0.049) == [0, 1, 2, 3]  # the first must be there at 0.1
    assert chosen(players, 0.095) == [0, 1, 2, 3, 4, 5]  # late in any case: all at once
    assert chosen(players, 0.002) == [0, 1, 2]  # the others are not due
    players[3].fps = 50.0  # must be there first
    assert chosen(players, 0.01)[0] == 3
    served.curves[None] = measured(10e-3, 10e-3, sizes=(1,))
    assert len(chosen(players, 0.01)) == 2  # twice the largest that was seen


def test_another_world_is_waited_for() -> None:
    mine, other = Served("mine", tiny(CAR)), Served("other", tiny(CAR, seed=1))
    mine.curves[None], other.curves[None] = measured(10e-3, 10e-3), measured(20e-3, 10e-3)
    players = [*(player(mine) for _ in range(8)), player(other, fps=9.0)]
    assert len(chosen(players[:-1], 0.005)) == 8
    assert len(chosen(players, 0.005)) == 6  # 70 ms fit before the other world's 30 ms must begin, at 81 ms


def test_equal_speeds_fall_into_step() -> None:
    served = Served("tiny", tiny(CAR))
    one, two, half = (player(served, fps, start, in_phase=True) for fps, start in ((20, 3.0), (20, 3.021), (10, 3.05)))
    times: list[list[float]] = [[], [], []]
    for ms in range(3000, 4000):
        now = ms / 1e3
        for hand, seen in zip((one, two, half), times):
            if hand.due(now):
                hand.schedule(now)
                seen.append(now)
    assert times[0][1:] == times[1][1:] == pytest.approx(list(np.arange(3.05, 3.99, 0.05)), abs=2e-3)
    assert set(times[2][1:]) <= set(times[0])
    assert min(np.diff(times[1])) > 0.024


def test_a_frame_that_was_held_back_is_due_when_it_no_longer_is() -> None:
    hand = player(Served("tiny", tiny(CAR)))
    hand.in_flight = deque([(0, 1), (0, 2)])
    hand.acknowledge(0, 1, 7.0)
    assert (hand.due_at, hand.latest) == (7.0, pytest.approx(7.1))
    hand.press(Action(1, 1, row=(0.0,)), 8.0)  # nothing was held back now
    assert hand.due_at == 7.0


# --- failures and the whole server


def test_one_failing_session_does_not_take_the_others_along(monkeypatch: Any) -> None:
    served = Served("tiny", tiny(CAR))
    said: list[list[Any]] = [[], []]
    seats = [Seat(said[i].append) for i in range(2)]
    dispatcher = Dispatcher(None, QUICK, batch=4)  # type: ignore[arg-type]
    players = [player(served), player(served)]
    for seat, hand in zip(seats, players):
        dispatcher._clients.append(seat)
        seat.players[1] = hand
    expected = Session(served, seed=0, truth=None, limits=QUICK).advance(np.asarray([1.0]))
    step = Engine.step

    def explode(self: Engine, state: State, rows: Any, **kwargs: Any) -> Any:
        if (np.asarray(rows) == 2).any():
            state.take()
            raise WorldError("not finite")
        return step(self, state, rows, **kwargs)

    monkeypatch.setattr(Engine, "step", explode)
    players[1].press(Action(1, 1, row=tuple(RIGHT)))
    dispatcher.advance(list(zip(seats, players)))
    assert seats[0].players == {1: players[0]}
    assert seats[1].players == {}
    assert same(players[0].session.shot.observation, expected.observation)
    assert "not finite" in said[1][-1][-1]


def play(url: str, frames: int, fps: float, after: float, ready: threading.Barrier, seen: list[dict[str, Any]]) -> None:
    with Client(url) as client:
        number, _ = client.open("car", truth=False)
        client.send("set", session=number, fps=fps, stop_at_end=False)
        ready.wait(30)  # however long it took to come in
        time.sleep(after)
        client.send("resume", session=number)
        while len(seen) < frames:
            seen.append(client.until("tick"))


def test_people_are_stepped_together() -> None:
    with running({"car": tiny(CAR)}, batch=4, exact=True, admit=False) as url:
        seen: list[list[dict[str, Any]]] = [[] for _ in range(3)]
        ready = threading.Barrier(3)
        threads = [
            threading.Thread(target=play, args=(url, 25, fps, 0.1 * i, ready, seen[i]))
            for i, fps in enumerate((15.0, 15.0, 30.0))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert max(tick["together"] for tick in seen[0]) >= 2
        assert max(tick["running"] for tick in seen[0]) == 3
        alone = Session(Served("car", tiny(CAR), settings={"exact": 4}), seed=0, truth=None, limits=QUICK)
        for i in range(25):  # nobody pressed anything, so all three have the same frames, whoever they were with
            shot = alone.advance(np.asarray([1.0]))
            for ticks in seen:
                assert pixels(ticks[i]) == shot.observation["pixels"].tobytes()


def test_a_broken_world_beside_a_sound_one() -> None:
    with (
        running({"car": tiny(CAR), "broken": broken()}, replace(QUICK, panes=4), batch=4) as url,
        Client(url) as client,
    ):
        bad = [client.open("broken")[0] for _ in range(2)]
        good, _ = client.open("car", truth=False)
        for number in bad:
            client.send("resume", session=number)
            client.act(number, LEFT)
        for number in bad:
            assert "not finite" in client.until("closed", session=number)["reason"]
        assert client.play(good, [RIGHT])[0]["frame"] == 1


def test_slots_of_nobody() -> None:
    slots = Slots(Engine(tiny(PENDULUM)))
    lonely = Served("tiny", tiny(PENDULUM))
    line = sessions(lonely, 1)[0]
    line.close()
    with pytest.raises(ServingError, match="begin again"):
        slots.read(line._slot)


# --- admission


def test_the_cover_is_that_of_full_batches_and_a_rest() -> None:
    curve = measured(4e-3, 0.5e-3)
    assert cover(curve, 45, 32) == pytest.approx(20e-3 + 10.5e-3)
    assert cover(curve, 64, 32) == pytest.approx(40e-3)
    thirty = [(curve, 30.0)] * 45
    assert fits(thirty, 64)  # 4 + 22.5 of 26.7 ms
    assert not fits([*thirty, (curve, 30.0)], 64)
    assert not fits([(curve, 30.0)] * 40, 8)  # each batch pays for its beginning
    assert fits([(curve, 15.0)] * 22 + [(curve, 30.0)] * 10, 64)


def test_a_long_batch_leaves_no_room_for_a_short_frame() -> None:
    slow, quick = measured(40e-3, 1e-3), measured(1e-3, 1e-3)
    assert fits([(slow, 1.0)] * 4, 4)
    assert fits([(quick, 30.0)], 4)
    assert not fits([*[(slow, 1.0)] * 4, (quick, 30.0)], 4)
    assert fits([*[(slow, 1.0)] * 4, (quick, 20.0)], 4)


def test_a_refusal_says_what_would_fit() -> None:
    curve = measured(4e-3, 0.5e-3)
    assert refusal([], curve, 60.0, 1) is None
    assert refusal([(curve, 30.0)] * 44, curve, 30.0, 64) is None
    said = refusal([(curve, 30.0)] * 44, curve, 60.0, 64)
    assert said is not None
    assert "44 sessions" in said
    assert said.endswith("Please ask for 30 frames a second, or come back later.")  # it shares their batch then
    full = refusal([(measured(40e-3, 40e-3), 10.0)] * 2, curve, 30.0, 1)
    assert full is not None
    assert full.endswith("Please come back later.")
    assert refusal([(BatchCurve(), 60.0)] * 30, BatchCurve(), 60.0, 1) is None


def test_a_full_server_refuses_with_a_reason(monkeypatch: Any) -> None:
    crowded = measured(45e-3, 1e-3, sizes=(1, 2))
    monkeypatch.setattr(crowded, "note", lambda batch, seconds: None)
    monkeypatch.setattr(Served, "curve", lambda self, steps: crowded)
    with running({"car": tiny(CAR)}, batch=2, admit=True) as url, Client(url) as first:
        number, _ = first.open("car", truth=False, fps=10.0)
        first.send("resume", session=number)
        first.until("status", running=True)
        first.send("fork", session=number, req=3)
        child = first.until("opened", parent=number)["session"]  # both in one batch of 47 ms: 0.47 of 0.8
        first.send("set", session=child, fps=30.0)
        error = first.until("error", code="full")
        assert "2 together take 47 ms" in error["message"]
        assert first.until("status", session=child)["fps"] == 10.0
        with Client(url) as second:
            second.send("open", world="car", truth=False, fps=30.0)
            error, code = second.closing()
            assert (error["code"], error["fatal"], code) == ("full", True, 1013)
            assert "2 sessions run here" in error["message"]
            assert "Please" in error["message"]


def simulated(crowds: list[tuple[Served, float, int]], most: int, seconds: float = 4.0) -> list[float]:
    """Lateness in frames of everything that is made in a time that only batches take: worlds, speeds, how many."""
    players = []
    for served, fps, count in crowds:
        line = Session(served, seed=0, truth=None, limits=QUICK)
        starts = np.random.default_rng(count).uniform(0, 1, count)
        players += [Player(i, line, QUICK, fps, running=True, deadline=t, in_phase=True) for i, t in enumerate(starts)]
    now, late = 0.0, []
    while now < seconds:
        due = [(None, player) for player in players if player.due(now)]
        if not due:
            now = min(player.due_at for player in players)
            continue
        company = choose(due, now, most)
        curve = company[0][1].session.served.curve(None)
        end = now + curve.mean(len(company))
        for _, player in company:
            if now > 1.5:  # all have begun and are in phase
                late.append((end - player.due_at) * player.fps)
            player.schedule(now)
        now = end
    return late


def test_whom_it_admits_it_serves_in_time() -> None:
    one, two = Served("one", tiny(PENDULUM)), Served("two", tiny(PENDULUM, seed=1))
    one.curves[None], two.curves[None] = (
        measured(4e-3, 0.5e-3, sizes=(1, 8, 64)),
        measured(8e-3, 0.2e-3, sizes=(1, 8, 64)),
    )
    for crowds, most in (
        ([(one, 30.0, 45)], 64),
        ([(one, 30.0, 24)], 8),
        ([(one, 15.0, 22), (one, 30.0, 10)], 64),
        ([(one, 20.0, 9), (one, 30.0, 12)], 16),
        ([(one, 30.0, 16), (two, 15.0, 10)], 16),
        ([(one, 25.0, 5), (two, 10.0, 30), (two, 4.0, 20)], 16),
    ):
        demands = [(served.curve(None), fps) for served, fps, count in crowds for _ in range(count)]
        assert fits(demands, most), crowds
        assert np.quantile(simulated(crowds, most), 0.95) <= 1.0, crowds
    crowd = [(one, 30.0, 90)]
    assert not fits([(one.curve(None), 30.0)] * 90, 64)
    late = simulated(crowd, 64)
    assert np.quantile(late, 0.95) > 1.0  # 53 ms of work in 33
    assert max(late) < 4.0  # and yet nobody starves


# --- who comes when, for `benchmarks/serving.py`


def test_made_up_traffic_is_never_more_than_asked_and_survives_its_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    traffic = importlib.import_module("traffic")
    made = traffic.make_up(6, 300.0, 10.0, seed=0)
    times = [(s.at, 1) for s in made] + [(s.at + s.frames / 10.0, -1) for s in made]
    at_once = np.cumsum([change for _, change in sorted(times)])
    assert at_once.max() <= 6
    assert np.mean(at_once) > 4
    people = list(traffic.visits(made))
    assert 0.1 < np.mean([len(each) == 1 for each in people]) < 0.4  # one pause in five is for good
    with (tmp_path / "trace.csv").open("w", newline="") as file:
        traffic.write(made, 10.0, file)
        file.write("9.5,,1.0,GPT-4,10,20,30,API log\r\n")  # nobody's
    again = traffic.read(tmp_path / "trace.csv")
    assert [(s.person, s.frames) for s in again] == [(s.person, s.frames) for s in made]
    assert np.allclose([s.at for s in again], np.array([s.at for s in made]) - made[0].at, atol=2e-3)
