"""The command line: what it offers, and how it speaks of mistakes."""

import inspect
import json
import logging
from collections.abc import Iterator

import pytest

from terrella import cli

FLAGS = {
    "record": "env out steps episodes policy seed max_episode_steps pixels size frame_skip num_envs",
    "label": "data by labelled out budget preset size seed device",
    "align": "world labelled actions out transitions ridge",
    "train": "data out budget preset backbone decoder seed device resume cluster workers shard",
    "learn": "world data out steps algorithm max_episode_steps episodes seed device",
    "play": "world host port token steps budget_ms precision batch exact keep truth open_browser",
    "serve": "worlds host port public token_file batch exact keep clients sessions device steps budget_ms precision "
    "truth log cluster replicas store",
    "plan": "world task planner budget execute episodes steps ceiling seed out",
    "evaluate": "world env data out episodes policy steps precision memory cache seed suite entrant jobs cluster",
    "audit": "journal world",
    "info": "what",
    "demo": "env budget out port",
}


def test_the_flags_are_these_and_no_others():
    for command, flags in FLAGS.items():
        assert " ".join(inspect.signature(cli.COMMANDS[command]).parameters) == flags


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    """What a command has set up does not write into the streams of later tests."""
    loggers = [logging.getLogger(name) for name in ("terrella", "uvicorn")]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers = handlers
        logger.setLevel(level)


@pytest.mark.parametrize("command", FLAGS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["info", "coinrum"], "no world"),
        (["record", "CartPol-v1", "--out", "x"], "CartPole"),
        (["record", "no_such_module:Env-v0", "--out", "x"], "no_such_module"),
        (["train", "nowhere"], "nowhere"),
        (["label", "nowhere"], "nowhere"),
        (["align", "nowhere", "nowhere", "--actions", "nowhere"], "nowhere"),
        (["play", "nowhere"], "nowhere"),
        (["serve", "nowhere"], "nowhere"),
        (["serve", "pendulum", "pendulum"], "two worlds"),
        (["serve", "pendulum", "--public", "world.example"], "https://world.example"),
        (["serve", "pendulum", "--token-file", "no/where"], "another file"),
        (["train", "d", "--workers", "2"], "--cluster local"),
        (["train", "d", "--shard"], "--cluster local"),
        (["train", "d", "--cluster", "local", "--workers", "0"], "workers is 0"),
        (["train", "d", "--cluster", "local", "--workers", "1", "--shard"], "2 or more"),
        (["train", "d", "--cluster", "local", "--device", "tpu"], "cuda, or cpu"),
        (["serve", "pendulum", "--store", "s"], "--cluster local"),
        (["serve", "pendulum", "--replicas", "3", "--keep", "k"], "--cluster local"),
        (["serve", "pendulum", "--store", "memory://s"], "--keep FOLDER"),
        (["serve", "pendulum", "--store", "memry://s", "--keep", "k"], "'memory'"),
        (["serve", "pendulum", "--cluster", "local", "--store", "memory://s"], "machines share"),
        (["serve", "pendulum", "--cluster", "local"], "--store FOLDER"),
        (["serve", "pendulum", "--cluster", "local", "--store", "s", "--keep", "k"], "--keep is for one server"),
        (["serve", "pendulum", "--cluster", "local", "--store", "s", "--host", "0.0.0.0"], "--cluster local is heard"),
        (
            ["serve", "pendulum", "--cluster", "auto", "--store", "s", "--public", "http://a.example"],
            "--public needs a --host",
        ),
        (["serve", "pendulum", "--cluster", "auto", "--store", "s", "--host", "0.0.0.0"], "replicas must know"),
        (["serve", "nowhere", "--cluster", "local", "--store", "s"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["audit", "nowhere", "pendulum"], "no journal"),
        (["evaluate"], "which world"),
        (["evaluate", "pendulum", "--jobs", "2"], "share the work"),
        (["evaluate", "pendulum", "--cluster", "local"], "share the work"),
        (["evaluate", "pendulum", "--suite", "cor"], "core"),
        (["evaluate", "nowhere", "--suite", "core"], "nowhere"),
        (["evaluate", "--entrant", "http://127.0.0.1:1"], "nobody to measure"),
        (["learn", "nowhere"], "nowhere"),
        (["plan", "nowhere", "--task", "pendulum"], "nowhere"),
        (["plan", "pendulum", "--task", "pendulm"], "pendulum"),
        (["plan", "coinrun", "--task", "cartpole"], "terrella record CartPole-v1"),
    ],
)
def test_mistakes_are_told_in_a_sentence(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 1
    said = capsys.readouterr().err
    assert "error:" in said
    assert words in said
    assert "Traceback" not in said


def test_a_bad_budget_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["record", "CartPole-v1", "--steps", "60", "--out", "d"]) == 0
    assert cli.main(["train", "d", "--budget", "soon"]) == 1
    assert "10m" in capsys.readouterr().err


def test_info_of_a_dataset(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["record", "CartPole-v1", "--steps", "60", "--out", "d"])
    assert cli.main(["info", "d"]) == 0
    said = capsys.readouterr().out
    assert "60 transitions" in said
    assert "Discrete(2)" in said


def test_training_leaves_a_finished_world_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["record", "CartPole-v1", "--steps", "400", "--out", "d"])
    command = ["train", "d", "--out", "w", "--budget", "4steps", "--preset", "debug", "--decoder", "regression"]
    assert cli.main(command) == 0
    world = json.loads((tmp_path / "w" / "world.json").read_text())
    assert (world["record"]["preset"], world["config"]["decoder"]["name"]) == ("debug", "regression")
    capsys.readouterr()
    assert cli.main([*command, "--seed", "1"]) == 1
    assert "--no-resume" in capsys.readouterr().err
    assert cli.main([*command, "--seed", "1", "--no-resume"]) == 0
    assert json.loads((tmp_path / "w" / "world.json").read_text())["record"]["seed"] == 1


def test_a_policy_is_learned_and_judged(capsys, tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    cli.main(["record", "CartPole-v1", "--steps", "400", "--out", "d"])
    cli.main(["train", "d", "--out", "w", "--budget", "4steps", "--preset", "debug", "--decoder", "regression"])
    capsys.readouterr()
    assert cli.main(["learn", "w", "--data", "d", "--steps", "64", "--episodes", "2", "--algorithm", "a2c"]) == 0
    said = capsys.readouterr().err
    assert "true return of 2 episodes" in said
    assert (tmp_path / "w" / "policy" / "policy.json").exists()


def test_the_demo_runs_twice(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEMO_SERVE", "0")
    measured = []  # measuring takes a minute and is not what differs
    monkeypatch.setattr("terrella.cli.demo.evaluate", lambda world, **options: measured.append(world))
    monkeypatch.setattr("terrella.evaluation.write_preview", lambda world, out: measured.append(world.name))
    cli.main(["record", "CartPole-v1", "--steps", "400", "--out", "demo/data"])  # the demo itself records more
    command = ["demo", "--env", "CartPole-v1", "--budget", "4steps", "--out", "demo"]
    for said in ("using the recording", "using the world"):
        assert cli.main(command) == 0
        assert said in capsys.readouterr().err
    assert measured == ["demo/world", "world"] * 2


def test_info_without_a_name_lists_parts(capsys):
    assert cli.main(["info"]) == 0
    assert "transformer" in capsys.readouterr().out
