"""A sentence that changes in the middle of a session: its last frames told again, exactly as if it had always held."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from terrella import Engine
from terrella.actions import encode
from terrella.engine import State
from terrella.errors import ActionError, ConfigError, StateError, StateSpent
from terrella.laws import shaken
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import Part, World, WorldConfig

TEXT = ActionSpec("text", n=4 * 12, charset="abcdefghijklmnopqrstuvwxyz ")
SPEC = WorldSpec({"vector": StreamSpec("vector", (3,))}, TEXT)
F = 5  # frames recalled: a window of four, and the one before it
BACKBONES = {
    "transformer": {"dim": 16, "heads": 1, "layers": 3, "every": 1, "window": 4},
    "memory": {
        "dim": 16,
        "heads": 1,
        "layers": 2,
        "every": 1,
        "window": 4,
        "memory": {"policy": "window", "frames": 3},
    },
    "ssm": {"dim": 16, "heads": 1, "layers": 1, "scan_heads": 1, "state": 3},
    "hybrid": {"dim": 16, "heads": 1, "layers": 2, "window": 4, "scan_heads": 1, "state": 3},
    "token_memory": {"dim": 16, "heads": 1, "layers": 1, "slots": 1, "reads": 1},
    "rssm": {"dim": 16, "blocks": 1, "groups": 1, "classes": 2, "hidden": 8, "width": 16, "layers": 1, "heads": 1},
}


def world(name: str = "transformer", spec: WorldSpec = SPEC, level: float = 0.8, decoder: Part | None = None) -> World:
    torch.manual_seed(0)
    part = Part({"memory": "transformer"}.get(name, name), BACKBONES[name])
    parts = WorldConfig(part, decoder or Part("shortcut"), {"vector": Part("vector", {"channels": 4})}, level)
    return shaken(World(spec, parts), torch.float64)


def engine(name: str = "transformer", **settings) -> Engine:
    return Engine(world(name), dtype=torch.float64, **{"recall": F, **settings})


def said(*sentences: str) -> np.ndarray:
    return np.stack([encode(TEXT, sentence) for sentence in sentences])


def frames(count: int, batch: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, count, 3)).astype(np.float32)


def begun(made: Engine, count: int = 8, batch: int = 3, seed: int = 0) -> State:
    """Sessions that saw so many frames, under two sentences."""
    rows = said(*("go up" if t < count // 2 else "go down" for t in range(count)))[: count - 1]
    seen = {"vector": frames(count, batch, seed)}
    return made.start(seen, np.repeat(rows[None], batch, 0), seeds=range(10 * seed, 10 * seed + batch))


def same(one: State, other: State, tolerance: float = 0.0) -> None:
    assert torch.equal(one.time, other.time)
    assert torch.equal(one.seeds, other.seeds)
    for a, b in zip(one.slabs.tensors(), other.slabs.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_reworded_memory_is_a_fresh_prefill(name: str) -> None:
    made = engine(name)
    told = said("stop", "stop", "go up")
    before = begun(made)
    state = made.reword(before, told)
    fresh = made.start(
        {"vector": frames(8)[:, -F:]}, np.repeat(told[:, None], F - 1, 1), seeds=[int(s) for s in state.seeds]
    )
    same(state, fresh, 1e-12)
    (_, one), (_, other) = (made.rollout(s, np.repeat(told[:, None], 3, 1)) for s in (state, fresh))
    np.testing.assert_allclose(one.observation["vector"], other.observation["vector"], rtol=0, atol=1e-6)
    with pytest.raises(StateSpent):
        made.step(before, told)


def test_dreamed_frames_are_told_again_as_one_masked_pass_would_tell_them() -> None:
    """Against another computation: the window's frames, all at once, in single precision, within 1e-5."""
    made = Engine(world(level=1.0).float(), recall=F)
    state, _ = made.rollout(begun(made, 3), np.repeat(said(*["go left"] * 3)[:, None], 4, 1))
    assert state.time.tolist() == [7] * 3
    z = made.recent(state).z
    told = said("stop", "go right", "wait here")
    old = made.world.dynamics.predict(state.slabs, torch.tensor(told, dtype=torch.float32))
    state = made.reword(state, told)
    rows = torch.tensor(told, dtype=torch.float32)
    clip = rows[:, None].repeat(1, F + 1, 1)
    clip[:, 0] = torch.nan
    longer = torch.cat([z, z[:, -1:]], 1)  # the last frame's content is never seen by its own prediction
    with torch.no_grad():
        _, predict = made.world.dynamics.parallel(longer, clip, torch.ones(3, F + 1))
        whole = predict(None, None)[:, -1]
        streamed = made.world.dynamics.predict(state.slabs, rows)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)
    assert (streamed - old).abs().max() > 1e-3
    assert state.time.tolist() == [F] * 3


def test_only_those_who_hear_something_else_are_changed() -> None:
    made = engine()
    state, _ = made.rollout(begun(made), np.repeat(said(*["wait"] * 3)[:, None], F, 1))
    kept = state.select([0, 1, 2])
    told = made.reword(state, said("wait", "stop", "wait"))
    same(told.select([0, 2]), kept.select([0, 2]))
    assert told.time.tolist() == [13, F, 13]
    alone = made.reword(kept.select([1]), said("stop"))
    same(told.select([1]), alone, 1e-12)
    again = made.reword(told, said("wait", "stop", "wait"))  # nothing is left to be told otherwise
    assert again.time.tolist() == [13, F, 13]


@pytest.mark.parametrize("exact", [None, 5])
def test_sessions_of_any_length_are_reworded_as_each_alone(exact: int | None) -> None:
    made = engine(exact=exact)
    parts = [begun(made, count, 1, seed) for seed, count in enumerate((1, 3, 9, 3, 6))]
    rows = said(*["stop"] * 5)
    alone = [made.step(made.reword(part.select([0]), rows[:1]), rows[:1])[1] for part in parts]
    state = made.reword(State.merge(parts), rows)
    assert state.time.tolist() == [1, 3, 5, 3, 5]
    _, frame = made.step(state, rows)
    one = np.concatenate([f.observation["vector"] for f in alone])
    if exact:
        assert np.array_equal(frame.observation["vector"], one)
    np.testing.assert_allclose(frame.observation["vector"], one, rtol=0, atol=1e-6)


def test_branches_part_by_their_sentences_and_the_parent_stays() -> None:
    made = engine()
    state = begun(made, 8, 1)
    untouched = begun(made, 8, 1)
    branches = made.reword(state.fork(3), said("stop", "stop", "go right"))
    _, frame = made.step(branches, said("stop", "stop", "go right"))
    x = frame.observation["vector"]
    assert np.array_equal(x[0], x[1])
    assert not np.allclose(x[0], x[2], atol=1e-4)
    row = said("go down")
    one, other = (made.step(s, row)[1].observation["vector"] for s in (state, untouched))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_chance_is_new_and_bytes_do_not_grow() -> None:
    made = engine()
    state, sizes, keys = begun(made), set(), set()
    for t in range(3 * F):
        sentences = said(*[f"go {'abc'[t % 3]}"] * 3)
        state = made.reword(state, sentences)
        keys |= {int(s) for s in state.seeds}
        state, _ = made.step(state, sentences)
        sizes.add(state.nbytes)
    assert len(sizes) == 1
    assert len(keys) == 9 * F


def test_an_engine_that_rewords_does_so_at_each_step_that_says_something_else() -> None:
    made, by_hand = engine(rewords=True), engine()
    row = said("stop", "go down", "stop")
    state, frame = made.step(begun(made), row)
    other, expected = by_hand.step(by_hand.reword(begun(by_hand), row), row)
    assert np.array_equal(frame.observation["vector"], expected.observation["vector"])
    same(state, other)
    after, _ = made.step(state, row)
    assert torch.equal(after.seeds, other.seeds)
    assert after.time.tolist() == [F + 2] * 3


def test_only_the_words_of_an_action_are_told_again() -> None:
    spec = replace(SPEC, action=ActionSpec("dict", keys=("key", "say"), children=(ActionSpec("discrete", n=3), TEXT)))
    made = Engine(world(spec=spec), dtype=torch.float64, recall=F)
    rows = np.concatenate([np.arange(7)[:, None] % 3, said(*["go up"] * 7)], 1)[None]
    state = made.start({"vector": frames(8, 1)}, rows)
    new = np.concatenate([[[2.0]], said("stop")], 1)
    told = made.recent(made.reword(state, new)).rows.numpy()
    assert np.isnan(told[0, 0]).all()
    assert told[0, 1:, 0].tolist() == rows[0, -4:, 0].tolist()
    assert (told[0, 1:, 1:] == new[0, 1:]).all()


def test_a_chunk_that_waits_is_drawn_anew_under_the_new_sentence() -> None:
    made = Engine(
        world(decoder=Part("swin", {"unit": 3, "steps": 2, "dim": 16, "layers": 1, "heads": 1})),
        dtype=torch.float64,
        recall=F,
    )
    after = []
    for reword in (False, True):
        state, _ = made.step(begun(made, 6, 1), said("go up"))
        for sentence in ("stop", "go right"):
            row, branch = said(sentence), state.fork(1)
            branch = made.reword(branch, row) if reword else branch
            after.append(made.step(branch, row)[1].observation["vector"])
    assert np.array_equal(after[0], after[1])  # inside a chunk no action is seen
    assert not np.allclose(after[2], after[3], atol=1e-4)


def test_what_cannot_be_reworded_says_so() -> None:
    keys = replace(SPEC, action=ActionSpec("discrete", n=3))
    with pytest.raises(ActionError, match=r"Discrete\(3\): there is no sentence"):
        Engine(World(keys, world_config("debug", keys)), recall=F, rewords=True)
    made = engine(recall=0)
    with pytest.raises(ConfigError, match=r"Engine\(world, recall=5\)"):
        made.reword(begun(made), said("a", "b", "c"))
    other, state = engine(), begun(made)
    with pytest.raises(StateError):
        other.reword(state, said("a", "b", "c"))
    state = begun(other)
    with pytest.raises(ActionError, match="3 sessions"):
        other.reword(state, said("a", "b"))
    assert not state.spent
