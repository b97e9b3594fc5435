"""Situations are made where an environment has them, are known to the truth, and elsewhere say why not."""

from __future__ import annotations

from typing import Any

import pytest

from terrella.arenas import describe, make
from terrella.errors import TerrellaError
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import CopyLast
from terrella.evaluation.situations import Size
from terrella.registry import lookup

CASES: dict[str, tuple[str, dict[str, Any], Size]] = {
    "unseen": ("terrella/Sprites-v0", {}, Size(8, 3, 2, 10)),
    "chance": ("terrella/Lorenz-v0", {"noise": 0.5}, Size(2, 4, 2, 4)),
    "change": ("terrella/Pucks-v0", {"drag": 0.0}, Size(3, 8, 2, 0)),
    "chaos": ("terrella/Lorenz-v0", {}, Size(2, 200, 2, 4)),
}


def merit(name: str, table: dict[str, Any]) -> float:
    """One number of each that is larger for who knows more."""
    if name == "chance":
        return -table["streams"]["vector"]["energy_distance"]["mean"][-1]
    return table[{"unseen": "right", "change": "auroc", "chaos": "valid_time"}[name]]["mean"]


@pytest.mark.parametrize("name", CASES)
def test_who_knows_is_better_than_who_holds_the_last_frame(name):
    arena, settings, size = CASES[name]
    env = make(arena, **settings)
    stage = Stage(env, describe(env), 0)
    situation = lookup("subject", name)()
    found = situation.make(stage, size)
    known = situation.score(situation.knows(stage, found), found, stage)
    held = situation.score(CopyLast(), found, stage)
    assert merit(name, known) > merit(name, held)
    if name == "unseen":
        assert merit(name, known) == 1
    if name == "chaos":
        assert known["never_wrong"] == 1
    env.close()


@pytest.mark.parametrize("name", CASES)
def test_elsewhere_the_reason_is_named(name):
    env = make("CartPole-v1")
    with pytest.raises(TerrellaError, match="CartPole"):
        lookup("subject", name)().make(Stage(env, describe(env), 0), Size(2, 4, 2, 0))
    env.close()
