"""Environment to dataset."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import arenas
from ..errors import ArenaError, DatasetError
from .dataset import Dataset
from .policies import Policy, PolicyFunction
from .rollout import EnvMaker, EpisodeRecorder, Goal, Plan
from .vector import VectorRecorder, describe_vector
from .workers import Crew, Start
from .writer import Writer

log = logging.getLogger("terrella.data")


def record(
    env: EnvMaker | gym.Env | VectorEnv,
    out: str | Path,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    policy: str | Policy | PolicyFunction = "sticky-random",
    seed: int = 0,
    max_episode_steps: int | None = None,
    num_envs: int = 1,
    save_states: bool = True,
    state_every: int = 0,
    pixels: bool | None = None,
    size: int | None = None,
    frame_skip: int | None = None,
    progress: bool | None = None,
    start: Start | None = None,
    **kwargs: Any,
) -> Dataset:
    """Record episodes of an environment into a dataset folder, and return the dataset.

    env: an id, an `EnvSpec` or a function (made by `terrella.arenas.make` with pixels, size, frame_skip and kwargs), an
    environment, or a `gymnasium.vector.VectorEnv` (whose environments must be wrapped before). out: a new folder, or a
    dataset of the same spec, to which episodes are appended. episodes, steps: how much to record, whichever comes
    first; the last episode of a recording limited by steps is cut there and marked truncated. policy: "random",
    "sticky-random", "moody", "cover", "wall-walk", "seek", "speak", "hindsight", a `Policy`, or a function
    `f(observation, rng) -> action`.
    seed: with an episode's number in the dataset it decides that episode, so that two recordings of 10 equal one of 20.
    max_episode_steps: cut episodes there (truncated). num_envs: processes, each with its own environment; the dataset
    does not depend on it. save_states: keep the simulator's state at each episode's start, where it can be saved;
    state_every: and after every so many transitions. progress: show a bar (default: only on a terminal).
    start: begins those processes elsewhere than on this machine (see `workers.Start`).

    Images lie in chunks of 16 frames; for another number, make the dataset first with `Dataset.create`. A stopped or
    killed recording keeps all whole episodes; Ctrl-C returns the dataset with them.

    Raises `DatasetError` for a goal that makes no sense, `SpecError` when `out` has another spec, `ArenaError` when the
    environment cannot be made or fails, `ActionError` when the policy's action does not fit.
    """
    goal = Goal(episodes, steps)
    if num_envs < 1 or state_every < 0 or (max_episode_steps is not None and max_episode_steps < 1):
        raise DatasetError(
            f"num_envs is {num_envs}, state_every {state_every}, max_episode_steps {max_episode_steps}; "
            "they must be at least 1, 0 and 1."
        )
    if seed < 0:
        raise DatasetError(f"seed is {seed}; it must be 0 or more.")
    options = {k: v for k, v in {"pixels": pixels, "size": size, "frame_skip": frame_skip}.items() if v is not None}
    options |= kwargs
    ready = isinstance(env, (gym.Env, VectorEnv))
    if ready and (num_envs > 1 or start is not None):
        raise ArenaError("num_envs makes that many environments; pass an id or a function, not a made one.")
    maker: Any = "" if ready else env
    plan = Plan(maker, options, policy, seed, max_episode_steps, save_states, state_every)
    show = sys.stderr.isatty() if progress is None else progress
    if isinstance(env, VectorEnv):
        if options:
            raise ArenaError(f"a VectorEnv takes no {', '.join(options)}; wrap its environments before you pass it.")
        _record_vector(env, out, plan, goal, show)
    elif num_envs > 1 or start is not None:
        with (
            Crew(plan, num_envs, start) as crew,
            Writer(out, crew.spec) as writer,
            _until_stopped(writer, goal, show) as bar,
        ):
            crew.run(writer, goal, bar.episode)
    elif isinstance(env, gym.Env):
        _record_single(_wrapped(env, options), out, plan, goal, show)
    else:
        made = arenas.make(env, **options)
        try:
            _record_single(made, out, plan, goal, show)
        finally:
            made.close()
    return Dataset(out)


def _wrapped(env: gym.Env, options: dict[str, Any]) -> gym.Env:
    """Return an environment as `arenas.make` gives it, leaving one that came from there as it is."""
    if not options:
        try:
            arenas.describe(env)
            return env
        except ArenaError:
            pass  # made elsewhere
    return arenas.make(lambda: env, **options)


def _record_single(env: gym.Env, out: str | Path, plan: Plan, goal: Goal, show: bool) -> None:
    spec = arenas.describe(env)
    recorder = EpisodeRecorder(env, spec, plan)
    with Writer(out, spec) as writer, _until_stopped(writer, goal, show) as bar:
        while not goal.reached(writer):
            packed = recorder.record(
                writer.episodes, writer.layout, writer.level, goal.steps_left(writer), bar.step if show else None
            )
            writer.commit(packed)
            bar.episode(0)


def _record_vector(envs: VectorEnv, out: str | Path, plan: Plan, goal: Goal, show: bool) -> None:
    spec = describe_vector(envs)
    with Writer(out, spec) as writer, _until_stopped(writer, goal, show) as bar:
        VectorRecorder(envs, spec, plan, writer).run(goal, bar.step)


class _Bar:
    """A progress bar in transitions or episodes, with frames a second and the time left; silent when not shown."""

    def __init__(self, goal: Goal, writer: Writer, show: bool) -> None:
        self._writer, self._from = writer, writer.episodes
        self._by_steps = goal.steps is not None and goal.episodes is None
        self._frames = 0
        self._progress = Progress(
            TextColumn("recording"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("transitions" if self._by_steps else "episodes"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        self._task = self._progress.add_task("", total=goal.steps if self._by_steps else goal.episodes, speed="")

    def step(self) -> None:
        """Count one transition."""
        self._frames += 1
        if self._frames % 64 == 0:
            self._update()

    def episode(self, steps: int) -> None:
        """Count one episode, and `steps` transitions not yet counted."""
        self._frames += steps
        self._update()

    def _update(self) -> None:
        done = self._frames if self._by_steps else self._writer.episodes - self._from
        elapsed = self._progress.tasks[0].elapsed or 0
        speed = f"{self._frames / elapsed:,.0f} frames/s" if elapsed else ""
        self._progress.update(self._task, completed=done, speed=speed)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._update()
        self._progress.stop()


@contextmanager
def _until_stopped(writer: Writer, goal: Goal, show: bool) -> Iterator[_Bar]:
    """Begin the goal, show a bar, and turn Ctrl-C into an early end once there is something to keep."""
    goal.begin(writer)
    before = writer.episodes
    with _Bar(goal, writer, show) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            if writer.episodes == before:
                raise
            log.warning("stopped; %s keeps the %d whole episodes", writer.path, writer.episodes)
