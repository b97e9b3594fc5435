"""Spread and surprise: the truth is calibrated, a mean is not; who knows the old rule notices the new one at once."""

from __future__ import annotations

import numpy as np
import pytest

from terrella.arenas import describe, make
from terrella.engine import Frame
from terrella.errors import ConfigError
from terrella.evaluation.chance import TrueChance, calibration, draws, spread_scores
from terrella.evaluation.change import detection_of, surprise, switches
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import CopyLast, Oracle

SAMPLES = 12


class MeanOf:
    """Says the mean of the truth's samples of each group."""

    def __init__(self, inner: TrueChance) -> None:
        self.inner = inner

    def start(self, observations, actions=None, seeds=0):
        return self.inner.start(observations, actions, seeds)

    def rollout(self, state, actions):
        state, frame = self.inner.rollout(state, actions)
        mean = {n: np.broadcast_to(v.mean(0), v.shape) for n, v in frame.observation.items()}
        return state, Frame(mean, frame.reward, frame.terminated)


@pytest.mark.parametrize(
    ("name", "settings", "stream", "unit"),
    [
        ("terrella/Pucks-v0", {"gust": 8.0}, "pixels", 255.0),
        ("terrella/Lorenz-v0", {"noise": 0.5}, "vector", 10.0),
        ("MiniGrid-Dynamic-Obstacles-5x5-v0", {}, "image", 10.0),
    ],
)
def test_the_truth_is_calibrated_and_a_mean_loses(name, settings, stream, unit):
    env = make(name, **settings)
    stage = Stage(env, describe(env), 0)
    found = draws(stage, 4, context=2, horizons=(2,) if "MiniGrid" in name else (2, 6), reseeds=24, lead=4)
    assert len(np.unique(found.truths[stream][0].reshape(24, -1), axis=0)) > 1
    states = {g * SAMPLES + s: m.state for g, m in enumerate(found.moments) for s in range(SAMPLES)}
    oracle = TrueChance(stage, states)
    true = calibration(oracle, found, stream, SAMPLES, unit)
    mean = calibration(MeanOf(oracle), found, stream, SAMPLES, unit)
    copy = calibration(CopyLast(), found, stream, SAMPLES, unit)
    for score in ("energy_score", "energy_distance"):
        for knows, blurs in zip(true[score]["mean"], mean[score]["mean"]):
            assert knows < blurs
    assert max(abs(v) for v in true["energy_distance"]["mean"]) < 0.3 * min(copy["energy_distance"]["mean"])
    env.close()


def test_scores_of_known_distributions():
    y = np.repeat(np.eye(2), 50, 0)
    same = spread_scores(np.repeat(np.eye(2), 20, 0), y)
    assert same["coverage"] == 1
    assert same["impossible"] == 0
    assert same["brier"] == pytest.approx(0.5)
    assert abs(same["energy_distance"]) < 0.06
    one = spread_scores(np.repeat(np.eye(2)[:1], 40, 0), y)
    assert one["coverage"] == 0.5
    assert one["brier"] == pytest.approx(1.0)
    middle = spread_scores(np.full((40, 2), 0.5), y)
    assert middle["impossible"] == 1
    assert middle["coverage"] == 0
    assert middle["brier"] == pytest.approx(2.0)
    assert middle["energy_distance"] > same["energy_distance"] + 0.2
    assert spread_scores(np.full((4, 2), np.nan), y)["impossible"] == 1


@pytest.mark.parametrize("quantity", ["gravity", "drag"])
def test_who_knows_the_old_rule_notices_the_new_one(quantity):
    env = make("terrella/Pucks-v0", drag=0.0)
    stage = Stage(env, describe(env), 1)
    value = [0.0, -9.81] if quantity == "gravity" else 30.0
    found = switches(stage, 4, quantity, value, context=2, when=4, steps=9)
    flat = [s for runs in found.states for run in runs for s in run]
    values = surprise(Oracle(stage, dict(enumerate(flat))), found, stage)
    assert (values[:, 0] == 0).all()
    assert (values[:, 1, :4] == 0).all()
    assert (values[:, 1, 4:] > 0).all()
    table = detection_of(values, found.when)
    assert table["auroc"]["mean"] == 1
    assert table["delay"]["mean"] == 0
    assert table["detected"]["mean"] == 1
    assert table["alarms"]["mean"] == 0
    env.close()


def test_noise_detects_nothing():
    values = np.random.default_rng(0).random((60, 2, 40))
    table = detection_of(values, 20)
    assert table["auroc"]["interval"][0] < 0.5 < table["auroc"]["interval"][1]
    assert table["alarms"]["mean"] == pytest.approx(0.05, abs=0.02)
    with pytest.raises(ConfigError):
        detection_of(values[:1], 20)
