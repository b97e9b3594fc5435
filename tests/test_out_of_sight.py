"""Leave and return: the truth goes on, frozen memories are told from it, who forgets nothing loses nothing."""

from __future__ import annotations

import numpy as np
import pytest

from terrella.arenas import describe, make
from terrella.errors import ArenaError
from terrella.evaluation.moments import Stage
from terrella.evaluation.out_of_sight import journeys, permanence
from terrella.evaluation.references import CopyLast, Oracle


def test_sprites_go_on_out_of_sight():
    env = make("terrella/Sprites-v0")
    stage = Stage(env, describe(env), 0)
    found = journeys(stage, 12, unseen=3)
    assert found.away.shape[1] == 9
    oracle = Oracle(stage, {g: m.state for g, m in enumerate(found.moments)})
    table = permanence(oracle, found, stage)
    assert table["asked"] > 4
    assert table["right"]["mean"] == 1
    assert table["revisit"]["mean"] == 0
    copied = permanence(CopyLast(), found, stage)
    assert copied["nearest_frozen"]["mean"] > 0.9  # the camera is back: the last frame is the frozen truth
    assert copied["right"]["mean"] < copied["chance"]["mean"]
    env.close()


def test_a_still_world_has_nothing_to_ask_of_motion():
    env = make("terrella/SpritesStill-v0")
    stage = Stage(env, describe(env), 0)
    found = journeys(stage, 4, unseen=2)
    assert permanence(CopyLast(), found, stage)["asked"] == 0
    assert (found.truths[:, 0] == np.stack([m.frames[-1]["pixels"] for m in found.moments])).all()
    env.close()


def test_other_arenas_are_refused():
    env = make("CartPole-v1")
    with pytest.raises(ArenaError):
        journeys(Stage(env, describe(env), 0), 2, unseen=2)
    env.close()
