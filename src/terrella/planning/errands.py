"""What an agent that speaks is asked to bring about in a grid: goals as sentences, and how far from them one is.

A goal such as "hold the red key" names a state of affairs, not what is to be said; `missing` measures from facts how
much of it is not so yet. From the true facts it tells success; from facts that were read off imagined frames
(`terrella.arenas.read_grid`) it compares futures. An `Errand` is a `Task` with a goal in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym

from ..arenas.grammar import Deed, Grammar, Verb
from ..arenas.sentences import Facts, find_sentences
from ..arenas.speak_grid import AHEAD, COLOURS, THINGS
from ..errors import ConfigError
from ..spec import EnvSpec
from .tasks import Moment, Task

GOALS = Grammar(
    (
        Verb("hold", (COLOURS, THINGS), ("hold the {0} {1}",)),
        Verb("face", (COLOURS, (*THINGS, "door")), ("stand before the {0} {1}",)),
        Verb("join", (COLOURS, THINGS, COLOURS, THINGS), ("have the {0} {1} next to the {2} {3}",)),
    ),
    held_out=0,
)
FAR = 100.0  # cells that weigh as much as a step of its own on the way to a goal


@dataclass(frozen=True)
class Errand:
    """A task whose goal is said in words. goal: of an episode that has begun, from its environment; `GOALS` parses it.

    The task's environment takes sentences; `task.horizon` is how long one of them is imagined.
    """

    goal: Callable[[gym.Env], str]
    task: Task


def missing(goal: str, facts: Facts) -> float:
    """How much of a goal is not so: 0 where it holds, else the steps that are left, and a little for the way.

    A step is taking a thing, putting one down, or coming to stand before one; the way is counted in cells over `FAR`.
    Raises `ConfigError` for a goal that is not among `GOALS`.
    """
    deed = GOALS.understand(goal)
    if deed is None:
        raise ConfigError(
            f"the goal {goal!r} is none that is known here. Say, for instance: "
            + "; ".join(repr(GOALS.say(d, 0)) for d in (("hold", "red", "key"), ("face", "blue", "door")))
            + "; or 'have the red key next to the blue ball'."
        )
    first = (deed[2], deed[1])
    if deed[0] == "hold":
        return _hold(first, facts)
    if deed[0] == "face":
        return _face(first, facts)
    return _join(first, (deed[4], deed[3]), facts)


def _hold(thing: tuple[str, str], facts: Facts) -> float:
    carrying = facts["carrying"]
    return 0.0 if carrying == thing else 1.0 + (carrying is not None) + _way(thing, facts)


def _face(thing: tuple[str, str], facts: Facts) -> float:
    if facts["carrying"] == thing:
        return 2.0
    x, y, way = facts["pose"]
    ahead = facts["things"].get((x + AHEAD[way][0], y + AHEAD[way][1]))
    return 0.0 if ahead is not None and ahead[:2] == thing else 1.0 + _way(thing, facts)


def _join(thing: tuple[str, str], other: tuple[str, str], facts: Facts) -> float:
    if facts["carrying"] == thing:
        return 1.0 + _way(other, facts)
    if facts["carrying"] == other:  # that will do as well, and is no farther
        return 1.0 + _way(thing, facts)
    places, others = ([p for p, t in facts["things"].items() if t[:2] == name] for name in (thing, other))
    if any(max(abs(a - c), abs(b - d)) == 1 for a, b in places for c, d in others):
        return 0.0
    return 1.0 + _hold(thing, facts)


def _way(thing: tuple[str, str], facts: Facts) -> float:
    """Cells to the nearest such thing, over `FAR`; a whole step where none is to be seen."""
    x, y, _ = facts["pose"]
    return min((abs(x - a) + abs(y - b) for (a, b), t in facts["things"].items() if t[:2] == thing), default=FAR) / FAR


def _there(env: gym.Env) -> list[tuple[str, str]]:
    """Kind and colour of all things: the one that the level names first, the others in the order of their names."""
    facts, level = find_sentences(env).speaker.facts(), env.unwrapped
    carried = [] if facts["carrying"] is None else [facts["carrying"]]
    named = (level.targetType, level.target_color)  # type: ignore[attr-defined] - a GoToObject level
    return [named, *sorted({t[:2] for t in facts["things"].values()} - {named} | set(carried) - {named})]


def _goal(verb: str, count: int) -> Callable[[gym.Env], str]:
    def said(env: gym.Env) -> str:
        words = [word for kind, colour in _there(env)[:count] for word in (colour, kind)]
        return GOALS.say((verb, *words), 0)

    return said


def errand(verb: str, about: str, count: int, limit: int) -> Errand:
    """Make an errand in `terrella/SentencesGrid-v0` of a verb of `GOALS` and `count` things of the level."""
    goal = _goal(verb, count)

    def holds(moment: Moment) -> bool:
        return missing(goal(moment.env), find_sentences(moment.env).speaker.facts()) == 0

    task = Task(
        EnvSpec("terrella/SentencesGrid-v0"),
        about,
        holds,
        "last",
        limit=limit,
        steps=30_000,
        policy="speak",
        episode=120,
        horizon=12,
        execute=12,
    )
    return Errand(goal, task)


ERRANDS: dict[str, Errand] = {
    "hold": errand("hold", "holds the thing that the level names", 1, 36),
    "face": errand("face", "stands before the thing that the level names", 1, 36),
    "join": errand("join", "the thing that the level names lies next to another one", 2, 60),
}


def is_new(goal: str, grammar: Grammar) -> bool:
    """Whether what a goal asks to hold or face is a combination that training never asks for."""
    deed = GOALS.understand(goal)
    verbs: dict[str, Deed] = {} if deed is None else {"hold": ("pick up", *deed[1:]), "face": ("go", *deed[1:])}
    asked = verbs.get(deed[0] if deed else "")
    return asked is not None and grammar.is_held_deed(asked)
