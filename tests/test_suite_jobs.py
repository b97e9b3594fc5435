"""A suite in several processes: the results of one, resumed where it was stopped, and no objects sent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from functools import partial

import gymnasium as gym
import pytest

from terrella.data.policies import Cover, Scripted, StickyRandom
from terrella.errors import ConfigError, EntrantError, TerrellaError
from terrella.evaluation import jobs
from terrella.evaluation.entrant import WorldEntrant
from terrella.evaluation.measurements import Measurement
from terrella.evaluation.suite import run_suite

TINY = (
    Measurement("plans", "forks", "plans", 3, 4, (1, 4), shift=1),
    Measurement("loss", "loss", "plans", 2, 2, (1, 4), draws=1),
    Measurement("nothing done", "null", "plans", 2, 2, (1, 4)),
    Measurement("drift", "drift", groups=3, marks=(1, 4)),
)
QUIET = {"suite": TINY, "progress": False, "lead": 6, "context": 2}


@pytest.fixture(scope="module")
def saved(pendulum_world, tmp_path_factory):
    return pendulum_world.save(tmp_path_factory.mktemp("world"))


def bare(result):
    """What was measured, without how long it took."""
    for found in result["measurements"].values():
        for row in found["entrants"].values():
            del row["seconds"]
    return result["measurements"]


def test_two_processes_find_what_one_does(saved, tmp_path, monkeypatch):
    alone = run_suite(saved, out=tmp_path / "alone", **QUIET)
    old = sorted((tmp_path / "alone" / "kept").glob("plans-*"))
    (tmp_path / "shared" / "kept").mkdir(parents=True)
    for path in old[:2]:
        shutil.copy(path, tmp_path / "shared" / "kept")
    monkeypatch.setattr("terrella.evaluation.suite._measure", lambda *_: pytest.fail("measured in this process"))
    shared = run_suite(saved, out=tmp_path / "shared", jobs=2, **QUIET)
    assert (alone["reused"], shared["reused"]) == (0, 2)
    assert shared["hardware"]["jobs"] == 2
    assert bare(shared) == bare(alone)


@pytest.mark.slow
def test_processes_that_are_stopped_go_on_where_they_were(saved, tmp_path, monkeypatch):
    main, hear = threading.main_thread().ident, jobs._Worker.hear

    def stops(worker, claim, advance):
        asked = []

        def counted(*what):
            asked.append(what)
            if len(asked) == 2:  # the first is kept by now
                signal.pthread_kill(main, signal.SIGINT)
            return claim(*what)

        return hear(worker, counted, advance)

    monkeypatch.setattr(jobs._Worker, "hear", stops)
    with pytest.raises(KeyboardInterrupt):
        run_suite(saved, out=tmp_path, jobs=2, **QUIET)
    monkeypatch.setattr(jobs._Worker, "hear", hear)
    before = len(list((tmp_path / "kept").glob("*.json")))
    assert 1 <= before < 12
    assert run_suite(saved, out=tmp_path, jobs=2, **QUIET)["reused"] == before
    assert len(list((tmp_path / "kept").glob("*.json"))) == 12


@pytest.fixture
def instead(monkeypatch):
    """Another program for the processes to run."""

    def put(program):
        start = jobs.subprocess.Popen
        monkeypatch.setattr(jobs.subprocess, "Popen", lambda args, **how: start([args[0], "-c", program], **how))

    return put


def test_a_process_that_dies_is_noticed(instead, tmp_path):
    instead("import os; os._exit(7)")
    with pytest.raises(TerrellaError, match="exit code 7"):
        jobs.fill({}, tmp_path, jobs.Processes(2), lambda n: None)


def test_what_a_process_raises_is_raised(instead, tmp_path):
    instead('import sys; print(\'["failed", ["EntrantError", "no answer"]]\'); sys.stdin.read()')
    with pytest.raises(EntrantError, match="no answer"):
        jobs.fill({}, tmp_path, jobs.Processes(2), lambda n: None)


def test_claims_are_granted_once(instead, tmp_path):
    instead(
        "import sys, json\n"
        "out = json.loads(sys.stdin.readline())['asked']['out']\n"
        "for i in range(50):\n"
        "    print(json.dumps(['claim', ['plans', str(i)]]), flush=True)\n"
        "    if json.loads(sys.stdin.readline()):\n"
        "        open(f'{out}/{i}.json', 'x').close()\n"
        "    print('[\"advance\", 2]', flush=True)\n"
        "print('[\"done\", null]', flush=True)\n"
    )
    (tmp_path / "old.json").touch()
    counted = []
    assert jobs.fill({"out": str(tmp_path)}, tmp_path, jobs.Processes(3), counted.append) == 50
    assert sum(counted) == 2 * 3 * 50


def test_arguments_travel_as_json(tmp_path, pendulum_data):
    how = {"suite": TINY, "dataset": pendulum_data, "policy": "random", "engine": {"steps": 2}, "lead": 3}
    sent = jobs.portable("pendulum", ["m:f"], 2, env=pendulum_data.spec.env, out=tmp_path, **how)
    back = jobs.arguments(sent)
    assert back["env"] == pendulum_data.spec.env
    assert tuple(back["suite"]) == TINY
    assert back["dataset"].fingerprint == pendulum_data.fingerprint
    assert (back["engine"], back["lead"], back["world"]) == ({"steps": 2}, 3, "pendulum")


@pytest.mark.parametrize("policy", [Cover(30), StickyRandom(mean=2.0, kind="uniform", rest=0.5)])
def test_policies_of_the_package_travel_with_their_settings(policy, tmp_path):
    how = {"suite": "core", "dataset": None, "engine": None, "env": None, "out": tmp_path}
    back = jobs.arguments(json.loads(json.dumps(jobs.portable("sprites", [], 2, policy=policy, **how))))["policy"]
    assert (type(back), repr(back)) == (type(policy), repr(policy))


def test_objects_are_refused_with_a_remedy(pendulum_world, tmp_path):
    run = partial(run_suite, "pendulum", out=tmp_path, jobs=2)
    with pytest.raises(ConfigError, match="save it"):
        run_suite(pendulum_world, out=tmp_path, jobs=2)
    with pytest.raises(ConfigError, match="module:factory"):
        run([WorldEntrant(pendulum_world)])
    with pytest.raises(ConfigError, match="pass an id"):
        run(env=lambda: gym.make("Pendulum-v1"))
    with pytest.raises(ConfigError, match="name of one"):
        run(policy=Scripted(lambda observation, rng: 0))
    with pytest.raises(ConfigError, match="engine"):
        run(engine={"cache": object()})
    with pytest.raises(ConfigError, match="pass out"):
        run_suite("pendulum", jobs=2)
    with pytest.raises(ConfigError, match="at least 1"):
        run_suite("pendulum", jobs=0)
    assert not os.listdir(tmp_path)
