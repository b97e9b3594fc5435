"""From recordings to a head: frames are encoded once by the world's own tokenizers, then the loop of training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import from_json, to_json
from ..data import Dataset
from ..errors import SpecError
from ..registry import lookup
from ..training import Budget
from ..training.journal import Journal
from ..training.optim import Optimizer
from ..training.steps import Learner, Steps
from ..world import World
from .base import Head
from .recordings import Recordings, dreamed

HELD_OUT_FRAMES = 1024
DREAMS = 256  # of the world, for heads that learn what drifting looks like


def fit(
    world: World,
    dataset: Dataset | str | Path,
    kind: str,
    *,
    budget: str | Budget = "60s",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Head:
    """Fit a head of a kind (`value`, `policy`, `inverse`, `energy`) and put it into `world.heads`, in place of any.

    dataset: recordings of the world's environment. budget: `60s`, `2m` or `3000steps`. out: the folder of the world,
    where the head is then saved, and a checkpoint every minute, from which the same call goes on if `resume`; without
    it `world.save` writes the head. settings: of the head's `Config`. With a budget in steps, equal seeds give equal
    heads.

    Raises `UnknownName` for a kind there is not, `ConfigError` for settings it has not, `SpecError` for recordings of
    something else, `ActionError` for text, and `TrainingError`.
    """
    cls = lookup("head", kind)
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    if not world.spec.same_interface(data.spec):
        raise SpecError(
            f"the dataset has streams {data.spec.streams} and actions {data.spec.action}; world {world.name!r} was "
            f"made for {world.spec.streams} and {world.spec.action}. Record the same environment."
        )
    device, whole = next(world.parameters()).device, Budget.parse(budget)
    with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as it was
        torch.manual_seed(seed)
        head: Head = cls(from_json(cls.Config, settings, f"head {kind}"), world.tokens, world.spec.action).to(device)
    about = {
        "kind": kind,
        "config": to_json(head.config),
        "budget": to_json(whole),
        "seed": seed,
        "dataset": {"fingerprint": data.fingerprint, "episodes": len(data), "steps": data.steps},
        "encoding": world.encoding,
        "device": device.type,
    }
    journal = Journal(None, progress)
    steps = Steps(
        head,
        lambda phase: Learner(head, Optimizer(head, head.config.lr, 1e-4, 1.0, muon=False)),
        kind,
        seed=seed,
        device=device,
        journal=journal,
        about=about,
        checkpoint=Path(out) / f"{kind}-head.checkpoint.safetensors" if out else None,
    )
    with journal:
        if resume:
            steps.resume()
        with journal.task("encode", data.steps + len(data)) as advance:
            true, held = (Recordings.of(world, data, split, advance) for split in ("train", "held_out"))
        if head.dreams:
            with journal.task("dream", 2) as advance:
                for recordings, key, count in ((true, seed, DREAMS), (held, seed + 1, DREAMS // 4)):
                    recordings.dreams = dreamed(world, recordings, count, head.dreams, key)
                    advance(1)
        if steps.step == 0:
            head.prepare(true)

        def loss(held_out: bool) -> tuple[Tensor, dict[str, Tensor]]:
            if not held_out:
                return head.loss(true, true.draw(head.config.batch, steps.order), steps.generator)
            order = torch.Generator().manual_seed(0)
            same = torch.Generator(device=device).manual_seed(0)
            return head.loss(held, held.draw(HELD_OUT_FRAMES, order), same)

        with steps.interruptible():
            steps.run(whole, loss)
    head.record = {**about, "torch": torch.__version__, **steps.record}
    world.heads[kind] = head.eval().requires_grad_(False)
    if out:
        world.save_head(kind, out)
        (Path(out) / f"{kind}-head.checkpoint.safetensors").unlink(missing_ok=True)
    return head
