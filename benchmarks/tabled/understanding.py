"""Tables of what worlds have understood."""

from __future__ import annotations

from typing import Any

from terrella.evaluation.dimensions import DIMENSIONS

from .cells import measured


def leaderboard(result: dict[str, Any]) -> str:
    """One line a world and measurement, whoever is measured in bold, references beside it: kappas of row and assign."""
    rows = [row for row in result["rows"] if row.get("row_kappa") is not None]
    marks = sorted({row["horizon"] for row in rows})
    heads = " | ".join(f"row; assign after {mark}" for mark in marks)
    lines = [f"| world, measurement, entrant | n, k left | {heads} |", "|---|---:|" + "---:|" * len(marks)]
    case = ("world", "measurement", "stream", "entrant")
    for which in dict.fromkeys(tuple(row[key] for key in case) for row in rows):
        own = {row["horizon"]: row for row in rows if tuple(row[key] for key in case) == which}
        world, measurement, _, entrant = which
        who = f"*{entrant}*" if next(iter(own.values()))["kind"] == "reference" else f"**{entrant}**"
        left = ", ".join(f"{row['left']:.1f}" for row in own.values())
        cells = []
        for mark in marks:
            row = own.get(mark, {})
            pairs = [(row[f"{key}_kappa"], row[f"{key}_kappa_interval"]) for key in ("row", "assign") if row]
            cells.append("; ".join(measured(*pair) for pair in pairs))
        most = max(row["n"] for row in own.values())
        lines.append(f"| {world}, {measurement}, {who} | {most}; {left} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sensitivity(result: dict[str, Any]) -> str:
    """One line a damage and measurement, of row and assign: the change, in bold where a fall is certain."""
    rows = [row for row in result["rows"] if row["score"] in ("row", "assign") and row["over"] == "all" and "p" in row]
    marks = sorted({row["horizon"] for row in rows})
    lines = [f"| world, damage, score | {' | '.join(f'after {m}' for m in marks)} |", "|---|" + "---:|" * len(marks)]
    case = ("world", "damage", "measurement", "score")
    for which in dict.fromkeys(tuple(row[key] for key in case) for row in rows):
        own = {row["horizon"]: row for row in rows if tuple(row[key] for key in case) == which}
        cells = []
        for mark in marks:
            row = own.get(mark)
            text = "" if row is None else f"{row['difference']:+.2f}"
            cells.append(f"**{text}**" if row is not None and row["falls"] else text)
        world, damage, measurement, score = which
        lines.append(f"| {world}, {damage}, {measurement}: {score} | {' | '.join(cells)} |")
    return "\n".join(lines)


def dimensions(result: dict[str, Any]) -> str:
    """Shares of right answers, one line a world and dimension: first of perception, then of prediction."""
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
            cells = [_ways(case.get(column), column[0] == "world") for column in seen]
            lines.append(f"{start} {' | '.join(cells)} | {_entangled(case.get(seen[1], {}).get('linear'))} |")
            continue
        for stream in dict.fromkeys(what for _, what in case):
            some = [(who, stream) for who in ("world", "untrained", "last frame held", "true simulator")]
            cells = [_ways(case.get(column), column[0] == "world") for column in some]
            tail.append(f"{start} {' | '.join(cells)} | {_entangled(case.get(some[0], {}).get('row'))} |")
    return "\n".join(lines + (tail if len(tail) > 3 else []))


def _ways(found: dict[str, Any] | None, whole: bool) -> str:
    """Accuracies of every way of reading; whole: with their intervals."""
    cells = [row for row in (found or {}).values() if row["accuracy"] is not None]
    return "; ".join(measured(row["accuracy"], row["interval"] if whole else [None, None]) for row in cells)


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
