"""What is measured of whoever acts, beside the picture."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX

from terrella.arenas import describe, forkable, make, to_streams
from terrella.arenas.grammar import Deed
from terrella.arenas.sensors import Sensors
from terrella.arenas.sentences import Speaker, find_sentences
from terrella.engine import Engine
from terrella.errors import ArenaError
from terrella.training.presets import world_config
from terrella.world import World

ARENAS = ("terrella/SentencesGrid-v0", "terrella/SentencesPucks-v0")


def about_to_pick_up() -> tuple[gym.Env, dict[str, np.ndarray], Deed]:
    env = make("terrella/SentencesGrid-v0", sensors=True)
    seen, _ = env.reset(seed=1)
    feasible = find_sentences(env).speaker.feasible(12)
    return env, seen, next(deed for deed in feasible if deed[0] == "pick up")


def test_a_walker_is_the_first_row_and_what_it_carries_lies_in_the_corner() -> None:
    env, seen, deed = about_to_pick_up()
    speaker, said = find_sentences(env).speaker, find_sentences(env).grammar.say(deed, 0)
    assert seen["sensors"].shape == (4, 1, 5)  # the level says that there are three things
    for _ in range(13):
        (walker, *rows), facts = seen["sensors"][:, 0].tolist(), speaker.facts()
        x, y, direction = facts["pose"]
        assert walker == [OBJECT_TO_IDX["agent"], 0, x, y, direction]
        lying = {place: thing[:2] for place, thing in facts["things"].items()}
        lying |= {} if facts["carrying"] is None else {(0, 0): facts["carrying"]}
        assert {(x, y): (kind, colour) for kind, colour, x, y, _ in rows} == {
            place: (OBJECT_TO_IDX[kind], COLOR_TO_IDX[colour]) for place, (kind, colour) in lying.items()
        }
        assert rows == sorted(rows)
        seen, *_ = env.step(said)
    assert facts["carrying"] == (deed[2], deed[1])
    assert env.observation_space.contains(seen)
    assert describe(env).streams["sensors"].forms[0] == "codes"


def test_levels_that_do_not_say_how_many_things_there_are_have_room_for_eight() -> None:
    env = make("terrella/Sentences-v0", inside="MiniGrid-GoToDoor-6x6-v0", sensors=True)
    seen, _ = env.reset(seed=0)
    assert seen["sensors"].shape == (9, 1, 5)
    doors = seen["sensors"][1:, 0]
    assert (doors[:4, 0] == OBJECT_TO_IDX["door"]).all()
    assert not doors[4:].any()


def test_discs_are_tracked_by_colour() -> None:
    env = make("terrella/SentencesPucks-v0", sensors=True)
    for seed in range(5):
        seen, _ = env.reset(seed=seed)
        inside = env.unwrapped
        wanted = np.zeros((8, 2))
        wanted[inside.colour] = inside.position
        assert np.allclose(seen["sensors"], wanted, atol=1e-6)
        assert env.observation_space.contains(seen)


@pytest.mark.parametrize("name", ARENAS)
def test_a_restored_state_senses_the_same(name: str) -> None:
    env = make(name, sensors=True)
    env.reset(seed=3)
    fork = forkable(env)
    assert fork is not None
    state, sentence = fork.save(), env.action_space.sample()
    futures = []
    for _ in range(2):
        shown = [fork.restore(state)] + [env.step(sentence)[0] for _ in range(4)]
        futures.append(np.concatenate([np.ravel(part) for seen in shown for part in seen.values()]))
    assert np.array_equal(*futures)


def test_a_pose_stays_a_pose_in_a_world_that_knows_nothing() -> None:
    env = make("terrella/SentencesGrid-v0", sensors=True)
    seen, _ = env.reset(seed=1)
    spec = describe(env)
    world = World(spec, world_config("debug", spec, "regression"))
    engine = Engine(world, reencode=True)
    first = {name: np.asarray(value)[None, None] for name, value in to_streams(env, seen).items()}
    _, frame = engine.rollout(engine.start(first, seeds=[0]), np.repeat(np.array([spec.noop])[:, None], 6, 1))
    rows = frame.observation["sensors"].reshape(1, 6, 4, 5)
    assert np.array_equal(rows, rows.round())
    assert (rows >= 0).all()
    assert (rows < [11, 6, 8, 8, 4]).all()


def test_who_senses_nothing_is_told_so() -> None:
    inside = find_sentences(make("terrella/SentencesGrid-v0"))

    class Numb(Speaker):
        matches = classmethod(lambda cls, env: False)
        facts = feasible = act = idle = wander = did = None  # type: ignore[assignment]

    Numb.__abstractmethods__ = frozenset()
    with pytest.raises(ArenaError, match="give it `sensors`"):
        Numb(inside).sensed()
    inside._kind = Numb
    with pytest.raises(ArenaError, match="Numb senses nothing"):
        Sensors(inside)
