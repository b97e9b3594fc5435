"""The suite as a whole: what references score through its own path, resuming, the page, strangers, damages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from terrella.engine import Frame
from terrella.errors import ConfigError, UnknownName
from terrella.evaluation import suite
from terrella.evaluation.entrant import Checked, WorldEntrant
from terrella.evaluation.measurements import Measurement
from terrella.evaluation.suite import Kept, run_suite

TINY = (
    Measurement("plans", "forks", "plans", 3, 4, (1, 4), shift=1),
    Measurement("edits", "forks", "edits", 3, 3, (1, 4)),
    Measurement("loss", "loss", "plans", 2, 2, (1, 4), draws=1),
    Measurement("nothing done", "null", "plans", 2, 2, (1, 4)),
    Measurement("drift", "drift", groups=3, marks=(1, 4)),
)
QUIET = {"suite": TINY, "progress": False, "lead": 6, "context": 2}


@pytest.fixture(scope="module")
def measured(cartpole_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("suite")
    return run_suite(cartpole_world, out=out, **QUIET), out


def test_references_score_what_they_must(measured):
    result, _ = measured
    for name in ("plans", "edits"):
        rows = result["measurements"][name]["entrants"]
        assert list(rows) == ["cartpole", "true simulator", "action-blind", "last frame held", "random frames"]
        known = rows["true simulator"]["streams"]["vector"]
        for score in ("row", "column", "assign", "assign_kappa"):
            assert {v for v in known["all"][score]["mean"] if v is not None} == {1.0}
        np.testing.assert_allclose(known["response"]["mean"], 1.0, rtol=1e-6)
        for who in ("action-blind", "last frame held"):
            table = rows[who]["streams"]["vector"]
            raw = table["all"]["raw"]
            for score in ("row", "column", "assign"):
                for scored, left in zip(np.ravel(raw[score]), np.ravel(raw["left"])):
                    assert left < 2 or scored == pytest.approx(1 / left, abs=1e-6)
            assert {r for r in table["response"]["mean"] if r is not None} == {0.0}


def test_the_other_measurements_are_there(measured):
    found = measured[0]["measurements"]
    assert list(found["loss"]["entrants"]) == ["cartpole"]
    assert found["loss"]["entrants"]["cartpole"]["streams"]["all streams"]["horizons"] == [1, 4]
    assert len(found["drift"]["entrants"]["cartpole"]["streams"]["vector"]["mse"]["mean"]) == 2
    assert "known to do nothing" in found["nothing done"]["missing"] or (
        found["nothing done"]["entrants"]["true simulator"]["streams"]["vector"]["ratio"]["mean"][0] == pytest.approx(1)
    )


def test_a_second_run_makes_nothing_anew(measured, cartpole_world, monkeypatch):
    result, out = measured
    files = {path: path.stat().st_mtime_ns for path in (out / "kept").iterdir()}

    def never(*_):
        raise AssertionError("measured anew")

    monkeypatch.setattr("terrella.evaluation.suite._measure", never)
    again = run_suite(cartpole_world, out=out, **QUIET)
    assert again["measurements"] == result["measurements"]
    assert again["reused"] == len(files)
    assert {path: path.stat().st_mtime_ns for path in (out / "kept").iterdir()} == files


def test_a_killed_run_goes_on_where_it_was(cartpole_world, tmp_path, monkeypatch):
    whole, calls = suite._measure, []

    def dies(m, entrant, name, *rest):
        calls.append((m.name, name))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(m, entrant, name, *rest)

    few = {**QUIET, "suite": TINY[:1]}
    monkeypatch.setattr(suite, "_measure", dies)
    with pytest.raises(KeyboardInterrupt):
        run_suite(cartpole_world, out=tmp_path, **few)
    result = run_suite(cartpole_world, out=tmp_path, **few)
    assert (len(calls), result["reused"]) == (3 + 3, 2)


def test_other_settings_are_other_results(tmp_path):
    kept, asked = Kept(tmp_path), {"measurement": {"name": "a b"}, "entrant": {"name": "x"}, "seed": 1}
    assert kept.get(asked, lambda: {"n": 1})[1] is False
    assert kept.get(asked, lambda: {"n": 2})[0]["n"] == 1
    assert kept.get({**asked, "seed": 2}, lambda: {"n": 3})[0]["n"] == 3
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:20])
    assert kept.get({**asked, "seed": 2}, lambda: {"n": 4})[0]["n"] == 4


def test_the_page_shows_every_table(measured):
    result, out = measured
    page = (out / "suite.html").read_text()
    assert json.loads((out / "suite.json").read_text())["measurements"] == result["measurements"]
    for text in ("true simulator", "action-blind", "kappa", "chance", "k left", "not frozen", "95 %", "<svg", "drift"):
        assert text in page
    assert page.count("<table>") == page.count("</table>") >= 5
    assert "<script" not in page


class Mute:
    """Answers nothing, or what was not asked."""

    def __init__(self, frame=None):
        self.frame = frame

    def describe(self):
        return {"name": "mute"}

    def start(self, observations, actions=None, seeds=0):
        return None

    def rollout(self, state, actions):
        if self.frame is None:
            raise RuntimeError("no")
        return state, self.frame(np.shape(actions)[:2])

    def close(self):
        pass


def nan(lead):
    blank = np.zeros(lead, np.float32)
    return Frame({"vector": np.full((*lead, 4), np.nan, np.float32)}, blank, blank)


@pytest.mark.parametrize("frame", [None, nan, lambda lead: Frame({}, np.zeros(lead), np.zeros(lead))])
def test_what_fails_counts_as_wrong(frame, cartpole_world):
    stranger = Checked(Mute(frame), cartpole_world.spec)
    result = run_suite(None, [stranger], env="CartPole-v1", **{**QUIET, "suite": TINY[:1], "references": False})
    row = result["measurements"]["plans"]["entrants"]["mute"]
    table = row["streams"]["vector"]
    for score in ("row", "column", "assign"):
        assert set(table["all"][score]["mean"]) == {0.0}
    assert all(v in (0.0, None) for kind in table["avoided"].values() for v in kind["mean"])
    assert row["failed"] == (0 if frame is nan else 3)


def test_mistakes_are_named(cartpole_world):
    with pytest.raises(UnknownName, match="core"):
        run_suite(cartpole_world, suite="cor")
    with pytest.raises(ConfigError, match="nobody"):
        run_suite(None)
    with pytest.raises(ConfigError, match="name of its own"):
        run_suite(cartpole_world, [WorldEntrant(cartpole_world)], **QUIET)
