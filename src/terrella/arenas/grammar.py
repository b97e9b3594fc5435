"""What can be asked for, in words: deeds, the many sentences that mean each, and which of both are kept for testing.

A deed is a tuple of words, the verb first: `("pick up", "blue", "key")`. A verb has forms such as
`"[go|walk] to the {0} {1}"`, with alternatives in brackets and the deed's words in braces; every choice of alternatives
is a *phrasing*, and has a number. So a sentence is a deed and the number of a phrasing, and nothing else.

Two things are held out, both by counting, so that the split needs no seed and no list:

    phrasings      every n-th of a verb's; all words of those held out occur in others
    combinations   of a verb with an object: those whose places in their vocabularies add up to a multiple of n

Every verb, colour and kind of thing therefore occurs in both parts. n is `held_out`, an argument of the environment,
which every dataset records in its `EnvSpec`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..errors import ConfigError

Deed = tuple[str, ...]
HELD_OUT = 5
LONGEST = 56  # characters of a sentence, at most
LETTERS = "abcdefghijklmnopqrstuvwxyz "


@dataclass(frozen=True)
class Verb:
    """A kind of deed.

    slots: for each word after the verb, those there are. forms: how it is said. objects: how many of the last slots
    name what it is done to; 0 where no combination is held out. number: of the verb among those that are combined; two
    verbs that do the same to a thing share one, lest one of them teach the other's combinations.
    """

    name: str
    slots: tuple[tuple[str, ...], ...]
    forms: tuple[str, ...]
    objects: int = 0
    number: int = 0

    @cached_property
    def phrasings(self) -> tuple[str, ...]:
        """All forms with their alternatives chosen, in a fixed order."""
        return tuple(said for form in self.forms for said in _choose(form))

    def deeds(self) -> Iterator[Deed]:
        """All deeds of this kind."""
        for words in itertools.product(*self.slots):
            yield (self.name, *words)


@dataclass(frozen=True)
class Grammar:
    """The verbs of an arena. held_out: n of the module's text, at least 2, or 0 to hold out nothing.

    Raises `ConfigError` for another n, for two deeds with one sentence, and for sentences that are too long.
    """

    verbs: tuple[Verb, ...]
    held_out: int = HELD_OUT

    def __post_init__(self) -> None:
        if self.held_out < 0 or self.held_out == 1:
            raise ConfigError(f"held_out is {self.held_out}; expected 0 (nothing) or every how many, from 2 on.")
        count = 0
        for sentence in (self.say(deed, i) for deed in self.deeds() for i in range(self.count(deed))):
            count += 1
            if len(sentence) > LONGEST or set(sentence) - set(LETTERS):
                raise ConfigError(f"sentence {sentence!r} has over {LONGEST} characters, or others than {LETTERS!r}.")
        if count != len(self._meaning):
            raise ConfigError("two deeds of this grammar share a sentence; make their forms differ.")

    def __deepcopy__(self, memo: dict[int, object]) -> Grammar:
        """Nothing of it changes, and it is large."""
        return self

    def deeds(self) -> Iterator[Deed]:
        """All deeds of all verbs."""
        return (deed for verb in self.verbs for deed in verb.deeds())

    def count(self, deed: Deed) -> int:
        """How many phrasings a deed has."""
        return len(self._verb(deed).phrasings)

    def say(self, deed: Deed, phrasing: int) -> str:
        """Return the sentence for a deed in one phrasing."""
        return self._verb(deed).phrasings[phrasing].format(*deed[1:])

    def understand(self, sentence: str) -> Deed | None:
        """Return the deed that a sentence means, whatever its case, spaces and full stop; None if it means none."""
        found = self._meaning.get(_plain(sentence))
        return None if found is None else found[0]

    def is_held_phrasing(self, sentence: str) -> bool:
        """Whether a sentence is phrased as training never is."""
        found = self._meaning.get(_plain(sentence))
        return found is not None and found[1] not in self.phrasings(found[0], held=False)

    def is_held_deed(self, deed: Deed) -> bool:
        """Whether a deed is a combination that training never asks for."""
        verb = self._verb(deed)
        if not (self.held_out and verb.objects):
            return False
        words = list(zip(verb.slots, deed[1:]))[-verb.objects :]
        return (verb.number + sum(slot.index(word) for slot, word in words)) % self.held_out == 0

    def phrasings(self, deed: Deed, held: bool) -> list[int]:
        """Numbers of the phrasings that are kept for testing, or of all others."""
        n, every = self.held_out, range(self.count(deed))
        return [i for i in every if (bool(n) and i % n == n - 1) == held]

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """All sentences that training may hear."""
        return tuple(
            self.say(deed, i)
            for deed in self.deeds()
            if not self.is_held_deed(deed)
            for i in self.phrasings(deed, held=False)
        )

    @cached_property
    def _meaning(self) -> dict[str, tuple[Deed, int]]:
        return {self.say(deed, i): (deed, i) for deed in self.deeds() for i in range(self.count(deed))}

    def _verb(self, deed: Deed) -> Verb:
        return self._by_name[deed[0]]

    @cached_property
    def _by_name(self) -> dict[str, Verb]:
        return {verb.name: verb for verb in self.verbs}


def _choose(form: str) -> list[str]:
    """Choose among the alternatives of a form in every way; what is empty leaves no double space."""
    parts = [part.split("|") for part in re.split(r"\[(.*?)\]", form)]
    return [" ".join("".join(chosen).split()) for chosen in itertools.product(*parts)]


def _plain(sentence: str) -> str:
    return " ".join(sentence.lower().replace(".", " ").split())
