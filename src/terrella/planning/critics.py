"""Who compares imagined futures with a goal: an objective, a reader of pictures, or a language model that is told.

A critic judges the futures of one scene, and sees nothing but what the world imagined.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arenas.grammar import Grammar
from ..arenas.read_grid import GridReader, Thing
from ..arenas.speak_grid import AHEAD, GridSpeaker
from .base import costs
from .errands import missing
from .language_models import LanguageModel
from .objective import Future, Objective, as_objective
from .proposers import Scene

Narrator = Callable[[Scene, np.ndarray], str]
"""Tells in words what frames `(H, h, w, 3)` show that follow upon a scene."""


class SentenceCritic(ABC):
    """Gives each future of a scene a cost. observe: whether it looks at frames."""

    observe: bool = True

    @abstractmethod
    def judge(self, scene: Scene, sentences: Sequence[str], future: Future) -> np.ndarray:
        """The cost of each of S futures, `(S,)`, lower is better; the s-th was imagined under the s-th sentence."""


class ByObjective(SentenceCritic):
    """Takes what an objective of planners says: a return, the distance to a goal's view, or a function of one's own."""

    def __init__(self, objective: Objective | Callable[[Future], np.ndarray]):
        self.objective = as_objective(objective)
        self.observe = self.objective.observe

    def judge(self, scene: Scene, sentences: Sequence[str], future: Future) -> np.ndarray:
        """See `SentenceCritic.judge`."""
        del scene, sentences
        return costs(self.objective, future)


class ByPicture(SentenceCritic):
    """Reads the frame with which each future ends and measures what is `missing` to the goal there.

    Goals are those of `terrella.planning.errands`, frames those of a grid seen from above.
    """

    def __init__(self, reader: GridReader, stream: str = "pixels"):
        self.reader, self.stream = reader, stream

    def judge(self, scene: Scene, sentences: Sequence[str], future: Future) -> np.ndarray:
        """See `SentenceCritic.judge`; raises `ConfigError` for a goal that cannot be read."""
        del sentences
        frames, at = future.observation[self.stream], future.last.argmax(1)
        before = self.reader.things(np.asarray(scene.first[self.stream]))
        read = self.reader.read(frames[np.arange(len(at)), at], before)
        return np.array([missing(scene.goal, facts) for facts in read])


class GridNarrator:
    """Tells what imagined frames of a grid show: what a describer calls that which happens, and how it ends."""

    def __init__(self, reader: GridReader, stream: str = "pixels"):
        self.reader, self.stream = reader, stream
        nobody: Any = None  # who only describes needs no environment
        self._speaker, self._grammar = GridSpeaker(nobody), Grammar(GridSpeaker.verbs)

    def __call__(self, scene: Scene, frames: np.ndarray) -> str:
        """Describe frames `(H, h, w, 3)` that follow upon a scene's last."""
        before = self.reader.things(np.asarray(scene.first[self.stream]))
        trace = self.reader.read(np.concatenate([np.asarray(scene.last[self.stream])[None], frames]), before)
        done = [self._grammar.say(deed, 0) for deed in self._speaker.did(trace, [None] * len(frames))]
        x, y, way = trace[-1]["pose"]
        ahead = trace[-1]["things"].get((x + AHEAD[way][0], y + AHEAD[way][1]))
        return (
            f"it does this: {'; '.join(done) or 'nothing with a name'}. At the end it stands before "
            f"{_named(None if ahead is None else ahead[:2])} and holds {_named(trace[-1]['carrying'])}."
        )


class AskForChoice(SentenceCritic):
    """Tells a language model all futures and asks which is best: that one costs 0, the others 1.

    narrate: tells a future in words; None shows the last frame of each to a model that sees. unread: answers so far
    that named no future; all futures then cost the same, and the first is taken.

    Ref: the judge of PAN's simulative reasoning, arXiv 2511.09057, section 4.
    """

    def __init__(self, model: LanguageModel, narrate: Narrator | None = None, stream: str = "pixels"):
        self.model, self.narrate, self.stream, self.unread = model, narrate, stream, 0

    def judge(self, scene: Scene, sentences: Sequence[str], future: Future) -> np.ndarray:
        """See `SentenceCritic.judge`; raises what the model raises."""
        frames, at = future.observation[self.stream], future.last.argmax(1)
        told = [f"{i}. Told to {sentence!r}" for i, sentence in enumerate(sentences, 1)]
        shown: list[np.ndarray] = []
        if self.narrate is None:
            shown = [frames[i, t] for i, t in enumerate(at)]
            told = [f"{line}, it comes to picture {i}." for i, line in enumerate(told, 1)]
        else:
            told = [f"{line}, {self.narrate(scene, frames[i, : t + 1])}" for i, (line, t) in enumerate(zip(told, at))]
        question = (
            f"An agent in a small world does what it is told.\nGoal: {scene.goal}.\nThese futures were imagined:\n"
            + "\n".join(told)
            + "\nWhich future has reached the goal, or is nearest to it? Answer with its number and nothing else."
        )
        chosen = read_number(self.model.complete(question, shown), len(sentences))
        if chosen is None:
            self.unread += 1
            return np.zeros(len(sentences))
        return (np.arange(1, len(sentences) + 1) != chosen).astype(np.float64)


def read_number(answer: str, most: int) -> int | None:
    """Read the one number from 1 to `most` that an answer consists of, or begins with in its last line; else None."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    found = re.match(r"(?:future|number)?\s*#?(\d{1,4})\b(?![.,]\d)", lines[-1] if lines else "", re.IGNORECASE)
    number = int(found[1]) if found else 0
    return number if 1 <= number <= most else None


def _named(thing: Thing | None) -> str:
    return "nothing" if thing is None else f"the {thing[1]} {thing[0]}"
