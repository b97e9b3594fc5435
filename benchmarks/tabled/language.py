"""Tables of worlds that are told what to do, of their two clocks, and of recordings without actions."""

from __future__ import annotations

from typing import Any

from .cells import measured, spread


def sentences(result: dict[str, Any]) -> str:
    """One line an arena and kind of sentence, seeds together; then one line an arena for the long sessions."""
    heads = "share told right | times chance | each seed | above not listening"
    lines = [f"| arena, sentence | {heads} |", "|---|" + "---:|" * 4]
    for row in result["pooled"]:
        right, times, above = (measured(row[key]["mean"], row[key]["interval"]) for key in ("row", "times", "above"))
        each = ", ".join("" if value is None else f"{value:.2f}" for value in row["times"]["each"])
        lines.append(f"| {row['arena']}, {row['condition']} | {right} | {times} | {each} | {above} |")
    lives = [row for row in result["rows"] if row["condition"] == "endurance"]
    marks = lives[0]["marks"] if lives else []
    heads = " | ".join(f"after {mark}" for mark in marks)
    lines += ["", f"| arena, over the truth | {heads} | sessions alive |", "|---|" + "---:|" * (len(marks) + 1)]
    for arena in dict.fromkeys(row["arena"] for row in lives):
        own = [row for row in lives if row["arena"] == arena]
        alive = ", ".join(f"{row['alive']} of {row['sessions']}" for row in own)
        for number, key in enumerate(("motion", "spread", "strangeness", "actor")):
            cells = [spread([row[key][i] for row in own], 2) for i in range(len(marks))]
            lines.append(f"| {arena}, {key} | {' | '.join(cells)} | {'' if number else alive} |")
    return "\n".join(lines)


def two_clocks(result: dict[str, Any]) -> str:
    """One line an arm: seams, drift and speed, means over seeds with the lowest and the highest."""
    rows, length = result["rows"], result["length"]
    lines = ["| arm | seam | error at 1x, 10x | drift | frames to sight | ms to draw | fps |", "|---|" + "---:|" * 6]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        far = ", ".join(spread(_shares(own, h), 2) for h in (length, 10 * length))
        seam, slope, wait = (spread([row[key] for row in own], 2) for key in ("seam", "slope", "frames"))
        speed = " | ".join(spread([row[key] for row in own], digits) for key, digits in (("step_ms", 1), ("fps", 0)))
        lines.append(f"| {arm} | {seam} | {far} | {slope} | {wait} | {speed} |")
    return "\n".join(lines)


def supervision(result: dict[str, Any]) -> str:
    """One line a task and teacher: error as a share of an unrelated frame's, and what the slow state says."""
    rows, length = result["rows"], result["length"]
    lines = ["| task | taught by | error at 1, 1x, 10x | drift | slow state | its actions |", "|---|---|" + "---:|" * 4]
    for task, arm in dict.fromkeys((row["task"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
        far = ", ".join(spread(_shares(own, h), 3) for h in (1, length, 10 * length))
        slope, state, action = (spread([row[key] for row in own], 2) for key in ("slope", "state", "action"))
        lines.append(f"| {task} | {arm} | {far} | {slope} | {state} | {action} |")
    return "\n".join(lines)


def latent_actions(result: dict[str, Any]) -> str:
    """One line a world, arm and horizon: the true future is the nearest, by how many there were to choose from."""
    rows = result["rows"]
    best = list(dict.fromkeys(n for row in rows for n in row["scores"]))
    heads = " | ".join("none chosen" if n == "1" else f"best of {n}" for n in best)
    lines = [f"| world, arm | frames | chance | {heads} | labels right |", "|---|" + "---:|" * (len(best) + 3)]
    for world, arm in dict.fromkeys((row["world"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["world"], row["arm"]) == (world, arm)]
        tables = {n: [next(iter(row["scores"][n].values())) for row in own] for n in best}
        told = [row["told"] for row in own if "told" in row]
        for number, horizon in enumerate(tables[best[0]][0]["horizons"]):
            cells = [spread([table["row"][number] for table in tables[n]], 2) for n in best]
            chance = f"{tables[best[0]][0]['chance'][number]:.2f}"
            name, right = ("", "") if number else (f"{world}, {arm}", spread(told, 2) if told else "")
            lines.append(f"| {name} | {horizon} | {chance} | {' | '.join(cells)} | {right} |")
    return "\n".join(lines)


def _shares(rows: list[dict[str, Any]], horizon: int) -> list[float]:
    """Each seed's error at a horizon, as a share of that of an unrelated true frame."""
    return [row["share"][row["horizons"].index(horizon)] for row in rows]
