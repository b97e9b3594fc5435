"""Hold the `tiny` world against a pixel U-Net diffusion model of published size, trained for the same time.

    python benchmarks/speed/peer_unet.py --minutes 20 --seeds 0 1 2 --json peer.json

Both learn from one recording for the same seconds with the same threads. What each does between steps (encoding frames
for the world's backbone, finding out in which precision the peer trains fastest) does not count. Both then see the same
12 frames of held-out episodes (the peer has room for the last 4) and go on under the recorded actions; starts are drawn
where the episode has frames left for the furthest horizon, if it is as long. `rows` has one line a seed and model:

| key | meaning |
|---|---|
| `mse`, `mse_interval` | mean squared error on [0, 1] at each of `horizons`, 95 % intervals by episode |
| `action_ratio` | error at horizon 8 under another start's actions / under the true ones |
| `mse_raw` | the error of each start at each horizon, null past what the recording has |

`n` counts the starts that reach each horizon and `n_episodes` the episodes they come from; `references` has the errors
of the last seen frame and of the mean training frame. Errors of the world are those of float32, the peer's of
`--peer-precision`; where that is bfloat16, `peer_precision_gap` is its error up to horizon 8 over that of float32, for
the first seed. Squared error rewards averaging over what cannot be known, and both models draw samples. Frames a second
are in `peer_speed.py`.

Data, worlds and peers are kept in `--out` and not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import holds_world, recorded, write_json
from peer_engine import PeerEngine, image_stream
from peer_training import Recipe, trained_peer
from unet import STEPS, Denoiser

import terrella
from terrella.data import Dataset
from terrella.engine import Engine
from terrella.errors import DatasetError
from terrella.evaluation.metrics import frame_mse
from terrella.evaluation.rollout import Dreamer, dream
from terrella.evaluation.stats import bootstrap, derangement
from terrella.evaluation.truth import Truth
from terrella.world import World

SEEN = 12  # frames before the first prediction
HORIZONS = (1, 2, 4, 8, 16, 32, 50, 100, 200)
ACTIONS_AT = 8  # the horizon at which actions are put to the test
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Predict = Callable[[np.ndarray, Sequence[int]], np.ndarray]  # actions (B, T, W), horizons -> frames (B, H, h, w, C)


def trained_world(data: Dataset, minutes: float, seed: int, device: str) -> World:
    """Train Terrella's world beside its data, or open the one that is there."""
    path = data.path.parent / f"{data.path.name}-terrella-{seed}-{minutes:g}m"
    if holds_world(path):
        return World.load(path, device)
    return terrella.train(data, path, budget=f"{60 * minutes:g}s", preset="tiny", seed=seed, device=device)


def futures(data: Dataset, count: int, horizons: Sequence[int], seed: int) -> Truth:
    """Draw `count` starts from held-out episodes, each episode in turn.

    An episode that is long enough goes on for the furthest horizon, a shorter one for at least half of what it has
    after the seen frames; past its end its actions begin again, and nothing is compared. Raises `DatasetError` when no
    held-out episode has a frame to predict.
    """
    (name, stream), rng, most = image_stream(data.spec), np.random.default_rng(seed), max(horizons)
    usable = rng.permutation([i for i in data.split("held_out") if data.lengths[i] >= SEEN])
    if not len(usable):
        raise DatasetError(f"no held-out episode has {SEEN} transitions; record more with --steps.")
    truth = Truth(
        observations={name: np.zeros((count, SEEN + most, *stream.shape), np.uint8)},
        actions=np.zeros((count, SEEN - 1 + most, 1), np.float32),
        rewards=np.zeros((count, most), np.float32),  # the peer predicts none
        terminated=np.zeros((count, most), bool),
        length=np.zeros(count, np.int64),
        seeds=list(range(count)),
        groups=np.resize(usable, count),
        context=SEEN - 1,
    )
    for row, index in enumerate(truth.groups.tolist()):
        episode = data.episode(index, states=False)
        left = len(episode) - truth.context
        first = int(rng.integers(left - (most if left >= most else (left + 1) // 2) + 1))
        frames = episode.observations[name][first : first + SEEN + most]
        truth.observations[name][row, : len(frames)] = frames
        truth.actions[row] = episode.actions[(first + np.arange(truth.context + most)) % len(episode)]
        truth.length[row] = len(frames) - SEEN
    return truth


def score(predict: Predict, truth: Truth, data: Dataset, horizons: Sequence[int], seed: int) -> dict[str, Any]:
    """Hold what `predict` says against the truth, at every horizon (8 among them) over the starts that reach it."""
    name, stream = image_stream(data.spec)

    def error(actions: np.ndarray, marks: Sequence[int]) -> np.ndarray:
        real = np.stack([truth.frame(name, h) for h in marks], 1)
        there = truth.length[:, None] >= np.array(marks)
        return np.where(there, frame_mse(predict(actions, marks), real, stream), np.nan)

    raw = error(truth.future, horizons)
    mean, low, high = (numbers(part) for part in bootstrap(raw, groups=truth.groups))
    result: dict[str, Any] = {"mse": mean, "mse_interval": [low, high], "mse_raw": numbers(raw)}
    if len(truth) > 1:
        other = truth.future[derangement(len(truth), np.random.default_rng(seed))]
        swapped, true = error(other, [ACTIONS_AT]), raw[:, [list(horizons).index(ACTIONS_AT)]]
        share, low, high = (numbers(part)[0] for part in bootstrap(swapped, true, truth.groups))
        result |= {"action_ratio": share, "action_ratio_interval": [low, high]}
    return result


def numbers(values: np.ndarray) -> list[Any]:
    """An array as JSON; what is not finite becomes null."""
    return [numbers(v) if np.ndim(v) else round(float(v), 7) if np.isfinite(v) else None for v in values]


def references(data: Dataset, truth: Truth, horizons: Sequence[int]) -> dict[str, Any]:
    """Errors of predictions that need no learning."""
    name, _ = image_stream(data.spec)
    seen = data.sample(512, 1, np.random.default_rng(0)).observations[name][:, 0]
    guesses = {"copy_last": truth.frame(name, 0)[:, None], "mean_frame": seen.mean(0).round()}
    scores = {who: score(lambda actions, marks, g=guess: g, truth, data, horizons, 0) for who, guess in guesses.items()}
    return {who: {key: found[key] for key in ("mse", "mse_interval")} for who, found in scores.items()}


def compared(
    data: Dataset, truth: Truth, seed: int, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], Denoiser]:
    """Train what is missing for one seed; returns its two rows, and the peer."""
    name, _ = image_stream(data.spec)
    world = trained_world(data, options.minutes, seed, options.device)
    recipe = Recipe(60 * options.minutes, seed, options.peer_batch, options.peer_lr)
    how = f"{seed}-{options.minutes:g}m-b{recipe.batch}-lr{recipe.lr:g}"
    path = data.path.parent / f"{data.path.name}-peer-{how}.safetensors"
    denoiser, about = trained_peer(data, path, recipe, options.device)
    own = {"steps": world.record["steps"], "seconds_trained": world.record["seconds"]}
    players: list[tuple[str, Dreamer, dict[str, Any], int]] = [
        ("terrella", Engine(world, steps=options.denoise), own, sum(world.parameters_by_part().values())),
        ("peer", PeerEngine(denoiser, data.spec, dtype=PRECISIONS[options.peer_precision]), about, about["parameters"]),
    ]
    rows = []
    for model, player, record, parameters in players:
        found = score(lambda a, h, p=player: dream(p, truth, a, h)[0][name], truth, data, options.horizons, seed)
        rows.append({"model": model, "seed": seed, "parameters": parameters, **found, "training": record})
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "mse_raw"}), flush=True)
    return rows, denoiser


def precision_gap(denoiser: Denoiser, truth: Truth, data: Dataset, dtype: torch.dtype) -> list[float]:
    """Error of the peer with weights in `dtype` / in float32, at horizons 1 to `ACTIONS_AT`."""
    name, marks = image_stream(data.spec)[0], [h for h in HORIZONS if h <= ACTIONS_AT]
    players = (PeerEngine(denoiser, data.spec, dtype=kind) for kind in (dtype, torch.float32))
    found = [score(lambda a, h, p=p: dream(p, truth, a, h)[0][name], truth, data, marks, 0)["mse"] for p in players]
    return numbers(np.divide(*found))


def main() -> None:
    """Record, train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="procgen/coinrun", help="one image, discrete actions")
    parser.add_argument("--steps", type=int, default=60_000, help="transitions to record (default 60,000)")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time of each model (default 20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--horizons", type=int, nargs="+", default=HORIZONS, help="frames ahead; 8 is always among them"
    )
    parser.add_argument("--starts", type=int, default=32, help="futures compared (default 32)")
    parser.add_argument("--denoise", type=int, default=2, help="denoising steps of the world (default 2)")
    parser.add_argument("--peer-batch", type=int, default=32, help="published: 32")
    parser.add_argument("--peer-lr", type=float, default=1e-4, help="published: 1e-4")
    parser.add_argument("--peer-precision", choices=PRECISIONS, default="float32", help="while it is scored")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/peer"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.horizons = sorted({*options.horizons, ACTIONS_AT})
    if options.threads:
        torch.set_num_threads(options.threads)
    data = recorded(options.env, options.steps, options.out, seed=1000, max_episode_steps=500)
    truth = futures(data, options.starts, options.horizons, 0)
    rows: list[dict[str, Any]] = []
    denoisers: list[Denoiser] = []
    for seed in options.seeds:
        found, denoiser = compared(data, truth, seed, options)
        rows += found
        denoisers.append(denoiser)
    result = {
        "benchmark": "peer_unet",
        "env": options.env,
        "transitions": data.steps,
        "minutes": options.minutes,
        "device": options.device,
        "steps_a_frame": {"terrella": options.denoise, "peer": STEPS},
        "seen": SEEN,
        "horizons": options.horizons,
        "n": [int((truth.length >= h).sum()) for h in options.horizons],
        "n_episodes": [len(np.unique(truth.groups[truth.length >= h])) for h in options.horizons],
        "episode_of_start": truth.groups.tolist(),
        "held_out_lengths": data.lengths[data.split("held_out")].tolist(),
        "peer_precision": options.peer_precision,
        "peer_precision_gap": None
        if options.peer_precision == "float32"
        else precision_gap(denoisers[0], truth, data, PRECISIONS[options.peer_precision]),
        "rows": rows,
        "references": references(data, truth, options.horizons),
    }
    write_json(result, options.json, seeds=options.seeds)


if __name__ == "__main__":
    main()
