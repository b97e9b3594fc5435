"""Chaos: the equation itself is right for long and parts at the known rate; a held frame is neither."""

from __future__ import annotations

import numpy as np
import pytest

from terrella.arenas import describe, make
from terrella.arenas.chaos import SYSTEMS, runge_kutta
from terrella.engine import Frame
from terrella.errors import ConfigError
from terrella.evaluation.chaos import chaos_scores, free_rollouts, parting_rate
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import CopyLast


class Equation:
    """Goes on from the last frame it was shown, in float32, by Lorenz's equation."""

    def start(self, observations, actions=None, seeds=0):
        return observations["vector"][:, -1].astype(np.float64)

    def rollout(self, state, actions):
        lorenz = SYSTEMS["lorenz"]
        values = {name: value for name, (value, _) in lorenz.parameters.items()}
        frames = []
        for _ in range(np.shape(actions)[1]):
            for _ in range(lorenz.substeps):
                state = runge_kutta(lambda x: lorenz.flow(x, values), state, lorenz.step / lorenz.substeps)
            frames.append(state)
        blank = np.zeros(np.shape(actions)[:2], np.float32)
        return state, Frame({"vector": np.stack(frames, 1)}, blank, blank)


def test_the_equation_is_right_for_long_and_a_held_frame_is_not():
    env = make("terrella/Lorenz-v0")
    stage = Stage(env, describe(env), 0)
    moments, truths = free_rollouts(stage, 10, 900)
    known = chaos_scores(Equation(), moments, truths, exponent=0.906, step=0.02)
    held = chaos_scores(CopyLast(), moments, truths, exponent=0.906, step=0.02)
    assert known["valid_time"]["mean"] > 10  # float32 knows the state to about 16 Lyapunov times
    assert held["valid_time"]["mean"] < 0.5
    assert known["exponent"] == pytest.approx(0.906, rel=0.5)
    assert held["exponent"] == pytest.approx(0, abs=0.01)
    assert max(known["wasserstein"]) < 0.15 < min(held["wasserstein"])
    assert known["deviation_ratio"] == pytest.approx([1, 1, 1], abs=0.15)
    env.close()


def test_a_known_rate_is_found():
    gaps = 1e-4 * np.exp(0.7 * 0.1 * np.arange(60))[None].repeat(3, 0)
    assert parting_rate(gaps, 0.1) == pytest.approx(0.7)
    assert parting_rate(np.zeros((3, 9)), 0.1) is None


def test_pictures_are_refused():
    env = make("terrella/Sprites-v0")
    with pytest.raises(ConfigError):
        free_rollouts(Stage(env, describe(env), 0), 2, 5)
    env.close()
