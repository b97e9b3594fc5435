"""Damaged worlds beside whole ones: differences at the same moments, what was stated in advance, runs in parts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from terrella.evaluation.damage import DIMENSIONS
from terrella.spec import StreamSpec

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def sensitivity(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("sensitivity"), importlib.import_module("tables")
    for name in ("sensitivity", "tables"):
        sys.modules.pop(name, None)


def test_it_runs_in_parts_and_is_gathered(sensitivity, pendulum_world, tmp_path, capsys):
    benchmark, tables = sensitivity
    pendulum_world.save(tmp_path / "small")
    how = ["--worlds", str(tmp_path / "small"), "--groups", "4", "--out", str(tmp_path / "out")]
    benchmark.main([*how, "--damages", "memory cleared"])
    capsys.readouterr()
    benchmark.main([*how, "--damages", "actions late"])
    capsys.readouterr()
    benchmark.main([*how, "--gather"])
    result = json.loads(capsys.readouterr().out)
    assert {row["damage"] for row in result["rows"]} == {"memory cleared", "actions late"}
    rows = {(row["damage"], row["dimension"]): row for row in result["rows"]}
    assert {name for _, name in rows} == set(DIMENSIONS) - {"sharpness", "out of sight"}  # of a vector
    late = rows["actions late", "which action"]
    assert (late["damaged"], late["stated"]) == (pytest.approx(0.25), "falls")  # nothing is known yet after one step
    for name in ("which action", "next picture", "in time"):  # until then nothing was cleared
        assert rows["memory cleared", name]["difference"] == 0
        assert rows["memory cleared", name]["right"]
    table = tables.understanding.sensitivity(result).splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


def test_a_fall_is_one_that_chance_would_not_bring(sensitivity):
    benchmark, _ = sensitivity
    whole = np.linspace(0, 1, 24)
    rows = [benchmark.paired(whole, whole + change) for change in (-0.2, 0.2, 0.0)]
    rows.append(benchmark.paired(whole, whole[::-1]))
    rows.append(benchmark.paired(whole[:1], whole[:1]))
    assert [row["falls"] for row in benchmark.holm(rows)] == [True, False, False, False, False]
    assert rows[0]["difference"] == pytest.approx(-0.2)
    weak = benchmark.paired(whole, whole - np.where(np.arange(24) < 6, 0.2, 0.0))
    assert 0.01 < weak["p"] < 0.05
    assert benchmark.holm([dict(weak)])[0]["falls"]
    assert not benchmark.holm([dict(weak) for _ in range(10)])[0]["falls"]


def test_what_fails_is_as_far_as_can_be(sensitivity):
    benchmark, _ = sensitivity
    assert benchmark.closeness(np.array([np.inf, 0.1, 0.0, np.nan])).tolist()[:3] == [-12.0, 1.0, 12.0]
    assert np.isnan(benchmark.mean(np.ones((1, 2)), np.zeros((1, 2), bool))).all()


def test_sharpness_is_lost_by_blur_and_not_by_how_much_is_seen(sensitivity):
    benchmark, _ = sensitivity
    stream = StreamSpec("image", (32, 32, 1))
    one, two = np.zeros((2, 1, 1, 32, 32, 1), np.uint8)
    one[0, 0, 4:8, 4:8] = two[0, 0, 4:8, 4:8] = two[0, 0, 20:24, 20:24] = 200
    blurred = (one.astype(float) + np.roll(one, 1, 2) + np.roll(one, 1, 3) + np.roll(one, 2, 2)).astype(float) / 4
    sharp, fuller, soft = (benchmark.contrast(v.astype(np.uint8), stream)[0, 0] for v in (one, two, blurred))
    assert abs(np.log2(fuller / sharp)) < 0.1
    assert np.log2(soft / sharp) < -0.4
    assert np.isnan(benchmark.contrast(np.full_like(one, 7), stream)).all()
