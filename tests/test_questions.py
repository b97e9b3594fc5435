"""Dimensions in a suite: who answers, beside which controls; what does not fit says why; nothing is asked twice."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from terrella.arenas import describe, make
from terrella.errors import SpecError
from terrella.evaluation import questions
from terrella.evaluation.dimensions import DIMENSIONS, find_dimension
from terrella.evaluation.questions import QUESTIONS, Question, untrained
from terrella.evaluation.references import CopyLast
from terrella.evaluation.suite import SUITES, run_suite
from terrella.training.presets import world_config
from terrella.world import World

pytest.importorskip("pymunk")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PLAN = [Question("V-C", 8), Question("M-IP", 2), Question("CQ", 3)]
QUIET = {"suite": PLAN, "progress": False}


@pytest.fixture(scope="module")
def world() -> World:
    env = make("terrella/Pucks-v0", view=32, size=0, count=(1, 3))
    spec = describe(env)
    env.close()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return World(spec, world_config("debug", spec), "table").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def asked(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("asked")
    return run_suite(world, out=out, **QUIET), out


def test_suites_ask_every_dimension():
    assert [question.name for question in QUESTIONS] == list(DIMENSIONS)
    assert SUITES["dimensions"] == QUESTIONS
    assert set(QUESTIONS) < set(SUITES["full"])
    assert all(question.layouts >= 16 for question in QUESTIONS)


def test_worlds_answer_beside_controls(asked):
    found = asked[0]["dimensions"]
    seen = found["V-C"]["entrants"]
    read = {who: list(row["readouts"]) for who, row in seen.items()}
    both = ["latents", "memory"]
    assert read == {"table": both, "untrained": both, "pixels": ["frames"], "true state": ["quantities"]}
    for row in seen.values():
        for ways in row["readouts"].values():
            assert list(ways) == ["linear", "mlp"]
            for told in ways.values():
                assert (told["items"], told["fitted"], told["chance"]) == (2 * 32, 6 * 32, 0.25)
                assert set(told["entanglement"]) == {"radius", "place"}
                low, high = told["interval"]
                assert low <= told["accuracy"] <= high
    assert seen["true state"]["readouts"]["quantities"]["linear"]["accuracy"] > 0.95
    assert seen["pixels"]["readouts"]["frames"]["linear"]["interval"][0] > 0.3
    foreseen = {who: row["readouts"]["pixels"]["row"]["accuracy"] for who, row in found["M-IP"]["entrants"].items()}
    assert list(foreseen) == ["table", "untrained", "true simulator", "last frame held"]
    assert foreseen["true simulator"] == 1.0
    assert foreseen["last frame held"] == pytest.approx(0.25)


def test_what_does_not_fit_says_why(asked, world):
    part = asked[0]["dimensions"]["CQ"]
    assert "terrella/Sprites-v0" in part["missing"]
    assert part["entrants"] == {}
    larger = replace(world.spec, env=replace(world.spec.env, kwargs={"view": 48}))
    with pytest.raises(SpecError, match="does not fit the world"):
        find_dimension("V-C").make_for(larger)


def test_a_second_run_asks_nothing_anew(asked, world, monkeypatch):
    result, out = asked

    def never(*_):
        raise AssertionError("asked anew")

    monkeypatch.setattr(questions, "_answer", never)
    again = run_suite(world, out=out, **QUIET)
    assert again["dimensions"] == result["dimensions"]
    assert again["reused"] == len(list((out / "kept").iterdir())) == 8
    with pytest.raises(AssertionError, match="anew"):
        run_suite(world, out=out, **{**QUIET, "suite": [Question("V-C", 9)]})


def test_the_page_shows_every_dimension(asked):
    page = (asked[1] / "suite.html").read_text()
    for text in ("V-C (visual)", "M-IP (mechanistic)", "true state", "untrained", "s-RE: radius", "Not asked, CQ"):
        assert text in page
    assert page.count("<table>") == page.count("</table>") == 4
    assert json.loads((asked[1] / "suite.json").read_text())["dimensions"] == asked[0]["dimensions"]


class Still(CopyLast):
    def describe(self):
        return {"name": "still"}

    def close(self):
        pass


def test_models_without_latents_foresee_and_are_not_read():
    result = run_suite(None, [Still()], env="terrella/Pucks-v0", **{**QUIET, "suite": PLAN[:2]})
    found = result["dimensions"]
    assert "no world takes part" in found["V-C"]["missing"]
    assert list(found["M-IP"]["entrants"]) == ["still", "true simulator", "last frame held"]
    told = [found["M-IP"]["entrants"][who]["readouts"] for who in ("still", "last frame held")]
    assert told[0] == told[1]


def test_an_untrained_world_is_drawn_from_its_seed(world):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    weights = [untrained(world, seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert list(weights[0]) == list(world.state_dict())


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("dimensions", "tables")})
    for name in ("dimensions", "tables"):
        sys.modules.pop(name, None)


def test_the_benchmark_gathers_what_the_suite_keeps(benchmarks, world, tmp_path, capsys):
    world.save(tmp_path / "table")
    how = ["--worlds", str(tmp_path / "table"), "--only", "SE-V", "M-IP", "CQ", "--layouts", "3"]
    how += ["--out", str(tmp_path / "out")]
    benchmarks.dimensions.main(how)
    result = json.loads(capsys.readouterr().out)
    assert len(result["rows"]) == 2 * (2 + 2 + 1 + 1) + 2 * 4
    assert {row["kind"] for row in result["rows"]} == {"world", "control"}
    assert [names for why, names in result["missing"]["table"].items()] == [["CQ"]]
    benchmarks.dimensions.main([*how, "--gather"])
    assert json.loads(capsys.readouterr().out)["rows"] == result["rows"]
    lines = benchmarks.tables.understanding.dimensions(result).splitlines()
    (seen,) = (line for line in lines if line.startswith("| table, SE-V |"))
    (foreseen,) = (line for line in lines if line.startswith("| table, M-IP |"))
    assert (seen.count("|"), foreseen.count("|")) == (lines[0].count("|"), lines[-2].count("|"))
    assert "1.00; 1.00" in foreseen
    for row in result["rows"]:
        better = row["kind"] == "world" and row["how"] == "linear"
        row |= {"accuracy": 0.9 if better else 0.5, "interval": [0.8, 1.0]}
    told = benchmarks.tables.understanding.dimensions(result)
    assert told.count("**0.90 (0.80 to 1.00)**; **0.50 (0.80 to 1.00)**") == 2  # latents, memory
    for row in result["rows"]:
        row["interval"] = [0.5, 1.0]
    assert "**" not in benchmarks.tables.understanding.dimensions(result)


def test_the_list_in_the_docs_is_that_of_the_definitions(benchmarks):
    page = (BENCHMARKS.parent / "docs" / "dimensions.md").read_text()
    listed = benchmarks.tables.understanding.dimension_list()
    assert listed in page
    assert len(listed.splitlines()) == 2 + len(DIMENSIONS)
    assert np.mean([name in listed for name in DIMENSIONS]) == 1
