"""The plots of a report, as SVG text that takes its ink from the page, so that they read in light and in dark."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_INK = "#010203"  # replaced by `currentColor` once drawn
_BLUE, _ORANGE, _GREEN, _RED, _VIOLET, _GREY = "#3b82d6", "#e0812b", "#2f9e6e", "#d1495b", "#8b6fc9", "#888888"


def error_plot(table: dict[str, Any], horizons: list[int]) -> str:
    """Error against horizon, with its interval, between copy-last, other actions, floor and ceilings."""
    with _plot("steps after the context", f"squared error ({table['unit']})") as (axes, done):
        _band(axes, horizons, table["mse"], _BLUE, "world")
        _band(axes, horizons, table["copy_last"], _ORANGE, "last frame held")
        _line(axes, horizons, table["shuffled"]["mean"], _RED, "world, other actions", style="--")
        if table["floor"]["measured"] and any(table["floor"]["mean"]):
            _line(axes, horizons, table["floor"]["mean"], _GREEN, "truth, other chance", style=":")
        _line(axes, horizons, table["other_episode"]["mean"], _GREY, "another episode then", style="-.")
        if table["ceiling"] is not None:
            axes.axhline(table["ceiling"], color=_VIOLET, linestyle="-.", linewidth=1.2, label="unrelated frames")
        _log_x(axes, horizons)
        axes.set_ylim(0, _top(table))
    return done()


def _top(table: dict[str, Any]) -> float | None:
    """A height that a world gone astray cannot stretch until the curves it is compared with lie flat."""
    known = [table["ceiling"], *table["copy_last"]["mean"], *table["other_episode"]["mean"]]
    references = [value for value in known if value is not None]
    errors = [value for value in table["mse"]["mean"] + table["shuffled"]["mean"] if value is not None]
    if not references or not errors:
        return None
    return 1.08 * min(max(references + errors), 3 * max(references)) or None


def ssim_plot(table: dict[str, Any], horizons: list[int]) -> str:
    """Structural similarity against horizon, beside that of the last frame held."""
    with _plot("steps after the context", "SSIM") as (axes, done):
        _band(axes, horizons, table["ssim"], _BLUE, "world")
        _band(axes, horizons, table["copy_last_ssim"], _ORANGE, "last frame held")
        _log_x(axes, horizons)
        axes.set_ylim(top=1.02)
    return done()


def action_plot(table: dict[str, Any], horizons: list[int]) -> str:
    """Error under other actions over error under the true ones; 1 is a world that ignores its actions."""
    with _plot("steps after the context", "error ratio, other / true actions") as (axes, done):
        _band(axes, horizons, table["action_ratio"], _RED, "action ratio")
        axes.axhline(1.0, color=_INK, linestyle=":", linewidth=1, label="ignores actions")
        _log_x(axes, horizons)
    return done()


def life_plot(life: dict[str, Any]) -> str:
    """Motion, spread and strangeness over a long rollout, each divided by the truth's."""
    with _plot("frames since the context", "ratio to the truth") as (axes, done):
        for key, colour in (("motion", _BLUE), ("spread", _ORANGE), ("strangeness", _VIOLET)):
            curve = (life.get(key) or {}).get("curve")
            if curve:
                _line(axes, [(i + 0.5) * life["window"] for i in range(len(curve))], curve, colour, key)
        axes.axhline(1.0, color=_INK, linestyle=":", linewidth=1, label="truth")
        axes.set_ylim(bottom=0)
    return done()


def score_plot(curves: dict[str, dict[str, Any]], horizons: list[int], label: str) -> str:
    """A score against horizon for each entrant, with its interval; 0 is chance."""
    colours = (_BLUE, _VIOLET, _RED, _GREEN, _ORANGE, _GREY)
    with _plot("steps after the futures part", label) as (axes, done):
        for i, (name, curve) in enumerate(curves.items()):
            _band(axes, horizons, curve, colours[i % len(colours)], name)
        axes.axhline(0.0, color=_INK, linestyle=":", linewidth=1)
        _log_x(axes, horizons)
        axes.set_ylim(-0.3, 1.05)
    return done()


def trajectory_plot(true: np.ndarray, dreamed: np.ndarray, most: int = 8) -> str:
    """One small plot for each of the first `most` dimensions: truth `(T, F)` and dream `(T', F)` over time."""
    count = min(most, dreamed.shape[1])
    columns = min(2, count)
    rows = -(-count // columns)
    with _figure((7.2, 1.5 * rows + 0.4)) as (figure, done):
        for i in range(count):
            axes = figure.add_subplot(rows, columns, i + 1)
            _dress(axes)
            _line(axes, range(len(dreamed)), dreamed[:, i].tolist(), _BLUE, "world", marker="")
            _line(axes, range(len(true)), true[:, i].tolist(), _ORANGE, "truth", style="--", marker="")
            axes.set_ylabel(f"[{i}]", color=_INK)
            if i == 0:
                axes.legend(frameon=False, labelcolor=_INK, fontsize=7)
    return done()


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    drawn: list[str] = []
    yield figure, lambda: drawn[0]
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "terrella"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    drawn.append(text[text.index("<svg") :].replace(_INK, "currentColor"))


@contextmanager
def _plot(x: str, y: str) -> Iterator[tuple[Any, Any]]:
    with _figure((5.2, 3.2)) as (figure, done):
        axes = figure.add_subplot()
        _dress(axes)
        axes.set_xlabel(x, color=_INK)
        axes.set_ylabel(y, color=_INK)
        yield axes, done
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)


def _dress(axes: Any) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_INK, labelsize=8, which="both")
    axes.grid(color=_INK, alpha=0.12)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))


def _floats(values: Any) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _line(axes: Any, x: Any, y: Any, colour: str, label: str, style: str = "-", marker: str = ".") -> None:
    axes.plot(
        list(x), _floats(y), color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1.5, label=label
    )


def _band(axes: Any, x: list[int], summary: dict[str, Any], colour: str, label: str) -> None:
    _line(axes, x, summary["mean"], colour, label)
    low, high = (_floats([pair[i] for pair in summary["interval"]]) for i in (0, 1))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _log_x(axes: Any, horizons: list[int]) -> None:
    from matplotlib.ticker import NullLocator, ScalarFormatter

    axes.set_xscale("log", base=2)
    axes.set_xticks([2**i for i in range(max(horizons).bit_length())])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
