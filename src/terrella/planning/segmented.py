"""Segmented online training: a step of the optimiser is one iteration of every row, whatever its age.

    loss = mean over rows of [ mean over tokens of the cross-entropy + halt_weight BCE(q, 1 if all tokens are right) ]

The latents of a batch are carried from step to step without gradient and go on under the new weights. A row that made
all its segments, or whose halt logit q says so, gets a fresh puzzle and a fresh start, so that rows differ in age and
early and late iterations train together.

Ref: Equilibrium Reasoners, arXiv 2605.21488 (segmented online training, stablemax, halting); Prieto et al., arXiv
2501.04697 (stablemax); Everett et al., arXiv 2407.05872 (AdamAtan2). Differs: the rate falls over the last half, so
that a budget's end is a good place to stop; the average of weights has a memory that grows with training.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import to_json
from ..errors import ConfigError, TrainingError
from ..puzzles import Puzzles
from ..training.budget import Budget
from ..training.checkpoint import load_checkpoint, save_checkpoint, unbroken
from ..training.journal import Journal
from ..training.optim import Average, Optimizer
from .equilibrium import Reasoner, ReasonerConfig
from .solve import solve

FILE, CHECKPOINT = "reasoner.safetensors", "checkpoint.safetensors"
LOOK_AT = 256  # held-out puzzles that are looked at


@dataclass(frozen=True)
class ReasonerTraining:
    """How the weights are found.

    segments: iterations of a row before it gets a fresh puzzle at the latest. explore: share of rows that may not halt
    before a number of iterations drawn for them. optimizer: `adam_atan2` or `adamw`. look_every: steps between looks at
    held-out puzzles, if there are any.
    """

    batch: int = 32
    segments: int = 16
    lr: float = 5e-4
    weight_decay: float = 0.1
    halt_weight: float = 0.5
    explore: float = 0.1
    optimizer: Literal["adam_atan2", "adamw"] = "adam_atan2"
    look_every: int = 1000
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if min(self.batch, self.segments, self.look_every) < 1 or not 0 <= self.explore <= 1 or self.lr <= 0:
            raise ConfigError(f"expected counts from 1 on, 0 <= explore <= 1 and a rate above 0; got {self}.")
        if self.optimizer not in ("adam_atan2", "adamw"):
            raise ConfigError(f"optimizer is {self.optimizer!r}; expected 'adam_atan2' or 'adamw'.")


def train_reasoner(
    puzzles: Puzzles,
    out: str | Path | None = None,
    *,
    budget: str | Budget = "10m",
    config: ReasonerConfig | None = None,
    training: ReasonerTraining | None = None,
    held_out: Puzzles | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Reasoner:
    """Train a reasoner on puzzles.

    out: folder for `reasoner.safetensors`, a checkpoint and logs; None keeps all in memory. budget: `10m`, `90s` or
    `5000steps`. config: by default a small one for these puzzles. held_out: looked at now and then, for the record
    alone. resume: go on from the checkpoint in `out`; with a budget in steps the weights come out as if never stopped.

    Raises `ConfigError`, and `TrainingError`, also when `out` holds a finished reasoner.
    """
    folder = Path(out) if out else None
    if folder and resume and (folder / FILE).exists() and not (folder / CHECKPOINT).exists():
        raise TrainingError(f"{folder} holds a finished reasoner; train into another folder, or with resume=False.")
    wanted = config or ReasonerConfig(puzzles.symbols, puzzles.classes, tokens=puzzles.tokens[0].size)
    if (wanted.symbols, wanted.classes) != (puzzles.symbols, puzzles.classes):
        raise ConfigError(
            f"the reasoner has {wanted.symbols} symbols and {wanted.classes} classes; "
            f"these puzzles have {puzzles.symbols} and {puzzles.classes}."
        )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as it was
        torch.manual_seed(seed)
        reasoner = Reasoner(wanted).to(where)
    run = _Run(
        reasoner, training or ReasonerTraining(), puzzles, held_out, Budget.parse(budget), seed, folder, progress
    )
    with run.journal:
        if resume:
            run.resume()
        try:
            run.train()
        except KeyboardInterrupt:
            if run.between_steps:  # else the last checkpoint stands
                run.save()
            run.journal.say("interrupted; the same call goes on from here")
            raise
    reasoner.eval().requires_grad_(False)
    if folder:
        reasoner.save(folder / FILE)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return reasoner


def stablemax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute -log of the stablemax probability of `targets` `(...)` under `logits` `(..., classes)`, in float64.

    In place of exp stands s(x) = x + 1 from 0 on and 1 / (1 - x) below: growth is slow on either side, and training
    cannot lower the loss by scaling logits up without end.
    """
    x = logits.double()
    s = torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x.clamp(min=0) + 1)
    picked = s.gather(-1, targets[..., None])[..., 0]
    return s.sum(-1).log() - picked.log()


def segment_loss(logits: Tensor, halt: Tensor, answers: Tensor, halt_weight: float) -> Tensor:
    """Compute the loss of one segment: logits `(B, N, classes)`, halt logits `(B,)`, answers int64 `(B, N)`."""
    right = (logits.argmax(-1) == answers).all(1)
    stop = F.binary_cross_entropy_with_logits(halt.float(), right.float())
    return stablemax_loss(logits, answers).mean().float() + halt_weight * stop


class _Run:
    """One training run and what its checkpoint holds."""

    def __init__(
        self,
        reasoner: Reasoner,
        config: ReasonerTraining,
        puzzles: Puzzles,
        held_out: Puzzles | None,
        budget: Budget,
        seed: int,
        out: Path | None,
        progress: bool,
    ):
        self.reasoner, self.config, self.puzzles, self.held_out = reasoner, config, puzzles, held_out
        self.budget, self.seed, self.journal = budget, seed, Journal(out, progress)
        self.device = next(reasoner.parameters()).device
        self.checkpoint = out / CHECKPOINT if out else None
        if out:
            out.mkdir(parents=True, exist_ok=True)
        atan2 = config.optimizer == "adam_atan2"
        self.optimizer = Optimizer(reasoner, config.lr, config.weight_decay, float("inf"), muon=False, atan2=atan2)
        self.average = Average(reasoner)
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self.step, self.seconds, self.between_steps = 0, 0.0, False
        self.history: list[dict[str, float]] = []
        self.carry = self._blank()
        self.about: dict[str, Any] = {
            "config": to_json(reasoner.config),
            "training": to_json(asdict(config)),
            "budget": to_json(budget),
            "seed": seed,
            "puzzles": puzzles.fingerprint,
            "device": self.device.type,
        }

    def _blank(self) -> dict[str, Tensor]:
        """A batch of rows that have all halted: the first step fills them."""
        b, shape, c = self.config.batch, self.puzzles.tokens.shape[1:], self.reasoner.config
        whole = torch.int64
        return {
            "z": torch.zeros(b, 2, shape[0] * shape[1], c.dim, device=self.device),
            "tokens": torch.zeros(b, *shape, dtype=whole, device=self.device),
            "answers": torch.zeros(b, *shape, dtype=whole, device=self.device),
            "age": torch.zeros(b, dtype=whole, device=self.device),
            "least": torch.zeros(b, dtype=whole, device=self.device),
            "halted": torch.ones(b, dtype=torch.bool, device=self.device),
        }

    def train(self) -> None:
        """Step until the budget is spent, then put the average of weights in place."""
        saved = clock = time.monotonic()
        self.reasoner.train()
        self.between_steps = True
        with self.journal.phase("reasoner", self.budget, self.step, self.seconds) as report:
            while (share := self.budget.progress(self.step, self.seconds)) < 1:
                with unbroken():
                    loss, values = self._segment()
                    self.optimizer.step(loss, self.step, share)
                    self.step += 1
                    self.average.update(self.step)
                    now = time.monotonic()
                    self.seconds, clock = self.seconds + now - clock, now
                    report(self.step, self.seconds, {"loss": loss.detach(), **values})
                    if self.held_out and self.step % self.config.look_every == 0:
                        self._look(self.held_out)
                        clock = time.monotonic()  # looking is not training
                    if now - saved > self.config.checkpoint_seconds:
                        self.save()
                        saved = clock = time.monotonic()
        self.between_steps = False
        self.average.exchange()
        record = {"steps": self.step, "seconds": round(self.seconds, 1), "history": self.history}
        self.reasoner.record = {**self.about, **record, "torch": torch.__version__}

    def _segment(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Replace the rows that halted, iterate all once, and say which halt now: the loss and what to show."""
        c, kept = self.config, self._refill()
        problem = self.reasoner.enter(kept["tokens"])
        with self._precision():
            z, residual = self.reasoner.think(kept["z"], problem, generator=self.generator)
            logits, halt = self.reasoner.read(z)
        answers = kept["answers"].flatten(1)
        loss = segment_loss(logits, halt, answers, c.halt_weight)
        age = kept["age"] + 1
        halted = (age >= c.segments) | ((halt.detach() > 0) & (age >= kept["least"]))
        self.carry = {**kept, "z": z.detach().float(), "age": age, "halted": halted}
        right = (logits.argmax(-1) == answers).all(1).float().mean()
        return loss, {"exact": right, "residual": residual.mean(), "age": age.float().mean()}

    def _refill(self) -> dict[str, Tensor]:
        """Give halted rows a fresh puzzle and a fresh start. One is drawn for each row, so that shapes stay."""
        c, b = self.config, self.config.batch
        rng = np.random.default_rng([self.seed, self.step])  # of this step alone: nothing to save
        drawn = [torch.from_numpy(part.astype(np.int64)) for part in self.puzzles.draw(b, rng)]
        explores = rng.random(b) < c.explore
        least = torch.from_numpy(np.where(explores, rng.integers(2, max(3, c.segments + 1), b), 0))
        start = self.reasoner.begin(self.carry["z"][:, 0], self.generator)
        fresh = {"z": start, "tokens": drawn[0], "answers": drawn[1], "age": torch.zeros_like(least), "least": least}
        halted = self.carry["halted"]
        kept = {}
        for name, value in fresh.items():
            there = halted.view(-1, *[1] * (value.ndim - 1))
            kept[name] = torch.where(there, value.to(self.device), self.carry[name])
        return kept

    def _look(self, held_out: Puzzles) -> None:
        """Note how many held-out puzzles the average of weights solves in as many iterations as are trained."""
        some = held_out[:LOOK_AT]
        self.average.exchange()
        self.reasoner.eval()
        found = solve(self.reasoner, torch.from_numpy(some.tokens.astype(np.int64)), iters=self.config.segments)
        self.reasoner.train()
        self.average.exchange()
        right = (found.answers.cpu().numpy() == some.answers).all((1, 2)).mean()
        self.history.append({"step": self.step, "seconds": round(self.seconds, 1), "exact": round(float(right), 4)})
        self.journal.held_out("reasoner", self.step, float(right))

    def _precision(self) -> AbstractContextManager[Any]:
        """Matrix products in bfloat16 on a GPU, all in float32 on a processor."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    # stop and go on

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it."""
        if self.checkpoint is None:
            return
        groups = {
            "reasoner": dict(self.reasoner.state_dict()),
            "average": self.average.shadow,
            "optimizer": self.optimizer.tensors(),
            "carry": self.carry,
            "random": {"device": self.generator.get_state()},
        }
        about = {"about": self.about, "step": self.step, "seconds": self.seconds, "history": self.history}
        save_checkpoint(self.checkpoint, groups, about)

    def resume(self) -> None:
        """Take up where the checkpoint stands, if there is one; raises `TrainingError` if it is of another run."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        groups, about = load_checkpoint(self.checkpoint)
        for key, value in self.about.items():
            if about["about"].get(key) != value:
                raise TrainingError(
                    f"{self.checkpoint} was made with {key} = {about['about'].get(key)}, not {value}. "
                    "Train into another folder, or pass resume=False to begin anew."
                )
        self.reasoner.load_state_dict(groups["reasoner"])
        self.optimizer.load(groups.get("optimizer", {}))
        self.average.shadow = {k: v.to(self.device) for k, v in groups["average"].items()}
        self.carry = {k: v.to(self.device) for k, v in groups["carry"].items()}
        self.generator.set_state(groups["random"]["device"])
        self.step, self.seconds, self.history = about["step"], about["seconds"], about["history"]
        self.journal.say(f"resumed the reasoner at step {self.step}")
