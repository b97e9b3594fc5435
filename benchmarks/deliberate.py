"""Measure what simulative reasoning earns in the true environment: agents that imagine what sentences would lead to.

    python benchmarks/deliberate.py --train 60m --json benchmarks/results/deliberate.json

An agent is given a goal in words (`terrella.planning.ERRANDS`), proposes sentences, imagines each in a world, and lets
the true environment carry out the one whose imagined end is nearest to the goal, again and again. Success is read from
the true state at the end of an episode. Floors say nothing but "wait", or one of the same sentences at random; the
ceiling is the same agent with the true simulator as its world.

Worlds are trained on one recording of the policy `speak`, one a seed, unless `--world` names them (`{seed}` in the name
is replaced). `--local FOLDER` adds an agent whose proposer and critic are a local language model, and `--endpoint URL
MODEL` one behind an address. Recordings, worlds and finished rows are kept in `--out` and not made again, so that the
same command goes on where it was stopped (`--minutes` stops it by itself); `--gather` only prints what there is.

| key | meaning |
|---|---|
| `errand` | what is to be brought about |
| `model` | where futures are imagined: `world`, `simulator`, or `none` |
| `agent` | `do-nothing`, `random-sentence`, `enumerate` (all sentences, goals read off imagined pictures), `local`, |
| | `endpoint` |
| `success`, `success_interval` | share of episodes that end with the goal, with its Wilson 95 % interval |
| `ever` | share of episodes in which the goal held at any time |
| `known`, `new` | success where training asked for what the goal asks, and for combinations that were held out; |
| | null for goals that no single sentence brings about |
| `chosen_truly` | share of decisions whose sentence was as good as the best one proposed, by the costs that the true |
| | simulator gives from the same moments; null where nothing was imagined in a world |
| `futures` | imagined in an episode, `decisions` taken in one |
| `dropped`, `unread` | sentences proposed that nobody knows, and answers that named no future |
| `cpu_seconds` | processor time of all its episodes |
| `successes`, `news` | raw values, an episode each |
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import KeptRow, complete, holds_world, keep_row, kept_row, resumable, task_data, time_is_up, write_json

import terrella
from terrella.actions import encode
from terrella.arenas import describe
from terrella.arenas.read_grid import GridReader
from terrella.arenas.sentences import find_sentences
from terrella.engine import Engine
from terrella.evaluation.stats import wilson
from terrella.planning import (
    ERRANDS,
    AskForChoice,
    AskForSentences,
    Blind,
    ByPicture,
    DeliberateSettings,
    Deliberator,
    Endpoint,
    Enumerate,
    Episode,
    Future,
    GridNarrator,
    LanguageModel,
    LocalModel,
    Plan,
    Scene,
    SentenceCritic,
    Simulator,
    begin,
    grammar_sentences,
    play,
)
from terrella.planning.errands import is_new
from terrella.world import World

FLOORS = ("do-nothing", "random-sentence")


@dataclass(frozen=True)
class Row(KeptRow):
    """What one row is about."""

    errand: str
    seed: int
    model: str
    agent: str


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """All rows, the cheapest of each seed first."""
    agents = ["enumerate", *(["local"] if options.local else []), *(["endpoint"] if options.endpoint else [])]
    for seed in options.seeds:
        for name in options.errands:
            for floor in FLOORS:
                yield Row(name, seed, "none", floor)
            for model in options.models:
                for agent in agents:
                    yield Row(name, seed, model, agent)


def shown(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """What a kept row must agree with; only those of a world depend on how it was made."""
    keys = ["episodes", "count", "limit"] + ([row.agent] if row.agent in ("local", "endpoint") else [])
    keys += ["steps", "train", "preset", "decoder", "record", "world"] if row.model == "world" else []
    return {key: str(v) if isinstance(v := getattr(options, key), Path) else v for key in keys}


def kept(row: Row, options: argparse.Namespace) -> dict[str, Any] | None:
    """A finished row, None where there is none of these settings."""
    return kept_row(row.path(options.out), shown(row, options))


def trained(seed: int, options: argparse.Namespace) -> World:
    """Train the world of a seed, or open it where it is."""
    if options.world:
        return World.load(options.world.replace("{seed}", str(seed)), options.device or "cpu")
    path = options.out / "worlds" / f"sentences-{seed}-{options.train}-{options.preset}-{options.decoder}"
    if holds_world(path):
        return World.load(path, options.device or "cpu")
    task = ERRANDS["hold"].task  # all errands are recorded alike
    data = task_data("sentences", task, options.out, options.record)
    settings = {"budget": options.train, "preset": options.preset, "decoder": options.decoder, "seed": seed}
    return terrella.train(data, path, progress=False, device=options.device, **settings)


class Bench:
    """The episodes of one seed, and its world once it is needed."""

    def __init__(self, seed: int, options: argparse.Namespace):
        self.seed, self.options, self.reader = seed, options, GridReader()
        self._engine: Engine | None = None
        self._models: dict[str, LanguageModel] = {}

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            world = trained(self.seed, self.options)
            self._engine = Engine(world, steps=self.options.steps, device=self.options.device)
        return self._engine

    def run(self, row: Row) -> dict[str, Any]:
        """Compute a row."""
        errand, options, began = ERRANDS[row.errand], self.options, time.process_time()
        task = replace(errand.task, limit=options.limit or errand.task.limit)
        envs = [task.make() for _ in range(options.episodes)]
        starts = [begin(task, env, 100_003 * self.seed + b) for b, env in enumerate(envs)]
        goals, spec = [errand.goal(env) for env in envs], describe(envs[0])
        told = find_sentences(envs[0])
        about: dict[str, Any] = {**vars(row), "goals": goals}
        if row.agent == "do-nothing":
            actor = Blind(spec, envs[0].action_space, len(envs), at_random=False)
            played, actors = play(task, spec, envs, starts, actor), []
        else:
            known, played, actors, critics = Enumerate(grammar_sentences(told.grammar), self.reader), [], [], []
            settings = DeliberateSettings(chunk=told.chunk, count=options.count)
            together = row.model == "world" or row.agent == "random-sentence"
            groups = [range(len(envs))] if together else [range(b, b + 1) for b in range(len(envs))]
            for group in groups:
                some = [envs[b] for b in group]
                model: Any = self.engine if row.model == "world" else Simulator(some[0])
                proposer, critic = self._minds(row.agent, known)
                mine = [goals[b] for b in group]
                actor = Deliberator(model, proposer, critic, mine, settings, seed=self.seed)
                actors.append(actor)
                critics.append(critic)
                played += play(task, spec, some, [starts[b] for b in group], actor)
            about |= _thoughts(actors, critics, len(envs))
            about["chosen_truly"] = None
            if row.model == "world":
                about["chosen_truly"] = self._truly(actors[0], task, envs, starts)
        for env in envs:
            env.close()
        news = [is_new(goal, told.grammar) for goal in goals]
        about["cpu_seconds"] = round(time.process_time() - began, 2)
        return about | _figures(task, played, None if row.errand == "join" else news)

    def _minds(self, agent: str, known: Enumerate) -> tuple[Any, SentenceCritic | None]:
        """Proposer and critic of an agent."""
        if agent in FLOORS:
            return known, None
        if agent == "enumerate":
            return known, ByPicture(self.reader)
        if agent not in self._models:
            local = agent == "local"
            self._models[agent] = (
                LocalModel(self.options.local, device=self.options.device or "cpu")
                if local
                else Endpoint(*self.options.endpoint)
            )
        model = self._models[agent]
        return AskForSentences(model, known), AskForChoice(model, GridNarrator(self.reader))

    def _truly(self, actor: Deliberator, task: Any, envs: Any, starts: Any) -> float:
        """Say again what was said, and at each decision ask the simulator which of the sentences were best."""
        right, critic = [], ByPicture(self.reader)
        for b, (env, start) in enumerate(zip(envs, starts)):
            judge = _Replay(Simulator(env), actor, b, critic)
            play(task, judge.spec, [env], [start], judge)
            right += judge.right
        return float(np.mean(right))


class _Replay:
    """Says what an agent said in one episode; right: whether each sentence was as good as the best, by the truth."""

    def __init__(self, simulator: Simulator, actor: Deliberator, b: int, critic: SentenceCritic):
        self.simulator, self.spec, self.b, self.critic = simulator, simulator.spec, b, critic
        self.plan: Plan | None = None
        self.right: list[bool] = []
        self._chunk = actor.settings.chunk
        self._decisions, self._goal, self._steps = actor.decisions[b], actor.goals[b], 0
        self._scene: Any = None

    def begin(self, observations: dict[str, np.ndarray], seeds: Any) -> None:
        """See the first frame."""
        del seeds
        seen = {name: np.array(frames[0]) for name, frames in observations.items()}
        self._scene = Scene(self._goal, seen, seen)

    def act(self) -> np.ndarray:
        """The same sentence; at the beginning of a chunk all that were offered are tried in the truth."""
        decision = self._decisions[self._steps // self._chunk]
        rows = np.stack([encode(self.spec.action, s) for s in decision.sentences])
        if self._steps % self._chunk == 0:
            many = np.repeat(rows[:, None], self._chunk, 1)
            _, frame = self.simulator.rollout(self.simulator.start().fork(len(rows)), many)
            future = Future(many, frame.reward, frame.terminated, frame.observation)
            cost = self.critic.judge(self._scene, decision.sentences, future)
            self.right.append(bool(cost[decision.chosen] <= cost.min() + 1e-9))
        self._steps += 1
        return rows[decision.chosen][None]

    def see(self, observations: dict[str, np.ndarray]) -> None:
        """Look away."""
        del observations


def _thoughts(actors: list[Deliberator], critics: list[SentenceCritic | None], episodes: int) -> dict[str, Any]:
    decisions = sum(len(d) for actor in actors for d in actor.decisions)
    return {
        "futures": sum(actor.futures for actor in actors) / episodes,
        "decisions": decisions / episodes,
        "dropped": sum(actor.dropped for actor in actors),
        "unread": sum(critic.unread for critic in critics if isinstance(critic, AskForChoice)),
    }


def _figures(task: Any, played: list[Episode], news: list[bool] | None) -> dict[str, Any]:
    won = [task.won(episode.held) for episode in played]
    shares: dict[str, Any] = {}
    for name, wanted_new in (("known", False), ("new", True)):
        some = [] if news is None else [w for w, new in zip(won, news) if new == wanted_new]
        shares[name] = float(np.mean(some)) if some else None
    return {
        "episodes": len(won),
        "success": float(np.mean(won)),
        "success_interval": list(wilson(sum(won), len(won))),
        "ever": float(np.mean([any(episode.held) for episode in played])),
        **shares,
        "lengths": [len(episode.held) for episode in played],
        "successes": won,
        "news": news,
    }


def gathered(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows that are finished, in order."""
    return [found for row in wanted(options) if (found := kept(row, options)) is not None]


def compute(options: argparse.Namespace) -> bool:
    """Make the rows that are missing; False where time was up before all were there."""
    began, benches = time.monotonic(), {}
    for row in wanted(options):
        if kept(row, options) is not None:
            continue
        if time_is_up(options, began):
            return False
        if row.seed not in benches:
            benches = {row.seed: Bench(row.seed, options)}
        keep_row(row.path(options.out), benches[row.seed].run(row), shown(row, options))
    return True


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = resumable(__doc__, "runs/deliberate")
    made.add_argument("--errands", nargs="+", choices=ERRANDS, default=list(ERRANDS))
    made.add_argument("--models", nargs="+", choices=("world", "simulator"), default=["simulator", "world"])
    made.add_argument("--episodes", type=int, default=30, help="of each row (default 30)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of worlds and episodes")
    made.add_argument("--count", type=int, default=32, help="sentences proposed at a time, at most (default 32)")
    made.add_argument("--steps", type=int, default=1, help="denoising steps of a frame (default 1)")
    made.add_argument("--world", help="folder of a world that is there; {seed} is replaced (default: train one a seed)")
    made.add_argument("--train", default="60m", help="training of each world: 10m, 90s, 2000steps (default 60m)")
    made.add_argument("--preset", default="tiny", help="size of each world (default tiny)")
    made.add_argument("--decoder", help="of each world (default: the preset's)")
    made.add_argument("--record", type=int, help="transitions to record (default: 30,000)")
    made.add_argument("--limit", type=int, help="longest episode (default: the errand's)")
    made.add_argument("--local", type=Path, metavar="FOLDER", help="a language model as proposer and critic")
    made.add_argument("--endpoint", nargs=2, metavar=("URL", "MODEL"), help="the same behind an address")
    return made


def main(args: list[str] | None = None) -> None:
    """Train what is missing, and compare."""
    options = parser().parse_args(args)
    complete(options, compute)
    hidden = ("json", "out", "seeds", "minutes", "gather", "local")
    settings = {k: v for k, v in vars(options).items() if k not in hidden}
    result = {"benchmark": "deliberate", "settings": settings, "rows": gathered(options)}
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
