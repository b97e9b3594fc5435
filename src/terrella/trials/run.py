"""What planning in a world earns in the true environment, between floors that need no plan and the ceiling of a perfect
model; and a film of what was imagined beside what came of it.

    B episodes   H actions of a plan   T frames of a film
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..arenas import describe
from ..engine import Engine
from ..errors import ConfigError
from ..evaluation import film
from ..evaluation.preview import curves
from ..evaluation.provenance import commit, hardware
from ..evaluation.stats import bootstrap, wilson
from ..files import atomic
from ..planning.mpc import Controller
from ..planning.tasks import Goal, Task
from ..planning.trial import Blind, Episode, attempt, begin, gap, play
from ..spec import WorldSpec

HEIGHT = 192  # pixels of a film's pictures, about
_COLUMNS = (
    TextColumn("{task.description:>14}"),
    BarColumn(),
    TextColumn("{task.percentage:>3.0f} %"),
    TimeElapsedColumn(),
)
FLOORS = {"do-nothing": False, "random-actions": True}


def figures(task: Task, episodes: Sequence[Episode], horizon: int | None = None) -> dict[str, Any]:
    """The figures of episodes: success with its Wilson interval, return with its bootstrap interval (both 95 %).

    The return is not discounted. imagined, realised: see `terrella.planning.trial.gap`. returns, lengths, successes:
    raw values, an episode each.
    """
    returns = np.array([sum(e.rewards) for e in episodes])
    won = [task.won(e.held) for e in episodes]
    _, low, high = bootstrap(returns[:, None])
    imagined, realised = gap(task, episodes, horizon)
    return {
        "episodes": len(episodes),
        "success": float(np.mean(won)),
        "success_interval": list(wilson(sum(won), len(won))),
        "return": float(returns.mean()),
        "return_interval": [float(low[0]), float(high[0])] if len(episodes) > 1 else None,
        "imagined": imagined,
        "realised": realised,
        "returns": returns.round(4).tolist(),
        "lengths": [len(e.rewards) for e in episodes],
        "successes": won,
    }


def carry_out(
    engine: Engine,
    task: Task,
    planner: str = "icem",
    *,
    budget: int = 64,
    execute: int | None = None,
    episodes: int = 10,
    seed: int = 0,
    ceiling: bool = True,
    out: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Plan in a world and act in the true environment, beside floors and the ceiling, from equal starts.

    budget: futures a plan may imagine. execute: actions taken of each plan (None: the task's). ceiling: whether the
    same planner is measured in the true simulator, too. out: folder for `plan.json` and `plan.gif`. progress:
    show a bar for each row.

    Returns rows by name (`do-nothing`, `random-actions`, `greedy`: plans of one action, `world`, `simulator`), as
    `figures` has them, and `regret`: what the ceiling has more than the world, in success and return. Raises
    `SpecError` for a world of another interface, and what the task's environment and the planner raise.
    """
    if episodes < 1 or budget < 1:
        raise ConfigError(f"episodes is {episodes} and budget {budget}; both must be at least 1.")
    envs = [task.make()]
    spec = describe(envs[0])
    task.require(engine.spec, spec)
    envs += [task.make() for _ in range(episodes - 1)]
    bars = Progress(*_COLUMNS, console=Console(stderr=True), disable=not progress)
    bars.start()
    try:
        starts = [begin(task, env, seed * 100_003 + b) for b, env in enumerate(envs)]
        camera = Camera(task, spec, engine, starts[0].goal)
        rows: dict[str, dict[str, Any]] = {}
        for name, at_random in FLOORS.items():
            actor = Blind(spec, envs[0].action_space, episodes, at_random)
            rows[name] = figures(task, play(task, spec, envs, starts, actor))

        def run(name: str, model: Engine | None, who: str, watch: Any = None, **how: Any) -> None:
            bar = bars.add_task(name, total=task.limit * (1 if model else episodes))

            def tell(actor: Controller, step: int, frames: dict[str, np.ndarray]) -> None:
                bars.advance(bar, min(step, 1))
                if watch is not None:
                    watch(envs[0], actor, step, frames)

            played = attempt(task, envs, starts, who, budget, model, watch=tell, seed=seed, **how)
            rows[name] = figures(task, played, how.get("horizon"))
            bars.update(bar, completed=task.limit * (1 if model else episodes))

        run("greedy", engine, "random", horizon=1)
        run("world", engine, planner, camera, execute=execute)
        if ceiling:
            run("simulator", None, planner, execute=execute)
    finally:
        bars.stop()
        for env in envs:
            env.close()
    regret = {k: rows["simulator"][k] - rows["world"][k] for k in ("success", "return")} if ceiling else None
    settings = {"planner": planner, "budget": budget, "execute": execute or task.execute, "horizon": task.horizon}
    settings |= {"steps": engine.steps, "seed": seed}
    result = {"task": task.about, "env": task.env.id, "settings": settings, "rows": rows, "regret": regret}
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "plan.json") as partial:
            text = json.dumps({**result, "hardware": hardware(), "commit": commit()}, indent=1)
            partial.write_text(text + "\n")
        with atomic(folder / "plan.gif") as partial:
            partial.write_bytes(gif(camera.film(rows["world"]["lengths"][0]), spec.fps))
    return result


@dataclass
class Camera:
    """Films the first of some episodes: a plan as it was imagined, beside what came of it; then the next plan.

    A plan is shown to its end, although others may have been made meanwhile. Images are shown as they are; a vector is
    drawn by the environment itself where the task knows how (`Task.pose`), else as curves.
    """

    task: Task
    spec: WorldSpec
    engine: Engine
    goal: Goal | None = None
    real: list[np.ndarray] = field(default_factory=list)
    imagined: list[np.ndarray] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    _pictures: list[np.ndarray] = field(default_factory=list)

    @property
    def stream(self) -> str:
        """What is shown."""
        streams = self.spec.modelled
        return next((n for n, s in streams.items() if s.kind == "image"), next(iter(streams)))

    @property
    def drawn(self) -> bool:
        """Whether the environment itself draws what is a vector."""
        return self.spec.modelled[self.stream].kind == "vector" and self.task.pose is not None

    def __call__(self, env: gym.Env, actor: Controller, step: int, frames: dict[str, np.ndarray]) -> None:
        """See the moment after an action."""
        self.real.append(frames[self.stream][0].copy())
        if self.drawn:
            self._pictures.append(np.asarray(env.render()))
        if step == 0:
            self.imagined.append(self.real[0])
            self.ahead.append(0)
        elif len(self.imagined) <= step and actor.plan is not None and actor.fresh:
            state = actor.state.select([0])
            _, future = self.engine.rollout(state, actor.plan.actions[:1])
            self.imagined += list(future.observation[self.stream][0])
            self.ahead += range(1, len(future.reward[0]) + 1)

    def film(self, length: int) -> np.ndarray:
        """Lay out imagined | real | the goal's view, if there is one, for an episode of so many actions.

        RGB `(T, h, w, 3)`.
        """
        count = min(length + 1, len(self.real), len(self.imagined))
        left, right = np.stack(self.imagined[:count]), np.stack(self.real[:count])
        if self.drawn:
            pictures = [_fitted(p) for p in self._pictures[:count]]
            sides = self._posed(left), np.stack(pictures)
        elif self.spec.modelled[self.stream].kind == "vector":
            bounds = np.stack([right.min(0), right.max(0)])
            sides = curves(left, bounds, HEIGHT), curves(right, bounds, HEIGHT)
        else:
            shown = [left, right]
            if self.goal is not None:
                shown.append(np.broadcast_to(self.goal.frames[self.stream], right.shape))
            sides = tuple(film.enlarged(film.rgb(frames), HEIGHT) for frames in shown)
        gap = np.full((count, sides[0].shape[1], 4, 3), 24, np.uint8)
        whole = np.concatenate([part for side in sides for part in (gap, side)][1:], 2)
        names = ("real", "the goal")[: len(sides) - 1]
        captions = [(f"imagined, {n} ahead" if n else "the start", *names) for n in self.ahead[:count]]
        return np.concatenate([film.captioned(whole[t : t + 1], captions[t]) for t in range(count)])

    def _posed(self, vectors: np.ndarray) -> np.ndarray:
        assert self.task.pose is not None
        env = self.task.make()
        env.reset(seed=0)
        pictures = []
        for vector in vectors:
            self.task.pose(env, vector)
            pictures.append(_fitted(np.asarray(env.render())))
        env.close()
        return np.stack(pictures)


def gif(frames: np.ndarray, fps: float) -> bytes:
    """Encode RGB frames `(T, h, w, 3)` as a GIF that repeats, at 2 to 12 frames a second."""
    images = [Image.fromarray(np.ascontiguousarray(f)).quantize(128) for f in frames]
    buffer = io.BytesIO()
    duration = round(1000 / min(12.0, max(2.0, fps)))
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return buffer.getvalue()


def _fitted(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    size = round(width * HEIGHT / height), HEIGHT
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
