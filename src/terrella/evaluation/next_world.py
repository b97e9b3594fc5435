"""What a suite found, as the three questions one asks of a simulator of the next world.

    action fidelity         which future follows from which actions: row and column of the fork matrix
    long-horizon forecast   how long its frames are better than unrelated ones: skill and its half
    simulative reasoning    what plans made in it earn in the true environment: the share

Nothing is measured here, and no model judges: the numbers are those of the measurements below, named once more.

Ref: PAN team, WR-Arena, arXiv 2603.25887, for the three questions. Differs: there, a language model scores what a video
shows of an instruction, and people judge plans; here true futures and true returns decide.
"""

from __future__ import annotations

from typing import Any

from .report import html_table

_NOTE = (
    "Action fidelity, long-horizon forecast and simulative reasoning, from the measurements below; no model judges. "
    "Row: which future follows from these actions? Column: which actions led to this future? Skill: 1 is as good as "
    "the truth told twice, 0 an unrelated frame. Share: of what planning in the true simulator earns above random "
    "actions."
)


def next_world(measurements: dict[str, Any]) -> str:
    """The section of a page as HTML, from the `measurements` of `run_suite`; empty where none of the three was made."""
    parts = [
        ("Which actions, which future?", fidelity(_of(measurements, "forks"))),
        ("How far ahead?", forecast(_of(measurements, "drift"))),
        ("Of use to a planner?", reasoning(_of(measurements, "planning"))),
    ]
    tables = [f"<h3>{title}</h3>" + html_table(heads, rows) for title, (heads, rows) in parts if rows]
    return f'<h2>The next world</h2><p class="note">{_NOTE}</p>' + "".join(tables) if tables else ""


def fidelity(entrants: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows: row and column accuracy with their intervals, by entrant, stream and horizon."""
    heads = ["entrant", "stream", "after", "chance", "row", "95 %", "column", "95 %"]
    rows = []
    for who, row in entrants.items():
        for stream, table in row["streams"].items():
            part = table["all"]
            for h, horizon in enumerate(table["horizons"]):
                cells = [part[score][key][h] for score in ("row", "column") for key in ("mean", "interval")]
                rows.append([who, stream, horizon, part["chance"][h], *cells])
    return heads, rows


def forecast(entrants: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows: where skill falls below one half, and what is left at the farthest horizon."""
    heads = ["entrant", "stream", "below one half after", "last frame held", "skill at the end", "after"]
    rows = []
    for who, row in entrants.items():
        last = row["horizons"][-1]
        for stream, table in row["streams"].items():
            halves = [table[key] or f"beyond {last}" for key in ("half_skill_horizon", "copy_last_half_skill_horizon")]
            rows.append([who, stream, *halves, table["skill"][-1], last])
    return heads, rows


def reasoning(entrants: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows: the share of planning with its interval, and of how many episodes."""
    heads = ["entrant", "episodes", "share", "95 %"]
    return heads, [[who, row["rows"]["world"]["episodes"], *row["share"].values()] for who, row in entrants.items()]


def _of(measurements: dict[str, Any], what: str) -> dict[str, Any]:
    """The entrants of the first measurement of that kind (of forks, by whole plans) that did not fail."""
    for found in measurements.values():
        m = found["measurement"]
        if m["what"] == what and (what != "forks" or m["kind"] == "plans"):
            return {who: row for who, row in found["entrants"].items() if "error" not in row}
    return {}
