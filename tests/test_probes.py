"""Readouts: what is in the features is found, what is not is not, and no episode stands on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from terrella import Engine
from terrella.arenas import describe, make
from terrella.errors import ArenaError, ConfigError
from terrella.evaluation.moments import Stage
from terrella.evaluation.probes import SessionReader, pixel_reader, probe, probe_quantities, probe_rows, snapshots
from terrella.evaluation.readouts import Rows, fit


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_what_is_there_is_found_and_what_is_not_is_not(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12))
    groups = np.arange(300) // 3
    linear = x[:, :2] @ rng.normal(size=(2, 2)) + 5.0
    rows = probe_rows(x, groups)
    seen = probe(rows, linear, kind=kind)
    assert seen["r2"] > (0.999 if kind == "linear" else 0.9)
    assert seen["interval"][0] <= seen["r2"] <= seen["interval"][1]
    assert seen["shuffled"]["r2"] < 0.1
    unseen = probe(rows, rng.normal(size=(300, 2)), kind=kind)
    assert unseen["r2"] < 0.1
    classes = probe(rows, (x[:, 3] > 0).astype(int), kind=kind)
    assert classes["accuracy"] > 0.75
    assert classes["shuffled"]["accuracy"] < 0.7


def test_only_the_network_reads_a_product():
    x = np.random.default_rng(1).normal(size=(600, 4))
    answers = (x[:, 0] * x[:, 1] > 0).astype(int)
    rows = probe_rows(x, np.arange(600))
    assert probe(rows, answers, kind="linear")["accuracy"] < 0.65
    assert probe(rows, answers, kind="mlp")["accuracy"] > 0.8


def test_rows_of_a_group_are_held_out_together():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), 10)
    names = rng.normal(size=(30, 8))[groups]  # a feature that knows the episode and nothing else
    answers = rng.normal(size=(30, 1))[groups]
    assert probe(probe_rows(names, groups), answers)["r2"] < 0.5  # rows at random would give 1


def test_more_features_than_rows_and_flat_features():
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=(40, 500)), np.full((40, 3), 7.0)], 1)
    every = np.ones(40, bool)
    assert np.isfinite(fit(Rows.of(x, every, np.arange(40)), x[:, :1])).all()
    blind = fit(Rows.of(np.ones((40, 5)), every, np.arange(40)), x[:, :1])
    np.testing.assert_allclose(blind, x[:, :1].mean(), atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_columns_may_be_taken_a_few_at_a_time(kind, monkeypatch):
    x = np.random.default_rng(4).normal(3.0, 2.0, size=(60, 40)).astype(np.float32)
    fitted = np.arange(60) < 40
    whole = fit(Rows.of(x, fitted, np.arange(60)), x[fitted, :2], kind)
    monkeypatch.setattr("terrella.evaluation.readouts.COLUMNS", 7)
    parted = fit(Rows.of(x, fitted, np.arange(60)), x[fitted, :2], kind)
    np.testing.assert_allclose(parted, whole, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_fitted_is_refused():
    x, every = np.zeros((4, 2)), np.ones(4, bool)
    for features, groups in ((x[:3], np.arange(4)), (x, np.zeros(4)), (np.full((4, 2), np.nan), np.arange(4))):
        with pytest.raises(ConfigError):
            Rows.of(features, every, groups)
    rows = Rows.of(x, every, np.arange(4))
    for answers, kind in ((np.zeros((3, 1)), "linear"), (np.full((4, 1), np.nan), "linear"), (x, "tree")):
        with pytest.raises(ConfigError):
            fit(rows, answers, kind)


def test_a_world_is_probed_beside_pixels(pendulum_world):
    env = make("Pendulum-v1")
    found = snapshots(Stage(env, describe(env), 0), 60, context=3, lead=10)
    assert len(set(found.seeds)) == 60
    table = probe_quantities(found, [SessionReader(Engine(pendulum_world, recall=2)), pixel_reader], kinds=("linear",))
    assert table
    for read in table.values():
        assert set(read) == {"latents", "memory", "frames"}
    speed = next(name for name in table if "speed" in name or "velocity" in name or "rate" in name)
    assert table[speed]["frames"]["linear"]["r2"] > 0.99  # a pendulum's observation tells it outright
    assert table[speed]["latents"]["linear"]["r2"] > table[speed]["latents"]["linear"]["shuffled"]["r2"] + 0.3
    env.close()


def test_sessions_that_begin_alike_read_as_each_alone(pendulum_world):
    env = make("Pendulum-v1")
    found = snapshots(Stage(env, describe(env), 0), 3, context=3, lead=10)
    env.close()
    rows, seeds = [0, 1, 0, 2, 1], [5, 6, 5, 7, 8]  # the first and the third part late, the second and the last at once
    observations = {name: v[rows].copy() for name, v in found.observations.items()}
    past = found.past[rows].copy()
    past[2, -1] += 0.5
    engine = Engine(pendulum_world, recall=2)
    together = SessionReader(engine)(observations, past, seeds)
    for i, seed in enumerate(seeds):
        state = engine.start({name: v[i : i + 1] for name, v in observations.items()}, past[i : i + 1], [seed])
        np.testing.assert_allclose(together["latents"][i], engine.recent(state).z.reshape(-1), atol=1e-5)
    memory = together["memory"]
    assert (memory[0] != memory[2]).any()
    alone = SessionReader(engine)({name: v[2:3] for name, v in observations.items()}, past[2:3], seeds[2:3])
    np.testing.assert_allclose(memory[2], alone["memory"][0], atol=1e-5)


def test_without_quantities_there_is_nothing_to_read():
    env = make("Acrobot-v1")
    stage = Stage(env, describe(env), 0)
    stage.fork = None
    with pytest.raises(ArenaError):
        snapshots(stage, 2, context=1)
    env.close()
