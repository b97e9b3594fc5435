"""Agents that speak: sentences proposed, imagined, judged and said, by enumeration and by language models."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terrella import arenas
from terrella.arenas import describe
from terrella.arenas.read_grid import GridReader
from terrella.arenas.sentences import find_sentences
from terrella.data import record
from terrella.engine import Engine
from terrella.errors import ActionError, ConfigError, LanguageModelError, SpecError, StateError
from terrella.planning import (
    ERRANDS,
    GOALS,
    AskForChoice,
    AskForSentences,
    ByObjective,
    ByPicture,
    Deliberate,
    DeliberateSettings,
    Deliberator,
    Endpoint,
    Enumerate,
    Future,
    GridNarrator,
    LocalModel,
    Return,
    Scene,
    Simulator,
    begin,
    grammar_sentences,
    missing,
    play,
    recorded_sentences,
)
from terrella.planning.critics import read_number
from terrella.planning.proposers import read_sentences
from terrella.training import train

pytest.importorskip("minigrid")
ARENA = "terrella/SentencesGrid-v0"
SOME = ("go to the red key", "turn left", "wait")


def enumerating(env: Any) -> Enumerate:
    return Enumerate(grammar_sentences(find_sentences(env).grammar), GridReader())


def scene(env: Any, goal: str = "hold the red key") -> Scene:
    seen = {"pixels": arenas.forkable(env).last_observation()}  # type: ignore[union-attr]
    return Scene(goal, seen, seen)


# pictures of grids


def test_what_is_read_off_true_pictures_is_the_truth() -> None:
    """Along what somebody does, things are taken and put down: pose, hands and places are those of the environment.

    A dream is never that clear: with a little noise nearly all is still read as it is.
    """
    env = arenas.make(ARENA)
    told, reader, rng = find_sentences(env), GridReader(), np.random.default_rng(0)
    carried, blurred = 0, []
    for seed in range(3):
        first, _ = env.reset(seed=seed)
        before = reader.things(first)
        assert sorted(before) == sorted(t[:2] for t in told.speaker.facts()["things"].values())
        for _ in range(12):
            deeds = told.feasible()
            sentence = told.grammar.say(deeds[rng.integers(len(deeds))], 0)
            for _ in range(told.chunk):
                seen = env.step(sentence)[0]
                assert reader.read(seen[None], before) == [told.speaker.facts()]
                carried += told.speaker.facts()["carrying"] is not None
            noisy = (seen + rng.normal(0, 12, seen.shape)).clip(0, 255).astype(np.uint8)
            blurred.append(reader.read(noisy[None], before) == [told.speaker.facts()])
    assert carried
    assert np.mean(blurred) > 0.9
    with pytest.raises(SpecError, match="8 x 8"):
        reader.read(np.zeros((1, 60, 60, 3), np.uint8))


def test_goals_hold_where_they_should_and_the_rest_is_measured() -> None:
    key, ball = ("key", "red", ""), ("ball", "blue", "")
    facts = {"pose": (2, 2, 0), "carrying": None, "things": {(3, 2): key, (5, 5): ball}}
    held = {"pose": (2, 2, 0), "carrying": ("key", "red"), "things": {(5, 5): ball}}
    beside = {"pose": (2, 2, 0), "carrying": None, "things": {(4, 5): key, (5, 5): ball}}
    assert missing("stand before the red key", facts) == 0
    assert missing("hold the red key", held) == 0
    assert missing("have the red key next to the blue ball", beside) == 0
    assert (
        missing("hold the red key", facts) < missing("hold the blue ball", facts) < missing("hold the blue ball", held)
    )
    join = "have the red key next to the blue ball"
    assert 0 < missing(join, held) < missing(join, facts)
    assert missing("stand before the red key", held) > 1
    with pytest.raises(ConfigError, match="hold the red key"):
        missing("be happy", facts)


def test_errands_begin_where_their_goal_does_not_hold_and_name_what_is_there() -> None:
    for errand in ERRANDS.values():
        env = errand.task.make()
        begin(errand.task, env, seed=1)
        goal, facts = errand.goal(env), find_sentences(env).speaker.facts()
        assert missing(goal, facts) > 0
        deed = GOALS.understand(goal)
        assert deed is not None
        assert {(deed[i + 1], deed[i]) for i in range(1, len(deed), 2)} <= {t[:2] for t in facts["things"].values()}


# deliberating


def test_an_agent_with_a_perfect_world_does_what_it_is_asked() -> None:
    """The ceiling: the true simulator as the world. Its floor, the same sentences said at random, does not."""
    errand = ERRANDS["join"]
    env = errand.task.make()
    start = begin(errand.task, env, seed=1)
    actor = Deliberator(Simulator(env), enumerating(env), ByPicture(GridReader()), [errand.goal(env)])
    (episode,) = play(errand.task, describe(env), [env], [start], actor)
    assert errand.task.won(episode.held)
    (decisions,) = actor.decisions
    assert len(decisions) == errand.task.limit // 12
    assert actor.futures == sum(len(d.sentences) for d in decisions)
    assert all(d.costs[d.chosen] == d.costs.min() for d in decisions)
    assert decisions[-1].costs.min() == 0  # it knows that it has arrived
    random = Deliberator(Simulator(env), enumerating(env), None, [errand.goal(env)])
    (episode,) = play(errand.task, describe(env), [env], [start], random)
    assert not errand.task.won(episode.held)


def test_without_a_critic_sentences_are_said_at_random_and_nothing_is_imagined() -> None:
    env = arenas.make(ARENA)
    first, _ = env.reset(seed=0)
    simulator = Simulator(env)
    actor = Deliberator(simulator, enumerating(env), None, ["hold the red key"], DeliberateSettings(chunk=2))
    actor.begin({"pixels": first[None]}, [5])
    said = []
    for _ in range(8):
        said.append(actor.act().copy())
        actor.see({"pixels": first[None]})
    assert actor.futures == 0
    assert all(np.array_equal(said[i], said[i + 1]) for i in range(0, 8, 2))
    assert len({row.tobytes() for row in said}) > 1
    assert len(actor._scenes[0].said) == 4


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("told")
    data = record(ARENA, folder / "data", steps=240, policy="speak", max_episode_steps=60)
    return data, train(data, folder / "world", budget="4steps", preset="debug", device="cpu", progress=False)


def test_a_world_is_deliberated_in_and_recorded(told: Any, tmp_path: Path) -> None:
    data, world = told
    env, engine = arenas.make(ARENA), Engine(world, steps=1)
    known = recorded_sentences(data)
    assert set(known) <= set(find_sentences(env).grammar.asked)
    settings = DeliberateSettings(chunk=4, count=5)
    policy = Deliberate(engine, Enumerate(known), ByPicture(GridReader()), ERRANDS["hold"].goal, settings)
    made = record(env, tmp_path / "a", episodes=1, policy=policy, max_episode_steps=8)
    again = record(env, tmp_path / "b", episodes=1, policy=policy, max_episode_steps=8)
    rows = made.episode(0).actions
    assert np.array_equal(rows, again.episode(0).actions)
    assert set(recorded_sentences(made)) <= set(known)
    assert (rows[:4] == rows[0]).all()
    with pytest.raises(ActionError, match="sentences"):
        Deliberate(Simulator(arenas.make("CartPole-v1")), Enumerate(known), None, "")


def test_episodes_side_by_side_are_judged_alone(told: Any) -> None:
    """Two episodes with different numbers of sentences cost what each would cost by itself."""
    _, world = told
    engine, env = Engine(world, steps=1), arenas.make(ARENA)
    frames = np.stack([env.reset(seed=seed)[0] for seed in (1, 2)])
    goals = ["hold the red key", "stand before the grey box"]
    some = Enumerate(("turn left", "wait", "go to the red key", "go to the blue ball"), GridReader())

    def brightness(future: Future) -> np.ndarray:
        return future.observation["pixels"][:, -1].mean((1, 2, 3), dtype=np.float64)

    def decide(which: list[int], rows: int) -> Deliberator:
        settings = DeliberateSettings(chunk=2, max_rows=rows)
        actor = Deliberator(engine, some, ByObjective(brightness), [goals[i] for i in which], settings)
        actor.begin({"pixels": frames[which]}, [7 + i for i in which])
        actor.act()
        return actor

    both = decide([0, 1], 64)
    assert len({len(d[0].sentences) for d in both.decisions}) == 1 or both.futures > 4
    for other in ([decide([0], 64), decide([1], 64)], [decide([0, 1], 1)] * 2):
        for b, alone in enumerate(other):
            decision = alone.decisions[b if len(alone.decisions) > 1 else 0][0]
            assert decision.sentences == both.decisions[b][0].sentences
            np.testing.assert_allclose(decision.costs, both.decisions[b][0].costs, atol=0.02)


def test_turns_and_settings_are_checked(told: Any) -> None:
    _, world = told
    engine, env = Engine(world, steps=1), arenas.make(ARENA)
    actor = Deliberator(engine, Enumerate(SOME), ByObjective(Return()), ["hold the red key"])
    with pytest.raises(StateError, match="begin"):
        actor.act()
    with pytest.raises(StateError, match="nothing to see"):
        actor.see({})
    with pytest.raises(ConfigError, match="goals"):
        actor.begin({"pixels": np.stack([env.reset(seed=0)[0]] * 2)}, [0, 1])
    with pytest.raises(ConfigError, match="no sentences"):
        Enumerate(())
    with pytest.raises(ConfigError, match="count"):
        DeliberateSettings(count=0)


# reading answers


def test_answers_are_read_word_for_word_and_the_rest_is_counted() -> None:
    answer = '1. "Go to the red key."\n\n- turn left\nTurn left\nfly away\nimport os; os.system("x")\n3) wait'
    found = read_sentences(answer, SOME, 8)
    assert found.sentences == ("go to the red key", "turn left", "wait")
    assert found.dropped == 2
    assert read_sentences(answer, SOME, 1).sentences == ("go to the red key",)
    assert read_sentences("sing\n" * 100, SOME, 8).dropped == 100
    assert [read_number(a, 4) for a in ("3", "Future 2.", "well\n4", "5", "0", "two", "", "1.5")] == [
        3, 2, 4, None, None, None, None, None,
    ]  # fmt: skip


def test_futures_are_told_as_the_describer_sees_them() -> None:
    env = arenas.make(ARENA)
    first, _ = env.reset(seed=0)
    told = find_sentences(env)
    deed = next(d for d in told.feasible() if d[0] == "pick up")
    frames = np.stack([env.step(told.grammar.say(deed, 0))[0] for _ in range(told.chunk)])
    said = GridNarrator(GridReader())(Scene("", {"pixels": first}, {"pixels": first}), frames)
    assert told.grammar.say(deed, 0) in said
    assert said.endswith(f"holds the {deed[1]} {deed[2]}.")


# a server on this machine


@contextmanager
def serving(reply: Callable[[dict[str, Any]], tuple[int, bytes]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that speaks the protocol; yields its address and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            status, data = reply(body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):  # whoever asked has gone
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def message(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def helpful(body: dict[str, Any]) -> tuple[int, bytes]:
    """Reads the question as a model would: proposes what names the goal's thing, chooses who ends up holding it."""
    content = body["messages"][0]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    goal = next(line for line in text.splitlines() if line.startswith("Goal: ")).removeprefix("Goal: hold ")[:-1]
    if "understands these sentences" in text:
        return 200, message("\n".join(["dance", *(line for line in text.splitlines() if line.endswith(goal))]))
    best = [line for line in text.splitlines() if line[:1].isdigit() and f"holds {goal}" in line]
    return 200, message(best[0].split(".")[0] if best else "none of them")


def test_an_endpoint_proposes_and_judges() -> None:
    """Through real HTTP: a small program that knows nothing but the protocol brings the agent to its goal."""
    pytest.importorskip("httpx")
    errand = ERRANDS["hold"]
    env = errand.task.make()
    start = begin(errand.task, env, 3)
    with serving(helpful) as (url, asked):
        model = Endpoint(url, "small", key="secret", timeout=10)
        critic = AskForChoice(model, GridNarrator(GridReader()))
        actor = Deliberator(Simulator(env), AskForSentences(model, enumerating(env)), critic, [errand.goal(env)])
        (episode,) = play(errand.task, describe(env), [env], [start], actor)
    assert any(episode.held)
    assert actor.dropped == len(actor.decisions[0]) == 3  # "dance", each time
    assert {a["path"] for a in asked} == {"/v1/chat/completions"}
    assert {a["key"] for a in asked} == {"Bearer secret"}
    assert "secret" not in repr(model)
    assert all(a["model"] == "small" and a["max_tokens"] == 256 for a in asked)


def test_pictures_travel_as_pictures() -> None:
    pytest.importorskip("httpx")
    env = arenas.make(ARENA)
    env.reset(seed=0)
    with serving(lambda body: (200, message("2"))) as (url, asked):
        critic = AskForChoice(Endpoint(url, "m", sees=True))
        frames = np.zeros((3, 2, 64, 64, 3), np.uint8)
        blank = np.zeros((3, 2), np.float32)
        cost = critic.judge(scene(env), SOME, Future(np.zeros((3, 2, 1)), blank, blank, {"pixels": frames}))
        with pytest.raises(ConfigError, match="sees=True"):
            AskForChoice(Endpoint(url, "m")).judge(
                scene(env), SOME, Future(np.zeros((3, 2, 1)), blank, blank, {"pixels": frames})
            )
    assert cost.tolist() == [1.0, 0.0, 1.0]
    shown = [part for part in asked[0]["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(shown) == 3
    assert all(part["image_url"]["url"].startswith("data:image/png;base64,") for part in shown)


def test_what_an_endpoint_does_wrong_is_said() -> None:
    pytest.importorskip("httpx")
    wrong: dict[str, tuple[Callable[[dict[str, Any]], tuple[int, bytes]], dict[str, Any]]] = {
        "answered 404": (lambda body: (404, b"no such model"), {}),
        "answered 302": (lambda body: (302, b""), {}),
        "choices": (lambda body: (200, b"<html>"), {}),
        "choices\\[0\\]": (lambda body: (200, b'{"choices": []}'), {}),
        "type list": (lambda body: (200, message(["a"])), {}),
        "more than 100 bytes": (lambda body: (200, message("a" * 200)), {"limit": 100}),
        "within 0.2 s": (lambda body: (time.sleep(0.6), (200, message("a")))[1], {"timeout": 0.2}),
    }
    for expected, (reply, settings) in wrong.items():
        with serving(reply) as (url, _), pytest.raises(LanguageModelError, match=expected):
            Endpoint(url, "m", **settings).complete("hello")
    with pytest.raises(LanguageModelError, match="Is the server running"):
        Endpoint("http://127.0.0.1:9/v1", "m", timeout=2).complete("hello")
    for bad in ({"url": "localhost"}, {"timeout": 0}, {"tokens": 0}):
        with pytest.raises(ConfigError):
            Endpoint(**{"url": "http://localhost/v1", "model": "m", **bad})


# a model in a folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model with random weights, saved as users would save theirs."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("model")
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    words.train_from_iterator(["go to the red key", "turn left", "wait"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    fast.save_pretrained(path)
    config = transformers.Qwen2Config(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(config).save_pretrained(path, safe_serialization=True)
    return path


def test_a_local_model_says_its_likeliest_words(folder: Path) -> None:
    """The answer is what a loop of our own reads off the same weights, one word at a time."""
    import transformers

    model, before = LocalModel(folder, tokens=8), torch.get_rng_state()
    answer = model.complete("turn left")
    assert torch.equal(before, torch.get_rng_state())
    words = transformers.AutoTokenizer.from_pretrained(folder)
    own = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = words("turn left", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(8):
            following = own(ids).logits[0, -1].argmax()
            if int(following) == 0:
                break
            ids = torch.cat([ids, following[None, None]], 1)
    assert answer == words.decode(ids[0, start:])
    assert answer
    assert LocalModel(folder, tokens=8, temperature=2.0).complete("wait", seed=1) != answer


def test_nonsense_from_a_local_model_is_dropped_and_the_agent_waits(folder: Path) -> None:
    env = arenas.make(ARENA)
    first, _ = env.reset(seed=0)
    model = LocalModel(folder, tokens=8)
    among = Enumerate(("turn left", "turn right"))
    critic = AskForChoice(model, GridNarrator(GridReader()))
    settings = DeliberateSettings(chunk=2)
    actor = Deliberator(Simulator(env), AskForSentences(model, among), critic, ["hold the red key"], settings)
    actor.begin({"pixels": first[None]}, [0])
    actor.act()
    assert actor.decisions[0][0].sentence == find_sentences(env).action_space.rest
    assert actor.dropped >= 1
    assert critic.unread == 1


def test_folders_that_hold_no_model_and_prompts_that_are_too_long_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match="holds no language model"):
        LocalModel(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")  # a pickle is never opened
    with pytest.raises(LanguageModelError, match="safetensors"):
        LocalModel(tmp_path)
    with pytest.raises(LanguageModelError, match="reads 2048"):
        LocalModel(folder).complete("wait " * 2000)
    with pytest.raises(ConfigError, match="text alone"):
        LocalModel(folder).complete("wait", [np.zeros((8, 8, 3), np.uint8)])
