"""The tasks that come with the package: control, reaching, ways to a view, grids with doors and keys, coins.

Random play hardly ever earns the rewards of grids and coins, so that a world could not learn them. These recordings are
made by `moody` play, whose episodes differ more than chance allows, or by `seek`, a walker that knows the way and is
often distracted (`terrella.data.moods`). Where a goal can be named (a height, a place, a view) planners are asked for a
distance, and the reward need not be learned at all.

Frame skips make a decision last as long as it matters: plans are short, and worlds see time coarsely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import did_you_mean
from ..spec import EnvSpec
from .objective import Distance, Function, Future, Objective
from .tasks import Moment, Seen, Task

WIDE = 2048  # sessions of a small world that are best imagined at a time


def _paid(moment: Moment) -> bool:
    return moment.reward > 0


def _going(moment: Moment) -> bool:
    return not moment.ended


def _at_place(place: Callable[[gym.Env], np.ndarray], within: int = 0, around: int = 0) -> Callable[[Moment], bool]:
    """Whether every number of the place is the goal's, `within` so many; around: of a torus, its extent."""

    def at_goal(moment: Moment) -> bool:
        assert moment.goal is not None
        apart = np.abs(place(moment.env) - moment.goal.place)
        return bool((np.minimum(apart, around - apart) if around else apart).max() <= within)

    return at_goal


def _costs(apart: Callable[[np.ndarray], np.ndarray]) -> Callable[[Seen, float], Objective]:
    """What vectors `(R, H, F)` cost, `apart` `(R, H)` of at least 0, added up while the episode goes on.

    An end spares what is still to come, so it must not be a failure.
    """

    def objective(goals: Seen, discount: float) -> Objective:
        del goals

        def cost(future: Future) -> np.ndarray:
            weight = discount ** np.arange(future.reward.shape[1])
            return (weight * future.alive * apart(future.observation["vector"].astype(np.float64))).sum(1)

        return Function(cost)

    return objective


def _view(goals: Seen, discount: float) -> Objective:
    """How far all that is seen on the way is from the goal's picture: what arrives early is best."""
    del discount
    return Distance({"pixels": goals["pixels"]}, when="sum")


def _below(vector: np.ndarray) -> np.ndarray:
    """How far the tip of an acrobot hangs below its highest point, 0 to 1: from (cos a, sin a, cos b, sin b, ...)."""
    cos_a, sin_a, cos_b, sin_b = np.moveaxis(vector[..., :4], -1, 0)
    return (2 + cos_a + cos_a * cos_b - sin_a * sin_b) / 4


def _camera(env: gym.Env) -> np.ndarray:
    core: Any = env.unwrapped
    return core.truth["camera"]


def _stand(env: gym.Env) -> np.ndarray:
    core: Any = env.unwrapped
    return np.array([*core.truth["agent"], core.truth["heading"]])


def _pose_pendulum(env: gym.Env, vector: np.ndarray) -> None:
    core: Any = env.unwrapped
    core.state, core.last_u = np.array([np.arctan2(vector[1], vector[0]), vector[2]]), None


def _pose_state(env: gym.Env, vector: np.ndarray) -> None:
    core: Any = env.unwrapped
    core.state = np.asarray(vector, np.float64)


def _pose_acrobot(env: gym.Env, vector: np.ndarray) -> None:
    angles = np.arctan2(vector[1], vector[0]), np.arctan2(vector[3], vector[2])
    _pose_state(env, np.array([*angles, vector[4], vector[5]]))


def _pose_pole(env: gym.Env, vector: np.ndarray) -> None:
    core: Any = env.unwrapped
    core.set_state(np.asarray(vector[:2], np.float64), np.asarray(vector[2:], np.float64))


def _pose_reacher(env: gym.Env, vector: np.ndarray) -> None:
    core: Any = env.unwrapped
    angles = np.arctan2(vector[2], vector[0]), np.arctan2(vector[3], vector[1])
    core.set_state(np.array([*angles, vector[4], vector[5]], np.float64), np.array([*vector[6:8], 0, 0], np.float64))


TASKS: dict[str, Task] = {
    "pendulum": Task(
        EnvSpec("Pendulum-v1", frame_skip=4),
        "swing a pendulum up and hold it within 30 degrees of upright for the last 5 actions",
        lambda moment: moment.seen["vector"][0] > np.cos(np.pi / 6),
        rule="last",
        hold=5,
        limit=30,
        preset="nano",
        decoder="regression",
        execute=2,
        settings={"max_rows": WIDE},
        pose=_pose_pendulum,
    ),
    "cartpole": Task(
        EnvSpec("CartPole-v1", frame_skip=2),
        "keep a pole on a cart from falling for 50 actions",
        _going,
        rule="always",
        limit=50,
        preset="nano",
        decoder="regression",
        execute=2,
        settings={"max_rows": WIDE},
        pose=_pose_state,
    ),
    "acrobot": Task(
        EnvSpec("Acrobot-v1", frame_skip=4),
        "swing the tip of two joined rods, driven at their joint, above the line (planned by the tip's height)",
        lambda moment: moment.ended,
        limit=30,
        policy="moody",
        preset="nano",
        decoder="regression",
        execute=2,
        objective=_costs(_below),
        settings={"max_rows": WIDE, "beta": 1.0},
        pose=_pose_acrobot,
    ),
    "mountaincar": Task(
        EnvSpec("MountainCarContinuous-v0", frame_skip=8),
        "drive a weak car out of a valley, which takes a run-up (planned by the distance from the top)",
        lambda moment: moment.ended,
        limit=30,
        policy="moody",
        preset="nano",
        decoder="regression",
        horizon=10,
        execute=2,
        objective=_costs(lambda vector: np.maximum(0.0, 0.45 - vector[..., 0])),
        settings={"max_rows": WIDE, "spread": 1.0},
        pose=_pose_state,
    ),
    "reacher": Task(
        EnvSpec("Reacher-v5", frame_skip=2),
        "bring the tip of a two-jointed arm within 3 cm of a target and hold it there for the last 3 actions",
        lambda moment: float(np.hypot(*moment.seen["vector"][8:10])) < 0.03,
        rule="last",
        hold=3,
        limit=25,
        episode=25,
        preset="nano",
        decoder="regression",
        horizon=6,
        execute=2,
        objective=_costs(lambda vector: np.hypot(vector[..., 8], vector[..., 9])),
        settings={"max_rows": WIDE},
        pose=_pose_reacher,
    ),
    "balance": Task(
        EnvSpec("InvertedPendulum-v5", frame_skip=2),
        "keep a pole on a driven cart from falling for 40 actions",
        _going,
        rule="always",
        limit=40,
        preset="nano",
        decoder="regression",
        execute=2,
        settings={"max_rows": WIDE},
        pose=_pose_pole,
    ),
    "sprites": Task(
        EnvSpec("terrella/SpritesStill-v0", size=0),
        "slide a window over still pictures to within a pixel of the view that is shown, two moves away",
        _at_place(_camera, within=1, around=24),
        limit=4,
        policy="random",
        episode=20,
        horizon=2,
        objective=_view,
        place=_camera,
        reach=2,
    ),
    "blocks": Task(
        EnvSpec("terrella/BlocksStill-v0", size=0),
        "walk through a room of still blocks to the view that is shown, five actions away",
        _at_place(_stand),
        limit=12,
        policy="random",
        episode=50,
        horizon=6,
        execute=2,
        objective=_view,
        place=_stand,
        reach=5,
    ),
    "empty": Task(
        EnvSpec("MiniGrid-Empty-5x5-v0", pixels=True),
        "go to the green square of an empty room; recorded by `seek`",
        _paid,
        limit=20,
        policy="seek",
        episode=40,
        horizon=10,
        discount=0.95,
        execute=2,
        settings={"beta": 0.5},
    ),
    "rooms": Task(
        EnvSpec("MiniGrid-MultiRoom-N2-S4-v0", pixels=True),
        "go through a door to the green square in the other room; recorded by `seek`, for planners by trees",
        _paid,
        limit=30,
        policy="seek",
        episode=40,
        horizon=14,
        discount=0.95,
        execute=7,
        settings={"beta": 0.5, "merge": "memory"},
    ),
    "doorkey": Task(
        EnvSpec("MiniGrid-DoorKey-5x5-v0", pixels=True),
        "take a key, unlock a door, go to the green square; recorded by `seek`, for planners by trees",
        _paid,
        limit=40,
        steps=30_000,
        policy="seek",
        episode=60,
        horizon=16,
        discount=0.95,
        execute=8,
        settings={"beta": 0.5, "merge": "memory"},
    ),
    "maze": Task(
        EnvSpec("terrella/Maze-v0"),
        "go the one way to the goal of a maze never seen before; recorded by `seek`",
        _paid,
        limit=60,
        policy="seek",
        episode=60,
        horizon=30,
        discount=0.95,
        execute=10,
        settings={"beta": 0.5},
    ),
    "coinrun": Task(
        EnvSpec("procgen/coinrun", frame_skip=4),
        "reach the coin, from at most 6 actions before moody play once reached it; recorded by `moody` play",
        _paid,
        limit=10,
        steps=40_000,
        policy="moody",
        episode=100,
        execute=2,
        discount=0.95,
        settings={"beta": 2.0},
        lead=6,
    ),
    "leaper": Task(
        EnvSpec("procgen/leaper", frame_skip=2),
        "cross road and water, from at most 6 actions before moody play once did; recorded by `moody` play",
        _paid,
        limit=10,
        steps=40_000,
        policy="moody",
        episode=100,
        execute=2,
        discount=0.95,
        settings={"beta": 2.0},
        lead=6,
    ),
}


def find_task(name: str) -> Task:
    """Return a task that comes with the package; raises `UnknownName`."""
    if name not in TASKS:
        raise did_you_mean(name, TASKS, "task")
    return TASKS[name]


def task_in(env: EnvSpec) -> Task | None:
    """The task of the catalogue in an environment, in that environment's own pace (`Task.paced`); None without one."""
    for task in TASKS.values():
        own = task.env
        like = own.id == env.id and own.pixels == env.pixels and own.kwargs.items() <= env.kwargs.items()
        if like and own.frame_skip % env.frame_skip == 0:
            return task.paced(env)
    return None
