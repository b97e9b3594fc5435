"""Environments that are told what to do: the action is a sentence, and a small controller carries it out.

`Sentences` goes around any environment with a `Speaker` (`terrella.arenas.told` has ids). A sentence lasts a *chunk* of
frames: each step takes the sentence again and plays one primitive action of its controller, or `pace` of them where one
changes little. So every frame of a chunk carries the chunk's sentence as its action, and whatever learns from frames
and actions learns from these without knowing of chunks.

What was really done is said by `Speaker.did`, from the true state alone: it decides whether a sentence was carried out
(`info["done"]`), and it describes, in hindsight, what somebody else did (`terrella.data.speech`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
from gymnasium import spaces

from ..errors import ActionError, ArenaError
from .grammar import HELD_OUT, LETTERS, LONGEST, Deed, Grammar, Verb
from .wrappers import Stepped, repeat

Facts = dict[str, Any]
S = TypeVar("S", bound="type[Speaker]")


class Speaker(ABC):
    """What can be said of one simulator: which deeds there are, how they are done, and what was done.

    verbs: the deeds, and how they are said. rest: the one in which nothing is done. chunk: primitive actions that a
    sentence lasts, unless told otherwise. Facts are plain data (numbers, strings, containers, arrays), because they are
    part of saved states.
    """

    verbs: ClassVar[tuple[Verb, ...]]
    rest: ClassVar[Deed]
    chunk: ClassVar[int]

    def __init__(self, env: gym.Env) -> None:
        self.env: Any = env

    @classmethod
    @abstractmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether this speaker is for `env`, an unwrapped environment."""

    @abstractmethod
    def facts(self) -> Facts:
        """Return what deeds are about, as it truly is now."""

    @abstractmethod
    def feasible(self, steps: int) -> list[Deed]:
        """Return deeds that can begin now and probably be done within so many steps, in a fixed order."""

    @abstractmethod
    def act(self, deed: Deed, begun: Facts, passed: int) -> Any:
        """Return the next primitive action for a deed that began `passed` steps ago with the facts `begun`.

        Once it is done, or where it cannot be, the action is `idle`.
        """

    @abstractmethod
    def idle(self) -> Any:
        """Return the primitive action that changes least."""

    @abstractmethod
    def wander(self, rng: Any, previous: Any) -> Any:
        """Return a primitive action of somebody without a purpose, whose last one was `previous` (None at first)."""

    @abstractmethod
    def did(self, trace: Sequence[Facts], played: Sequence[Any]) -> list[Deed]:
        """Return all deeds that a stretch of T primitive actions, between T + 1 facts, truly was."""

    @property
    def sensors(self) -> spaces.Dict | None:
        """The space of `sensed`, None where there is nothing to sense."""
        return None

    def sensed(self) -> dict[str, Any]:
        """Return what is measured now, a value of `sensors`."""
        raise ArenaError(f"{type(self).__name__} senses nothing; give it `sensors` and `sensed`.")


_SPEAKERS: list[type[Speaker]] = []


def speaker(cls: S) -> S:
    """Register a `Speaker`."""
    _SPEAKERS.append(cls)
    return cls


class Spoken(spaces.Text):
    """The sentences of a grammar: a sample is one that training may hear; any text of its letters and length fits.

    rest: what is said where nobody asks for anything.
    """

    def __init__(self, grammar: Grammar, rest: str = "", seed: int | None = None) -> None:
        super().__init__(LONGEST, min_length=0, charset=LETTERS, seed=seed)
        self.grammar, self.rest = grammar, rest

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a sentence, whether or not it can be done just now."""
        del mask, probability
        return self.grammar.asked[int(self.np_random.integers(len(self.grammar.asked)))]


class Sentences(gym.Wrapper):
    """Takes sentences and plays the primitive actions that carry them out.

    Observations and ends are those of the environment inside, and so are rewards, summed over a step. A sentence
    begins when another was current, or when `chunk` steps of it are over; text that means nothing is answered by
    `idle`. `info` tells whether the sentence was `understood`, and whether what happened since it began is what it asks
    for, `done`.

    chunk: steps a sentence lasts (0: as the speaker has it). pace: primitive actions a step. held_out: see `Grammar`.
    Raises `ArenaError` for an environment that nobody can speak of and for other settings, `ConfigError` for another
    `held_out`.
    """

    def __init__(self, env: gym.Env, chunk: int = 0, pace: int = 1, held_out: int = HELD_OUT) -> None:
        super().__init__(env)
        found = next((cls for cls in _SPEAKERS if cls.matches(env.unwrapped)), None)
        if found is None:
            known = ", ".join(cls.__name__ for cls in _SPEAKERS)
            raise ArenaError(
                f"nobody can speak of {env.unwrapped}: there are {known}. Register a terrella.arenas.sentences.Speaker."
            )
        if chunk < 0 or pace < 1:
            raise ArenaError(
                f"chunk is {chunk}, pace {pace}; expected steps that a sentence lasts, or 0 for {found.chunk} "
                "primitive actions, and at least one of these a step."
            )
        grammar = _grammar(found, held_out)
        self._kind = found
        self.chunk, self.pace = chunk or -(-found.chunk // pace), pace
        rate = self.metadata.get("render_fps")
        self.metadata = {**self.metadata, **({"render_fps": rate / pace} if rate else {})}
        self.action_space: Any = Spoken(grammar, grammar.say(found.rest, 0))
        self._forget()

    @property
    def speaker(self) -> Speaker:
        """Who knows what can be done and what was."""
        return self._kind(self.unwrapped)

    @property
    def grammar(self) -> Grammar:
        """What can be said, and what is held out."""
        return self.action_space.grammar

    @property
    def done(self) -> bool:
        """Whether the current sentence was carried out since it began."""
        return bool(self.played) and self.grammar.understand(self.sentence) in self.speaker.did(self.trace, self.played)

    def feasible(self) -> list[Deed]:
        """Return deeds that could be asked for now and be done within a chunk."""
        return self.speaker.feasible(self.chunk * self.pace)

    def begin(self, sentence: str, script: Sequence[Any] = ()) -> None:
        """Begin a sentence, also where it is the current one.

        script: primitive actions for its first steps, chosen by somebody else; the controller does the rest.
        """
        self.sentence, self.script = sentence, list(script)
        self.trace, self.played = [self.speaker.facts()], []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, in which nothing was said yet."""
        self._forget()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Stepped:
        """Play what the sentence asks for, `pace` primitive actions of it."""
        if not isinstance(action, str):
            raise ActionError(f"action {action!r} is a {type(action).__name__}; expected a sentence, as text.")
        longest = max(self.chunk * self.pace, len(self.script))
        if action != self.sentence or not self.trace or len(self.played) >= longest:
            self.begin(action)
        deed = self.grammar.understand(action)
        observation, reward, terminated, truncated, info = repeat(lambda: self._play(deed), self.pace)
        said = {"understood": deed is not None, "done": self.done}
        return observation, reward, terminated, truncated, {**info, **said}

    def _play(self, deed: Deed | None) -> Stepped:
        """Play the next primitive action."""
        passed, speaker = len(self.played), self.speaker
        if passed < len(self.script):
            primitive = self.script[passed]
        else:
            primitive = speaker.idle() if deed is None else speaker.act(deed, self.trace[0], passed)
        result = self.env.step(primitive)
        self.played.append(primitive)
        self.trace.append(self.speaker.facts())
        return result

    def _forget(self) -> None:
        self.sentence = ""
        self.script: list[Any] = []
        self.trace: list[Facts] = []
        self.played: list[Any] = []


def find_sentences(env: gym.Env | None) -> Sentences:
    """Return the `Sentences` inside `env`; raises `ArenaError` where there is none."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, Sentences):
            return layer
        layer = layer.env
    raise ArenaError(
        f"{env} takes no sentences, or is out of reach in another process. Make one that does: "
        "terrella.arenas.make('terrella/Sentences-v0', inside=...)."
    )


@cache
def _grammar(kind: type[Speaker], held_out: int) -> Grammar:
    return Grammar(kind.verbs, held_out)
