"""Tables of what worlds have understood."""

from __future__ import annotations

from typing import Any

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
