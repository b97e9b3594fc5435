"""Atomic dimensions on a suite's page: who answered how many, controls beside, and what should not have mattered."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .report import html_table

_PERCEPTION = (
    "Answers are read out of features by a readout fitted on some layouts and asked on others. Latents: what the "
    "world's tokenizers make of every frame of the context. Memory: what the world keeps after the last one. "
    "Untrained: the same of random weights. Frames, and quantities (the whole true state), are what could be read "
    "without a world."
)
_PREDICTION = (
    "From one scene several futures are played under other actions. Row: which future follows from these actions? "
    "Assign: all at once, one to one."
)
_ENTANGLEMENT = (
    "Entanglement (s-RE): how far the share of right answers follows a factor that should not matter, mean deviation "
    "over the mean; in brackets what levels drawn by chance would give."
)


def dimension_tables(found: Mapping[str, Any]) -> list[str]:
    """Parts of a page: an overview, then each dimension whole, then why others were not asked; none without any."""
    if not found:
        return []
    asked = {name: part for name, part in found.items() if "missing" not in part}
    body = ["<h2>Atomic dimensions</h2>"]
    for note, (heads, lines) in zip((_PERCEPTION, _PREDICTION), overviews(found)):
        if lines:
            body.append(f'<p class="note">{escape(note)}</p>' + html_table(heads, lines))
    if asked:
        body.append(f'<p class="note">{escape(_ENTANGLEMENT)}</p>')
    body += [_whole(name, part) for name, part in asked.items()]
    body += [f"<p>Not asked, {', '.join(names)}: {escape(why)}</p>" for why, names in reasons(found).items()]
    return body


def overviews(found: Mapping[str, Any]) -> list[tuple[list[str], list[list[Any]]]]:
    """Heads and lines of two tables, of perception and of prediction: a line a dimension, a column whatever was read.

    Cells are shares of right answers by the plainest way of reading, linear or row; None where nothing was read.
    """
    tables = []
    for predicts, plainest in ((False, "linear"), (True, "row")):
        rows = {}
        for name, part in found.items():
            if "missing" not in part and part["dimension"]["predicts"] == predicts:
                rows[name] = {key[:2]: told for key, told in readings(part).items() if key[2] == plainest}
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines: list[list[Any]] = []
        for name, row in rows.items():
            chance = next((told["chance"] for told in row.values()), None)
            cells = [row[column]["accuracy"] if column in row else None for column in columns]
            lines.append([name, found[name]["dimension"]["asks"], chance, *cells])
        tables.append((["dimension", "asks", "chance", *(f"{who}, {what}" for who, what in columns)], lines))
    return tables


def reasons(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Why dimensions were not asked: reason -> their ids."""
    why: dict[str, list[str]] = {}
    for name, part in found.items():
        if "missing" in part:
            why.setdefault(part["missing"], []).append(name)
    return why


def readings(part: Mapping[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """All `tally` of one dimension: (who, what was read, how) -> tally."""
    rows = {who: row["readouts"] for who, row in part["entrants"].items() if "readouts" in row}
    return {(w, what, how): t for w, row in rows.items() for what, ways in row.items() for how, t in ways.items()}


def _whole(name: str, part: Mapping[str, Any]) -> str:
    about = part["dimension"]
    short = f" Approximates the published one: {about['approximates']}." if about["approximates"] else ""
    text = f"{about['asks']} ({about['arena']}, {part['layouts']} layouts).{short}"
    factors = [factor for factor in about["factors"] if factor != "answer"]
    heads = [
        "entrant",
        "read from",
        "how",
        "n",
        "accuracy",
        "95 %",
        "chance",
        "kappa",
        *(f"s-RE: {f}" for f in factors),
    ]
    lines = []
    for (who, what, how), found in readings(part).items():
        line = [who, what, how, *(found[key] for key in ("items", "accuracy", "interval", "chance", "kappa"))]
        lines.append(line + [_entangled(found["entanglement"].get(factor)) for factor in factors])
    failed = [f"{who}: {row['error']}" for who, row in part["entrants"].items() if "error" in row]
    failed += [f"{who}: {row['failed']} failed." for who, row in part["entrants"].items() if row.get("failed")]
    return (
        f"<h3>{escape(name)} ({escape(about['aspect'])})</h3>"
        f'<p class="note">{escape(text)}</p>'
        + html_table(heads, lines)
        + "".join(f"<p>{escape(line)}</p>" for line in failed)
    )


def _entangled(found: Mapping[str, Any] | None) -> str | None:
    if found is None or found["s_re"] is None:
        return None
    return f"{found['s_re']:.2f} ({found['permuted']:.2f})"
