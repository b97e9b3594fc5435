"""What the cells of tables have in common."""

from __future__ import annotations


def spread(values: list[float], digits: int = 1) -> str:
    """A mean over seeds, with the lowest and the highest where there are several."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def known(values: list[float | None], digits: int) -> str:
    """The same over those values that are known, empty where none is."""
    there = [v for v in values if v is not None]
    return spread(there, digits) if there else ""


def measured(mean: float, interval: list[float | None]) -> str:
    """A mean with its interval, where that is known."""
    low, high = interval
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} ({low:.2f} to {high:.2f})"


def changed(difference: float, interval: list[float]) -> str:
    """A difference with its interval; 0 where nothing at all has changed."""
    low, high = interval
    return "0" if difference == low == high == 0 else f"{difference:+.2f} ({low:+.2f} to {high:+.2f})"


def thousandths(values: list[float]) -> str:
    """Small numbers, times 1000."""
    return ", ".join(f"{1000 * v:.2f}" for v in values)


def two_columns(title: str, rows: list[tuple[str, str]]) -> str:
    """A table of names and values under one title."""
    return f"| {title} | |\n|---|---:|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows)
