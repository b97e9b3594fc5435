"""Fork matrices: an oracle is always right, who ignores actions scores exactly chance, known oracles their share."""

from __future__ import annotations

import numpy as np
import pytest

from terrella.arenas import describe, make
from terrella.errors import ArenaError, ConfigError, SpecError
from terrella.evaluation.denoising import denoising_matrices
from terrella.evaluation.fork_matrix import Matrices, fork_table, matrices, predict, scores
from terrella.evaluation.forks import Forks, fork_groups
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import ActionBlind, CopyLast, Oracle, RandomFrames
from terrella.world import World

ENVS = ("procgen/coinrun", "MiniGrid-Empty-5x5-v0", "Pendulum-v1", "CartPole-v1", "terrella/Sprites-v0")


def groups(name: str, n: int = 3, **settings):
    env = make(name)
    spec = describe(env)
    given = {"context": 2, "branches": 5, "marks": (1, 4, 9), "lead": 6, "seed": 3, **settings}
    return env, spec, next(fork_groups(env, spec, sizes=[n], **given))


def judge(dreamer, spec, forks: Forks) -> tuple[Matrices, dict]:
    name = next(iter(spec.modelled))
    found = matrices(predict(dreamer, forks), forks, name, spec.modelled[name], None)
    return found, fork_table(found, forks.marks)


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("kind", ["plans", "edits", "swaps"])
def test_the_truth_is_always_right(name, kind):
    env, spec, forks = groups(name, kind=kind, shift=2)
    found, table = judge(Oracle(Stage(env, spec, 0), dict(zip(forks.seeds, forks.states))), spec, forks)
    assert found.kept.sum(2).max() > 1
    for label in ("all", "masked"):
        for score in ("row", "column", "assign"):
            values = [v for v in table[label][score]["mean"] if v is not None]
            assert values
            assert values == [1.0] * len(values)
    assert all(v in (1.0, None) for part in table["avoided"].values() for v in part["mean"])
    env.close()


@pytest.mark.parametrize("name", ENVS)
def test_who_ignores_actions_scores_exactly_chance(name):
    env, spec, forks = groups(name)
    oracle = Oracle(Stage(env, spec, 0), dict(zip(forks.seeds, forks.states)))
    plans = Stage(env, spec, 5).draw(np.random.default_rng(0), 4 * 9).reshape(4, 9, -1)
    for blind in (CopyLast(), ActionBlind(oracle, plans)):
        found, _ = judge(blind, spec, forks)
        for matrix in (found.cost, found.masked):
            values = scores(matrix, found.kept)
            for score in ("row", "column", "assign"):
                np.testing.assert_allclose(values[score], values["chance"], atol=1e-12)
    env.close()


class OwnNoise(RandomFrames):
    """The wrong way: each branch draws for itself."""

    def start(self, observations, actions=None, seeds=0):
        return super().start(observations, actions, range(1000, 1000 + len(seeds)))


def test_frames_at_random_score_chance_exactly_if_branches_share_the_draw():
    _, spec, forks = groups("Pendulum-v1", n=90, marks=(4,), lead=0)
    bank = {name: frames[:, :, 0].reshape(-1, *frames.shape[3:]) for name, frames in forks.truths.items()}
    _, shared = judge(RandomFrames(bank), spec, forks)
    _, table = judge(OwnNoise(bank), spec, forks)
    for score in ("row", "column", "assign"):
        assert shared["all"][score]["mean"] == [pytest.approx(0.2, abs=1e-12)]
        assert shared["all"][score]["interval"] == [pytest.approx([0.2, 0.2])]
        ((low, high),) = table["all"][score]["interval"]
        assert low <= 0.2 <= high
        assert high - low > 0.01


def test_frames_at_random_do_not_depend_on_how_many_are_asked_at_once():
    bank, told = {"vector": np.arange(50.0, dtype=np.float32)[:, None]}, []
    for chunk in (1, 3, 8):
        dreamer = RandomFrames(bank, 2)
        state, frames = dreamer.start({"vector": np.zeros((3, 1, 1), np.float32)}, None, [5, 6, 5]), []
        for _ in range(0, 24, chunk):
            state, frame = dreamer.rollout(state, np.zeros((3, chunk, 1)))
            frames.append(frame.observation["vector"][..., 0])
        told.append(np.concatenate(frames, 1))
    assert (told[0] == told[1]).all()
    assert (told[0] == told[2]).all()
    assert (told[0][0] == told[0][2]).all()
    assert (told[0][0] != told[0][1]).any()


def test_an_oracle_that_errs_scores_what_it_should():
    env, spec, forks = groups("Pendulum-v1", n=80, marks=(9,), branches=8, lead=0)
    half = Oracle(Stage(env, spec, 0), dict(zip(forks.seeds, forks.states)), redrawn=0.5)
    _, table = judge(half, spec, forks)
    ((low, high),) = table["all"]["row"]["interval"]
    assert low < 0.5 + 0.5 / 8 < high
    assert high < 0.75


def test_branches_that_coincide_are_counted_once():
    _, spec, forks = groups("MiniGrid-Empty-5x5-v0", n=4, branches=12, marks=(1,))
    found, table = judge(CopyLast(), spec, forks)
    frames = forks.at(next(iter(spec.modelled)), 1)
    for g in range(len(forks)):
        assert found.kept[g, 0].sum() == len({frame.tobytes() for frame in frames[g]})
    assert table["all"]["left"][0] < 12


def test_branches_begin_with_what_the_policy_would_do_and_differ_as_asked():
    _, _, plans = groups("CartPole-v1", n=2)
    _, _, edits = groups("CartPole-v1", n=2, kind="edits")
    _, _, swaps = groups("CartPole-v1", n=2, kind="swaps")
    np.testing.assert_array_equal(plans.branches[:, 0], edits.branches[:, 0])
    changed = (edits.branches[:, 1:] != edits.branches[:, :1]).any(-1)
    assert (changed.sum(-1) == 1).all()
    moved = (swaps.branches[:, 1:] != swaps.branches[:, :1]).any(-1)
    assert (moved.sum(-1) <= 2).all()
    assert moved.any()
    np.testing.assert_array_equal(
        np.sort(swaps.branches, 2), np.sort(np.broadcast_to(swaps.branches[:, :1], swaps.branches.shape), 2)
    )


def test_a_constant_matrix_gets_no_credit_for_its_diagonal():
    values = scores(np.ones((1, 8, 8)), np.ones((1, 8), bool))
    assert values["assign"][0] == pytest.approx(1 / 8)
    assert values["row"][0] == pytest.approx(1 / 8)
    lost = scores(np.full((1, 4, 4), np.nan), np.ones((1, 4), bool))
    assert (lost["row"][0], lost["column"][0], lost["assign"][0]) == (0.0, 0.0, 0.0)


def test_what_cannot_be_forked_is_refused():
    env = make("ALE/Pong-v5", repeat_action_probability=0.25)
    with pytest.raises(ArenaError, match="forked exactly"):
        next(fork_groups(env, describe(env), sizes=[1], context=1))
    env.close()
    env = make("CartPole-v1")
    with pytest.raises(ConfigError, match="at least two branches"):
        next(fork_groups(env, describe(env), sizes=[1], context=1, branches=1))
    stage = Stage(env, describe(env), 0)
    with pytest.raises(SpecError, match="no state was saved"):
        Oracle(stage, {}).start({"vector": np.zeros((1, 2, 4), np.float32)}, np.zeros((1, 1, 1)), [9])


def test_the_loss_of_a_world_follows_the_actions_and_is_blind_without_them():
    world = World.load("pendulum")
    _, spec, forks = groups("Pendulum-v1", n=12, branches=4, marks=tuple(range(1, 9)), lead=0)
    kept, _ = judge(CopyLast(), spec, forks)
    found = denoising_matrices(world, forks, kept.kept, draws=2)
    assert found.cost.shape == (12, 8, 4, 4)
    low, _ = fork_table(found, forks.marks)["all"]["assign_kappa"]["interval"][-1]
    assert low > 0.5
    forks.branches[:] = forks.branches[:, :1]  # the world is told the same actions in every row
    deaf = scores(denoising_matrices(world, forks, kept.kept, draws=2).cost, kept.kept)
    np.testing.assert_allclose(deaf["row"], deaf["chance"], atol=1e-12)
    np.testing.assert_allclose(deaf["column"], deaf["chance"], atol=1e-12)


def test_a_loss_needs_every_frame(pendulum_world):
    _, spec, forks = groups("Pendulum-v1", n=1, marks=(1, 4))
    kept, _ = judge(CopyLast(), spec, forks)
    with pytest.raises(ConfigError, match="every true frame up to 4"):
        denoising_matrices(pendulum_world, forks, kept.kept)
