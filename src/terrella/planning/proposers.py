"""Who proposes what could be said next: all sentences that are known, or those that a language model thinks of.

A proposer sees what the agent sees, never the true state. What a model answers counts only where it is, word for word,
one of the sentences it was given; anything else is dropped, and counted.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arenas.grammar import Grammar
from ..arenas.read_grid import GridReader
from ..arenas.speak_grid import COLOURS, THINGS
from ..data import Dataset
from ..data.sentences import count_sentences
from ..errors import ConfigError
from .language_models import LanguageModel
from .tasks import Seen

LINES = 64  # of an answer that are read
_MARK = re.compile(r"^(?:[-*•]|\d{1,3}[.):])\s+")


@dataclass(frozen=True)
class Scene:
    """One episode as the agent knows it. goal: what it is to bring about, in words. first, last: the frames that it saw
    first and last, stream -> frame. said: the sentences that were carried out so far.
    """

    goal: str
    first: Seen
    last: Seen
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposed:
    """Sentences to choose from, each once. dropped: how many were proposed that are not known."""

    sentences: tuple[str, ...]
    dropped: int = 0


class SentenceProposer(ABC):
    """Proposes sentences for one scene."""

    @abstractmethod
    def propose(self, scene: Scene, count: int, rng: np.random.Generator) -> Proposed:
        """Propose at most `count` sentences; whatever is random comes from `rng`."""


class Enumerate(SentenceProposer):
    """Proposes the sentences it was given, without a model; where they are too many, some of them, drawn anew.

    reader: leaves out sentences that name a thing which the episode's first frame did not show; stream: where it looks.

    Raises `ConfigError` without sentences.
    """

    def __init__(self, sentences: Iterable[str], reader: GridReader | None = None, stream: str = "pixels"):
        self.sentences = tuple(dict.fromkeys(sentences))
        if not self.sentences:
            raise ConfigError("there are no sentences to propose; give some, such as grammar_sentences(grammar).")
        self.reader, self.stream = reader, stream

    def __repr__(self) -> str:
        return f"Enumerate({len(self.sentences)} sentences, {'as seen' if self.reader else 'all'})"

    def propose(self, scene: Scene, count: int, rng: np.random.Generator) -> Proposed:
        """See `SentenceProposer.propose`."""
        there = self.sentences
        if self.reader is not None:
            seen = {f"{colour} {kind}" for kind, colour in self.reader.things(np.asarray(scene.first[self.stream]))}
            absent = {f"{c} {k}" for c in COLOURS for k in (*THINGS, "door")} - seen
            there = tuple(s for s in there if not any(name in s for name in absent))
        if len(there) > count:
            there = tuple(there[i] for i in np.sort(rng.choice(len(there), count, replace=False)))
        return Proposed(there)


class AskForSentences(SentenceProposer):
    """Lets a language model choose among the sentences that another proposer knows.

    among: who knows them. listed: how many of them the model is told, at most. A model that `sees` is shown the last
    frame of `stream`.

    Ref: the proposer of PAN, arXiv 2511.09057, section 4. Differs: it chooses among sentences that the world has heard
    instead of writing freely.
    """

    def __init__(self, model: LanguageModel, among: SentenceProposer, listed: int = 64, stream: str = "pixels"):
        self.model, self.among, self.listed, self.stream = model, among, listed, stream

    def propose(self, scene: Scene, count: int, rng: np.random.Generator) -> Proposed:
        """See `SentenceProposer.propose`; raises what the model raises."""
        known = self.among.propose(scene, self.listed, rng).sentences
        shown = [np.asarray(scene.last[self.stream])] if self.model.sees else []
        answer = self.model.complete(_question(scene, known, count), shown, int(rng.integers(1 << 31)))
        return read_sentences(answer, known, count)


def read_sentences(answer: str, known: Sequence[str], count: int) -> Proposed:
    """Read sentences off an answer, one a line, with or without a list's marks, quotes and a full stop.

    At most `count` of those that are `known` are kept, each once. Whatever else stands in a line is dropped and
    counted, as are all lines after the first `LINES`.
    """
    plain = {_plain(sentence): sentence for sentence in known}
    lines = [line for line in (line.strip() for line in answer.splitlines()) if line]
    found: dict[str, None] = {}
    dropped = max(0, len(lines) - LINES)
    for line in lines[:LINES]:
        sentence = plain.get(_plain(_MARK.sub("", line)))
        if sentence is None:
            dropped += 1
        elif len(found) < count:
            found[sentence] = None
    return Proposed(tuple(found), dropped)


def grammar_sentences(grammar: Grammar, new: bool = True) -> tuple[str, ...]:
    """One sentence for each deed of a grammar, as training phrases it; new: also for combinations it never asks for."""
    deeds = (deed for deed in grammar.deeds() if new or not grammar.is_held_deed(deed))
    return tuple(grammar.say(deed, (grammar.phrasings(deed, held=False) or [0])[0]) for deed in deeds)


def recorded_sentences(data: Dataset) -> tuple[str, ...]:
    """All sentences said in a dataset, in the order of the alphabet; raises `ActionError` where actions are others."""
    return tuple(sorted(count_sentences(data)))


def _question(scene: Scene, known: Sequence[str], count: int) -> str:
    so_far = "; ".join(scene.said[-8:]) or "nothing yet"
    return (
        f"An agent in a small world does what it is told.\nGoal: {scene.goal}.\nIt was told so far: {so_far}.\n"
        "It understands these sentences:\n"
        + "\n".join(known)
        + f"\nWhich of them could bring it nearer to the goal now? Answer with at most {count} of these sentences, "
        "word for word, one a line, the most promising first, and nothing else."
    )


def _plain(line: str) -> str:
    return " ".join(line.strip(" \t\"'`“”.").lower().split())
