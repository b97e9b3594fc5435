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
from terrella.arenas.speak_grid import COLOURS, THINGS
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


def test_a_walker_senses_its_pose_and_its_hand() -> None:
    env, seen, deed = about_to_pick_up()
    said = find_sentences(env).grammar.say(deed, 0)
    for _ in range(12):
        seen, *_ = env.step(said)
    inside = env.unwrapped
    assert seen["sensors"].tolist()[0][:3] == [*inside.agent_pos, inside.agent_dir]
    hand = seen["sensors"][0, 3] - 1
    assert (COLOURS[hand % len(COLOURS)], THINGS[hand // len(COLOURS)]) == deed[1:]
    assert env.observation_space.contains(seen)
    assert describe(env).streams["sensors"].forms[0] == "codes"


def test_a_map_has_what_lies_in_the_room_and_not_what_is_carried() -> None:
    env, seen, deed = about_to_pick_up()
    speaker = find_sentences(env).speaker
    for _ in range(12):
        things = {
            (int(x), int(y)): tuple(seen["map"][y, x, :2])
            for y, x in np.argwhere(seen["map"][..., 0] > OBJECT_TO_IDX["floor"])
        }
        codes = {
            place: (OBJECT_TO_IDX[kind], COLOR_TO_IDX[colour])
            for place, (kind, colour, _) in speaker.facts()["things"].items()
        }
        assert things == codes
        seen, *_ = env.step(find_sentences(env).grammar.say(deed, 0))
    assert len(codes) == 2


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
    poses = frame.observation["sensors"]
    assert np.array_equal(poses, poses.round())
    assert (poses >= 0).all()
    assert (poses < [8, 8, 4, 19]).all()


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
