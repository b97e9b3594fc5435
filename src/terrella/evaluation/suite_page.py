"""The results of a suite as one page and one file: every table whole, references beside whoever is measured."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from ..files import atomic
from ..registry import lookup
from . import figures
from .dimension_page import dimension_tables
from .next_world import next_world
from .report import html_figure, html_page, html_table

_NOTES = {
    "forks": (
        "Several true futures of one moment, under as many series of actions. Row: which future follows from these "
        "actions? Column: which actions led to this future? Assign: all at once, one to one. Kappa is the share above "
        "chance, chance being one over the branches left once those with equal futures are one. Response: how far "
        "answers to different actions lie apart, over how far the truth does. The last table: how often a frame was "
        "nearer to the truth than the frozen, early, late or mirrored one is."
    ),
    "loss": (
        "The same question to the world's own loss, after true frames. It forgives drift, so it does not compare with "
        "the tables above."
    ),
    "null": "Mean change a frame while nothing is done; a world that moves more than the truth moves by itself.",
    "drift": (
        "Error as the world is left alone, beside the last frame held, the truth told twice (floor) and unrelated "
        "frames (ceiling)."
    ),
}
_COMPARED = {
    "all": "the whole frame",
    "masked": "where the group's futures differ",
    "perceived": (
        "the whole frame, at those moments alone that the world recognises: their last frame, encoded and decoded "
        "again, is nearest to itself among the last frames of all moments, and among pictures of the same scene with "
        "one attribute changed. What it gets wrong here, it has seen"
    ),
}


def write(result: dict[str, Any], out: Path) -> None:
    """Write `suite.json` and `suite.html` into the folder `out`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("suite.json", json.dumps(result, indent=1) + "\n"), ("suite.html", render(result))):
        with atomic(out / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def render(result: dict[str, Any]) -> str:
    """Return the page of a result of `run_suite` as HTML."""
    who = result["world"] or ", ".join(e["name"] for e in result["entrants"])
    title = f"{who}: what has it understood?"
    settings = result["settings"]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(result["env"]["id"])}; {settings["context"]} actions of context. All entrants meet '
        "the same moments, futures and noise. Intervals are 95 %, bootstrap by moment. What fails counts as wrong.</p>",
    ]
    body.append(next_world(result["measurements"]))
    for name, found in result["measurements"].items():
        what = found["measurement"]["what"]
        subject = None if what in _NOTES else lookup("subject", what)()
        body.append(f'<h2>{escape(name)}</h2><p class="note">{escape(subject.note if subject else _NOTES[what])}</p>')
        if "missing" in found:
            body.append(f"<p>Not measured: {escape(found['missing'])}</p>")
            continue
        known = {who: rows for who, rows in found["entrants"].items() if "error" not in rows}
        body += [f"<p>{escape(w)}: {escape(r['error'])}</p>" for w, r in found["entrants"].items() if "error" in r]
        if known:
            body.append((subject.page if subject else {"null": _nothing, "drift": _drift}.get(what, _forks))(known))
    body += dimension_tables(result["dimensions"])
    provenance = {key: result[key] for key in ("suite", "commit", "hardware", "settings", "entrants")}
    body.append(f"<h2>Where this was measured</h2><pre>{escape(json.dumps(provenance, indent=1))}</pre>")
    return html_page(title, body)


def _forks(rows: dict[str, Any]) -> str:
    text = []
    for stream in next(iter(rows.values()))["streams"]:
        tables = {who: row["streams"][stream] for who, row in rows.items()}
        horizons = next(iter(tables.values()))["horizons"]
        drawn = ""
        for score in ("row", "assign"):
            curves = {who: table["all"][f"{score}_kappa"] for who, table in tables.items()}
            plot = figures.score_plot(curves, horizons, f"kappa of {score}")
            drawn += html_figure(plot, f"{score}: 0 is chance, 1 is always right.")
        text.append(f'<div class="plots">{drawn}</div>')
        for label, over in _COMPARED.items():
            heads = ["entrant", "after", "n", "k left", "chance", "row", "95 %", "column", "95 %", "assign", "95 %"]
            heads += ["kappa of row", "95 %", "kappa of assign", "95 %", "margin", "response"]
            lines = []
            for who, table in tables.items():
                part = table.get(label, {})
                for h, horizon in enumerate(horizons if "row" in part else ()):
                    asked = sum(1 for left in (r[h] for r in part["raw"]["left"]) if left > 1)
                    line: list[Any] = [who, horizon, asked, part["left"][h], part["chance"][h]]
                    for score in ("row", "column", "assign", "row_kappa", "assign_kappa"):
                        line += [part[score]["mean"][h], part[score]["interval"][h]]
                    response = table["response"]["mean"][h] if "response" in table and label != "perceived" else None
                    lines.append([*line, part["margin"]["mean"][h], response])
            if label == "masked" and not _differs(tables):
                continue  # a loss has no mask
            if lines:
                text.append(f'<p class="note">Compared over {over}:</p>' + html_table(heads, lines))
        text += [f"<p>{escape(who)} {_seen(table)}</p>" for who, table in tables.items() if "perceived" in table]
        text.append(_avoided(tables, horizons))
    failed = [
        f"{who}: {row['failed']} of {row['groups']} moments failed." for who, row in rows.items() if row["failed"]
    ]
    return "".join(text) + "".join(f"<p>{escape(line)}</p>" for line in failed)


def _seen(table: dict[str, Any]) -> str:
    """How many moments a world recognises, and how well it tells them from their near distractors."""
    said, near = f"recognises {table['perceived']['kept']} of {table['groups']} moments", table["perceived"].get("near")
    if not near or near["chance"] is None:
        return f"{said}."
    (mean,), ((low, high),) = near["row"]["mean"], near["row"]["interval"]
    known = "" if low is None else f" ({low:.2f}…{high:.2f})"
    return (
        f"{said}. Of frames that differ in one attribute it gives {mean:.2f}{known} back as the one that they are; by "
        f"chance {near['chance']:.2f}."
    )


def _differs(tables: dict[str, Any]) -> bool:
    return any(table["all"]["raw"] != table["masked"]["raw"] for table in tables.values())


def _avoided(tables: dict[str, Any], horizons: list[int]) -> str:
    kinds = list(next(iter(tables.values()))["avoided"])
    if not kinds:
        return ""
    heads = ["entrant", "after", *(text for kind in kinds for text in (f"not {kind}", "95 %"))]
    lines = []
    for who, table in tables.items():
        for h, horizon in enumerate(horizons):
            marks = [table["avoided"][kind][key][h] for kind in kinds for key in ("mean", "interval")]
            lines.append([who, horizon, *marks])
    return html_table(heads, lines)


def _nothing(rows: dict[str, Any]) -> str:
    heads = ["entrant", "stream", "n", "frames", "motion", "95 %", "truth", "ratio", "95 %", "failed"]
    lines = []
    for who, row in rows.items():
        for stream, found in row["streams"].items():
            ratio = found["ratio"] or {"mean": [None], "interval": [None]}
            line = [
                who,
                stream,
                row["groups"],
                row["steps"],
                found["motion"]["mean"][0],
                found["motion"]["interval"][0],
            ]
            lines.append([*line, found["true"]["mean"][0], ratio["mean"][0], ratio["interval"][0], row["failed"]])
    return html_table(heads, lines)


def _drift(rows: dict[str, Any]) -> str:
    text = []
    for who, row in rows.items():
        for stream, table in row["streams"].items():
            drawn = html_figure(figures.error_plot(table, row["horizons"]), f"{who}, {stream}: lower is better.")
            text.append(f'<div class="plots">{drawn}</div>')
            heads = ["after", "n", "error", "95 %", "last frame held", "floor", "ceiling", "skill"]
            lines = [
                [
                    horizon,
                    table["n"][h],
                    table["mse"]["mean"][h],
                    table["mse"]["interval"][h],
                    table["copy_last"]["mean"][h],
                    table["floor"]["mean"][h],
                    table["ceiling"],
                    table["skill"][h],
                ]
                for h, horizon in enumerate(row["horizons"])
            ]
            text.append(html_table(heads, lines))
    return "".join(text)
