"""Train the pixel U-Net for a given time.

The recipe is the published one (Alonso et al. 2024, arXiv 2405.12399): AdamW, rate 1e-4 after 100 warm steps, weight
decay 1e-2, batches of 32, gradients cut at norm 1, the loss one step ahead of true frames.
Differs, in the peer's favour: it is trained in bfloat16 or float32 and with either order of channels, whichever is
fastest here, and keeps its last weights or their average (the one that training a world takes), whichever has the lower
loss on held-out clips.
"""

from __future__ import annotations

import copy
import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peer_engine import ORDERS, config_for, image_stream, lay_out
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from unet import Denoiser, to_signal

from terrella.data import Dataset
from terrella.data.index import Split
from terrella.errors import TrainingError
from terrella.files import atomic
from terrella.training.optim import Average

WARM_STEPS, WEIGHT_DECAY, CLIP_NORM = 100, 1e-2, 1.0
HELD_OUT_BATCHES = 2


@dataclass(frozen=True)
class Recipe:
    """How long and how the peer is trained; the defaults are the published ones."""

    seconds: float
    seed: int = 0
    batch: int = 32
    lr: float = 1e-4


@dataclass(frozen=True)
class Way:
    """How the same numbers are computed: in half precision or not, and in which order images lie in memory."""

    half: bool
    order: str

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Do matrix products in bfloat16, or do nothing."""
        return torch.autocast(device.type, torch.bfloat16) if self.half else nullcontext()


WAYS = tuple(Way(half, order) for half in (False, True) for order in ORDERS)


@dataclass
class Frames:
    """All frames of a split, end to end on one device.

    pixels: uint8 `(frames, h, w, C)`. actions: int64 `(frames,)`, taken after each frame. starts: where clips of
    `past` + 1 frames begin that stay inside one episode.
    """

    pixels: Tensor
    actions: Tensor
    starts: Tensor
    past: int

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw clips: float32 `(B, P + 1, C, h, w)` in [-1, 1], and the actions between their frames `(B, P)`."""
        device = self.starts.device
        first = self.starts[torch.randint(len(self.starts), (batch,), generator=generator, device=device)]
        index = first[:, None] + torch.arange(self.past + 1, device=device)
        return to_signal(self.pixels[index]), self.actions[index[:, :-1]]


def read_frames(data: Dataset, split: Split, past: int, device: torch.device) -> Frames:
    """Read a split into memory; raises `TrainingError` when no episode is as long as a clip."""
    (name, stream), chosen = image_stream(data.spec), data.split(split)
    lengths = data.lengths[chosen]
    total = int((lengths + 1).sum())
    pixels = torch.empty(total, *stream.shape, dtype=torch.uint8)
    actions, starts = torch.zeros(total, dtype=torch.int64), []
    first = 0
    for index, steps in zip(chosen.tolist(), lengths.tolist()):
        episode = data.episode(index, states=False)
        pixels[first : first + steps + 1] = torch.from_numpy(episode.observations[name])
        actions[first : first + steps] = torch.from_numpy(episode.actions[:, 0]).long() - data.spec.action.start
        starts.append(torch.arange(first, first + max(0, steps - past + 1)))
        first += steps + 1
    if not sum(map(len, starts)):
        raise TrainingError(f"no {split} episode has {past} transitions; record more or longer episodes.")
    return Frames(pixels.to(device), actions.to(device), torch.cat(starts).to(device), past)


def make_optimizer(denoiser: Denoiser, lr: float) -> torch.optim.AdamW:
    """AdamW; biases, norms and the embedding of actions are not decayed."""
    kept = [p for n, p in denoiser.named_parameters() if p.ndim < 2 or ".action." in n]
    ids = {id(p) for p in kept}
    decayed = [p for p in denoiser.parameters() if id(p) not in ids]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def train_step(
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    frames: Frames,
    recipe: Recipe,
    way: Way,
    step: int,
    generator: torch.Generator,
) -> Tensor:
    """Take one step of training; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * min(1.0, (step + 1) / WARM_STEPS)
    clips, actions = frames.sample(recipe.batch, generator)
    with way.precision(clips.device):
        loss = denoiser.loss(clips, actions, generator)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(denoiser.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.detach()


def fastest_way(denoiser: Denoiser, frames: Frames, recipe: Recipe) -> tuple[Way, dict[str, float]]:
    """Time a few steps of a copy in each way; returns the fastest, and the seconds a step of all."""
    device, seconds = frames.pixels.device, {}
    for way in WAYS:
        twin = copy.deepcopy(denoiser)
        lay_out(twin, way.order)
        optimizer, generator = make_optimizer(twin, recipe.lr), torch.Generator(device).manual_seed(0)
        taken: list[float] = []
        while len(taken) < 4 and sum(taken) < 3:  # where a step takes seconds, one tells
            began = time.perf_counter()
            float(train_step(twin, optimizer, frames, recipe, way, len(taken), generator))
            _wait(device)
            taken.append(time.perf_counter() - began)
        seconds[way] = min(taken)
    named = {f"{'bfloat16' if w.half else 'float32'}, {w.order}": round(s, 5) for w, s in seconds.items()}
    return min(seconds, key=lambda w: seconds[w]), named


def trained_peer(
    data: Dataset, path: Path, recipe: Recipe, device: torch.device | str
) -> tuple[Denoiser, dict[str, Any]]:
    """Train a peer into `path` (safetensors, with its record as JSON beside it), or read the one that is there.

    Reading data and finding the fastest way do not count as training time, as encoding does not for a world.
    Raises `TrainingError` for a file of another recipe or dataset, and where training diverged.
    """
    device, note = torch.device(device), path.with_suffix(".json")
    asked = {**vars(recipe), "dataset": data.fingerprint}
    if note.exists():
        about = json.loads(note.read_text())
        wrong = {k: about.get(k) for k, v in asked.items() if about.get(k) != v}
        if wrong:
            raise TrainingError(f"{path} was trained with {wrong}; expected {asked}. Choose another --out.")
        denoiser = Denoiser(config_for(data.spec))
        denoiser.load_state_dict(load_file(path))
        return denoiser.to(device).eval().requires_grad_(False), about
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        denoiser = Denoiser(config_for(data.spec)).to(device)
    past = denoiser.net.config.past
    frames, held = (read_frames(data, split, past, device) for split in ("train", "held_out"))
    way, speeds = fastest_way(denoiser, frames, recipe)
    about = asked | train(denoiser, frames, held, recipe, way) | {"seconds_a_step": speeds, "device": device.type}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        save_file({k: v.cpu().contiguous() for k, v in denoiser.state_dict().items()}, partial)
    with atomic(note) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n")
    return denoiser.eval().requires_grad_(False), about


def train(denoiser: Denoiser, frames: Frames, held: Frames, recipe: Recipe, way: Way) -> dict[str, Any]:
    """Train for `recipe.seconds` and keep the better of last and average weights; returns the record."""
    device = frames.pixels.device
    lay_out(denoiser, way.order)
    optimizer, average = make_optimizer(denoiser, recipe.lr), Average(denoiser)
    generator = torch.Generator(device).manual_seed(recipe.seed)
    losses: list[Tensor] = []
    spent, clock = 0.0, time.monotonic()
    denoiser.train()
    while spent < recipe.seconds:
        losses.append(train_step(denoiser, optimizer, frames, recipe, way, len(losses), generator))
        average.update(len(losses))
        if len(losses) % 32 == 0:
            _wait(device)  # else the clock would count what was asked for, not what was done
        now = time.monotonic()
        spent, clock = spent + now - clock, now
    means = [float(torch.stack(part).mean()) for part in (losses[:20], losses[-20:])]
    if not math.isfinite(means[1]):
        raise TrainingError(f"the peer's loss is {means[1]} after {len(losses)} steps; lower its learning rate.")
    scores = {"last": held_out(denoiser, held, recipe.batch)}
    average.exchange()
    scores["average"] = held_out(denoiser, held, recipe.batch)
    if scores["last"] < scores["average"]:
        average.exchange()
    return {
        "steps": len(losses),
        "seconds_trained": round(spent, 1),
        "loss_first": means[0],
        "loss_last": means[1],
        "held_out": scores,
        "kept": min(scores, key=lambda name: scores[name]),
        "precision": "bfloat16" if way.half else "float32",
        "order": way.order,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
    }


@torch.inference_mode()
def held_out(denoiser: Denoiser, held: Frames, batch: int) -> float:
    """Loss on a few held-out clips, always the same ones under the same noise."""
    generator = torch.Generator(held.pixels.device).manual_seed(0)
    losses = [denoiser.loss(*held.sample(batch, generator), generator) for _ in range(HELD_OUT_BATCHES)]
    return float(torch.stack(losses).mean())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
