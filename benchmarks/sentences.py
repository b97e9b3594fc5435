"""Do trained worlds follow sentences? In a grid and among pucks, also ones phrased or combined as training never was.

    python benchmarks/sentences.py --train 20m --minutes 55 --json benchmarks/results/sentences.json

For each arena one dataset is recorded, in part by who asks for what can be done, in part by who is described afterwards
(the recipes `told-grid` and `told-pucks` of benchmarks/train_gallery.py), and one world a seed is trained on it. Then:

- At moments of episodes never recorded, several sentences that can be carried out there are each carried out by the
  true environment in an exact fork, and the world imagines a chunk under each. `row`: of how many is the frame imagined
  nearest to their own true future? (`terrella.evaluation.language`; only what differs between the futures decides.)
  Conditions are `known` (as in training), `reworded` (phrasings that training never hears), `new deed` (combinations of
  verb and object that it never asks for) and `reworded new deed`. All worlds of an arena meet the same moments.
- `endurance`: several sessions are told another sentence that can be done every chunk, for `--frames` frames, and their
  pictures are held against what the true environment showed meanwhile (`terrella.evaluation.endurance`).

Recordings, worlds and finished rows are kept in `--out` and not made again, so that the same command goes on where it
was stopped (`--minutes` stops it by itself, before the next rows); `--gather` only prints what there is. `--world`
measures worlds that were made elsewhere. One line an arena, seed and condition, with `params, train_minutes,
train_steps, cpu_seconds`; numbers by horizon have one for each of `horizons`, the last of them the chunk's end:

| key | meaning |
|---|---|
| `row` | share told right, with its 95 % interval (bootstrap by moment), by horizon |
| `chance` | one over the futures that differ there, mean over sentences; where all are alike nothing is counted |
| `times` | row over chance, with its interval |
| `above` | row minus that of `deaf`, with its interval, paired by moment |
| `n`, `groups`, `carried_out` | sentences, moments with any of them, and the share that the environment carried out |
| `deaf` | the same world told to rest, whatever is said: what is right without listening |
| `misheard` | the same world told another of the moment's sentences: follows as well, and is wrong |
| `simulator` | the true environment in place of the world: 1, or the instrument is broken |
| `raw` | sums of each moment, by horizon |

Of `endurance`, each a ratio to the truth: `motion` (change a frame; 0 is frozen), `spread` (contrast; 0 is flat),
`strangeness` (distance to the nearest true frame of other episodes; large is noise or blur). They are means over the
window of 16 frames that holds each of `marks`, and over the last quarter for each of `sessions` and of true ones
(`true_sessions`). A session is `alive` if over the last quarter its motion and spread lie between half the least and
twice the greatest of those of true sessions, its strangeness is at most twice the greatest, and whoever acts can be
made out in half of the frames (`actor`: the share of frames; benchmarks/actors.py).

`pooled` has `times` and `above` at the chunk's end over all seeds that there are, moments drawn whole, and each seed's.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from actors import walker, white_disc
from common import KeptRow, complete, holds_world, keep_row, kept_row, recorded_by, resumable, time_is_up, write_json
from train_gallery import RECIPES

import terrella
from terrella.arenas import describe, make
from terrella.arenas.grammar import HELD_OUT
from terrella.arenas.sentences import find_sentences
from terrella.arenas.told import told
from terrella.data import Dataset
from terrella.evaluation.endurance import WINDOW, endurance, long_dream
from terrella.evaluation.entrant import WorldEntrant
from terrella.evaluation.fork_matrix import interval
from terrella.evaluation.language import NAMES, Asked, ask_sentences, score_asked
from terrella.evaluation.moments import Stage
from terrella.evaluation.references import Deaf, Misheard, Oracle
from terrella.evaluation.run import LEAD
from terrella.evaluation.source import open_truth, used_seeds
from terrella.evaluation.stats import bootstrap, number
from terrella.evaluation.truth import Truth
from terrella.world import Part, World

# Short name -> the recipe of its worlds, the argument of the environment inside that bounds an episode, and who acts.
ARENAS = {"grid": ("told-grid", "max_steps", walker), "pucks": ("told-pucks", "max_episode_steps", white_disc)}
LIVES = "endurance"
PICTURE = "pixels"  # what is measured; what sensors say beside it is only for the world
CONDITIONS = {name: kind for kind, names in NAMES.items() for name in names} | {LIVES: LIVES}
MARKS = (10, 100, 300, 1000)
RAW = ("hits", "chance", "n")


@dataclass(frozen=True)
class Row(KeptRow):
    """What one row is about."""

    arena: str
    seed: int
    condition: str


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """All rows, those of one world together."""
    for arena in options.arenas:
        for seed in options.seeds:
            for condition in options.conditions:
                yield Row(arena, seed, condition)


def shown(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """What a kept row must agree with."""
    keys = ["world", "engine"] + ([] if options.world else ["train", "preset", "decoder", "text", "speak", "hindsight"])
    keys += ["sessions", "frames"] if row.condition == LIVES else ["moments", "branches", "lead"]
    return {key: getattr(options, key) for key in (*keys, "context")}


def kept(row: Row, options: argparse.Namespace) -> dict[str, Any] | None:
    """A finished row, None where there is none of these settings."""
    return kept_row(row.path(options.out), shown(row, options))


class Bench:
    """One arena: its recording, and the moments and sessions that all its worlds meet, made when first needed."""

    def __init__(self, arena: str, options: argparse.Namespace):
        self.arena, self.options = arena, options
        name, self.limit, self.actor = ARENAS[arena]
        self.recipe = RECIPES[name]
        self.env = make(self.recipe.env, **self.recipe.kwargs)
        self.spec = describe(self.env)
        sentences = find_sentences(self.env)
        self.chunk, self.pace = sentences.chunk, sentences.pace
        self.marks = (1, self.chunk // 4, self.chunk // 2, self.chunk)
        self._asked: dict[str, Asked] = {}
        self._ceilings: dict[str, dict[str, Any]] = {}
        self._entrants: dict[int, WorldEntrant] = {}

    @property
    def shares(self) -> dict[str, int]:
        """Who records, and how many transitions."""
        given = {"speak": self.options.speak, "hindsight": self.options.hindsight}
        return {policy: steps if given[policy] is None else given[policy] for policy, steps in self.recipe.by}

    @cached_property
    def data(self) -> Dataset:
        """What worlds are trained on."""
        path = self.options.out / "data" / "-".join(map(str, (self.arena, *self.shares.values())))
        shares = [(policy, steps) for policy, steps in self.shares.items() if steps]
        return recorded_by(self.recipe.env, path, shares, seed=1000, progress=False, **self.recipe.record)

    @cached_property
    def taken(self) -> frozenset[int]:
        """Seeds of episodes that worlds were trained on; of worlds made elsewhere they are not known."""
        return frozenset() if self.options.world else used_seeds(self.data)

    def entrant(self, seed: int) -> WorldEntrant:
        """The world of a seed, trained if it is not there."""
        if seed not in self._entrants:
            world = self._trained(seed)
            world.config = replace(world.config, reencode=self.recipe.reencode)
            self._entrants = {seed: WorldEntrant(world, json.loads(self.options.engine))}
        return self._entrants[seed]

    def _trained(self, seed: int) -> World:
        options, recipe = self.options, self.recipe
        if options.world:
            return World.load(options.world.format(arena=self.arena, seed=seed), options.device or "cpu")
        preset, budget = options.preset or recipe.preset, options.train or recipe.budget
        decoder = options.decoder or recipe.decoder
        text = recipe.text if options.text is None else Part(*json.loads(options.text))
        reads = () if options.text is None else (re.sub(r"[^a-z0-9]+", "-", options.text).strip("-"),)
        named = (self.arena, seed, *self.shares.values(), budget, preset, decoder or "default", *reads)
        path = options.out / "worlds" / "-".join(map(str, named))
        if holds_world(path):
            return World.load(path, options.device or "cpu")
        parts = replace(recipe, text=text).parts(self.data.spec, preset, decoder)
        return terrella.train(self.data, path, budget=budget, seed=seed, device=options.device, progress=False, **parts)

    def run(self, seed: int, part: str) -> dict[str, dict[str, Any]]:
        """Compute what belongs together: condition -> row."""
        entrant = self.entrant(seed)  # so that training is not counted
        began = time.process_time()
        found = {LIVES: self.lives(entrant)} if part == LIVES else self.follows(entrant, part)
        record, world = entrant.world.record, entrant.world
        about: dict[str, Any] = {"params": sum(world.parameters_by_part().values())}
        about |= {"train_minutes": round(record["seconds"] / 60, 2), "train_steps": record["steps"]}
        about["cpu_seconds"] = round(time.process_time() - began, 1)
        return {c: {"arena": self.arena, "seed": seed, "condition": c, **about, **row} for c, row in found.items()}

    def follows(self, entrant: WorldEntrant, kind: Any) -> dict[str, dict[str, Any]]:
        """Fork matrices over sentences of one kind: condition -> numbers."""
        asked, spec = self.asked(kind), entrant.world.spec
        tables = {"world": score_asked(entrant, asked, spec)[PICTURE]}
        tables["deaf"] = score_asked(Deaf(entrant, spec.noop), asked, spec)[PICTURE]
        tables["misheard"] = score_asked(Misheard(entrant), asked, spec)[PICTURE]
        tables["simulator"] = self._ceiling(kind)
        rows = {}
        for name in NAMES[kind]:
            own, deaf = tables["world"][name], tables["deaf"][name]
            hits, without, n = (np.array(v) for v in (own["raw"]["hits"], deaf["raw"]["hits"], own["raw"]["n"]))
            rows[name] = {"horizons": self.marks, "k": asked.forks.k, **own}
            rows[name]["above"] = interval(hits - without, np.where(n > 0, n, np.nan).astype(float))
            for who in ("deaf", "misheard", "simulator"):
                rows[name][who] = {key: tables[who][name][key] for key in ("row", "times")}
            rows[name]["raw"] = {**own["raw"], "deaf": deaf["raw"]["hits"]}
        return rows

    def asked(self, kind: Any) -> Asked:
        """Sentences of one kind, and their true futures."""
        if kind not in self._asked:
            options = self.options
            how: dict[str, Any] = {"context": options.context, "branches": options.branches, "lead": options.lead}
            how |= {"marks": self.marks, "taken": self.taken}
            self._asked[kind] = ask_sentences(self.env, self.spec, kind, groups=options.moments, **how)
        return self._asked[kind]

    def _ceiling(self, kind: Any) -> dict[str, Any]:
        if kind not in self._ceilings:
            forks, spec = self.asked(kind).forks, self.spec
            known = Oracle(Stage(self.env, spec, 0, policy="speak"), dict(zip(forks.seeds, forks.states)))
            self._ceilings[kind] = score_asked(known, self.asked(kind), spec)[PICTURE]
        return self._ceilings[kind]

    @cached_property
    def truth(self) -> Truth:
        """What truly happens for `--frames` frames under sentences that can be done; no episode ends before."""
        options = self.options
        longer = {self.limit: self.pace * (options.frames + options.context + 1)}

        def lasting() -> gym.Env:
            return told(**{**gym.spec(self.recipe.env).kwargs, **self.recipe.kwargs, "held_out": HELD_OUT, **longer})

        how: dict[str, Any] = {"episodes": options.sessions, "context": options.context, "frames": options.frames}
        how |= {"marks": [1], "seed": 0, "lead": 0, "policy": "speak"}
        source, batches = open_truth(self.spec, lasting, None, **how)
        assert source == "environment"
        return next(iter([*batches]))

    def lives(self, entrant: WorldEntrant) -> dict[str, Any]:
        """Endurance under sentences."""
        truth, spec = self.truth, entrant.world.spec
        dreams = long_dream(entrant, truth, self.options.frames)
        life = endurance(dreams, truth, spec, dict.fromkeys(spec.modelled))[PICTURE]
        marks = [mark for mark in MARKS if mark <= self.options.frames]
        row: dict[str, Any] = {"marks": marks, "true_lengths": life["true_lengths"]}
        alive = np.ones(len(truth), bool)
        for key in ("motion", "spread", "strangeness"):
            told_of, true = life[key], [value for value in life[key]["true_sessions"] if value is not None]
            row[key] = [told_of["curve"][(mark - 1) // WINDOW] for mark in marks]
            row |= {f"{key}_{name}": told_of[name] for name in ("last_quarter", "sessions", "true_sessions")}
            ours = np.array(told_of["sessions"])
            alive &= ours <= 2 * max(true)
            alive &= (ours >= min(true) / 2) | (key == "strangeness")
        actor = np.stack([self.actor(session, self.env) for session in dreams[PICTURE]])
        late = actor[:, -(actor.shape[1] // 4) :].mean(1)
        row["actor"] = [float(actor[:, (mark - 1) // WINDOW * WINDOW :][:, :WINDOW].mean()) for mark in marks]
        row["actor_sessions"] = late.tolist()
        alive &= late >= 0.5
        return {**row, "alive": int(alive.sum()), "sessions": len(alive)}

    def close(self) -> None:
        self.env.close()


def compute(options: argparse.Namespace) -> bool:
    """Make the rows that are missing, arenas one after another; False where time was up before all were there."""
    began = time.monotonic()
    for arena in options.arenas:
        bench: Bench | None = None
        for seed in options.seeds:
            for part in dict.fromkeys(CONDITIONS[condition] for condition in options.conditions):
                rows = [Row(arena, seed, name) for name in options.conditions if CONDITIONS[name] == part]
                if all(kept(row, options) is not None for row in rows):
                    continue
                if time_is_up(options, began):
                    return False
                bench = bench or Bench(arena, options)
                found = bench.run(seed, part)
                for row in rows:
                    keep_row(row.path(options.out), found[row.condition], shown(row, options))
        if bench is not None:
            bench.close()
    return True


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sentences at the chunk's end, seeds of an arena and condition together: a moment is drawn with all of them."""
    found = []
    for arena, condition in dict.fromkeys((row["arena"], row["condition"]) for row in rows if "raw" in row):
        own = [row for row in rows if (row["arena"], row["condition"]) == (arena, condition)]
        hits, deaf, chance, n = (
            np.concatenate([np.array(row["raw"][key], float)[:, -1:] for row in own])
            for key in ("hits", "deaf", "chance", "n")
        )
        moments = np.tile(np.arange(len(own[0]["raw"]["n"])), len(own))
        one: dict[str, Any] = {"arena": arena, "condition": condition, "seeds": [row["seed"] for row in own]}
        for key, top, bottom in (("row", hits, n), ("times", hits, chance), ("above", hits - deaf, n)):
            middle, low, high = (number(values[0]) for values in bootstrap(top, bottom, moments))
            each = [row[key]["mean"][-1] for row in own]
            one[key] = {"mean": middle, "interval": [low, high], "each": each}
        found.append(one)
    return found


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = resumable(__doc__, "runs/sentences")
    made.add_argument("--arenas", nargs="+", choices=ARENAS, default=list(ARENAS))
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of worlds")
    made.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    made.add_argument("--speak", type=int, help="transitions recorded by 'speak' (default: the recipe's)")
    made.add_argument("--hindsight", type=int, help="and by 'hindsight' (default: the recipe's)")
    made.add_argument("--train", help="training of each world: 20m, 90s, 2000steps (default: the recipe's)")
    made.add_argument("--preset", help="size of each world (default: the recipe's)")
    made.add_argument("--decoder", help="of each world (default: the recipe's)")
    made.add_argument("--text", help='who reads, as JSON: \'["words", {"layers": 2}]\' (default: the recipe\'s)')
    made.add_argument(
        "--world", default="", help="folders of worlds made elsewhere, with {arena} and {seed} in the name"
    )
    made.add_argument("--engine", default="{}", help="how worlds are stepped, as JSON: '{\"guidance\": 1.0}'")
    made.add_argument("--moments", type=int, default=64, help="of each kind of phrasing (default 64)")
    made.add_argument("--branches", type=int, default=8, help="sentences at each moment (default 8)")
    made.add_argument("--context", type=int, default=8, help="actions shown before (default 8)")
    made.add_argument("--lead", type=int, default=LEAD, help=f"moments lie in so many first steps (default {LEAD})")
    made.add_argument("--sessions", type=int, default=8, help="of endurance (default 8)")
    made.add_argument("--frames", type=int, default=1000, help="of endurance (default 1000)")
    return made


def main(args: list[str] | None = None) -> None:
    """Train what is missing, and measure."""
    made = parser()
    options = made.parse_args(args)
    if options.sessions < 2:
        made.error("--sessions is below 2, but strangeness is the distance to frames of other sessions")
    complete(options, compute)
    rows = [found for row in wanted(options) if (found := kept(row, options)) is not None]
    hidden = ("json", "out", "seeds", "minutes", "gather")
    settings = {k: v for k, v in vars(options).items() if k not in hidden}
    result = {"benchmark": "sentences", "settings": settings, "pooled": pooled(rows), "rows": rows}
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
