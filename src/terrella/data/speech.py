"""Who acts where actions are sentences: one who asks for what can be done, and one who says what somebody did.

    speak       a sentence first, which the environment's controller carries out
    hindsight   wandering first, and a sentence afterwards: what the describer says of what truly happened

Both say nothing that is held out for testing (`terrella.arenas.grammar`), neither phrasings nor combinations.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..arenas import forkable
from ..arenas.grammar import Deed
from ..arenas.sentences import Sentences, find_sentences
from ..errors import ArenaError
from ..spec import WorldSpec
from .policies import POLICIES, Policy

LINGER = 0.5  # how often a sentence is repeated to the end of its chunk although it is done
TRIES = 8  # wanderings drawn until there is one that can be described


class Speak(Policy):
    """Asks for something else that can be done, verbs alike, and waits until it is done, or for the whole chunk.

    Raises `ArenaError` for environments that take no sentences, and for those in processes of their own.
    """

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Keep hold of the environment: what can be done depends on its true state."""
        del spec
        self._env: Sentences = find_sentences(env)

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Forget what was said in the last episode."""
        del space
        self._rng, self._sentence, self._left, self._lingers = rng, "", 0, False

    def act(self, observation: Any) -> str:
        """Return the current sentence, or another."""
        del observation
        if self._left == 0 or (self._env.done and not self._lingers):
            self._sentence = ask(self._env, self._rng, but=self._sentence)
            self._left, self._lingers = self._env.chunk, bool(self._rng.random() < LINGER)
        self._left -= 1
        return self._sentence


class Hindsight(Policy):
    """Lets somebody wander for a chunk, looks at what came of it, goes back, and says so while it happens again.

    What cannot be described is told shorter, down to one step; where nothing of it may be said, another wandering is
    drawn, and after `TRIES` of them something is asked for as by `Speak`. Needs an environment that can be forked.
    Such an episode cannot be played again from its sentences alone: controllers do the same things in other ways.
    """

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Keep hold of the environment, and of a way back."""
        del spec
        self._env: Sentences = find_sentences(env)
        fork = None if env is None else forkable(env)
        if fork is None or not fork.exact:
            raise ArenaError(f"{env} cannot be forked exactly, so nobody can look ahead. Use the policy 'speak'.")
        self._fork = fork

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Forget what was said in the last episode."""
        del space
        self._rng, self._sentence, self._left = rng, "", 0

    def act(self, observation: Any) -> str:
        """Return the current sentence, or the next chunk's."""
        del observation
        if self._left == 0:
            self._next()
        self._left -= 1
        return self._sentence

    def _next(self) -> None:
        env, state = self._env, self._fork.save()
        for _ in range(TRIES):
            trace, played = self._wander()
            self._fork.restore(state)
            for steps in range(len(played) // env.pace, 0, -1):
                length = steps * env.pace
                deeds = allowed(env, env.speaker.did(trace[: length + 1], played[:length]))
                if deeds:
                    self._sentence, self._left = phrase(env, deeds[self._rng.integers(len(deeds))], self._rng), steps
                    env.begin(self._sentence, played[:length])
                    return
        self._sentence, self._left = ask(env, self._rng), env.chunk
        env.begin(self._sentence)

    def _wander(self) -> tuple[list[Any], list[Any]]:
        """Play primitive actions for a chunk, stopping before one that ends the episode.

        That is nobody's deed as a rule, and a sentence of one frame would be told to have ended it.
        """
        env = self._env
        speaker, trace, played, action = env.speaker, [env.speaker.facts()], [], None
        for _ in range(env.chunk * env.pace):
            action = speaker.wander(self._rng, action)
            _, _, terminated, truncated, _ = env.env.step(action)
            if terminated or truncated:
                break
            played.append(action)
            trace.append(speaker.facts())
        return trace, played


def allowed(env: Sentences, deeds: list[Deed]) -> list[Deed]:
    """Leave out combinations that are kept for testing."""
    return [deed for deed in deeds if not env.grammar.is_held_deed(deed)]


def phrase(env: Sentences, deed: Deed, rng: np.random.Generator, held: bool = False) -> str:
    """Say a deed in a phrasing drawn from those for training, or from those held out, where there are any."""
    numbers = env.grammar.phrasings(deed, held) or env.grammar.phrasings(deed, not held)
    return env.grammar.say(deed, numbers[rng.integers(len(numbers))])


def ask(env: Sentences, rng: np.random.Generator, but: str = "") -> str:
    """Draw a verb among those that can be done now, then a deed, then a sentence; not `but`, if there is another."""
    deeds = allowed(env, env.feasible())
    avoided = env.grammar.understand(but)
    deeds = [deed for deed in deeds if deed != avoided] or deeds
    verbs = list(dict.fromkeys(deed[0] for deed in deeds))
    verb = verbs[rng.integers(len(verbs))]
    chosen = [deed for deed in deeds if deed[0] == verb]
    return phrase(env, chosen[rng.integers(len(chosen))], rng)


POLICIES["speak"] = Speak
POLICIES["hindsight"] = Hindsight
