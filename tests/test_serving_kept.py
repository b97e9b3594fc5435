"""Sessions that outlive their place, their connection and their server: tiers, snapshots, journals, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_serving import CAR, LEFT, PENDULUM, POLE, QUICK, REST, RIGHT, WALK, Client, pixels, running, same, tiny

from terrella.errors import ServingError
from terrella.serving.catalogue import Served
from terrella.serving.journal import Past, act, read_journal
from terrella.serving.keeper import Keeper
from terrella.serving.player import Player
from terrella.serving.retention import ENOUGH, Pauses, costs, survival
from terrella.serving.session import Session, advance_together
from terrella.serving.snapshots import Snapshots, first_key, next_key
from terrella.serving.tiers import DEFAULT, Tiers

LIMITS = replace(QUICK, snapshot_every=16)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path)
    made.start()
    yield made
    made.close()


def begun(keeper: Keeper, token: str = "a", *, seed: int = 3, spec: Any = CAR, **served: Any) -> Session:
    record = keeper.record(token)
    record.amend(world="tiny")
    world = Served("tiny", tiny(spec), store=keeper.snapshots, **served)
    return Session(world, seed=seed, truth=None, limits=LIMITS, record=record)


def again(keeper: Keeper, line: Session, token: str = "a") -> Session:
    past, record = keeper.resume(token)
    return Session(line.served, seed=past.seed, truth=None, limits=LIMITS, record=record, past=past)


def walk(line: Session, rows: Any = WALK) -> list[Any]:
    return [line.advance(np.asarray(row)) for row in rows]


# --- keys and snapshots


def test_keys_name_pasts() -> None:
    frames, rows = {"x": np.zeros((1, 3, 2), np.float32)}, np.zeros((1, 2, 1))
    key = first_key({"seed": 1}, frames, rows)
    others = [
        first_key({"seed": 2}, frames, rows),
        first_key({"seed": 1}, {"x": frames["x"] + 1}, rows),
        first_key({"seed": 1}, {"y": frames["x"]}, rows),
        first_key({"seed": 1}, frames, rows + 1),
        next_key(key, np.asarray([1.0]), None),
        next_key(key, np.asarray([1.0]), 2),
        next_key(next_key(key, np.asarray([1.0]), None), np.asarray([1.0]), None),
    ]
    assert len({key, *others}) == 8
    assert first_key({"seed": 1}, dict(frames), rows.copy()) == key


def test_equal_pasts_are_stored_once(keeper: Keeper, tmp_path: Path) -> None:
    lines = [begun(keeper, token, seed=seed) for token, seed in (("a", 1), ("b", 1), ("c", 2))]
    for line in lines:
        walk(line, [RIGHT] * 16)
    keeper.flush()
    assert lines[0].key == lines[1].key != lines[2].key
    assert len(list((tmp_path / "snapshots").glob("*.shot"))) == 4  # two starts, two frames
    for line in lines[:2]:
        assert line.record is not None
        keeper.forget(line.record)
        keeper.flush()
        assert (lines[0].key in keeper.snapshots) is (line is lines[0])
    assert lines[2].key in keeper.snapshots


def test_pasts_that_depend_on_company_have_names_of_their_own(keeper: Keeper) -> None:
    lines = [begun(keeper, token, seed=1, repeats=False) for token in "ab"]
    assert lines[0].key != lines[1].key
    assert lines[0].fork().key != lines[0].key


# --- tiers


@pytest.mark.parametrize("tier", ["host", "disk"])
@pytest.mark.parametrize("spec", [CAR, PENDULUM], ids=["pixels", "vector"])
def test_what_was_put_away_comes_back_with_equal_bits(keeper: Keeper, tier: str, spec: Any) -> None:
    line = begun(keeper, spec=spec)
    other = Session(line.served, seed=3, truth=None, limits=LIMITS)
    rows = [np.asarray(r) for r in (list(spec.keys.values()) * 12)[:23]]
    shots = [line.shot, *walk(line, rows)]
    walk(other, rows)
    before = line.nbytes
    if not line.rest(tier):
        keeper.flush()
        assert line.rest(tier)
    assert line.tier == tier
    assert line.nbytes == 0 if tier == "disk" else 0 < line.nbytes <= before
    assert same(line.fork().shot.observation, shots[-1].observation)
    assert line.tier == "slot"  # a fork needs the state
    line.rest("host")
    assert same(line.advance(rows[0]).observation, other.advance(rows[0]).observation)
    for frame in (22, 17, 16, 3, 0):
        assert same(line.rewind(frame).observation, shots[frame].observation)
    assert line.served.returns["host"] > 0


def test_a_snapshot_on_its_way_is_not_played_over(keeper: Keeper) -> None:
    line = begun(keeper)
    walk(line, WALK[:5])
    key, store = line.key, keeper.snapshots
    assert not line.rest("disk")  # handed over, perhaps not written yet
    shot = line.advance(np.asarray(RIGHT))
    keeper.flush()
    state, _, numbers = store.get(key, line.served.engine)
    assert numbers["frame"] == 5
    _, frame = line.served.engine.step(state, np.asarray([RIGHT], np.float32))
    assert np.array_equal(frame.observation["pixels"][0], shot.observation["pixels"])


def test_a_shared_snapshot_stays_as_long_as_somebody_needs_it(keeper: Keeper) -> None:
    first, second = begun(keeper, "a"), begun(keeper, "b")
    fork = second.fork()
    assert second.record is not None
    fork.record = keeper.branch(second.record, "c", 0)
    lines = [first, second, fork]
    for line in lines:
        walk(line, WALK[:8])
        assert not line.rest("disk")
        keeper.flush()
        assert line.rest("disk")
    assert len({line.key for line in lines}) == 1
    shot = None
    while lines:
        seen = lines[-1].advance(np.asarray(RIGHT)).observation
        assert shot is None or same(seen, shot)
        shot, gone = seen, lines.pop(0)
        assert gone.record is not None
        keeper.forget(gone.record)
        keeper.flush()
        for line in lines[-1:]:
            line.rewind(8)
            line.rest("disk")
            keeper.flush()
            assert line.rest("disk")


def test_a_session_at_rest_leaves_its_batch(keeper: Keeper) -> None:
    lines = [begun(keeper, token, seed=ord(token)) for token in "abc"]
    advance_together(lines, [np.asarray(REST)] * 3)
    lines[1].rest("host")
    advance_together([lines[0], lines[2]], [np.asarray(REST)] * 2)
    assert lines[1].shot.frame == 1
    advance_together(lines, [np.asarray(REST)] * 3)
    assert [line.shot.frame for line in lines] == [3, 2, 3]


def test_who_pauses_for_long_is_put_away(keeper: Keeper) -> None:
    limits = replace(LIMITS, resident_bytes=2**40)
    players = [Player(i, begun(keeper, str(i), seed=i), limits, fps=10) for i in range(3)]
    tiers = Tiers(limits, disk=True)
    players[0].running = True
    walk(players[1].session, [REST])
    players[1].stopped, players[2].stopped = 100.0, 100.0 + DEFAULT["host"]

    def after(seconds: float) -> list[str]:
        keeper.flush()
        tiers.look(players, 100.0 + seconds)
        return [player.session.tier for player in players]

    assert tiers.next_look(players) == 0
    assert after(DEFAULT["host"] - 1) == ["slot", "slot", "slot"]
    assert after(DEFAULT["host"] + 1) == ["slot", "host", "slot"]
    assert after(DEFAULT["disk"] + 1) == ["slot", "host", "host"]  # the snapshot is on its way
    assert after(DEFAULT["disk"] + 2) == ["slot", "disk", "host"]
    after(DEFAULT["disk"] + DEFAULT["host"] + 1)
    assert after(DEFAULT["disk"] + DEFAULT["host"] + 2) == ["slot", "disk", "disk"]
    assert tiers.next_look(players) is None
    walk(players[1].session, [REST])
    players[1].stopped = 200.0
    pressed = Tiers(replace(limits, resident_bytes=1), disk=True)
    pressed.look(players, 200.5)
    keeper.flush()
    pressed.look(players, 202.0)
    keeper.flush()
    pressed.look(players, 204.0)
    assert players[1].session.tier == "disk"
    assert players[0].session.tier == "slot"  # who plays keeps the place, whatever it takes


@pytest.mark.parametrize(("stopped", "returns", "walked", "gone"), [
    ((1.0, 3.0), (0.05, 0.05), (1, 1), 0),  # the longer pause
    ((1.0, 1.0), (0.05, 0.05), (1, 40), 1),  # the longer past, which takes more memory
    ((1.0, 3.0), (0.05, 0.001), (1, 1), 1),  # what is back at once
])  # fmt: skip
def test_where_memory_is_wanting_the_place_worth_least_goes_first(
    keeper: Keeper, stopped: Sequence[float], returns: Sequence[float], walked: Sequence[int], gone: int
) -> None:
    players = []
    for i in range(2):
        players.append(Player(i, begun(keeper, str(i), seed=i, returns={"disk": returns[i]}), LIMITS, fps=10))
        walk(players[i].session, [REST] * walked[i])
        players[i].stopped = stopped[i]
    total = sum(player.session.nbytes for player in players)
    Tiers(replace(LIMITS, resident_bytes=total - 1), disk=True).look(players, 4.0)
    assert [player.session.tier == "slot" for player in players] == [gone != 0, gone != 1]


# --- how long a place is kept


PAUSES = [*((float(s), True) for s in np.random.default_rng(0).lognormal(np.log(4), 1, 55)),
          *((float(s), True) for s in np.random.default_rng(1).lognormal(np.log(90), 0.5, 25)),
          *((600.0, False) for _ in range(20))]  # fmt: skip


def best(back: float, price: float) -> float:
    pauses = Pauses()
    for seconds, ended in PAUSES:
        pauses.note(seconds, ended=ended)
    return pauses.time_to_live(back, price, -1.0)


def test_survival_counts_those_still_away() -> None:
    assert survival([(1.0, True), (2.0, True), (3.0, True)]) == [
        (1.0, pytest.approx(2 / 3)),
        (2.0, pytest.approx(1 / 3)),
        (3.0, pytest.approx(0)),
    ]
    assert survival([(1.0, False), (2.0, True), (5.0, False)]) == [(2.0, pytest.approx(1 / 2))]
    assert survival([]) == []


def test_the_time_to_live_is_the_cheapest() -> None:
    found = dict(costs(PAUSES, 2.0, 0.02))
    tau = best(2.0, 0.02)
    assert found[tau] == min(found.values())
    for t in np.linspace(0, 700, 300):  # J by its definition, on a fine grid
        away = 1 - np.asarray([s for s, ended in PAUSES if ended])[:, None].__le__(t).sum() / 100
        held = np.mean([min(s, t) for s, _ in PAUSES])
        assert 2.0 * (away - 0.2) + 0.02 * held >= found[tau] - 1e-9
    assert 0 < tau < 40
    assert best(2.0, 0.001) > tau > best(2.0, 1.0)
    assert best(8.0, 0.02) >= tau >= best(0.5, 0.02)
    assert best(2.0, 0.0) == max(s for s, ended in PAUSES if ended)
    assert best(0.0, 0.1) == 0


def test_a_few_pauses_are_not_trusted() -> None:
    pauses = Pauses()
    for _ in range(ENOUGH - 1):
        pauses.note(1.0, ended=True)
    assert pauses.time_to_live(1.0, 0.0, 30.0) == 30.0
    pauses.note(1.0, ended=True)
    assert pauses.time_to_live(1.0, 0.0, 30.0) == 1.0


# --- journals


def test_a_session_lives_again_from_its_journal(keeper: Keeper) -> None:
    line = begun(keeper)
    shots = [line.shot, *walk(line, WALK * 3)]
    back = again(keeper, line)
    assert same(back.shot.observation, shots[36].observation)
    assert (back.shot.score, back.shot.frame) == (shots[36].score, 36)
    for frame in (35, 32, 20, 1):
        assert same(back.rewind(frame).observation, shots[frame].observation)
    changed = walk(back, [LEFT] * 3)
    last = again(keeper, back)
    assert same(last.shot.observation, changed[-1].observation)
    assert last.shot.frame == 4
    last.begin(5)
    fresh = walk(last, WALK[:2])
    final = again(keeper, last)
    assert (final.seed, final.shot.frame) == (5, 2)
    assert same(final.shot.observation, fresh[-1].observation)


def test_the_true_environment_comes_back_as_well(keeper: Keeper, monkeypatch: Any) -> None:
    record = keeper.record("a")
    record.amend(world="tiny")
    served = Served("tiny", tiny(CAR), store=keeper.snapshots)
    line = Session(served, seed=3, truth=served.truth(), limits=LIMITS, record=record)
    shots = [line.shot, *walk(line, WALK * 2)]
    for last in (24, 16):  # between two snapshots, and at one
        if line.shot.frame != last:
            line.rewind(last)
        past, _ = keeper.resume("a")
        back = Session(served, seed=past.seed, truth=served.truth(), limits=LIMITS, past=past)
        for frame in (last, 15, 2):
            shot = back.shot if frame == last else back.rewind(frame)
            assert shot.truth is not None
            assert shot.truth.score == shots[frame].truth.score
            assert same(shot.truth.observation, shots[frame].truth.observation)
            assert shot.gap == shots[frame].gap
        back.close()
    monkeypatch.setattr("terrella.serving.session.RELIVED", 10)
    back = Session(served, seed=3, truth=served.truth(), limits=LIMITS, past=past)
    assert back.truth is None
    assert "goes on without it" in back.notice


def test_a_fork_has_a_journal_of_its_own(keeper: Keeper) -> None:
    line = begun(keeper)
    shots = [line.shot, *walk(line, WALK * 2)]
    child = line.fork(20)
    assert line.record is not None
    child.record = keeper.branch(line.record, "b", 20)
    theirs = walk(child, [LEFT] * 2)
    keeper.forget(line.record)
    with pytest.raises(ServingError, match=r"was closed|not kept here"):
        keeper.resume("a")
    keeper.flush()
    back = again(keeper, child, "b")
    assert same(back.shot.observation, theirs[-1].observation)
    assert same(back.rewind(18).observation, shots[18].observation)
    with pytest.raises(ServingError, match="not kept here"):
        keeper.resume("a")


def test_lost_snapshots_cost_frames_not_the_session(keeper: Keeper) -> None:
    line = begun(keeper)
    shots = [line.shot, *walk(line, WALK * 3)]
    keeper.flush()
    for frame in (32, 16):
        key = next(k.key for k in line._keyframes if k.frame == frame)
        keeper.snapshots.drop(key)
        assert same(again(keeper, line).shot.observation, shots[36].observation)
    keeper.snapshots.drop(line._keyframes[0].key)
    with pytest.raises(ServingError, match="no snapshot"):
        again(keeper, line)
    with pytest.raises(ServingError, match="cannot be read"):
        keeper.snapshots.get("0" * 64, line.served.engine)


def test_what_a_sync_began_is_not_played_from_before_it() -> None:
    past = Past()
    for line in (
        {"open": {"world": "w"}},
        {"start": [0, "a", 7]},
        *(act(np.asarray([1.0]), None) for _ in range(5)),
        {"start": [5, "b", 7]},
        *(act(np.asarray([1.0]), None) for _ in range(5)),
        {"keep": [8, "c"]},
    ):
        past.take(line)
    copy = Past()
    for line in past.lines():
        copy.take(line)
    assert copy == past
    assert past.reach({"a", "b", "c"}) == 8
    assert (past.reach({"a", "b"}), past.frame) == (5, 10)
    assert (past.reach({"a"}), past.frame) == (0, 4)  # what came of b is gone


@pytest.mark.parametrize(
    "line", ['{"act":[[1.0],null]}x', "[]", '{"back":99}', '{"go":1}', '{"act":3}', "", '{"a":1,"b":2}']
)
def test_a_damaged_journal_is_refused_and_a_cut_one_is_not(tmp_path: Path, line: str) -> None:
    whole = '{"open":{"world":"w"}}\n{"start":[0,"a",7]}\n{"act":[[1.0],null]}\n'
    path = tmp_path / "j.jsonl"
    path.write_text(whole + line + "\n" + '{"act":[[1.0],null]}\n')
    with pytest.raises(ServingError, match="line 4"):
        read_journal(path)
    path.write_text(whole + line)
    assert read_journal(path).frame == 1


def test_old_sessions_are_swept(tmp_path: Path) -> None:
    old = Keeper(tmp_path)
    old.start()
    lines = [begun(old, token, seed=ord(token)) for token in "ab"]
    with pytest.raises(ServingError, match="another server"):
        Keeper(tmp_path)
    old.close()
    for path in (tmp_path / "sessions").iterdir():
        assert path.name not in ("a.jsonl", "b.jsonl")  # tokens are secrets
    os.utime(lines[0].record.path, (0, 0))  # type: ignore[union-attr]
    young = Keeper(tmp_path)
    assert len(list((tmp_path / "sessions").iterdir())) == 1
    assert lines[0].key not in young.snapshots
    assert lines[1].key in young.snapshots
    assert isinstance(young.snapshots, Snapshots)


# --- over the wire


def test_a_lost_connection_costs_nothing(tmp_path: Path) -> None:
    with running({"pole": tiny(POLE)}, replace(LIMITS, sessions=1), keep=tmp_path, truth=False) as url:
        with Client(url) as client:
            number, _ = client.open("pole", seed=2)
            token = client.opened["token"]
            client.send("set", session=number, fps=12.0, stop_at_end=False)
            client.play(number, [LEFT] * 5)
            with Client(url) as other:  # the first connection hangs, and is not yet known to be lost
                other.send("reopen", token=token, req=4)
                opened = other.until("opened")
                assert (opened["req"], opened["token"], opened["seed"]) == (4, token, 2)
                assert other.until("status")["fps"] == 12.0
                assert other.until("tick")["frame"] == 5
                assert "another window" in client.until("closed", session=number)["reason"]
        with Client(url) as client:
            client.send("reopen", token=token)
            assert client.until("tick")["frame"] == 5
            number = client.play(1, [LEFT])[0]["session"]
            client.send("close", session=number)
            client.until("closed")
            client.send("reopen", token=token)
            message = client.until("error")["message"]
            assert "was closed" in message or "not kept here" in message
            client.send("reopen", token="nobody's")
            assert "not kept here" in client.until("error")["message"]
    with running({"pole": tiny(POLE)}) as url, Client(url) as client:
        client.open("pole")
        assert client.opened["token"] is None
        client.send("reopen", token=token)
        assert "keeps no sessions" in client.until("error")["message"]


PROGRAM = """
import sys, torch
from terrella.serving import serve
torch.set_num_threads(1)
serve(sys.argv[1], port=0, truth=False, gallery=False, keep=sys.argv[2], on_ready=lambda url: print(url, flush=True))
"""


def test_a_killed_server_loses_a_second_at_most(tmp_path: Path) -> None:
    tiny(replace(CAR), "car").save(tmp_path / "car")
    rows = (WALK * 7)[:70]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "car"), str(tmp_path / "kept")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    try:
        assert program.stdout is not None
        with Client(program.stdout.readline().strip()) as client:
            number, first = client.open("car", seed=1)
            token = client.opened["token"]
            ticks = [first, *client.play(number, rows)]
            safe = len(ticks) - 1
            time.sleep(1.0)
            ticks += client.play(number, [RIGHT] * 3)  # these may be lost
            program.send_signal(signal.SIGKILL)
            program.wait(20)
    finally:
        program.kill()
    with running({"car": tiny(CAR, "car")}, keep=tmp_path / "kept", truth=False) as url, Client(url) as client:
        client.send("reopen", token=token)
        back = client.until("tick")
        assert safe <= back["frame"] < len(ticks)
        assert pixels(back) == pixels(ticks[back["frame"]])
        assert back["score"] == ticks[back["frame"]]["score"]
        for frame in (safe, 65, 3):
            client.send("rewind", session=back["session"], frame=frame)
            assert pixels(client.until("tick", replayed=True, frame=frame)) == pixels(ticks[frame])
        assert [pixels(t) for t in client.play(back["session"], rows[3:9])] == [pixels(t) for t in ticks[4:10]]
