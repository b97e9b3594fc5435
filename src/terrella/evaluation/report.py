"""One self-contained page for one report: no scripts, no outside assets, readable in light and in dark."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic
from ..spec import StreamSpec
from . import figures, film

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --warn: #d1495b; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.warn li { color: var(--warn); } .note { opacity: .75; font-size: .9rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.plots figure { margin: 0; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .8; } svg { width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
img.film { image-rendering: pixelated; width: min(100%, 36rem); } .strip { overflow-x: auto; }
.strip img { image-rendering: pixelated; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
td, th { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); } pre { overflow-x: auto; background: var(--soft); padding: 1rem; font-size: .8rem; }
"""


@dataclass
class Scene:
    """One future to show: stream -> true frames `(n, ...)` and dreamed frames `(T, ...)`, both from horizon 1 on."""

    true: dict[str, np.ndarray]
    dreamed: dict[str, np.ndarray]
    title: str = ""


@dataclass
class Show:
    """What a page shows besides numbers: streams to show, scenes, frames a second."""

    streams: dict[str, StreamSpec] = field(default_factory=dict)
    scenes: Sequence[Scene] = ()
    fps: float = 15.0


def write(report: dict[str, Any], show: Show | None, out: Path) -> None:
    """Write `report.json` and `report.html` into the folder `out`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.html", render(report, show))):
        with atomic(out / name) as partial:
            partial.write_text(text, encoding="utf-8")


def render(report: dict[str, Any], show: Show | None = None) -> str:
    """Return the page of a report of `terrella.evaluate` as HTML; without `show` it has numbers and plots only."""
    title = f"{report['world']}: how far can it be trusted?"
    body = [f"<h1>{escape(title)}</h1>", _conditions(report), _summary(report)]
    for name, table in report["streams"].items():
        body.append(f"<h2>{escape(name)}: error and horizon</h2>")
        body.append(_plots(table, report["horizons"]))
        body.append(_numbers(table, report))
    if show and show.scenes:
        body.append("<h2>Truth and world, same start, same actions</h2>")
        body += [_scene(scene, show, report["horizons"]) for scene in show.scenes]
    if report.get("long"):
        body.append("<h2>Left alone</h2>")
        body += [_life(name, life) for name, life in report["long"].items()]
    body.append(_events(report))
    body.append(f"<h2>Where this was measured</h2><pre>{escape(json.dumps(_provenance(report), indent=1))}</pre>")
    return html_page(title, body)


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page of these parts, with the style of all reports."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>" + "\n".join(body) + "</body></html>\n"
    )


def _conditions(report: dict[str, Any]) -> str:
    source = {
        "environment": f"{report['episodes']} fresh episodes of {report['env']}",
        "dataset": f"{report['episodes']} futures cut from held-out episodes of a dataset",
    }[report["source"]]
    return (
        f'<p class="note">{escape(source)}; {report["context"]} actions of context, then the world is left to itself '
        "under the recording policy's actions. Intervals are 95 %, bootstrap by episode. "
        + (f" {report['n_groups']} episodes are independent." if report["n_groups"] < report["episodes"] else "")
        + "</p>"
    )


def _summary(report: dict[str, Any]) -> str:
    parts = []
    for key, style in (("warnings", "warn"), ("findings", "")):
        lines = "".join(f"<li>{escape(line)}</li>" for line in report["summary"][key])
        if lines:
            parts.append(f'<ul class="{style}">{lines}</ul>')
    return "".join(parts)


def _plots(table: dict[str, Any], horizons: list[int]) -> str:
    drawn = [(figures.error_plot(table, horizons), "Lower is better; the world should stay below the last frame held.")]
    if "ssim" in table:
        drawn.append((figures.ssim_plot(table, horizons), "Structural similarity; higher is better."))
    if any(v is not None for v in table["action_ratio"]["mean"]):
        drawn.append((figures.action_plot(table, horizons), "Above 1: the world needs the right actions to be right."))
    return f'<div class="plots">{"".join(html_figure(svg, text) for svg, text in drawn)}</div>'


def html_figure(content: str, caption: str) -> str:
    """A drawing (SVG or `<img>`) with a line below it."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _numbers(table: dict[str, Any], report: dict[str, Any]) -> str:
    columns: list[tuple[str, list[Any]]] = [
        ("n", table["n"]),
        ("error", table["mse"]["mean"]),
        ("95 %", table["mse"]["interval"]),
        ("last frame held", table["copy_last"]["mean"]),
        ("truth twice", table["floor"]["mean"]),
        ("another episode", table["other_episode"]["mean"]),
        ("skill", table["skill"]),
        ("action ratio", table["action_ratio"]["mean"]),
        ("95 %", table["action_ratio"]["interval"]),
        ("actions differ", report["action_differs"]),
    ]
    if "ssim" in table:
        columns += [("PSNR dB", table["psnr"]), ("SSIM", table["ssim"]["mean"])]
    rows = [[h, *(values[i] for _, values in columns)] for i, h in enumerate(report["horizons"])]
    return (
        html_table(["step", *(name for name, _ in columns)], rows)
        + f'<p class="note">Unrelated true frames are {_show(table["ceiling"])} apart ({escape(table["unit"])}).</p>'
    )


def _show(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, (list, tuple)):
        return "–" if None in value else " … ".join(_show(v) for v in value)
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _scene(scene: Scene, show: Show, horizons: list[int]) -> str:
    parts = [f"<h3>{escape(scene.title)}</h3>"]
    for name, stream in show.streams.items():
        true, dreamed = scene.true[name], scene.dreamed[name]
        if stream.kind == "vector":
            length = min(len(dreamed), max(32, len(true)))
            svg = figures.trajectory_plot(true[:length], dreamed[:length])
            parts.append(html_figure(svg, f"{name}: each dimension over time."))
            continue
        shown = min(len(dreamed), max(16, len(true)), 96)
        moving = film.animation(film.enlarged(film.panels(true[:shown], dreamed[:shown]), 128), show.fps)
        marks = [
            h
            for h in sorted({*[h for h in horizons if h.bit_count() == 1], max(horizons), len(dreamed)})
            if h <= len(dreamed)
        ]
        strip = film.filmstrip([{h: f[h - 1] for h in marks if h <= len(f)} for f in (true, dreamed) if len(f)], marks)
        parts.append(html_figure(_image(moving, "webp", "film"), f"{name}: truth, world, difference."))
        parts.append(
            f'<div class="strip">{html_figure(_image(strip, "png", ""), "Above the truth, below the world.")}</div>'
        )
    return "".join(parts)


def _image(data: bytes, kind: str, style: str) -> str:
    return f'<img class="{style}" alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _life(name: str, life: dict[str, Any]) -> str:
    caption = (
        f"{name}: {life['sessions']} sessions of {life['frames']} frames, averaged over {life['window']}. "
        "Motion: change from frame to frame. Spread: contrast inside a frame. Strangeness: distance to the nearest "
        "true frame of other episodes."
    )
    return f'<div class="plots">{html_figure(figures.life_plot(life), caption)}</div>'


def _events(report: dict[str, Any]) -> str:
    parts = []
    rewards, ends = [], []
    for when, scores in report["events"].items():
        label, reward, end = when.replace("_", " "), scores["reward"], scores["termination"]
        found = reward["detection"] or {}
        seen = [found.get(key) for key in ("positives", "precision", "recall", "balanced_accuracy")]
        rewards.append([label, reward["n"], reward["mse"], reward["mse_of_mean"], reward["correlation"], *seen])
        keys = ("n", "positives", "auroc", "precision", "precision_interval", "recall", "recall_interval")
        ends.append([label, *(end[key] for key in keys)])
    heads = ["", "n", "error", "error of the mean", "correlation", "not 0", "precision", "recall", "balanced accuracy"]
    parts.append("<h2>Rewards</h2>" + html_table(heads, rewards))
    heads = ["", "n", "ends", "AUROC", "precision", "95 %", "recall", "95 %"]
    parts.append("<h2>Ends</h2>" + html_table(heads, ends))
    note = "One step: after true contexts, chosen so that rewards and ends occur. Rollout: its first 32 frames."
    parts.append(f'<p class="note">{note}</p>')
    if report.get("speed"):
        keys = ("sessions", "frames_per_second", "step_ms_median", "step_ms_p95", "steps")
        heads = ["sessions", "frames a second", "step, median ms", "step, 95th percentile ms", "steps timed"]
        parts.append("<h2>Speed</h2>" + html_table(heads, [[row[key] for key in keys] for row in report["speed"]]))
        if report.get("environment_frames_per_second"):
            real = _show(report["environment_frames_per_second"])
            parts.append(f'<p class="note">The environment itself: {real} steps a second, one at a time.</p>')
    return "".join(parts)


def html_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of values under headings, the first column being each row's name."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        f"<tr><th>{escape(str(first))}</th>" + "".join(f"<td>{_show(v)}</td>" for v in rest) + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="table"><table><tr>{top}</tr>{body}</table></div>'


def _provenance(report: dict[str, Any]) -> dict[str, Any]:
    return {
        k: report.get(k)
        for k in ("version", "commit", "hardware", "seed", "steps", "engine", "context", "skipped", "seconds")
    }
