"""The suite as a whole: what references score through its own path, resuming, the page, strangers, damages."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from terrella.engine import Frame
from terrella.errors import ConfigError, EntrantError, UnknownName
from terrella.evaluation import suite, wire
from terrella.evaluation.damage import DIMENSIONS, STATED, Damage, Damaged, coarse, damages, kinds, spoil
from terrella.evaluation.entrant import Checked, WorldEntrant, open_entrant
from terrella.evaluation.kept import Folder, Kept
from terrella.evaluation.measurements import Measurement
from terrella.evaluation.suite import run_suite
from terrella.world import World

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
        for who in ("action-blind", "last frame held", "random frames"):
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
    assert "known to do nothing" in found["nothing done"]["missing"]  # CartPole's two actions both push


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
    kept, asked = Kept(Folder(tmp_path)), {"measurement": {"name": "a b"}, "entrant": {"name": "x"}, "seed": 1}
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
    told = ("kappa", "chance", "k left", "not frozen", "95 %", "recognises", "<svg", "drift")
    for text in ("true simulator", "action-blind", *told):
        assert text in page
    assert page.count("<table>") == page.count("</table>") >= 5
    assert "<script" not in page


def test_nothing_moves_as_the_truth_does(pendulum_world, tmp_path):
    result = run_suite(pendulum_world, out=tmp_path, **{**QUIET, "suite": TINY[3:4]})
    rows = result["measurements"]["nothing done"]["entrants"]
    assert rows["true simulator"]["streams"]["vector"]["ratio"]["mean"] == [pytest.approx(1.0)]
    assert rows["last frame held"]["streams"]["vector"]["motion"]["mean"] == [0.0]
    assert rows["pendulum"]["streams"]["vector"]["motion"]["mean"][0] > 0
    assert "<td>vector</td>" in (tmp_path / "suite.html").read_text()


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


def test_messages_carry_numbers_and_nothing_else():
    sent = {"a/b": np.arange(6, dtype=np.uint8).reshape(2, 3), "n": np.array([1, 2]), "empty": np.zeros((1, 0), "f4")}
    found = wire.unpack(wire.pack(sent))
    assert list(found) == list(sent)
    for name, array in sent.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with pytest.raises(EntrantError, match="only numbers"):
        wire.pack({"x": np.array([object()])})
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object))  # pickled
    with pytest.raises(EntrantError, match="no npz"):
        wire.unpack(buffer.getvalue())
    with pytest.raises(EntrantError, match="no npz"):
        wire.unpack(b"hello")
    bomb = io.BytesIO()
    np.savez_compressed(bomb, x=np.zeros(10**6, np.uint8))
    with pytest.raises(EntrantError, match="unpacks to more"):
        wire.unpack(bomb.getvalue(), limit=10**5)


def test_a_factory_is_found_or_named(cartpole_world, tmp_path, monkeypatch):
    (tmp_path / "mine_entrant.py").write_text(
        "from terrella.evaluation.references import CopyLast\n\n\n"
        "class Mine(CopyLast):\n    def describe(self):\n        return {'name': 'mine'}\n\n"
        "    def close(self):\n        pass\n\n\ndef make(spec):\n    return Mine()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert open_entrant("mine_entrant:make", cartpole_world.spec).describe()["name"] == "mine"
    for wrong in ("mine_entrant:other", "no_such_module:make", "ftp://x"):
        with pytest.raises(EntrantError, match="module:factory"):
            open_entrant(wrong, cartpole_world.spec)


class Counter:
    """Shows how often it was stepped since it began, plus the first number of each action times 100."""

    def describe(self):
        return {"name": "counter"}

    def start(self, observations, actions=None, seeds=0):
        return observations["vector"][:, -1, 0]

    def rollout(self, state, actions):
        frames = state[:, None] + np.arange(1, actions.shape[1] + 1)
        blank = np.zeros(actions.shape[:2], np.float32)
        shown = np.stack([frames, actions[..., 0]], -1).astype(np.float32)
        return frames[:, -1], Frame({"vector": shown}, blank, blank)

    def close(self):
        pass


def spoiled(damage: Damage, chunk: int, steps: int = 20, made: type[Counter] = Counter) -> np.ndarray:
    entrant = Damaged(made(), damage)
    assert entrant.describe()["name"] == f"counter, {damage}"
    state = entrant.start({"vector": np.zeros((1, 3, 2), np.float32)}, np.array([[[5.0], [7.0]]]), [0])
    actions, frames = np.arange(20.0, 20.0 + steps)[None, :, None], []
    for first in range(0, steps, chunk):
        state, frame = entrant.rollout(state, actions[:, first : first + chunk])
        frames.append(frame.observation["vector"][0])
    return np.concatenate(frames)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_damages_do_what_they_say_however_they_are_asked(chunk):
    late = spoiled("actions late", chunk)
    np.testing.assert_array_equal(late[:, 0], np.arange(1, 21))
    np.testing.assert_array_equal(late[:, 1], [7, *range(20, 39)])
    np.testing.assert_array_equal(spoiled("frames late", chunk)[:, 0], range(20))
    frozen = spoiled("frames frozen", chunk)
    np.testing.assert_array_equal(frozen[:, 0], np.repeat([1, 5, 9, 13, 17], 4))
    np.testing.assert_array_equal(frozen[:, 1], np.repeat([20, 24, 28, 32, 36], 4))
    cleared = spoiled("memory cleared", chunk, 45)[:, 0]
    np.testing.assert_array_equal(cleared, np.arange(1, 46))  # goes on from its frames


class Elephant(Counter):
    """A counter that shows, after its count, how many frames it remembers."""

    def start(self, observations, actions=None, seeds=0):
        return observations["vector"][:, -1, 0], observations["vector"].shape[1]

    def rollout(self, state, actions):
        counted, frame = super().rollout(state[0], actions)
        frame.observation["vector"][..., 1] = state[1] + np.arange(1, actions.shape[1] + 1)
        return (counted, state[1] + actions.shape[1]), frame


def test_memory_is_cleared_every_twenty_frames():
    remembered = spoiled("memory cleared", 7, 45, Elephant)[:, 1]
    np.testing.assert_array_equal(remembered, [*range(4, 24), *range(2, 22), *range(2, 7)])  # it begins with three


def test_damages_to_weights_and_memory_change_what_is_said(pendulum_world):
    names, said = [], []
    for entrant in damages(pendulum_world):
        names.append(entrant.describe()["name"])
        state = entrant.start({"vector": np.array([[[1.0, 0, 0], [1, 0.1, 0.5]]], np.float32)}, np.ones((1, 1, 1)), [3])
        _, frame = entrant.rollout(state, np.linspace(-2, 2, 24)[None, :, None])
        said.append(frame.observation["vector"])
    assert names == ["pendulum", *(f"pendulum, {kind}" for kind in STATED)]
    for other, name in zip(said[1:], names[1:]):
        assert np.abs(other - said[0]).max() > 1e-4, name
    cleared = said[names.index("pendulum, memory cleared")]
    np.testing.assert_array_equal(cleared[:, :20], said[0][:, :20])
    weights = coarse(pendulum_world).state_dict()
    layer = next(n for n, m in pendulum_world.named_modules() if isinstance(m, torch.nn.Linear) and m.weight.any())
    assert max(len(row.unique()) for row in weights[f"{layer}.weight"]) <= 7


def test_damages_are_found_by_name(pendulum_world):
    assert all(set(stated.falls + stated.stays) <= set(DIMENSIONS) for stated in STATED.values())
    told = [STATED["memory cleared"].of(name) for name in ("out of sight", "which action", "drift")]
    assert told == ["falls", "stays", None]
    with pytest.raises(UnknownName, match="memory cleared"):
        spoil(pendulum_world, "memory clear")
    sprites = World.load("sprites")
    assert "fewer steps" not in kinds(sprites)
    with pytest.raises(ConfigError, match="cannot be fewer"):
        spoil(sprites, "fewer steps")


def test_actions_that_come_late_cost_points():
    world = World.load("pendulum")
    whole = WorldEntrant(world)
    plan = [Measurement("plans", "forks", "plans", 8, 4, (1, 4), shift=1)]
    how = {"env": "Pendulum-v1", "references": False, "progress": False, "suite": plan, "context": 4, "lead": 6}
    rows = run_suite(None, [whole, Damaged(whole, "actions late"), Damaged(whole, "frames late")], **how)
    rows = rows["measurements"]["plans"]["entrants"]
    kappa = {name: row["streams"]["vector"]["all"]["assign_kappa"]["mean"] for name, row in rows.items()}
    assert kappa["pendulum"][0] > 0.9
    assert kappa["pendulum, actions late"][0] == pytest.approx(0.0, abs=1e-9)  # after one step it knows nothing yet
    late = {name: row["streams"]["vector"]["avoided"]["early"]["mean"][1] for name, row in rows.items()}
    assert late["pendulum"] > late["pendulum, frames late"] + 0.3
