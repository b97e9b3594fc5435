"""A model from outside: trained on a recording by its own loop, then measured in process and behind a URL, equally."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from terrella.arenas import describe, make
from terrella.errors import EntrantError
from terrella.evaluation.http_entrant import HttpEntrant
from terrella.evaluation.measurements import Measurement
from terrella.evaluation.suite import run_suite

SMALL = (
    Measurement("plans", "forks", "plans", 3, 4, (1, 4), shift=1),
    Measurement("drift", "drift", groups=3, marks=(1, 4)),
)
HOW = {"suite": SMALL, "progress": False, "lead": 6, "context": 2, "env": "Pendulum-v1"}


@pytest.fixture(scope="module")
def gru():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent))
        yield importlib.import_module("examples.gru_entrant")


@pytest.fixture(scope="module")
def weights(gru, pendulum_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("gru") / "gru.safetensors"
    gru.main(["train", str(pendulum_data.path), "--out", str(path), "--steps", "60"])
    return path


def test_it_is_measured_alike_in_process_and_behind_a_url(gru, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("GRU_WEIGHTS", str(weights))
    inside = run_suite(None, ["examples.gru_entrant:load"], **HOW)
    serving = gru.server(gru.Entrant(weights))
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{serving.server_port}"
        outside = run_suite(None, [url], out=tmp_path, **HOW)
        again = run_suite(None, [url], out=tmp_path, **HOW)
        stranger = HttpEntrant(url)
        with pytest.raises(EntrantError, match="400"):
            stranger.rollout({}, np.zeros((1, 2, 1)))
        with pytest.raises(EntrantError, match="404"):
            stranger._ask("nothing", b"x")
    finally:
        serving.shutdown()
        serving.server_close()
        thread.join()
    assert again["reused"] == 6
    assert outside["entrants"] == inside["entrants"]
    for m in SMALL:
        ours, theirs = (r["measurements"][m.name]["entrants"]["gru"] for r in (inside, outside))
        assert ours["streams"] == theirs["streams"]
    plans = inside["measurements"]["plans"]["entrants"]["gru"]
    assert plans["failed"] == 0
    assert plans["streams"]["vector"]["response"]["mean"][-1] > 0.05  # its futures do depend on actions
    with pytest.raises(EntrantError, match="did not answer"):
        HttpEntrant(url, timeout=2).describe()


def test_training_makes_it_better(gru, pendulum_data, weights):
    model, streams = gru.fit(pendulum_data, 1)
    clips = pendulum_data.sample(64, 8, np.random.default_rng(1))
    x = gru.flat(clips.observations, streams)
    trained = gru.Entrant(weights)
    state = trained.start({"vector": x[:, :5].numpy()}, clips.actions[:, :4])
    _, frame = trained.rollout(state, clips.actions[:, 4:])
    error = np.square(frame.observation["vector"] - x[:, 5:].numpy()).mean()
    assert error < 0.5 * np.square(x[:, 5:].numpy() - x[:, 4:5].numpy()).mean()  # than the last frame held
    assert sorted(load_file(weights)) == sorted(model.state_dict())


def test_choices_enter_as_choices(gru, cartpole_data):
    model, _ = gru.fit(cartpole_data, 1)
    assert model.sizes == {"features": 4, "width": 1, "choices": 2, "dim": 96}


def test_what_it_cannot_do_is_named(gru, weights, cartpole_data, tmp_path, monkeypatch):
    with make("terrella/Sprites-v0") as env, pytest.raises(EntrantError, match="images"):
        gru.vectors(describe(env))
    monkeypatch.setenv("GRU_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(EntrantError, match="GRU_WEIGHTS"):
        gru.load(cartpole_data.spec)
    monkeypatch.setenv("GRU_WEIGHTS", str(weights))
    with pytest.raises(EntrantError, match="trained on streams"):
        gru.load(cartpole_data.spec)
