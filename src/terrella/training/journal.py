"""What a person sees of training: a progress bar with rate and time left, and TensorBoard logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import rich.progress as bars
from rich.console import Console
from torch import Tensor

from .budget import Budget

PLAIN_SECONDS = 15.0  # between lines where there is no terminal for a bar
TICKS = 1000  # of a bar over a budget
EVERY = 20  # steps between looks at the loss: reading it makes a GPU wait

Report = Callable[[int, float, Mapping[str, Tensor]], None]


class Journal:
    """Shows and logs progress; use as a context manager. Silent when `show` is false; no logs without a folder.

    show: whether, or the console to show it on.
    """

    def __init__(self, out: str | Path | None, show: bool | Console):
        self.console = show if isinstance(show, Console) else Console(stderr=True, quiet=not show)
        self.bars = bars.Progress(
            bars.TextColumn("{task.description:<10}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[note]}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            console=self.console,
            disable=not show,
        )
        self.folder = Path(out) / "logs" if out else None
        self.writer = None
        self.spoke = time.monotonic()

    def __enter__(self) -> Journal:
        if self.folder:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(str(self.folder))
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()
        if self.writer:
            self.writer.close()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self.bars.console.print(text, highlight=False)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total` things; yields a function that advances it."""
        task = self.bars.add_task(name, total=total, note="")
        yield lambda n: self.bars.update(task, advance=n)
        self.bars.update(task, completed=total)

    @contextmanager
    def phase(self, name: str, budget: Budget, step: int, seconds: float) -> Iterator[Report]:
        """Show a bar over a budget; yields a function to call after each step."""

        def ticks(step: int, seconds: float) -> int:
            return round(TICKS * budget.progress(step, seconds))

        task = self.bars.add_task(name, total=TICKS, completed=ticks(step, seconds), note="")
        first, before = step, seconds

        def report(step: int, seconds: float, values: Mapping[str, Tensor]) -> None:
            if step % EVERY and budget.progress(step, seconds) < 1:
                return
            rate = (step - first) / max(seconds - before, 1e-9)
            shown = {k: float(v) for k, v in values.items()}
            note = f"step {step:,}  {rate:.1f}/s  loss {shown['loss']:.4f}"
            self.bars.update(task, completed=ticks(step, seconds), note=note)
            share = budget.progress(step, seconds)
            if not self.console.is_terminal and time.monotonic() - self.spoke > PLAIN_SECONDS:
                left = (seconds - before) * (1 - share) / max(share, 1e-3)
                self.say(f"{name} {share:.0%}  {note}  about {left / 60:.1f} min left")
                self.spoke = time.monotonic()
            if self.writer:
                for key, value in shown.items():
                    self.writer.add_scalar(f"{name}/{key}", value, step)

        yield report

    def held_out(self, phase: str, step: int, value: float) -> None:
        """Log the held-out loss."""
        if self.writer:
            self.writer.add_scalar(f"{phase}/held_out", value, step)
