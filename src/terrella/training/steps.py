"""The loop: steps of an optimiser down a loss until a budget is spent, and the checkpoint that goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import to_json
from ..errors import TrainingError
from ..nn.noise import Rows
from .budget import Budget
from .checkpoint import load_checkpoint, save_checkpoint, unbroken
from .journal import Journal
from .optim import Average, Optimizer
from .sharding import gathered
from .team import Loss, Spread, Team


@dataclass(frozen=True)
class Learner:
    """What learns in a phase, and how. average: see `Average`. after: called after each step of the optimiser. spread:
    over whom, where several processes train."""

    module: nn.Module
    optimizer: Optimizer
    average: float = 0.05
    after: Callable[[], None] | None = None
    spread: Spread | None = None


class Kept(Protocol):
    """What a checkpoint holds besides weights."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what to save, name -> tensor."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take it back."""
        ...


class Steps:
    """One training run: phases one after another, each a module that goes down a loss.

    whole: whose weights a checkpoint holds. learner: makes what learns in a phase, from a fresh start. about: JSON
    values that a checkpoint must agree with to be gone on from. device: of noise. checkpoint: its file, or None. every:
    seconds between checkpoints. kept: what a checkpoint holds besides, by name. team: who trains; of several processes,
    the first alone writes.

    generator, order: the random streams, on the device and for which data. step, seconds: of this phase. record: what
    came of it, by name.
    """

    def __init__(
        self,
        whole: nn.Module,
        learner: Callable[[str], Learner],
        phase: str,
        *,
        seed: int,
        device: torch.device,
        journal: Journal,
        about: dict[str, Any],
        checkpoint: Path | None = None,
        every: float = 60.0,
        kept: Mapping[str, Kept] | None = None,
        team: Team = Team(),  # noqa: B008  (frozen)
    ):
        self.whole, self.make, self.device, self.journal = whole, learner, device, journal
        self.about, self.checkpoint, self.every, self.kept = about, checkpoint, every, kept or {}
        self.team = team
        if checkpoint and team.leads:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.record: dict[str, Any] = {}
        self.generator = team.stream(device, seed)
        self.order = team.stream(torch.device("cpu"), seed)
        self.rows = (0, 1, 1)
        self.between_steps = False  # whether weights, averages and counts belong together, so that `save` makes sense
        self.begin(phase)

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self.phase, self.step, self.seconds = phase, 0, 0.0
        self.learner = self.make(phase)
        self.average = Average(self.learner.module, self.learner.average)

    def share(self, count: int) -> int:
        """Divide a batch of so many rows among the team; returns how many are drawn here."""
        self._shared(self.team.rows(count))
        first, last, _ = self.rows
        return last - first

    def _shared(self, rows: tuple[int, int, int]) -> None:
        self.rows = rows
        for stream in (self.generator, self.order):
            if isinstance(stream, Rows):
                stream.share = rows

    def run(self, budget: Budget, loss: Loss) -> None:
        """Step until the budget of this phase is spent, then put the average of weights in place.

        Records `<phase>_held_out`, `_seconds` and `_steps`. Raises `TrainingError` where the loss is not finite.
        """
        phase, module, after, team = self.phase, self.learner.module, self.learner.after, self.team
        loss = loss if self.learner.spread is None else self.learner.spread.bound(loss)
        saved = clock = time.monotonic()
        module.train()
        self.between_steps = True
        with self.journal.phase(phase, budget, self.step, self.seconds) as report:
            while budget.progress(self.step, self.seconds) < 1:
                with unbroken():
                    with self.precision():
                        value, parts = team.whole(*loss(False), self.rows)
                    self.learner.optimizer.step(value, self.step, budget.progress(self.step, self.seconds))
                    if after is not None:
                        after()
                    self.step += 1
                    self.average.update(self.step)
                    now = time.monotonic()
                    passed, clock = self.seconds + now - clock, now
                    self.seconds, due, stop = team.agree(passed, now - saved > self.every, team.stop())
                    report(self.step, self.seconds, {"loss": value.detach(), **parts})
                    if self.step % 250 == 0:
                        self.record[f"{phase}_held_out"] = self._held_out(loss)
                        self.journal.held_out(phase, self.step, self.record[f"{phase}_held_out"])
                    if due:
                        self.save()
                        saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        self.between_steps = False
        self.average.exchange()
        self.average = Average(module, self.learner.average)
        module.eval()
        if self.step:
            self.record[f"{phase}_held_out"] = self._held_out(loss)
        self.record[f"{phase}_seconds"] = round(self.seconds, 1)
        self.record[f"{phase}_steps"] = self.step

    @torch.no_grad()
    def _held_out(self, loss: Loss) -> float:
        kept = self.generator.get_state()
        self._shared((0, 1, 1))  # every worker looks at all of it
        with self.precision():
            value = float(loss(True)[0])
        self.generator.set_state(kept)  # looking changes nothing
        return round(value, 6)

    def precision(self) -> AbstractContextManager[Any]:
        """Matrix products in bfloat16 where the processor has it."""
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16) if fast else nullcontext()

    # stop and go on

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Save a checkpoint when interrupted (Ctrl-C) inside."""
        try:
            yield
        except KeyboardInterrupt:
            if self.between_steps:  # else the last checkpoint stands
                self.save()
            self.journal.say("interrupted; the same command goes on from here")
            raise

    def save(self) -> None:
        """Write a checkpoint, where there is a file for it."""
        if self.checkpoint is None:
            return
        groups = {
            "world": dict(self.whole.state_dict()),
            "average": self.average.shadow,
            "optimizer": self.learner.optimizer.tensors(),
            "random": {"device": self.generator.get_state(), "index": self.order.get_state()},
            **{name: part.tensors() for name, part in self.kept.items()},
        }
        if self.team.shard:
            groups = {name: gathered(tensors, self.team.leads) for name, tensors in groups.items()}
        if not self.team.leads:
            return
        about = {"phase": self.phase, "step": self.step, "seconds": self.seconds, "record": self.record}
        save_checkpoint(self.checkpoint, groups, {**about, "about": to_json(self.about)})

    def resume(self) -> None:
        """Take up where the checkpoint stands, if there is one; raises `TrainingError` if it is of another run."""
        there = self.checkpoint is not None and self.checkpoint.exists()
        if there:
            self._load()
        if not self.team.same(self.step + 0.5 * there):
            raise TrainingError(
                f"workers do not find the same checkpoint at {self.checkpoint}; train into a folder that all machines "
                "share."
            )
        if there:
            self.journal.say(f"resumed {self.phase} at step {self.step}")

    def _load(self) -> None:
        assert self.checkpoint is not None
        groups, kept = load_checkpoint(self.checkpoint)
        theirs = kept.get("about", {})
        for key, mine in to_json(self.about).items():
            if theirs.get(key) != mine:
                raise TrainingError(
                    f"{self.checkpoint} was made with {key} = {theirs.get(key)}, not {mine}. "
                    "Train into another folder, or pass resume=False (--no-resume on the command line) to begin anew."
                )
        self.whole.load_state_dict(groups["world"])
        self.begin(kept["phase"])
        self.step, self.seconds, self.record = kept["step"], kept["seconds"], kept["record"]
        self.learner.optimizer.load(groups.get("optimizer", {}))
        self.average.load(groups.get("average", {}))
        for name, part in self.kept.items():
            part.load(groups[name])
        self.generator.set_state(groups["random"]["device"])
        self.order.set_state(groups["random"]["index"])
