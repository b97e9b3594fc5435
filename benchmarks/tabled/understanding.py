"""Tables of what worlds have understood."""

from __future__ import annotations

from typing import Any

from terrella.evaluation.damage import DIMENSIONS as DAMAGED
from terrella.evaluation.dimensions import DIMENSIONS

from .cells import changed, measured


def leaderboard(result: dict[str, Any]) -> str:
    """One line a world and measurement, kappas of row and assign; then what references have over all of them."""
    rows = [row for row in result["rows"] if row.get("row_kappa") is not None]
    marks = sorted({row["horizon"] for row in rows})
    heads = " | ".join(f"row; assign after {mark}" for mark in marks)
    lines = [f"| world, measurement | n, k left | {heads} |", "|---|---:|" + "---:|" * len(marks)]
    case, own = ("world", "entrant", "measurement", "stream"), [row for row in rows if row["kind"] != "reference"]
    for which in dict.fromkeys(tuple(row[key] for key in case) for row in own):
        at = {row["horizon"]: row for row in own if tuple(row[key] for key in case) == which}
        world, entrant, measurement, _ = which
        who = world if world == entrant else f"{world}, {entrant}"
        cells = []
        for mark in marks:
            row = at.get(mark, {})
            pairs = [(row[f"{key}_kappa"], row[f"{key}_kappa_interval"]) for key in ("row", "assign") if row]
            cells.append("; ".join(measured(*pair) for pair in pairs))
        left = ", ".join(f"{row['left']:.1f}" for row in at.values())
        lines.append(f"| {who}, {measurement} | {max(row['n'] for row in at.values())}; {left} | {' | '.join(cells)} |")
    lines += ["", "| reference | least and greatest kappa of row | of assign |", "|---|---:|---:|"]
    for name in dict.fromkeys(row["entrant"] for row in rows if row["kind"] == "reference"):
        kept = [row for row in rows if row["entrant"] == name]
        ends = [[f(row[f"{key}_kappa"] for row in kept) for f in (min, max)] for key in ("row", "assign")]
        lines.append(f"| {name} | {' | '.join(f'{low:.2f} to {high:.2f}' for low, high in ends)} |")
    return "\n".join([*lines, "", *_subjects(result["subjects"])])


def _subjects(rows: list[dict[str, Any]]) -> list[str]:
    """Uses of each world, one line each: how it ranks policies, and the share of planning that it keeps."""
    heads = "share of planning kept | out of sight: right (chance)"
    lines = [f"| world | Spearman of 11 policies (by chance) | {heads} |", "|---|---:|---:|---:|"]
    for world in dict.fromkeys(row["world"] for row in rows):
        own = [row for row in rows if row["world"] == world]
        ranks = [row["agreement"]["spearman"] for row in own if row.get("agreement")]
        shares = [row["share"] for row in own if "share" in row]
        low, high = ranks[0]["chance"] if ranks else (None, None)
        told = f"{measured(ranks[0]['mean'], ranks[0]['interval'])} ({low:.2f} to {high:.2f})" if ranks else ""
        known = [measured(s["mean"], s["interval"]) if s["mean"] is not None else "no room" for s in shares]
        returns = [row["rows"]["entrant"] for row in own if row.get("rows", {}).get("entrant", {}).get("asked")]
        pairs = [(measured(r["right"]["mean"], r["right"]["interval"]), r["chance"]["mean"]) for r in returns]
        right = f"{pairs[0][0]} ({pairs[0][1]:.2f})" if pairs else ""
        lines.append(f"| {world} | {told} | {known[0] if known else ''} | {right} |")
    return lines


def sensitivity(result: dict[str, Any]) -> str:
    """One line a world and damage: the change of each dimension, and whether what was stated in advance is so.

    Bold: a certain fall. After it what was stated: that it falls (`v`) or stays (`=`).
    """
    rows, marks = result["rows"], {"falls": " v", "stays": " =", None: ""}
    columns = [name for name in DAMAGED if any(row["dimension"] == name for row in rows)]
    lines = [f"| world, damage | {' | '.join(columns)} | as stated |", "|---|" + "---:|" * (len(columns) + 1)]
    for case in dict.fromkeys((row["world"], row["damage"]) for row in rows):
        own = {row["dimension"]: row for row in rows if (row["world"], row["damage"]) == case}
        cells = []
        for name in columns:
            row = own.get(name, {})
            text = changed(row["difference"], row["interval"]) if "difference" in row else ""
            cells.append((f"**{text}**" if row.get("falls") else text) + (marks[row["stated"]] if text else ""))
        told = [row["right"] for row in own.values() if row["right"] is not None]
        lines.append(f"| {', '.join(case)} | {' | '.join(cells)} | {sum(told)} of {len(told)} |")
    return "\n".join(lines)


def dimensions(result: dict[str, Any]) -> str:
    """Shares of right answers, one line a world and dimension: first of perception, then of prediction.

    Bold: what a world answers surely better than every control that knows no more than it does.
    """
    cases: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in result["rows"]:
        who = "world" if row["kind"] == "world" else row["entrant"]
        case = cases.setdefault((row["world"], row["dimension"]), {})
        case.setdefault((who, row["read"]), {})[row["how"]] = row
    seen = [("world", "latents"), ("world", "memory"), ("untrained", "latents"), ("untrained", "memory")]
    seen += [("pixels", "frames"), ("true state", "quantities")]
    heads = " | ".join(f"{who}, {what}" for who, what in seen)
    lines = [f"| linear; network | n | chance | {heads} | entanglement |", "|---|" + "---:|" * (len(seen) + 3)]
    tail = ["", "| row; assign | n | chance | world | untrained | last frame held | true simulator | entanglement |"]
    tail.append("|---|" + "---:|" * 7)
    for (world, name), case in cases.items():
        first = next(iter(next(iter(case.values())).values()))
        start = f"| {world}, {name} | {first['items']} | {first['chance']:.2f} |"
        if "linear" in next(iter(case.values())):
            lines.append(f"{start} {_answers(case, seen)} | {_entangled(case.get(seen[1], {}).get('linear'))} |")
            continue
        for stream in dict.fromkeys(what for _, what in case):
            some = [(who, stream) for who in ("world", "untrained", "last frame held", "true simulator")]
            tail.append(f"{start} {_answers(case, some)} | {_entangled(case.get(some[0], {}).get('row'))} |")
    return "\n".join(lines + (tail if len(tail) > 3 else []))


def _answers(case: dict[tuple[str, str], dict[str, Any]], columns: list[tuple[str, str]]) -> str:
    """Accuracies by every way of reading, those of the world with intervals; the last column knows the truth."""
    cells = []
    for column in columns:
        told = [(how, row) for how, row in case.get(column, {}).items() if row["accuracy"] is not None]
        if column[0] != "world":
            cells.append("; ".join(measured(row["accuracy"], [None, None]) for _, row in told))
            continue
        parts = []
        for how, row in told:
            others = [case[c][how]["accuracy"] for c in columns[:-1] if c[0] != "world" and how in case.get(c, {})]
            sure = row["interval"][0] is not None and all(o is None or row["interval"][0] > o for o in others)
            text = measured(row["accuracy"], row["interval"])
            parts.append(f"**{text}**" if sure and others else text)
        cells.append("; ".join(parts))
    return " | ".join(cells)


def _entangled(found: dict[str, Any] | None) -> str:
    told = {} if found is None else found["entanglement"]
    shown = [f"{name} {e['s_re']:.2f} ({e['permuted']:.2f})" for name, e in told.items() if e["s_re"] is not None]
    return ", ".join(shown)


def dimension_list() -> str:
    """One line a dimension, from the definitions themselves."""
    lines = [
        "| id | aspect | asks | arena | classes | differs, beyond arena and pictures |",
        "|---|---|---|---|---:|---|",
    ]
    for d in DIMENSIONS.values():
        lines.append(f"| {d.id} | {d.aspect} | {d.asks} | `{d.arena}` | {d.classes} | {d.approximates or '–'} |")
    return "\n".join(lines)
