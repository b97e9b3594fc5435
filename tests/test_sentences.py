"""Sentences as actions: the grammar and what it holds out, who carries them out, who describes what was done."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terrella import arenas
from terrella.actions import action_space, decode, encode
from terrella.arenas.grammar import LONGEST, Grammar, Verb
from terrella.arenas.sentences import Sentences, Speaker, find_sentences
from terrella.arenas.speak_grid import GridSpeaker
from terrella.arenas.speak_pucks import DIRECTIONS, SIDES, PucksSpeaker
from terrella.check import TOKENS, check_dynamics, check_world, rollout_equals_parallel
from terrella.citation import cite
from terrella.data import Dataset, Hindsight, record
from terrella.data.speech import phrase
from terrella.errors import ActionError, ArenaError, ConfigError
from terrella.evaluation.entrant import WorldEntrant
from terrella.evaluation.fork_matrix import matrices, row_hits, scores
from terrella.evaluation.forks import fork_groups
from terrella.evaluation.language import Asked, measure_language, score_asked
from terrella.evaluation.measurements import LANGUAGE
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import CopyLast, Deaf, Misheard, Oracle
from terrella.evaluation.suite import run_suite
from terrella.laws import (
    actions_reach_the_next_frame,
    branches_equal_their_parent,
    future_changes_no_past,
    streaming_equals_parallel,
)
from terrella.nn.actions import ActionEmbedding, text_leaves
from terrella.registry import lookup
from terrella.spec import ActionSpec
from terrella.training import train, world_config
from terrella.world import Part, World, build_part

ARENAS = ("terrella/SentencesGrid-v0", "terrella/SentencesPucks-v0")
SPEAKERS = {"grid": GridSpeaker, "pucks": PucksSpeaker}
TEXT = ActionSpec("text", n=4 * LONGEST, charset="abcdefghijklmnopqrstuvwxyz ")


def opened(name: str, seed: int = 0, **kwargs: Any) -> tuple[Any, Sentences]:
    pytest.importorskip("minigrid" if "Grid" in name or "MiniGrid" in kwargs.get("inside", "") else "pymunk")
    env = arenas.make(name, **kwargs)
    env.reset(seed=seed)
    return env, find_sentences(env)


def carry_out(env: Any, told: Sentences, sentence: str) -> bool:
    """Say a sentence for a chunk; whether it was done."""
    done = False
    for _ in range(told.chunk):
        _, _, terminated, truncated, info = env.step(sentence)
        done = info["done"]
        if terminated or truncated:
            break
    return done


# the grammar


@pytest.mark.parametrize("speaker", SPEAKERS.values(), ids=SPEAKERS)
def test_what_is_held_out_is_made_of_what_is_not(speaker: type[Speaker]) -> None:
    grammar = Grammar(speaker.verbs)
    deeds = list(grammar.deeds())
    held = [deed for deed in deeds if grammar.is_held_deed(deed)]
    assert 0.1 < len(held) / len(deeds) < 0.3
    known = {word for deed in deeds if not grammar.is_held_deed(deed) for word in deed}
    assert {word for deed in held for word in deed} <= known
    heard = set(grammar.asked)
    words = {word for sentence in heard for word in sentence.split()}
    for deed in deeds:
        said = [grammar.say(deed, i) for i in range(grammar.count(deed))]
        reworded = [s for s in said if grammar.is_held_phrasing(s)]
        assert reworded, deed
        assert {word for s in said for word in s.split()} <= words
        assert all(grammar.understand(s) == deed for s in said)
        assert heard.isdisjoint(reworded)
        assert heard.isdisjoint(said) == grammar.is_held_deed(deed)
    assert grammar.understand("Hello, world.") is None


def test_the_split_is_by_counting_and_can_be_switched_off() -> None:
    verbs = (Verb("go", (("a", "b", "c"),), ("[go|walk|run] to {0}",), objects=1),)
    grammar = Grammar(verbs, 3)
    assert [d for d in grammar.deeds() if grammar.is_held_deed(d)] == [("go", "a")]
    assert grammar.asked == ("go to b", "walk to b", "go to c", "walk to c")
    assert grammar.understand("  Run to A. ") == ("go", "a")
    assert len(Grammar(verbs, 0).asked) == 9
    for wrong in (1, -1):
        with pytest.raises(ConfigError, match="held_out"):
            Grammar(verbs, wrong)
    with pytest.raises(ConfigError, match="share a sentence"):
        Grammar((*verbs, Verb("walk", (("b",),), ("walk to {0}",))))
    with pytest.raises(ConfigError, match="characters"):
        Grammar((Verb("shout", (), ("GO",)),))


@pytest.mark.parametrize("name", ARENAS)
def test_sentences_are_rows_and_the_split_is_recorded(name: str, tmp_path: Any) -> None:
    assert opened(name)[0].env_spec.kwargs == {"held_out": 5}
    env, told = opened(name, held_out=4)
    spec = arenas.describe(env)
    assert spec.action.kind == "text"
    assert decode(spec.action, np.array(spec.noop)) in told.grammar.asked
    for sentence in told.grammar.asked[::97]:
        assert decode(spec.action, encode(spec.action, sentence)) == sentence
        assert env.action_space.contains(sentence)
        assert action_space(spec.action).contains(sentence)
    data = record(env, tmp_path, episodes=1, max_episode_steps=3, policy="speak")
    assert data.spec.env.kwargs["held_out"] == 4
    assert find_sentences(arenas.make(data.spec.env)).grammar == told.grammar


# carrying out


@pytest.mark.parametrize(
    ("name", "kwargs", "least"),
    [
        (ARENAS[0], {}, 0.97),
        ("terrella/Sentences-v0", {"inside": "MiniGrid-UnlockPickup-v0", "tile_size": 8}, 0.9),
        (ARENAS[1], {"view": 16}, 0.7),
    ],
    ids=["objects", "doors", "pucks"],
)
def test_what_can_be_done_is_done_and_others_are_not(name: str, kwargs: dict[str, Any], least: float) -> None:
    """From one state every feasible sentence is carried out in a fork; the describer, who knows no plan, confirms."""
    done: dict[str, list[bool]] = {}
    for seed in range(2):
        env, told = opened(name, seed, **kwargs)
        fork = arenas.forkable(env)
        assert fork is not None
        state, rng = fork.save(), np.random.default_rng(seed)
        for deed in told.feasible():
            fork.restore(state)
            done.setdefault(deed[0], []).append(carry_out(env, told, phrase(told, deed, rng)))
    print({verb: (sum(found), len(found)) for verb, found in done.items()})
    assert np.mean([all_ for found in done.values() for all_ in found]) >= least
    assert all(any(found) for found in done.values())


def test_what_is_carried_is_put_next_to_things() -> None:
    env, told = opened(ARENAS[0])
    pick = next(deed for deed in told.feasible() if deed[0] == "pick up")
    assert carry_out(env, told, told.grammar.say(pick, 0))
    fork: Any = arenas.forkable(env)
    state, found = fork.save(), [deed for deed in told.feasible() if deed[0] == "put next to"]
    assert len(found) == 2
    for deed in found:
        fork.restore(state)
        assert carry_out(env, told, told.grammar.say(deed, 0))


def test_what_cannot_be_done_or_understood_is_answered_by_waiting() -> None:
    env, told = opened(ARENAS[0])
    fork: Any = arenas.forkable(env)
    there = {thing[1] for thing in told.speaker.facts()["things"].values()}
    absent = next(colour for colour in GridSpeaker.verbs[0].slots[0] if colour not in there)
    before = fork.quantities()
    for sentence in (f"go to the {absent} ball", "sing a song", ""):
        info = env.step(sentence)[4]
        assert not info["done"]
        assert info["understood"] == sentence.startswith("go")
    after = fork.quantities()
    assert all(np.array_equal(before[name], after[name]) for name in ("agent", "direction", "cells"))
    with pytest.raises(ActionError, match="as text"):
        env.step(3)
    with pytest.raises(ArenaError, match="nobody can speak"):
        arenas.make("terrella/Sentences-v0", inside="CartPole-v1")
    with pytest.raises(ArenaError, match="takes no sentences"):
        record("CartPole-v1", "nowhere", episodes=1, policy="speak")


def test_a_sentence_lasts_a_chunk_and_begins_anew() -> None:
    env, told = opened(ARENAS[0], chunk=3)
    directions = []
    for sentence in ["turn left"] * 6 + ["turn right"]:
        env.step(sentence)
        directions.append(told.speaker.facts()["pose"][2])
    first = (directions[0] + 1) % 4
    assert directions == [(first - turned) % 4 for turned in (1, 1, 1, 2, 2, 2, 1)]


def test_a_pace_leaves_out_frames_and_nothing_else() -> None:
    """One step at pace 3 is three steps at pace 1, and a chunk lasts as long."""
    fast, slow = opened(ARENAS[1]), opened(ARENAS[1], pace=1)
    assert (fast[1].chunk, slow[1].chunk) == (8, 24)
    assert arenas.describe(fast[0]).fps == arenas.describe(slow[0]).fps / 3
    for sentence in ["move up"] * 10 + ["go above the red disc"] * 3:
        seen = fast[0].step(sentence)
        for _ in range(3):
            every = slow[0].step(sentence)
        assert (seen[0] == every[0]).all()
        assert seen[4]["done"] == every[4]["done"]
    with pytest.raises(ArenaError, match="pace 0"):
        opened(ARENAS[1], pace=0)


def test_the_describer_knows_deeds_from_other_things() -> None:
    """Facts made by hand: what was done is said, what only looks like it is not."""
    speaker = GridSpeaker.__new__(GridSpeaker)

    def facts(pose: tuple[int, int, int], door: str = "closed", carrying: Any = None) -> dict[str, Any]:
        things = {(4, 2): ("door", "red", door)} | ({} if carrying else {(2, 4): ("key", "blue", "")})
        return {"pose": pose, "carrying": carrying, "things": things}

    walk = [facts((2, 2, 3)), facts((2, 2, 0)), facts((3, 2, 0))]
    assert set(speaker.did(walk, [1, 2])) == {("go", "red", "door"), ("turn and go", "right", "red", "door")}
    opening = [facts((3, 2, 0)), facts((3, 2, 0), "open")]
    assert speaker.did(opening, [5]) == [("open", "red")]
    assert speaker.did([facts((3, 2, 0))] * 2, [4]) == [("wait",)]
    taking = [facts((2, 3, 1)), facts((2, 3, 1), carrying=("key", "blue"))]
    assert speaker.did(taking, [3]) == [("pick up", "blue", "key")]
    assert speaker.did(taking[::-1], [4])[0] == ("put down",)


def test_a_push_needs_a_touch() -> None:
    told = opened(ARENAS[1])[1]
    place = np.array([[0.5, 0.3], [0.5, 0.5]])
    still = {"place": place, "velocity": np.zeros((2, 2)), "radius": np.full(2, 0.08), "colour": np.array([0, 1])}
    drifting = [still | {"place": place + np.array([[0, 0], [0, 0.02 * t]])} for t in range(6)]
    assert ("push", "up", "red") not in told.speaker.did(drifting, [])
    touching = [still | {"place": place + np.array([[0, 0.04], [0, 0]])}]
    fast = {"velocity": np.array([[0, 0], [0, 0.4]])}
    pushed = [still, *touching, *(facts | fast for facts in drifting[1:])]
    assert ("push", "up", "red") in told.speaker.did(pushed, [])


def test_discs_are_meant_by_their_colour() -> None:
    env, told = opened(ARENAS[1], seed=3)
    core: Any = told.unwrapped
    core.colour = np.array([0, *range(7, 7 - (len(core.colour) - 1), -1)])
    first = {deed[-1] for deed in told.feasible() if deed[0] == "push"}
    assert first <= {"cyan", "orange", "purple"}
    assert "red" not in first
    beside = [deed for deed in told.feasible() if deed[0] == "go" and deed[2] == "cyan"]
    gap = np.linalg.norm(core.position[1] - core.position[0])
    assert carry_out(env, told, told.grammar.say(beside[0], 0))
    assert np.linalg.norm(core.position[1] - core.position[0]) < gap


@pytest.mark.parametrize("side", SIDES)
def test_beside_a_disc_is_on_the_side_that_was_said(side: str) -> None:
    env, told = opened(ARENAS[1], count=(1, 1))
    core: Any = told.unwrapped
    way = np.array(DIRECTIONS[SIDES[side]])
    core.position, core.velocity = np.array([[0.5, 0.5] - 0.3 * way, [0.5, 0.5]]), np.zeros((2, 2))  # opposite
    core.colour = np.array([0, 1])
    assert ("go", side, "red") in told.feasible()
    assert carry_out(env, told, told.grammar.say(("go", side, "red"), 0))
    apart = core.position[0] - core.position[1]
    assert apart @ way > 0.2 - 1e-3  # both radii
    assert abs(apart @ way[::-1]) < 0.1
    assert ("go", side, "red") not in told.feasible()  # that is where it is


# recording


@pytest.mark.parametrize("name", ARENAS)
def test_hindsight_says_what_was_done(name: str, tmp_path: Any) -> None:
    """Every sentence of a chunk is true of what happened in it, and none is held out."""
    pytest.importorskip("minigrid" if "Grid" in name else "pymunk")
    data = record(name, tmp_path, steps=60, policy="hindsight", max_episode_steps=60)
    told = opened(name)[1]
    heard = set()
    for i in range(len(data)):
        for row in data.episode(i).actions:
            sentence = decode(data.spec.action, row)
            assert sentence in told.grammar.asked
            heard.add(sentence)
    assert len(heard) > 1


@pytest.mark.parametrize("name", ARENAS)
def test_hindsight_is_confirmed_as_it_happens(name: str) -> None:
    env, told = opened(name)
    policy = Hindsight()
    policy.prepare(arenas.describe(env), env)
    policy.begin(env.action_space, np.random.default_rng(0))
    observation, confirmed = env.reset(seed=1)[0], []
    for _ in range(100):
        sentence = policy.act(observation)
        observation, _, terminated, truncated, info = env.step(sentence)
        if policy._left == 0 and told.script:
            confirmed.append(info["done"])
        if terminated or truncated:
            break
    assert confirmed
    assert all(confirmed)


def test_who_speaks_asks_for_many_things_and_never_for_what_is_held_out(tmp_path: Any) -> None:
    pytest.importorskip("minigrid")
    data = record(ARENAS[0], tmp_path, steps=150, policy="speak", max_episode_steps=75)
    told = opened(ARENAS[0])[1]
    said = {decode(data.spec.action, row) for i in range(len(data)) for row in data.episode(i).actions}
    assert said <= set(told.grammar.asked)
    assert len({told.grammar.understand(s)[0] for s in said}) >= 5  # type: ignore[index]
    again = record(ARENAS[0], tmp_path / "again", steps=150, policy="speak", max_episode_steps=75)
    assert np.array_equal(data.episode(0).observations["pixels"], again.episode(0).observations["pixels"])


# encoders


def rows(*sentences: str) -> torch.Tensor:
    return torch.tensor(np.stack([encode(TEXT, s) for s in sentences])).float()


@pytest.mark.parametrize("part", [Part("words"), Part("words", {"layers": 0}), Part("bytes")])
def test_encoders_know_sentences_apart(part: Part) -> None:
    torch.manual_seed(0)
    encoder = build_part("text", part, 24)
    said = ("push the red disc up", "push the red disc down", "push the blue disc up", "", "wait")
    out = encoder(rows(*said).long())
    assert out.shape == (5, 24)
    assert (torch.cdist(out, out) + 9 * torch.eye(5)).min() > 0.05
    torch.testing.assert_close(encoder(rows(said[1]).long())[0], out[1])
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_words_are_read_whatever_their_case_and_their_spaces_and_in_their_order() -> None:
    torch.manual_seed(0)
    encoder = lookup("text", "words")(lookup("text", "words").Config(words=4), 16).double()
    plain, same, other, long, longer = encoder(
        rows("take red key", "  Take  red key ", "take key red", "a b c d", "a b c d e").long()
    )
    torch.testing.assert_close(plain, same)
    torch.testing.assert_close(long, longer)
    assert (plain - other).abs().max() > 0.01
    bag = lookup("text", "words")(lookup("text", "words").Config(words=4, layers=0), 16).double()
    plain, other, long, longer = bag(rows("take red key", "take key red", "a b c d", "a b c d e").long())
    torch.testing.assert_close(plain, other)
    torch.testing.assert_close(long, longer)
    with pytest.raises(ConfigError, match="heads"):
        lookup("text", "words").Config(width=10, heads=3)


def test_a_sentence_of_many_frames_is_encoded_once() -> None:
    torch.manual_seed(0)
    embed = ActionEmbedding(TEXT, 16)
    (leaf,) = text_leaves(embed)
    seen = []
    leaf.encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    clip = rows("wait", "go to the red door", "wait", "wait").repeat(3, 1, 1)
    out = embed(clip)
    assert out.shape == (3, 4, 16)
    frame = embed(clip[:, 1])
    torch.testing.assert_close(frame, out[:, 1])
    torch.testing.assert_close(out[0, 0], out[2, 3])
    assert seen == [2, 3]


def test_sentences_are_read_in_one_graph() -> None:
    """Compiled steps want static shapes: no graph may break at a text, nor depend on how many sentences differ."""
    torch.manual_seed(0)
    embed = ActionEmbedding(TEXT, 16)
    clip = rows("wait", "go to the red door", "wait").repeat(2, 1, 1)
    whole = torch.compile(embed, fullgraph=True, backend="eager")
    for given in (clip, clip[:, 0]):
        torch.testing.assert_close(whole(given), embed(given))


SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"dim": 16, "heads": 1, "layers": 1, "window": 2},
    "ssm": {"dim": 16, "heads": 1, "layers": 1, "scan_heads": 1, "state": 3},
    "hybrid": {"dim": 16, "heads": 1, "layers": 1, "window": 1, "scan_heads": 1, "state": 3},
    "language": {"dim": 16, "heads": 1, "layers": 1, "window": 2},
    "token_memory": {"dim": 16, "heads": 1, "layers": 1, "slots": 1, "reads": 1},
    "rssm": {"dim": 16, "blocks": 1, "groups": 1, "classes": 2, "hidden": 8, "width": 16, "layers": 1, "heads": 1},
    "reaction_diffusion": {"dim": 12, "groups": 3, "steps": 1, "settle": 1, "scales": 1, "mlp": 1.0},
}
LAWS = (streaming_equals_parallel, future_changes_no_past, actions_reach_the_next_frame, branches_equal_their_parent)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_backbone_keeps_its_laws_under_sentences(law: Any) -> None:
    torch.manual_seed(0)
    law(build_part("dynamics", Part("transformer", SMALL["transformer"]), TOKENS, TEXT))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_backbone_keeps_all_its_laws_under_sentences(name: str) -> None:
    torch.manual_seed(0)
    assert check_dynamics(build_part("dynamics", Part(name, SMALL[name]), TOKENS, TEXT))


# worlds


@pytest.fixture(scope="module")
def told_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pytest.importorskip("minigrid")
    return record(
        ARENAS[0], tmp_path_factory.mktemp("told"), episodes=4, max_episode_steps=36, policy="speak", num_envs=1
    )


def test_a_world_is_trained_stepped_and_measured_by_sentences(told_data: Dataset, tmp_path: Any) -> None:
    world = train(told_data, tmp_path, budget="6steps", preset="debug", device="cpu", progress=False)
    assert "Hash Embeddings" in cite(world)
    loaded = World.load(tmp_path)
    assert 4 < len(loaded.sentences) <= 12
    assert loaded.sentences == world.sentences
    assert all(opened(ARENAS[0])[1].grammar.understand(sentence) for sentence in loaded.sentences)
    rollout_equals_parallel(loaded, torch.float32)
    env = arenas.make(told_data.spec.env)
    found = measure_language(
        WorldEntrant(world), env, world.spec, context=2, groups=1, branches=3, marks=(1, 2), seed=1
    )
    assert json.loads(json.dumps(found))["streams"]["pixels"].keys() == {
        "known",
        "new deed",
        "reworded",
        "reworded new deed",
    }


@pytest.mark.slow
def test_a_world_keeps_all_its_laws_under_sentences(told_data: Dataset) -> None:
    assert check_world(World(told_data.spec, world_config("debug", told_data.spec)))


def test_the_encoder_is_chosen_in_the_config(told_data: Dataset, cartpole_data: Dataset, tmp_path: Any) -> None:
    parts = world_config("debug", told_data.spec)
    world = World(told_data.spec, replace(parts, text=Part("bytes", {"buckets": 64})))
    assert {type(leaf.encoder).__name__ for leaf in text_leaves(world.dynamics)} == {"Bytes"}
    world.save(tmp_path)
    loaded = World.load(tmp_path)
    assert loaded.config.text == world.config.text
    with pytest.raises(ConfigError, match="Discrete"):
        World(cartpole_data.spec, replace(world_config("debug", cartpole_data.spec), text=Part("words")))


# evaluation


@pytest.mark.parametrize("name", ARENAS)
def test_an_oracle_does_what_it_is_told(name: str) -> None:
    env, told = opened(name)
    spec = arenas.describe(env)
    how: dict[str, Any] = {"context": 1, "branches": 4, "marks": (1, 8), "seed": 3, "policy": "speak"}
    asked, reworded = (next(fork_groups(env, spec, sizes=[2], kind=kind, **how)) for kind in ("asked", "reworded"))
    assert asked.states == reworded.states  # the same moments
    for forks, rephrased in ((asked, False), (reworded, True)):
        said = [decode(spec.action, row.astype(np.float64)) for row in forks.branches[:, :, 0].reshape(8, -1)]
        assert {told.grammar.is_held_phrasing(s) for s in said} == {rephrased}
        assert any(told.grammar.is_held_deed(told.grammar.understand(s)) for s in said)  # type: ignore[arg-type]
    oracle = Oracle(Stage(env, spec, 0, policy="speak"), dict(zip(asked.seeds, asked.states)))
    found = measure_language(oracle, env, spec, groups=2, **how)["streams"]["pixels"]
    assert all(table["row"]["mean"][1] == 1 for table in found.values() if table["n"][1])
    assert found["known"]["carried_out"] > 0.5
    for table in (table for table in found.values() if table["n"][1]):
        assert table["times"]["mean"][1] == pytest.approx(1 / table["chance"][1])
        assert table["n"] == np.sum(table["raw"]["n"], 0).tolist()


def test_who_hears_nothing_or_something_else_is_not_mistaken_for_one_who_follows() -> None:
    env, _ = opened(ARENAS[1])
    spec = arenas.describe(env)
    how: dict[str, Any] = {"context": 1, "branches": 4, "marks": (8,), "seed": 3, "policy": "speak", "kind": "asked"}
    forks = next(fork_groups(env, spec, sizes=[3], **how))
    new = np.arange(12).reshape(3, 4) % 4 == 0
    asked = Asked("asked", forks, new, np.ones_like(new))
    oracle = Oracle(Stage(env, spec, 0, policy="speak"), dict(zip(forks.seeds, forks.states)))

    def right(dreamer: Any) -> tuple[float, float]:
        tables = score_asked(dreamer, asked, spec)["pixels"].values()
        return tuple(float(np.sum([table["raw"][key] for table in tables])) for key in ("hits", "chance"))

    hits, chance = right(oracle)
    assert hits == 12 > chance
    assert right(Deaf(oracle, spec.noop)) == pytest.approx((chance, chance))
    assert right(Misheard(oracle))[0] == 0


def test_only_what_differs_between_futures_decides_a_row() -> None:
    env, _ = opened(ARENAS[1])
    spec = arenas.describe(env)
    forks = next(fork_groups(env, spec, sizes=[2], context=1, branches=4, marks=(8,), policy="speak", kind="asked"))
    noise = np.random.default_rng(0).integers(0, 40, forks.truths["pixels"].shape)
    said = {"pixels": np.roll(forks.truths["pixels"] // 2, 1, 1) + noise.astype(np.uint8)}
    found = matrices(said, forks, "pixels", spec.modelled["pixels"], None)
    np.testing.assert_array_equal(row_hits(found.cost, found.kept), row_hits(found.masked, found.kept))


def test_rows_agree_with_scores() -> None:
    rng = np.random.default_rng(0)
    cost, kept = rng.random((5, 2, 4, 4)), rng.random((5, 2, 4)) > 0.2
    hits = row_hits(cost, kept)
    mean = np.nanmean(hits, -1)
    np.testing.assert_allclose(mean, scores(cost, kept)["row"])
    assert np.array_equal(np.isnan(hits), ~(kept & (kept.sum(-1, keepdims=True) > 1)))


def test_the_language_suite_compares_entrants_where_actions_are_sentences(tmp_path: Any) -> None:
    pytest.importorskip("pymunk")
    held = CopyLast()
    entrant: Any = type("Held", (), {"describe": lambda _: {"name": "held"}, "close": lambda _: None})()
    entrant.start, entrant.rollout = held.start, held.rollout
    suite = [replace(m, groups=2, branches=3, marks=(6,)) for m in LANGUAGE]
    how: dict[str, Any] = {"env": ARENAS[1], "policy": "speak", "context": 1, "progress": False}
    found = run_suite(None, [entrant], suite=suite, out=tmp_path, **how)["measurements"]
    for name in ("asked", "reworded"):
        rows = {who: table["streams"]["pixels"]["all"] for who, table in found[name]["entrants"].items()}
        assert rows["true simulator"]["row"]["mean"] == [1.0]
        assert rows["held"]["row"]["mean"] == rows["held"]["chance"]
    assert (tmp_path / "suite.html").exists()
    missing = run_suite(None, [entrant], **{**how, "env": "CartPole-v1", "policy": "random"}, suite=suite[:1])
    assert "no sentences" in missing["measurements"]["asked"]["missing"]


def test_the_benchmark_measures_worlds_once(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    pytest.importorskip("pymunk")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    bench = importlib.import_module("sentences")
    monkeypatch.delitem(sys.modules, "sentences")
    few: dict[str, Any] = {"arenas": "pucks", "seeds": 0, "speak": 60, "hindsight": 30, "train": "2steps"}
    few |= {"preset": "debug", "device": "cpu", "moments": 4, "branches": 8, "context": 1, "lead": 0, "sessions": 2}
    few |= {"frames": 20, "out": tmp_path}
    how = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    how += ["--conditions", "known", "new deed", "endurance"]
    bench.main([*how, "--minutes", "0"])
    assert json.loads(capsys.readouterr().out)["rows"] == []
    bench.main(how)
    result = json.loads(capsys.readouterr().out)
    known, new, lives = result["rows"]
    assert Dataset(tmp_path / "data" / "pucks-60-30").steps == 90
    assert [row["condition"] for row in result["pooled"]] == ["known", "new deed"]
    for row in (known, new):
        assert row["simulator"]["row"]["mean"] == [1.0] * 4
        assert row["horizons"] == [1, 2, 4, 8]
    assert (lives["marks"], lives["true_lengths"], len(lives["motion_sessions"])) == ([10], [20, 20], 2)
    table = importlib.import_module("tabled.language").sentences(result).splitlines()
    assert [line.split(" |")[0] for line in table[2:4]] == ["| pucks, known", "| pucks, new deed"]
    assert table[-4].endswith(f"| {lives['alive']} of 2 |")
    assert [line.split(" |")[0] for line in table[-4:]] == [
        f"| pucks, {key}" for key in ("motion", "spread", "strangeness", "actor")
    ]
    assert lives["alive"] <= sum(share >= 0.5 for share in lives["actor_sessions"])
    monkeypatch.setattr(bench.Bench, "run", None)  # nothing is left to do
    bench.main(how)
    assert json.loads(capsys.readouterr().out)["rows"] == [known, new, lives]


@pytest.mark.parametrize(("arena", "name"), zip(ARENAS, ("walker", "white_disc")))
def test_who_acts_is_seen_in_true_pictures_and_missed_where_nobody_is(arena: str, name: str, monkeypatch: Any) -> None:
    pytest.importorskip("pymunk")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    seen = getattr(importlib.import_module("actors"), name)
    env = arenas.make(arena)
    told, pictures, without = find_sentences(env), [], []
    for seed in range(12):
        picture, _ = env.reset(seed=seed)
        for sentence in ("turn left", "walk ahead one step", "move up", "move left"):
            picture = env.step(sentence)[0]
        pictures.append(picture)
        empty = picture.copy()
        if name == "walker":
            x, y, _ = told.speaker.facts()["pose"]
            empty[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = empty[:8, :8]
        else:
            empty[(empty > 200).all(-1)] = empty[0, 0]
        without.append(empty)
    assert seen(np.stack(pictures), env).all()
    assert not seen(np.stack(without), env).any()
    faint = (0.9 * np.stack(without) + 0.1 * np.stack(pictures)).astype(np.uint8)
    assert not seen(faint, env).any()
    env.close()


def test_a_recording_by_several_goes_on_where_it_was_stopped(tmp_path: Any, monkeypatch: Any) -> None:
    pytest.importorskip("pymunk")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    recorded_by = importlib.import_module("common").recorded_by
    monkeypatch.delitem(sys.modules, "common")
    shares = [("speak", 20), ("hindsight", 10)]
    how: dict[str, Any] = {"seed": 7, "max_episode_steps": 10, "progress": False}
    whole = recorded_by(ARENAS[1], tmp_path / "whole", shares, **how)
    record(ARENAS[1], tmp_path / "parts", steps=10, policy="speak", **how)  # and stopped
    parts = recorded_by(ARENAS[1], tmp_path / "parts", shares, **how)
    assert parts.steps == whole.steps == 30
    assert parts.seeds == whole.seeds
    np.testing.assert_array_equal(parts.actions, whole.actions)
