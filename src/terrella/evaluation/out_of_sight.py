"""What becomes of things that nobody sees? Leave, come back, and compare with what might have become of them (C4, C5).

In the arenas that go on out of view, the viewer leaves for n steps and returns by the inverse moves. The world is told
the actions, and its last frame is compared with four truths, drawn by the simulator from the same place:

    continued    what really stands there now
    frozen       everything where it was when the viewer left
    deleted      nothing of what was seen before it left
    changed      each thing as another one: another digit, another colour

The share of cases in which `continued` costs least is `right`, chance 1 / truths that differ. Of equal truths one is
kept, and cases in which fewer than two are left, or `continued` looks `frozen`, are left out.

Revisit: the same journey beside one of equal length on the spot, e_loop - e_stay, both against their own truth. It is 0
for whoever forgets nothing by leaving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arenas import to_streams
from ..arenas.quantity import Value
from ..errors import ArenaError
from .dimension import resting
from .metrics import frame_mse
from .moments import Moment, Stage
from .rollout import Dreamer
from .stats import bootstrap, number, numbers

TRUTHS = ("continued", "frozen", "deleted", "changed")
SAME = 1e-9


@dataclass
class Journeys:
    """G journeys. moments: before they begin. away, stay: actions `(G, T, W)`. truths: `(G, 4, ...)` as `TRUTHS`.

    stayed: `(G, ...)`, the true frame after as long on the spot. stream: whose frames these are.
    """

    moments: list[Moment]
    away: np.ndarray
    stay: np.ndarray
    truths: np.ndarray
    stayed: np.ndarray
    context: int
    stream: str


def journeys(stage: Stage, groups: int, unseen: int, *, context: int = 4, lead: int = 20) -> Journeys:
    """Play journeys with `unseen` steps out of sight, at least.

    Raises `ArenaError` for another arena than Sprites or Blocks.
    """
    fork = stage.fork
    quantities = set() if fork is None else _named(stage, context, lead)
    if fork is None or not {"positions", "velocities"} <= quantities or not quantities & {"camera", "heading"}:
        raise ArenaError(
            f"{stage.spec.env.id} is not an arena one can look away in; use terrella/Sprites-v0 or terrella/Blocks-v0."
        )
    (stream,) = stage.spec.modelled
    moments, truths, stayed, away = [], [], [], []
    for _ in range(groups):
        moment = stage.next(context, 1, lead)
        path = _path(stage, fork.quantities(), unseen)
        before = fork.quantities()
        stage.restore(moment)
        stage.play(path)
        truths.append(_truths(stage, before, fork.quantities(), stream))
        stage.restore(moment)
        stayed.append(stage.play(np.tile(resting(stage.spec), (len(path), 1)).astype(np.float32)).frames[-1][stream])
        moments.append(moment)
        away.append(path)
    rest = np.broadcast_to(resting(stage.spec).astype(np.float32), np.shape(away)).copy()
    return Journeys(moments, np.stack(away), rest, np.stack(truths), np.stack(stayed), context, stream)


def _named(stage: Stage, context: int, lead: int) -> set[str]:
    stage.next(context, 1, lead)
    return set() if stage.fork is None else set(stage.fork.quantities())


def _path(stage: Stage, now: Mapping[str, Value], unseen: int) -> np.ndarray:
    """Actions that look away, wait and look back, `(T, W)`: the camera slides by half a torus, a walker turns round."""
    rest = resting(stage.spec)
    if "camera" in now:
        core: Any = stage.env.unwrapped
        moves, left = [], core.world // 2
        while left:
            moves.append(min(core.move, left))
            left -= moves[-1]
        out = np.array([[core.move, core.move + m] for m in moves])
        back = np.array([[core.move, core.move - m] for m in moves])
    else:
        out, back = np.zeros((2, 1)), np.ones((2, 1))
    return np.concatenate([out, np.tile(rest, (unseen, 1)), back]).astype(np.float32)


def _truths(stage: Stage, before: Mapping[str, Value], after: Mapping[str, Value], stream: str) -> np.ndarray:
    """Frames `(4, ...)` of where the environment stands, as `TRUTHS` has them."""
    fork = stage.fork
    core: Any = stage.env.unwrapped
    if fork is None:
        raise ArenaError("truths are drawn from saved states.")
    standing = fork.save()
    visible = np.asarray(core.visible())
    stage_frames = [_seen(stage, fork.last_observation(), stream)]
    what = "images" if "images" in after else "colours"
    limit = len(core.bank) if what == "images" else 6
    hidden = np.array(after["positions"])
    # Out of sight: behind the window, or where the viewer stands, whose own place is never drawn in front of it.
    hidden[visible] = (
        (np.asarray(after["camera"]) + core.world // 2) % core.world if what == "images" else _behind(after)
    )
    others = (np.asarray(after[what]) + 1) % limit
    for name, value in (("positions", before["positions"]), ("positions", hidden), (what, others)):
        observation = fork.intervene(name, value)
        stage_frames.append(_seen(stage, observation, stream))
        fork.restore(standing)
    return np.stack(stage_frames)


def _behind(after: Mapping[str, Value]) -> np.ndarray:
    """A place behind a walker, inside the room."""
    ahead = np.array([(0, 1), (-1, 0), (0, -1), (1, 0)])[int(np.asarray(after["heading"]))]
    return np.maximum(np.asarray(after["agent"]) - ahead, 0)


def _seen(stage: Stage, observation: Any, stream: str) -> np.ndarray:
    return np.array(to_streams(stage.env, observation)[stream])


def permanence(dreamer: Dreamer, found: Journeys, stage: Stage) -> dict[str, Any]:
    """Rank the truths by their cost and compare journeys with staying, as JSON values with intervals by group.

    The noise seed of group g is g in both. `nearest`: how often each truth costs least. `raw`: `right` of each group,
    None where nothing was asked.
    """
    spec = stage.spec.modelled[found.stream]
    said = [_last(dreamer, found, rows) for rows in (found.away, found.stay)]
    cost = frame_mse(said[0][:, None], found.truths, spec)
    between = frame_mse(found.truths[:, :, None], found.truths[:, None], spec)
    repeated = ((between <= SAME) & np.tril(np.ones((4, 4), bool), -1)).any(2)
    asked = ~repeated[:, 1]
    priced = np.where(repeated, np.inf, cost)
    least = priced <= priced.min(1, keepdims=True)
    share = np.where(asked[:, None], least / least.sum(1, keepdims=True), np.nan)
    chance = np.where(asked, 1 / (~repeated).sum(1), np.nan)
    loop = frame_mse(said[0], found.truths[:, 0], spec)
    stay = frame_mse(said[1], found.stayed, spec)
    columns = {
        "right": share[:, 0],
        "chance": chance,
        **{f"nearest_{name}": share[:, i] for i, name in enumerate(TRUTHS)},
        "e_loop": loop,
        "e_stay": stay,
        "revisit": loop - stay,
    }
    mean, low, high = bootstrap(np.stack(list(columns.values()), 1))
    table: dict[str, Any] = {"groups": len(cost), "asked": int(asked.sum())}
    for i, name in enumerate(columns):
        table[name] = {"mean": number(mean[i]), "interval": [number(low[i]), number(high[i])]}
    return {**table, "raw": {"right": numbers(share[:, 0])}}


def _last(dreamer: Dreamer, found: Journeys, rows: np.ndarray) -> np.ndarray:
    """The last frame of a rollout of every group under `rows` `(G, T, W)`."""
    names = found.moments[0].frames[0]
    seen = {n: np.stack([np.stack([f[n] for f in m.frames]) for m in found.moments]) for n in names}
    past = np.stack([m.actions[: found.context] for m in found.moments])
    _, frame = dreamer.rollout(dreamer.start(seen, past, list(range(len(rows)))), rows)
    return np.asarray(frame.observation[found.stream])[:, -1]
