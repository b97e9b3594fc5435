"""A bar that tells how long a measurement will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str, total: int, shown: bool | Callable[[int], None]) -> Iterator[Callable[[int], None]]:
    """Give a function that counts frames, and a bar on the error stream while the block runs.

    shown: whether there is a bar; or the function to count with instead.
    """
    if not shown or callable(shown):
        yield shown if callable(shown) else lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
