"""Tables of what worlds are: the gallery, what they remember, how they drift, and what steps and clips cost."""

from __future__ import annotations

from typing import Any

from .cells import known, spread, two_columns

SHOWN = (1, 8, 32)


def gallery(rows: list[dict[str, Any]]) -> str:
    """One line a world and seed: error as a share of copy-last, and the action ratio."""
    lines = [
        "| world | environment | seed | error / copy-last at 1, 8, 32 | worst to 32 | shuffled / true actions at 8 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = {h: e / c for h, e, c in zip(row["horizons"], row["mse"], row["mse_copy_last"]) if e is not None and c}
        ratio = dict(zip(row["horizons"], row["action_ratio"]))
        worst = max(v for h, v in share.items() if h <= 32)
        marks = ", ".join(f"{share[h]:.2f}" for h in SHOWN)
        lines.append(f"| {row['world']} | {row['env']} | {row['seed']} | {marks} | {worst:.2f} | {ratio[8]:.1f} |")
    return "\n".join(lines)


def rollout(result: dict[str, Any]) -> str:
    """What a step costs."""
    rows = [
        ("frames a second, one session, 2 denoising steps", f"{result['fps_1']:.0f}"),
        ("frames a second, 16 sessions in a batch, all together", f"{result['fps_16']:.0f}"),
        ("32 frames recomputed at each network call / a cached step", f"{result['recompute_ratio']:.1f}"),
        ("the same, the window's keys computed once a frame", f"{result['recompute_once_ratio']:.1f}"),
        ("the same, only the new frame denoised", f"{result['recompute_keys_ratio']:.1f}"),
        ("time of frame 2,000 / frame 200", f"{result['late_over_early']:.3f}"),
        ("bytes of a state at frame 200, at 2,000", f"{result['state_bytes_early']:,}, {result['state_bytes_late']:,}"),
        ("64 branches / 64 copies: bytes, time", f"{result['fork_bytes_ratio']:.4f}, {result['fork_time_ratio']:.4f}"),
    ]
    return two_columns("the `tiny` preset at 64x64 (`python benchmarks/rollout.py`)", rows)


def dataset(result: dict[str, Any]) -> str:
    """What sampling clips costs."""
    rows = []
    for name in ("terrella", "hdf5", "memmap"):
        rows.append((name, f"{result['clips_per_s'][name]:,.0f} | {result['bytes'][name] / 1e6:.0f} MB"))
    head = "| random 16-frame clips (`python benchmarks/dataset.py`) | clips a second | at rest |\n|---|---:|---:|\n"
    return head + "\n".join(f"| {k} | {v} |" for k, v in rows)


def memory(result: dict[str, Any]) -> str:
    """One line a backbone, means over seeds with the lowest and the highest, then the references."""
    lines = [
        "| backbone | parameters | error x 1000 at 1x | 3x | 10x | hidden x 1000 | continued | bytes | ms a frame |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows, shown = result["rows"], ("mse_1x", "mse_3x", "mse_10x", "hidden_mse")
    for name in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == name]
        marks = [spread([1000 * row[key] for row in own]) for key in shown]
        marks.append(spread([100 * row["continued_rate"] for row in own], 0) + " %")
        speed = sum(row["ms_per_frame"] for row in own) / len(own)
        lines.append(
            f"| {name} | {own[0]['params']:,} | {' | '.join(marks)} | {own[0]['state_bytes']:,} | {speed:.1f} |"
        )
    for row in result["references"]:
        marks = [f"{1000 * row[key]:.1f}" for key in shown] + [f"{100 * row['continued_rate']:.0f} %"]
        lines.append(f"| *{row['backbone']}* | | {' | '.join(marks)} | | |")
    return "\n".join([*lines, "", *_hidden([*rows, *result["references"]])])


def _hidden(rows: list[dict[str, Any]]) -> list[str]:
    """What returned after n frames out of view: error and share of continued, means over seeds."""
    cases = {n: kept["cases"] for n, kept in rows[0]["hidden"].items()}
    heads = [f"{n} frames or more ({count} returns)" for n, count in cases.items()]
    lines = [f"| hidden x 1000, continued, out of view for | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name in dict.fromkeys(row["backbone"] for row in rows):
        own = [row["hidden"] for row in rows if row["backbone"] == name]
        marks = []
        for n in cases:
            there = [h[n] for h in own if h[n]["cases"]]
            error, share = (sum(h[key] for h in there) / max(1, len(there)) for key in ("mse", "continued_rate"))
            marks.append(f"{1000 * error:.1f}, {100 * share:.0f} %" if there else "")
        lines.append(f"| {name} | {' | '.join(marks)} |")
    return lines


def drift(result: dict[str, Any]) -> str:
    """One line a task and switch, then one a world and signal; means over seeds with the lowest and the highest."""
    lines = [
        "| % of an unrelated frame's error | at 1x | at 10x | slope, per 100 frames | steps |",
        "|---|" + "---:|" * 4,
    ]
    rows, length = result["rows"], result["length"]
    for case in dict.fromkeys((row["task"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["task"], row["arm"]) == case]
        shares = [dict(zip(row["horizons"], row["share"])) for row in own]
        marks = [spread([100 * s[k * length] for s in shares]) for k in (1, 10)]
        marks += [spread([100 * row["slope"] for row in own]), f"{sum(r['steps'] for r in own) / len(own):,.0f}"]
        lines.append(f"| {', '.join(case)} | {' | '.join(marks)} |")
    return "\n".join([*lines, "", *_alarms(result)])


def _alarms(result: dict[str, Any]) -> list[str]:
    """What each signal tells, in worlds of the gallery and in the default ones of each task."""
    told = [(f"gallery: {row['world']}", row["alarm"]) for row in result["alarms"]]
    told += [(row["task"], row["alarm"]) for row in result["rows"] if "alarm" in row]
    marks = list(dict.fromkeys(h for _, signals in told for kept in signals.values() for h in kept["auroc"]))
    heads = [
        *(f"AUROC at {h}" for h in marks),
        "all frames",
        "alarms to 1x, %",
        "at 10x, %",
        "recall, %",
        "precision, %",
    ]
    lines = [f"| world, signal | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for case in dict.fromkeys((world, name) for world, signals in told for name in signals):
        own = [signals[case[1]] for world, signals in told if world == case[0] and case[1] in signals]
        cells = [known([kept["auroc"][h] for kept in own], 2) for h in marks]
        cells.append(known([kept["pooled"] for kept in own], 2))
        for key in ("early", "late", "recall", "precision"):
            values = [None if case[1] == "age" or kept[key] is None else 100 * kept[key] for kept in own]
            cells.append(known(values, 0))
        lines.append(f"| {', '.join(case)} | {' | '.join(cells)} |")
    return lines
